/** What an administrator does with virsh and a stock libvirt: the pool from its definition to its end, every verb for volumes. */
import { randomBytes } from 'node:crypto'
import type { VdiInfo } from '../../lib/control/verbs.js'
import { configuration, engine, type SystemCluster } from './cluster.js'
import type { Host } from './host.js'
import { expect, refused, type Scenario } from './scenario.js'

const POOL = '/var/lib/sheepdog/volumes'
const MIB = 1 << 20
/** Not a whole number of objects, nor of pages */
const CONTENT_BYTES = 9 * MIB + 12_345

/** What dog on another host than the one that libvirt runs on says of it; null no such volume. */
async function seen(host: Host, name: string): Promise<VdiInfo | null> {
  const [base, tag = ''] = name.split('@')
  const { vdis } = JSON.parse(await host.run('dog', ['vdi', 'list', '--json'])) as { vdis: VdiInfo[] }
  return vdis.find((vdi) => vdi.name === base && (vdi.snapshot ? vdi.tag : '') === tag) ?? null
}

async function hasSize(host: Host, name: string, bytes: number): Promise<VdiInfo> {
  const vdi = await seen(host, name)
  if (vdi?.size !== bytes) throw new Error(`${name} is ${vdi?.size ?? 'not there'}, not ${bytes} bytes`)
  return vdi
}

async function isGone(host: Host, name: string): Promise<void> {
  if ((await seen(host, name)) !== null) throw new Error(`dog lists ${name}, which is deleted`)
}

async function same(host: Host, one: string, other: string): Promise<void> {
  await host.run('cmp', [one, other])
}

/** The first bytes of a volume, as the cluster has them, are those of a file. */
async function holds(host: Host, name: string, file: string, bytes: number): Promise<void> {
  const [base, tag] = name.split('@')
  const snapshot = tag === undefined ? '' : `-s ${tag} `
  await host.run('sh', ['-c', `dog vdi read ${snapshot}${base} 0 ${bytes} | cmp -n ${bytes} - ${file}`])
}

async function definePool(host: Host): Promise<void> {
  await expect(host, /Pool sheepdog defined from/, 'virsh', 'pool-define', '/usr/share/sheepdog/sheepdog.xml')
  await expect(host, /Pool sheepdog started/, 'virsh', 'pool-start', 'sheepdog')
  await expect(host, /State:\s+running[\s\S]*Capacity:\s+[\d.]+ [GT]iB/, 'virsh', 'pool-info', 'sheepdog')
}

async function makeAndResize(host: Host, other: Host): Promise<void> {
  // libvirt's allocation is all of it unless somebody says otherwise: space that is reserved.
  for (const [words, used] of [
    [[], 64 * MIB],
    [['--allocation', '0'], 0],
  ] as const) {
    await expect(host, /Vol disk created/, 'virsh', 'vol-create-as', 'sheepdog', 'disk', '64M', ...words)
    const made = await hasSize(other, 'disk', 64 * MIB)
    if (made.used !== used) throw new Error(`a new volume ${words.join(' ')} takes ${made.used} bytes`)
    if (used !== 0) await host.run('virsh', ['vol-delete', 'disk', 'sheepdog'])
  }
  const row = new RegExp(`disk\\s+${POOL}/disk\\s+file\\s+64.00 MiB\\s+\\d`)
  await expect(host, row, 'virsh', 'vol-list', 'sheepdog', '--details')
  await expect(host, /Type:\s+file\s+Capacity:\s+64.00 MiB/, 'virsh', 'vol-info', 'disk', 'sheepdog')
  await expect(host, /successfully changed to 128M/, 'virsh', 'vol-resize', 'disk', '128M', 'sheepdog')
  await hasSize(other, 'disk', 128 * MIB)
  await refused(host, /shrink/, 'virsh', 'vol-resize', 'disk', '32M', 'sheepdog')
  await expect(host, /successfully changed to 32M/, 'virsh', 'vol-resize', 'disk', '32M', 'sheepdog', '--shrink')
  await hasSize(other, 'disk', 32 * MIB)
  await expect(host, /Capacity:\s+32.00 MiB/, 'virsh', 'vol-info', 'disk', 'sheepdog')
  await refused(host, /exists already/, 'virsh', 'vol-create-as', 'sheepdog', 'disk', '64M')
}

async function fill(host: Host, other: Host): Promise<void> {
  const content = randomBytes(CONTENT_BYTES)
  for (const one of [host, other]) one.write('/root/content', content)
  await host.run('virsh', ['vol-upload', 'disk', '/root/content', 'sheepdog'])
  await holds(other, 'disk', '/root/content', CONTENT_BYTES)
  await host.run('virsh', ['vol-download', 'disk', '/root/back', 'sheepdog', '0', String(CONTENT_BYTES)])
  await same(host, '/root/content', '/root/back')
  await host.run('virsh', ['vol-download', 'disk', '/root/whole', 'sheepdog', '--sparse'])
  await same(host, '/root/whole', `${POOL}/disk`)
  const { used } = await hasSize(other, 'disk', 32 * MIB)
  if ((used ?? 0) > 12 * MIB) throw new Error(`${CONTENT_BYTES} bytes of content take ${used}`)
}

async function snapshotsAndClones(host: Host, other: Host): Promise<void> {
  await other.run('dog', ['vdi', 'snapshot', '-s', 'monday', 'disk'])
  await expect(host, /Pool sheepdog refreshed/, 'virsh', 'pool-refresh', 'sheepdog')
  await expect(host, /disk@monday/, 'virsh', 'vol-list', 'sheepdog')
  for (const from of ['disk', 'disk@monday']) {
    const to = `copy-of-${from.replace('@', '-')}`
    await expect(host, new RegExp(`Vol ${to} cloned from ${from}`), 'virsh', 'vol-clone', from, to, 'sheepdog')
    await hasSize(other, to, 32 * MIB)
    await holds(other, to, '/root/content', CONTENT_BYTES)
    await same(host, `${POOL}/${to}`, '/root/whole')
  }
}

const OVERLAY = `<volume>
  <name>overlay.qcow2</name>
  <capacity unit='MiB'>32</capacity>
  <allocation>0</allocation>
  <target><format type='qcow2'/></target>
  <backingStore><path>${POOL}/disk@monday</path><format type='raw'/></backingStore>
</volume>
`

async function qcow2OnSnapshot(host: Host, other: Host): Promise<void> {
  host.write('/root/overlay.xml', OVERLAY)
  await expect(host, /Vol overlay.qcow2 created from/, 'virsh', 'vol-create', 'sheepdog', '/root/overlay.xml')
  const shown = await host.run('virsh', ['vol-dumpxml', 'overlay.qcow2', 'sheepdog'])
  if (!shown.includes(`<path>${POOL}/disk@monday</path>`)) throw new Error(`the volume's backing is lost:\n${shown}`)
  const file = `${POOL}/overlay.qcow2`
  await expect(host, /backing file: .*disk@monday/, 'qemu-img', 'info', file)
  // It grows by being written: an object's worth in the middle, and what lies beside comes from the snapshot.
  await host.run('qemu-io', ['-c', 'write -P 0x5a 4M 1M', file])
  await host.run('sh', ['-c', 'head -c 1M /dev/zero | tr "\\0" Z > /root/z'])
  await host.run('cp', ['/root/whole', '/root/expected'])
  await host.run('dd', ['if=/root/z', 'of=/root/expected', 'bs=1M', 'seek=4', 'conv=notrunc', 'status=none'])
  await expect(host, /identical/, 'qemu-img', 'compare', '-F', 'raw', file, '/root/expected')
  await same(host, `${POOL}/disk@monday`, '/root/whole')
  const { size } = (await seen(other, 'overlay.qcow2')) as VdiInfo
  const { stdout } = await host.try('stat', ['-c', '%s', file])
  if (size !== Number(stdout)) throw new Error(`dog says ${size} bytes, the file has ${stdout}`)
}

async function wipeAndDelete(host: Host, other: Host): Promise<void> {
  await expect(host, /Vol disk wiped/, 'virsh', 'vol-wipe', 'disk', 'sheepdog')
  await holds(other, 'disk', '/dev/zero', 32 * MIB)
  await holds(other, 'disk@monday', '/root/content', CONTENT_BYTES)
  for (const name of ['overlay.qcow2', 'copy-of-disk', 'copy-of-disk-monday', 'disk@monday', 'disk']) {
    await expect(host, new RegExp(`Vol ${name} deleted`), 'virsh', 'vol-delete', name, 'sheepdog')
    await isGone(other, name)
  }
  const left = (await host.run('virsh', ['vol-list', 'sheepdog', '--details'])).split('\n').slice(2).join('').trim()
  if (left !== '') throw new Error(`deleted volumes are listed: ${left}`)
}

async function endPool(host: Host, other: Host): Promise<void> {
  await other.run('dog', ['vdi', 'create', 'stays', '8M'])
  await expect(host, /Pool sheepdog destroyed/, 'virsh', 'pool-destroy', 'sheepdog')
  await expect(host, /Pool sheepdog has been undefined/, 'virsh', 'pool-undefine', 'sheepdog')
  await refused(host, /not found/, 'virsh', 'pool-info', 'sheepdog')
  await hasSize(other, 'stays', 8 * MIB)
  await other.run('dog', ['vdi', 'delete', 'stays'])
}

async function step(cluster: SystemCluster, what: string, act: () => Promise<void>): Promise<void> {
  cluster.say(`  ${what}: ${await cluster.timed(act)} ms`)
}

export const virshScenario: Scenario = {
  name: 'virsh',
  title: "every verb of virsh's for pools and volumes, on a pool that is defined by hand",
  short: true,
  async run(cluster) {
    const [host, other] = cluster.hosts
    host.write(configuration, `${engine}corosync-bound = no\nregister-pool = no\n`)
    await host.run('systemctl', ['restart', 'sheepdog'])
    await cluster.healthy()
    await host.run('systemctl', ['start', 'libvirtd'])
    await step(cluster, 'pool-define, pool-start', () => definePool(host))
    await step(cluster, 'vol-create-as, vol-list, vol-info, vol-resize', () => makeAndResize(host, other))
    await step(cluster, 'vol-upload, vol-download', () => fill(host, other))
    await step(cluster, 'pool-refresh, vol-clone', () => snapshotsAndClones(host, other))
    await step(cluster, 'vol-create of a qcow2 on a snapshot', () => qcow2OnSnapshot(host, other))
    await step(cluster, 'vol-wipe, vol-delete', () => wipeAndDelete(host, other))
    await step(cluster, 'pool-destroy, pool-undefine', () => endPool(host, other))
    await host.run('systemctl', ['stop', 'libvirtd.socket', 'libvirtd-ro.socket', 'libvirtd-admin.socket', 'libvirtd'])
    host.write(configuration, `${engine}corosync-bound = no\n`)
    await host.run('systemctl', ['restart', 'sheepdog'])
    await cluster.healthy()
  },
}
