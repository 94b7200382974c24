/**
 * What stands before a volume that must not touch its objects now: its requests wait here.
 *
 * - `Gate`: at a migration's source, once nothing of its is under way and until the target has the lock. Nothing is answered, not even
 *   reads: the target may be writing already.
 * - `MigrationTarget`: at the target, until it has the lock. Reads are the source's to answer, which orders them with its own writes; so
 *   nothing is cached here that the source can change. The first change asks for the lock, and waits for it with all that follows.
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
  private over = false

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
    else void this.fetch(buffer, bufferOffset, length, offset, done, again)
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
    this.over = true
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
        buffer.set(bytes, bufferOffset + at)
        at += bytes.length
      } catch (error) {
        log('debug', `a migration's target cannot read at its source yet: ${String(error)}`)
        if (!this.over) await sleep(clock, READ_RETRY_MS)
        if (this.over) return again()
      }
    }
    done.complete(length)
  }
}
