/**
 * A copy that is being taken, and takes the writes of clients meanwhile: what a client has written here is newer than
 * whatever is read from elsewhere, so the copy goes around it. Until it is in its place and checked nobody believes it; when it is
 * given up, what went into it has gone by like all writes before it (passed-writes.ts).
 */
import type { Completion } from '../host/interfaces.js'
import type { ObjectStore, StagedObject } from '../store/types.js'
import type { Oid } from '../vdi/oid.js'
import { Ranges } from './ranges.js'
import { ENOSPC } from './request.js'

/** Separate ranges that one copy goes around; a write that would make one more waits for the copy. */
const RANGES_MAX = 16_384

export class Filling {
  /** Gateway of the last write that went in; '' none did */
  writer = ''
  /** Takes no more: from now on writes wait until the copy is in its place */
  closed = false
  /** There was no room for a write: the copy is given up */
  full = false
  private readonly written = new Ranges()
  /** Clients' writes that are at the disk */
  private inFlight = 0
  private drained: (() => void) | null = null
  /** What is on its way to the disk from elsewhere; two writes of one place at a time have no order */
  private readonly landing: { start: number; end: number }[] = []

  constructor(
    private readonly store: ObjectStore,
    private readonly oid: Oid,
    private readonly staged: StagedObject,
  ) {}

  /** Whether a write of this range may go in now. */
  takes(start: number, end: number): boolean {
    if (this.closed || this.written.count >= RANGES_MAX) return false
    return this.landing.every((range) => range.end <= start || range.start >= end)
  }

  /** As ObjectStore.write. When there is no room for a copy that is not in its place yet, that ends, and the write goes by. */
  write(
    writer: string,
    buffer: Uint8Array,
    bufferOffset: number,
    length: number,
    position: number,
    done: Completion,
  ): void {
    this.writer = writer
    this.written.add(position, position + length)
    this.inFlight++
    const ended = (result: number) => {
      done.complete(result)
      if (--this.inFlight === 0) this.drained?.()
    }
    const object = this.staged.placed ? this.store.get(this.oid) : undefined
    if (object !== undefined) {
      this.store.write(object, buffer, bufferOffset, length, position, { complete: ended })
      return
    }
    const complete = (result: number) => {
      if (result === ENOSPC) this.giveUp()
      ended(result === ENOSPC ? length : result)
    }
    this.staged.write(buffer, bufferOffset, length, position, { complete })
  }

  /** Resolves once every write that went in has been answered. */
  async idle(): Promise<void> {
    while (this.inFlight > 0) await new Promise<void>((resolve) => (this.drained = resolve))
  }

  private giveUp(): void {
    this.full = true
    this.closed = true
    this.staged.abort()
  }

  /** Bytes from elsewhere, but for what clients have written. 0, or the first failure. */
  async put(buffer: Uint8Array, length: number, position: number): Promise<number> {
    const gaps: { start: number; end: number }[] = []
    this.written.gaps(position, position + length, (start, end) => gaps.push({ start, end }))
    const results = await Promise.all(
      gaps.map((gap) => {
        this.landing.push(gap)
        return new Promise<number>((resolve) => {
          const complete = (result: number) => {
            this.landing.splice(this.landing.indexOf(gap), 1)
            resolve(result)
          }
          this.staged.write(buffer, gap.start - position, gap.end - gap.start, gap.start, { complete })
        })
      }),
    )
    return this.full ? ENOSPC : Math.min(0, ...results)
  }
}
