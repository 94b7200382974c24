/** libvirt of real hosts, as Debian ships it: the pool, disks by NBD, the qemu hook, a machine's snapshot, a live migration. */
import { until } from '../support/process.js'
import { configuration, engine, type SystemCluster } from './cluster.js'
import type { Host } from './host.js'
import { expect, refused, type Scenario } from './scenario.js'

const POOL = '/var/lib/sheepdog/volumes'
const poolLimit = 60_000

/** Boots no system: its firmware runs for ever. */
export function domain(name: string, disks = ''): string {
  return `<domain type='qemu'>
  <name>${name}</name>
  <memory unit='MiB'>64</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <features><acpi/></features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>${disks}
    <memballoon model='none'/>
  </devices>
</domain>
`
}

/** A machine of no disks, started. */
export async function definePlain(host: Host, name: string, uri = 'qemu:///system'): Promise<void> {
  host.write(`/root/${name}.xml`, domain(name))
  await host.run('virsh', ['-c', uri, 'define', `/root/${name}.xml`])
  await host.run('virsh', ['-c', uri, 'start', name])
}

export function poolRuns(cluster: SystemCluster, host: Host, uri = 'qemu:///system'): Promise<number> {
  return cluster.took(
    `the pool on ${host.name}`,
    async () => {
      const { stdout } = await host.try('virsh', ['-c', uri, 'pool-info', 'sheepdog'])
      return /State:\s+running/.test(stdout) && /Autostart:\s+yes/.test(stdout)
    },
    poolLimit,
  )
}

async function pools(cluster: SystemCluster): Promise<void> {
  const [first, second, third] = cluster.hosts
  await first.run('systemctl', ['start', 'libvirtd'])
  cluster.say(`  libvirt after sheep: the pool runs after ${await poolRuns(cluster, first)} ms`)
  await expect(first, new RegExp(`<path>${POOL}</path>`), 'virsh', 'pool-dumpxml', 'sheepdog')
  await first.run('systemctl', ['restart', 'libvirtd'])
  await poolRuns(cluster, first)
  const { code: none } = await first.try('mountpoint', ['-q', POOL])
  if (none !== 0) throw new Error('the volumes are not mounted')
  await second.run('dog', ['vdi', 'create', 'seen', '4M'])
  const seen = await cluster.took('the pool to look again', async () => {
    return /\bseen\b/.test(await first.run('virsh', ['vol-list', 'sheepdog']))
  })
  cluster.say(`  a volume made on another host is in the pool after ${seen} ms`)
  await second.run('dog', ['vdi', 'delete', 'seen'])

  await second.run('systemctl', ['stop', 'sheepdog'])
  await second.run('systemctl', ['start', 'libvirtd'])
  await refused(second, /not found/, 'virsh', 'pool-info', 'sheepdog')
  await second.run('systemctl', ['start', 'sheepdog'])
  cluster.say(`  sheep after libvirt: the pool runs after ${await poolRuns(cluster, second)} ms`)
  await cluster.healthy()

  third.write('/root/other.xml', "<pool type='dir'><name>sheepdog</name><target><path>/srv</path></target></pool>")
  await third.run('systemctl', ['stop', 'sheepdog'])
  await third.run('systemctl', ['start', 'libvirtd'])
  await third.run('virsh', ['pool-define', '/root/other.xml'])
  await third.run('systemctl', ['start', 'sheepdog'])
  await until('the warning', poolLimit, async () => {
    return /left alone/.test(await third.run('journalctl', ['-u', 'sheepdog', '--no-pager', '-n', '200']))
  })
  await expect(third, /State:\s+inactive/, 'virsh', 'pool-info', 'sheepdog')
  await third.run('virsh', ['pool-undefine', 'sheepdog'])
  await third.run('systemctl', ['stop', 'libvirtd.socket', 'libvirtd-ro.socket', 'libvirtd-admin.socket', 'libvirtd'])
  await cluster.healthy()
}

async function disks(cluster: SystemCluster): Promise<void> {
  const [first, second] = cluster.hosts
  for (const name of ['web', 'data']) await first.run('dog', ['vdi', 'create', name, '64M'])
  for (const host of [first, second]) {
    host.write('/root/web1.xml', domain('web1', await first.run('dog', ['libvirt', 'disk-xml', 'web'])))
    await host.run('virsh', ['define', '/root/web1.xml', '--validate'])
  }
  await first.run('virsh', ['start', 'web1'])
  await expect(first, /\bweb\b.*host1/, 'dog', 'vdi', 'lock', 'list')
  const start = performance.now()
  await refused(second, /volume web is open on host1/, 'virsh', 'start', 'web1')
  cluster.say(`  a second start was refused after ${Math.round(performance.now() - start)} ms`)

  await expect(first, /web1 has data as vdb, now/, 'dog', 'libvirt', 'attach', 'web1', 'data')
  await expect(first, /vdb\s+data/, 'virsh', 'domblklist', 'web1')
  await first.run('dog', ['libvirt', 'attach', 'web1', 'data', '--config'])
  await expect(first, /data is taken from web1 \(next start\)/, 'dog', 'libvirt', 'detach', 'web1', 'data', '--config')

  await expect(first, /Snapshot of web1 taken: web@all, data@all/, ...snapshot('all'))
  await expect(first, /running/, 'virsh', 'domstate', 'web1')

  await standsStill(cluster, first)
  await cluster.healthy()
}

/** What `dog vdi snapshot --domain` does between its snapshots, by a program that is killed there, and by one that hangs. */
async function standsStill(cluster: SystemCluster, host: Host): Promise<void> {
  const calls = `
    import { Libvirt } from '/usr/lib/sheepdog/dist/lib/libvirt/libvirt.js'
    const libvirt = await Libvirt.open(['qemu:///system'])
    await libvirt.call('quiesce', 'web1', true, Number(process.argv[2]))
    setInterval(() => {}, 1000)`
  host.write('/root/still.mjs', calls)
  for (const [seconds, killed] of [
    [60, true],
    [3, false],
  ] as const) {
    const command = host.try('sh', ['-c', `echo $$ >/run/still.pid; exec node /root/still.mjs ${seconds}`])
    await until('web1 to stand still', 20_000, () => stateIs(host, /paused/))
    const kill = ['-c', 'kill -KILL $(cat /run/still.pid)']
    if (killed) await host.run('sh', kill)
    const ms = await cluster.took('web1 to go on', () => stateIs(host, /running/))
    cluster.say(
      `  a machine that ${killed ? 'was left by a killed' : 'waits for a hanging'} dog goes on after ${ms} ms`,
    )
    if (!killed) await host.run('sh', kill)
    await command
  }
}

async function stateIs(host: Host, pattern: RegExp): Promise<boolean> {
  return pattern.test(await host.run('virsh', ['domstate', 'web1']))
}

const snapshot = (tag: string): [string, ...string[]] => ['dog', 'vdi', 'snapshot', '-s', tag, '--domain', 'web1']

const OTHER_SOCKET = '/var/lib/sheepdog/other.sock'
const live = ['migrate', '--live', '--persistent']

/** What qemu.conf does not call shared libvirt moves nowhere, as files; test/system/guests-scenario.ts has the rest of it. */
async function filesStay(host: Host, to: readonly string[]): Promise<void> {
  await host.run('dog', ['vdi', 'create', 'file', '8M'])
  const source = `<driver name='qemu' type='raw' cache='none'/><source file='${POOL}/file'/>`
  host.write(
    '/root/onfile.xml',
    domain('onfile', `<disk type='file' device='disk'>${source}<target dev='vda' bus='virtio'/></disk>`),
  )
  await host.run('virsh', ['define', '/root/onfile.xml'])
  await host.run('virsh', ['start', 'onfile'])
  // QEMU has rights of its own to the file, and libvirt gives it to QEMU and takes it back.
  await expect(host, /^libvirt-qemu:/, 'stat', '-c', '%U:%G', `${POOL}/file`)
  await refused(host, /[Uu]nsafe/, 'virsh', ...live, 'onfile', ...to)
  await expect(host, /running/, 'virsh', 'domstate', 'onfile')
  await host.run('virsh', ['destroy', 'onfile'])
  await expect(host, /^root:root/, 'stat', '-c', '%U:%G', `${POOL}/file`)
  await host.run('virsh', ['undefine', 'onfile'])
  await host.run('dog', ['vdi', 'delete', 'file'])
}

/** Its hook cannot ask anybody: what runs goes on, through a restart of libvirt too, and machines of no volumes start. */
async function withoutDaemon(cluster: SystemCluster, host: Host): Promise<void> {
  await host.run('systemctl', ['stop', 'sheepdog'])
  await host.run('systemctl', ['restart', 'libvirtd'])
  await expect(host, /running/, 'virsh', 'domstate', 'web1')
  await definePlain(host, 'plain')
  await refused(host, /sheep/, 'virsh', 'start', 'web2')
  for (const word of ['destroy', 'undefine']) await host.run('virsh', [word, 'plain'])
  await host.run('systemctl', ['start', 'sheepdog'])
  await cluster.healthy()
}

async function convertAndMigrate(cluster: SystemCluster): Promise<void> {
  const [first, second] = cluster.hosts
  const file = `<disk type='file' device='disk'><source file='${POOL}/web'/><target dev='vda' bus='virtio'/></disk>`
  second.write('/root/files.xml', domain('files', file))
  await second.run('virsh', ['define', '/root/files.xml'])
  await expect(second, /vda of files is volume web by NBD/, 'dog', 'libvirt', 'convert', 'files')
  await expect(second, /protocol='nbd' name='web'/, 'virsh', 'dumpxml', 'files')
  for (const name of ['files', 'web1']) await second.run('virsh', ['undefine', name])

  second.write(configuration, `${engine}corosync-bound = no\nnbd-socket = ${OTHER_SOCKET}\n`)
  await second.run('systemctl', ['restart', 'sheepdog'])
  await cluster.healthy()
  second.write('/etc/libvirt/libvirtd.conf', 'auth_tcp = "none"\n')
  await second.run('systemctl', ['stop', 'libvirtd'])
  await second.run('systemctl', ['start', 'libvirtd-tcp.socket', 'libvirtd'])
  const to = [`qemu+tcp://${second.address}/system`, `tcp://${second.address}`]
  await filesStay(first, to)
  const start = performance.now()
  await first.run('virsh', [...live, 'web1', ...to], { limit: 120_000 })
  cluster.say(`  a live migration took ${Math.round(performance.now() - start)} ms`)
  await expect(second, /running/, 'virsh', 'domstate', 'web1')
  // The socket is another one there: the hook has said so in time.
  await expect(second, new RegExp(`transport='unix' socket='${OTHER_SOCKET}'`), 'virsh', 'dumpxml', 'web1')
  await expect(second, /socket='\/var\/lib\/sheepdog\/nbd.sock'/, 'virsh', 'dumpxml', 'web1', '--inactive')
  await expect(second, /\bweb\b.*host2/, 'dog', 'vdi', 'lock', 'list')
  await refused(first, /volume web is open on host2/, 'virsh', 'start', 'web1')
  await second.run('virsh', ['destroy', 'web1'])
  await first.run('virsh', ['start', 'web1'])
  first.write('/root/web2.xml', domain('web2', await first.run('dog', ['libvirt', 'disk-xml', 'data'])))
  await first.run('virsh', ['define', '/root/web2.xml'])
  await withoutDaemon(cluster, first)
  await first.run('virsh', ['undefine', 'web2'])
  await first.run('virsh', ['destroy', 'web1'])
}

/** For the scenarios that follow. */
async function tidyUp(cluster: SystemCluster): Promise<void> {
  const [first, second] = cluster.hosts
  second.write(configuration, `${engine}corosync-bound = no\n`)
  await second.run('systemctl', ['restart', 'sheepdog'])
  await cluster.healthy()
  for (const name of ['web', 'data']) {
    await first.run('dog', ['vdi', 'delete', '-s', 'all', name])
    await first.run('dog', ['vdi', 'delete', name])
  }
  const sockets = ['', '-ro', '-admin', '-tcp'].map((kind) => `libvirtd${kind}.socket`).join(' ')
  for (const host of cluster.hosts) {
    await host.run('sh', ['-c', `systemctl stop ${sockets} libvirtd`])
  }
}

export const libvirtScenario: Scenario = {
  name: 'libvirt',
  title: 'libvirt as shipped: the pool, disks by NBD, a hook that refuses a second start, snapshots, live migration',
  short: false,
  async run(cluster) {
    await pools(cluster)
    await disks(cluster)
    await convertAndMigrate(cluster)
    await tidyUp(cluster)
  },
}
