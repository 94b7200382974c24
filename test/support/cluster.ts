/**
 * Real daemons on this host for tests and the bench: a fresh directory, free ports, the programs as users start them.
 * Whatever happens, no process and no directory is left behind.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { closeSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ControlClient } from '../../lib/control/client.js'
import { ended, freePorts, hasEnded, type Outcome, ProcessError, type RunOptions, run, until } from './process.js'

const root = join(import.meta.dirname, '..', '..', '..')
export const sheepProgram = join(root, 'dist', 'daemon', 'sheep.js')
export const dogProgram = join(root, 'dist', 'lib', 'dog', 'main.js')

const startLimit = 60_000
/** More would only wait for each other on two cores. */
const startsAtOnce = 8
const healLimit = 120_000

export interface ClusterOptions {
  nodes: number
  /** Default 3, or the number of nodes when there are fewer */
  copies?: number
  /** For all daemons, before the store */
  sheepOptions?: readonly string[]
  /** For each daemon by its index, after those */
  optionsOf?: (index: number) => readonly string[]
  /** Default true */
  format?: boolean
  /** Default a fresh one under the system's temporary directory */
  directory?: string
  /** The disks of a daemon: directories, the first with its sockets. Default: one under `directory` */
  disksOf?: (index: number) => readonly string[]
}

export interface Node {
  readonly index: number
  /** Its first disk, with its sockets */
  readonly store: string
  /** For its command line */
  disks: readonly string[]
  readonly port: number
  readonly log: string
  child: ChildProcess | null
}

const live = new Set<TestCluster>()
process.on('exit', () => {
  for (const cluster of live) cluster.destroy()
})

export class TestCluster {
  readonly nodes: Node[] = []

  private constructor(
    readonly directory: string,
    private readonly sheepOptions: readonly string[],
    private readonly optionsOf: (index: number) => readonly string[],
  ) {
    live.add(this)
  }

  static async start(options: ClusterOptions): Promise<TestCluster> {
    const directory = options.directory ?? mkdtempSync(join(tmpdir(), 'sheep-'))
    mkdirSync(directory, { recursive: true })
    const cluster = new TestCluster(directory, options.sheepOptions ?? [], options.optionsOf ?? (() => []))
    try {
      const ports = await freePorts(options.nodes, 10_000 + ((process.pid * 61) % 20_000))
      for (const [index, port] of ports.entries()) {
        const log = join(directory, `n${index}.log`)
        const disks = options.disksOf?.(index) ?? [join(directory, `n${index}`)]
        cluster.nodes.push({ index, store: disks[0], disks, port, log, child: null })
      }
      for (let first = 0; first < options.nodes; first += startsAtOnce) {
        const group = cluster.nodes.slice(first, first + startsAtOnce)
        await Promise.all(group.map((node) => cluster.startNode(node.index)))
      }
      if (options.format ?? true) {
        const copies = options.copies ?? Math.min(3, options.nodes)
        await cluster.dog(['cluster', 'format', '-c', String(copies)])
      }
      return cluster
    } catch (error) {
      await cluster.stop()
      throw error
    }
  }

  /** Starts a daemon that does not run, and waits until it answers. */
  async startNode(index: number, extra: readonly string[] = []): Promise<void> {
    const node = this.nodes[index]
    if (node.child) throw new Error(`daemon ${index} runs already`)
    const log = openSync(node.log, 'a')
    const engine = `local:${join(this.directory, 'local')}`
    const args = [sheepProgram, '-f', '-c', engine, '-p', String(node.port), ...this.sheepOptions]
    args.push(...this.optionsOf(index), ...extra)
    args.push(node.disks.join())
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', log] })
    closeSync(log)
    node.child = child
    let said = ''
    child.stdout?.on('data', (text) => {
      said += text
    })
    // It says one line on stdout once it serves, or waits for what only people can bring.
    try {
      await until(`daemon ${index} to be ready`, startLimit, () => said.endsWith('\n') || hasEnded(child))
      if (hasEnded(child)) throw new Error(`it ended with ${child.exitCode ?? child.signalCode}`)
    } catch (error) {
      throw new Error(`daemon ${index}: ${(error as Error).message}. Its log:\n${this.logOf(index)}`)
    }
  }

  logOf(index: number): string {
    return readFileSync(this.nodes[index].log, 'utf8').slice(-4000)
  }

  pid(index: number): number {
    const pid = this.nodes[index].child?.pid
    if (pid === undefined) throw new Error(`daemon ${index} does not run`)
    return pid
  }

  /** The daemon has ended when this resolves. */
  async killNode(index: number, signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    const { child } = this.nodes[index]
    if (!child) return
    child.kill(signal)
    await ended(child)
    this.nodes[index].child = null
  }

  get stores(): string[] {
    return this.nodes.map((node) => node.store)
  }

  /** URI of an export at a daemon. */
  nbd(name: string, index = 0): string {
    return `nbd+unix:///${encodeURIComponent(name)}?socket=${this.nbdSocket(index)}`
  }

  nbdSocket(index = 0): string {
    return join(this.nodes[index].store, 'nbd.sock')
  }

  /** `dog` as words for node's own command line. `port`: of a daemon that is none of ours. */
  dogWords(args: readonly string[], port: number): string[] {
    return [dogProgram, '-p', String(port), ...args]
  }

  tryDog(args: readonly string[], index = 0, options: RunOptions = {}): Promise<Outcome> {
    return run(process.execPath, this.dogWords(args, this.nodes[index].port), options)
  }

  /** Rejects with ProcessError when the exit code is not 0. */
  async dog(args: readonly string[], index = 0, options: RunOptions = {}): Promise<Outcome> {
    const outcome = await this.tryDog(args, index, options)
    if (outcome.code !== 0) throw new ProcessError(`dog ${args.join(' ')}`, outcome)
    return outcome
  }

  /** What `dog --json` answers; the caller says its shape. */
  async json<T>(args: readonly string[], index = 0): Promise<T> {
    return JSON.parse((await this.dog([...args, '--json'], index)).stdout)
  }

  /** Waits until all daemons are members and every copy is where it belongs. */
  async healthy(index = 0): Promise<void> {
    const client = await this.control(index)
    try {
      await until('recovery to end', healLimit, async () => {
        const info = await client.call('cluster.info', {})
        const members = info.epochs[0]?.nodes.length
        const running = this.nodes.filter((node) => node.child !== null).length
        return info.status === 'running' && members === running && info.recovering.length === 0
      })
    } finally {
      client.close()
    }
  }

  /** URI at another daemon than the one used before: waits until that one has noticed that its client ended. */
  async elsewhere(name: string, index: number): Promise<string> {
    const client = await this.control(index)
    try {
      await until(`${name} to be closed`, 10_000, async () => {
        return (await client.call('lock.list', {})).locks.every((lock) => lock.volume !== name)
      })
    } finally {
      client.close()
    }
    return this.nbd(name, index)
  }

  control(index = 0): Promise<ControlClient> {
    return ControlClient.connect({ host: '127.0.0.1', port: this.nodes[index].port })
  }

  /** Kills what still runs and removes the directory; for `process.on('exit')`, where nothing can be awaited. */
  destroy(): void {
    live.delete(this)
    for (const node of this.nodes) node.child?.kill('SIGKILL')
    rmSync(this.directory, { recursive: true, force: true, maxRetries: 3 })
  }

  async stop(): Promise<void> {
    await Promise.all(this.nodes.map((node) => this.killNode(node.index)))
    this.destroy()
  }
}
