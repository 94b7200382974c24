/** A short run of every parser's fuzzer, and of those that must fail: a fuzzer that finds nothing in them finds nothing. */
import test from 'ava'
import { fuzz } from './fuzz.js'
import { CANARIES, PARSERS } from './parsers.js'

const inputs = 1_500
/** New ground each day, the same on all machines: what fails prints how to repeat it. */
const seed = Math.floor(Date.now() / 86_400_000)
/** So many in a hundred must be worth a look, or the fuzzer only knocks at the door. */
const deepMin = 0.2

for (const parser of Object.keys(PARSERS)) {
  test.serial(`${parser}: ${inputs} inputs`, async (t) => {
    const { failure, deep, seconds } = await fuzz(parser, seed, 0, inputs)
    t.is(failure, '')
    t.true(deep > deepMin, `only ${(deep * 100).toFixed(1)}% of the inputs got past the first checks`)
    t.log(`${seconds.toFixed(1)} s`)
  })
}

test.serial('what is broken on purpose is found', async (t) => {
  const found: Record<string, string> = {}
  for (const name of Object.keys(CANARIES)) {
    const { failure, deep } = await fuzz(name, 1, 0, inputs, 2_000)
    found[name] = failure === '' ? `deep ${deep}` : failure
  }
  t.regex(found['canary-crash'], /RangeError: a planted crash[\s\S]*--parser canary-crash --seed 1 --input \d+/)
  t.regex(found['canary-rejection'], /a planted rejection/)
  t.regex(found['canary-hang'], /no end within 2 s/)
  t.regex(found['canary-growth'], /bytes are alive|OUT_OF_MEMORY/)
  t.is(found['canary-shallow'], 'deep 0')
})
