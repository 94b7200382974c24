/**
 * An open VDI: splits requests at object boundaries and turns each piece into replicated operations.
 *
 *     write to an object of this vid      WRITE on all replicas
 *     write into a hole                   CREATE with the data, then the index entry; others for that object wait
 *     write to an ancestor's object       copy on write (copy-on-write.ts), then as an object of this vid
 *     discard of a whole object           index entry to 0, then REMOVE
 *     flush                               FLUSH to every node that took a write since the last one
 *
 * An answer to a client means that all of this is on all replicas, the index entry included.
 */
import { assert } from '../assert.js'
import { SheepError } from '../errors.js'
import type { Clock, Completion, Extent, Log, Timer } from '../host/interfaces.js'
import { FLAG_CREATE, FLAG_FUA, FLAG_KEEP_BLOCKS } from '../protocol/header.js'
import { PIECE_MAX } from '../replication/peer-session.js'
import { EIO, LOST, NO_OBJECT, READ, REMOVE, WRITE, ZERO } from '../replication/request.js'
import { completed } from '../store/completed.js'
import { entriesFor } from '../vdi/inode.js'
import { dataOid, inodeOid, type Oid, oidToHex, vidOf } from '../vdi/oid.js'
import type { VdiEntry } from '../vdi/types.js'
import { CopyOnWrite } from './copy-on-write.js'
import { Flusher, type Standing } from './flusher.js'
import { IndexTable } from './index-table.js'
import type { Latency } from './latency.js'
import { type Gate, MigrationTarget } from './migration-target.js'
import { type Ordered, RequestOrder } from './request-order.js'
import { ESHUTDOWN, type Router } from './router.js'
import { shareObject } from './share.js'
import type { FileVolume, ShareMode } from './types.js'
import { VolumeRouter } from './volume-router.js'

const EROFS_AS_EPERM = -1
const POOL_MAX = 256
/** Objects quiet and flushed for this long leave the intent logs. */
const QUIET_MS = 10_000
const SWEEP_MS = 5_000
/** A read whose object nobody has: its holders are away, or it has just been copied and freed */
const ABSENT_RETRY_MS = 500

export interface VolumeOptions {
  router: Router
  clock: Clock
  log: Log
  entry: VdiEntry
  readOnly: boolean
  /** Of a migration's target: nothing, until it arrives */
  entries: Uint32Array
  /** Beside the writer on another node; null: this is the writer, or a reader */
  target: MigrationTarget | null
  copiesOf: (vid: number) => number
  /** Nodes that may hold objects of this VDI: for flushes */
  storeNodes: () => readonly string[]
  replicasOf: (oid: Oid) => readonly string[]
  /** Of those, the ones that have what this node wrote in this epoch */
  holdersOf: (oid: Oid) => readonly string[]
  /** As of FlusherOptions */
  tookAll: (oid: Oid) => readonly string[]
  mayHaveDropped: (oid: Oid, node: string) => boolean
  standingOf: (node: string) => Standing | null
  givenUp: (oid: Oid) => boolean
  /** Object `index` of `owner` is referred to by this VDI no more; frees it when nothing else refers to it */
  unreferenced: (owner: number, index: number) => void
  /** Tells the replicas of these objects that they are flushed, and quiet; `ended`: nobody will write them for now */
  clean: (oids: readonly Oid[], ended: boolean) => Promise<void>
  closed: () => Promise<void>
  /** null: nobody wants to know */
  latency: Latency | null
}

enum Kind {
  Read = 0,
  Write = 1,
  Zero = 2,
  /** A write at the end of a file that grows */
  Grow = 3,
  /** Holes become zeros with blocks of their own */
  Allocate = 4,
  /** Alone on its range */
  Alone = 5,
}

/** Kind -> index into LATENCY_OPERATIONS; -1 none of a client's */
const OPERATION = [0, 1, 2, 1, 2, -1] as const
const FLUSH = 3

export class GatewayVolume implements FileVolume {
  onChange: ((what: 'resized' | 'revoked') => void) | null = null
  entry: VdiEntry
  readonly readOnly: boolean
  readonly objectSize: number
  readonly shift: number
  readonly router: VolumeRouter
  readonly index: IndexTable
  readonly order = new RequestOrder<VolumeRequest>()
  readonly flusher: Flusher
  readonly copyOnWrite: CopyOnWrite
  readonly counters = { reads: 0, writes: 0, readBytes: 0, writeBytes: 0, flushes: 0 }
  /** Objects that wait for an index entry or a copy, with the pieces that wait for them */
  readonly allocating = new Map<number, Piece[]>()
  /** There may be objects of this VDI that it does not refer to: each node is to look, once this volume is closed */
  leftovers = false
  /** Of `allocating`, those of which somebody has been told that the volume refers to them */
  private readonly promised = new Set<number>()
  /** Index -> Clock.now() of the last write, for objects that may be in the intent logs */
  private readonly hot = new Map<number, number>()
  private readonly requests: VolumeRequest[] = []
  private readonly pieces: Piece[] = []
  private sweepTimer: Timer | null = null
  private revoked = false
  private closing: Promise<void> | null = null
  /** Where requests wait while this volume is between two nodes */
  private gate: Gate | null

  constructor(readonly options: VolumeOptions) {
    this.entry = options.entry
    this.readOnly = options.readOnly
    this.shift = options.entry.blockSizeShift
    this.objectSize = 2 ** this.shift
    this.router = new VolumeRouter(options.router)
    this.index = new IndexTable(this.router, options.entry.vid, options.entry.copies, options.entries)
    this.index.onWritten = () => this.flusher.touched(inodeOid(this.entry.vid))
    this.flusher = new Flusher({
      ...options,
      ...{ self: options.router.options.self, router: this.router },
      lost: (oid) => {
        options.log(
          'error',
          `${this.entry.name}: what was written may be gone: its flushes fail until it is opened anew`,
          {
            object: oidToHex(oid),
            hint: 'all hosts that had it lost their power or a disk before it was flushed; check its file system',
          },
        )
      },
    })
    this.copyOnWrite = new CopyOnWrite(this.router)
    this.gate = options.target
    if (!this.readOnly) this.sweepLater()
  }

  get size(): number {
    return this.entry.size
  }

  get vid(): number {
    return this.entry.vid
  }

  read(buffer: Uint8Array, bufferOffset: number, length: number, offset: number, done: Completion): void {
    this.counters.reads++
    this.counters.readBytes += length
    this.submit(Kind.Read, buffer, bufferOffset, length, offset, 0, done)
  }

  write(
    buffer: Uint8Array,
    bufferOffset: number,
    length: number,
    offset: number,
    fua: boolean,
    done: Completion,
  ): void {
    this.counters.writes++
    this.counters.writeBytes += length
    this.submit(Kind.Write, buffer, bufferOffset, length, offset, fua ? FLAG_FUA : 0, done)
  }

  zero(length: number, offset: number, keepBlocks: boolean, fua: boolean, done: Completion): void {
    const flags = (fua ? FLAG_FUA : 0) | (keepBlocks ? FLAG_KEEP_BLOCKS : 0)
    this.submit(Kind.Zero, EMPTY, 0, length, offset, flags, done)
  }

  discard(length: number, offset: number, fua: boolean, done: Completion): void {
    this.submit(Kind.Zero, EMPTY, 0, length, offset, fua ? FLAG_FUA : 0, done)
  }

  writeGrowing(buffer: Uint8Array, bufferOffset: number, length: number, offset: number, done: Completion): void {
    this.counters.writes++
    this.counters.writeBytes += length
    this.submit(Kind.Grow, buffer, bufferOffset, length, offset, 0, done)
  }

  recordLength(length: number): Promise<number> {
    return this.alone(0, 0, () => completed((done) => this.index.fileLength.set(length, done)))
  }

  allocate(length: number, offset: number, done: Completion): void {
    this.submit(Kind.Allocate, EMPTY, 0, length, offset, FLAG_KEEP_BLOCKS, done)
  }

  async share(index: number, source: FileVolume, mode: ShareMode): Promise<number> {
    assert(source instanceof GatewayVolume, 'the source is a volume of this gateway')
    assert(source.readOnly && source.shift === this.shift, 'objects are shared with a snapshot of the same object size')
    const start = index * this.objectSize
    return this.alone(start, start + this.objectSize, () => shareObject(this, index, source, mode))
  }

  /** Runs `work` while no other request touches the range, and no snapshot is taken. Its answer, or a negative errno. */
  private alone(start: number, end: number, work: () => Promise<number>): Promise<number> {
    return completed((done) => {
      if (this.revoked) return done.complete(ESHUTDOWN)
      if (this.readOnly) return done.complete(EROFS_AS_EPERM)
      const admit = (): void => {
        if (this.gate !== null) {
          this.gate.change(admit)
          return
        }
        const request = this.requests.length > 0 ? (this.requests.pop() as VolumeRequest) : new VolumeRequest(this)
        request.kind = Kind.Alone
        request.start = start
        request.end = end
        request.work = work
        request.done = done
        this.order.admit(request)
      }
      admit()
    })
  }

  flush(done: Completion): void {
    this.counters.flushes++
    if (this.revoked) done.complete(ESHUTDOWN)
    else if (this.readOnly) done.complete(0)
    else if (this.gate !== null) this.gate.flush(done, () => this.flush(done))
    else this.flusher.flush(this.entry.vid, this.index, this.timed(done))
  }

  private timed(done: Completion): Completion {
    const { latency, clock } = this.options
    if (latency === null) return done
    const since = clock.now()
    return {
      complete(result) {
        latency.observe(FLUSH, clock.now() - since)
        done.complete(result)
      },
    }
  }

  async extents(length: number, offset: number): Promise<Extent[]> {
    while (!this.router.answers) await new Promise<void>((resolve) => this.router.whenAnswering(resolve))
    if (this.revoked) throw new SheepError('shutting-down', `"${this.entry.name}" is no longer open here`)
    if (this.gate !== null) return [{ offset, length }]
    const found: Extent[] = []
    const end = offset + length
    for (let at = offset; at < end; ) {
      const index = Math.floor(at / this.objectSize)
      const stop = Math.min(end, (index + 1) * this.objectSize)
      if (this.index.get(index) !== 0) {
        const last = found[found.length - 1]
        if (last !== undefined && last.offset + last.length === at) last.length += stop - at
        else found.push({ offset: at, length: stop - at })
      }
      at = stop
    }
    return found
  }

  close(): Promise<void> {
    this.closing ??= this.shut()
    return this.closing
  }

  // --- what the gateway does to it --------------------------------------------------------------------------------

  /** From now on no change begins; resolves when none is in flight. */
  hold(): Promise<void> {
    return new Promise((resolve) => this.order.hold(resolve))
  }

  release(): void {
    this.order.release()
  }

  /** The registry's word on this VDI changed: it was resized, renamed, or a snapshot gave it a new vid. */
  entryChanged(entry: VdiEntry): void {
    const former = this.entry
    this.entry = entry
    if (entry.vid !== former.vid) {
      assert(this.order.changingCount === 0, 'a snapshot is taken while no write is in flight')
      this.index.vid = entry.vid
      // Every object is the snapshot's now, flushed when the volume was held, and never written again.
      const quiet = [inodeOid(former.vid), ...[...this.hot.keys()].map((index) => dataOid(former.vid, index))]
      this.hot.clear()
      void this.options.clean(quiet, true)
    }
    if (entry.size !== former.size) {
      this.index.resize(entriesFor(entry.size, entry.blockSizeShift))
      this.onChange?.('resized')
    }
  }

  /** `stayed`: the node was in the cluster before and is in it now. */
  epochChanged(stayed: (node: string) => boolean): void {
    this.flusher.epochChanged(stayed)
    // The next flush does so too, and waits for it; but what is read here must not go until then.
    if (this.flusher.isOrphan(inodeOid(this.entry.vid))) this.index.rewrite(IGNORED)
  }

  get isTarget(): boolean {
    return this.gate instanceof MigrationTarget
  }

  /** Held for a migration's target, which may write from now on: nothing is answered here until `thaw` or `revoke`. */
  freeze(gate: Gate): void {
    assert(this.order.changingCount === 0, 'a volume is frozen once its writes have ended')
    this.gate = gate
  }

  thaw(): void {
    const { gate } = this
    this.gate = null
    gate?.open()
  }

  /** A migration's target has the lock. `entries`: the index, read since. */
  arrive(entry: VdiEntry, entries: Uint32Array): void {
    this.entryChanged(entry)
    this.index.replace(entries)
    this.thaw()
  }

  /** The lock is gone: everything in flight and to come fails. `quiet`: held and flushed before, so nobody need doubt what it wrote. */
  revoke(quiet = false): void {
    if (this.revoked) return
    this.revoked = true
    if (quiet) void this.options.clean(this.hotOids(), true)
    const { vid } = this.entry
    // The front-end first: it drops its clients, who come again, rather than telling them of failures.
    this.onChange?.('revoked')
    this.router.revoke((oid) => vidOf(oid) === vid)
    this.order.releaseAll()
    this.thaw()
  }

  get isRevoked(): boolean {
    return this.revoked
  }

  /** This VDI's own object `index` exists, or is being made or removed, by this volume's doing. */
  refersTo(index: number): boolean {
    if (!this.allocating.has(index)) return index < this.index.length && this.index.get(index) === this.entry.vid
    this.promised.add(index)
    return true
  }

  /** What was being made, or removed, is settled, with this result. Answers who has waited for it. */
  settled(index: number, result: number): readonly Piece[] {
    const waiting = this.allocating.get(index) as Piece[]
    this.allocating.delete(index)
    const promised = this.promised.delete(index)
    // One who was told so keeps what a power loss, say, has brought back.
    if (result < 0 || (promised && this.index.get(index) !== this.entry.vid)) this.leftovers = true
    return waiting
  }

  // --- requests ---------------------------------------------------------------------------------------------------

  private submit(
    kind: Kind,
    buffer: Uint8Array,
    bufferOffset: number,
    length: number,
    offset: number,
    flags: number,
    done: Completion,
  ): void {
    if (this.revoked) {
      done.complete(ESHUTDOWN)
      return
    }
    if (this.readOnly && kind !== Kind.Read) {
      done.complete(EROFS_AS_EPERM)
      return
    }
    assert(offset >= 0 && length >= 0 && offset + length <= this.size, 'a request lies within the volume')
    if (length === 0) {
      done.complete(0)
      return
    }
    if (this.gate !== null) {
      const again = (): void => this.submit(kind, buffer, bufferOffset, length, offset, flags, done)
      if (kind === Kind.Read) this.gate.read(buffer, bufferOffset, length, offset, done, again)
      else this.gate.change(again)
      return
    }
    const request = this.requests.length > 0 ? (this.requests.pop() as VolumeRequest) : new VolumeRequest(this)
    request.kind = kind
    request.start = offset
    request.end = offset + length
    request.buffer = buffer
    request.bufferOffset = bufferOffset
    request.flags = flags
    request.done = done
    if (this.options.latency !== null) request.since = this.options.clock.now()
    this.order.admit(request)
  }

  piece(): Piece {
    return this.pieces.length > 0 ? (this.pieces.pop() as Piece) : new Piece(this)
  }

  recyclePiece(piece: Piece): void {
    if (this.pieces.length < POOL_MAX) this.pieces.push(piece)
  }

  recycleRequest(request: VolumeRequest): void {
    if (this.requests.length < POOL_MAX) this.requests.push(request)
  }

  /** A completed change of this object is on its replicas, not yet synced. */
  touched(index: number): void {
    this.hot.set(index, this.options.clock.now())
    this.flusher.touched(dataOid(this.entry.vid, index))
  }

  forgotten(index: number): void {
    this.hot.delete(index)
    this.flusher.forgotten(dataOid(this.entry.vid, index))
  }

  // --- quiet objects ----------------------------------------------------------------------------------------------

  private sweepLater(): void {
    this.sweepTimer = this.options.clock.after(SWEEP_MS, () => {
      this.sweep()
      if (this.closing === null && !this.revoked) this.sweepLater()
    })
  }

  private sweep(): void {
    const now = this.options.clock.now()
    const quiet: number[] = []
    let unflushed = false
    const busy = this.busyObjects()
    for (const [index, at] of this.hot) {
      if (now - at < QUIET_MS || this.allocating.has(index) || busy.has(index)) continue
      if (at < this.flusher.flushedThrough) quiet.push(index)
      else unflushed = true
    }
    // A guest that never flushes would keep its objects in the logs for ever.
    if (unflushed) this.flusher.flush(this.entry.vid, this.index, IGNORED)
    if (quiet.length === 0) return
    for (const index of quiet) this.hot.delete(index)
    void this.options.clean(
      quiet.map((index) => dataOid(this.entry.vid, index)),
      false,
    )
  }

  private hotOids(): Oid[] {
    return [inodeOid(this.entry.vid), ...[...this.hot.keys()].map((index) => dataOid(this.entry.vid, index))]
  }

  private busyObjects(): Set<number> {
    const busy = new Set<number>()
    for (const request of this.order.running()) {
      const last = Math.floor((request.end - 1) / this.objectSize)
      for (let index = Math.floor(request.start / this.objectSize); index <= last; index++) busy.add(index)
    }
    return busy
  }

  private async shut(): Promise<void> {
    this.sweepTimer?.cancel()
    if (!this.revoked && !this.readOnly && this.gate === null) {
      await this.hold()
      const result = await new Promise<number>((resolve) => {
        this.flusher.flush(this.entry.vid, this.index, { complete: resolve })
      })
      if (result < 0) this.options.log('warning', `closing ${this.entry.name}: flush failed with errno ${-result}`)
      else await this.options.clean(this.hotOids(), true)
    }
    this.revoked = true
    this.thaw()
    await this.options.closed()
    this.order.release()
  }
}

/** What a client asked for; done when its pieces are. */
class VolumeRequest implements Ordered {
  start = 0
  end = 0
  kind = Kind.Read
  slot = -1
  buffer: Uint8Array = EMPTY
  bufferOffset = 0
  flags = 0
  /** Clock.now(), where latency is observed */
  since = 0
  done: Completion | null = null
  work: (() => Promise<number>) | null = null
  private pending = 0
  private result = 0
  /** Also after the length of the file */
  private readonly afterFlush: Completion = { complete: (result) => this.finish(result) }

  constructor(private readonly volume: GatewayVolume) {}

  get changes(): boolean {
    return this.kind !== Kind.Read
  }

  begin(): void {
    const { volume } = this
    if (volume.isRevoked) {
      this.finish(ESHUTDOWN)
      return
    }
    if (this.kind === Kind.Alone) {
      // A thrown error here is a broken invariant: failures are results.
      void (this.work as () => Promise<number>)().then((result) => this.finish(result))
      return
    }
    const size = volume.objectSize
    const most = this.kind === Kind.Zero || this.kind === Kind.Allocate ? size : PIECE_MAX
    const { start, end, bufferOffset } = this
    this.result = 0
    // One for this loop: pieces may end inline, and the last one ends the request.
    this.pending = 1
    for (let from = start; from < end; ) {
      const index = Math.floor(from / size)
      const to = Math.min(end, (index + 1) * size, from + most)
      const piece = volume.piece()
      piece.request = this
      piece.index = index
      piece.position = from - index * size
      piece.length = to - from
      piece.bufferOffset = bufferOffset + (from - start)
      this.pending++
      from = to
      piece.begin()
    }
    this.pieceDone(0)
  }

  pieceDone(result: number): void {
    if (result < 0) this.result = result
    if (--this.pending > 0) return
    if (this.result < 0) {
      this.finish(this.result)
    } else if (this.kind === Kind.Grow) {
      this.volume.index.fileLength.reach(this.end, this.afterFlush)
    } else if ((this.flags & FLAG_FUA) !== 0 && this.changes && this.volume.index.dirty) {
      // The data is durable by its own flag; the way to it must be too.
      this.volume.flusher.flush(this.volume.vid, this.volume.index, this.afterFlush)
    } else {
      this.finish(this.end - this.start)
    }
  }

  private finish(result: number): void {
    const done = this.done as Completion
    const { volume } = this
    const { latency, clock } = volume.options
    if (latency !== null && OPERATION[this.kind] >= 0) latency.observe(OPERATION[this.kind], clock.now() - this.since)
    const outcome = result === 0 && this.kind !== Kind.Alone ? this.end - this.start : result
    this.done = null
    this.work = null
    this.buffer = EMPTY
    volume.order.leave(this)
    volume.recycleRequest(this)
    done.complete(outcome)
  }
}

enum Stage {
  /** The operation on the object itself */
  Object = 0,
  /** Created; next the index entry */
  Create = 1,
  /** The index entry after a creation */
  Enter = 2,
  /** The index entry is 0; next the removal */
  Clear = 3,
  Remove = 4,
  /** Created, but refused somewhere: taking back what there is */
  Undo = 5,
}

/** The part of a request that lies in one object. */
class Piece implements Completion {
  request: VolumeRequest = NO_REQUEST
  index = 0
  position = 0
  length = 0
  bufferOffset = 0
  private stage = Stage.Object
  private owner = 0
  private failure = 0

  constructor(private readonly volume: GatewayVolume) {}

  begin(): void {
    const { request, volume, index } = this
    this.stage = Stage.Object
    const owner = volume.index.get(index)
    this.owner = owner
    if (request.kind === Kind.Read) {
      this.read(owner)
      return
    }
    if (volume.allocating.size > 0) {
      const waiting = volume.allocating.get(index)
      if (waiting !== undefined) {
        waiting.push(this)
        return
      }
    }
    if (request.kind === Kind.Write || request.kind === Kind.Grow) this.write(owner)
    else if (request.kind === Kind.Allocate && owner !== 0) this.end(this.length)
    else this.zero(owner)
  }

  complete(result: number): void {
    const { volume, index } = this
    switch (this.stage) {
      case Stage.Object:
        if (this.request.kind === Kind.Read) {
          if (result === NO_OBJECT) this.readAgain()
          else if (result === LOST) this.readLost()
          else this.end(result)
          return
        }
        if (result >= 0) volume.touched(index)
        this.end(result)
        return
      case Stage.Create:
        if (result < 0) this.undo(result)
        else {
          volume.touched(index)
          this.stage = Stage.Enter
          volume.index.set(index, volume.vid, false, this)
        }
        return
      case Stage.Enter:
        if (result >= 0) volume.flusher.touched(inodeOid(volume.vid))
        if (result < 0 && volume.index.get(index) !== volume.vid) this.undo(result)
        else this.allocated(result)
        return
      case Stage.Clear:
        if (result < 0) this.allocated(result)
        else this.remove()
        return
      case Stage.Remove:
        this.allocated(result)
        return
      default:
        this.allocated(this.failure)
    }
  }

  private read(owner: number): void {
    const { request, volume, index } = this
    if (owner === 0) {
      if (!this.mayAnswer()) return
      request.buffer.fill(0, this.bufferOffset, this.bufferOffset + this.length)
      this.end(this.length)
      return
    }
    const copies = owner === volume.vid ? volume.entry.copies : volume.options.copiesOf(owner)
    volume.router.submit(
      READ,
      dataOid(owner, index),
      copies,
      request.buffer,
      this.bufferOffset,
      this.length,
      this.position,
      0,
      true,
      this,
    )
  }

  /** Without a word with any replica. False: it has failed, or begins again once this node knows that the volume is its own. */
  private mayAnswer(): boolean {
    const { router } = this.volume
    if (router.isRevoked) this.end(ESHUTDOWN)
    else if (router.answers) return true
    else router.whenAnswering(() => this.begin())
    return false
  }

  private readAgain(): void {
    const { volume, index, owner } = this
    if (volume.index.get(index) !== owner) this.begin()
    else volume.options.clock.after(ABSENT_RETRY_MS, () => this.begin())
  }

  /** Gone with its disks, unless the index has changed. */
  private readLost(): void {
    const { volume, index, owner } = this
    if (volume.index.get(index) !== owner) this.begin()
    else this.end(EIO)
  }

  private write(owner: number): void {
    const { request, bufferOffset } = this
    this.change(WRITE, owner, request.buffer, bufferOffset)
  }

  private zero(owner: number): void {
    const { request, volume, index } = this
    const keep = (request.flags & FLAG_KEEP_BLOCKS) !== 0
    const objectEnd = Math.min(volume.objectSize, volume.size - index * volume.objectSize)
    const whole = this.position === 0 && this.length >= objectEnd
    if (owner === 0 && !keep) {
      if (this.mayAnswer()) this.end(this.length)
      return
    }
    if (whole && !keep) {
      volume.allocating.set(index, [])
      this.stage = Stage.Clear
      volume.index.set(index, 0, true, this)
      return
    }
    this.change(ZERO, owner, EMPTY, 0)
  }

  /** In place, in a new object, or in a copy of an ancestor's. */
  private change(kind: typeof WRITE | typeof ZERO, owner: number, buffer: Uint8Array, bufferOffset: number): void {
    const { request, volume, index } = this
    if (owner !== 0 && owner !== volume.vid) {
      this.copy(owner)
      return
    }
    let flags = request.flags
    if (owner === 0) {
      volume.allocating.set(index, [])
      this.stage = Stage.Create
      flags |= FLAG_CREATE
    }
    volume.router.submit(
      kind,
      dataOid(volume.vid, index),
      volume.entry.copies,
      buffer,
      bufferOffset,
      this.length,
      this.position,
      flags,
      false,
      this,
    )
  }

  /** The object is an ancestor's: makes an own one with this change in it. */
  private copy(owner: number): void {
    const { request, volume, index } = this
    volume.allocating.set(index, [])
    const overlay =
      request.kind === Kind.Write || request.kind === Kind.Grow
        ? request.buffer.subarray(this.bufferOffset, this.bufferOffset + this.length)
        : Buffer.alloc(this.length)
    volume.copyOnWrite.run(
      {
        from: dataOid(owner, index),
        fromCopies: volume.options.copiesOf(owner),
        to: dataOid(volume.vid, index),
        toCopies: volume.entry.copies,
        objectSize: volume.objectSize,
        overlay,
        overlayPosition: this.position,
      },
      (result) => {
        this.stage = Stage.Create
        this.complete(result)
      },
    )
  }

  private remove(): void {
    const { volume, index, owner } = this
    volume.forgotten(index)
    this.stage = Stage.Remove
    if (owner !== volume.vid) {
      volume.options.unreferenced(owner, index)
      this.complete(0)
      return
    }
    volume.router.submit(REMOVE, dataOid(owner, index), volume.entry.copies, EMPTY, 0, 0, 0, 0, false, this)
  }

  private undo(result: number): void {
    const { volume, index } = this
    this.failure = result
    if (volume.isRevoked) {
      this.allocated(result)
      return
    }
    this.stage = Stage.Undo
    volume.router.submit(REMOVE, dataOid(volume.vid, index), volume.entry.copies, EMPTY, 0, 0, 0, 0, false, this)
  }

  /** The object's place in the index is settled: others may go on. */
  private allocated(result: number): void {
    const { volume, index, owner, stage } = this
    const waiting = volume.settled(index, result)
    if (stage === Stage.Enter && owner !== 0 && volume.index.get(index) === volume.vid) {
      volume.options.unreferenced(owner, index)
    }
    this.end(result)
    for (const piece of waiting) piece.begin()
  }

  private end(result: number): void {
    const { request, volume } = this
    this.request = NO_REQUEST
    volume.recyclePiece(this)
    request.pieceDone(result)
  }
}

const EMPTY = new Uint8Array(0)
const IGNORED: Completion = { complete: () => {} }
const NO_REQUEST = null as unknown as VolumeRequest
