/**
 * Brings epochs from memory into files. At most one header write of a file is under way; epochs that change meanwhile are
 * written by the next. Data goes into a file only after its header, so that what a killed process leaves behind in the
 * page cache is never newer than its header says.
 */
import { assert } from '../assert.js'
import { type Completion, type Disk, DiskError } from '../host/interfaces.js'
import type { Handle, HandleCache } from './handle-cache.js'
import { encodeHeader, HEADER_BYTES } from './header.js'
import { HEADER_STALE, HEADER_WRITING, HEADER_WRITTEN, type ObjectFile } from './object-file.js'

const EIO = 5

class HeaderWrite implements Completion {
  readonly buffer = Buffer.alloc(HEADER_BYTES)
  file: ObjectFile | null = null
  handle: Handle | null = null
  writeEpoch = 0
  checkEpoch = 0

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
    write.writeEpoch = file.writeEpoch
    write.checkEpoch = file.checkEpoch
    encodeHeader(write.buffer, file.oid, file.writeEpoch, file.checkEpoch)
    handle.pins++
    this.disk.write(handle.fd, write.buffer, 0, HEADER_BYTES, 0, write)
  }

  ended(write: HeaderWrite, result: number): void {
    const file = write.file!
    const handle = write.handle!
    const current = write.writeEpoch === file.writeEpoch && write.checkEpoch === file.checkEpoch
    write.file = null
    write.handle = null
    this.pool.push(write)
    this.handles.unpin(handle)
    if (result >= 0 && result < HEADER_BYTES) result = -EIO
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
