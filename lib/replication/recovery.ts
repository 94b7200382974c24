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
import { assert } from '../assert.js'
import type { NodeInfo } from '../cluster/types.js'
import { SheepError } from '../errors.js'
import type { Clock, Completion, Log, Timer } from '../host/interfaces.js'
import { FLAG_RECOVERY } from '../protocol/header.js'
import type { ObjectStore, StagedObject, StoredObject } from '../store/types.js'
import { type Oid, oidToHex, vidOf } from '../vdi/oid.js'
import { decodeGrains, differingGrains, GRAIN, grainsOf } from './grains.js'
import type { Peers } from './peers.js'
import type { EnsureWaiter, ObjectEnsurer, Replica } from './replica.js'
import { NO_OBJECT, ObjectRequest, READ, WRONG_EPOCH } from './request.js'
import { decodeReports, encodeOids, type OidReport } from './survey.js'
import type { Topology } from './topology.js'
import { type CopyReport, decide, type Verdict } from './validity.js'

const TASKS_AT_ONCE = 4
const ON_DEMAND_AT_ONCE = 16
const PIECE = 1024 * 1024
const PIECES_IN_FLIGHT = 2
const RETRY_MS = 1_000
/** Whether something refers to an object may take an inode that is itself away: other objects go first. */
const REACHABLE_MS_MAX = 10_000

export interface RecoveryOptions {
  store: ObjectStore
  topology: Topology
  peers: Peers
  replica: Replica
  clock: Clock
  log: Log
  copiesOf: (vid: number) => number
  /** A copy came from another node: it may be a leftover there, too, which nobody has told yet */
  taken: (oid: Oid) => void
  /** This node's share of the epoch is valid, durably */
  recovered: (epoch: number) => void
  /** Is the object reached by the registry and inodes? Asked only for copies that nobody else has. */
  reachable: (oids: readonly Oid[]) => Promise<ReadonlySet<Oid>>
}

export interface RecoveryProgress {
  epoch: number
  state: 'idle' | 'surveying' | 'recovering' | 'waiting' | 'held'
  objectsTotal: number
  objectsDone: number
  bytesTaken: number
  /** Names of nodes whose copies are needed and that are away, with how many objects wait */
  waitingFor: { nodes: readonly string[]; objects: number }[]
  /** Clock.now() at which this epoch's recovery began */
  since: number
}

interface Task {
  oid: Oid
  /** From the survey; null: ask */
  reports: CopyReport[] | null
  waiters: EnsureWaiter[]
  running: boolean
  cancelled: boolean
  urgent: boolean
  waitingFor: readonly string[] | null
  /** The copy under way */
  staged: StagedObject | null
}

export class Recovery implements ObjectEnsurer {
  private readonly tasks = new Map<Oid, Task>()
  /** Oids in the order in which they are to be done; may name tasks that are gone. */
  private queue: Oid[] = []
  private urgent: Oid[] = []
  private runningTasks = 0
  private runningUrgent = 0
  private surveyed = false
  /** Removed, or made anew, since the epoch began and before the survey was in */
  private readonly gone = new Set<Oid>()
  private begunEpoch = 0
  private stopped = false
  private held = false
  private total = 0
  private done = 0
  private bytesTaken = 0
  private since = 0
  private retryTimer: Timer | null = null
  private lastReported = 0
  /** Surveys begun: an older one of the same epoch gives way */
  private surveys = 0
  /** Questions of this epoch that are not answered yet */
  private readonly asking = new Map<Oid, Promise<boolean>>()

  constructor(private readonly options: RecoveryOptions) {}

  /** The epoch is active in the replica. */
  begin(): void {
    const { topology, clock } = this.options
    const epoch = topology.epoch
    this.since = clock.now()
    if (epoch !== this.begunEpoch) this.gone.clear()
    this.begunEpoch = epoch
    this.surveyed = false
    this.total = 0
    this.done = 0
    this.bytesTaken = 0
    this.queue = []
    this.urgent = []
    this.asking.clear()
    for (const [oid, task] of [...this.tasks]) {
      task.reports = null
      task.waitingFor = null
      // Who waited has requests of the former epoch, which end as refused and come again; or of this one, and asks anew.
      const waiters = task.waiters.splice(0)
      if (!task.running) this.tasks.delete(oid)
      for (const waiter of waiters) waiter.resume(0)
    }
    if (topology.node(topology.self) === undefined) return
    void this.survey(epoch).catch((error: unknown) => {
      this.options.log('error', `survey of epoch ${epoch} failed: ${String(error)}`)
      throw error
    })
  }

  ensure(oid: Oid, waiter: EnsureWaiter): void {
    const task = this.task(oid)
    task.waiters.push(waiter)
    if (task.urgent) return
    task.urgent = true
    if (!task.running) {
      this.urgent.push(oid)
      this.pump()
    }
  }

  cancel(oid: Oid): void {
    // A node that held it in the former epoch and holds it no more is not told: its list may still name it.
    if (!this.surveyed) this.gone.add(oid)
    const task = this.tasks.get(oid)
    if (task === undefined) return
    task.cancelled = true
    task.staged?.abort()
    if (!task.running) this.finish(task, 0)
  }

  /** Takes another node's copy in place of ours, whatever ours is worth: a repair. SheepError unreachable, no-object. */
  async retake(oid: Oid, from: string): Promise<void> {
    const task = this.task(oid)
    if (task.running) throw new SheepError('busy', `object ${oidToHex(oid)} is being recovered`, 'try again')
    task.running = true
    const object = this.options.store.get(oid)
    // From now on requests wait for the other copy, also when it does not come: then this one is compared.
    if (object !== undefined) object.suspect = true
    try {
      const taken = await this.take(task, this.options.topology.epoch, from)
      if (!taken) throw new SheepError('no-object', `node ${from} has no copy of ${oidToHex(oid)}`)
    } finally {
      task.running = false
      this.finish(task, 0)
    }
  }

  stop(): void {
    this.stopped = true
    this.retryTimer?.cancel()
  }

  /** Held recovery copies nothing but what requests wait for. */
  hold(held: boolean): void {
    this.held = held
    this.pump()
  }

  progress(): RecoveryProgress {
    const waiting = new Map<string, { nodes: readonly string[]; objects: number }>()
    for (const task of this.tasks.values()) {
      if (task.waitingFor === null) continue
      const key = task.waitingFor.join()
      const entry = waiting.get(key) ?? { nodes: task.waitingFor, objects: 0 }
      entry.objects++
      waiting.set(key, entry)
    }
    const waitingFor = [...waiting.values()]
    const idle = this.surveyed && this.tasks.size === 0
    const stuck = waitingFor.reduce((sum, entry) => sum + entry.objects, 0)
    return {
      epoch: this.options.topology.epoch,
      state: idle
        ? 'idle'
        : !this.surveyed
          ? 'surveying'
          : this.held
            ? 'held'
            : stuck === this.tasks.size
              ? 'waiting'
              : 'recovering',
      objectsTotal: this.total,
      objectsDone: this.done,
      bytesTaken: this.bytesTaken,
      waitingFor,
      since: this.since,
    }
  }

  // --- survey -----------------------------------------------------------------------------------------------------

  /** Collects what every other node holds of our share, and queues what is not valid here. */
  private async survey(epoch: number): Promise<void> {
    const { topology, peers, log, clock } = this.options
    const self = topology.self
    const number = ++this.surveys
    const goesOn = () => !this.stopped && topology.epoch === epoch && this.surveys === number
    if ((topology.node(self)?.vnodes ?? 0) === 0) return
    const others = topology.peers()
    const reports = new Map<Oid, CopyReport[]>()
    await Promise.all(
      others.map(async (node) => {
        let cursor = 0
        while (goesOn()) {
          try {
            const answer = await peers.call(node.id, 'list', { epoch, node: self, cursor })
            for (const report of decodeReports(answer.body)) this.collect(reports, node, report)
            cursor = (answer.json as { next: number }).next
            if (cursor < 0) return
          } catch (error) {
            if (!goesOn()) return
            log('debug', `list from ${node.name}: ${String(error)}`)
            cursor = 0
            await sleep(clock, 100)
          }
        }
      }),
    )
    if (!goesOn()) return
    this.queueSurveyed(reports, others)
    this.surveyed = true
    this.total = this.tasks.size
    if (this.total > 0) log('notice', `recovery of epoch ${epoch}: ${this.total} objects to check or copy`)
    this.pump()
    await this.settle()
  }

  private collect(reports: Map<Oid, CopyReport[]>, node: NodeInfo, report: OidReport): void {
    const object = this.options.store.get(report.oid)
    if (object !== undefined && this.options.replica.isValid(object)) return
    const list = reports.get(report.oid)
    const copy: CopyReport = { node: node.id, present: true, ...report }
    if (list === undefined) {
      reports.set(report.oid, [copy])
      return
    }
    // A list that was begun again says some things twice; the later word counts.
    const said = list.findIndex((other) => other.node === node.id)
    if (said < 0) list.push(copy)
    else list[said] = copy
  }

  private queueSurveyed(reports: Map<Oid, CopyReport[]>, others: readonly NodeInfo[]): void {
    const { store, replica, topology, copiesOf } = this.options
    for (const object of store.all()) {
      if (reports.has(object.oid) || replica.isValid(object)) continue
      const copies = copiesOf(vidOf(object.oid))
      if (copies > 0 && topology.holds(object.oid, copies)) reports.set(object.oid, [])
    }
    for (const [oid, present] of reports) {
      const object = store.get(oid)
      if (this.gone.has(oid) || (object !== undefined && replica.isValid(object))) continue
      for (const node of others) {
        if (!present.some((report) => report.node === node.id)) present.push(absentReport(node.id))
      }
      const task = this.task(oid)
      if (task.reports === null) task.reports = present
      this.queue.push(oid)
    }
    this.gone.clear()
  }

  // --- tasks ------------------------------------------------------------------------------------------------------

  private task(oid: Oid): Task {
    let task = this.tasks.get(oid)
    if (task === undefined) {
      task = {
        oid,
        reports: null,
        waiters: [],
        running: false,
        cancelled: false,
        urgent: false,
        waitingFor: null,
        staged: null,
      }
      this.tasks.set(oid, task)
    }
    return task
  }

  private pump(): void {
    if (this.stopped) return
    while (this.urgent.length > 0 && this.runningUrgent < ON_DEMAND_AT_ONCE) {
      const task = this.tasks.get(this.urgent.shift() as Oid)
      if (task !== undefined && !task.running) this.start(task)
    }
    while (!this.held && this.runningTasks < TASKS_AT_ONCE && this.runningUrgent === 0 && this.queue.length > 0) {
      const task = this.tasks.get(this.queue.pop() as Oid)
      if (task !== undefined && !task.running && !task.urgent) this.start(task)
    }
  }

  private start(task: Task): void {
    task.running = true
    const urgent = task.urgent
    if (urgent) this.runningUrgent++
    else this.runningTasks++
    const epoch = this.options.topology.epoch
    void this.run(task, epoch)
      .catch((error: unknown) => {
        this.options.log('warning', `recovery of ${oidToHex(task.oid)}: ${String(error)}`)
        return false
      })
      .then((ended) => {
        task.running = false
        if (urgent) this.runningUrgent--
        else this.runningTasks--
        if (ended || task.cancelled) this.finish(task, 0)
        else this.retry(task)
        this.pump()
      })
  }

  /** True when the task is over; false: to be tried again. */
  private async run(task: Task, epoch: number): Promise<boolean> {
    const { store, replica, topology, copiesOf } = this.options
    const { oid } = task
    const copies = copiesOf(vidOf(oid))
    const known = store.get(oid)
    if (copies === 0 || !topology.holds(oid, copies)) {
      this.resumeAll(task, copies === 0 ? NO_OBJECT : WRONG_EPOCH)
      return true
    }
    if (known !== undefined && replica.isValid(known)) return true
    const reports = task.reports ?? (await this.ask(oid, epoch))
    // A survey's reports serve once: a later try must hear what has changed meanwhile.
    task.reports = null
    if (reports === null || topology.epoch !== epoch || task.cancelled) return false
    const object = store.get(oid)
    // Created anew while the others were asked
    if (object !== undefined && replica.isValid(object)) return true
    const own = this.ownReport(oid, copies)
    const verdict = decide(topology, oid, copies, own, reports)
    if (verdict.kind === 'wait') {
      task.waitingFor = verdict.nodes
      return false
    }
    task.waitingFor = null
    if (verdict.kind === 'absent') {
      this.resumeAll(task, NO_OBJECT)
      return true
    }
    if (this.mayBeLeftover(verdict, own, reports, epoch) && !(await this.reachable(oid))) {
      return this.drop(task, epoch)
    }
    if (verdict.kind === 'take') {
      // Both were replicas to the end: only what was in flight can differ, and either's bytes are right for it.
      const near = object !== undefined && own.suspect && own.validThrough >= epoch - 1
      if (near) return this.patch(task, epoch, verdict.from, object)
      return this.take(task, epoch, verdict.from)
    }
    const kept = store.get(oid)
    if (kept === undefined) return false
    return this.keep(task, epoch, kept)
  }

  /**
   * What is believed may be there only because a deletion missed it, or a creation was cut off before anything referred to
   * it: it is some node's alone, or stale, or its writer has left.
   */
  private mayBeLeftover(verdict: Verdict, own: CopyReport, reports: readonly CopyReport[], epoch: number): boolean {
    if (verdict.kind === 'keep' && reports.every((report) => !report.present)) return true
    const believed = verdict.kind === 'take' ? reports.find((report) => report.node === verdict.from) : own
    return believed !== undefined && (believed.suspect || believed.validThrough < epoch - 1)
  }

  private async reachable(oid: Oid): Promise<boolean> {
    let answer = this.asking.get(oid)
    if (answer === undefined) {
      answer = this.options.reachable([oid]).then((reached) => reached.has(oid))
      const ended = () => {
        if (this.asking.get(oid) === answer) this.asking.delete(oid)
      }
      this.asking.set(oid, answer)
      answer.then(ended, ended)
    }
    return within(this.options.clock, REACHABLE_MS_MAX, answer, `what refers to ${oidToHex(oid)} is out of reach`)
  }

  /**
   * Our copy equals a valid one, or is the truth. It is made durable before its intent goes. `writer`: a gateway whose write
   * may be in it, and not everywhere yet: then the intent stays, so that the copy is doubted when that gateway leaves.
   */
  private async keep(task: Task, epoch: number, object: StoredObject, writer = ''): Promise<boolean> {
    const { store, replica, topology } = this.options
    const usable = () => !task.cancelled && !object.removed && topology.epoch === epoch
    if (!usable() || store.get(task.oid) !== object) return false
    if (writer !== '' && !object.intent) {
      const result = await until((done) => store.addIntent(object, done))
      if (result < 0) throw new SheepError(result === -28 ? 'no-space' : 'io', `intent log: errno ${-result}`)
      if (!usable()) return false
    }
    // What a suspect holds is decided now: a copy that is away may hold other bytes under the former mark.
    if (object.suspect) store.setWriteEpoch(object, epoch)
    if (object.intent || object.suspect) {
      const result = await until((done) => store.syncObject(object, done))
      if (result < 0) throw new SheepError('io', `sync failed with errno ${-result}`)
    }
    if (!usable()) return false
    store.setCheckEpoch(object, epoch)
    object.suspect = false
    object.incomplete = false
    object.writer = writer
    object.validEpoch = epoch
    if (writer !== '') replica.hot.add(object)
    else if (object.intent) replica.dropIntents([object])
    return true
  }

  /** Nothing reaches it: what is left of a deletion that some node missed, or of a creation that was cut off. */
  private drop(task: Task, epoch: number): boolean {
    const { store, replica, topology, log } = this.options
    const object = store.get(task.oid)
    if (topology.epoch !== epoch || task.cancelled) return false
    if (object !== undefined) {
      if (replica.isValid(object)) return false
      log('info', `dropping object ${oidToHex(task.oid)}: nothing refers to it`)
      replica.hot.delete(object)
      if (object.intent) store.dropIntents([object])
      store.remove(object)
    }
    this.resumeAll(task, NO_OBJECT)
    return true
  }

  /** Makes a suspect copy equal to another by the grains that differ, in place: a crash in between leaves it suspect. */
  private async patch(task: Task, epoch: number, from: string, object: StoredObject): Promise<boolean> {
    const { store, peers, topology, replica } = this.options
    const { oid } = task
    // Counted as requests are: a new epoch begins here only when nothing of the old one is on its way to this copy.
    const put = async (start: (done: Completion) => void): Promise<void> => {
      replica.began()
      const result = await until((done) =>
        start({
          complete: (result) => {
            replica.ended()
            done.complete(result)
          },
        }),
      )
      if (result < 0) throw new SheepError(result === -28 ? 'no-space' : 'io', `errno ${-result}`)
    }
    const answer = await peers.call(from, 'grains', { epoch, oid })
    if ((answer.json as { present?: unknown }).present !== true) return false
    const own = await grainsOf(store, object)
    const { fetch, clear } = differingGrains(own.hashes, decodeGrains(answer.body))
    const usable = () => topology.epoch === epoch && !task.cancelled && !object.removed
    for (const grain of fetch) {
      const data = await this.fetch(from, epoch, oid, grain * GRAIN, GRAIN)
      if (!usable()) return false
      await put((done) => store.write(object, data, 0, GRAIN, grain * GRAIN, done))
    }
    for (const grain of clear) {
      if (!usable()) return false
      await put((done) => store.punch(object, grain * GRAIN, GRAIN, done))
    }
    const after = await this.statusOf(from, oid, epoch)
    return usable() && this.keep(task, epoch, object, after.hot && !after.suspect ? after.writer : '')
  }

  private async fetch(from: string, epoch: number, oid: Oid, position: number, length: number): Promise<Buffer> {
    const buffer = Buffer.allocUnsafe(length)
    const got = await new Promise<number>((resolve) => {
      this.options.peers.submit(from, new RecoveryRead(epoch, oid, position, buffer, resolve))
    })
    if (got < 0) throw new SheepError('unreachable', `reading ${oidToHex(oid)} from ${from} failed (${got})`)
    this.bytesTaken += length
    return buffer
  }

  private async take(task: Task, epoch: number, from: string): Promise<boolean> {
    const { store, replica, topology, peers } = this.options
    const { oid } = task
    const answer = await peers.call(from, 'extents', { epoch, oid })
    const { extents, validThrough } = answer.json as { extents: [number, number][] | null; validThrough: number }
    if (extents === null) return false
    if (topology.epoch !== epoch || task.cancelled) return false
    const staged = store.stage(oid)
    task.staged = staged
    let committed = false
    try {
      await this.copyExtents(staged, from, epoch, oid, extents)
      // Another copy may have taken the place of the one that was read. And what was read may hold a write that is under way
      // and may never be done anywhere else: then nothing must believe this copy before it has an intent of its own.
      const after = await this.statusOf(from, oid, epoch)
      if (!after.present || after.validThrough !== validThrough) return false
      const heir = after.hot && !after.suspect
      const writeEpoch = heir ? 0 : after.suspect ? epoch : Math.max(after.writeEpoch, 1)
      if (task.cancelled || replica.activeEpoch < epoch || !this.isOurs(oid)) return false
      const former = store.get(oid)
      const result = await until((done) => staged.commit(writeEpoch, heir ? 0 : epoch, done))
      committed = true
      // Cancelled while it was being synced (removed, or created anew): nothing was put in place.
      if (task.cancelled) return false
      if (result < 0) throw new SheepError(result === -28 ? 'no-space' : 'io', `errno ${-result}`)
      if (former !== undefined) {
        replica.hot.delete(former)
        if (former.intent) store.dropIntents([former])
      }
      const object = store.get(oid)
      assert(object !== undefined, 'a committed object is in the store')
      this.options.taken(oid)
      // Came too late, and perhaps after all copies outside their nodes' shares were dropped.
      if (!this.isOurs(oid)) {
        store.remove(object)
      } else if (heir) {
        object.suspect = true
        return this.keep(task, epoch, object, after.writer)
      }
      return topology.epoch === epoch
    } finally {
      task.staged = null
      if (!committed) staged.abort()
    }
  }

  private isOurs(oid: Oid): boolean {
    const { topology, copiesOf } = this.options
    const copies = copiesOf(vidOf(oid))
    return copies > 0 && topology.holds(oid, copies)
  }

  private async copyExtents(
    staged: StagedObject,
    from: string,
    epoch: number,
    oid: Oid,
    extents: readonly [number, number][],
  ): Promise<void> {
    const pieces: [number, number][] = []
    for (const [offset, length] of extents) {
      for (let at = offset; at < offset + length; at += PIECE) pieces.push([at, Math.min(PIECE, offset + length - at)])
    }
    let next = 0
    const worker = async () => {
      while (next < pieces.length) {
        const [position, length] = pieces[next++]
        const buffer = await this.fetch(from, epoch, oid, position, length)
        const put = await until((done) => staged.write(buffer, 0, length, position, done))
        if (put < 0) throw new SheepError(put === -28 ? 'no-space' : 'io', `errno ${-put}`)
      }
    }
    await Promise.all(Array.from({ length: PIECES_IN_FLIGHT }, worker))
  }

  /** What every other node says of the object; null when somebody could not be asked. */
  private async ask(oid: Oid, epoch: number): Promise<CopyReport[] | null> {
    try {
      return await Promise.all(this.options.topology.peers().map((node) => this.statusOf(node.id, oid, epoch)))
    } catch (error) {
      this.options.log('debug', `asking for ${oidToHex(oid)}: ${String(error)}`)
      return null
    }
  }

  private async statusOf(node: string, oid: Oid, epoch: number): Promise<CopyReport & { writer: string }> {
    const answer = await this.options.peers.call(node, 'status', { epoch }, encodeOids([oid]))
    const report = decodeReports(answer.body)[0]
    if (report === undefined) return { ...absentReport(node), writer: '' }
    return { node, present: true, ...report, writer: (answer.json as { writers: string[] }).writers[0] }
  }

  private ownReport(oid: Oid, copies: number): CopyReport {
    const { store, replica, topology } = this.options
    const object = store.get(oid)
    if (object === undefined) return absentReport(topology.self)
    return {
      node: topology.self,
      present: true,
      writeEpoch: object.writeEpoch,
      validThrough: replica.validThrough(object, copies),
      suspect: object.suspect,
      incomplete: object.incomplete,
      hot: object.intent && object.writer !== '',
    }
  }

  private resumeAll(task: Task, result: number): void {
    for (const waiter of task.waiters.splice(0)) waiter.resume(result)
  }

  private finish(task: Task, result: number): void {
    if (this.tasks.get(task.oid) === task) this.tasks.delete(task.oid)
    if (this.surveyed) this.done++
    this.resumeAll(task, result)
    if (this.tasks.size === 0) void this.settle()
  }

  private retry(task: Task): void {
    task.urgent = false
    this.retryTimer ??= this.options.clock.after(RETRY_MS, () => {
      this.retryTimer = null
      for (const waiting of this.tasks.values()) {
        // Who waits for a node waits for the next epoch.
        if (waiting.running || waiting.waitingFor !== null) continue
        if (waiting.waiters.length > 0) {
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

class RecoveryRead extends ObjectRequest {
  constructor(
    epoch: number,
    oid: Oid,
    position: number,
    buffer: Buffer,
    private readonly resolve: (result: number) => void,
  ) {
    super()
    this.kind = READ
    this.epoch = epoch
    this.oid = oid
    this.position = position
    this.length = buffer.length
    this.buffer = buffer
    this.flags = FLAG_RECOVERY
  }

  complete(result: number): void {
    this.resolve(result)
  }
}

function absentReport(node: string): CopyReport {
  return { node, present: false, writeEpoch: 0, validThrough: 0, suspect: false, incomplete: false, hot: false }
}

function until(start: (done: Completion) => void): Promise<number> {
  return new Promise((resolve) => start({ complete: resolve }))
}

/** SheepError timeout after `ms`; what was waited for goes on. */
function within<T>(clock: Clock, ms: number, promise: Promise<T>, what: string): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = clock.after(ms, () => reject(new SheepError('timeout', what)))
    promise.then(resolve, reject).finally(() => timer.cancel())
  })
}

function sleep(clock: Clock, ms: number): Promise<void> {
  return new Promise((resolve) => clock.after(ms, resolve))
}
