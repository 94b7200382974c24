import { fstatSync } from 'node:fs'
import type { Log, LogLevel } from './interfaces.js'

/** sd-daemon(3): a line that begins with <N> has syslog priority N. */
const PRIORITY: Record<LogLevel, number> = { error: 3, warning: 4, notice: 5, info: 6, debug: 7 }

export const LOG_LEVELS = Object.keys(PRIORITY) as LogLevel[]

export interface LogOptions {
  /** Least urgent level that is written, as it is at each message; default info */
  level?: () => LogLevel
  /** Takes one line without its newline; default standard error */
  write?: (line: string) => void
  /** Lines for the journal; default: when standard error is the journal's */
  journal?: boolean
  /** Milliseconds since the Unix epoch, for lines outside the journal */
  wall?: () => number
}

/** systemd.exec(5), $JOURNAL_STREAM: device and inode of the stream that leads to the journal. */
function stderrIsJournal(): boolean {
  const stream = process.env.JOURNAL_STREAM
  if (stream === undefined) return false
  try {
    const stat = fstatSync(2)
    return stream === `${stat.dev}:${stat.ino}`
  } catch {
    return false // closed: nobody reads either form
  }
}

/** What goes before a line of standard error that is of this level: nothing where it is not the journal's. */
export function journalMark(level: LogLevel): string {
  return stderrIsJournal() ? `<${PRIORITY[level]}>` : ''
}

// A string stands bare when nothing in it could be taken for a separator or start a line of its own.
const BARE = /^[^\s"=\p{Cc}]+$/u

function fieldText(value: unknown): string {
  if (value instanceof Error) return JSON.stringify(value.message)
  if (typeof value === 'string') return BARE.test(value) ? value : JSON.stringify(value)
  if (typeof value === 'bigint') return value.toString()
  return JSON.stringify(value) ?? String(value)
}

function oneLine(message: string): string {
  return /\p{Cc}/u.test(message) ? JSON.stringify(message).slice(1, -1) : message
}

/**
 * One line a message: `text key=value ...`, after `<priority>` in the journal, else after time and level. Control characters
 * are escaped, so that what a client sent cannot forge a line.
 */
export function journalLog(options: LogOptions = {}): Log {
  const levelNow = options.level ?? (() => 'info' as const)
  const journal = options.journal ?? stderrIsJournal()
  const wall = options.wall ?? Date.now
  const write = options.write ?? stderrWriter()
  return (level, message, fields) => {
    if (PRIORITY[level] > PRIORITY[levelNow()]) return
    let line = journal ? `<${PRIORITY[level]}>` : `${new Date(wall()).toISOString()} ${level}: `
    line += oneLine(message)
    for (const key in fields) line += ` ${key}=${fieldText(fields[key])}`
    write(line)
  }
}

function stderrWriter(): (line: string) => void {
  // Losing the log's reader (a closed terminal, a full disk) is no reason to stop serving disks.
  if (process.stderr.listenerCount('error') === 0) process.stderr.on('error', () => {})
  return (line) => {
    process.stderr.write(`${line}\n`)
  }
}
