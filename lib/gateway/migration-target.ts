/**
 * What stands before a volume that must not touch its objects now: its requests wait here.
 *
 * - `Gate`: at a migration's source, once nothing of its is under way and until the target has the lock. Nothing is answered, not even
 *   reads: the target may be writing already.
 * - `MigrationTarget`: at the target, until it has the lock. Reads are the source's to answer, which orders them with its own writes; so
 *   nothing is cached here that the source can change. The first change asks for the lock, and waits for it with all that follows.
 *   What is still being read there when the lock has come begins anew here, before those changes: a source that was cut off would
 *   be waited for in vain, and its word is no longer the last.
 */
import type { Clock, Completion, Log } from '../host/interfaces.js'
import { sleep } from '../replication/sleep.js'

const READ_PIECE = 1024 * 1024
const READ_RETRY_MS = 100

export class Gate {
  private readonly waiting: (() => void)[] = []

  /** `again` issues the request anew, once it may run or must fail. */
  read(
    _buffer: Uint8Array,
    _bufferOffset: number,
    _length: number,
    _offset: number,
    _done: Completion,
    again: () => void,
  ): void {
    this.waiting.push(again)
  }

  change(again: () => void): void {
    this.waiting.push(again)
  }

  flush(_done: Completion, again: () => void): void {
    this.waiting.push(again)
  }

  /** The volume has another gate, or none, by now. */
  open(): void {
    for (const again of this.waiting.splice(0)) again()
  }
}

export interface TargetOptions {
  clock: Clock
  log: Log
  /** Rejects while the source cannot be asked. At most READ_PIECE bytes */
  readAtSource: (offset: number, length: number) => Promise<Buffer>
  /** A change waits: the lock is to become this node's */
  takeOver: () => void
}

export class MigrationTarget extends Gate {
  private asked = false
  /** Reads that the source has not answered, in the order of their issue: how each begins anew */
  private readonly reading = new Set<() => void>()

  constructor(private readonly options: TargetOptions) {
    super()
  }

  override read(
    buffer: Uint8Array,
    bufferOffset: number,
    length: number,
    offset: number,
    done: Completion,
    again: () => void,
  ): void {
    // After a change that waits the source's word is no longer the last.
    if (this.asked) this.change(again)
    else {
      this.reading.add(again)
      void this.fetch(buffer, bufferOffset, length, offset, done, again)
    }
  }

  override change(again: () => void): void {
    super.change(again)
    if (this.asked) return
    this.asked = true
    this.options.takeOver()
  }

  override flush(done: Completion, again: () => void): void {
    // Nothing was written here, and the source flushes its own.
    if (this.asked) this.change(again)
    else done.complete(0)
  }

  override open(): void {
    const reading = [...this.reading]
    this.reading.clear()
    for (const again of reading) again()
    super.open()
  }

  private async fetch(
    buffer: Uint8Array,
    bufferOffset: number,
    length: number,
    offset: number,
    done: Completion,
    again: () => void,
  ): Promise<void> {
    const { clock, log, readAtSource } = this.options
    for (let at = 0; at < length; ) {
      try {
        const bytes = await readAtSource(offset + at, Math.min(READ_PIECE, length - at))
        if (!this.reading.has(again)) return
        buffer.set(bytes, bufferOffset + at)
        at += bytes.length
      } catch (error) {
        log('debug', `a migration's target cannot read at its source yet: ${String(error)}`)
        await sleep(clock, READ_RETRY_MS)
        if (!this.reading.has(again)) return
      }
    }
    this.reading.delete(again)
    done.complete(length)
  }
}
