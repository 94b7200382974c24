/** The bench's results: rows for programs, a table for people. */

export interface Row {
  name: string
  value: number
  unit: string
  /** to qemu-nbd's figure in the same run; null where it has none */
  ratio: number | null
  /** CPU time of all daemons, microseconds per operation; only where there are operations */
  cpu?: number
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

function figure(value: number): string {
  if (value >= 100) return Math.round(value).toLocaleString('en-US')
  return value.toFixed(value < 10 ? 3 : 1)
}

export function table(rows: readonly Row[]): string {
  const lines = rows.map((row) => [
    row.name,
    figure(row.value),
    row.unit,
    row.ratio === null ? '' : row.ratio.toFixed(2),
    row.cpu === undefined ? '' : row.cpu.toFixed(row.cpu < 10 ? 1 : 0),
  ])
  const head = ['', 'median', '', 'ratio', 'CPU us/op']
  const widths = head.map((title, i) => Math.max(title.length, ...lines.map((line) => line[i].length)))
  const leftAligned = new Set([0, 2])
  return [head, ...lines]
    .map((line) =>
      line
        .map((cell, i) => (leftAligned.has(i) ? cell.padEnd(widths[i]) : cell.padStart(widths[i])))
        .join('  ')
        .trimEnd(),
    )
    .join('\n')
}
