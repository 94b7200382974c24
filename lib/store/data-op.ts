/** Reads and writes of objects: pooled, so that a 4 KiB request allocates nothing here. */
import { assert } from '../assert.js'
import { type Completion, type Disk, DiskError } from '../host/interfaces.js'
import type { Handle, HandleCache } from './handle-cache.js'
import { HEADER_BYTES } from './header.js'
import type { HeaderWriter } from './header-writer.js'
import { HEADER_WRITTEN, type ObjectFile } from './object-file.js'
import type { SpaceGauge } from './space-gauge.js'

export const READ = 0
/** Whatever the checksums say. What is greater than this changes the object */
export const READ_AS_IS = 1
export const WRITE = 2
export const PUNCH = 3
export const ZERO = 4
export const ALLOCATE = 5
const NAMES = ['read', 'read', 'write', 'punch', 'zero', 'allocate']

const POOL_MAX = 1024
const EIO = 5
const ENOSPC = 28
/** What a medium error is to the kernel's block layer; file systems mostly say EIO */
const ENODATA = 61
/** The bytes do not match their checksum, or cannot be read: the object's trouble, not the disk's */
const EBADMSG = 74
/** A received copy took the object's place, or its disk was lost, while this write was in flight */
const ESTALE = 116

const NO_BYTES = new Uint8Array(0)
const NOBODY: Completion = { complete() {} }

export interface DataPath {
  readonly disk: Disk
  readonly handles: HandleCache
  readonly headers: HeaderWriter
  readonly gauge: SpaceGauge
  /** A file whose checksums were compared in it need not be looked at again before a read: it changes now and then */
  readonly trust: number
  /** The file's content has changed, or is about to */
  wrote(file: ObjectFile): void
  /** Compares what a read will read with its checksums: 0, or a negative errno (-74: it does not match) */
  look(file: ObjectFile, handle: Handle, position: number, length: number, done: Completion): void
  /** The disk did not do what it was asked for, and not for want of room */
  failed(errno: number, what: string): void
  /** It could not read a part of the file */
  unreadable(file: ObjectFile): void
}

class DataOp implements Completion {
  kind = READ
  file: ObjectFile | null = null
  /** null: waiting for the file's header, or for the look at its checksums */
  handle: Handle | null = null
  /** Pinned since before the look */
  kept: Handle | null = null
  buffer: Uint8Array = NO_BYTES
  bufferOffset = 0
  length = 0
  position = 0
  done = NOBODY

  constructor(private readonly ops: DataOps) {}

  begin(): void {
    const file = this.file!
    if (this.kind > READ_AS_IS) {
      if (file.mending > 0) {
        file.mendWaiters.push(() => this.begin())
        return
      }
      const { path } = this.ops
      file.writing++
      if (file.removed) {
        this.issue()
        return
      }
      if (file.shift !== 0) file.touch(this.position, this.length)
      if (!file.wrote) path.wrote(file)
      path.gauge.wrote(this.length)
      if (file.header !== HEADER_WRITTEN) {
        path.headers.ready(file, this)
        return
      }
    } else if (file.summed && this.kind === READ && this.mustLook(file)) {
      this.lookFirst(file)
      return
    }
    this.issue()
  }

  /** A small read does not pay for a whole chunk, unless the object is known to be rotten, or nothing is trusted. */
  private mustLook(file: ObjectFile): boolean {
    const { trust } = this.ops.path
    if (this.length < 2 ** file.shift && file.rot === null && trust !== 0) return false
    return !file.isSure(this.position, this.length, trust)
  }

  /** The file stays open meanwhile: the object may be removed. */
  private lookFirst(file: ObjectFile): void {
    const { path } = this.ops
    try {
      this.kept = path.handles.of(file)
    } catch (error) {
      if (!(error instanceof DiskError)) throw error
      this.refused(error.errno)
      return
    }
    this.kept.pins++
    path.look(file, this.kept, this.position, this.length, this)
  }

  private issue(): void {
    const { disk, handles } = this.ops.path
    const file = this.file!
    let handle = this.kept ?? file.handle
    if (handle === null) {
      // It went away while it waited: there is nothing left to change.
      if (file.removed) {
        this.finish(file.replaced ? -ESTALE : this.length)
        return
      }
      try {
        handle = handles.of(file)
      } catch (error) {
        if (!(error instanceof DiskError)) throw error
        this.refused(error.errno)
        return
      }
    }
    handle.used = true
    handle.pins++
    this.handle = handle
    const position = this.position + HEADER_BYTES
    if (this.kind <= READ_AS_IS) disk.read(handle.fd, this.buffer, this.bufferOffset, this.length, position, this)
    else if (this.kind === WRITE) disk.write(handle.fd, this.buffer, this.bufferOffset, this.length, position, this)
    else if (this.kind === PUNCH) disk.punch(handle.fd, position, this.length, this)
    else if (this.kind === ZERO) disk.zero(handle.fd, position, this.length, this)
    else disk.allocate(handle.fd, position, this.length, this)
  }

  complete(result: number): void {
    const { handle } = this
    if (handle === null) {
      if (result < 0) this.finish(result)
      else this.issue()
      return
    }
    const file = this.file!
    this.handle = null
    this.ops.path.handles.unpin(handle)
    if (this.kind <= READ_AS_IS) {
      if (result >= 0 && result < this.length) {
        this.buffer.fill(0, this.bufferOffset + result, this.bufferOffset + this.length)
        result = this.length
      }
    } else {
      // A sync that started while this was in flight need not have covered it.
      if (!file.wrote) this.ops.path.wrote(file)
      if (result >= 0) {
        if (file.replaced) result = -ESTALE
        else if (this.kind === WRITE && result < this.length) result = -EIO
        else result = this.length
      }
    }
    this.finish(result)
  }

  /** The file does not open. */
  private refused(errno: number): void {
    if (errno !== ENOSPC) this.ops.path.failed(errno, 'open')
    this.end(-errno)
  }

  private finish(result: number): void {
    const { path } = this.ops
    if (this.kind <= READ_AS_IS && (result === -EIO || result === -ENODATA)) {
      // A sector, most likely: what it held is brought back from other replicas, if they have it.
      path.unreadable(this.file as ObjectFile)
      result = -EBADMSG
    } else if (result < 0 && result !== -ENOSPC && result !== -ESTALE && result !== -EBADMSG) {
      path.failed(-result, NAMES[this.kind])
    }
    this.end(result)
  }

  private end(result: number): void {
    const { done, kept } = this
    if (kept !== null) {
      this.kept = null
      this.ops.path.handles.unpin(kept)
    }
    if (this.kind > READ_AS_IS) (this.file as ObjectFile).writing--
    this.ops.recycle(this)
    done.complete(result)
  }
}

export class DataOps {
  private readonly pool: DataOp[] = []

  constructor(readonly path: DataPath) {}

  start(
    kind: number,
    file: ObjectFile,
    buffer: Uint8Array | null,
    bufferOffset: number,
    length: number,
    position: number,
    done: Completion,
  ): void {
    assert(!file.removed, 'an object that is gone is not used')
    assert(position >= 0 && length >= 0, 'a range lies within its object')
    if (length === 0) {
      done.complete(0)
      return
    }
    const op = this.pool.pop() ?? new DataOp(this)
    op.kind = kind
    op.file = file
    if (buffer !== null) op.buffer = buffer
    op.bufferOffset = bufferOffset
    op.length = length
    op.position = position
    op.done = done
    op.begin()
  }

  recycle(op: DataOp): void {
    op.file = null
    op.buffer = NO_BYTES
    op.done = NOBODY
    if (this.pool.length < POOL_MAX) this.pool.push(op)
  }
}
