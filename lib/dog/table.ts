/** Tables: aligned for people, one space-separated line a row for scripts. */

export interface Column<Row> {
  title: string
  align?: 'left' | 'right'
  /** For people */
  text(row: Row): string
  /** For scripts (-r): plain numbers, no units. Default: `text` */
  raw?(row: Row): string | number
}

const GAP = '  '

export function formatTable<Row>(columns: readonly Column<Row>[], rows: readonly Row[]): string {
  const cells = rows.map((row) => columns.map((column) => printable(column.text(row))))
  const widths = columns.map((column, i) =>
    Math.max(displayWidth(column.title), ...cells.map((row) => displayWidth(row[i]))),
  )
  const lines = [columns.map((column) => column.title), ...cells].map((row) =>
    row
      .map((cell, i) => pad(cell, widths[i], columns[i].align === 'right'))
      .join(GAP)
      .trimEnd(),
  )
  return lines.map((line) => `${line}\n`).join('')
}

export function formatRaw<Row>(columns: readonly Column<Row>[], rows: readonly Row[]): string {
  return rows
    .map((row) => `${columns.map((column) => rawField((column.raw ?? column.text)(row))).join(' ')}\n`)
    .join('')
}

/**
 * One field of a raw line: spaces and backslashes of names are escaped with a backslash, as Sheepdog's scripts expect;
 * an empty field is `-` so that columns keep their numbers, and a text `-` is `\-`.
 */
export function rawField(value: string | number): string {
  if (value === '') return '-'
  if (value === '-') return '\\-'
  return printable(String(value)).replace(/[\\ ]/g, '\\$&')
}

/** Text from elsewhere, safe for a terminal: control characters become visible and do nothing. */
export function printable(text: string): string {
  return text.replace(/[\p{Cc}\p{Cs}\u2028\u2029]/gu, '\ufffd')
}

function pad(text: string, width: number, right: boolean): string {
  const space = ' '.repeat(Math.max(0, width - displayWidth(text)))
  return right ? space + text : text + space
}

/** East Asian Wide and Fullwidth ranges (Unicode TR 11), and emoji, take two columns. */
const WIDE =
  /[\u1100-\u115f\u2e80-\u303e\u3041-\u33ff\u3400-\u4dbf\u4e00-\u9fff\ua000-\ua4cf\ua960-\ua97c\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6\u{1b000}-\u{1b2ff}\u{20000}-\u{3fffd}]|\p{Emoji_Presentation}/u
const ZERO_WIDTH = /[\p{Mn}\p{Me}\p{Cf}]/u

/** Columns that a terminal gives the text. */
export function displayWidth(text: string): number {
  let width = 0
  for (const character of text) {
    if (ZERO_WIDTH.test(character)) continue
    width += WIDE.test(character) ? 2 : 1
  }
  return width
}

/** As much of the text as fits into `width` columns. */
export function cut(text: string, width: number): string {
  let used = 0
  let end = 0
  for (const character of text) {
    used += displayWidth(character)
    if (used > width) break
    end += character.length
  }
  return text.slice(0, end)
}
