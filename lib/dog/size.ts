/** Sizes, rates, times and dates as people read and type them. Units are powers of 1024. */
import { SheepError } from '../errors.js'

const UNITS = ['', 'K', 'M', 'G', 'T', 'P']
const SECTOR = 512

/**
 * `10G`, `1.5T`, `512M`, `4KiB`, or bytes. A fraction of a unit is rounded up to whole sectors; plain bytes are taken as
 * they are. SheepError invalid, too-big.
 */
export function parseSize(text: string): number {
  const match = /^([0-9]{1,20})(\.[0-9]{1,12})?\s*(?:([KMGTP])(?:i?B)?|B)?$/i.exec(text)
  if (match === null || (match[2] !== undefined && match[3] === undefined)) {
    throw new SheepError(
      'invalid',
      `${JSON.stringify(text.slice(0, 40))} is no size`,
      'write it like 10G, 1.5T, 512M or 1048576',
    )
  }
  const [, whole, fraction = '', unit = ''] = match
  const scale = 1024 ** UNITS.indexOf(unit.toUpperCase())
  const bytes = Number(whole + fraction) * scale
  if (bytes > Number.MAX_SAFE_INTEGER)
    throw new SheepError('too-big', `${text} is more than 8 PiB`, 'give a smaller size')
  return fraction === '' ? bytes : Math.ceil(bytes / SECTOR) * SECTOR
}

/** `0 B`, `1.5 GiB`, `10 GiB`: at most one decimal, at most four digits. */
export function formatSize(bytes: number): string {
  let value = bytes
  let unit = 0
  while (value >= 1023.95 && unit < UNITS.length - 1) {
    value /= 1024
    unit++
  }
  const text = value >= 1000 || unit === 0 ? value.toFixed(0) : value.toFixed(1).replace(/\.0$/, '')
  return unit === 0 ? `${text} B` : `${text} ${UNITS[unit]}iB`
}

/** Seconds as `0:07`, `12:30`, `3:05:00`, `2 d 4 h`. */
export function formatDuration(seconds: number): string {
  const s = Math.max(0, Math.round(seconds))
  if (s >= 86_400) return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3600)} h`
  const minutes = Math.floor((s % 3600) / 60)
  const rest = String(s % 60).padStart(2, '0')
  if (s < 3600) return `${minutes}:${rest}`
  return `${Math.floor(s / 3600)}:${String(minutes).padStart(2, '0')}:${rest}`
}

/** `2026-11-22 11:20` in local time, with `:33` when asked. */
export function formatTime(ms: number, withSeconds = false): string {
  const at = new Date(ms)
  const two = (n: number) => String(n).padStart(2, '0')
  const day = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`
  const time = `${two(at.getHours())}:${two(at.getMinutes())}`
  return withSeconds ? `${day} ${time}:${two(at.getSeconds())}` : `${day} ${time}`
}

/** Share of a whole: `42%`; `-` of nothing. */
export function formatPercent(part: number, whole: number): string {
  return whole > 0 ? `${Math.floor((part / whole) * 100)}%` : '-'
}
