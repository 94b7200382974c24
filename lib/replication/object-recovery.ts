/** Recovery of one object: asks who may be believed about it (validity.ts), and keeps, takes, mends or drops our copy. */
import { assert } from '../assert.js'
import { asSheepError, SheepError } from '../errors.js'
import type { Clock, Completion, Log } from '../host/interfaces.js'
import { mutations } from '../mutations.js'
import { sumOf } from '../store/checksums.js'
import { completed } from '../store/completed.js'
import type { Damage, ObjectStore, StagedObject, StoredObject } from '../store/types.js'
import { within } from '../vdi/making.js'
import { KIND_INODE, kindOf, type Oid, oidToHex, vidOf } from '../vdi/oid.js'
import { type Copier, diskTrouble, isNoSpace } from './copier.js'
import { Filling } from './filling.js'
import type { Inquiry } from './inquiry.js'
import type { PassedWrites } from './passed-writes.js'
import type { Peers } from './peers.js'
import { outside } from './ranges.js'
import type { Replica } from './replica.js'
import { ENOSPC, LOST, NO_OBJECT, WRONG_EPOCH } from './request.js'
import { resumeAll, type Task } from './task.js'
import type { Topology } from './topology.js'
import { type CopyReport, decide, type Verdict } from './validity.js'

/** Whether something refers to an object may take an inode that is itself away: other objects go first. */
const REACHABLE_MS_MAX = 10_000

export interface ObjectRecoveryOptions {
  store: ObjectStore
  topology: Topology
  peers: Peers
  replica: Replica
  inquiry: Inquiry
  passed: PassedWrites
  copier: Copier
  clock: Clock
  log: Log
  copiesOf: (vid: number) => number
  /** Full size of an object, bytes; 0 unknown */
  bytesOf: (oid: Oid) => number
  /** A copy came from another node: it may be a leftover there, too, which nobody has told yet */
  taken: (oid: Oid) => void
  /** Copies that count for epochs up to this one are about to be given up: this node proves nothing of those any more, durably */
  renounce: (epoch: number) => void
  /** Writes may go into the copy that is being taken */
  opened: (task: Task) => void
  /** Whether what has gone by here of this object's changes, by that gateway, is done on all of `sources` */
  settled: (gateway: string, oid: Oid, sources: readonly string[]) => Promise<boolean>
  /** Is the object reached by the registry and inodes? Asked only for copies that nobody else has. */
  reachable: (oids: readonly Oid[]) => Promise<ReadonlySet<Oid>>
}

/** What a node answers to the call `extents` */
interface Extents {
  /** null: it has no such object */
  extents: [number, number][] | null
  validThrough: number
  /** It serves clients */
  busy: boolean
  /** What of its copy is rotten, and nobody could mend */
  damage: Damage | null
}

export class ObjectRecovery {
  /** Questions of this epoch that are not answered yet */
  private readonly asking = new Map<Oid, Promise<boolean>>()
  /** Nodes that are told, or have been, that suspects are decided about in this epoch */
  private readonly told = new Map<string, Promise<unknown>>()
  /** See decide() */
  patient = true

  constructor(private readonly options: ObjectRecoveryOptions) {}

  /** What was asked in an epoch says nothing in the next. */
  forget(): void {
    this.asking.clear()
    this.told.clear()
    this.patient = true
  }

  /** True when the task is over; false: to be tried again; 'passable': changes need not wait, and nobody else does. */
  async run(task: Task, epoch: number): Promise<boolean | 'passable'> {
    const { store, replica, topology, copiesOf, inquiry, passed } = this.options
    const { oid } = task
    const copies = copiesOf(vidOf(oid))
    const known = store.get(oid)
    if (copies === 0 || !topology.holds(oid, copies)) {
      resumeAll(task, copies === 0 ? NO_OBJECT : WRONG_EPOCH)
      return true
    }
    if (known !== undefined && replica.isValid(known)) return true
    let reports = task.reports ?? (await inquiry.ask(oid, epoch))
    // A survey's reports serve once: a later try must hear what has changed meanwhile.
    task.reports = null
    if (reports === null || topology.epoch !== epoch || task.cancelled) return false
    task.sources = this.sources(oid, copies, reports)
    if (task.changes.length > 0 && task.waiters.length === 0 && task.sources.length > 0) return 'passable'
    if (passed.of(oid).length > 0 && !mutations.takeUnsettled) {
      // Who has become a source meanwhile may have such a change still on its way: it is asked about as well.
      for (let asked: readonly string[] | null = null; asked === null || !isWithin(task.sources, asked); ) {
        asked = task.sources
        if (!(await this.settled(oid, asked))) return false
        // What was said before tells nothing of those changes.
        reports = await inquiry.ask(oid, epoch)
        if (reports === null || topology.epoch !== epoch || task.cancelled) return false
        task.sources = this.sources(oid, copies, reports)
      }
    }
    const object = store.get(oid)
    // Created anew while the others were asked
    if (object !== undefined && replica.isValid(object)) return true
    const own = inquiry.ownReport(oid, copies)
    const verdict = decide(topology, oid, copies, own, reports, this.patient, inquiry.createdIn(oid))
    if (verdict.kind === 'wait') {
      task.waitingFor = verdict.nodes
      return false
    }
    if (verdict.kind === 'lost') {
      this.options.log('error', `object ${oidToHex(oid)} went with a disk of ${names(topology, verdict.nodes)}`)
      resumeAll(task, LOST)
      // An older copy must not count as recovered, nor what went by here.
      // A copy that was given up stays stale until that is done.
      const over = !verdict.stale && store.get(oid) === undefined && passed.of(oid).length === 0
      task.waitingFor = over ? null : verdict.nodes
      return over
    }
    if (verdict.kind === 'gap') return this.gap(task, copies, verdict.node)
    task.gap = ''
    task.waitingFor = null
    if (verdict.kind === 'absent') {
      resumeAll(task, NO_OBJECT)
      return true
    }
    const leftover = verdict.kind === 'zeros' || this.mayBeLeftover(verdict, own, reports, epoch)
    if (leftover && !(await this.reachable(oid))) return this.drop(task, epoch)
    if (verdict.kind === 'zeros') return this.zeros(task, epoch)
    const source = verdict.kind === 'take' ? reports.find((report) => report.node === verdict.from) : own
    if (source?.suspect === true) {
      await this.tellDecided(oid, copies, epoch, reports)
      if (topology.epoch !== epoch || task.cancelled) return false
    }
    if (verdict.kind === 'take') {
      if (object !== undefined && source !== undefined && differsInFlight(own, source, epoch)) {
        try {
          return await this.patch(task, epoch, verdict.from, object)
        } catch (error) {
          // Rotten in part, there or here: what is whole can be taken all the same.
          if (asSheepError(error).code !== 'io') throw error
        }
      }
      const sound = source !== undefined && !source.suspect && source.validThrough >= epoch
      return this.take(task, epoch, verdict.from, sound)
    }
    const kept = store.get(oid)
    if (kept === undefined) return false
    const accepted = own.validThrough < (topology.accepted(oid)?.epoch ?? 0)
    if (accepted && replica.activeEpoch === epoch && !(await this.markAccepted(kept, epoch))) return false
    return this.keep(task, epoch, kept)
  }

  /** A replica with a gap serves what it can read, and lets changes in; of a node that is none nobody gets anything. */
  private gap(task: Task, copies: number, node: string): false {
    const { topology, log } = this.options
    const where = `a part of it cannot be read on ${names(topology, [node])}, and nobody else has it`
    if (task.gap !== node) log('error', `object ${oidToHex(task.oid)} cannot be copied: ${where} (dog cluster lost)`)
    task.gap = node
    task.waitingFor = [node]
    if (!topology.holds(task.oid, copies, node)) resumeAll(task, LOST)
    return false
  }

  /** What was away must not outrank it when it comes back, not even when the power goes now. */
  private async markAccepted(object: StoredObject, epoch: number): Promise<boolean> {
    const { store, topology } = this.options
    store.setWriteEpoch(object, epoch)
    const result = await completed((done) => store.syncObject(object, done))
    if (result < 0) throw diskTrouble(result)
    return topology.epoch === epoch && !object.removed
  }

  /** Its last copy was given up: it is made anew, empty, on each replica. Of a VDI's inode zeros would be no inode. */
  private async zeros(task: Task, epoch: number): Promise<boolean> {
    const { store, replica, topology } = this.options
    const { oid } = task
    const former = store.get(oid)
    if (topology.epoch !== epoch || replica.activeEpoch !== epoch || task.cancelled) return false
    if (former !== undefined && replica.isValid(former)) return true
    if (kindOf(oid) === KIND_INODE) {
      // It was given up with the others, and must not pass for valid because this node has recovered.
      if (former !== undefined) replica.discard(former)
      resumeAll(task, NO_OBJECT)
      return true
    }
    if (former !== undefined) replica.hot.delete(former)
    const object = store.create(oid, epoch)
    // Until it is durable: a request that comes now waits.
    replica.doubt(object)
    return this.keep(task, epoch, object)
  }

  /**
   * Those that have every change of this epoch, as long as it lasts. None when our own copy was right to the end of the last
   * one and is only doubted: a replica that was and stays one is taken to have all changes.
   */
  sources(oid: Oid, copies: number, reports: readonly CopyReport[]): readonly string[] {
    const { store, replica, topology } = this.options
    const own = store.get(oid)
    // One that lost power inherits nothing only as long as that is known.
    if (own !== undefined && (own.incomplete || replica.validThrough(own, copies) >= topology.epoch)) return []
    return reports
      .filter((report) => report.present && !report.suspect && report.validThrough >= topology.epoch)
      .map((report) => report.node)
  }

  /**
   * Who has no copy of this epoch could prove later that nothing was written in it; but what is decided now may be read at once, and
   * must not be decided otherwise.
   */
  private async tellDecided(oid: Oid, copies: number, epoch: number, reports: readonly CopyReport[]): Promise<void> {
    const { topology, peers } = this.options
    const has = ({ present, validThrough }: CopyReport) => present && validThrough >= epoch
    const others = topology.replicas(oid, copies).filter(({ id }) => {
      return id !== topology.self && !reports.some((report) => report.node === id && has(report))
    })
    await Promise.all(
      others.map(({ id }) => {
        let answer = this.told.get(id)
        if (answer === undefined) {
          answer = peers.call(id, 'decided', { epoch })
          this.told.set(id, answer)
          answer.catch(() => this.told.get(id) === answer && this.told.delete(id))
        }
        return answer
      }),
    )
  }

  private async settled(oid: Oid, sources: readonly string[]): Promise<boolean> {
    const { passed, settled } = this.options
    // Who has just let something go by answers before this turn ends, and this may be a part of it.
    await Promise.resolve()
    const answers = await Promise.all(passed.of(oid).map((gateway) => settled(gateway, oid, sources)))
    return answers.every((answer) => answer)
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
    const late = () => new SheepError('timeout', `what refers to ${oidToHex(oid)} is out of reach`)
    return within(this.options.clock, REACHABLE_MS_MAX, answer, late)
  }

  /**
   * Our copy equals a valid one, or is the truth. It is made durable before its intent goes. `writer`: a gateway whose write
   * may be in it, and not everywhere yet: then the intent stays, so that the copy is doubted when that gateway leaves.
   */
  private async keep(
    task: Task,
    epoch: number,
    object: StoredObject,
    writer = '',
    filling: Filling | null = null,
  ): Promise<boolean> {
    const { store, replica, topology, clock } = this.options
    const usable = () => !task.cancelled && !object.removed && topology.epoch === epoch
    if (!usable() || store.get(task.oid) !== object) return false
    if (writer !== '' && !object.intent) {
      const result = await completed((done) => store.addIntent(object, done))
      if (result < 0) throw diskTrouble(result, 'intent log: ')
      if (!usable()) return false
    }
    // What a suspect holds is decided now: a copy that is away may hold other bytes under the former mark.
    if (object.suspect) store.setWriteEpoch(object, epoch)
    if (object.intent || object.suspect) {
      const result = await completed((done) => store.syncObject(object, done))
      if (result < 0) throw new SheepError('io', `sync failed with errno ${-result}`)
    }
    if (!usable()) return false
    store.setCheckEpoch(object, epoch)
    object.suspect = false
    object.incomplete = false
    object.writer = filling !== null && filling.writer !== '' ? filling.writer : writer
    if (filling !== null) object.lastWrite = clock.now()
    object.validEpoch = epoch
    if (writer !== '') replica.hot.add(object)
    else if (object.intent) replica.sealing.add(object)
    return true
  }

  /** Nothing reaches it: what is left of a deletion that some node missed, or of a creation that was cut off. */
  drop(task: Task, epoch: number): boolean {
    const { store, replica, topology, log } = this.options
    const object = store.get(task.oid)
    if (topology.epoch !== epoch || task.cancelled) return false
    if (object !== undefined) {
      if (replica.isValid(object)) return false
      log('info', `dropping object ${oidToHex(task.oid)}: nothing refers to it`)
      replica.discard(object)
    }
    resumeAll(task, NO_OBJECT)
    return true
  }

  /** Makes a suspect copy equal to another by the grains that differ, in place: a crash in between leaves it suspect. */
  private async patch(task: Task, epoch: number, from: string, object: StoredObject): Promise<boolean> {
    const { topology, inquiry, copier } = this.options
    const usable = () => topology.epoch === epoch && !task.cancelled && !object.removed
    if (!(await copier.equalize(object, from, epoch, usable))) return false
    const after = await inquiry.statusOf(from, task.oid, epoch)
    return usable() && this.keep(task, epoch, object, after.hot && !after.suspect ? after.writer : '')
  }

  /**
   * Where there is no room for a copy beside ours: ours goes first, when it is stale, as large, and another node has a right one (`sound`).
   * It has what was written until it became stale, and the node's word stood for that. One that may have all, and is rotten or in doubt,
   * stays: a flush may have counted on it.
   */
  private stage(task: Task, extents: readonly [number, number][], sound: boolean): StagedObject {
    const { store, replica, topology, log, copiesOf } = this.options
    const { oid, urgent } = task
    try {
      return store.stage(oid, urgent)
    } catch (error) {
      const former = store.get(oid)
      const length = extents.reduce((sum, extent) => sum + extent[1], 0)
      if (!isNoSpace(error) || !sound || former === undefined || length > store.usedBytes(former)) throw error
      if (replica.validThrough(former, copiesOf(vidOf(oid))) >= topology.epoch) throw error
      assert(!replica.isValid(former), 'a copy that is right is not given up for another')
      this.options.renounce(topology.epoch - 1)
      // Saving that may have shown that its disk fails.
      if (store.get(oid) !== former) throw error
      log('notice', `no room for two copies of ${oidToHex(oid)}: the stale one goes first`)
      replica.discard(former)
      return store.stage(oid, urgent, true)
    }
  }

  /**
   * Takes the whole copy of `from`; `sound`: that is valid, and nobody doubts it. False when it is gone, or things have changed
   * meanwhile. SheepError of disk or peer.
   */
  async take(task: Task, epoch: number, from: string, sound = false): Promise<boolean> {
    const { store, replica, topology, peers, inquiry, copier, bytesOf } = this.options
    const { oid } = task
    const answer = await peers.call(from, 'extents', { epoch, oid })
    const { extents, validThrough, busy, damage } = answer.json as Extents
    if (extents === null) return false
    if (topology.epoch !== epoch || task.cancelled) return false
    const staged = this.stage(task, extents, sound)
    task.staged = staged
    const filling = new Filling(store, oid, staged)
    // What is known to be rotten there stays known here by its checksums: of those a write would know nothing.
    if (damage === null && task.sources?.includes(from)) {
      task.filling = filling
      this.options.opened(task)
    }
    let committed = false
    try {
      const hurried = () => task.waiters.length + task.changes.length > 0
      const whole = damage === null ? extents : outside(extents, damage)
      await copier.copyExtents(filling, from, epoch, oid, whole, busy, damage !== null, hurried)
      // Another copy may have taken the place of the one that was read. And what was read may hold a write that is under way
      // and may never be done anywhere else: then nothing must believe this copy before it has an intent of its own.
      const after = await inquiry.statusOf(from, oid, epoch)
      if (!after.present || after.validThrough !== validThrough) return false
      if (filling.full) throw diskTrouble(ENOSPC)
      const written = filling.writer !== ''
      if (written && after.suspect) return false
      const heir = written || (after.hot && !after.suspect)
      // Without an intent of its own it is believed at once: then no write may be in it that is not everywhere.
      if (!heir) filling.closed = true
      const writeEpoch = heir ? 0 : after.suspect ? epoch : Math.max(after.writeEpoch, 1)
      if (task.cancelled || replica.activeEpoch < epoch || !this.isOurs(oid)) return false
      const former = store.get(oid)
      // What clients may write into at this very moment has checksums when it rests.
      const left = damage === null ? null : await this.fillFromFormer(oid, damage, filling)
      // In a later epoch a gateway may be gone that had a write under way: others may have it, and decided so without this copy.
      if (task.cancelled || topology.epoch !== epoch || replica.activeEpoch !== epoch || !this.isOurs(oid)) return false
      const received = heir && left === null ? null : { bytes: bytesOf(oid), damage: left }
      const result = await this.commit(task, epoch, staged, (done) => {
        staged.commit(writeEpoch, heir ? 0 : epoch, done, received)
      })
      committed = true
      // Cancelled while it was being synced (removed, or created anew): nothing was put in place.
      if (task.cancelled) return false
      if (result < 0) throw diskTrouble(result)
      if (former !== undefined) {
        replica.hot.delete(former)
        if (former.intent) store.dropIntents([former])
      }
      const object = store.get(oid)
      assert(object !== undefined, 'a committed object is in the store')
      this.options.taken(oid)
      // Came too late, and perhaps after all copies outside their nodes' shares were dropped.
      if (!this.isOurs(oid)) {
        replica.discard(object)
      } else if (heir) {
        replica.doubt(object)
        return await this.keep(task, epoch, object, written ? filling.writer : after.writer, filling)
      }
      return topology.epoch === epoch
    } finally {
      task.staged = null
      task.filling = null
      if (!committed) staged.abort()
      // Of a copy that is given up they have gone by: their gateways must have the answers before they are asked about them.
      await filling.idle()
    }
  }

  /**
   * Counted as requests are: the next epoch begins here only when the copy is in its place, and doubted, durably. It is the former
   * epoch's, and nobody has been told of it: see take().
   */
  private async commit(
    task: Task,
    epoch: number,
    staged: StagedObject,
    start: (done: Completion) => void,
  ): Promise<number> {
    const { store, replica, topology } = this.options
    replica.began()
    try {
      const result = await completed(start)
      const object = store.get(task.oid)
      if (result < 0 || !staged.placed || object === undefined || topology.epoch === epoch) return result
      replica.doubt(object, epoch + 1)
      replica.hot.add(object)
      return object.intent ? result : await completed((done) => store.addIntent(object, done))
    } finally {
      replica.ended()
    }
  }

  /** Our copy that is about to be replaced may have what is rotten in the other: its checksums tell. What is left of the damage. */
  private async fillFromFormer(oid: Oid, damage: Damage, filling: Filling): Promise<Damage | null> {
    const { store } = this.options
    const length = 2 ** damage.shift
    const left: Damage = { shift: damage.shift, chunks: [], sums: [] }
    for (const [i, chunk] of damage.chunks.entries()) {
      const former = store.get(oid)
      const bytes = Buffer.alloc(length)
      const got =
        former === undefined
          ? -1
          : await completed((done) => store.readAsIs(former, bytes, 0, length, chunk * length, done))
      if (got >= 0 && sumOf(bytes) === damage.sums[i]) {
        const put = await filling.put(bytes, length, chunk * length)
        if (put < 0) throw diskTrouble(put)
      } else {
        left.chunks.push(chunk)
        left.sums.push(damage.sums[i])
      }
    }
    return left.chunks.length === 0 ? null : left
  }

  private isOurs(oid: Oid): boolean {
    const { topology, copiesOf } = this.options
    const copies = copiesOf(vidOf(oid))
    return copies > 0 && topology.holds(oid, copies)
  }
}

/**
 * Both were replicas to the end, or nobody has written to the other since ours was one: only what was in flight then can
 * differ, and either's bytes are right for it.
 */
function differsInFlight(own: CopyReport, source: CopyReport, epoch: number): boolean {
  if (!own.suspect) return false
  return own.validThrough >= epoch - 1 || (!source.suspect && source.writeEpoch === own.writeEpoch)
}

function isWithin(nodes: readonly string[], others: readonly string[]): boolean {
  return nodes.every((node) => others.includes(node))
}

function names(topology: Topology, nodes: readonly string[]): string {
  return nodes.map((id) => topology.node(id)?.name ?? id).join(', ')
}
