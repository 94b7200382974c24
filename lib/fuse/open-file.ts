/**
 * A file that somebody has open: the volume behind it, its lock, its length.
 *
 *     nothing open --first read--> read lock, or a look without one while another host writes
 *          |  ^                         |
 *          |  +--last close-------------+
 *          +--open for writing--> write lock --last close of a writer: its length settled--> nothing open
 *
 * An open alone takes no lock: who only asks for a file's size or looks at its header (libvirt at each refresh of a pool) must not keep
 * others from starting a machine. Requests that find no volume fail with ESHUTDOWN, and come again after `prepare`.
 *
 * Length. What the cluster's registry says is exact while the file does not grow. At the first write beyond the end the VDI gets room for
 * many such writes, and from then on the inode object says how long the file is, in the same step as the data. The last close of a writer,
 * or a truncate, makes the VDI as long as the file again. After a crash the next writer goes on from what the inode object says. What is
 * between the end of the file and the end of the VDI reads as zeros, always.
 */
import { SheepError } from '../errors.js'
import type { FileVolume } from '../gateway/types.js'
import type { Completion, Extent } from '../host/interfaces.js'
import { sleep } from '../replication/sleep.js'
import { completed } from '../store/completed.js'
import { entryPosition, MAX_ENTRIES, SIZE_GRAIN } from '../vdi/inode.js'
import { readLength } from '../vdi/inode-io.js'
import { dataOid, inodeOid } from '../vdi/oid.js'
import type { VdiEntry } from '../vdi/types.js'
import { CopyWatch, type SnapshotReads } from './copies.js'
import { errnoOf, type FilesParts, proposePatiently } from './parts.js'
import { EBUSY, EFBIG, EINVAL, EIO, ENXIO, EPERM, ESHUTDOWN } from './protocol.js'
import { FuseError } from './session.js'
import { descendFrom } from './sharing.js'

/** Room that a growing file gets ahead of its end: half of what it has, within these */
const AHEAD_MIN = 64 << 20
const AHEAD_MAX = 16 * 2 ** 30
/** Objects looked at, or discarded, at once */
const SPAN_OBJECTS = 256
const LOCKED_MS_MAX = 2_000
const LOCKED_RETRY_MS = 50
const WAIT_MS = 200
const PEEK_TRIES = 5
/** What passes by itself: requests wait, as a disk's do. */
const PASSING: ReadonlySet<string> = new Set([
  'halted',
  'starting-up',
  'wait-for-format',
  'wait-for-join',
  'busy',
  'timeout',
  'unreachable',
])

const SEEK_DATA = 3
const SEEK_HOLE = 4

export class OpenFile {
  readers = 0
  writers = 0
  private volume: FileVolume | null = null
  private writable = false
  /** Another host writes it: reads without a lock, of what is there now */
  private peeking = false
  private length = 0
  private growing = false
  /** Of the last write here, ms since the Unix epoch; 0 none since it was last told to the cluster */
  private written = 0
  private tail: Promise<unknown> = Promise.resolve()
  private stopping = false
  private readonly copies: CopyWatch

  constructor(
    readonly node: number,
    private readonly parts: FilesParts,
    private readonly snapshotReads: SnapshotReads,
    /** SheepError not-found: it is gone */
    private readonly entryNow: () => VdiEntry,
  ) {
    this.copies = new CopyWatch(parts, snapshotReads, () => (this.writable ? this.volume : null))
  }

  get idle(): boolean {
    return this.readers === 0 && this.writers === 0
  }

  /** While it is open for writing here nobody knows better. */
  get known(): { length: number; mtime: number } | null {
    return this.volume !== null && this.writable ? { length: this.length, mtime: this.written } : null
  }

  /** The snapshot or volume that is open here now, for who shares objects with it. */
  get source(): FileVolume | null {
    return this.volume
  }

  // --- open and close

  /** SheepError, FuseError EBUSY. */
  openFor(writes: boolean): Promise<void> {
    // At once, so that a close under way does not think itself the last.
    this.count(writes, 1)
    return this.alone(async () => {
      if (!writes || this.writable) return
      try {
        await this.drop()
        await this.take(true, LOCKED_MS_MAX)
      } catch (error) {
        this.count(true, -1)
        throw error
      }
    })
  }

  private count(writes: boolean, change: 1 | -1): void {
    if (writes) this.writers += change
    else this.readers += change
  }

  /** Resolves when what it held is let go. */
  closeOf(writes: boolean): Promise<void> {
    this.count(writes, -1)
    return this.alone(async () => {
      if (this.writers > 0 || (!this.writable && this.readers > 0)) return
      await this.copies.end()
      await this.settle()
      await this.drop()
    })
  }

  /** After all that is under way: whoever deletes it needs its lock gone. */
  quiet(): Promise<void> {
    return this.alone(() => Promise.resolve())
  }

  /** The daemon stops: nothing waits for the cluster any more. */
  stop(): Promise<void> {
    this.stopping = true
    this.copies.abandon()
    return this.alone(async () => {
      if (this.parts.cluster.status === 'running') await this.settle()
      await this.drop()
    })
  }

  /** 0 when the next request finds a volume, or a positive errno. */
  prepare(writes: boolean): Promise<number> {
    return this.alone(async () => {
      const forWriting = writes || this.writers > 0
      while (!this.stopping) {
        if (this.peeking && !forWriting) return 0
        if (this.volume !== null && (this.writable || !forWriting)) return 0
        try {
          await this.drop()
          await this.take(forWriting, 0)
          return 0
        } catch (error) {
          if (error instanceof FuseError) return error.errno === EBUSY ? EIO : error.errno
          const errno = errnoOf(error)
          if (!PASSING.has((error as SheepError).code)) return errno
        }
        await sleep(this.parts.clock, WAIT_MS)
      }
      return ESHUTDOWN
    })
  }

  private async take(writes: boolean, patience: number): Promise<void> {
    const { clock, volumes } = this.parts
    const begun = clock.now()
    for (;;) {
      const entry = this.entryNow()
      if (writes && entry.snapshotTime !== 0) throw new FuseError(EPERM)
      const snapshot = entry.snapshotTime === 0 ? '' : String(entry.snapId)
      try {
        const holder = 'file in the volumes directory'
        const volume = await volumes.open({ name: entry.name, snapshot, readOnly: !writes, holder, shareable: true })
        await this.took(volume, writes)
        return
      } catch (error) {
        if (!(error instanceof SheepError) || error.code !== 'locked') throw error
        if (!writes) {
          this.peeking = true
          return
        }
        if (clock.now() - begun >= patience) throw new FuseError(EBUSY)
      }
      await sleep(clock, LOCKED_RETRY_MS)
    }
  }

  private async took(volume: FileVolume, writes: boolean): Promise<void> {
    volume.onChange = (what) => {
      if (this.volume !== volume) return
      if (what === 'revoked') {
        this.volume = null
        this.writable = false
      } else if (!this.growing) {
        this.length = lengthIn(volume.entry)
      }
    }
    try {
      this.length = await fileLength(this.parts, volume.entry)
      this.growing = volume.entry.file?.growing === true
      this.volume = volume
      this.writable = writes
      // What a writer that was cut off wrote behind the end was never acknowledged.
      if (writes && this.growing) await this.discardRange(this.length, volume.size)
    } catch (error) {
      this.volume = null
      this.writable = false
      await volume.close()
      throw error
    }
  }

  private async drop(): Promise<void> {
    const { volume } = this
    this.volume = null
    this.writable = false
    this.peeking = false
    if (volume === null) return
    volume.onChange = null
    await volume.close()
  }

  private async settle(): Promise<void> {
    if (this.volume === null || !this.writable) return
    try {
      if (this.growing) await this.setLength(this.length, false)
      if (this.written !== 0) {
        const change = { mtime: this.written }
        const vid = () => this.volume?.entry.vid ?? 0
        await proposePatiently(this.parts, () => ({ op: 'set-file', vid: vid(), change }))
        this.written = 0
      }
    } catch (error) {
      // The next who writes does it: the inode object knows the length.
      this.parts.log('warning', 'a file was closed before its length was settled', {
        errno: errnoOf(error),
      })
    }
  }

  private async setLength(length: number, growing: boolean, size = sizeFor(length)): Promise<void> {
    const volume = this.opened()
    await proposePatiently(this.parts, () => ({ op: 'resize', vid: volume.entry.vid, size, length, growing }))
    this.growing = growing
    this.length = length
  }

  /** One after another: what changes who holds what, or the length. */
  private alone<T>(work: () => Promise<T>): Promise<T> {
    const result = this.tail.then(work)
    this.tail = result.catch(() => {})
    return result
  }

  private opened(): FileVolume {
    if (this.volume === null || !this.writable) throw new FuseError(EIO)
    return this.volume
  }

  // --- data

  read(buffer: Buffer, at: number, length: number, offset: number, done: Completion): void {
    const { volume } = this
    if (this.peeking) {
      this.peek(buffer, at, length, offset).then((result) => done.complete(result))
    } else if (volume === null) {
      done.complete(-ESHUTDOWN)
    } else {
      if (volume.entry.snapshotTime !== 0) this.snapshotReads.note(this.node)
      const count = Math.min(length, this.length - offset)
      if (count <= 0) done.complete(0)
      else volume.read(buffer, at, count, offset, done)
    }
  }

  write(buffer: Buffer, at: number, length: number, offset: number, done: Completion): void {
    const { volume } = this
    if (volume === null || !this.writable) {
      done.complete(-ESHUTDOWN)
      return
    }
    this.written = this.parts.clock.wall()
    if (this.snapshotReads.any && !this.copies.wrote(offset, length, volume.objectSize)) {
      this.copies.room().then(() => this.write(buffer, at, length, offset, done))
    } else if (offset + length <= this.length) volume.write(buffer, at, length, offset, false, done)
    else this.extend(buffer, at, length, offset).then((result) => done.complete(result))
  }

  /** Bytes, or a negative errno. */
  private extend(buffer: Buffer, at: number, length: number, offset: number): Promise<number> {
    return this.alone(async () => {
      const end = offset + length
      try {
        const volume = this.opened()
        await this.reach(end)
        const result = await completed((done) => volume.writeGrowing(buffer, at, length, offset, done))
        if (result >= 0) this.length = Math.max(this.length, end)
        return result
      } catch (error) {
        return -(error instanceof FuseError ? error.errno : errnoOf(error))
      }
    })
  }

  /** Room for a write that ends there. */
  private async reach(end: number): Promise<void> {
    const volume = this.opened()
    const most = volume.objectSize * MAX_ENTRIES
    if (end > most) throw new FuseError(EFBIG)
    if (this.growing && end <= volume.size) return
    if (!this.growing) {
      const recorded = await volume.recordLength(this.length)
      if (recorded < 0) throw new FuseError(-recorded)
    }
    const ahead = Math.min(Math.max(AHEAD_MIN, end / 2), AHEAD_MAX)
    const size = Math.ceil(Math.min(end + ahead, most) / volume.objectSize) * volume.objectSize
    await this.setLength(this.length, true, Math.max(size, volume.size))
  }

  flush(): Promise<number> {
    const { volume } = this
    if (volume === null || !this.writable) return Promise.resolve(0)
    return completed((done) => volume.flush(done))
  }

  /** FuseError, SheepError, as all below. The file must be open for writing. */
  truncate(length: number): Promise<void> {
    return this.alone(async () => {
      const volume = this.opened()
      if (sizeFor(length) > volume.objectSize * MAX_ENTRIES) throw new FuseError(EFBIG)
      this.written = this.parts.clock.wall()
      if (length < this.length) await this.discardRange(length, volume.size)
      if (length !== this.length) await this.setLength(length, false)
    })
  }

  discard(offset: number, length: number): Promise<void> {
    const end = Math.min(offset + length, this.length)
    this.opened()
    this.written = this.parts.clock.wall()
    return end <= offset ? Promise.resolve() : this.discardRange(offset, end)
  }

  /** Zeros with blocks of their own; `grows`: the file ends there at least. */
  zero(offset: number, length: number, grows: boolean): Promise<void> {
    return this.fill(offset, length, grows, (volume, at, count, done) => volume.zero(count, at, true, false, done))
  }

  allocate(offset: number, length: number, grows: boolean): Promise<void> {
    return this.fill(offset, length, grows, (volume, at, count, done) => volume.allocate(count, at, done))
  }

  private fill(
    offset: number,
    length: number,
    grows: boolean,
    run: (volume: FileVolume, at: number, count: number, done: Completion) => void,
  ): Promise<void> {
    return this.alone(async () => {
      const volume = this.opened()
      const wanted = offset + length
      if (wanted > volume.objectSize * MAX_ENTRIES) throw new FuseError(EFBIG)
      this.written = this.parts.clock.wall()
      if (grows && wanted > this.length) await this.setLength(wanted, false)
      // Behind the end of the file there is nothing to reserve, or to be seen.
      const end = Math.min(wanted, this.length)
      const span = SPAN_OBJECTS * volume.objectSize
      for (let at = offset; at < end; at += span) {
        await this.must((done) => run(volume, at, Math.min(span, end - at), done))
      }
    })
  }

  /**
   * Whole objects of a snapshot become this file's without a copy; so does its last one, where this file ends there too. The bytes from
   * `offset` on that were shared; 0: none can be.
   */
  shareFrom(snapshot: OpenFile, offset: number, length: number): Promise<number> {
    return this.alone(async () => {
      const volume = this.opened()
      const source = snapshot.volume
      const { objectSize } = volume
      if (source === null || source.entry.snapshotTime === 0 || source.objectSize !== objectSize) return 0
      const end = Math.min(offset + length, snapshot.length, offset + SPAN_OBJECTS * objectSize)
      const toItsEnd = end === snapshot.length && this.length <= end
      const last = toItsEnd ? Math.ceil(end / objectSize) : Math.floor(end / objectSize)
      const first = offset / objectSize
      if (first % 1 !== 0 || last <= first || !(await descendFrom(this.parts, volume, source.entry.vid))) return 0
      const shared = Math.min(end, last * objectSize)
      if (shared > this.length) await this.setLength(shared, false)
      for (let index = first; index < last; index++) {
        const result = await volume.share(index, source, 'replace')
        if (result < 0) throw new FuseError(-result)
      }
      this.written = this.parts.clock.wall()
      return shared - offset
    })
  }

  /** ENXIO behind the last data or the end. Another host's writer: all is data. */
  async seek(offset: number, whence: number): Promise<number> {
    if (whence !== SEEK_DATA && whence !== SEEK_HOLE) throw new FuseError(EINVAL)
    const errno = await this.prepare(false)
    if (errno !== 0) throw new FuseError(errno)
    const { volume } = this
    const length = volume === null ? await fileLength(this.parts, this.entryNow()) : this.length
    if (offset < 0 || offset >= length) throw new FuseError(ENXIO)
    if (volume === null) return whence === SEEK_DATA ? offset : length
    const span = SPAN_OBJECTS * volume.objectSize
    for (let at = offset; at < length; at += span) {
      const extents = await volume.extents(Math.min(span, length - at), at)
      const found = whence === SEEK_DATA ? extents[0]?.offset : holeIn(extents, at, Math.min(at + span, length))
      if (found !== undefined) return found
    }
    if (whence === SEEK_HOLE) return length
    throw new FuseError(ENXIO)
  }

  private async discardRange(from: number, to: number): Promise<void> {
    const volume = this.volume as FileVolume
    const span = SPAN_OBJECTS * volume.objectSize
    for (let at = from; at < to; at += span) {
      for (const { offset, length } of await volume.extents(Math.min(span, to - at), at)) {
        await this.must((done) => volume.discard(length, offset, false, done))
      }
    }
  }

  private async must(start: (done: Completion) => void): Promise<void> {
    const result = await completed(start)
    if (result < 0) throw new FuseError(-result)
  }

  // --- without a lock

  private async peek(buffer: Buffer, at: number, length: number, offset: number): Promise<number> {
    for (let tries = 1; ; tries++) {
      try {
        return await this.look(buffer, at, length, offset)
      } catch (error) {
        const errno = errnoOf(error)
        // Freed between two looks.
        if ((error as SheepError).code !== 'no-object' || tries === PEEK_TRIES) return -errno
      }
      await sleep(this.parts.clock, LOCKED_RETRY_MS)
    }
  }

  private async look(buffer: Buffer, at: number, length: number, offset: number): Promise<number> {
    const { io } = this.parts
    const entry = this.entryNow()
    const end = Math.min(offset + length, await fileLength(this.parts, entry))
    const objectSize = 2 ** entry.blockSizeShift
    for (let from = offset; from < end; ) {
      const index = Math.floor(from / objectSize)
      const to = Math.min(end, (index + 1) * objectSize)
      const owner = (await io.read(inodeOid(entry.vid), entryPosition(index), 4)).readUInt32LE()
      const target = at + from - offset
      if (owner === 0) buffer.fill(0, target, target + to - from)
      else (await io.read(dataOid(owner, index), from - index * objectSize, to - from)).copy(buffer, target)
      from = to
    }
    return Math.max(0, end - offset)
  }
}

/** Of a file that does not grow. */
export function lengthIn({ file, size }: VdiEntry): number {
  return file?.length ?? size
}

/** SheepError, when the inode object has to be asked and cannot be. */
export async function fileLength(parts: FilesParts, entry: VdiEntry): Promise<number> {
  if (entry.file?.growing !== true) return lengthIn(entry)
  const recorded = (await readLength(parts.io, entry.vid)).readBigUInt64LE()
  return Math.min(Number(recorded), entry.size)
}

function sizeFor(length: number): number {
  return Math.max(SIZE_GRAIN, Math.ceil(length / SIZE_GRAIN) * SIZE_GRAIN)
}

function holeIn(extents: readonly Extent[], from: number, to: number): number | undefined {
  let at = from
  for (const { offset, length } of extents) {
    if (offset > at) return at
    at = offset + length
  }
  return at < to ? at : undefined
}
