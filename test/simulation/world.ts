/**
 * One run: hosts, their network and engine, the clients and the faults, all from one seed. In order:
 *
 *   start and format -> clients work while the planner breaks things -> heal -> clients end -> everything recovers
 *   -> perhaps bits turn over at rest
 *   -> each volume and snapshot is read whole through a fresh gateway -> the disks are compared byte by byte
 */
import { InvariantError } from '../../lib/assert.js'
import { asSheepError } from '../../lib/errors.js'
import { auditDisks } from './audit.js'
import { Scheduler } from './clock.js'
import { EngineHub } from './engine.js'
import { Host, type MakeSheep } from './host.js'
import { Loss } from './loss.js'
import { SimNetwork } from './network.js'
import { Planner } from './planner.js'
import type { Process } from './process.js'
import { SimRandom } from './random.js'
import { watchRejections } from './rejections.js'
import { Rot } from './rot.js'
import { impossible, type Shape, shapeOf } from './shape.js'
import { Trace, Verdict } from './trace.js'
import { Violation } from './violation.js'
import { Workload } from './workload.js'

export interface Result {
  seed: number
  violation: Violation | null
  hash: string
  events: number
  /** ms of simulated time */
  time: number
  requests: number
  faults: number
  trace: readonly string[]
}

/** Simulated time until something that should end counts as stuck, ms. */
const STUCK_MS = 400_000
/** More events than any healthy run needs: a livelock. */
const EVENTS_MAX = 3_000_000

export class World {
  readonly trace: Trace
  readonly verdict = new Verdict()
  readonly scheduler: Scheduler
  readonly random: SimRandom
  readonly network: SimNetwork
  readonly hub: EngineHub
  readonly hosts: Host[]
  readonly shape: Shape
  readonly workload: Workload
  readonly planner: Planner
  readonly rot: Rot
  readonly loss: Loss
  /** In place of the planner's faults: what happens while the clients work, until it resolves */
  script: ((world: World) => Promise<void>) | null = null
  /** Compare the disks at the end */
  audit = true
  readonly #waiting = new Map<number, string>()
  #nextWait = 1

  constructor(
    readonly seed: number,
    readonly makeSheep: MakeSheep,
    tracing: boolean,
    overrides: Partial<Shape> = {},
  ) {
    this.trace = new Trace(tracing)
    this.scheduler = new Scheduler(this.trace)
    this.random = new SimRandom(seed, 0x5eed)
    this.shape = { ...shapeOf(this.random.split()), ...overrides }
    const { shape } = this
    const why = impossible(shape)
    if (why !== '') throw new Error(`a world with ${JSON.stringify(overrides)}: ${why}`)
    this.network = new SimNetwork(this.scheduler, this.random.split(), this.verdict, shape.network)
    const names = Array.from({ length: shape.hosts }, (_, i) => `n${i + 1}`)
    this.hub = new EngineHub(this.scheduler, this.random.split(), shape.engine, names)
    this.hosts = names.map(
      (name, i) =>
        new Host(
          this,
          name,
          `z${i % shape.zones}`,
          i >= names.length - shape.gateways,
          this.random.split(),
          shape.disk,
          shape.disks,
        ),
    )
    this.workload = new Workload(this, this.random.split())
    this.planner = new Planner(this, this.random.split())
    this.loss = new Loss(this)
    this.rot = new Rot(this, new SimRandom(seed, 0xb17))
  }

  log(text: string): void {
    this.trace.line(this.scheduler.now, text)
  }

  /** Somebody waits for something; the return value ends it. */
  wait(what: string): number {
    const id = this.#nextWait++
    this.#waiting.set(id, `${what} since ${this.scheduler.now.toFixed(1)}`)
    return id
  }

  waited(id: number): void {
    this.#waiting.delete(id)
  }

  sleep(ms: number): Promise<void> {
    return new Promise((resolve) => this.scheduler.after(ms, resolve))
  }

  /** The daemon stops itself. Allowed where the design says so; an invariant never is. */
  fatal(host: Host, process: Process, error: unknown): void {
    if (!process.alive) return
    if (error instanceof InvariantError || (error instanceof Error && !('code' in error))) {
      process.threw(error)
      return
    }
    this.log(`${process.name} stops itself: ${asSheepError(error).message}`)
    this.planner.stoppedItself(host)
    process.die()
  }

  /** An answer that the design does not allow here. */
  unexpected(what: string, error: unknown): void {
    const text =
      error instanceof Error
        ? `${error.name} ${(error as { code?: string }).code ?? ''}: ${error.message}`
        : String(error)
    this.verdict.report('unexpected answer', `${what}: ${text}`, error instanceof Error ? error.stack : undefined)
  }

  startFailed(host: Host, process: Process, error: unknown): void {
    this.fatal(host, process, error)
  }

  async run(): Promise<Result> {
    await watchRejections(this.verdict, async () => {
      try {
        await this.#phases()
      } catch (error) {
        if (error instanceof Violation) this.verdict.violation ??= error
        else this.verdict.report('harness', String(error), error instanceof Error ? error.stack : undefined)
      }
    })
    return {
      seed: this.seed,
      violation: this.verdict.violation,
      hash: this.trace.hash,
      events: this.scheduler.events,
      time: this.scheduler.now,
      requests: this.workload.requests,
      faults: this.planner.faults,
      trace: this.trace.lines,
    }
  }

  async #phases(): Promise<void> {
    this.log(`seed ${this.seed}: ${JSON.stringify(this.shape)}`)
    for (const host of this.hosts) host.start()
    await this.#until('the cluster is formatted', this.#format())
    const work = this.workload.run()
    if (this.script === null) await this.#pass(this.shape.duration, () => this.planner.step())
    else await this.#until('the script', this.script(this))
    this.log('---- healing')
    this.workload.closing = true
    this.planner.heal()
    await this.#until('clients end', work)
    await this.#until('recovery is released', this.planner.throttle.release())
    if (this.shape.disasters) await this.#until('what is lost is given up', this.loss.settled())
    await this.#until('everything is recovered', this.#recovered())
    if (this.audit && this.rot.random.chance(0.5)) await this.#rot()
    this.log('---- verifying')
    await this.#until('volumes are read', this.workload.verify())
    await this.#until('everything is recovered', this.#recovered())
    await this.#pass(this.shape.settle, null)
    await this.#until('everything is recovered', this.#recovered())
    if (this.rot.flips > 0) {
      // A pass that runs already may have been past what has rotted since: it ends first.
      await this.#until('everything is scrubbed', this.#scrubbed())
      this.rot.startScrubs()
      await this.#until('everything is scrubbed', this.#scrubbed())
    }
    const problem = this.audit ? auditDisks(this) : ''
    if (problem) this.verdict.report('disks', problem)
  }

  async #format(): Promise<void> {
    for (;;) {
      const host = this.hosts[0]
      if (this.hosts.every((each) => each.sheep?.cluster.status === 'waiting-for-format')) {
        const { copies, blockSizeShift } = this.shape
        const outcome = await host.request('format', (sheep) =>
          sheep.cluster.propose(
            { type: 'format', clusterId: this.random.hex(8), copies, blockSizeShift, force: false },
            true,
          ),
        )
        if (outcome.state === 'failed') throw outcome.error
        await this.#chooseOnNoQuorum(host)
        break
      }
      await this.sleep(50)
    }
    while (!this.planner.healthy()) await this.sleep(50)
  }

  async #chooseOnNoQuorum(host: Host): Promise<void> {
    const { onNoQuorum: ms } = this.shape
    if (ms === 0) return
    const outcome = await host.request('on-no-quorum', (sheep) => sheep.cluster.propose({ type: 'on-no-quorum', ms }))
    if (outcome.state === 'failed') throw outcome.error
  }

  /** The bits turn over while nobody writes. */
  async #rot(): Promise<void> {
    this.log('---- rotting')
    await this.#pass(this.shape.settle, null)
    if (this.rot.flip() === 0) return
    this.rot.trouble()
    await this.#pass(10_000, null)
    await this.#until('everything is recovered', this.#recovered())
  }

  async #scrubbed(): Promise<void> {
    while (this.rot.scrubbing) await this.sleep(200)
  }

  async #recovered(): Promise<void> {
    while (!this.planner.healthy()) {
      await this.sleep(200)
      // Holding it may have been asked for in a partition, and come true since.
      if (this.workload.closing) await this.planner.throttle.release()
    }
  }

  /** Runs the world until `work` has ended. */
  async #until(what: string, work: Promise<void>): Promise<void> {
    const label = this.wait(what)
    let over = false
    let failure: unknown = null
    work.then(
      () => {
        over = true
      },
      (error: unknown) => {
        over = true
        failure = error
      },
    )
    const end = await this.#run(() => over, this.scheduler.now + STUCK_MS)
    if (failure) throw failure
    if (end !== 'stopped') this.#stuck(end)
    this.waited(label)
  }

  /** Lets `ms` pass; `step` returns after how long it wants to be called again. */
  async #pass(ms: number, step: (() => number) | null): Promise<void> {
    let over = false
    this.scheduler.after(ms, () => {
      over = true
    })
    const next = (): void => {
      if (over || !step) return
      this.scheduler.after(step(), next)
    }
    if (step) this.scheduler.after(step(), next)
    const end = await this.#run(() => over, Number.POSITIVE_INFINITY)
    if (end !== 'stopped') this.#stuck(end)
  }

  async #run(stop: () => boolean, until: number): Promise<string> {
    const { verdict } = this
    const end = await this.scheduler.run(
      () => stop() || verdict.violation !== null,
      until,
      EVENTS_MAX - this.scheduler.events,
    )
    if (verdict.violation) throw verdict.violation
    return end
  }

  #stuck(end: string): never {
    const why = end === 'empty' ? 'nothing is left to happen' : end === 'time' ? 'time is up' : 'events without end'
    const hosts = this.hosts.map(
      (host) =>
        `${host.name}: ${host.up ? `${host.sheep?.cluster.status} ${host.sheep?.cluster.statusReason}` : 'down'}` +
        ` epoch ${host.sheep?.cluster.epoch?.number}`,
    )
    const waiting = [...this.#waiting.values()].slice(0, 12)
    throw new Violation('stuck', `${why}; waiting: ${waiting.join(' | ')}; hosts: ${hosts.join(' | ')}`)
  }
}
