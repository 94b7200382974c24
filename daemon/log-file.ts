/** The daemon's log: a file that can be moved away under it, and the newest lines in memory for `dog node log`. */
import { closeSync, openSync, writeSync } from 'node:fs'
import type { LogLine } from '../lib/control/services.js'
import { LOG_LINES_MAX } from '../lib/control/verbs.js'
import { SheepError } from '../lib/errors.js'
import { LOG_LEVELS } from '../lib/host/log.js'

/** Appends lines; `reopen` after logrotate(8) has moved the file. */
export class LogFile {
  private fd: number
  /** Lines that the disk did not take: said with the next one that it takes. */
  private lost = 0

  /** SheepError system */
  constructor(private readonly path: string) {
    this.fd = openLog(path)
  }

  readonly write = (line: string): void => {
    try {
      if (this.lost > 0) writeSync(this.fd, `${this.lost} lines before this one could not be written\n`)
      this.lost = 0
      writeSync(this.fd, `${line}\n`)
    } catch {
      // A full or failed disk under the log is no reason to stop serving the others.
      this.lost++
    }
  }

  /** Goes on with the old file when the new one cannot be opened. SheepError system */
  reopen(): void {
    const fd = openLog(this.path)
    closeSync(this.fd)
    this.fd = fd
  }
}

function openLog(path: string): number {
  try {
    return openSync(path, 'a', 0o640)
  } catch (error) {
    throw new SheepError(
      'system',
      `cannot write the log: ${(error as Error).message}`,
      'choose another place with -l dir=DIR',
    )
  }
}

/** The newest lines, whatever became of the log's file. */
export class RecentLines {
  private readonly lines: LogLine[] = []
  private at = 0

  /** `line` as journalLog writes it for the journal: `<6>text`. */
  readonly write = (line: string): void => {
    const entry = { time: Date.now(), level: LOG_LEVELS[Number(line[1]) - JOURNAL_ERROR], message: line.slice(3) }
    if (this.lines.length < LOG_LINES_MAX) this.lines.push(entry)
    else this.lines[this.at] = entry
    this.at = (this.at + 1) % LOG_LINES_MAX
  }

  /** At most `count`, oldest first. */
  newest(count: number): LogLine[] {
    const full = this.lines.length === LOG_LINES_MAX
    const ordered = full ? [...this.lines.slice(this.at), ...this.lines.slice(0, this.at)] : this.lines
    return ordered.slice(-count)
  }
}

/** syslog(3): LOG_ERR, the first of LOG_LEVELS. */
const JOURNAL_ERROR = 3
