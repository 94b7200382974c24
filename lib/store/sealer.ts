/**
 * Checksums at rest of the store's objects: taken when an object goes quiet, compared before what nobody has looked at
 * for long is read, used to mend.
 *
 *     writing --quiet, flushed--> sums of the written chunks --header, synced--> nothing written meanwhile? --> intent goes
 *                                                                                 \--> stays hot; the sums are right for
 *                                                                                      all chunks that were not written
 *
 * What holds at every instant, also after a power loss (docs/architecture.md, "Objects at rest"): an object has an entry in
 * the intent log, or its header's checksums are those of its bytes, or it has none. A chunk that no write touched keeps its
 * checksum when the others get new ones, so rot in it is not taken for truth.
 */
import { type Clock, type Completion, type Disk, DiskError, type Log } from '../host/interfaces.js'
import { mutations } from '../mutations.js'
import { type Oid, oidToHex } from '../vdi/oid.js'
import { CHUNKS, type Checksums, ChunkReader, SHIFT_MAX, shiftFor, sumOf, UNREADABLE } from './checksums.js'
import { completed } from './completed.js'
import type { Handle, HandleCache } from './handle-cache.js'
import { decodeChecksums, HEADER_BYTES, HEADER_USED_BYTES } from './header.js'
import type { HeaderWriter } from './header-writer.js'
import { HEADER_WRITING, type ObjectFile, objectPath } from './object-file.js'
import type { Damage, ObjectSums } from './types.js'

const EIO = 5
const EBADMSG = 74
const ECANCELED = 125

/** What a disk reads or fails to read as one */
const PAGE = 4096
const ZEROS = Buffer.alloc(PAGE)

export interface SealerOptions {
  disk: Disk
  handles: HandleCache
  headers: HeaderWriter
  clock: Clock
  log: Log
  /** The file's header changes */
  changed: (file: ObjectFile) => void
  sync: (file: ObjectFile, done: Completion) => void
  durable: (file: ObjectFile) => boolean
  dropIntent: (oid: Oid) => void
  /** Chunks that do not match were found */
  rot: (file: ObjectFile) => void
  /** A chunk could not be read; as any rotten one it is known by its checksum */
  readFailed: (file: ObjectFile) => void
  /** The same, of one that has no checksum */
  unreadable: (file: ObjectFile) => void
}

export class Sealer {
  constructor(private readonly options: SealerOptions) {}

  /**
   * Takes checksums of what was written since they were last taken, durably. Then drops the intent, if there is one and
   * `quiet` still agrees. False: the object is as it was, or still hot. Throws DiskError.
   * @param bytes the object's full size; 0 unknown
   */
  async seal(file: ObjectFile, bytes: number, quiet: () => boolean): Promise<boolean> {
    if (file.removed || file.sealing || file.writing > 0 || file.mending > 0) return false
    file.sealing = true
    const handle = this.pin(file)
    try {
      return (await this.takeSums(file, handle, bytes)) && this.settled(file, quiet)
    } finally {
      file.sealing = false
      this.options.handles.unpin(handle)
    }
  }

  private settled(file: ObjectFile, quiet: () => boolean): boolean {
    if (file.removed || file.writing > 0 || file.writtenLow !== 0 || file.writtenHigh !== 0) return false
    if (!file.intent) return true
    if (!this.options.durable(file) || !quiet()) return false
    file.intent = false
    this.options.dropIntent(file.oid)
    return true
  }

  private async takeSums(file: ObjectFile, handle: Handle, bytes: number): Promise<boolean> {
    const { disk, headers } = this.options
    const shift = shiftFor(Math.max(bytes, disk.size(handle.fd) - HEADER_BYTES))
    const former = file.summed && file.shift === shift ? await this.readSums(file, handle) : null
    if (file.removed || file.writing > 0 || (former !== null && file.shift !== shift)) return false
    const content = disk.size(handle.fd) - HEADER_BYTES
    if (former === null) {
      file.summed = false
      file.shift = shift
      file.rot = null
      file.doubtAllChunks()
    } else if (file.writtenLow === 0 && file.writtenHigh === 0) {
      return this.sync(file)
    }
    // What is written from here on is marked anew.
    const { writtenLow, writtenHigh } = file
    file.writtenLow = 0
    file.writtenHigh = 0
    file.beingSummedLow = writtenLow
    file.beingSummedHigh = writtenHigh
    const wasWritten = (chunk: number) => ((chunk < 32 ? writtenLow : writtenHigh) & (1 << (chunk & 31))) !== 0
    let placed = false
    try {
      const sums = former?.sums ?? new Uint32Array(CHUNKS)
      const reader = new ChunkReader(disk, handle.fd, HEADER_BYTES, (read) => this.rest(read))
      for (let chunk = 0; chunk < CHUNKS; chunk++) {
        // A rotten chunk that was written in part: what is rotten in it stays so. And one that was not, behind the file's end, may be a
        // part that was rotten where the copy was taken from.
        if (wasWritten(chunk) && file.rot?.has(chunk) !== true) {
          const sum = chunk * 2 ** shift >= content ? 0 : await reader.sum(chunk, shift)
          if (sum === UNREADABLE) {
            this.options.unreadable(file)
            return false
          }
          sums[chunk] = sum
        }
        if (file.removed || file.shift !== shift) return false
      }
      file.sums = { shift, sums }
      this.options.changed(file)
      headers.update(file)
      const written = await completed((done) => headers.ready(file, done))
      file.sums = null
      if (written < 0 || file.removed || file.shift !== shift) return false
      file.summed = true
      file.seals++
      placed = true
    } finally {
      file.beingSummedLow = 0
      file.beingSummedHigh = 0
      if (!placed && file.shift === shift) {
        file.writtenLow |= writtenLow
        file.writtenHigh |= writtenHigh
      }
    }
    return this.sync(file)
  }

  private async sync(file: ObjectFile): Promise<boolean> {
    return !file.removed && (await completed((done) => this.options.sync(file, done))) >= 0
  }

  /** null: it has none. Throws DiskError. */
  async sums(file: ObjectFile): Promise<ObjectSums | null> {
    if (!file.summed || file.removed) return null
    const handle = this.pin(file)
    try {
      const { seals } = file
      const checksums = await this.readSums(file, handle)
      if (checksums === null || file.removed || file.seals !== seals || !file.summed) return null
      const written: number[] = []
      for (let chunk = 0; chunk < CHUNKS; chunk++) if (file.isWritten(chunk)) written.push(chunk)
      return { ...checksums, written }
    } finally {
      this.options.handles.unpin(handle)
    }
  }

  async verifyAll(
    file: ObjectFile,
    rest: (bytes: number) => Promise<void>,
  ): Promise<'compared' | 'unsealed' | 'header'> {
    if (!file.summed || file.removed) return 'unsealed'
    const handle = this.pin(file)
    try {
      return await this.verify(file, handle, 0, CHUNKS - 1, rest)
    } finally {
      this.options.handles.unpin(handle)
    }
  }

  /** Known rot; null none. Throws DiskError. */
  async damage(file: ObjectFile): Promise<Damage | null> {
    if (file.rot === null) return null
    const sums = await this.sums(file)
    if (sums === null || file.rot === null) return null
    const chunks = [...(file.rot as Set<number>)].sort((a, b) => a - b)
    return { shift: sums.shift, chunks, sums: chunks.map((chunk) => sums.sums[chunk]) }
  }

  /**
   * Compares chunks with their checksums; those that do not match are in file.rot afterwards. Throws DiskError.
   * @param rest see ChunkReader
   */
  async verify(
    file: ObjectFile,
    handle: Handle,
    first: number,
    last: number,
    rest = (bytes: number) => this.rest(bytes),
  ): Promise<'compared' | 'unsealed' | 'header'> {
    for (;;) {
      const { seals, shift, sureTrust } = file
      if (!file.summed || file.removed || mutations.trustRot) return 'unsealed'
      const former = await this.readSums(file, handle)
      if (file.seals !== seals || file.shift !== shift) continue
      if (former === null) return file.summed && !file.removed ? 'header' : 'unsealed'
      const reader = new ChunkReader(this.options.disk, handle.fd, HEADER_BYTES, rest)
      let found = false
      for (let chunk = first; chunk <= last && file.seals === seals; chunk++) {
        if (file.isWritten(chunk)) continue
        const sum = await reader.sum(chunk, shift)
        if (sum === UNREADABLE) this.options.readFailed(file)
        if (file.seals !== seals || file.removed || !file.summed || file.isWritten(chunk)) continue
        if (sum === former.sums[chunk]) {
          file.mended(chunk)
          if (file.sureTrust === sureTrust) file.makeSure(chunk)
        } else {
          if (file.rot?.has(chunk) !== true) {
            found = true
            this.options.log(
              'error',
              `bit-rot: chunk ${chunk} of ${objectPath(file.oid)} does not match its checksum`,
              {
                object: oidToHex(file.oid),
                position: chunk * 2 ** shift,
                length: 2 ** shift,
              },
            )
          }
          file.rots(chunk)
        }
      }
      if (file.seals !== seals) continue
      if (found) this.options.rot(file)
      return 'compared'
    }
  }

  /** Before a read of what was not looked at for long: 0, or -74 (EBADMSG) when it is rotten. */
  look(file: ObjectFile, handle: Handle, position: number, length: number, done: Completion): void {
    const { shift } = file
    const first = position >>> shift
    const last = Math.min(CHUNKS - 1, (position + length - 1) >>> shift)
    this.verify(file, handle, first, last).then(
      () => {
        let rotten = false
        if (file.summed && file.shift === shift && file.rot !== null) {
          for (let chunk = first; chunk <= last; chunk++) if (file.rot.has(chunk)) rotten = true
        }
        done.complete(rotten ? -EBADMSG : 0)
      },
      (error: unknown) => {
        if (!(error instanceof DiskError)) throw error
        done.complete(-error.errno)
      },
    )
  }

  /**
   * Puts these bytes in place of a rotten chunk's, if they match its checksum, and syncs them. Changes of the object wait so
   * long. 0; -125 when they do not match, or the chunk was written meanwhile and so has no checksum; or a negative errno.
   */
  async mend(file: ObjectFile, chunk: number, bytes: Buffer): Promise<number> {
    if (file.removed || file.sealing || file.isWritten(chunk) || bytes.length !== 2 ** file.shift) return -ECANCELED
    file.mending++
    const handle = this.pin(file)
    try {
      const sums = await this.readSums(file, handle)
      if (sums === null || sums.sums[chunk] !== sumOf(bytes) || file.removed) return -ECANCELED
      const position = HEADER_BYTES + chunk * 2 ** sums.shift
      // The file may end before it, or in it: a copy lacks what was rotten where it was taken from.
      const there = Math.min(bytes.length, this.options.disk.size(handle.fd) - position)
      const length = Math.max(there, usedBytes(bytes))
      if (length > 0) {
        const put = await completed((done) => this.options.disk.write(handle.fd, bytes, 0, length, position, done))
        if (put < length) return put < 0 ? put : -5
      }
      this.options.changed(file)
      const synced = await completed((done) => this.options.sync(file, done))
      if (synced < 0) return synced
      file.mended(chunk)
      return 0
    } finally {
      this.options.handles.unpin(handle)
      if (--file.mending === 0) for (const go of file.mendWaiters.splice(0)) go()
    }
  }

  /**
   * Pages that the disk cannot read, of what no checksum speaks for: how many. `blank`: they are made zeros, durably, and can be read
   * again; changes of the object wait meanwhile. -125 when it changes at this moment, or another negative errno.
   */
  async gaps(file: ObjectFile, blank: boolean): Promise<number> {
    if (file.removed || (blank && (file.sealing || file.writing > 0 || file.mending > 0))) return -ECANCELED
    const { disk } = this.options
    if (blank) file.mending++
    const handle = this.pin(file)
    try {
      const page = Buffer.alloc(PAGE)
      let found = 0
      for (const { offset, length } of disk.extents(handle.fd, HEADER_BYTES, CHUNKS * 2 ** SHIFT_MAX)) {
        for (let at = offset - (offset % PAGE); at < offset + length; at += PAGE) {
          if (file.summed && !file.isWritten((at - HEADER_BYTES) >>> file.shift)) continue
          const got = await completed((done) => disk.read(handle.fd, page, 0, PAGE, at, done))
          if (file.removed) return -ECANCELED
          if (got >= 0) continue
          found++
          if (!blank) continue
          const put = await completed((done) => disk.write(handle.fd, ZEROS, 0, PAGE, at, done))
          if (put < PAGE) return put < 0 ? put : -EIO
        }
        await this.rest(length)
      }
      if (!blank || found === 0) return found
      this.options.changed(file)
      const synced = await completed((done) => this.options.sync(file, done))
      return synced < 0 ? synced : found
    } finally {
      this.options.handles.unpin(handle)
      if (blank && --file.mending === 0) for (const go of file.mendWaiters.splice(0)) go()
    }
  }

  private pin(file: ObjectFile): Handle {
    const handle = this.options.handles.of(file)
    handle.pins++
    return handle
  }

  /** null: the file has no whole header with checksums of file.shift. */
  private async readSums(file: ObjectFile, handle: Handle): Promise<Checksums | null> {
    const { disk, headers } = this.options
    const buffer = Buffer.alloc(HEADER_USED_BYTES)
    for (;;) {
      if (file.removed) return null
      // One that is being written may be read in halves.
      if (file.header === HEADER_WRITING) await completed((done) => headers.ready(file, done))
      const { headerWrites } = file
      const got = await completed((done) => disk.read(handle.fd, buffer, 0, HEADER_USED_BYTES, 0, done))
      if (file.headerWrites !== headerWrites) continue
      const sums = got < HEADER_USED_BYTES ? null : decodeChecksums(buffer, file.oid)
      return sums !== null && sums.shift === file.shift ? sums : null
    }
  }

  /** A turn of the event loop for the others. */
  private rest(_bytes: number): Promise<void> {
    return new Promise((resolve) => this.options.clock.after(0, resolve))
  }
}

/** Up to the last one that is not zero */
function usedBytes(bytes: Buffer): number {
  let end = bytes.length
  while (end > 0 && bytes[end - 1] === 0) end--
  return end
}
