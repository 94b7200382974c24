/** virt-install, virt-clone and virt-manager, as Debian ships them, on the pool. */
import { copyFileSync } from 'node:fs'
import { join } from 'node:path'
import type { VdiInfo } from '../../lib/control/verbs.js'
import { until } from '../support/process.js'
import type { SystemCluster } from './cluster.js'
import type { Host } from './host.js'
import { cache } from './root.js'
import { expect, type Scenario } from './scenario.js'

const POOL = '/var/lib/sheepdog/volumes'
const MIB = 1 << 20
const GIB = 1 << 30
const poolLimit = 60_000

async function volumes(host: Host): Promise<VdiInfo[]> {
  return (JSON.parse(await host.run('dog', ['vdi', 'list', '--json'])) as { vdis: VdiInfo[] }).vdis
}

/** With the pool that the daemon has registered. */
export async function withLibvirt(host: Host, act: () => Promise<void>): Promise<void> {
  await host.run('systemctl', ['start', 'libvirtd'])
  await until('the pool', poolLimit, async () => {
    return /State:\s+running/.test((await host.try('virsh', ['pool-info', 'sheepdog'])).stdout)
  })
  await act()
  const sockets = ['', '-ro', '-admin'].map((kind) => `libvirtd${kind}.socket`)
  await host.run('systemctl', ['stop', ...sockets, 'libvirtd'])
}

const common = ['--osinfo', 'detect=off,require=off', '--virt-type', 'qemu', '--graphics', 'none', '--network', 'none']

async function installAndClone(cluster: SystemCluster): Promise<void> {
  const [host, other] = cluster.hosts
  const disk = ['--import', '--noautoconsole', '--disk', 'pool=sheepdog,size=0.25,format=raw,bus=virtio']
  const install = ['--name', 'made', '--memory', '64', ...common, ...disk]
  await expect(host, /Domain creation completed/, 'virt-install', ...install)
  const [made] = await volumes(other)
  if (made?.size !== 256 * MIB) throw new Error(`virt-install made no volume of 256 MiB: ${JSON.stringify(made)}`)
  await expect(host, new RegExp(`vda\\s+${POOL}/${made.name}\\n`), 'virsh', 'domblklist', 'made')
  await expect(host, new RegExp(`\\b${made.name}\\b.*write.*${host.name}`), 'dog', 'vdi', 'lock', 'list')
  await host.run('virsh', ['destroy', 'made'])

  await other.run('sh', ['-c', `head -c 10000000 /dev/urandom | dog vdi write ${made.name}`])
  await expect(
    host,
    /cloned successfully|Clone 'cloned' created/,
    'virt-clone',
    '-o',
    'made',
    '-n',
    'cloned',
    '--auto-clone',
  )
  const copy = (await volumes(other)).find(({ name }) => name !== made.name)
  if (copy?.size !== made.size) throw new Error(`virt-clone made no volume as large: ${JSON.stringify(copy)}`)
  await host.run('cmp', [`${POOL}/${made.name}`, `${POOL}/${copy.name}`])
  for (const name of ['made', 'cloned']) await host.run('virsh', ['start', name])
  for (const name of ['made', 'cloned']) {
    await host.run('virsh', ['destroy', name])
    await expect(host, /has been undefined/, 'virsh', 'undefine', name, '--remove-all-storage')
  }
  const left = await volumes(other)
  if (left.length > 0) throw new Error(`machines that are gone have left ${JSON.stringify(left)}`)
}

export const virtInstallScenario: Scenario = {
  name: 'virt-install',
  title: 'virt-install makes a machine with a new volume, virt-clone a second one with a copy of it',
  short: false,
  layer: 'machines',
  async run(cluster) {
    await withLibvirt(cluster.hosts[0], () => installAndClone(cluster))
    await cluster.healthy()
  },
}

const SCREEN = `export DISPLAY=:99 GSETTINGS_BACKEND=memory XDG_RUNTIME_DIR=/run/desk
mkdir -p -m 700 $XDG_RUNTIME_DIR
Xvfb :99 -screen 0 800x600x24 -nolisten tcp >/dev/null 2>&1 &
screen=$!
trap 'kill $screen' EXIT
timeout 20 sh -c 'until [ -S /tmp/.X11-unix/X99 ]; do sleep 0.2; done'
dbus-run-session -- sh -c '
  virt-manager --no-fork -c qemu:///system --show-host-summary >/run/desk/log 2>&1 &
  manager=$!
  timeout 120 python3 /root/new-volume.py sheepdog desktop 2 /var/tmp/pool.png
  code=$?
  kill $manager
  exit $code'
`

/** Uses the dialog as a person does, by what assistive technology sees of it, and takes pictures. */
const NEW_VOLUME = `import subprocess, sys, time
import pyatspi

pool, volume, gib, picture = sys.argv[1:5]
SHOWING, CHECKED = pyatspi.STATE_SHOWING, pyatspi.STATE_CHECKED


def walk(node, depth=0):
    yield node
    for index in range(node.childCount if depth < 30 else 0):
        child = node.getChildAtIndex(index)
        if child is not None:
            yield from walk(child, depth + 1)


def find(what, test, root=None):
    end = time.time() + 60
    while time.time() < end:
        try:
            for node in walk(root or pyatspi.Registry.getDesktop(0)):
                if test(node) and node.getState().contains(SHOWING):
                    return node
        except Exception:
            pass  # what was there a moment ago has gone
        time.sleep(0.3)
    seen = [(node.getRoleName(), node.name) for node in walk(pyatspi.Registry.getDesktop(0)) if node.name]
    raise SystemExit(f"virt-manager shows no {what}, but {seen}")


def named(role, name, root=None):
    return find(f"{role} {name}", lambda node: node.getRoleName() == role and name in node.name, root)


def press(node):
    node.queryAction().doAction(0)


def click(node):
    box = node.queryComponent().getExtents(pyatspi.DESKTOP_COORDS)
    middle = [str(box.x + box.width // 2), str(box.y + box.height // 2)]
    subprocess.run(["xdotool", "mousemove", *middle, "click", "1"], check=True)


def choose(node):
    node.parent.querySelection().selectChild(node.getIndexInParent())


def picture_of_screen(path):
    time.sleep(1)  # for what is still being drawn
    subprocess.run(["import", "-window", "root", path], check=True)


details = named("frame", "Connection Details")
choose(named("page tab", "Storage", details))
pools = find("list of pools", lambda node: node.name == "pool-list", details)
click(named("table cell", pool, pools))
find(
    f"details of {pool}",
    lambda node: node.name == "pool-name" and node.queryText().getText(0, -1) == pool,
    details,
)
press(named("button", "vol-new", details))
dialog = named("frame", "Add a Storage Volume")
format = find("format", lambda node: node.getRoleName() == "combo box", dialog)
find("format's field", lambda node: node.getRoleName() == "text", format).queryEditableText().setTextContents("raw")
own = {node.path for node in walk(format)}
name = lambda node: node.getRoleName() == "text" and node.name == "" and node.path not in own
find("field for the name", name, dialog).queryEditableText().setTextContents(volume)
whole = named("check box", "Allocate entire volume now", dialog)
if whole.getState().contains(CHECKED):
    press(whole)
find("capacity", lambda node: node.getRoleName() == "spin button", dialog).queryValue().currentValue = float(gib)
picture_of_screen(picture.replace("pool", "dialog"))
press(named("button", "Finish", dialog))
named("table cell", volume, details)
picture_of_screen(picture)
`

async function newVolume(cluster: SystemCluster): Promise<void> {
  const [host, other] = cluster.hosts
  await other.run('dog', ['vdi', 'create', 'web', '20G'])
  await other.run('sh', ['-c', 'head -c 30000000 /dev/urandom | dog vdi write web'])
  await other.run('dog', ['vdi', 'snapshot', '-s', 'monday', 'web'])
  host.write('/root/new-volume.py', NEW_VOLUME)
  await host.run('sh', ['-c', SCREEN], { limit: 150_000 })
  for (const name of ['dialog.png', 'pool.png']) {
    const picture = join(cache, `virt-manager-${name}`)
    copyFileSync(host.path(`/var/tmp/${name}`), picture)
    cluster.say(`  ${picture}`)
  }
  const made = (await volumes(other)).find(({ name }) => name === 'desktop.img')
  if (made?.size !== 2 * GIB) throw new Error(`the dialog made no volume of 2 GiB: ${JSON.stringify(made)}`)
  await other.run('dog', ['vdi', 'delete', '-s', 'monday', 'web'])
  for (const name of ['web', 'desktop.img']) await other.run('dog', ['vdi', 'delete', name])
}

export const virtManagerScenario: Scenario = {
  name: 'virt-manager',
  title: "virt-manager's New Volume dialog makes a volume, and its pool page shows it",
  short: false,
  layer: 'machines',
  async run(cluster) {
    await withLibvirt(cluster.hosts[0], () => newVolume(cluster))
    await cluster.healthy()
  },
}
