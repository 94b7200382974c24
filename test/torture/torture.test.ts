/** A short form of `npm run torture`: each kind of it, a few rounds. */
import test from 'ava'
import { fillDisks } from './full.js'
import { type Kind, torture } from './torture.js'

const roundsOf: Record<Kind, number> = { kill: 3, 'kill-all': 1, stop: 1 }
const seed = Math.floor(Date.now() / 86_400_000)

for (const [kind, rounds] of Object.entries(roundsOf) as [Kind, number][]) {
  test.serial(`${kind}, ${rounds} rounds: no error, copies identical`, async (t) => {
    t.timeout(8 * 60_000)
    const result = await torture({ kind, rounds, seed, log: (text) => t.log(text) })
    t.log(`${result.verified} blocks written and verified; the longest wait was ${result.longest.toFixed(1)} s`)
    t.true(result.verified >= rounds * 512)
  })
}

test.serial('file systems of 200 MB filled to the end', async (t) => {
  t.timeout(4 * 60_000)
  await fillDisks((text) => t.log(text))
  t.pass()
})
