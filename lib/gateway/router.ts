/**
 * Replicated object operations: one request of the gateway becomes requests to the replicas of the current epoch, and
 * is done when they are. An epoch change sends writes in flight again, whole, to the new replica set, marked with the
 * new epoch: that mark is how a node that missed the write is known to be stale. So a write ends only when all live
 * replicas have it, or it was refused (no space, I/O error) - never because somebody left.
 *
 * Reads go to this node's copy when it has a share, else to one other; a copy that is not valid yet passes the read on.
 */
import { assert } from '../assert.js'
import type { NodeInfo } from '../cluster/types.js'
import type { Clock, Completion, Timer } from '../host/interfaces.js'
import { mutations } from '../mutations.js'
import { FLAG_IF_VALID } from '../protocol/header.js'
import type { Peers } from '../replication/peers.js'
import type { Replica } from '../replication/replica.js'
import {
  EIO,
  FLUSH,
  LINK_LOST,
  NO_OBJECT,
  NOT_VALID,
  ObjectRequest,
  READ,
  WRONG_EPOCH,
} from '../replication/request.js'
import type { Topology } from '../replication/topology.js'
import type { Oid } from '../vdi/oid.js'

/** A link that broke, an object whose holders are away: asked again this often. */
const RETRY_MS = 20
const ABSENT_RETRY_MS = 500
const POOL_MAX = 1_024

export interface RouterOptions {
  self: string
  topology: Topology
  replica: Replica
  peers: Peers
  clock: Clock
}

export class Router {
  /** False while this node must not touch data: no quorum, expelled, paused for longer than its lease. */
  private running = false
  private readonly pool: ReplicatedOp[] = []
  private readonly legs: Leg[] = []
  /** Begun and not ended. */
  private readonly active = new Set<ReplicatedOp>()
  private stopped = false

  constructor(readonly options: RouterOptions) {}

  /**
   * Starts one operation. `length` bytes at `position` of the object; buffer untouched until completion. `done` may be
   * called inline. Results: bytes, -ENOSPC, -EIO; NO_OBJECT only when `absentFails`.
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

  /** Lets operations go on after `suspend`, or in a new epoch: those in flight are sent again. */
  resume(): void {
    if (this.stopped) return
    this.running = true
    for (const op of [...this.active]) op.epochChanged()
  }

  suspend(): void {
    this.running = false
  }

  /** Fails everything with -ESHUTDOWN: the daemon stops. */
  stop(): void {
    this.stopped = true
    this.running = false
    for (const op of [...this.active]) op.fail(-108)
  }

  /** Fails operations on this vid's objects: its lock is gone. */
  revoke(matches: (oid: Oid) => boolean): void {
    for (const op of [...this.active]) if (matches(op.oid)) op.fail(-108)
  }

  ended(op: ReplicatedOp): void {
    this.active.delete(op)
    if (this.pool.length < POOL_MAX) this.pool.push(op)
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
  /** READ: how many replicas were tried in this round */
  private tried = 0
  /** Legs of the current attempt; a leg of a former one has another op or none. */
  private readonly current: Leg[] = []
  private timer: Timer | null = null

  constructor(private readonly router: Router) {}

  dispatch(): void {
    if (!this.router.isRunning) return
    this.tried = 0
    if (this.kind === READ) this.readFrom()
    else if (this.kind === FLUSH) this.sendFlush()
    else this.sendAll()
  }

  epochChanged(): void {
    if ((this.flags & FAILED) !== 0) return
    if (this.timer !== null) {
      this.timer.cancel()
      this.timer = null
    }
    if (this.kind === READ) {
      // A read under way in the old epoch stands: it began on a valid copy. Its leg ends by itself.
      if (this.pending === 0) this.dispatch()
      return
    }
    this.abandon()
    this.dispatch()
  }

  /** Ends with this result, but not before this node's disk has let go of the caller's buffer. */
  fail(result: number): void {
    this.timer?.cancel()
    this.timer = null
    this.flags |= FAILED
    this.result = result
    const kept: Leg[] = []
    for (const leg of this.current) {
      if (leg.atDisk || this.kind === READ) {
        kept.push(leg)
      } else {
        leg.cancelled = true
        leg.op = null
      }
    }
    this.current.length = 0
    this.current.push(...kept)
    this.pending = kept.length
    if (this.pending === 0) this.finish(result)
  }

  legDone(leg: Leg, result: number): void {
    const at = this.current.indexOf(leg)
    assert(at >= 0, 'a leg that answers belongs to the current attempt')
    this.current.splice(at, 1)
    this.pending--
    if ((this.flags & FAILED) !== 0) {
      if (this.pending === 0) this.finish(this.result)
    } else if (this.kind === READ) this.readDone(result)
    else this.writeDone(result)
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
    const leg = this.leg(topology.epoch, 0)
    this.current.push(leg)
    this.send(node, leg)
  }

  // --- writes -----------------------------------------------------------------------------------------------------

  private sendAll(): void {
    const { topology } = this.router.options
    const replicas = topology.replicas(this.oid, this.copies)
    if (replicas.length === 0) {
      this.retryLater(ABSENT_RETRY_MS)
      return
    }
    const epoch = topology.epoch
    this.result = 0
    this.again = false
    this.pending = replicas.length
    // The last leg may complete inline and end this op: nothing of `this` is used after the loop.
    const legs: Leg[] = this.current
    for (let i = 0; i < replicas.length; i++) legs.push(this.leg(epoch, this.flags & 0xffff))
    const sending = legs.slice()
    for (let i = sending.length - 1; i >= 0; i--) this.send(replicas[i], sending[i])
  }

  private writeDone(result: number): void {
    if (result < 0) {
      // A replica whose disk failed leaves; the write completes on the rest, as after any other departure.
      if (result === WRONG_EPOCH || result === LINK_LOST || result === EIO) this.again = true
      else if (this.result === 0 || result === -28) this.result = result
    }
    if (mutations.ackBeforeLastReplica && this.pending === 1 && !this.again && this.result === 0) {
      this.abandon()
      this.pending = 0
    }
    if (this.pending > 0) return
    if (this.again || (this.result === NO_OBJECT && !this.absentFails)) {
      this.retryLater(this.again ? RETRY_MS : ABSENT_RETRY_MS)
    } else {
      this.finish(this.result < 0 ? this.result : this.length)
    }
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
    const leg = this.leg(topology.epoch, flags & 0xffff)
    this.current.push(leg)
    this.pending = 1
    this.send(target, leg)
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

  private leg(epoch: number, flags: number): Leg {
    const leg = this.router.takeLeg(this)
    leg.kind = this.kind
    leg.epoch = epoch
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

  private send(target: NodeInfo, leg: Leg): void {
    const { self, replica, peers } = this.router.options
    if (leg.op !== this) return
    if (target.id === self) replica.submit(leg)
    else peers.submit(target.id, leg)
  }

  /** Legs of this attempt no longer count. Each recycles itself when it ends. */
  private abandon(): void {
    for (const leg of this.current) leg.op = null
    this.current.length = 0
    this.pending = 0
  }

  private retryLater(ms: number): void {
    if (this.timer !== null || !this.router.isRunning) return
    this.timer = this.router.options.clock.after(ms, () => {
      this.timer = null
      this.dispatch()
    })
  }

  private finish(result: number): void {
    const done = this.done as Completion
    this.done = null
    this.buffer = EMPTY
    this.router.ended(this)
    done.complete(result)
  }
}

class Leg extends ObjectRequest {
  op: ReplicatedOp | null = null

  constructor(private readonly router: Router) {
    super()
  }

  complete(result: number): void {
    const op = this.op
    if (op !== null) op.legDone(this, result)
    this.buffer = EMPTY
    this.router.recycleLeg(this)
  }
}

/** Beyond the 16 flag bits of the wire. */
const FAILED = 0x10000
const EMPTY = new Uint8Array(0)
