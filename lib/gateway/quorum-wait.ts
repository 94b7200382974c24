/**
 * How long a volume's clients wait while this host is without quorum. Of a volume that does not wait for ever every request works on
 * bytes of its own: when the time is up its client is told EIO, and the request stays what it was, in its order and to be done when the
 * quorum is back. So replicas become equal, and what comes later to the same place finds it before itself.
 */
import type { Clock, Completion, Timer } from '../host/interfaces.js'
import { EIO } from '../replication/request.js'

export interface QuorumWaitOptions {
  clock: Clock
  /** ms after the quorum was lost; 0: for ever */
  limit: () => number
  /** Clock.now() when this host's quorum was lost; null: it has it */
  lostAt: () => number | null
  /** Nothing will come of the volume any more: it says so itself */
  ended: () => boolean
}

export class QuorumWait {
  /** Begun, and not answered */
  private readonly owed = new Set<Owed>()
  /** Under way still, though their clients were told EIO */
  private disowned = 0
  private idle: (() => void)[] = []
  private timer: Timer | null = null

  constructor(private readonly options: QuorumWaitOptions) {}

  get waitsForEver(): boolean {
    return this.options.limit() === 0
  }

  /** `submit` gets bytes that are the request's own, with those of `buffer` from `offset`, or for them (`fills`). */
  run(
    buffer: Uint8Array,
    offset: number,
    length: number,
    fills: boolean,
    done: Completion,
    submit: (bytes: Uint8Array, done: Completion) => void,
  ): void {
    const limit = this.options.limit()
    if (this.isOver(limit)) {
      done.complete(EIO)
      return
    }
    const bytes = length === 0 ? EMPTY : Buffer.allocUnsafe(length)
    if (!fills) bytes.set(buffer.subarray(offset, offset + length))
    const owed: Owed = { limit, answer: (result) => done.complete(result) }
    this.owed.add(owed)
    this.arm()
    submit(bytes, {
      complete: (result) => {
        if (this.owed.delete(owed)) {
          if (fills && result > 0) buffer.set(bytes.subarray(0, result), offset)
          owed.answer(result)
        } else if (--this.disowned === 0) {
          this.wake()
        }
      },
    })
  }

  /** The same for what must be alone: it does not begin while something is under way whose client was told EIO. */
  async alone(work: () => Promise<number>): Promise<number> {
    const limit = this.options.limit()
    while (this.disowned > 0) {
      if (this.isOver(limit)) return EIO
      await new Promise<void>((resolve) => this.idle.push(resolve))
    }
    return this.ask(work, () => EIO)
  }

  /** The same for other answers; `late` is the one when the time is up. */
  ask<T>(work: () => Promise<T>, late: () => T): Promise<T> {
    return new Promise((resolve, reject) => {
      const failed = (): void => {
        try {
          resolve(late())
        } catch (error) {
          reject(error)
        }
      }
      const done: Completion = { complete: (result) => (result < 0 ? failed() : undefined) }
      this.run(EMPTY, 0, 0, false, done, (_bytes, ended) => {
        const answered = (settle: () => void): void => {
          settle()
          ended.complete(0)
        }
        work().then(
          (value) => answered(() => resolve(value)),
          (error: unknown) => answered(() => reject(error)),
        )
      })
    })
  }

  lost(): void {
    if (this.owed.size > 0) this.arm()
  }

  regained(): void {
    this.timer?.cancel()
    this.timer = null
  }

  private isOver(limit: number): boolean {
    const { lostAt, clock, ended } = this.options
    const since = lostAt()
    return limit > 0 && since !== null && !ended() && clock.now() - since >= limit
  }

  /** For the first of those that wait. */
  private arm(): void {
    const { clock, lostAt } = this.options
    const since = lostAt()
    if (since === null || this.timer !== null) return
    const limit = Math.min(...[...this.owed].map((owed) => owed.limit))
    this.timer = clock.after(Math.max(0, since + limit - clock.now()), () => {
      this.timer = null
      this.expire(limit)
    })
  }

  private expire(limit: number): void {
    for (const owed of [...this.owed]) {
      // One that was answered may have ended another.
      if (owed.limit > limit || !this.owed.delete(owed)) continue
      this.disowned++
      owed.answer(EIO)
    }
    this.wake()
    if (this.owed.size > 0) this.arm()
  }

  private wake(): void {
    const { idle } = this
    this.idle = []
    for (const run of idle) run()
  }
}

/** A request whose client waits. */
interface Owed {
  /** ms, as it was when the request began */
  limit: number
  answer(result: number): void
}

const EMPTY = new Uint8Array(0)
