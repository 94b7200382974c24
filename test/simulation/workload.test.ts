import test from 'ava'
import { type Flaw, perfectSheep } from './perfect-sheep.js'
import { SimRandom } from './random.js'
import { type Result, World } from './world.js'

async function run(seed: number, flaw: Flaw): Promise<Result> {
  const random = new SimRandom(seed, 1)
  const world = new World(
    seed,
    perfectSheep(flaw, () => random.chance(0.02)),
    false,
    {
      duration: 8000,
      settle: 100,
      engine: { hasQuorum: true, latency: 0.1, tokenTimeout: 200 },
      faults: ['kill', 'stop', 'power', 'power-all', 'pause', 'slow-disk'],
    },
  )
  world.audit = false
  return world.run()
}

test.serial('clients of daemons that lose nothing find nothing', async (t) => {
  for (let seed = 0; seed < 30; seed++) {
    const result = await run(seed, 'none')
    t.is(result.violation, null, `seed ${seed}`)
    t.true(result.requests > 0)
  }
})

test.serial('one seed, one history', async (t) => {
  for (const seed of [3, 4]) {
    const first = await run(seed, 'none')
    const second = await run(seed, 'none')
    t.is(first.hash, second.hash)
    t.is(first.events, second.events)
    t.not((await run(seed + 100, 'none')).hash, first.hash)
  }
})

const found: Record<Exclude<Flaw, 'none'>, RegExp> = {
  'lost-write': /wrong read/,
  'stale-read': /wrong read/,
  'late-snapshot': /wrong read/,
  'no-answer': /stuck/,
}

for (const [flaw, kind] of Object.entries(found)) {
  test.serial(`canary: ${flaw} is found`, async (t) => {
    for (let seed = 0; seed < 20; seed++) {
      const { violation } = await run(seed, flaw as Flaw)
      if (!violation) continue
      t.regex(violation.kind, kind)
      return
    }
    t.fail('20 seeds without a violation')
  })
}
