import test, { type ExecutionContext } from 'ava'
import { Cluster } from '../../../lib/cluster/cluster.js'
import type { ClusterCommand, ClusterListener, EpochRecord } from '../../../lib/cluster/types.js'
import { asSheepError, SheepError } from '../../../lib/errors.js'
import { Scheduler, SimClock } from '../../simulation/clock.js'
import { SimDisk } from '../../simulation/disk.js'
import { DiskView } from '../../simulation/disk-view.js'
import { EngineHub } from '../../simulation/engine.js'
import { Process } from '../../simulation/process.js'
import { SimRandom } from '../../simulation/random.js'
import { Trace, Verdict } from '../../simulation/trace.js'
import { nodeInfo } from './bus.js'

const format: ClusterCommand = {
  type: 'format',
  clusterId: '00000000000000c1',
  copies: 3,
  blockSizeShift: 22,
  force: false,
}

function create(name: string): ClusterCommand {
  const fields = { size: 1 << 30, copies: 3, blockSizeShift: 22, parent: 0, preallocated: false }
  return { type: 'vdi', command: { op: 'create', name, ...fields } }
}

/** A host with its disk; its daemon comes and goes. */
class Host implements ClusterListener {
  readonly disk: SimDisk
  readonly epochs: EpochRecord[] = []
  process: Process | null = null
  cluster: Cluster | null = null
  incarnation = 0
  failure: SheepError | null = null

  constructor(
    readonly world: World,
    readonly number: number,
  ) {
    const shape = { capacity: 64 << 20, latency: 0.1, syncLatency: 3, inline: 0.5 }
    this.disk = new SimDisk(world.scheduler, world.random.split(), shape)
  }

  get name(): string {
    return `h${this.number}`
  }

  start(): void {
    const { world } = this
    this.process = new Process(`${this.name}.${++this.incarnation}`, world.scheduler, world.verdict, () => undefined)
    const { process } = this
    process.enter(() => {
      this.cluster = new Cluster({
        engine: world.hub.attach(process, this.name),
        disk: new DiskView(this.disk, process),
        clock: new SimClock(world.scheduler, process, 1, 0),
        random: world.random.split(),
        log: () => undefined,
        self: nodeInfo(this.number),
        listener: this,
        proposalTimeoutMs: 20_000,
      })
      this.cluster.start().catch((error: unknown) => {
        if (process.alive) this.failure = asSheepError(error)
      })
    })
  }

  crash(power: boolean): void {
    this.process?.die()
    this.process = null
    this.cluster = null
    if (power) this.disk.powerLoss()
    this.world.hub.processDied()
  }

  epochChanged(current: EpochRecord): void {
    this.epochs.push(current)
    this.world.epochBegan(this, current)
  }

  commandApplied(): void {}
  statusChanged(): void {}

  /** A request of a client; null when the daemon died before it answered. */
  ask<T>(call: (cluster: Cluster) => Promise<T>): Promise<T | SheepError | null> {
    const { process, cluster } = this
    return new Promise((resolve) => {
      if (process === null || cluster === null) {
        resolve(null)
        return
      }
      const gone = setInterval.bind(null, () => undefined)
      void gone
      process.enter(() => {
        call(cluster).then(resolve, (error: unknown) => {
          if (process.alive) resolve(asSheepError(error))
        })
      })
    })
  }
}

class World {
  readonly scheduler = new Scheduler(new Trace(false))
  readonly verdict = new Verdict()
  readonly random: SimRandom
  readonly hub: EngineHub
  readonly hosts: Host[]
  onEpoch: (host: Host, current: EpochRecord) => void = () => undefined

  constructor(seed: number, count: number, hasQuorum: boolean) {
    this.random = new SimRandom(seed)
    const names = Array.from({ length: count }, (_, at) => `h${at}`)
    const shape = { hasQuorum, latency: 0.3, tokenTimeout: 100 }
    this.hub = new EngineHub(this.scheduler, this.random.split(), shape, names)
    this.hosts = names.map((_, at) => new Host(this, at))
  }

  epochBegan(host: Host, current: EpochRecord): void {
    this.onEpoch(host, current)
  }

  async pass(ms: number): Promise<void> {
    await this.scheduler.run(() => this.verdict.violation !== null, this.scheduler.now + ms, 2_000_000)
    if (this.verdict.violation !== null) throw new Error(`${this.verdict.violation.rule}: ${this.verdict.violation.message}`)
    this.scheduler.now = Math.max(this.scheduler.now, 0)
  }

  async until(what: string, done: () => boolean): Promise<void> {
    const end = this.scheduler.now + 120_000
    while (!done()) {
      if (this.scheduler.now >= end) {
        const states = this.hosts.map(({ cluster }) => `${cluster?.status}: ${cluster?.statusReason}`)
        throw new Error(`${what}: not in time; ${states.join('; ')}`)
      }
      const before = this.scheduler.now
      await this.pass(50)
      if (this.scheduler.now === before) this.scheduler.now += 50
    }
  }

  allAre(status: string): boolean {
    return this.hosts.every(({ cluster }) => cluster?.status === status)
  }

  async formatted(): Promise<this> {
    for (const host of this.hosts) host.start()
    await this.until('waiting for format', () => this.allAre('waiting-for-format'))
    let answer: unknown
    void this.hosts[0].ask((cluster) => cluster.propose(format, true)).then((value) => {
      answer = value
    })
    await this.until('format', () => answer !== undefined && this.allAre('running'))
    return this
  }
}
