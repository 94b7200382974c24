import test from 'ava'
import type { EpochSummary, Hello, Summary } from '../../../lib/cluster/messages.js'
import { type Decision, decideStart, withVnodes } from '../../../lib/cluster/start.js'
import { nodeInfo } from './bus.js'

type Waiting = Exclude<Decision, { kind: 'format' }>

function epoch(number: number, nodes: number[], line = `line${number}`): EpochSummary {
  return { number, line, nodes: nodes.map((node) => nodeInfo(node)) }
}

/** The last of `epochs` is the newest, the first took effect. */
function summary(epochs: EpochSummary[], seq: number, clusterId = 'c1'): Summary {
  const { number, line } = epochs[0]
  return { clusterId, epochs, seq, digest: `digest${seq}`, effective: { epoch: number, line } }
}

function hello(node: number, has: Summary | null, fields: Partial<Hello> = {}): Hello {
  const said = {
    type: 'hello',
    protocol: 1,
    round: 'r',
    nonce: 1,
    mode: 'outside',
    quorate: true,
    forced: false,
  } as const
  return { ...said, node: nodeInfo(node), summary: has, ...fields }
}

function decide(hellos: Record<string, Hello>, hasQuorum = false, forced = false): Decision {
  return decideStart(Object.keys(hellos), new Map(Object.entries(hellos)), hasQuorum, forced)
}

function missing(decision: Decision): string[] {
  return (decision as Waiting).missing.map(({ name }) => name)
}

test('nobody has a state: format', (t) => {
  t.is(decide({ a: hello(0, null), b: hello(1, null) }).kind, 'format')
})

test('all nodes of the newest epoch, in whatever state, are enough; newcomers come along', (t) => {
  const old = summary([epoch(1, [0, 1, 2])], 5)
  const young = summary([epoch(2, [0, 1])], 8)
  const decision = decide({ a: hello(0, old), b: hello(1, young), c: hello(7, null) })
  t.is(decision.kind, 'start')
  t.deepEqual((decision as Waiting).holders, ['b'])
  t.deepEqual(decision.accepted, ['a', 'b', 'c'])
  t.deepEqual(missing(decide({ b: hello(1, young) })), ['n0'])
})

test('what one member alone has gone on to gives way to an epoch that took effect', (t) => {
  // Node 2 stood still, and then began epochs 2 to 4 after the views that it had missed. The others had started again by then.
  const lone = hello(2, summary([epoch(1, [0, 1, 2]), epoch(2, [0, 1, 2]), epoch(3, [0, 2]), epoch(4, [2])], 17))
  const effective = hello(0, summary([epoch(2, [0, 1], 'another')], 14))
  const further = hello(1, summary([epoch(1, [0, 1, 2]), epoch(2, [0, 1], 'another'), epoch(3, [1], 'third')], 16))
  for (const order of [
    [lone, effective, further],
    [effective, further, lone],
    [further, lone, effective],
  ]) {
    const decision = decide(Object.fromEntries(order.map((one) => [one.node.name, one])), true) as Waiting
    t.is(decision.kind, 'start')
    t.deepEqual(decision.holders, ['n1'], 'the furthest of the line that took effect')
  }
  const alone = decide({ n2: lone, n0: hello(0, summary([epoch(1, [0, 1, 2])], 9)) }, true) as Waiting
  t.deepEqual(alone.holders, ['n2'], 'nothing is known to have taken effect')
})

test('an epoch that may not have been confirmed does not hide the one before it', (t) => {
  // Node 1 was let in by node 0 (epoch 2), then expelled it (epoch 3); neither took effect. Node 0 alone may go on.
  const lone = summary([epoch(1, [0]), epoch(2, [0, 1]), epoch(3, [1])], 9)
  const waiting = decide({ b: hello(1, lone) })
  t.is(waiting.kind, 'wait')
  t.deepEqual(missing(waiting), ['n0'])
  t.is(decide({ b: hello(1, lone), a: hello(0, summary([epoch(1, [0])], 3)) }).kind, 'start')
  // It took effect at node 1: then node 0 had it on disk, and would come with it.
  t.is(decide({ b: hello(1, summary([epoch(3, [1])], 9)) }).kind, 'start')
  // Node 2 of the same line says that epoch 3 took effect there.
  const sure = { ...lone, effective: { epoch: 3, line: 'line3' } }
  t.is(decide({ b: hello(1, lone), c: hello(2, sure) }).kind, 'start')
  // On another line that says nothing.
  const other = { ...summary([epoch(3, [2], 'other')], 4), effective: { epoch: 3, line: 'other' } }
  t.deepEqual(missing(decide({ b: hello(1, lone), c: hello(2, other) })), ['n0'])
})

test('with quorum: more than half of the newest epoch, and all say they are quorate', (t) => {
  const state = summary([epoch(4, [0, 1, 2, 3])], 5)
  const three = { a: hello(0, state), b: hello(1, state), c: hello(2, state) }
  t.is(decide(three, true).kind, 'start')
  t.is(decide({ a: three.a, b: three.b }, true).kind, 'wait', 'half could be on both sides')
  t.is(decide({ ...three, d: hello(3, state, { quorate: false }) }, true).kind, 'wait')
  t.is(decide({ a: three.a }, true, true).kind, 'start', 'an administrator may')
  t.is(decide({ a: { ...three.a, quorate: false } }, true, true).kind, 'wait', 'but not without quorum')
})

test('those whose state is live go on together, and come before copies of their store', (t) => {
  const state = summary([epoch(4, [0, 1])], 5)
  const live = { mode: 'frozen' as const }
  const decision = decide({ x: hello(0, state), a: hello(0, state, live), b: hello(1, state, live) })
  t.deepEqual((decision as Waiting).holders, ['a', 'b'])
  t.regex(decision.refused.get('x')!.reason, /in use by another/)
})

test('another protocol, another cluster: refused with what to do', (t) => {
  const state = summary([epoch(1, [0, 1])], 5)
  const decision = decide({
    a: hello(0, state),
    b: hello(1, state),
    c: hello(2, summary([epoch(9, [2])], 50, 'c2')),
    d: hello(3, null, { protocol: 2 }),
  })
  t.is(decision.kind, 'start')
  t.regex(decision.refused.get('c')!.reason, /belongs to cluster c2/)
  t.regex(decision.refused.get('d')!.hint, /same version/)
})

test('another cluster key, or none: refused; newcomers cannot outvote those who have been in a cluster', (t) => {
  const state = summary([epoch(1, [0])], 5)
  const other = { key: 'ff' }
  const decision = decide({
    a: hello(0, state, { key: 'aa' }),
    b: hello(1, null, { key: 'aa' }),
    c: hello(2, null, other),
    d: hello(3, null, other),
    e: hello(4, null, other),
    f: hello(5, null),
  })
  t.is(decision.kind, 'start')
  t.deepEqual(decision.accepted, ['a', 'b'])
  t.regex(decision.refused.get('c')!.reason, /has another cluster key than the others/)
  t.regex(decision.refused.get('f')!.reason, /has no cluster key, and the others have one/)
  const bare = decide({ a: hello(0, state), b: hello(1, null, other) })
  t.regex(bare.refused.get('b')!.reason, /has a cluster key, and the others have none/)
})

test('vnodes: in proportion, at least 1, at most 4096; kept once given', (t) => {
  const fresh = withVnodes([nodeInfo(0, 1000), nodeInfo(1, 3000), nodeInfo(2, 0)], [], new Map())
  t.deepEqual(
    fresh.map(({ vnodes }) => vnodes),
    [64, 192, 0],
  )
  const more = withVnodes([nodeInfo(3, 1), nodeInfo(4, 1e9), nodeInfo(5, 2000)], fresh, new Map())
  t.deepEqual(
    more.map(({ vnodes }) => vnodes),
    [1, 4096, 128],
  )
  const known = new Map([['0000000000000005', { vnodes: 77, since: 1 }]])
  t.is(withVnodes([nodeInfo(5, 9000)], fresh, known)[0].vnodes, 77)
})
