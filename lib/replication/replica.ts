/**
 * This node as a replica: does object requests on the store, for its own gateway and for others'.
 *
 *     request --epoch?--> wrong: refused, or kept until this node reaches that epoch
 *        |  object here and valid? --no--> Recovery checks or takes it, then again from the top
 *        |  intent durable, writeEpoch marked? --no--> do that first
 *        v
 *     store --> (FUA: sync) --> answer
 *
 * When the epoch changes nothing of the old one may still reach the disk: the new epoch becomes active here only after
 * every disk request in flight has ended, so no late write of a former gateway can follow a check of the object.
 */

import { assert } from '../assert.js'
import type { Clock, Completion, Log } from '../host/interfaces.js'
import { mutations } from '../mutations.js'
import {
  FLAG_AS_IS,
  FLAG_CREATE,
  FLAG_FUA,
  FLAG_IF_VALID,
  FLAG_KEEP_BLOCKS,
  FLAG_RECOVERY,
} from '../protocol/header.js'
import { markOf } from '../store/object-file.js'
import type { ObjectStore, StoredObject } from '../store/types.js'
import { type Oid, oidToHex, vidOf } from '../vdi/oid.js'
import { Askers } from './askers.js'
import type { Filling } from './filling.js'
import {
  ALLOCATE,
  EIO,
  ENOSPC,
  FLUSH,
  LINK_LOST,
  NO_OBJECT,
  NOT_VALID,
  type ObjectRequest,
  READ,
  REMOVE,
  ROTTEN,
  WENT_BY,
  WRITE,
  WRONG_EPOCH,
} from './request.js'
import { Sealing } from './sealing.js'
import type { Topology } from './topology.js'
import { validThrough } from './validity.js'

/** Requests of an epoch that this node has not reached yet. */
const FUTURE_MAX = 65_536
const POOL_MAX = 1_024
/** Less than the gateway's own measure of quiet. */
const QUIET_MS = 5_000

export interface ReplicaOptions {
  store: ObjectStore
  topology: Topology
  clock: Clock
  log: Log
  /** Full size of an object, bytes; 0 unknown */
  bytesOf: (oid: Oid) => number
  /** Copies of a vid's objects; 0 when the registry does not know the vid */
  copiesOf: (vid: number) => number
  /** In which epochs all copies of this node's share were valid, ascending */
  recovered: () => readonly number[]
  /** An object that the power has taken could not be made anew: that this node does not have it proves nothing */
  lossUnmarked: () => void
  /** The store refused a request for another reason than room; it has told of a disk that failed */
  diskFailed: (errno: number, what: string) => void
}

/** Fetches or checks an object, then calls `resume` with 0, or a negative result. */
export interface ObjectEnsurer {
  ensure(oid: Oid, waiter: EnsureWaiter): void
  /** As `ensure`, for a change: resumes also when that may go by */
  ensureOrPass(oid: Oid, waiter: EnsureWaiter): void
  /** Whether a change of `writer` goes by: other replicas of this epoch hold the object, and do it */
  pass(oid: Oid, writer: string): boolean
  /** What takes this writer's change of the range, though it is no valid copy yet; null: nothing does now */
  filling(oid: Oid, writer: string, start: number, end: number): Filling | null
  /** Somebody wanted to read it here, and reads it elsewhere */
  wanted(oid: Oid): void
  /** The object is being removed: a copy under way must not come back */
  cancel(oid: Oid): void
}

export interface EnsureWaiter {
  resume(result: number): void
}

export class Replica {
  /** Requests of this epoch are served; 0 while none is (before the first, and while draining). */
  activeEpoch = 0
  ensurer: ObjectEnsurer | null = null
  /** Brings the bytes that rotted here back from others; true when all are right again */
  mend: ((object: StoredObject) => Promise<boolean>) | null = null
  readonly sealing: Sealing
  readonly askers: Askers
  /** Objects with a durable intent. */
  readonly hot = new Set<StoredObject>()
  /** Requests that are not recovery's, so far */
  foreground = 0
  readonly counters = { reads: 0, writes: 0, readBytes: 0, writeBytes: 0, flushes: 0, errors: 0 }

  private inFlight = 0
  /** The newest epoch that this node was in since it started; 0 none */
  private lastEpoch = 0
  private draining: (() => void) | null = null
  private future: ObjectRequest[] = []
  private readonly pool: ReplicaOp[] = []
  private readonly activationWaiters: (() => void)[] = []

  constructor(readonly options: ReplicaOptions) {
    this.askers = new Askers(options.topology)
    this.sealing = new Sealing({ ...options, ended: (object) => this.hot.delete(object) })
    for (const [oid, { epoch, lostIn }] of options.store.intentsAtOpen) {
      const known = options.store.get(oid)
      const object = known ?? this.lost(oid, epoch)
      if (object === null) continue
      object.suspect = !mutations.forgetIntents
      if (!known) object.incomplete = true
      object.lostIn = lostIn
      if (object.intent) this.hot.add(object)
    }
  }

  submit(request: ObjectRequest): void {
    if ((request.flags & FLAG_RECOVERY) === 0) this.foreground++
    if (request.epoch !== this.activeEpoch && !(mutations.skipEpochCheck && this.activeEpoch !== 0)) {
      this.submitElsewhen(request)
      return
    }
    const op = this.pool.length > 0 ? (this.pool.pop() as ReplicaOp) : new ReplicaOp(this)
    op.start(request)
  }

  /**
   * The cluster moved on. Topology is at the new epoch already. `left`: nodes whose gateways are gone; `fenced`: VDIs whose writer
   * has lost them without saying that nothing of its is under way. `activated` is called once nothing of an older epoch is on its
   * way to the disk; null: nothing is served in this epoch before the next call.
   */
  epochChanged(left: readonly string[], fenced: ReadonlySet<number>, activated: (() => void) | null): void {
    this.activeEpoch = 0
    const { epoch } = this.options.topology
    // While this node was out, writers may have left and come back; and what it took at the end the others may lack.
    const { lastEpoch } = this
    const wasOut = lastEpoch !== 0 && lastEpoch < epoch - 1
    this.lastEpoch = epoch
    this.askers.epochChanged()
    for (const object of this.hot) {
      // Of a fenced VDI all of them: its inode object may have been written by another node since its writer wrote there.
      const doubted = wasOut || left.includes(object.writer) || fenced.has(vidOf(object.oid))
      if (doubted && !mutations.forgetIntents && !mutations.trustFenced) this.doubt(object, lastEpoch + 1)
      // Its disk was lost.
      if (object.removed) this.hot.delete(object)
    }
    this.draining = activated
    this.drained()
  }

  /**
   * These objects are flushed on all their replicas, says the gateway `writer`. `ended`: it has stopped writing; else one
   * that was written here lately keeps its intent, since such a write may have overtaken this word.
   */
  clean(oids: readonly Oid[], ended: boolean, writer: string): void {
    const { store, clock } = this.options
    const before = clock.now() - QUIET_MS
    for (const oid of oids) {
      const object = store.get(oid)
      if (object === undefined || !object.intent || object.suspect) continue
      // The word of a gateway that has lost the volume to another meanwhile
      if (object.writer !== '' && object.writer !== writer) continue
      if (!ended && object.lastWrite > before) continue
      this.sealing.add(object)
    }
  }

  /** The object is not wanted any more. */
  discard(object: StoredObject): void {
    const { store } = this.options
    this.hot.delete(object)
    if (object.intent) store.dropIntents([object])
    store.remove(object)
  }

  /** What is submitted from now on begins after everything that is at the disk now has ended. */
  barrier(): void {
    if (this.activeEpoch === 0 || this.inFlight === 0) return
    this.activeEpoch = 0
    this.draining = () => {}
  }

  /** Requests that wait for an epoch and for which nobody waits any more: they and what they hold go now. */
  abandon(): void {
    const gone = this.future.filter((request) => request.cancelled)
    if (gone.length === 0) return
    this.future = this.future.filter((request) => !request.cancelled)
    for (const request of gone) request.complete(LINK_LOST)
  }

  /** No quorum, expelled, or stopping: serve nothing until the next epoch or `epochChanged([], ...)`. */
  suspend(): void {
    this.activeEpoch = 0
    this.draining = null
  }

  /** Resolves when `epoch` or a newer one is active here. */
  reached(epoch: number): Promise<void> {
    if (this.activeEpoch >= epoch) return Promise.resolve()
    return new Promise((resolve) => {
      const look = () => {
        if (this.activeEpoch >= epoch) resolve()
        else this.activationWaiters.push(look)
      }
      this.activationWaiters.push(look)
    })
  }

  /**
   * Created in `epoch`, and lost with the power before any sync: nobody was promised more than zeros, but the index may name
   * it, and others may have copies of an older object of this id.
   */
  private lost(oid: Oid, epoch: number): StoredObject | null {
    try {
      return this.options.store.create(oid, epoch, true)
    } catch (error) {
      if ((error as { errno?: unknown }).errno !== -ENOSPC) throw error
      this.options.log(
        'warning',
        `object ${oidToHex(oid)} was lost with the power, and there is no room to make it anew`,
      )
      this.options.lossUnmarked()
      return null
    }
  }

  /** To be checked before it serves again. `since`: the epoch since when it may not be right. */
  doubt(object: StoredObject, since = this.options.topology.epoch): void {
    if (object.suspect) return
    object.suspect = true
    object.doubtedIn = since
  }

  /** Fit to serve in the active epoch. */
  isValid(object: StoredObject): boolean {
    if (object.suspect) return false
    const { topology, copiesOf } = this.options
    if (object.validEpoch === topology.epoch) return true
    const copies = copiesOf(vidOf(object.oid))
    if (copies === 0 || this.validThrough(object, copies) < topology.epoch) return false
    object.validEpoch = topology.epoch
    return true
  }

  /** Of a suspect the last epoch through which nobody doubted it; of others, as `validThrough`. */
  settledThrough(object: StoredObject, copies: number): number {
    const valid = this.validThrough(object, copies)
    if (!object.suspect) return valid
    return Math.min(valid, object.doubtedIn > 0 ? object.doubtedIn - 1 : this.provenThrough(object, copies))
  }

  /** Newest epoch in which our copy is known to have been valid */
  private provenThrough(object: StoredObject, copies: number): number {
    const marked = markOf(object)
    // Without a mark: of an intent log that did not say in which epoch, right only when nobody has a real one.
    if (marked === 0) return 0
    const { topology, recovered } = this.options
    const joined = mutations.trustReturningDisk ? 0 : object.joinedEpoch
    const epochs = recovered()
    const last = object.incomplete ? object.lostIn : Number.POSITIVE_INFINITY
    for (let i = epochs.length - 1; i >= 0 && epochs[i] > marked && epochs[i] >= joined; i--) {
      if (epochs[i] > last) continue
      const share = topology.replicasIn(epochs[i], object.oid, copies)
      if (share?.some((node) => node.id === topology.self) === true) return epochs[i]
    }
    return marked
  }

  /** Last epoch through which our copy is valid, suspects aside. */
  validThrough(object: StoredObject, copies: number): number {
    const { topology } = this.options
    if (mutations.trustReturningCopy) return topology.epoch
    const from = this.provenThrough(object, copies)
    if (from === 0) return 0
    const joined = mutations.trustReturningDisk ? 0 : object.joinedEpoch
    // Its disk was away after that mark was made: writes have passed it by.
    if (from < joined) return from
    // Since its host lost power it inherits nothing: what it lost others may have, and while it is doubted no write reaches it.
    const last = object.incomplete ? object.lostIn : topology.epoch
    return validThrough(topology, topology.self, object.oid, copies, from, last)
  }

  /** See CopyReport */
  keptThrough(object: StoredObject, copies: number): number {
    const proven = this.provenThrough(object, copies)
    const isBack = proven < object.joinedEpoch && !mutations.trustReturningDisk
    return isBack ? Math.max(1, object.keptEpoch, proven) : 0
  }

  /** Counts requests in flight that read or change objects; the matching `ended` must follow. */
  began(): void {
    this.inFlight++
  }

  ended(): void {
    this.inFlight--
    if (this.draining !== null) this.drained()
  }

  /** What to answer. When the disk was lost the request comes again in a new epoch, and then meets what the others have. */
  failed(result: number, what: string, epoch: number): number {
    this.counters.errors++
    if (result === ENOSPC) return result
    if (epoch === this.activeEpoch) this.options.diskFailed(-result, what)
    return epoch === this.activeEpoch ? result : WRONG_EPOCH
  }

  recycle(op: ReplicaOp): void {
    if (this.pool.length < POOL_MAX) this.pool.push(op)
  }

  private submitElsewhen(request: ObjectRequest): void {
    // Kept: a newer epoch than ours, or ours while it is not active yet (draining, no quorum).
    if (request.epoch < this.options.topology.epoch || this.future.length >= FUTURE_MAX) request.complete(WRONG_EPOCH)
    else this.future.push(request)
  }

  private drained(): void {
    if (this.inFlight > 0 || this.draining === null) return
    const activated = this.draining
    this.draining = null
    this.activeEpoch = this.options.topology.epoch
    activated()
    const waiters = this.activationWaiters.splice(0)
    for (const look of waiters) look()
    const waiting = this.future
    this.future = []
    for (const request of waiting) this.submit(request)
  }
}

enum Stage {
  Locate = 0,
  Intent = 1,
  Access = 2,
  Sync = 3,
}

class ReplicaOp implements Completion, EnsureWaiter {
  private request: ObjectRequest | null = null
  private object: StoredObject | undefined
  private stage = Stage.Locate
  private result = 0
  private ensured = false
  /** What it reads was rotten, and has been tried to mend */
  private mended = false

  constructor(private readonly replica: Replica) {}

  start(request: ObjectRequest): void {
    this.request = request
    this.ensured = false
    this.mended = false
    this.locate()
  }

  /** Recovery is done with the object, one way or the other. */
  resume(result: number): void {
    if (result < 0) this.finish(result)
    else {
      this.ensured = true
      this.locate()
    }
  }

  complete(result: number): void {
    const replica = this.replica
    const request = this.request as ObjectRequest
    switch (this.stage) {
      case Stage.Intent:
        if (result < 0) {
          this.finish(replica.failed(result, 'intent log', request.epoch))
        } else {
          const object = this.object as StoredObject
          if (!object.removed) replica.hot.add(object)
          // The epoch may have changed while the log was synced: start over, the check is at the top.
          this.locate()
        }
        return
      case Stage.Access:
        request.atDisk = false
        replica.ended()
        if (result === ROTTEN) {
          this.rotten()
          return
        }
        if (result < 0) this.finish(replica.failed(result, 'object', request.epoch))
        // It went into a copy that is being taken: until that is whole it is where there is a valid one, and there it is durable.
        else if (this.object === undefined) this.finish(WENT_BY)
        else if ((request.flags & FLAG_FUA) === 0 || request.kind === READ) this.finish(result)
        // A newer epoch has begun, and in it the object was removed or made anew
        else if ((this.object as StoredObject).removed) this.finish(result)
        else {
          this.result = result
          this.stage = Stage.Sync
          replica.options.store.syncObject(this.object as StoredObject, this)
        }
        return
      default:
        // No room where it was promised: what the sync covered may be lost, as after an I/O error.
        if (result < 0) this.finish(replica.failed(EIO, `sync, errno ${-result}`, request.epoch))
        // A disk may have been taken out meanwhile, with what was to be synced on it.
        else this.finish(request.epoch === replica.activeEpoch ? this.result : WRONG_EPOCH)
    }
  }

  /** Others may have what the disk has lost. A recovery's reads do not wait: they may be what this waits for. */
  private rotten(): void {
    const { mend } = this.replica
    const { flags } = this.request as ObjectRequest
    if (mend === null || this.mended || (flags & FLAG_RECOVERY) !== 0) {
      this.replica.counters.errors++
      this.finish(EIO)
      return
    }
    this.mended = true
    void mend(this.object as StoredObject).then(() => this.locate())
  }

  private locate(): void {
    const replica = this.replica
    const request = this.request as ObjectRequest
    if (request.cancelled) {
      this.finish(LINK_LOST)
      return
    }
    if (request.epoch !== replica.activeEpoch && !mutations.skipEpochCheck) {
      this.finish(WRONG_EPOCH)
      return
    }
    const { store } = replica.options
    if (request.kind === FLUSH) {
      replica.counters.flushes++
      this.stage = Stage.Sync
      this.result = 0
      store.syncVdi(vidOf(request.oid), this)
      return
    }
    let object = store.get(request.oid)
    if (request.kind === REMOVE) {
      replica.ensurer?.cancel(request.oid)
      if (object !== undefined) replica.discard(object)
      this.finish(0)
      return
    }
    if ((request.flags & FLAG_CREATE) !== 0 && !this.ensured) {
      object = this.create(object)
      if (object === undefined) return
    }
    this.object = object
    if (request.kind === READ && (request.flags & FLAG_RECOVERY) !== 0) {
      if (object === undefined) this.finish(NO_OBJECT)
      else this.access(object)
      return
    }
    if (
      object === undefined ||
      (object.validEpoch !== replica.activeEpoch && !replica.isValid(object)) ||
      object.suspect
    ) {
      this.ensure()
      return
    }
    if (request.kind !== READ && !this.markWrite(object)) return
    this.access(object)
  }

  private ensure(): void {
    const replica = this.replica
    const request = this.request as ObjectRequest
    assert(replica.ensurer !== null, 'recovery is wired before requests are served')
    if (request.kind !== READ && (request.flags & FLAG_CREATE) === 0) {
      const { oid, position, writer } = request
      const filling =
        request.kind === WRITE ? replica.ensurer.filling(oid, writer, position, position + request.length) : null
      if (filling !== null) this.fill(filling)
      else if (replica.ensurer.pass(request.oid, request.writer)) this.finish(WENT_BY)
      else replica.ensurer.ensureOrPass(request.oid, this)
    } else if ((request.flags & FLAG_IF_VALID) !== 0) {
      replica.ensurer.wanted(request.oid)
      this.finish(NOT_VALID)
    } else {
      replica.ensurer.ensure(request.oid, this)
    }
  }

  /** Undefined when the request has ended. */
  private create(former: StoredObject | undefined): StoredObject | undefined {
    const replica = this.replica
    const request = this.request as ObjectRequest
    replica.ensurer?.cancel(request.oid)
    if (former !== undefined) replica.hot.delete(former)
    let object: StoredObject
    try {
      object = replica.options.store.create(request.oid, request.epoch)
    } catch (error) {
      const errno = (error as { errno?: unknown }).errno
      const result = typeof errno === 'number' && errno > 0 ? -errno : EIO
      this.finish(replica.failed(result, 'create', request.epoch))
      return undefined
    }
    object.validEpoch = request.epoch
    object.suspect = false
    object.incomplete = false
    if (object.intent) replica.hot.add(object)
    this.ensured = true
    return object
  }

  /** False when the request goes on later, from the top. */
  private markWrite(object: StoredObject): boolean {
    const replica = this.replica
    const request = this.request as ObjectRequest
    object.lastWrite = replica.options.clock.now()
    object.writer = request.writer
    if (!object.intent && !mutations.forgetIntents) {
      this.ensured = true
      this.stage = Stage.Intent
      replica.options.store.addIntent(object, this)
      return false
    }
    if (object.writeEpoch !== request.epoch) replica.options.store.setWriteEpoch(object, request.epoch)
    return true
  }

  private access(object: StoredObject): void {
    const replica = this.replica
    const request = this.request as ObjectRequest
    const { store } = replica.options
    this.stage = Stage.Access
    request.atDisk = true
    replica.began()
    if (request.kind === READ) {
      replica.counters.reads++
      replica.counters.readBytes += request.length
      const asIs = (request.flags & FLAG_AS_IS) !== 0
      if (asIs) store.readAsIs(object, request.buffer, request.bufferOffset, request.length, request.position, this)
      else store.read(object, request.buffer, request.bufferOffset, request.length, request.position, this)
    } else if (request.kind === WRITE) {
      replica.counters.writes++
      replica.counters.writeBytes += request.length
      store.write(object, request.buffer, request.bufferOffset, request.length, request.position, this)
    } else if (request.kind === ALLOCATE) {
      store.allocate(object, request.length, this)
    } else if ((request.flags & FLAG_KEEP_BLOCKS) !== 0) {
      store.zero(object, request.position, request.length, this)
    } else {
      store.punch(object, request.position, request.length, this)
    }
  }

  /** It counts as a valid copy's once that copy is whole. */
  private fill(filling: Filling): void {
    const request = this.request as ObjectRequest
    this.object = undefined
    this.stage = Stage.Access
    request.atDisk = true
    this.replica.began()
    filling.write(request.writer, request.buffer, request.bufferOffset, request.length, request.position, this)
  }

  private finish(result: number): void {
    const request = this.request as ObjectRequest
    this.request = null
    this.object = undefined
    this.stage = Stage.Locate
    this.replica.recycle(this)
    request.complete(result)
  }
}
