/** A host is shut down and boots again in the order that its units ask for: guests and libvirt within the time in which there are disks. */
import { until } from '../support/process.js'
import type { SystemCluster } from './cluster.js'
import type { Host } from './host.js'
import { domain } from './libvirt-scenario.js'
import { expect, finish, nodesAre, type Scenario, volume } from './scenario.js'

/** Units that use disks: sheepdog starts before them and stops after them. */
const users = [
  ...['libvirtd', 'virtqemud', 'virtstoraged', 'libvirt-guests'].map((name) => `${name}.service`),
  'virt-guest-shutdown.target',
]

/** Jobs of one kind that systemd has done in that boot (-1 the one before), in their order: the units. */
async function done(host: Host, boot: number, kind: 'start' | 'stop'): Promise<string[]> {
  const match = ['_PID=1', `JOB_TYPE=${kind}`, 'JOB_RESULT=done']
  const said = await host.run('journalctl', ['-b', String(boot), '-o', 'json', '--output-fields=UNIT', ...match])
  return said
    .trim()
    .split('\n')
    .map((line) => (JSON.parse(line) as { UNIT: string }).UNIT)
}

function inOrder(what: string, units: readonly string[], wanted: readonly string[]): void {
  const places = wanted.map((unit) => units.lastIndexOf(unit))
  const right = places.every((place, at) => place >= 0 && (at === 0 || places[at - 1] < place))
  if (!right) throw new Error(`${what}: ${wanted.join(', ')} are at ${places.join(', ')} of\n${units.join(' ')}`)
}

/** What libvirt calls the scope of a machine that it has registered with systemd-machined; the bed may have no controllers for that. */
const scope = 'machine-qemu\\x2d7\\x2dother.scope'

/** One machine of libvirt's, which libvirt-guests puts to disk and brings back, and one in a scope, which is told to end: then it writes. */
async function guests(host: Host, volumes: readonly [string, string]): Promise<void> {
  host.write('/etc/default/libvirt-guests', 'ON_BOOT=start\nON_SHUTDOWN=suspend\n')
  // Debian's asks libvirtd's socket, whose service may be gone by then.
  host.write('/etc/systemd/system/libvirt-guests.service.d/after.conf', '[Unit]\nAfter=libvirtd.service\n')
  await host.run('systemctl', ['daemon-reload'])
  await host.run('systemctl', ['enable', '--now', 'libvirtd', 'libvirt-guests'])
  host.write('/root/guest.xml', domain('guest', await host.run('dog', ['libvirt', 'disk-xml', volumes[0]])))
  await host.run('virsh', ['define', '/root/guest.xml'])
  await host.run('virsh', ['start', 'guest'])
  const uri = `nbd+unix:///${volumes[1]}?socket=/var/lib/sheepdog/nbd.sock`
  // systemd ends also what is started while it looks for whom to end.
  const write = `until qemu-io -f raw -c "write -P 0x77 0 1M" -c flush ${uri} >>/root/other.log 2>&1; do :; done`
  const last = `trap '${write}; exit' TERM; touch /run/other; sleep 1000 & wait`
  const machine = ['--quiet', '--scope', '--slice=machine.slice', `--unit=${scope}`, 'sh', '-c', last]
  // It ends with its host.
  host.try('systemd-run', machine, { limit: 300_000 }).catch(() => undefined)
  await until('the other machine', 10_000, async () => (await host.try('test', ['-e', '/run/other'])).code === 0)
}

async function putBack(host: Host): Promise<void> {
  await host.run('virsh', ['destroy', 'guest'])
  await host.run('virsh', ['undefine', 'guest'])
  await host.run('systemctl', ['disable', '--now', 'libvirt-guests'])
  const sockets = ['', '-ro', '-admin'].map((kind) => `libvirtd${kind}.socket`)
  await host.run('systemctl', ['disable', '--now', ...sockets, 'libvirtd'])
}

export const rebootScenario: Scenario = {
  name: 'reboot',
  title: 'a host is shut down and booted: libvirt and guests stop before the disks go, and start when they are there',
  short: true,
  async run(cluster: SystemCluster) {
    const [host, other] = cluster.hosts
    const before = (await host.unit('sheepdog')).Before.split(' ')
    const missing = users.filter((unit) => !before.includes(unit))
    if (missing.length > 0) throw new Error(`sheepdog.service is not before ${missing.join(', ')}`)
    const disk = await volume(cluster, 'disk')
    const last = await volume(cluster, 'last')
    // Of a boot that is over
    await host.run('mkdir', ['-p', '/var/log/journal'])
    await host.run('journalctl', ['--flush'])
    await guests(host, [disk, last])
    cluster.say(`  shut down in ${await cluster.timed(() => host.shutDown())} ms`)
    await nodesAre(cluster, other, 2, 20_000)
    const log = await other.run('dog', ['node', 'log', '-l', '200'])
    await host.boot()
    if (!/node host1 .* left with epoch \d+: it stopped in order/.test(log)) throw new Error(`it left so:\n${log}`)
    await cluster.healthy()

    const stopped = await done(host, -1, 'stop')
    inOrder('stopped', stopped, ['libvirt-guests.service', 'libvirtd.service', 'sheepdog.service', 'corosync.service'])
    inOrder('stopped', stopped, [scope, 'sheepdog.service'])
    const started = await done(host, 0, 'start')
    inOrder('started', started, ['corosync.service', 'sheepdog.service', 'libvirtd.service', 'libvirt-guests.service'])

    await expect(host, /running/, 'virsh', 'domstate', 'guest')
    await expect(other, /\bdisk\b.*host1/, 'dog', 'vdi', 'lock', 'list')
    await other.run('sh', ['-c', `dog vdi read ${last} 0 1M | tr -d w | wc -c | grep -qx 0`])
    await putBack(host)
    await finish(cluster, last)
    await finish(cluster, disk)
  },
}
