import test from 'ava'
import fc from 'fast-check'
import { type Ordered, RequestOrder } from '../../../lib/gateway/request-order.js'

class Request implements Ordered {
  slot = -1
  state: 'new' | 'running' | 'ended' = 'new'

  constructor(
    readonly number: number,
    readonly start: number,
    readonly end: number,
    readonly changes: boolean,
    readonly inline: boolean,
    private readonly harness: Harness,
  ) {}

  begin(): void {
    this.harness.began(this)
    if (this.inline) this.harness.end(this)
  }
}

function conflict(a: Request, b: Request): boolean {
  return a.start < b.end && b.start < a.end && (a.changes || b.changes)
}

/** Checks each rule at each beginning. */
class Harness {
  readonly order = new RequestOrder<Request>()
  readonly all: Request[] = []
  readonly faults: string[] = []
  held = 0
  depth = 0

  issue(start: number, length: number, changes: boolean, inline: boolean): void {
    const request = new Request(this.all.length, start, start + length, changes, inline, this)
    this.all.push(request)
    this.order.admit(request)
  }

  began(request: Request): void {
    if (request.state !== 'new') this.faults.push(`${request.number} began twice`)
    request.state = 'running'
    if (request.changes && this.held > 0) this.faults.push(`${request.number} changes while changes are held`)
    for (const other of this.all) {
      if (other === request || !conflict(request, other)) continue
      if (other.state === 'running') this.faults.push(`${request.number} runs beside ${other.number}`)
      if (other.state === 'new' && other.number < request.number) {
        this.faults.push(`${request.number} passes ${other.number}`)
      }
      if (other.state !== 'new' && other.number > request.number) {
        this.faults.push(`${other.number} was before ${request.number}`)
      }
    }
  }

  end(request: Request): void {
    request.state = 'ended'
    this.order.leave(request)
  }

  running(): Request[] {
    return this.all.filter((request) => request.state === 'running')
  }

  /** Requests that nothing keeps from running, and that do not run. */
  starved(): Request[] {
    return this.all.filter((request) => {
      if (request.state !== 'new' || (request.changes && this.held > 0)) return false
      return !this.all.some(
        (other) =>
          other !== request &&
          conflict(request, other) &&
          (other.state === 'running' || (other.state === 'new' && other.number < request.number)),
      )
    })
  }
}

const issue = fc.record({
  what: fc.constant('issue' as const),
  start: fc.nat(20),
  length: fc.integer({ min: 1, max: 8 }),
  changes: fc.boolean(),
  inline: fc.boolean(),
})
const end = fc.record({ what: fc.constant('end' as const), which: fc.nat(50) })
const hold = fc.record({ what: fc.constantFrom('hold' as const, 'release' as const, 'release-all' as const) })

test('no two conflicting run together, the order of issue is kept, and none waits without a reason', (t) => {
  fc.assert(
    fc.property(fc.array(fc.oneof({ weight: 5, arbitrary: issue }, { weight: 5, arbitrary: end }, hold)), (steps) => {
      const harness = new Harness()
      for (const step of steps) {
        if (step.what === 'issue') harness.issue(step.start, step.length, step.changes, step.inline)
        else if (step.what === 'end') {
          const running = harness.running()
          if (running.length > 0) harness.end(running[step.which % running.length])
        } else if (step.what === 'hold') {
          harness.held++
          const changing = harness.running().some((request) => request.changes)
          let idle = false
          harness.order.hold(() => {
            idle = true
            if (harness.running().some((request) => request.changes)) harness.faults.push('idle while a change runs')
          })
          if (idle === changing) harness.faults.push('idle is said at once only when nothing changes')
        } else if (step.what === 'release') {
          if (harness.held > 0) harness.held--
          harness.order.release()
        } else {
          harness.held = 0
          harness.order.releaseAll()
        }
        t.deepEqual(harness.faults, [])
        t.deepEqual(
          harness.starved().map((request) => request.number),
          [],
        )
        t.is(harness.order.changingCount, harness.running().filter((request) => request.changes).length)
        t.is(harness.order.running().length, harness.running().length)
      }
      harness.held = 0
      harness.order.releaseAll()
      while (harness.running().length > 0) harness.end(harness.running()[0])
      t.true(harness.all.every((request) => request.state === 'ended'))
      t.deepEqual(harness.faults, [])
    }),
    { numRuns: 500 },
  )
})

test('each hold is told once when the last change has ended, also after another was released', (t) => {
  const harness = new Harness()
  harness.issue(0, 4, true, false)
  const told: string[] = []
  harness.order.hold(() => told.push('snapshot'))
  harness.order.hold(() => told.push('close'))
  harness.order.release()
  harness.issue(8, 4, true, false)
  t.is(harness.all[1].state, 'new', 'the second hold is still on')
  t.deepEqual(told, [])
  harness.end(harness.all[0])
  t.deepEqual(told, ['snapshot', 'close'])
  harness.order.release()
  t.is(harness.all[1].state, 'running')
})

test('reads go on while changes are held, but none passes a held change to the same place', (t) => {
  const harness = new Harness()
  harness.held = 1
  harness.order.hold(() => {})
  harness.issue(0, 4, true, false)
  harness.issue(2, 4, false, false)
  harness.issue(10, 4, false, false)
  t.deepEqual(
    harness.all.map((request) => request.state),
    ['new', 'new', 'running'],
  )
})

test('thousands of requests that end inline begin one after another, not inside each other', (t) => {
  const order = new RequestOrder<Ordered>()
  let deepest = 0
  let depth = 0
  order.hold(() => {})
  for (let i = 0; i < 5_000; i++) {
    const request: Ordered = {
      start: i,
      end: i + 2,
      changes: true,
      slot: -1,
      begin() {
        deepest = Math.max(deepest, ++depth)
        order.leave(request)
        depth--
      },
    }
    order.admit(request)
  }
  order.release()
  t.is(deepest, 1)
  t.is(order.running().length, 0)
})
