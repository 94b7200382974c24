/** The rules of validity.ts against random histories of one object, and deliberate bugs that the model must notice. */
import test from 'ava'
import fc from 'fast-check'
import { BLOCKS, ValidityModel } from './validity-model.js'

const event = fc.oneof(
  { weight: 4, arbitrary: fc.record({ what: fc.constant('write' as const), a: fc.nat(BLOCKS - 1), b: fc.nat(9) }) },
  { weight: 12, arbitrary: fc.record({ what: fc.constant('apply' as const), a: fc.nat(9), b: fc.nat(9) }) },
  { weight: 6, arbitrary: fc.record({ what: fc.constant('recover' as const), a: fc.nat(9), b: fc.nat(9) }) },
  {
    weight: 12,
    arbitrary: fc.record({
      what: fc.constantFrom(
        ...[
          'flush',
          'read',
          'read',
          'clean',
          'open',
          'recovered',
          'crash',
          'crash',
          'cut',
          'power',
          'bounce',
          'back',
          'back',
        ],
        ...['restart all', 'power of all', 'disk', 'give up'],
      ),
      a: fc.nat(9),
      b: fc.nat(63),
    }),
  },
)
type Event = typeof event extends fc.Arbitrary<infer T> ? T : never

function play(model: ValidityModel, { what, a, b }: Event): void {
  const count = model.members.length
  if (what === 'write') model.write(a)
  else if (what === 'apply') model.apply(a, b)
  else if (what === 'recover') model.recover(a)
  else if (what === 'clean') model.clean()
  else if (what === 'open') model.open(a)
  else if (what === 'recovered') model.reportRecovered(a)
  else if (what === 'back') model.back(a)
  else if (what === 'flush') model.flush()
  else if (what === 'read') model.read(a % BLOCKS, b)
  else if (what === 'restart all') model.restartAll()
  else if (what === 'power of all') model.restartAll(b)
  else if (what === 'bounce') model.bounce(a, b)
  else if (what === 'disk') model.loseDisk(a)
  else if (what === 'give up') model.giveUp(a)
  else if (what === 'power') model.leave([a % count], true, b)
  else model.leave(a === b ? [a % count] : [a % count, b % count], what === 'crash')
}

const histories = fc.record({
  count: fc.integer({ min: 2, max: 5 }),
  copies: fc.integer({ min: 1, max: 4 }),
  index: fc.nat(40),
  events: fc.array(event, { maxLength: 80, size: 'max' }),
})

function faultOf(history: { count: number; copies: number; index: number; events: Event[] }, bug?: string): string[] {
  const model = new ValidityModel(history.count, history.copies, history.index)
  if (bug !== undefined) Object.assign(model.bugs, { [bug]: true })
  for (const one of history.events) {
    play(model, one)
    const faults = model.faults()
    if (faults.length > 0) return faults
  }
  return model.quiesce()
}

test('whatever comes and goes, no served copy misses an acknowledged write, and at the end all are equal', (t) => {
  fc.assert(
    fc.property(histories, (history) => {
      t.deepEqual(faultOf(history), [])
    }),
    { numRuns: 4_000 },
  )
})

const bugs = [
  'trustEqualMarks',
  'forgetSuspects',
  'skipWitness',
  'forgetWritesUnderWay',
  'forgetPower',
  'forgetPassed',
  'takeTooEarly',
  'inheritIncomplete',
  'forgetLoss',
]

for (const bug of bugs) {
  test(`the model can fail: ${bug}`, (t) => {
    const outcome = fc.check(
      fc.property(histories, (history) => faultOf(history, bug).length === 0),
      { numRuns: 100_000, seed: 5 },
    )
    t.true(outcome.failed)
  })
}

const crash = { what: 'crash', a: 6, b: 6 } as const
const applied = [4, 8, 0].map((b) => ({ what: 'apply', a: 0, b }) as const)
const written: readonly Event[] = [crash, { what: 'write', a: 0, b: 0 }, ...applied]
const givenUp: readonly Event[] = [
  { what: 'bounce', a: 5, b: 0 },
  { what: 'give up', a: 0, b: 0 },
  { what: 'disk', a: 3, b: 0 },
]
/** A write that one replica took before its gateway died is what is read from then on; then that replica goes, and one comes that lacks it. */
const decided: readonly Event[] = [
  { what: 'write', a: 0, b: 0 },
  { what: 'apply', a: 0, b: 0 },
  { what: 'crash', a: 0, b: 0 },
  { what: 'recover', a: 0, b: 0 },
  { what: 'open', a: 0, b: 0 },
  { what: 'read', a: 0, b: 0 },
  { what: 'crash', a: 2, b: 2 },
  { what: 'back', a: 0, b: 0 },
  { what: 'recover', a: 0, b: 0 },
]
/** One replica has a write that nobody acknowledged, and is still doubted when the other, whose bytes were read, goes. */
const doubted: readonly Event[] = [
  { what: 'write', a: 1, b: 0 },
  { what: 'apply', a: 0, b: 0 },
  { what: 'restart all', a: 0, b: 0 },
  { what: 'open', a: 0, b: 0 },
  { what: 'read', a: 1, b: 0 },
  { what: 'crash', a: 1, b: 1 },
]
/** Rare among random histories; first: a stale copy is given up for another's, and that one's disk goes. */
const rare: Record<string, { count: number; copies: number; index: number; events: readonly Event[] }> = {
  forgetPassedTooEarly: {
    ...{ count: 5, copies: 3, index: 3 },
    events: [...written, { what: 'recovered', a: 4, b: 0 }, ...givenUp],
  },
  forgetRenounced: { count: 5, copies: 3, index: 3, events: [...written, ...givenUp] },
  forgetDecided: { count: 3, copies: 2, index: 0, events: decided },
  trustDoubted: { count: 2, copies: 2, index: 0, events: doubted },
}

for (const [bug, { events, ...shape }] of Object.entries(rare)) {
  test(`the model can fail: ${bug}`, (t) => {
    const history = { ...shape, events: [...events] }
    t.deepEqual(faultOf(history), [])
    t.true(faultOf(history, bug).length > 0)
  })
}
