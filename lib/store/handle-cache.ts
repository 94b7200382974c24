/**
 * Open files of objects, at most about `limit`: the clock algorithm (second chance), because marking a use is then one
 * store on the hot path. Files in use are never closed. Files with unsynced writes are kept while others can go, since
 * a file's write errors are told reliably only to those who had it open (fsync(2)); `wanted` asks for their sync.
 */
import { assert } from '../assert.js'
import { type Disk, DiskError, type OpenMode } from '../host/interfaces.js'
import { type ObjectFile, objectPath } from './object-file.js'

const ENFILE = 23
const EMFILE = 24
/** Handles looked at for one eviction, so that opening a file stays quick */
const SWEEP_MAX = 64

const HANDLES_DEFAULT = 4096

/** A quarter of what the process may open: dirty files may double it, and clients need sockets. */
export function handlesDefault(disk: Disk): number {
  return Math.min(HANDLES_DEFAULT, Math.floor((disk.openFilesMax ?? Number.POSITIVE_INFINITY) / 4))
}

export class Handle {
  /** Requests that are using the file */
  pins = 0
  used = true
  /** To be closed by the last unpin */
  doomed = false

  constructor(
    readonly fd: number,
    readonly file: ObjectFile,
    public slot: number,
  ) {}
}

export class HandleCache {
  private readonly handles: Handle[] = []
  private hand = 0

  constructor(
    private readonly disk: Disk,
    private readonly limit: number,
    private readonly wanted: (file: ObjectFile) => void,
  ) {}

  get open(): number {
    return this.handles.length
  }

  /** The file's handle, opened when need be. Throws DiskError. */
  of(file: ObjectFile): Handle {
    if (file.handle !== null) return file.handle
    assert(!file.removed, 'the file of an object that is gone is not opened again')
    return this.adopt(file, this.openFile(objectPath(file.oid), 'write'))
  }

  /** Throws DiskError. */
  openFile(path: string, mode: OpenMode): number {
    this.makeRoom()
    try {
      return this.disk.open(path, mode)
    } catch (error) {
      if (!(error instanceof DiskError) || (error.errno !== EMFILE && error.errno !== ENFILE)) throw error
      // The process or the system has fewer descriptors than the limit hoped for: sockets need some, too.
      if (!this.evict(this.handles.length, true)) throw error
      for (let more = this.handles.length / 8; more > 1; more--) this.evict(this.handles.length, true)
      return this.disk.open(path, mode)
    }
  }

  /** Takes over an open file. */
  adopt(file: ObjectFile, fd: number): Handle {
    const handle = new Handle(fd, file, this.handles.length)
    this.handles.push(handle)
    file.handle = handle
    return handle
  }

  unpin(handle: Handle): void {
    if (--handle.pins === 0 && handle.doomed) this.disk.close(handle.fd)
  }

  /** The file is going away: closes it now or after its last request. */
  release(file: ObjectFile): void {
    const handle = file.handle
    if (handle === null) return
    file.handle = null
    const last = this.handles.pop()!
    if (last !== handle) {
      this.handles[handle.slot] = last
      last.slot = handle.slot
    }
    if (handle.pins === 0) this.disk.close(handle.fd)
    else handle.doomed = true
  }

  releaseAll(): void {
    while (this.handles.length > 0) this.release(this.handles[this.handles.length - 1].file)
  }

  private makeRoom(): void {
    if (this.handles.length < this.limit) return
    // Twice the limit is reached only when nearly all files are dirty and their syncs lag behind.
    this.evict(SWEEP_MAX, this.handles.length >= 2 * this.limit)
  }

  /** Closes one handle; false when all that were looked at are needed. */
  private evict(looks: number, dirtyToo: boolean): boolean {
    for (let i = 0; i < 2 * looks && this.handles.length > 0; i++) {
      this.hand = (this.hand + 1) % this.handles.length
      const handle = this.handles[this.hand]
      if (handle.pins > 0) continue
      if (handle.used) {
        handle.used = false
      } else if (dirtyToo || handle.file.idle) {
        this.release(handle.file)
        return true
      } else {
        this.wanted(handle.file)
      }
    }
    return false
  }
}
