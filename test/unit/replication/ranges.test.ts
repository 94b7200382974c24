import test from 'ava'
import fc from 'fast-check'
import { Ranges } from '../../../lib/replication/ranges.js'

const SIZE = 40
const range = fc.tuple(fc.integer({ min: 0, max: SIZE }), fc.integer({ min: 0, max: SIZE })).map(([a, b]) => {
  return { start: Math.min(a, b), end: Math.max(a, b) }
})

test('a set of ranges is what a bitmap would be, in as few ranges as can be', (t) => {
  fc.assert(
    fc.property(fc.array(range, { maxLength: 30 }), range, (added, asked) => {
      const ranges = new Ranges()
      const bitmap = new Array<boolean>(SIZE).fill(false)
      for (const { start, end } of added) {
        ranges.add(start, end)
        bitmap.fill(true, start, end)
      }
      const gaps = new Array<boolean>(SIZE).fill(false)
      let last = -1
      ranges.gaps(asked.start, asked.end, (start, end) => {
        if (start >= end || start <= last) throw new Error('gaps are not empty, and come in order')
        last = end
        gaps.fill(true, start, end)
      })
      const expected = bitmap.map((set, i) => !set && i >= asked.start && i < asked.end)
      const count = bitmap.filter((set, i) => set && !bitmap[i - 1]).length
      return ranges.count === count && gaps.every((gap, i) => gap === expected[i])
    }),
    { numRuns: 3_000 },
  )
  t.pass()
})
