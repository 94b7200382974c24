/** A line on the terminal that shows how far something long is, its rate and the time left. Silent elsewhere. */
import type { ProgressReport } from '../control/client.js'
import { formatDuration, formatSize } from './size.js'
import { cut, displayWidth, printable } from './table.js'

const REDRAW_MS = 100
const BAR_MIN = 5
const BAR_MAX = 30
/** Rates settle over this time. */
const RATE_WINDOW_MS = 5_000

export interface Terminal {
  isTTY?: boolean
  columns?: number
  write(text: string): unknown
}

export class ProgressBar {
  private readonly began: number
  private drawn = ''
  private lastDraw = Number.NEGATIVE_INFINITY
  private waiting = ''
  /** Oldest first, within RATE_WINDOW_MS */
  private readonly samples: { at: number; done: number }[] = []

  /** `now`: milliseconds, monotonic. */
  constructor(
    private readonly title: string,
    private readonly terminal: Terminal,
    private readonly now: () => number = () => performance.now(),
    private readonly blocks = unicodeTerminal(),
  ) {
    this.began = now()
  }

  update(report: ProgressReport): void {
    if (!this.terminal.isTTY) {
      this.sayWaiting(report.text)
      return
    }
    const at = this.now()
    this.samples.push({ at, done: report.done })
    while (this.samples.length > 2 && at - this.samples[0].at > RATE_WINDOW_MS) this.samples.shift()
    const finished = report.total > 0 && report.done >= report.total
    if (at - this.lastDraw < REDRAW_MS && !finished) return
    this.lastDraw = at
    this.draw(this.line(report))
  }

  /** Takes the line away: what follows says how it ended. */
  end(): void {
    if (this.drawn !== '') this.terminal.write('\r\u001b[K')
    this.drawn = ''
  }

  private line(report: ProgressReport): string {
    const text = printable(report.text) || this.title
    if (report.total <= 0) {
      const done = report.done > 0 ? `  ${formatSize(report.done)}` : ''
      return `${text}${done}  ${formatDuration((this.now() - this.began) / 1000)}`
    }
    const share = Math.min(1, report.done / report.total)
    const rate = this.rate()
    const left = rate > 0 ? (report.total - report.done) / rate : 0
    const parts = [
      `${String(Math.floor(share * 100)).padStart(3)}%`,
      `${formatSize(report.done)} of ${formatSize(report.total)}`,
      ...(rate > 0 ? [`${formatSize(rate)}/s`, `${formatDuration(left)} left`] : []),
    ]
    const rest = displayWidth(text) + parts.join('  ').length + 6
    const width = Math.max(BAR_MIN, Math.min(BAR_MAX, this.width - rest))
    return `${text}  ${bar(share, width, this.blocks)}  ${parts.join('  ')}`
  }

  /** Bytes a second */
  private rate(): number {
    const first = this.samples[0]
    const last = this.samples[this.samples.length - 1]
    return last.at > first.at ? ((last.done - first.done) / (last.at - first.at)) * 1000 : 0
  }

  /** The last column stays free: a terminal may wrap when it is written. */
  private get width(): number {
    return (this.terminal.columns ?? 80) - 1
  }

  private draw(line: string): void {
    this.drawn = cut(line, this.width)
    this.terminal.write(`\r${this.drawn}\u001b[K`)
  }

  /** Off a terminal one thing is worth a line: that the cluster makes it wait, and why. */
  private sayWaiting(text: string): void {
    if (!text.startsWith('waiting: ') || text === this.waiting) return
    this.waiting = text
    this.terminal.write(`dog: ${printable(text)}\n`)
  }
}

/** `share` from 0 to 1. */
export function bar(share: number, width: number, blocks: boolean): string {
  const full = Math.floor(share * width)
  return blocks ? '█'.repeat(full) + '░'.repeat(width - full) : `[${'#'.repeat(full)}${'-'.repeat(width - full)}]`
}

export function unicodeTerminal(environment: NodeJS.ProcessEnv = process.env): boolean {
  return /utf-?8/i.test(environment.LC_ALL || environment.LC_CTYPE || environment.LANG || '')
}
