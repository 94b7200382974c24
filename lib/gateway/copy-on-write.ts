/**
 * Makes an own copy of an ancestor's object, with a change laid over it, on all replicas, durably: only then may the
 * index name it. Parts that are all zeros are not written, so the copy is no less sparse than it must be.
 */
import { FLAG_CREATE, FLAG_FUA } from '../protocol/header.js'
import { READ, WRITE } from '../replication/request.js'
import { completed } from '../store/completed.js'
import type { Oid } from '../vdi/oid.js'
import type { VolumeRouter } from './volume-router.js'

const PIECE = 1024 * 1024
const GRAIN = 65_536
/** Each holds one piece in memory. */
const AT_ONCE = 8

export interface CopyJob {
  from: Oid
  fromCopies: number
  to: Oid
  toCopies: number
  objectSize: number
  overlay: Uint8Array
  overlayPosition: number
}

export class CopyOnWrite {
  private running = 0
  private readonly queue: (() => void)[] = []

  constructor(private readonly router: VolumeRouter) {}

  /** `done` with 0 or a negative errno. */
  run(job: CopyJob, done: (result: number) => void): void {
    const start = () => {
      this.running++
      this.copy(job).then(
        (result) => {
          this.running--
          this.queue.shift()?.()
          done(result)
        },
        // A thrown error here is a broken invariant, not an I/O error: those are results.
        (error: unknown) => {
          throw error
        },
      )
    }
    if (this.running < AT_ONCE) start()
    else this.queue.push(start)
  }

  /** As of inOneEpoch(): those that took the copy may all lose their power before the last of it is synced, and others answer that. */
  private async copy(job: CopyJob): Promise<number> {
    for (;;) {
      const { epoch } = this.router
      const result = await this.copyOnce(job)
      if (result < 0 || this.router.epoch === epoch) return result
    }
  }

  private async copyOnce(job: CopyJob): Promise<number> {
    const { router } = this
    const created = await completed((done) =>
      router.submit(WRITE, job.to, job.toCopies, EMPTY, 0, 0, 0, FLAG_CREATE, false, done),
    )
    if (created < 0) return created
    const buffer = Buffer.allocUnsafe(Math.min(PIECE, job.objectSize))
    for (let at = 0; at < job.objectSize; at += buffer.length) {
      const length = Math.min(buffer.length, job.objectSize - at)
      const got = await completed((done) =>
        router.submit(READ, job.from, job.fromCopies, buffer, 0, length, at, 0, false, done),
      )
      if (got < 0) return got
      lay(job, buffer, at, length)
      const wrote = await this.writeData(job, buffer, at, length)
      if (wrote < 0) return wrote
    }
    return completed((done) => router.submit(WRITE, job.to, job.toCopies, EMPTY, 0, 0, 0, FLAG_FUA, false, done))
  }

  private async writeData(job: CopyJob, buffer: Buffer, at: number, length: number): Promise<number> {
    let start = -1
    for (let grain = 0; grain < length + GRAIN; grain += GRAIN) {
      const data = grain < length && !isZero(buffer, grain, Math.min(grain + GRAIN, length))
      if (data && start < 0) start = grain
      if (data || start < 0) continue
      const from = start
      const to = Math.min(grain, length)
      start = -1
      const wrote = await completed((done) =>
        this.router.submit(WRITE, job.to, job.toCopies, buffer, from, to - from, at + from, 0, false, done),
      )
      if (wrote < 0) return wrote
    }
    return 0
  }
}

function lay(job: CopyJob, buffer: Buffer, at: number, length: number): void {
  const from = Math.max(at, job.overlayPosition)
  const to = Math.min(at + length, job.overlayPosition + job.overlay.length)
  if (from >= to) return
  buffer.set(job.overlay.subarray(from - job.overlayPosition, to - job.overlayPosition), from - at)
}

function isZero(buffer: Buffer, start: number, end: number): boolean {
  return buffer.compare(ZEROS, 0, end - start, start, end) === 0
}

const EMPTY = new Uint8Array(0)
const ZEROS = Buffer.alloc(GRAIN)
