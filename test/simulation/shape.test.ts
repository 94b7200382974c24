import test from 'ava'
import { type FaultKind, impossible, type Shape, seedsShape, WORLDS } from './shape.js'
import { sheep } from './sheep.js'
import { World } from './world.js'

const SEEDS = 2000

for (const [kind, forced] of Object.entries(WORLDS)) {
  test(`${kind} worlds are possible ones, with faults or disasters in nearly all of them`, (t) => {
    let withFaults = 0
    for (let seed = 1; seed <= SEEDS; seed++) {
      const shape: Shape = { ...seedsShape(seed), ...forced(seed) }
      t.is(impossible(shape), '', `seed ${seed}`)
      if (shape.faults.length > 0 || shape.disasters) withFaults++
    }
    t.true(withFaults > SEEDS * 0.95, String(withFaults))
  })
}

test('hosts of an engine without quorum cannot be parted: both sides would go on', (t) => {
  const engine = { hasQuorum: false, latency: 0.1, tokenTimeout: 200 }
  const faults: FaultKind[] = ['kill', 'isolate']
  t.throws(() => new World(1, sheep, false, { engine, faults }), { message: /cannot meet isolate/ })
  t.notThrows(() => new World(1, sheep, false, { engine, faults: ['kill'] }))
})
