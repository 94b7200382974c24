/**
 * Brings epochs from memory into files. At most one header write of a file is under way; epochs that change meanwhile are
 * written by the next. Data goes into a file only after its header, so that what a killed process leaves behind in the
 * page cache is never newer than its header says.
 *
 * Checksums are not kept in memory: a header that holds some is read first, and they are written again.
 */
import { assert } from '../assert.js'
import { type Completion, type Disk, DiskError } from '../host/interfaces.js'
import type { Checksums } from './checksums.js'
import type { Handle, HandleCache } from './handle-cache.js'
import { decodeChecksums, encodeHeader, HEADER_BYTES, HEADER_USED_BYTES } from './header.js'
import { HEADER_STALE, HEADER_WRITING, HEADER_WRITTEN, type ObjectFile } from './object-file.js'

const EIO = 5

class HeaderWrite implements Completion {
  readonly buffer = Buffer.alloc(HEADER_BYTES)
  file: ObjectFile | null = null
  handle: Handle | null = null
  writeEpoch = 0
  checkEpoch = 0
  checksums: Checksums | null = null
  /** Some are being written, these or the former ones */
  sums = false
  /** The former header is being read */
  reading = false

  constructor(private readonly writer: HeaderWriter) {}

  complete(result: number): void {
    this.writer.ended(this, result)
  }
}

export class HeaderWriter {
  private readonly pool: HeaderWrite[] = []

  constructor(
    private readonly disk: Disk,
    private readonly handles: HandleCache,
  ) {}

  /** The epochs in memory have changed. A failure shows in file.headerError; `ready` tries again. */
  update(file: ObjectFile): void {
    if (file.header !== HEADER_WRITING) this.write(file)
  }

  /** Completes once the header in the file is that in memory. */
  ready(file: ObjectFile, done: Completion): void {
    if (file.header === HEADER_WRITTEN) {
      done.complete(0)
      return
    }
    if (file.headerWaiters === null) file.headerWaiters = [done]
    else file.headerWaiters.push(done)
    if (file.header === HEADER_STALE) this.write(file)
  }

  private write(file: ObjectFile): void {
    assert(!file.removed, 'no header is written for an object that is gone')
    file.header = HEADER_WRITING
    let handle: Handle
    try {
      handle = this.handles.of(file)
    } catch (error) {
      if (!(error instanceof DiskError)) throw error
      this.settle(file, -error.errno)
      return
    }
    const write = this.pool.pop() ?? new HeaderWrite(this)
    write.file = file
    write.handle = handle
    handle.pins++
    if (file.sums === null && file.summed) {
      write.reading = true
      this.disk.read(handle.fd, write.buffer, 0, HEADER_USED_BYTES, 0, write)
    } else {
      this.put(write, file.sums)
    }
  }

  private put(write: HeaderWrite, checksums: Checksums | null): void {
    const file = write.file!
    write.reading = false
    write.writeEpoch = file.writeEpoch
    write.checkEpoch = file.checkEpoch
    write.checksums = file.sums
    write.sums = checksums !== null
    if (write.sums) file.headerSums = true
    file.headerWrites++
    encodeHeader(write.buffer, file.oid, file.writeEpoch, file.checkEpoch, checksums)
    this.disk.write(write.handle!.fd, write.buffer, 0, HEADER_BYTES, 0, write)
  }

  ended(write: HeaderWrite, result: number): void {
    const file = write.file!
    if (write.reading) {
      const former = result < HEADER_USED_BYTES ? null : decodeChecksums(write.buffer, file.oid)
      if (file.sums === null && (former === null || former.shift !== file.shift)) file.summed = false
      this.put(write, file.sums ?? (file.summed ? former : null))
      return
    }
    const handle = write.handle!
    const current =
      write.writeEpoch === file.writeEpoch && write.checkEpoch === file.checkEpoch && write.checksums === file.sums
    write.file = null
    write.handle = null
    this.pool.push(write)
    this.handles.unpin(handle)
    if (result >= 0 && result < HEADER_BYTES) result = -EIO
    if (result >= 0) file.headerSums = write.sums
    if (result >= 0 && !current && !file.removed) this.write(file)
    else this.settle(file, Math.min(result, 0))
  }

  private settle(file: ObjectFile, result: number): void {
    file.header = result < 0 ? HEADER_STALE : HEADER_WRITTEN
    file.headerError = result
    const waiters = file.headerWaiters
    file.headerWaiters = null
    if (waiters !== null) for (const done of waiters) done.complete(result)
  }
}
