/** Machines with a system in them: on volumes as files and by NBD, through the loss of daemons, from host to host and back. */
import type { VdiInfo } from '../../lib/control/verbs.js'
import { until } from '../support/process.js'
import type { SystemCluster } from './cluster.js'
import { BOOT, COUNTED, DATA, type Disks, fileSystemIsClean, Guest, makeVolumes, NAME } from './guest.js'
import type { Host } from './host.js'
import { expect, type Scenario } from './scenario.js'

const POOL = '/var/lib/sheepdog/volumes'

/** Two hosts between which machines go; qemu.conf calls the pool's directory shared. */
async function prepare(cluster: SystemCluster): Promise<void> {
  const movers = cluster.hosts.slice(0, 2)
  for (const host of movers) {
    host.write('/etc/libvirt/libvirtd.conf', 'auth_tcp = "none"\n')
    host.write('/etc/libvirt/qemu.conf', `shared_filesystems = [ "${POOL}" ]\n`)
    await host.run('systemctl', ['start', 'libvirtd-tcp.socket', 'libvirtd'])
  }
  await makeVolumes(cluster.hosts[0])
}

async function tidyUp(cluster: SystemCluster): Promise<void> {
  const sockets = ['', '-ro', '-admin', '-tcp'].map((kind) => `libvirtd${kind}.socket`)
  for (const host of cluster.hosts.slice(0, 2)) await host.run('systemctl', ['stop', ...sockets, 'libvirtd'])
  for (const volume of [BOOT, DATA, ...COUNTED]) await cluster.hosts[0].run('dog', ['vdi', 'delete', volume])
}

async function killDaemon(host: Host): Promise<void> {
  const pid = await host.run('systemctl', ['show', 'sheepdog', '-P', 'MainPID'])
  await host.run('kill', ['-9', pid.trim()])
}

async function livesThrough(cluster: SystemCluster, disks: Disks): Promise<void> {
  const [first, second, third] = cluster.hosts
  const guest = await Guest.start(cluster, first, disks)
  cluster.say("  another host's daemon is killed")
  await killDaemon(third)
  await guest.goesOn()
  await cluster.healthy()
  cluster.say("  its own host's daemon is killed")
  await killDaemon(first)
  await guest.goesOn()
  await cluster.healthy()
  await expect(first, /running/, 'virsh', 'domstate', NAME)
  await guest.migrate(second)
  await expect(second, new RegExp(`\\b${DATA}\\b.*write.*host2`), 'dog', 'vdi', 'lock', 'list')
  await guest.migrate(first)
  await guest.end()
  if (disks === 'file') for (const volume of [BOOT, DATA]) await isNobodys(first, `${POOL}/${volume}`)
}

/** What libvirt gave to QEMU for a time, it has taken back, with what it remembered beside. */
async function isNobodys(host: Host, file: string): Promise<void> {
  await expect(host, /^root:root/, 'stat', '-c', '%U:%G', file)
  await expect(host, /^\[\]/, 'python3', '-c', `import os; print(os.listxattr('${file}'))`)
}

export const guestsScenario: Scenario = {
  name: 'guests',
  title: 'a real guest on pool files and by NBD: daemons are killed under it, it goes to another host and back',
  short: false,
  layer: 'machines',
  async run(cluster) {
    await prepare(cluster)
    for (const disks of ['nbd', 'file'] as const) {
      cluster.say(`  disks: ${disks}`)
      await livesThrough(cluster, disks)
    }
    await tidyUp(cluster)
  },
}

/** A snapshot while the agent answers, one that does without it, and one whose dog is killed half-way. */
async function snapshots(cluster: SystemCluster, guest: Guest): Promise<void> {
  const [first, , third] = cluster.hosts
  const snapshot = (tag: string, ...more: string[]): string[] => [
    'vdi',
    'snapshot',
    '-s',
    tag,
    '--domain',
    NAME,
    ...more,
  ]
  await expect(first, /1 of its file systems frozen/, 'dog', ...snapshot('frozen'))
  await thawed(cluster, guest, 1)
  await guest.goesOn()
  await first.run('dog', snapshot('crashed', '--no-freeze'))
  await guest.goesOn()
  await ofOneInstant(cluster, first)
  if (!(await fileSystemIsClean(third, DATA, 'frozen'))) throw new Error('a frozen file system has a journal to replay')
  if (await fileSystemIsClean(third, DATA, 'crashed')) throw new Error('the agent was to be left alone')

  // While a member hangs nothing is decided, and dog is stopped too: it is killed between freezing and thawing.
  third.pause()
  const command = first.try('sh', ['-c', `dog ${snapshot('killed').join(' ')} & echo $! >/run/dog.pid; wait $!`])
  await until('the freeze', 20_000, () => freezes(guest, 'freeze') === 2)
  await first.run('sh', ['-c', 'kill -STOP $(cat /run/dog.pid)'])
  await until('the machine to stand still', 20_000, async () => {
    return /paused/.test(await first.run('virsh', ['domstate', NAME]))
  })
  await first.run('sh', ['-c', 'kill -KILL $(cat /run/dog.pid)'])
  if ((await command).code === 0) throw new Error('the snapshot was taken before dog was killed')
  await thawed(cluster, guest, 2)
  third.resume()
  await cluster.healthy()
  await guest.goesOn()
}

/** The guest counts on two disks, one after the other: snapshots of one instant are at most one apart, others are not. */
async function ofOneInstant(cluster: SystemCluster, host: Host): Promise<void> {
  for (const name of COUNTED) await host.run('dog', ['vdi', 'snapshot', '-s', 'apart', name])
  const counts = async (tag: string): Promise<[number, number]> => {
    const [first, second] = await Promise.all(
      COUNTED.map(async (name) => Number(await host.run('dog', ['vdi', 'read', '-s', tag, name, '0', '512']))),
    )
    cluster.say(`  ${tag}: its disks are at ${first} and ${second}`)
    return [first, second]
  }
  for (const tag of ['frozen', 'crashed']) {
    const [first, second] = await counts(tag)
    if (!(second > 0) || (first !== second && first !== second + 1)) throw new Error('these are of two instants')
  }
  const [first, second] = await counts('apart')
  if (second <= first) throw new Error('the guest counts too slowly for this to be a test')
}

function freezes(guest: Guest, what: 'freeze' | 'thaw'): number {
  return guest.agentSaid().split(`agent: ${what}`).length - 1
}

async function thawed(cluster: SystemCluster, guest: Guest, times: number): Promise<void> {
  const ms = await cluster.took(`the agent to thaw ${times} times`, async () => freezes(guest, 'thaw') >= times)
  if (freezes(guest, 'freeze') !== times) throw new Error(`the agent's log:\n${guest.agentSaid().slice(-3_000)}`)
  cluster.say(`  thawed ${ms} ms later`)
}

async function deleteSnapshots(host: Host): Promise<void> {
  const { vdis } = JSON.parse(await host.run('dog', ['vdi', 'list', '--json'])) as { vdis: VdiInfo[] }
  for (const { name, tag, snapshot } of vdis) if (snapshot) await host.run('dog', ['vdi', 'delete', '-s', tag, name])
}

export const guestAgentScenario: Scenario = {
  name: 'guest-agent',
  title: 'snapshots of a running machine freeze its file systems by its agent, and thaw them whatever happens',
  short: false,
  layer: 'machines',
  async run(cluster) {
    await prepare(cluster)
    const guest = await Guest.start(cluster, cluster.hosts[0], 'nbd', true)
    await snapshots(cluster, guest)
    await guest.end()
    await deleteSnapshots(cluster.hosts[0])
    await tidyUp(cluster)
  },
}
