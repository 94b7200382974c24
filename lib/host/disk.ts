/**
 * A directory tree on a real file system.
 *
 * Staying responsive. Data calls run inline, because a round trip through the thread pool costs 15 to 30 us and a 4 KiB
 * copy from the page cache under one. Reads ask the kernel for what it has at hand (`NowaitReader`) and send the rest to
 * the pool, so a cold cache never stops the event loop. Where the kernel cannot say (tmpfs, NFS), and for writes, which
 * seldom wait but do so when the kernel throttles or a page must be read first, calls are timed: each that takes over
 * SLOW_MS sends DETOURS more through the pool, each quick one takes one off. So a daemon that was merely off the CPU for
 * a moment pays for 8 round trips, and a slow disk never stops the loop twice in a row. Timing costs 0.1 us a call.
 */
import fs from 'node:fs'
import path from 'node:path'
import { assert } from '../assert.js'
import { type Completion, type Disk, DiskError, type DiskSpace, type Extent, type OpenMode } from './interfaces.js'
import {
  EAGAIN,
  EINTR,
  ENOSYS,
  ENXIO,
  EOPNOTSUPP,
  FALLOC_KEEP_SIZE,
  FALLOC_PUNCH_HOLE,
  FALLOC_ZERO_RANGE,
  fallocate,
  fallocateAsync,
  NowaitReader,
  seekData,
  seekHole,
  willNeed,
} from './native.js'

/** An inline call longer than this is noticed by every client of this daemon. */
const SLOW_MS = 5
const ENODEV = 19
/** So many bytes may take long on a disk that is quick enough for less */
const BULK = 64 * 1024
const DETOURS = 8
const DETOURS_MAX = 64
/** Zeros are written in pieces of this many bytes where the file system cannot make a hole. */
const ZERO_PIECE = 1 << 20

const FLAGS: Record<OpenMode, number> = {
  read: fs.constants.O_RDONLY,
  write: fs.constants.O_RDWR,
  create: fs.constants.O_RDWR | fs.constants.O_CREAT,
  'create-new': fs.constants.O_RDWR | fs.constants.O_CREAT | fs.constants.O_EXCL,
}

/** Positive errno of an error from node:fs. */
function errnoOf(error: unknown): number {
  const { errno } = error as NodeJS.ErrnoException
  // Anything else is a wrong argument: a bug, not the disk.
  if (typeof errno !== 'number') throw error
  return Math.abs(errno)
}

function failure(error: unknown, operation: string, name: string): DiskError {
  return new DiskError(errnoOf(error), operation, name, (error as Error).message)
}

/** Which directory of which file system; '' none. */
function deviceOf(root: string): string {
  const found = fs.statSync(root, { throwIfNoEntry: false })
  return found === undefined ? '' : `${found.dev} ${found.ino}`
}

/** proc(5), random/boot_id: a new one with each boot. */
function readBootId(): string {
  try {
    return fs.readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim()
  } catch {
    return ''
  }
}

/** proc(5), /proc/pid/limits. Node has raised the soft limit to the hard one when it started. */
function readOpenFilesMax(): number | undefined {
  try {
    const line = /^Max open files +([0-9]+)/m.exec(fs.readFileSync('/proc/self/limits', 'latin1'))
    return line === null ? undefined : Number(line[1])
  } catch {
    return undefined // no /proc: the store copes with EMFILE
  }
}

export class RealDisk implements Disk {
  private readonly nowait = new NowaitReader()
  private nowaitWorks = true
  /** Calls still to go through the pool */
  private detours = 0
  private zeros: Uint8Array | null = null

  readonly bootId = readBootId()
  readonly openFilesMax = readOpenFilesMax()
  private readonly durable: boolean
  /** Of the root, when it was opened */
  private readonly device: string

  /**
   * @param root an existing directory
   * @param options.sync false: syncs do nothing, for stores that may be lost with the power (`sheep -n`)
   */
  constructor(
    readonly root: string,
    options: { sync?: boolean } = {},
  ) {
    this.durable = options.sync ?? true
    this.device = deviceOf(root)
  }

  makeDirectory(name: string): void {
    try {
      fs.mkdirSync(this.at(name), { mode: 0o750 })
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST' || !fs.statSync(this.at(name)).isDirectory()) {
        throw failure(error, 'mkdir', this.at(name))
      }
    }
  }

  list(name: string): string[] {
    try {
      return fs.readdirSync(this.at(name))
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
      throw failure(error, 'list', this.at(name))
    }
  }

  exists(name: string): boolean {
    try {
      return fs.lstatSync(this.at(name), { throwIfNoEntry: false }) !== undefined
    } catch (error) {
      throw failure(error, 'stat', this.at(name))
    }
  }

  open(name: string, mode: OpenMode): number {
    try {
      return fs.openSync(this.at(name), FLAGS[mode], 0o640)
    } catch (error) {
      throw failure(error, 'open', this.at(name))
    }
  }

  close(fd: number): void {
    try {
      fs.closeSync(fd)
    } catch (error) {
      throw failure(error, 'close', `file ${fd}`)
    }
  }

  size(fd: number): number {
    try {
      return fs.fstatSync(fd).size
    } catch (error) {
      throw failure(error, 'stat', `file ${fd}`)
    }
  }

  truncate(fd: number, size: number): void {
    try {
      fs.ftruncateSync(fd, size)
    } catch (error) {
      throw failure(error, 'truncate', `file ${fd}`)
    }
  }

  unlink(name: string): void {
    try {
      fs.unlinkSync(this.at(name))
    } catch (error) {
      throw failure(error, 'remove', this.at(name))
    }
  }

  rename(from: string, to: string): void {
    try {
      fs.renameSync(this.at(from), this.at(to))
    } catch (error) {
      throw failure(error, 'rename', this.at(from))
    }
  }

  readFile(name: string): Buffer | null {
    try {
      return fs.readFileSync(this.at(name))
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
      throw failure(error, 'read', this.at(name))
    }
  }

  writeFileAtomic(name: string, content: Buffer | string): void {
    const target = this.at(name)
    const fresh = `${target}.new`
    let fd = -1
    try {
      fd = fs.openSync(fresh, 'w', 0o640)
      fs.writeFileSync(fd, content)
      if (this.durable) fs.fsyncSync(fd)
      fs.closeSync(fd)
      fd = -1
      fs.renameSync(fresh, target)
      if (!this.durable) return
      fd = fs.openSync(path.dirname(target), 'r')
      fs.fsyncSync(fd)
    } catch (error) {
      throw failure(error, 'write', target)
    } finally {
      if (fd >= 0) fs.closeSync(fd)
    }
  }

  /** DiskError also when another file system, or none, has come to lie at the root: what is there is not ours. */
  space(): DiskSpace {
    if (deviceOf(this.root) !== this.device) {
      throw new DiskError(ENODEV, 'statfs', this.root, 'the file system that was mounted here has gone')
    }
    try {
      const { bsize, blocks, bavail } = fs.statfsSync(this.root)
      return { total: blocks * bsize, free: bavail * bsize }
    } catch (error) {
      throw failure(error, 'statfs', this.root)
    }
  }

  read(fd: number, buffer: Uint8Array, bufferOffset: number, length: number, position: number, done: Completion): void {
    let count = 0
    while (this.nowaitWorks && count < length) {
      const result = this.nowait.read(fd, buffer, bufferOffset + count, length - count, position + count)
      if (result > 0) count += result
      else if (result === 0) {
        done.complete(count)
        return
      } else if (result === -EOPNOTSUPP || result === -ENOSYS) this.nowaitWorks = false
      else if (result === -EAGAIN) {
        this.readInPool(fd, buffer, bufferOffset, length, position, count, done)
        return
      } else if (result !== -EINTR) {
        done.complete(result)
        return
      }
    }
    if (count === length) {
      done.complete(count)
      return
    }
    if (this.detours > 0) {
      this.readInPool(fd, buffer, bufferOffset, length, position, count, done)
      return
    }
    const start = performance.now()
    try {
      while (count < length) {
        const result = fs.readSync(fd, buffer, bufferOffset + count, length - count, position + count)
        if (result === 0) break
        count += result
      }
    } catch (error) {
      count = -errnoOf(error)
    }
    this.timed(start)
    done.complete(count)
  }

  willNeed(fd: number, position: number, length: number): void {
    willNeed(fd, position, length)
  }

  private readInPool(
    fd: number,
    buffer: Uint8Array,
    bufferOffset: number,
    length: number,
    position: number,
    count: number,
    done: Completion,
  ): void {
    const start = performance.now()
    fs.read(fd, buffer, bufferOffset + count, length - count, position + count, (error, result) => {
      this.timed(start)
      if (error !== null) done.complete(-errnoOf(error))
      else if (result === 0 || count + result === length) done.complete(count + result)
      else this.readInPool(fd, buffer, bufferOffset, length, position, count + result, done)
    })
  }

  write(
    fd: number,
    buffer: Uint8Array,
    bufferOffset: number,
    length: number,
    position: number,
    done: Completion,
  ): void {
    if (this.detours > 0) {
      this.writeInPool(fd, buffer, bufferOffset, length, position, 0, done)
      return
    }
    let count = 0
    const start = performance.now()
    try {
      // A short count comes before an error (ENOSPC, a signal): the next call says which.
      while (count < length) {
        count += fs.writeSync(fd, buffer, bufferOffset + count, length - count, position + count)
      }
    } catch (error) {
      count = -errnoOf(error)
    }
    this.timed(start)
    done.complete(count)
  }

  writeBulk(
    fd: number,
    buffer: Uint8Array,
    bufferOffset: number,
    length: number,
    position: number,
    done: Completion,
  ): void {
    this.writeInPool(fd, buffer, bufferOffset, length, position, 0, done)
  }

  private writeInPool(
    fd: number,
    buffer: Uint8Array,
    bufferOffset: number,
    length: number,
    position: number,
    count: number,
    done: Completion,
  ): void {
    const start = performance.now()
    fs.write(fd, buffer, bufferOffset + count, length - count, position + count, (error, result) => {
      if (length < BULK) this.timed(start)
      if (error !== null) done.complete(-errnoOf(error))
      else if (count + result >= length) done.complete(count + result)
      else this.writeInPool(fd, buffer, bufferOffset, length, position, count + result, done)
    })
  }

  private timed(start: number): void {
    if (performance.now() - start > SLOW_MS) this.detours = Math.min(this.detours + DETOURS, DETOURS_MAX)
    else if (this.detours > 0) this.detours--
  }

  punch(fd: number, position: number, length: number, done: Completion): void {
    this.fallocate(fd, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, position, length, done)
  }

  allocate(fd: number, position: number, length: number, done: Completion): void {
    this.fallocate(fd, 0, position, length, done)
  }

  zero(fd: number, position: number, length: number, done: Completion): void {
    this.fallocate(fd, FALLOC_ZERO_RANGE, position, length, done)
  }

  private fallocate(fd: number, mode: number, position: number, length: number, done: Completion): void {
    if (length === 0) {
      done.complete(0)
      return
    }
    const start = performance.now()
    const ended = (result: number) => {
      this.timed(start)
      if (result === -EOPNOTSUPP || result === -ENOSYS) this.withoutFallocate(fd, mode, position, length, done)
      else if (result === -EINTR) this.fallocate(fd, mode, position, length, done)
      else done.complete(result)
    }
    if (this.detours > 0) fallocateAsync(fd, mode, position, length, ended)
    else ended(fallocate(fd, mode, position, length))
  }

  /** The file system lacks this mode of fallocate (NFS, tmpfs for zero): the same bytes in the plain way. */
  private withoutFallocate(fd: number, mode: number, position: number, length: number, done: Completion): void {
    const end = position + length
    let ranges: Extent[] = [{ offset: position, length }]
    try {
      if ((mode & FALLOC_PUNCH_HOLE) !== 0) {
        // What is a hole, or past the end, reads as zeros already.
        ranges = this.extents(fd, position, length)
      } else if (mode === 0) {
        // Only what holds no data may be written over.
        const data = this.extents(fd, position, length)
        ranges = []
        let at = position
        for (const extent of [...data, { offset: end, length: 0 }]) {
          if (extent.offset > at) ranges.push({ offset: at, length: extent.offset - at })
          at = extent.offset + extent.length
        }
      }
    } catch (error) {
      if (!(error instanceof DiskError)) throw error
      done.complete(-error.errno)
      return
    }
    this.writeZeros(fd, ranges, done)
  }

  private writeZeros(fd: number, ranges: Extent[], done: Completion): void {
    const range = ranges[0]
    if (range === undefined) {
      done.complete(0)
      return
    }
    this.zeros ??= new Uint8Array(ZERO_PIECE)
    const count = Math.min(range.length, ZERO_PIECE)
    const rest = ranges.slice(1)
    if (count < range.length) rest.unshift({ offset: range.offset + count, length: range.length - count })
    this.write(fd, this.zeros, 0, count, range.offset, {
      complete: (result) => {
        if (result < 0) done.complete(result)
        else this.writeZeros(fd, rest, done)
      },
    })
  }

  sync(fd: number, done: Completion): void {
    if (!this.durable) {
      setImmediate(() => done.complete(0))
      return
    }
    fs.fdatasync(fd, (error) => done.complete(error === null ? 0 : -errnoOf(error)))
  }

  syncDirectory(name: string, done: Completion): void {
    if (!this.durable) {
      setImmediate(() => done.complete(0))
      return
    }
    let fd: number
    try {
      fd = fs.openSync(this.at(name), fs.constants.O_RDONLY | fs.constants.O_DIRECTORY)
    } catch (error) {
      const errno = errnoOf(error)
      setImmediate(() => done.complete(-errno))
      return
    }
    fs.fsync(fd, (error) => {
      fs.closeSync(fd)
      done.complete(error === null ? 0 : -errnoOf(error))
    })
  }

  extents(fd: number, position: number, length: number): Extent[] {
    const found: Extent[] = []
    const end = position + length
    for (let at = position; at < end; ) {
      const start = seekData(fd, at)
      if (start === -ENXIO) break
      if (start < 0) throw new DiskError(-start, 'seek', `file ${fd}`, `errno ${-start}`)
      if (start >= end) break
      const hole = seekHole(fd, start)
      if (hole < 0) throw new DiskError(-hole, 'seek', `file ${fd}`, `errno ${-hole}`)
      found.push({ offset: start, length: Math.min(hole, end) - start })
      at = hole
    }
    return found
  }

  usedBytes(fd: number): number {
    try {
      return fs.fstatSync(fd).blocks * 512
    } catch (error) {
      throw failure(error, 'stat', `file ${fd}`)
    }
  }

  /** `name` is '' (the root) or a relative path. */
  private at(name: string): string {
    assert(!name.startsWith('/') && !name.includes('..') && !name.includes('\0'), `a path within the store: ${name}`)
    return name === '' ? this.root : `${this.root}/${name}`
  }
}
