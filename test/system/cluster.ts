/** A Sheepdog cluster on the hosts of a bed: corosync, the daemon as a service, one volume under fio. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { newClusterKey } from '../../lib/host/cluster-key.js'
import { ProcessError, until } from '../support/process.js'
import { Bed } from './bed.js'
import { command } from './ground.js'
import type { Host } from './host.js'
import { cache, type Layer, libvirtUnits } from './root.js'

/** Corosync gives a silent host up after this, ms; with three nodes it adds 650. */
export const tokenMs = 1_000
const healLimit = 120_000
const writerLimit = 420_000
const copies = 2

export const configuration = '/etc/sheepdog/sheepdog.conf'
export const engine = 'cluster = corosync\nlog-level = debug\n'

export interface ClusterInfo {
  status: string
  reason: string
  epochs: { number: number; nodes: unknown[] }[]
  recovering: unknown[]
}

/** Its vote comes over the network from another host (corosync-qdevice(8)), which gives one of two halves the majority. */
function deviceConf({ address }: Host): string {
  const net = `        net {\n            host: ${address}\n            algorithm: ffsplit\n            tls: off\n        }\n`
  return `    device {\n        model: net\n        votes: 1\n        timeout: 2000\n        sync_timeout: 4000\n${net}    }\n`
}

/** @param witness the quorum device's host; null none */
function corosyncConf(hosts: readonly Host[], witness: Host | null): string {
  const nodes = hosts.map(({ name, address }, at) => {
    return `    node {\n        ring0_addr: ${address}\n        nodeid: ${at + 1}\n        name: ${name}\n    }\n`
  })
  const twoNode = hosts.length === 2 ? '    two_node: 1\n' : ''
  return [
    'totem {\n    version: 2\n    cluster_name: bed\n    transport: knet\n',
    `    crypto_cipher: none\n    crypto_hash: none\n    token: ${tokenMs}\n}\n`,
    `quorum {\n    provider: corosync_votequorum\n${witness !== null ? deviceConf(witness) : twoNode}}\n`,
    `nodelist {\n${nodes.join('')}}\n`,
    'logging {\n    to_syslog: yes\n}\n',
  ].join('')
}

/** Each knows the others by name, and itself as Debian's installer has it. */
function namesFor(host: Host, { hosts }: Bed): void {
  const names = hosts.map(({ name, address }) => `${address} ${name}\n`).join('')
  host.write('/etc/hosts', `127.0.0.1 localhost\n127.0.1.1 ${host.name}\n${names}`)
}

/** What has come with `dog cluster init`, beside one host that is in no cluster yet. */
const initHosts = 4
const initCopies = 3

/** What a scenario asks of its cluster */
export interface Setting {
  /** Default 3; 0: four without anything of Sheepdog, in no cluster */
  hosts?: number
  /** Only installed on them, in no cluster */
  apart?: boolean
  /** Beside them one that has a quorum device's other end, and nothing else */
  witness?: boolean
  /** What its hosts have above the basic system */
  layer?: Layer | null
}

export class SystemCluster {
  /** In the cluster */
  hosts: readonly Host[]

  private constructor(
    readonly bed: Bed,
    private readonly layer: Layer | null,
    readonly say: (text: string) => void,
  ) {
    this.hosts = bed.hosts
  }

  /** Fewer than four are set up by hand, four by `dog cluster init`; 0: four as Debian is with libvirt, that have nothing of Sheepdog. */
  static of(setting: Setting, say: (text: string) => void): Promise<SystemCluster> {
    const { hosts = 3, apart = false, layer = null, witness = false } = setting
    if (hosts === 0 || apart) return SystemCluster.none(hosts, layer, say)
    return hosts === initHosts ? SystemCluster.init(layer, say) : SystemCluster.make({ hosts, layer, witness }, say)
  }

  /** Whether what wants `setting` can go on with it. */
  suits({ hosts = 3, apart = false, layer = null, witness = false }: Setting): boolean {
    return !apart && !witness && hosts > 0 && this.hosts.length === hosts && (layer === null || layer === this.layer)
  }

  /** Hosts in no cluster; 0: four as Debian is with libvirt, that have nothing of Sheepdog either. */
  private static async none(hosts: number, layer: Layer | null, say: (text: string) => void): Promise<SystemCluster> {
    const bare = hosts === 0
    const setUp = (host: Host, bed: Bed): void => {
      namesFor(host, bed)
      if (bare) command('systemctl', `--root=${host.directory}`, '--quiet', 'enable', ...libvirtUnits)
    }
    const bed = await Bed.make({ hosts: hosts || initHosts, layer, bare, say, setUp })
    const cluster = new SystemCluster(bed, layer, say)
    cluster.hosts = []
    return cluster
  }

  /** Four hosts by `dog cluster init`, three copies; a fifth that is up, with nothing of it. */
  private static async init(layer: Layer | null, say: (text: string) => void): Promise<SystemCluster> {
    const bed = await Bed.make({
      hosts: initHosts + 1,
      layer,
      say,
      setUp: (host, bed) => {
        namesFor(host, bed)
        // Daemons that outlive corosync have more to do when it comes back: nothing binds them to it here.
        host.write('/etc/systemd/system-generators/sheepdog-generator', '#!/bin/sh\n')
      },
    })
    const cluster = new SystemCluster(bed, layer, say)
    try {
      await cluster.letIn(bed.hosts[0], bed.hosts)
      cluster.hosts = bed.hosts.slice(0, initHosts)
      await bed.hosts[0].run('dog', [
        'cluster',
        'init',
        ...cluster.hosts.map(({ name }) => name),
        ...cluster.initOptions,
      ])
      await cluster.healthy()
      return cluster
    } catch (error) {
      say(await cluster.keepJournals('start'))
      bed.close()
      throw error
    }
  }

  readonly initOptions: readonly string[] = ['--copies', String(initCopies), '--token', String(tokenMs), '--yes']

  /** `from` may log in as root on the others, and knows their keys: each has its own. */
  async letIn(from: Host, hosts: readonly Host[]): Promise<void> {
    await from.run('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', '/root/.ssh/id_ed25519'])
    const key = from.read('/root/.ssh/id_ed25519.pub')
    const fresh = 'rm -f /etc/ssh/ssh_host_*; ssh-keygen -q -A; systemctl restart ssh'
    await Promise.all(
      hosts.map(async (host) => {
        host.write('/root/.ssh/authorized_keys', key)
        await host.run('sh', ['-c', fresh])
      }),
    )
    const names = hosts.map(({ name }) => name).join(' ')
    await from.run('sh', ['-c', `ssh-keyscan -H -t ed25519 ${names} > /root/.ssh/known_hosts 2>/dev/null`])
  }

  /** Formatted, with the daemon as a service that each boot starts. */
  private static async make(
    { hosts, layer, witness }: { hosts: number; layer: Layer | null; witness: boolean },
    say: (text: string) => void,
  ): Promise<SystemCluster> {
    const key = newClusterKey()
    const bed = await Bed.make({
      hosts: witness ? hosts + 1 : hosts,
      layer,
      say,
      setUp: (host, { hosts: all }) => {
        if (all.indexOf(host) === hosts) {
          host.write('/etc/default/corosync-qnetd', 'COROSYNC_QNETD_OPTIONS="-s off"\n')
          return
        }
        host.write('/etc/corosync/corosync.conf', corosyncConf(all.slice(0, hosts), all[hosts] ?? null))
        host.write('/etc/sheepdog/cluster.key', key)
        // Daemons that outlive corosync have more to do when it comes back.
        host.write(configuration, `${engine}corosync-bound = no\n`)
      },
    })
    const cluster = new SystemCluster(bed, layer, say)
    cluster.hosts = bed.hosts.slice(0, hosts)
    try {
      // As a package does when it is installed.
      for (const host of cluster.hosts) {
        await host.run('systemd-sysusers')
        await host.run('systemd-tmpfiles', ['--create', 'sheepdog.conf'])
        await host.run('systemctl', ['daemon-reload'])
      }
      await Promise.all(cluster.hosts.map((host) => host.run('systemctl', ['enable', '--now', 'sheepdog'])))
      for (const host of cluster.hosts) await cluster.saysReady(host, /: no (quorum|cluster) yet: /)
      await until('the daemons to meet', healLimit, async () => {
        const seen = await Promise.all(cluster.hosts.map((host) => cluster.info(host)))
        return seen.every((info) => info?.status === 'waiting-for-format')
      })
      await bed.hosts[0].run('dog', ['cluster', 'format', '-c', String(copies)])
      await cluster.healthy()
      return cluster
    } catch (error) {
      say(await cluster.keepJournals('start'))
      bed.close()
      throw error
    }
  }

  /** What a host's own daemon says; null when it does not answer. */
  async info(host: Host): Promise<ClusterInfo | null> {
    const { code, stdout } = await host.try('dog', ['cluster', 'info', '--json'])
    return code === 0 ? JSON.parse(stdout) : null
  }

  /** `systemctl start` counts as done, and `systemctl status` says this. */
  async saysReady(host: Host, pattern: RegExp): Promise<void> {
    const { ActiveState, SubState, StatusText } = await host.unit('sheepdog')
    if (`${ActiveState} ${SubState}` !== 'active running' || !pattern.test(StatusText))
      throw new Error(`${host.name} is ${ActiveState} (${SubState}): ${StatusText}`)
  }

  async status(host: Host): Promise<string> {
    return (await this.info(host))?.status ?? 'down'
  }

  /** All hosts are members, and every copy is where it belongs. */
  async healthy(hosts: readonly Host[] = this.hosts): Promise<void> {
    await until('recovery to end', healLimit, async () => {
      const seen = await Promise.all(hosts.map((host) => this.info(host)))
      return seen.every((info) => {
        return (
          info?.status === 'running' && info.epochs[0].nodes.length === hosts.length && info.recovering.length === 0
        )
      })
    })
  }

  /** Writes of all volumes that this host's daemon was asked for. */
  async writes(host: Host): Promise<number> {
    const { nodes } = JSON.parse(await host.run('dog', ['node', 'stat', '--json']))
    const total = nodes[0]?.answer?.clients?.write
    if (typeof total !== 'number')
      throw new Error(`dog node stat --json has no count of writes: ${JSON.stringify(nodes)}`)
    return total
  }

  /**
   * fio on that host writes the volume for so long, then reads all back and compares. Resolves when it has ended well, with the
   * longest that one of its writes or flushes took, ms.
   */
  async fio(host: Host, volume: string, seconds: number): Promise<number> {
    const uri = `nbd+unix:///${volume}?socket=/var/lib/sheepdog/nbd.sock`
    const job = ['--name=job', '--ioengine=nbd', `--uri=${uri}`, '--verify_state_save=0']
    const load = ['--rw=randwrite', '--bs=4k', '--iodepth=8', '--rate_iops=400', '--verify=crc32c', '--size=64m']
    const time = ['--time_based', `--runtime=${seconds}`, '--fsync=64']
    const report = ['--output-format=json', '--output=/var/tmp/fio.json']
    await host.run('fio', [...job, ...load, ...time, ...report], { limit: (seconds + 120) * 1000 })
    const said = host.read('/var/tmp/fio.json')
    // It says a sentence of its own first.
    const { jobs } = JSON.parse(said.slice(said.indexOf('{\n')))
    const { write, sync } = jobs[0]
    if (!(write.total_ios > seconds && sync.total_ios > 0))
      throw new Error(`fio wrote ${write.total_ios} times and flushed ${sync.total_ios} times in ${seconds} s`)
    // While one flush waits it may begin no write.
    return Math.round(Math.max(write.clat_ns.max, sync.lat_ns.max) / 1e6)
  }

  /** Writes numbered blocks while `act` is done, coming back when its connection is cut, then checks all (writer.ts). */
  async whileWriting(host: Host, volume: string, act: () => Promise<void>): Promise<void> {
    const program = '/usr/lib/sheepdog/dist/test/system/writer.js'
    const stopFile = `/var/tmp/enough-${volume}`
    const start = async (): Promise<void> => {
      const said = await host.run('node', [program, volume, stopFile], { limit: writerLimit })
      this.say(`  the writer: ${said.trim()}`)
    }
    await this.underLoad(host, start, async () => {
      try {
        await act()
      } finally {
        host.write(stopFile, '')
      }
    })
  }

  /** All copies of a volume are the same bytes, says the cluster itself. */
  async identical(volume: string): Promise<void> {
    const { code, stdout, stderr } = await this.hosts[0].try('dog', ['vdi', 'check', volume])
    if (code !== 0) throw new ProcessError('dog vdi check', { code, stdout, stderr, bytes: Buffer.alloc(0), ms: 0 })
  }

  /** Of all volumes. */
  async allIdentical(): Promise<void> {
    await this.hosts[0].run('dog', ['cluster', 'check'])
  }

  async digest(host: Host, volume: string): Promise<string> {
    const uri = `nbd+unix:///${volume}?socket=/var/lib/sheepdog/nbd.sock`
    return await host.run('sh', ['-c', `set -o pipefail 2>/dev/null; nbdcopy '${uri}' - | sha256sum`])
  }

  /** How long it takes, ms. */
  async timed(act: () => Promise<unknown>): Promise<number> {
    const start = performance.now()
    await act()
    return Math.round(performance.now() - start)
  }

  /** How long until `check` holds, ms. */
  took(what: string, check: () => Promise<boolean>, limit = 60_000): Promise<number> {
    return this.timed(() => until(what, limit, check))
  }

  /** Does something while `load` writes, beginning a moment after it. */
  async underLoad<T>(host: Host, start: () => Promise<T>, act: () => Promise<void>): Promise<T> {
    const before = await this.writes(host)
    const load = start()
    // What goes wrong in it is told when it is waited for.
    load.catch(() => undefined)
    await until('the load to write', 30_000, async () => (await this.writes(host)) > before + 100)
    await act()
    return await load
  }

  /** Everything that sheep and corosync said, into a file of its own: the path. */
  async keepJournals(name: string): Promise<string> {
    const script = 'journalctl -u sheepdog -u corosync --no-pager -o short-precise | grep -v KNET'
    const parts = await Promise.all(
      this.bed.hosts.map(async (host) => {
        const outcome = await host.try('sh', ['-c', script]).catch(() => null)
        return `--- ${host.name}\n${outcome?.stdout || host.console}`
      }),
    )
    const path = join(cache, `${name}.journal`)
    writeFileSync(path, parts.join('\n'))
    return `journals of the hosts: ${path}`
  }

  close(): void {
    this.bed.close()
  }
}
