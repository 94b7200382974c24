/** What files of the pool must reach, in one run with a raw file behind qemu-nbd: `npm run bench -- --files` fails when they do not. */
import type { Row } from './report.js'

interface Bar {
  /** Of Row.name */
  row: string
  of: 'ratio' | 'value'
  min: number
}

/** One copy, as the raw file has. */
const BARS: readonly Bar[] = [
  { row: 'randread qd16 file', of: 'ratio', min: 0.5 },
  { row: 'randwrite qd16 file', of: 'ratio', min: 0.5 },
  { row: 'seqread 1M file', of: 'value', min: 1024 },
]

/** A sentence for each bar that was not reached, or not measured. */
export function missed(rows: readonly Row[]): string[] {
  return BARS.flatMap(({ row, of, min }) => {
    const got = rows.find(({ name }) => name === row)?.[of] ?? Number.NaN
    return got >= min ? [] : [`${row}: ${of} ${got.toFixed(2)}, less than ${min}`]
  })
}
