/** Each reason for which somebody is refused is logged once, however often he tries again, until he has got in. */
import type { Log, LogLevel } from '../host/interfaces.js'

/** Whom to remember: beyond it the oldest are forgotten. */
const SOURCES_MAX = 1_024
/** Of one source: who finds ever new ones is not worth more lines. */
const REASONS_MAX = 8

export class Refusals {
  private readonly said = new Map<string, Set<string>>()

  constructor(private readonly log: Log) {}

  /** @param who tells sources apart, as `reason` does reasons */
  refused(who: string, reason: string, level: LogLevel, message: string): void {
    const reasons = this.said.get(who) ?? new Set()
    if (reasons.has(reason) || reasons.size >= REASONS_MAX) {
      this.log('debug', message)
      return
    }
    if (reasons.size === 0 && this.said.size >= SOURCES_MAX) this.said.delete(this.said.keys().next().value as string)
    this.said.set(who, reasons.add(reason))
    this.log(level, message)
  }

  gotIn(who: string): void {
    this.said.delete(who)
  }
}
