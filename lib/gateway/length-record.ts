/**
 * How long the file of an open VDI is while it grows, in the last 8 bytes of its inode object's header (the end of the legacy
 * `child_vdi_id`, which nobody reads). A command of the cluster for each write at the end would be slow; this is a write beside the data.
 * One runs at a time; those that come meanwhile share the next.
 */
import type { Completion } from '../host/interfaces.js'
import { FLAG_FUA } from '../protocol/header.js'
import { WRITE } from '../replication/request.js'
import { LENGTH_BYTES, LENGTH_OFFSET } from '../vdi/inode.js'
import { inodeOid } from '../vdi/oid.js'
import type { VolumeRouter } from './volume-router.js'

export interface LengthRecordOptions {
  router: VolumeRouter
  vid: () => number
  copies: number
  /** One was written, which no flush covers */
  written: () => void
}

export class LengthRecord {
  /** What the inode object says on all replicas; -1: nothing that was written here */
  private recorded = -1
  private wanted = 0
  private waiting: Completion[] = []
  private running: Completion[] = []
  private durable = false
  private busy = false

  constructor(private readonly options: LengthRecordOptions) {}

  /** `done` with 0 once the inode object says so, or a negative errno. */
  set(length: number, done: Completion): void {
    this.wanted = length
    this.waiting.push(done)
    if (!this.busy) this.write()
  }

  /** The same, unless it says so much already. */
  reach(length: number, done: Completion): void {
    if (!this.busy && this.recorded >= length) done.complete(0)
    else this.set(Math.max(length, this.wanted), done)
  }

  /** Once more, durably: those who had it may have lost it. */
  rewrite(done: Completion): void {
    if (this.recorded < 0 && !this.busy) {
      done.complete(0)
      return
    }
    this.durable = true
    this.set(this.wanted, done)
  }

  private write(): void {
    const { router, vid, copies } = this.options
    const length = this.wanted
    const bytes = Buffer.alloc(LENGTH_BYTES)
    bytes.writeBigUInt64LE(BigInt(length))
    this.running = this.waiting
    this.waiting = []
    this.busy = true
    const flags = this.durable ? FLAG_FUA : 0
    this.durable = false
    const done: Completion = {
      complete: (result) => {
        this.busy = false
        if (result >= 0) {
          this.recorded = length
          this.options.written()
        }
        const ended = this.running
        this.running = []
        if (this.waiting.length > 0) this.write()
        for (const one of ended) one.complete(Math.min(result, 0))
      },
    }
    router.submit(WRITE, inodeOid(vid()), copies, bytes, 0, LENGTH_BYTES, LENGTH_OFFSET, flags, false, done)
  }
}
