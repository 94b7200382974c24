/**
 * Brings this node's share of the objects up to date after an epoch change: finds what is missing or doubtful, asks
 * the others, takes copies. The rules of who is believed are in validity.ts.
 *
 *     epoch changes -> survey: every other node lists what it holds of our share -> a task per object that is not valid here
 *     request for an object that is not valid -> its task runs first, with a question to all nodes when the survey is not in
 *     task: verdict -> keep | take (staged copy, synced, renamed) | wait for a node | absent
 *     all tasks done -> `recovered` -> when all nodes are, copies outside everybody's share are dropped
 *
 * A task belongs to one epoch. When the epoch moves on, a copy under way may finish: it is marked with the epoch it was
 * begun in, which is what it is good for.
 */
import type { RecoverySettings } from '../cluster/types.js'
import { SheepError } from '../errors.js'
import type { Clock, Log, Timer } from '../host/interfaces.js'
import type { ObjectStore } from '../store/types.js'
import { type Oid, oidToHex, vidOf } from '../vdi/oid.js'
import { Copier, isNoSpace } from './copier.js'
import type { Filling } from './filling.js'
import { Inquiry } from './inquiry.js'
import { ObjectRecovery } from './object-recovery.js'
import { Pacer } from './pacer.js'
import { PassedWrites } from './passed-writes.js'
import type { Peers } from './peers.js'
import { type RecoveryProgress, whatWaits } from './recovery-progress.js'
import type { EnsureWaiter, ObjectEnsurer, Replica } from './replica.js'
import { lookThrough } from './surveyed.js'
import { newTask, resumeAll, type Task } from './task.js'
import type { Topology } from './topology.js'
import { Unneeded } from './unneeded.js'
import { type CopyReport, passedIn, passedWithout, type Teller } from './validity.js'

const TASKS_AT_ONCE = 4
/** While clients are served: each more makes their slowest requests slower, and recovery hardly faster (bench --recovery). */
const TASKS_BESIDE_CLIENTS = 1
const ON_DEMAND_AT_ONCE = 16
const RETRY_MS = 1_000
/** More than a host that is up needs to be seen again */
const PATIENCE_MS = 120_000
/** After which a disk that had no room for a copy is tried again */
const NO_ROOM_RETRY_MS = 5_000

export interface RecoveryOptions {
  store: ObjectStore
  topology: Topology
  peers: Peers
  replica: Replica
  clock: Clock
  log: Log
  copiesOf: (vid: number) => number
  /** Full size of an object, bytes; 0 unknown */
  bytesOf: (oid: Oid) => number
  /** A copy that was written before this epoch is of another VDI that had the vid; 0 when the registry does not know it */
  createdIn: (vid: number) => number
  /** A copy came from another node: it may be a leftover there, too, which nobody has told yet */
  taken: (oid: Oid) => void
  /** Newest epoch in which changes went by here, over restarts */
  settings: () => RecoverySettings
  doubts: () => Teller
  /** Changes are about to go by in the last of these epochs, which are `passedEpochs` of `doubts`, durably, when this returns */
  passing: (epochs: readonly number[]) => void
  settled: (gateway: string, oid: Oid, sources: readonly string[]) => Promise<boolean>
  /** As of ObjectRecovery */
  renounce: (epoch: number) => void
  /** This node's share of the epoch is valid, durably */
  recovered: (epoch: number) => void
  /** Is the object reached by the registry and inodes? Asked only for copies that nobody else has. */
  reachable: (oids: readonly Oid[]) => Promise<ReadonlySet<Oid>>
}

export class Recovery implements ObjectEnsurer {
  private readonly tasks = new Map<Oid, Task>()
  /** Oids, each in the order in which they are to be done; they may name tasks that are gone. Somebody waits: */
  private urgent: Oid[] = []
  /** Somebody was here, and went on without: */
  private wantedNext: Oid[] = []
  private queue: Oid[] = []
  private runningTasks = 0
  private runningUrgent = 0
  private surveyed = false
  /** Removed, or made anew, since the epoch began and before the survey was in */
  private readonly gone = new Set<Oid>()
  private begunEpoch = 0
  private stopped = false
  /** Nothing is begun until all have gone by that may */
  private lettingPass = false
  private total = 0
  private done = 0
  /** There was no room for the last copy that was begun */
  private full = false
  /** Of the copier's count, at that moment: a copy that was taken since shows that there is room */
  private bytesWhenFull = 0
  /** Of the copier's count, when the epoch began */
  private bytesBefore = 0
  private since = 0
  private retryTimer: Timer | null = null
  private patience: Timer | null = null
  private lastReported = 0
  /** Surveys begun: an older one of the same epoch gives way */
  private surveys = 0
  readonly inquiry: Inquiry
  private readonly copier: Copier
  private readonly objects: ObjectRecovery
  private readonly passed = new PassedWrites()
  private readonly unneeded: Unneeded
  readonly pacer: Pacer

  constructor(private readonly options: RecoveryOptions) {
    this.pacer = new Pacer(options.clock, () => options.replica.foreground)
    this.inquiry = new Inquiry(options)
    this.copier = new Copier({ ...options, pacer: this.pacer })
    this.objects = new ObjectRecovery({
      ...options,
      inquiry: this.inquiry,
      copier: this.copier,
      passed: this.passed,
      opened: (task) => this.letPass(task),
    })
    this.unneeded = new Unneeded({ ...options, drop: (task, epoch) => this.drop(task, epoch) })
  }

  /** The epoch is active in the replica again, which had stood still. What is under way goes on. */
  goOn(): void {
    if (this.begunEpoch !== this.options.topology.epoch) {
      this.begin()
      return
    }
    this.pump()
    // The last task may have ended while nothing could be said of it.
    void this.settle()
  }

  /** The epoch is active in the replica. */
  begin(): void {
    const { topology, clock } = this.options
    const epoch = topology.epoch
    this.since = clock.now()
    if (epoch !== this.begunEpoch) this.gone.clear()
    this.begunEpoch = epoch
    this.passed.begin(epoch)
    this.surveyed = false
    this.total = 0
    this.done = 0
    this.bytesBefore = this.copier.bytesTaken
    this.copier.meter.begin()
    this.pacer.limit = this.options.settings().limit
    this.queue = []
    this.wantedNext = []
    this.urgent = []
    this.objects.forget()
    this.unneeded.forget()
    for (const [oid, task] of [...this.tasks]) {
      task.reports = null
      task.waitingFor = null
      // The line it stood in is gone.
      task.wanted = false
      // Who waited has requests of the former epoch, which end as refused and come again; or of this one, and asks anew.
      const waiters = [...task.waiters.splice(0), ...task.changes.splice(0)]
      task.sources = null
      task.filling = null
      if (!task.running) this.tasks.delete(oid)
      for (const waiter of waiters) waiter.resume(0)
    }
    if (topology.node(topology.self) === undefined) return
    this.patience?.cancel()
    this.patience = clock.after(PATIENCE_MS, () => this.losePatience())
    void this.survey(epoch).catch((error: unknown) => {
      this.options.log('error', `survey of epoch ${epoch} failed: ${String(error)}`)
      throw error
    })
  }

  ensure(oid: Oid, waiter: EnsureWaiter): void {
    const task = this.task(oid)
    task.waiters.push(waiter)
    this.hurry(task)
  }

  ensureOrPass(oid: Oid, waiter: EnsureWaiter): void {
    const task = this.task(oid)
    task.changes.push(waiter)
    this.hurry(task)
  }

  pass(oid: Oid, writer: string): boolean {
    const task = this.tasks.get(oid)
    // While the object is compared or copied nothing may go by: it could be missed.
    if (task === undefined || task.running || task.sources === null || task.sources.length === 0) return false
    if (!this.remember(oid, writer)) return false
    this.next(task)
    return true
  }

  filling(oid: Oid, writer: string, start: number, end: number): Filling | null {
    const filling = this.tasks.get(oid)?.filling ?? null
    // When the copy is given up, what went into it has gone by.
    return filling?.takes(start, end) && this.remember(oid, writer) ? filling : null
  }

  private remember(oid: Oid, writer: string): boolean {
    this.proveNothing()
    return this.passed.add(oid, writer)
  }

  /** As SurveyOptions has it. With our share comes what was decided. */
  decided(): void {
    if (this.lastReported !== this.options.topology.epoch) this.proveNothing()
  }

  /** That we lack something proves nothing for this epoch, from now on, durably. */
  private proveNothing(): void {
    const { topology, doubts, passing } = this.options
    const { passedEpochs } = doubts()
    if (passedEpochs.at(-1) !== topology.epoch) passing(passedIn(passedEpochs, topology.epoch, topology.oldest))
  }

  /** `doubts().passedEpochs` once this node's share of the epoch is valid: with it has come whatever went by in the epoch. */
  get passedEpochs(): readonly number[] {
    const { topology, doubts } = this.options
    return this.passed.none ? passedWithout(doubts().passedEpochs, topology.epoch) : doubts().passedEpochs
  }

  wanted(oid: Oid): void {
    const task = this.tasks.get(oid)
    if (task !== undefined && !task.running) this.next(task)
  }

  private hurry(task: Task): void {
    if (task.urgent) return
    task.urgent = true
    if (!task.running) {
      this.urgent.push(task.oid)
      this.pump()
    }
  }

  private next(task: Task): void {
    if (task.wanted || !this.surveyed) return
    task.wanted = true
    this.wantedNext.push(task.oid)
    this.pump()
  }

  cancel(oid: Oid): void {
    // A node that held it in the former epoch and holds it no more is not told: its list may still name it.
    if (!this.surveyed) this.gone.add(oid)
    const task = this.tasks.get(oid)
    if (task === undefined) return
    task.cancelled = true
    task.filling = null
    task.staged?.abort()
    if (!task.running) this.finish(task, 0)
  }

  /** Takes another node's copy in place of ours, whatever ours is worth: a repair. SheepError unreachable, no-object. */
  async retake(oid: Oid, from: string): Promise<void> {
    const task = this.task(oid)
    if (task.running) throw new SheepError('busy', `object ${oidToHex(oid)} is being recovered`, 'try again')
    task.running = true
    const object = this.options.store.get(oid)
    // From now on requests wait for the other copy, also when it does not come: then this one is compared, as any that is doubted.
    if (object !== undefined) this.options.replica.doubt(object)
    let taken = false
    try {
      taken = await this.objects.take(task, this.options.topology.epoch, from)
      if (!taken) throw new SheepError('no-object', `node ${from} has no copy of ${oidToHex(oid)}`)
    } finally {
      task.running = false
      if (taken || task.cancelled) this.finish(task, 0)
      else this.retry()
    }
  }

  /** A VDI is deleted: what waits of it may be needed no more. */
  deleted(vid: number): void {
    for (const [oid, task] of [...this.tasks]) {
      if (vidOf(oid) !== vid) continue
      if (this.options.copiesOf(vid) === 0) this.cancel(oid)
      else if (task.waitingFor !== null && !task.running) this.unneeded.look(task)
    }
  }

  private drop(task: Task, epoch: number): void {
    if (this.objects.drop(task, epoch)) this.finish(task, 0)
  }

  stop(): void {
    this.stopped = true
    this.unneeded.stop()
    this.retryTimer?.cancel()
    this.patience?.cancel()
  }

  settingsChanged(): void {
    this.pacer.limit = this.options.settings().limit
    this.pump()
  }

  progress(): RecoveryProgress {
    const waitingFor = whatWaits(this.tasks.values())
    const stuck = waitingFor.reduce((sum, entry) => sum + entry.objects, 0)
    const bytesTaken = this.copier.bytesTaken - this.bytesBefore
    const seconds = (this.options.clock.now() - this.since) / 1000
    const { limit } = this.options.settings()
    return {
      epoch: this.options.topology.epoch,
      state: this.state(stuck),
      objectsTotal: this.total,
      objectsDone: this.done,
      bytesTaken,
      bytesTotal: this.done > 0 ? Math.max(bytesTaken, Math.round((bytesTaken / this.done) * this.total)) : 0,
      rate: this.copier.meter.rate,
      left: this.done > 0 ? (seconds / this.done) * (this.total - this.done) : 0,
      limit,
      waitingFor,
      since: this.since,
    }
  }

  private state(stuck: number): RecoveryProgress['state'] {
    if (!this.surveyed) return this.tasks.size === 0 && !this.stores ? 'idle' : 'surveying'
    if (this.tasks.size === 0) return 'idle'
    if (stuck === this.tasks.size) return 'waiting'
    if (this.options.settings().held) return 'held'
    return this.full ? 'no-room' : 'recovering'
  }

  /** A gateway only has no share. */
  private get stores(): boolean {
    const { topology } = this.options
    return (topology.node(topology.self)?.vnodes ?? 0) > 0
  }

  // --- survey -----------------------------------------------------------------------------------------------------

  /** Collects what every other node holds of our share, and queues what is not valid here. */
  private async survey(epoch: number): Promise<void> {
    const { topology, log } = this.options
    const number = ++this.surveys
    const goesOn = () => !this.stopped && topology.epoch === epoch && this.surveys === number
    if (!this.stores) return
    const survey = await this.inquiry.survey(epoch, goesOn)
    if (survey === null) return
    if (!(await lookThrough(survey, this.options, goesOn, (oid, present) => this.enqueue(oid, present)))) return
    this.gone.clear()
    this.surveyed = true
    this.total = this.tasks.size
    if (this.total > 0) log('notice', `recovery of epoch ${epoch}: ${this.total} objects to check or copy`)
    this.pump()
    await this.settle()
  }

  private enqueue(oid: Oid, present: CopyReport[]): void {
    if (this.gone.has(oid)) return
    const task = this.task(oid)
    task.sources ??= this.objects.sources(oid, this.options.copiesOf(vidOf(oid)), present)
    if (task.reports === null) task.reports = present
    this.queue.push(oid)
  }

  // --- tasks ------------------------------------------------------------------------------------------------------

  private task(oid: Oid): Task {
    let task = this.tasks.get(oid)
    if (task === undefined) {
      task = newTask(oid)
      this.tasks.set(oid, task)
    }
    return task
  }

  private pump(): void {
    if (this.stopped || this.lettingPass) return
    // A new epoch is known, and something of the former is still at the disk: what was heard in that says nothing any more.
    if (this.begunEpoch !== this.options.topology.epoch) return
    while (this.urgent.length > 0 && this.runningUrgent < ON_DEMAND_AT_ONCE) {
      const task = this.tasks.get(this.urgent.shift() as Oid)
      if (task !== undefined && !task.running) this.start(task)
    }
    const { settings } = this.options
    if (settings().held || (this.full && this.retryTimer !== null)) return
    // Where there was no room, one shows whether there is.
    const atOnce = this.full ? 1 : this.pacer.busy ? TASKS_BESIDE_CLIENTS : TASKS_AT_ONCE
    while (this.runningTasks < atOnce && this.runningUrgent === 0) {
      const oid = this.wantedNext.shift() ?? this.queue.pop()
      if (oid === undefined) break
      const task = this.tasks.get(oid)
      if (task === undefined) continue
      task.wanted = false
      if (!task.running && !task.urgent) this.start(task)
    }
  }

  private start(task: Task): void {
    task.running = true
    const urgent = task.urgent
    if (urgent) this.runningUrgent++
    else this.runningTasks++
    const epoch = this.options.topology.epoch
    void this.objects
      .run(task, epoch)
      .catch((error: unknown) => this.failed(task, error))
      .then((outcome) => {
        task.running = false
        if (urgent) this.runningUrgent--
        else this.runningTasks--
        task.urgent = false
        if (outcome === true && this.full && this.copier.bytesTaken > this.bytesWhenFull) this.roomAgain()
        if (outcome === true || task.cancelled) {
          this.finish(task, 0)
        } else {
          this.letPass(task)
          if (task.waitingFor !== null) this.unneeded.look(task)
          if (outcome === 'passable') this.next(task)
          else this.retry()
        }
        this.pump()
      })
  }

  private failed(task: Task, error: unknown): false {
    if (!isNoSpace(error)) {
      this.options.log('warning', `recovery of ${oidToHex(task.oid)}: ${String(error)}`)
      return false
    }
    if (!this.full) {
      this.options.log(
        'error',
        `degraded: no room for more copies, ${this.tasks.size} objects are left; recovery goes on when there is`,
      )
    }
    this.full = true
    this.bytesWhenFull = this.copier.bytesTaken
    return false
  }

  private roomAgain(): void {
    this.full = false
    this.options.log('notice', `there is room again: recovery goes on, ${this.tasks.size} objects are left`)
  }

  private finish(task: Task, result: number): void {
    if (this.tasks.get(task.oid) === task) this.tasks.delete(task.oid)
    if (this.surveyed) this.done++
    this.passed.forget(task.oid)
    resumeAll(task, result)
    if (this.tasks.size === 0) void this.settle()
  }

  /** The copy is not here yet, or did not come this time: changes go on meanwhile. */
  private letPass({ sources, changes }: Task): void {
    if (sources === null || sources.length === 0) return
    this.lettingPass = true
    for (const change of changes.splice(0)) change.resume(0)
    this.lettingPass = false
  }

  /**
   * Hosts lost power, and one that may have more of what was not flushed is not back. A power cut takes such writes on any disk;
   * waiting for a host that may never come keeps whole machines down.
   */
  private losePatience(): void {
    this.objects.patient = false
    const waiting = [...this.tasks.values()].filter(({ waitingFor, gap }) => waitingFor !== null && gap === '')
    if (waiting.length === 0) return
    const text = `${waiting.length} objects have waited ${PATIENCE_MS / 1000} s for nodes that are away`
    this.options.log('warning', `${text}: what hosts lost with their power and had not flushed is waited for no longer`)
    for (const task of waiting) task.waitingFor = null
    this.retry()
  }

  private retry(): void {
    this.retryTimer ??= this.options.clock.after(this.full ? NO_ROOM_RETRY_MS : RETRY_MS, () => {
      this.retryTimer = null
      this.queue = []
      for (const waiting of this.tasks.values()) {
        // Who waits for a node that is away waits for the next epoch.
        if (waiting.running || (waiting.waitingFor !== null && waiting.gap === '')) continue
        if (waiting.waiters.length + waiting.changes.length > 0) {
          waiting.urgent = true
          this.urgent.push(waiting.oid)
        } else {
          this.queue.push(waiting.oid)
        }
      }
      this.pump()
    })
  }

  private async settle(): Promise<void> {
    const { topology, recovered, replica } = this.options
    const epoch = topology.epoch
    // A barrier holds requests back for a moment: what is said of this node is said while it serves.
    await replica.reached(epoch)
    if (!this.surveyed || this.tasks.size > 0 || this.lastReported === epoch || replica.activeEpoch !== epoch) return
    this.lastReported = epoch
    recovered(epoch)
  }
}
