import test from 'ava'
import { InvariantError } from '../../../lib/assert.js'
import { RealClock } from '../../../lib/host/clock.js'
import { RealRandom } from '../../../lib/host/random.js'

test('the clock goes forward, calls once, and not what was cancelled', async (t) => {
  const clock = new RealClock()
  const start = clock.now()
  let calls = 0
  clock.after(30, () => calls++).cancel()
  await new Promise<void>((resolve) => {
    clock.after(50, () => {
      calls += 10
      resolve()
    })
  })
  t.is(calls, 10)
  t.true(clock.now() - start >= 49)
  t.true(Math.abs(clock.wall() - Date.now()) < 1000)
  t.throws(() => clock.after(-1, () => {}), { instanceOf: InvariantError })
  t.throws(() => clock.after(2 ** 31, () => {}), { instanceOf: InvariantError }, 'setTimeout would fire at once')
})

test('random words and bytes', (t) => {
  const random = new RealRandom()
  const words = Array.from({ length: 1000 }, () => random.u32())
  t.true(new Set(words).size > 990)
  t.true(words.every((word) => Number.isInteger(word) && word >= 0 && word < 2 ** 32))
  t.true(words.some((word) => word >= 2 ** 31))
  t.regex(random.hex(8), /^[0-9a-f]{16}$/)
})
