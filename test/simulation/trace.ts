/**
 * What happened, in order. A running hash of every event is always kept (two runs of one seed must agree on it); the
 * readable lines only when asked for, since a failing seed is replayed with them.
 */
import { Violation } from './violation.js'

export class Trace {
  #hash = 0x811c9dc5
  readonly lines: string[] = []
  /** Oldest lines go when there are more. */
  static readonly LINES_MAX = 400_000

  constructor(readonly on: boolean) {}

  /** Mixes numbers that identify an event. */
  mix(a: number, b = 0, c = 0): void {
    let hash = this.#hash
    hash = Math.imul(hash ^ (a | 0), 0x01000193)
    hash = Math.imul(hash ^ (b | 0), 0x01000193) ^ (hash >>> 15)
    hash = Math.imul(hash ^ (c | 0), 0x01000193)
    this.#hash = hash
  }

  get hash(): string {
    return (this.#hash >>> 0).toString(16).padStart(8, '0')
  }

  line(time: number, text: string): void {
    if (!this.on) return
    this.lines.push(`${time.toFixed(3).padStart(12)}  ${text}`)
    if (this.lines.length > Trace.LINES_MAX) this.lines.splice(0, Trace.LINES_MAX / 4)
  }
}

/** First violation wins; the run stops at the end of the event in which it was found. */
export class Verdict {
  violation: Violation | null = null

  report(kind: string, detail: string, stack?: string): void {
    this.violation ??= new Violation(kind, detail, stack)
  }
}
