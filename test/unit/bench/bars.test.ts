/** The bars of files of the pool: what is too slow, or was not measured, is said. */
import test from 'ava'
import { missed } from '../../bench/bars.js'

const row = (name: string, value: number, ratio: number | null) => ({ name, value, unit: '', ratio })

test('reached, not reached, not measured', (t) => {
  const good = [
    row('randread qd16 file', 10_000, 0.5),
    row('randwrite qd16 file', 10_000, 0.9),
    row('seqread 1M file', 1_024, 0.8),
    row('randwrite qd16 file, 3 copies', 1, 0.01),
  ]
  t.deepEqual(missed(good), [])
  t.deepEqual(missed([...good.slice(1), row('randread qd16 file', 50_000, 0.49)]), [
    'randread qd16 file: ratio 0.49, less than 0.5',
  ])
  t.deepEqual(missed([...good.slice(0, 2), row('seqread 1M file', 1_023, 2)]), [
    'seqread 1M file: value 1023.00, less than 1024',
  ])
  t.is(missed([]).length, 3)
})
