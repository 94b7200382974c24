import { assert } from '../assert.js'
import { type Completion, type Disk, DiskError } from '../host/interfaces.js'
import { type Oid, oidToHex } from '../vdi/oid.js'
import { CHUNKS, type Checksums, ChunkReader, shiftFor, UNREADABLE } from './checksums.js'
import { completed } from './completed.js'
import { assertEpoch, encodeHeader, HEADER_BYTES } from './header.js'
import { objectPath } from './object-file.js'
import type { Received, StagedObject } from './types.js'

const ECANCELED = 125
const EIO = 5
const ENOSPC = 28
/** What a copy brings, rather than a client's small write into it */
const BULK = 64 * 1024

export interface StageOwner {
  readonly disk: Disk
  /** Opens a new file in stage/. Throws DiskError. */
  openStaged(path: string): number
  /** Removes it; never throws. */
  discardStaged(path: string): void
  stageWrote(bytes: number): void
  /** The disk did not do what it was asked for, and not for want of room */
  failed(errno: number, what: string): void
  stageEnded(staged: StagedFile): void
  /** A turn of the event loop for the others */
  rest(): Promise<void>
  /** The staged file has just been renamed to the object's path: it is the object now. Completes when that is durable. */
  takeOver(staged: StagedFile, fd: number, writeEpoch: number, checkEpoch: number, done: Completion): void
}

export function stagePath(oid: Oid): string {
  return `stage/${oidToHex(oid)}`
}

/**
 *     open --commit--> committing --renamed--> placed
 *       \_______abort______/  \--error--> ended
 *               v
 *             ended
 */
export class StagedFile implements StagedObject {
  private state: 'open' | 'committing' | 'placed' | 'ended' = 'open'
  /** Of what was received, when it is placed */
  checksums: Checksums = { shift: 0, sums: new Uint32Array(CHUNKS) }
  /** Chunks that are known not to match them */
  rot: readonly number[] = []
  private inFlight = 0
  private fdClosed = false
  /** Called when nothing is in flight any more */
  private drained: (() => void) | null = null
  private readonly fd: number

  constructor(
    private readonly owner: StageOwner,
    readonly oid: Oid,
  ) {
    this.fd = owner.openStaged(stagePath(oid))
  }

  get placed(): boolean {
    return this.state === 'placed'
  }

  write(buffer: Uint8Array, bufferOffset: number, length: number, position: number, done: Completion): void {
    assert(this.state !== 'placed', 'a staged object is written until it is in its place')
    assert(position >= 0 && length >= 0, 'a range lies within its object')
    if (length === 0 || this.state === 'ended') {
      done.complete(length === 0 ? 0 : -ECANCELED)
      return
    }
    this.inFlight++
    this.owner.stageWrote(length)
    const ended = {
      complete: (result: number) => {
        this.leave()
        if (result >= 0 && result < length) result = -EIO
        this.told(result)
        done.complete(result)
      },
    }
    const { disk } = this.owner
    if (length >= BULK) disk.writeBulk(this.fd, buffer, bufferOffset, length, position + HEADER_BYTES, ended)
    else disk.write(this.fd, buffer, bufferOffset, length, position + HEADER_BYTES, ended)
  }

  commit(writeEpoch: number, checkEpoch: number, done: Completion, received?: Received | null): void {
    assert(this.state === 'open', 'a staged object is committed once')
    assertEpoch(writeEpoch)
    assertEpoch(checkEpoch)
    this.state = 'committing'
    void this.place(writeEpoch, checkEpoch, done, received)
  }

  private async place(
    writeEpoch: number,
    checkEpoch: number,
    done: Completion,
    received?: Received | null,
  ): Promise<void> {
    const { disk } = this.owner
    const header = Buffer.alloc(HEADER_BYTES)
    this.inFlight++
    let result = received === null ? 0 : await this.sum(received)
    if (result >= 0) {
      encodeHeader(header, this.oid, writeEpoch, checkEpoch, this.checksums)
      result = await completed((step) => disk.write(this.fd, header, 0, HEADER_BYTES, 0, step))
    }
    if (result >= 0 && result < HEADER_BYTES) result = -EIO
    if (result >= 0 && this.state === 'committing') result = await completed((step) => disk.sync(this.fd, step))
    this.inFlight--
    // The object's handle may be closed between its writes, which are counted elsewhere.
    while (this.inFlight > 0) await new Promise<void>((resolve) => (this.drained = resolve))
    if (result >= 0 && this.state === 'committing') {
      try {
        disk.rename(stagePath(this.oid), objectPath(this.oid))
        this.state = 'placed'
      } catch (error) {
        if (!(error instanceof DiskError)) throw error
        result = -error.errno
      }
    }
    if (this.state === 'placed') {
      this.owner.stageEnded(this)
      this.owner.takeOver(this, this.fd, writeEpoch, checkEpoch, done)
    } else if (this.state === 'ended') {
      this.close()
      done.complete(-ECANCELED)
    } else {
      this.abort()
      this.told(result)
      done.complete(result)
    }
  }

  /** Takes the checksums of what was received; of what its source knew to be rotten, those that it should have. */
  private async sum(received?: Received): Promise<number> {
    const { disk } = this.owner
    const damage = received?.damage ?? null
    try {
      const content = Math.max(0, disk.size(this.fd) - HEADER_BYTES)
      const shift = damage?.shift ?? shiftFor(Math.max(received?.bytes ?? 0, content))
      const { sums } = this.checksums
      const reader = new ChunkReader(disk, this.fd, HEADER_BYTES, () => this.owner.rest())
      for (let chunk = 0; chunk < CHUNKS && chunk * 2 ** shift < content; chunk++) {
        if (this.state !== 'committing') return 0
        const sum = await reader.sum(chunk, shift)
        if (sum === UNREADABLE) return -EIO
        sums[chunk] = sum
      }
      this.rot = damage?.chunks ?? []
      damage?.chunks.forEach((chunk, i) => {
        sums[chunk] = damage.sums[i]
      })
      this.checksums.shift = shift
      return 0
    } catch (error) {
      if (!(error instanceof DiskError)) throw error
      return -error.errno
    }
  }

  private told(result: number): void {
    if (result < 0 && result !== -ENOSPC) this.owner.failed(-result, 'receiving an object')
  }

  /** Once the file is in the object's place it is too late: the object is in the table, for the caller to keep or remove. */
  abort(): void {
    if (this.state === 'placed' || this.state === 'ended') return
    this.state = 'ended'
    this.owner.stageEnded(this)
    this.owner.discardStaged(stagePath(this.oid))
    if (this.inFlight === 0) this.close()
  }

  private leave(): void {
    this.inFlight--
    if (this.inFlight > 0) return
    if (this.state === 'ended') this.close()
    const { drained } = this
    this.drained = null
    drained?.()
  }

  private close(): void {
    if (this.fdClosed) return
    this.fdClosed = true
    this.owner.disk.close(this.fd)
  }
}
