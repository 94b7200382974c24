/**
 * Replicated object operations: one request of the gateway becomes requests to the replicas of the current epoch, and
 * is done when they are. An epoch change sends writes in flight again, whole, to the new replica set, marked with the
 * new epoch: that mark is how a node that missed the write is known to be stale. So a write ends only when all live
 * replicas have it, or it was refused (no space, I/O error) - never because somebody left.
 * Reads go to this node's copy when it has a share, else to one other; a copy that is not valid yet passes the read on.
 */
import { assert } from '../assert.js'
import type { Clock, Completion, Timer } from '../host/interfaces.js'
import { mutations } from '../mutations.js'
import { FLAG_CREATE, FLAG_IF_VALID, FLAG_KEEP_BLOCKS } from '../protocol/header.js'
import type { Peers } from '../replication/peers.js'
import type { Replica } from '../replication/replica.js'
import {
  EIO,
  ENOSPC,
  FLUSH,
  LINK_LOST,
  LOST,
  NO_OBJECT,
  NOT_VALID,
  type ObjectRequest,
  READ,
  WENT_BY,
  WRITE,
  WRONG_EPOCH,
  ZERO,
} from '../replication/request.js'
import type { Topology } from '../replication/topology.js'
import type { Oid } from '../vdi/oid.js'
import { Leg } from './leg.js'
import { TakeBack } from './take-back.js'
import { WentBy } from './went-by.js'

/** A link that broke, an object whose holders are away: asked again this often. */
const RETRY_MS = 20
const ABSENT_RETRY_MS = 500
const POOL_MAX = 1_024
export const ESHUTDOWN = -108

export interface RouterOptions {
  self: string
  topology: Topology
  replica: Replica
  peers: Peers
  clock: Clock
  /** False: this daemon stood still, and does not know yet whether the cluster has gone on without it */
  inLease: () => boolean
}

export class Router {
  /** False while this node must not touch data: no quorum, expelled, paused for longer than its lease. */
  private running = false
  private readonly pool: ReplicatedOp[] = []
  private readonly legs: Leg[] = []
  /** Begun and not ended. */
  private readonly active = new Set<ReplicatedOp>()
  /** Changes that no op waits for any more, and that may yet be done */
  readonly strays = new Set<Leg>()
  readonly wentBy: WentBy
  /** What needs no replica, and must not be answered while this node may be out of the cluster */
  private waiting: (() => void)[] = []
  private stopped = false
  /** Clock.now() since when this node must not touch data; null: it may */
  suspendedAt: number | null = null
  onSuspend: () => void = () => {}
  onResume: () => void = () => {}

  constructor(readonly options: RouterOptions) {
    this.wentBy = new WentBy(options.topology)
  }

  /**
   * Starts one operation. `length` bytes at `position` of the object; buffer untouched until completion. `done` may be
   * called inline. Results: bytes, -ENOSPC, -EIO; NO_OBJECT, LOST only when `absentFails`.
   */
  submit(
    kind: number,
    oid: Oid,
    copies: number,
    buffer: Uint8Array,
    bufferOffset: number,
    length: number,
    position: number,
    flags: number,
    absentFails: boolean,
    done: Completion,
  ): void {
    const op = this.pool.length > 0 ? (this.pool.pop() as ReplicatedOp) : new ReplicatedOp(this)
    op.kind = kind
    op.oid = oid
    op.copies = copies
    op.buffer = buffer
    op.bufferOffset = bufferOffset
    op.length = length
    op.position = position
    op.flags = flags
    op.absentFails = absentFails
    op.done = done
    this.active.add(op)
    op.dispatch()
  }

  /** Makes one node sync all it has of this vid. Ends with 0 also when that node is no member any more. */
  flush(node: string, oid: Oid, done: Completion): void {
    const op = this.pool.length > 0 ? (this.pool.pop() as ReplicatedOp) : new ReplicatedOp(this)
    op.kind = FLUSH
    op.oid = oid
    op.target = node
    op.length = 0
    op.flags = 0
    op.position = 0
    op.done = done
    this.active.add(op)
    op.dispatch()
  }

  get isRunning(): boolean {
    return this.running
  }

  /** What this node knows of its volumes is true now. */
  get epoch(): number {
    return this.options.topology.epoch
  }

  get serves(): boolean {
    return this.running && this.options.inLease()
  }

  /** Calls `run` once it is so again, or nothing more will come of it. */
  whenServing(run: () => void): void {
    this.waiting.push(run)
  }

  private wake(): void {
    const waiting = this.waiting
    this.waiting = []
    for (const run of waiting) run()
  }

  /** Lets operations go on after `suspend`, or in a new epoch: what is in flight from an older one is sent again. */
  resume(): void {
    if (this.stopped) return
    this.running = true
    this.suspendedAt = null
    this.onResume()
    for (const op of [...this.active]) op.goOn()
    this.wake()
  }

  suspend(): void {
    this.running = false
    if (this.suspendedAt !== null) return
    this.suspendedAt = this.options.clock.now()
    this.onSuspend()
  }

  /** Fails everything with -ESHUTDOWN: the daemon stops. */
  stop(): void {
    this.stopped = true
    this.running = false
    for (const op of [...this.active]) op.fail(ESHUTDOWN)
    this.wake()
  }

  get isStopped(): boolean {
    return this.stopped
  }

  /** Fails everything: this node was out of the cluster, and what it had in flight may be others' to do by now. */
  forget(): void {
    for (const op of [...this.active]) op.fail(ESHUTDOWN)
  }

  /** Fails operations on this vid's objects: its lock is gone. */
  revoke(matches: (oid: Oid) => boolean): void {
    for (const op of [...this.active]) if (matches(op.oid)) op.fail(ESHUTDOWN)
    this.wake()
  }

  /**
   * Whether every change of this object that `filled` has answered is done on all of `sources`, or will be sent to
   * `filled` again.
   */
  settled(oid: Oid, filled: string, sources: readonly string[]): boolean {
    for (const op of this.active) if (op.oid === oid && op.awaits(filled, sources)) return false
    for (const leg of this.strays) if (leg.oid === oid && sources.includes(leg.node)) return false
    return true
  }

  ended(op: ReplicatedOp): void {
    this.active.delete(op)
    if (this.pool.length < POOL_MAX) this.pool.push(op)
  }

  send(node: string, request: ObjectRequest): void {
    const { self, replica, peers } = this.options
    if (node === self) replica.submit(request)
    else peers.submit(node, request)
  }

  takeLeg(op: ReplicatedOp): Leg {
    const leg = this.legs.length > 0 ? (this.legs.pop() as Leg) : new Leg(this)
    leg.op = op
    return leg
  }

  recycleLeg(leg: Leg): void {
    leg.op = null
    if (this.legs.length < POOL_MAX * 4) this.legs.push(leg)
  }
}

class ReplicatedOp {
  kind = READ
  oid: Oid = 0
  copies = 0
  buffer: Uint8Array = EMPTY
  bufferOffset = 0
  length = 0
  position = 0
  flags = 0
  absentFails = false
  /** FLUSH: node id */
  target = ''
  done: Completion | null = null

  private pending = 0
  private result = 0
  private again = false
  /** Of the current attempt */
  private epoch = 0
  /** READ: how many replicas were tried in this round */
  private tried = 0
  /** Legs of the current attempt; a leg of a former one has another op or none. */
  private readonly current: Leg[] = []
  /** Legs of former attempts for which this node's disk still uses the caller's buffer */
  private lingering = 0
  /** Over, but for those */
  private ending = false
  /** A replica that had no room for the write */
  private full = ''
  private takeBack: TakeBack | null = null
  private timer: Timer | null = null

  constructor(private readonly router: Router) {}

  dispatch(): void {
    if (!this.router.serves) return
    this.tried = 0
    if (this.kind === READ) this.readFrom()
    else if (this.kind === FLUSH) this.sendFlush()
    else this.sendAll()
  }

  goOn(): void {
    if (this.ending) return
    if (this.pending > 0) {
      // A read under way in the old epoch stands: it began on a valid copy. And what was sent in this very epoch is still
      // being done: sent twice, the first could land after a later write to the same place.
      if (this.kind === READ || this.epoch === this.router.options.topology.epoch) return
      this.abandon()
    }
    this.timer?.cancel()
    this.timer = null
    this.dispatch()
  }

  fail(result: number): void {
    if (this.ending) return
    this.timer?.cancel()
    this.timer = null
    this.abandon()
    this.finish(result)
  }

  legDone(leg: Leg, result: number): void {
    const at = this.current.indexOf(leg)
    assert(at >= 0, 'a leg that answers belongs to the current attempt')
    this.current.splice(at, 1)
    this.pending--
    if (result === WENT_BY) {
      this.router.wentBy.add(this.oid, leg.node)
      result = this.length
    }
    if (this.kind === READ) this.readDone(result)
    else this.writeDone(leg.node, result)
  }

  /** A change that `filled` has answered, and one of `sources` has not. */
  awaits(filled: string, sources: readonly string[]): boolean {
    if (this.kind === READ || this.kind === FLUSH || this.pending === 0) return false
    // What is taken back is sent to all in its own way.
    if (this.takeBack !== null) return true
    return this.current.every((leg) => leg.node !== filled) && this.current.some((leg) => sources.includes(leg.node))
  }

  /** This node's disk has let go of the buffer in a leg that no longer counts. */
  bufferFree(): void {
    this.lingering--
    if (this.ending && this.lingering === 0) this.finish(this.result)
  }

  private sendFlush(): void {
    const { topology } = this.router.options
    const node = topology.node(this.target)
    if (node === undefined) {
      this.finish(0)
      return
    }
    this.result = 0
    this.again = false
    this.pending = 1
    this.epoch = topology.epoch
    const leg = this.leg(node.id, 0)
    this.current.push(leg)
    this.send(leg)
  }

  // --- writes -----------------------------------------------------------------------------------------------------

  private sendAll(): void {
    const { topology } = this.router.options
    const replicas = topology.replicas(this.oid, this.copies)
    if (replicas.length === 0) {
      this.retryLater(ABSENT_RETRY_MS)
      return
    }
    this.result = 0
    this.again = false
    this.pending = replicas.length
    this.epoch = topology.epoch
    // The last leg may complete inline and end this op: nothing of `this` is used after the loop.
    const legs: Leg[] = this.current
    for (let i = 0; i < replicas.length; i++) legs.push(this.leg(replicas[i].id, this.flags))
    const sending = legs.slice()
    for (let i = sending.length - 1; i >= 0; i--) this.send(sending[i])
  }

  private writeDone(node: string, result: number): void {
    if (result === ENOSPC) {
      this.result = result
      this.full = node
    } else if (result === NO_OBJECT || result === LOST) {
      if (this.result === 0) this.result = result
    } else if (result < 0) {
      // A replica whose disk failed leaves; the write completes on the rest, as after any other departure.
      this.again = true
    }
    if (mutations.ackBeforeLastReplica && this.pending === 1 && !this.again && this.result === 0) this.abandon()
    if (this.pending > 0) return
    if (this.again || (this.result === NO_OBJECT && !this.absentFails)) {
      this.retryLater(this.again ? RETRY_MS : ABSENT_RETRY_MS)
    } else if (this.result === ENOSPC && !this.equalAfterRefusal()) {
      this.makeEqual()
    } else {
      this.finish(this.result < 0 ? this.result : this.length)
    }
  }

  /** A refused creation is undone by whoever asked; reserved blocks are no content; and one copy has no other. */
  private equalAfterRefusal(): boolean {
    if ((this.kind !== WRITE && this.kind !== ZERO) || (this.flags & FLAG_CREATE) !== 0 || this.length === 0)
      return true
    return this.router.options.topology.replicas(this.oid, this.copies).length === 1
  }

  /** Some replica had no room, others did the write: what they did is taken back before the client hears of it. */
  private makeEqual(): void {
    const { topology } = this.router.options
    if (!this.router.isRunning || topology.epoch !== this.epoch) {
      // Goes on with `resume`.
      return
    }
    this.pending = 1
    const nodes = topology.replicas(this.oid, this.copies).map((replica) => replica.id)
    const { oid, position, length, epoch, kind } = this
    // Blocks that could not be reserved: zeros without them need no room.
    const zeros = kind === ZERO && (this.flags & FLAG_KEEP_BLOCKS) !== 0
    this.takeBack = new TakeBack(this.router, { oid, position, length, epoch, nodes, zeros }, (equal) => {
      this.takeBack = null
      this.pending = 0
      if (equal) this.finish(ENOSPC)
      else this.retryLater(RETRY_MS)
    })
    this.takeBack.start(this.full)
  }

  // --- reads ------------------------------------------------------------------------------------------------------

  private readFrom(): void {
    const { topology, self } = this.router.options
    const replicas = topology.replicas(this.oid, this.copies)
    if (replicas.length === 0) {
      this.retryLater(ABSENT_RETRY_MS)
      return
    }
    let first = 0
    for (let i = 0; i < replicas.length; i++) if (replicas[i].id === self) first = i
    // One round of asking each in turn whether its copy is valid; then wait at the first until it is.
    const waits = this.tried >= replicas.length
    const target = replicas[(first + this.tried) % replicas.length]
    const flags = waits || replicas.length === 1 ? this.flags : this.flags | FLAG_IF_VALID
    this.epoch = topology.epoch
    const leg = this.leg(target.id, flags)
    this.current.push(leg)
    this.pending = 1
    this.send(leg)
  }

  private readDone(result: number): void {
    if (result >= 0) {
      this.finish(result)
    } else if (!this.router.isRunning) {
      // Goes on with `resume`.
    } else if (result === NOT_VALID) {
      this.tried++
      this.readFrom()
    } else if (result === NO_OBJECT) {
      if (this.absentFails) this.finish(result)
      else this.retryLater(ABSENT_RETRY_MS)
    } else if (result === WRONG_EPOCH || result === LINK_LOST) {
      this.retryLater(RETRY_MS)
    } else {
      // An I/O error of one replica is no reason to fail while others have the object.
      const { topology } = this.router.options
      this.tried++
      if (this.tried < topology.replicas(this.oid, this.copies).length) this.readFrom()
      else this.finish(result)
    }
  }

  // --- both -------------------------------------------------------------------------------------------------------

  private leg(node: string, flags: number): Leg {
    const leg = this.router.takeLeg(this)
    leg.node = node
    leg.kind = this.kind
    leg.epoch = this.epoch
    leg.oid = this.oid
    leg.position = this.position
    leg.length = this.length
    leg.buffer = this.buffer
    leg.bufferOffset = this.bufferOffset
    leg.flags = flags
    leg.writer = this.router.options.self
    leg.cancelled = false
    leg.atDisk = false
    return leg
  }

  private send(leg: Leg): void {
    if (leg.op === this) this.router.send(leg.node, leg)
  }

  /** Legs of this attempt no longer count. Each recycles itself when it ends. */
  private abandon(): void {
    for (const leg of this.current) {
      leg.op = null
      if (leg.kind !== READ && leg.kind !== FLUSH) this.router.strays.add(leg)
      if (leg.atDisk) {
        leg.former = this
        this.lingering++
      } else {
        leg.cancelled = true
      }
    }
    this.current.length = 0
    this.pending = 0
    this.takeBack?.cancel()
    this.takeBack = null
  }

  private retryLater(ms: number): void {
    if (this.timer !== null || !this.router.isRunning) return
    this.timer = this.router.options.clock.after(ms, () => {
      this.timer = null
      this.dispatch()
    })
  }

  private finish(outcome: number): void {
    const result = outcome === LOST && !this.absentFails ? EIO : outcome
    if (this.lingering > 0) {
      this.ending = true
      this.result = result
      return
    }
    const done = this.done as Completion
    this.done = null
    this.buffer = EMPTY
    this.ending = false
    this.router.ended(this)
    done.complete(result)
  }
}

const EMPTY = new Uint8Array(0)
