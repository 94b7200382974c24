/** What a scenario is, and what most of them do. */
import { sleep, until } from '../support/process.js'
import type { Setting, SystemCluster } from './cluster.js'
import type { Host } from './host.js'

export interface Scenario extends Setting {
  name: string
  title: string
  /** Part of npm test */
  short: boolean
  run(cluster: SystemCluster): Promise<void>
}

export async function volume(cluster: SystemCluster, name: string): Promise<string> {
  await cluster.hosts[0].run('dog', ['vdi', 'create', name, '64M'])
  return name
}

export async function finish(cluster: SystemCluster, name: string): Promise<void> {
  await cluster.healthy()
  await cluster.identical(name)
  await cluster.allIdentical()
  const digests = new Set<string>()
  for (const host of cluster.hosts) digests.add(await cluster.digest(host, name))
  if (digests.size !== 1) throw new Error(`the hosts read different bytes: ${[...digests].join(' ')}`)
  await cluster.hosts[0].run('dog', ['vdi', 'delete', name])
}

/** It completes further writes. */
export async function goesOn(cluster: SystemCluster, host: Host, limit: number): Promise<void> {
  const before = await cluster.writes(host)
  const what = `writes at ${host.name} to go on`
  const ms = await cluster.took(what, async () => (await cluster.writes(host)) > before + 50, limit)
  cluster.say(`  ${host.name} went on after ${ms} ms`)
}

/** `host` is in an epoch of so many nodes. */
export async function nodesAre(cluster: SystemCluster, host: Host, nodes: number, limit: number): Promise<void> {
  await until(
    `an epoch of ${nodes} nodes`,
    limit,
    async () => (await cluster.info(host))?.epochs[0].nodes.length === nodes,
  )
}

/** Every host loses power at the same moment: they start again by themselves, with everything that was flushed. */
export async function allAtOnce(cluster: SystemCluster): Promise<void> {
  const [first] = cluster.hosts
  const name = await volume(cluster, 'all')
  await cluster.fio(first, name, 3)
  const before = await cluster.digest(first, name)
  await Promise.all(cluster.hosts.map((host) => host.powerOff()))
  const ms = await cluster.timed(async () => {
    await Promise.all(cluster.hosts.map((host) => host.boot()))
    await cluster.healthy()
  })
  cluster.say(`  all serve ${Math.round(ms / 1000)} s after the power came back`)
  if ((await cluster.digest(first, name)) !== before) throw new Error('other bytes than before')
  await finish(cluster, name)
}

/** What a program that ends well says; an error when that is something else. */
export async function expect(host: Host, pattern: RegExp, program: string, ...args: string[]): Promise<string> {
  const text = await host.run(program, args)
  if (!pattern.test(text)) throw new Error(`${host.name}: ${program} ${args.join(' ')} says\n${text}`)
  return text
}

/** It ends with an error, and says so. */
export async function refused(host: Host, pattern: RegExp, program: string, ...args: string[]): Promise<void> {
  const { code, stdout, stderr } = await host.try(program, args)
  if (code !== 0 && pattern.test(stderr)) return
  throw new Error(`${host.name}: ${program} ${args.join(' ')} ended with ${code}: ${stdout}${stderr}`)
}

const strandedFor = 5_000

/** Hosts that are about to lose their quorum, each with a client that has a volume open and asks for more when that has happened. */
export class Stranded {
  private constructor(
    private readonly cluster: SystemCluster,
    readonly hosts: readonly Host[],
    private readonly load: readonly Promise<unknown>[],
  ) {}

  static async on(cluster: SystemCluster, hosts: readonly Host[]): Promise<Stranded> {
    const program = '/usr/lib/sheepdog/dist/test/system/stranded.js'
    const load: Promise<unknown>[] = []
    for (const host of hosts) {
      const name = nameOf(host)
      await host.run('sh', ['-c', `rm -f ${GO} ${RESULT}; dog vdi create ${name} 16M`])
      const run = host.try('node', [program, name, GO, RESULT], { limit: 300_000 })
      run.catch(() => undefined)
      load.push(run)
      await until(`the client on ${host.name}`, 30_000, async () => (await answers(host)) === 'before: 0\n')
    }
    return new Stranded(cluster, hosts, load)
  }

  /** They have no quorum: nothing that their clients ask for is done, nor what `dog` asks for. */
  async completeNothing(): Promise<void> {
    const { cluster, hosts } = this
    await Promise.all(
      hosts.map((host) => until(`${host.name} to halt`, 10_000, async () => (await cluster.status(host)) === 'halted')),
    )
    for (const host of hosts) host.write(GO, '')
    await sleep(strandedFor)
    for (const host of hosts) {
      const said = await answers(host)
      if (said !== 'before: 0\n') throw new Error(`without quorum ${host.name} answered\n${said}`)
      const { code } = await host.try('dog', ['--timeout', '2', 'vdi', 'create', `by-${host.name}`, '4M'])
      if (code === 0) throw new Error(`${host.name} made a volume without quorum`)
    }
  }

  /** The other side opens and writes what they have open. */
  async takeOver(from: Host): Promise<void> {
    for (const host of this.hosts) {
      const uri = `nbd+unix:///${nameOf(host)}?socket=/var/lib/sheepdog/nbd.sock`
      const write = ['-f', 'raw', '-c', 'write -P 0x74 0 64k', '-c', 'flush', uri]
      await until(`${from.name} to take over`, 30_000, async () => (await from.try('qemu-io', write)).code === 0)
    }
    this.taken = true
  }

  private taken = false

  /**
   * They have quorum again. What was taken over has none of their bytes, and they are not told that it has; else what waited is done.
   * What dog asked for waited as well, though who asked gave up: it may be there by now.
   */
  async end(): Promise<void> {
    await Promise.all(this.load)
    const [first] = this.cluster.hosts
    for (const host of this.hosts) {
      const said = await answers(host)
      // Elsewhere it may be done or not: who was out of an epoch has to open his volume again.
      const done = /^write: 0$/m.test(said)
      if (this.taken && done) throw new Error(`taken over, and ${host.name} was told\n${said}`)
      const stranded = '\\(stranded\\)*'
      const wanted = this.taken ? 't*' : done ? stranded : `${stranded}\\|\\(before\\)*befo`
      const read = `dog vdi read ${nameOf(host)} 0 64k | grep -qx '${wanted}'`
      for (const reader of this.cluster.hosts) await reader.run('sh', ['-c', read])
      await first.run('dog', ['vdi', 'delete', nameOf(host)])
      await first.try('dog', ['vdi', 'delete', `by-${host.name}`])
    }
  }
}

const GO = '/var/tmp/go'
const RESULT = '/var/tmp/answers'

const nameOf = ({ name }: Host): string => `stranded-${name}`

async function answers(host: Host): Promise<string> {
  return (await host.try('cat', [RESULT])).stdout
}
