import test from 'ava'
import { NO_ASKS } from '../../../lib/replication/askers.js'
import { Topology } from '../../../lib/replication/topology.js'
import {
  type CopyReport,
  decide,
  PASSED_EPOCHS_MAX,
  passedIn,
  passedWithout,
  type Verdict,
  validThrough,
} from '../../../lib/replication/validity.js'
import { dataOid, oidToHex } from '../../../lib/vdi/oid.js'
import { epochOf, epochsOf, node, nodeId } from './nodes.js'

const oid = dataOid(7, 0)

function topologyOf(...lists: readonly (readonly number[])[]): Topology {
  const topology = new Topology(nodeId(0))
  const history = epochsOf(...lists)
  topology.update(history[history.length - 1], history)
  return topology
}

function copy(number: number, writeEpoch: number, validThrough: number, suspect = false): CopyReport {
  return {
    node: nodeId(number),
    present: true,
    writeEpoch,
    validThrough,
    suspect,
    settledThrough: validThrough,
    incomplete: false,
    hot: suspect,
    gap: false,
    keptThrough: 0,
    passedEpochs: [],
    lostEpoch: 0,
    asks: NO_ASKS,
  }
}

function absent(number: number): CopyReport {
  return {
    node: nodeId(number),
    present: false,
    writeEpoch: 0,
    validThrough: 0,
    suspect: false,
    settledThrough: 0,
    incomplete: false,
    hot: false,
    gap: false,
    keptThrough: 0,
    passedEpochs: [],
    lostEpoch: 0,
    asks: NO_ASKS,
  }
}

const take = (from: number): Verdict => ({ kind: 'take', from: nodeId(from) })
const keep: Verdict = { kind: 'keep' }

test('a copy stays valid through the epochs in which its node was a replica, and no further', (t) => {
  const three = topologyOf([0, 1], [0, 1], [1], [0, 1], [0, 1])
  t.is(validThrough(three, nodeId(0), oid, 2, 1), 2)
  t.is(validThrough(three, nodeId(1), oid, 2, 1), 5)
  t.is(validThrough(three, nodeId(0), oid, 2, 4), 5)
  t.is(validThrough(three, nodeId(0), oid, 2, 5), 5)
  // Epoch 2 is forgotten: nothing is known of what was written in it.
  const topology = new Topology(nodeId(0))
  const [first, , third] = epochsOf([0, 1], [0, 1], [0, 1])
  topology.update(third, [first, third])
  t.is(validThrough(topology, nodeId(0), oid, 2, 1), 1)
})

/** Two replicas, nodes 0 (which decides) and 1, and often a third node that has been one. */
test('what went with a disk is lost, and is not replaced by what is older', (t) => {
  // Node 1 alone was there in epoch 2; then a disk of it failed.
  const topology = topologyOf([0, 1], [1], [0, 1])
  const gone = { ...absent(1), lostEpoch: 2 }
  t.deepEqual(
    decide(topology, oid, 2, copy(0, 1, 1), [absent(1)], true),
    keep,
    'with all its disks it proves the copy right',
  )
  t.deepEqual(decide(topology, oid, 2, copy(0, 1, 1), [gone], true), { kind: 'lost', nodes: [nodeId(1)], stale: true })
  // A loss before that epoch takes nothing from what it says of it.
  t.deepEqual(decide(topology, oid, 2, copy(0, 1, 1), [{ ...gone, lostEpoch: 1 }], true), keep)
  t.deepEqual(decide(topology, oid, 2, absent(0), [gone], true), { kind: 'lost', nodes: [nodeId(1)], stale: false })
  t.deepEqual(decide(topology, oid, 2, absent(0), [absent(1)], true), { kind: 'absent' })
  // An older copy on another disk of the same node is no better a witness.
  const older = { ...copy(1, 1, 1), lostEpoch: 2 }
  t.is(decide(topology, oid, 2, absent(0), [older], true).kind, 'lost')
  // Somebody who may have it is away: wait.
  const three = topologyOf([0, 1, 2], [1, 2], [0, 1])
  t.is(decide(three, oid, 3, copy(0, 1, 1), [gone], true).kind, 'wait')
})

const dramas: {
  what: string
  epochs: number[][]
  own: CopyReport
  others: CopyReport[]
  verdict: Verdict
  patient?: boolean
}[] = [
  {
    what: 'away for an epoch in which nothing was written: nothing is moved',
    epochs: [[0, 1], [1], [0, 1]],
    own: copy(0, 1, 1),
    others: [copy(1, 1, 3)],
    verdict: keep,
  },
  {
    what: 'away for an epoch with a write',
    epochs: [[0, 1], [1], [0, 1]],
    own: copy(0, 1, 1),
    others: [copy(1, 2, 3)],
    verdict: take(1),
  },
  {
    what: 'the writer died; the other copy is sound',
    epochs: [
      [0, 1, 2],
      [0, 1],
    ],
    own: copy(0, 1, 2, true),
    others: [copy(1, 1, 2)],
    verdict: take(1),
  },
  {
    what: 'the writer died, and equal marks prove nothing of a suspect',
    epochs: [[0, 1], [1], [0, 1]],
    own: copy(0, 1, 1),
    others: [copy(1, 1, 3, true)],
    verdict: take(1),
  },
  {
    what: 'the writer died; ours is sound, the other is not',
    epochs: [
      [0, 1, 2],
      [0, 1],
    ],
    own: copy(0, 1, 2),
    others: [copy(1, 1, 2, true)],
    verdict: keep,
  },
  {
    what: 'new in the set',
    epochs: [[1], [0, 1]],
    own: absent(0),
    others: [copy(1, 1, 2)],
    verdict: take(1),
  },
  {
    what: 'a stale copy alone: who was there in between must be heard',
    epochs: [[0, 1], [1], [0]],
    own: copy(0, 1, 1),
    others: [],
    verdict: { kind: 'wait', epoch: 2, nodes: [nodeId(1)] },
  },
  {
    what: 'a stale copy alone, and who was there in between has nothing',
    epochs: [[0, 1], [1], [0, 1]],
    own: copy(0, 1, 1),
    others: [absent(1)],
    verdict: keep,
  },
  {
    what: 'a suspect that was there to the end beats a sound copy that was not',
    epochs: [[0, 1], [1], [0, 1]],
    own: copy(0, 1, 1),
    others: [copy(1, 2, 3, true)],
    verdict: take(1),
  },
  {
    what: 'the host lost power: what the other replica of its last epoch acknowledged must be heard',
    epochs: [[0, 1], [1, 2], [2], [0, 2]],
    own: { ...copy(0, 1, 1, true), incomplete: true },
    others: [absent(2)],
    verdict: { kind: 'wait', epoch: 1, nodes: [nodeId(1)] },
  },
  {
    what: 'both hosts lost power, and the other one has not come back for long',
    epochs: [[0, 1], [2], [2], [0, 2]],
    own: { ...copy(0, 1, 1, true), incomplete: true },
    others: [absent(2)],
    verdict: keep,
    patient: false,
  },
  {
    what: 'without patience, too, a node that may have had writes is waited for when no host lost power',
    epochs: [[0, 1], [1], [0]],
    own: copy(0, 1, 1, true),
    others: [],
    verdict: { kind: 'wait', epoch: 2, nodes: [nodeId(1)] },
    patient: false,
  },
  {
    what: 'the host lost power, and the other one, which went on without it, has not come back for long',
    epochs: [
      [0, 1],
      [1, 2],
      [0, 2],
    ],
    own: { ...copy(0, 1, 1, true), incomplete: true },
    others: [absent(2)],
    verdict: { kind: 'wait', epoch: 1, nodes: [nodeId(1)] },
    patient: false,
  },
  {
    what: 'the host lost power, and a disk of the other one, which went on without it, failed',
    epochs: [
      [0, 1],
      [1, 2],
      [0, 1, 2],
    ],
    own: { ...copy(0, 1, 1, true), incomplete: true },
    others: [{ ...absent(1), lostEpoch: 2 }, absent(2)],
    verdict: { kind: 'lost', nodes: [nodeId(1)], stale: true },
  },
  {
    what: 'the host lost power, and the disk of the other one failed in the same epoch: it promised nothing after it',
    epochs: [
      [0, 1],
      [1, 2],
      [0, 1, 2],
    ],
    own: { ...copy(0, 1, 1, true), incomplete: true },
    others: [{ ...absent(1), lostEpoch: 1 }, absent(2)],
    verdict: keep,
  },
  {
    what: 'the same, but the other one may have given its copy up in the next epoch, for that of one that is away',
    epochs: [
      [0, 1],
      [1, 2],
      [0, 1],
    ],
    own: { ...copy(0, 1, 1, true), incomplete: true },
    others: [{ ...absent(1), lostEpoch: 1 }],
    verdict: { kind: 'lost', nodes: [nodeId(1)], stale: true },
  },
  {
    what: 'both hosts lost power, and with it the disk of one: what was flushed is on both',
    epochs: [
      [0, 1],
      [0, 1],
    ],
    own: { ...copy(0, 1, 1, true), incomplete: true },
    others: [{ ...absent(1), lostEpoch: 1 }],
    verdict: keep,
  },
  {
    what: 'the host lost power, and the other one has nothing either',
    epochs: [[0, 1], [1], [0, 1]],
    own: { ...copy(0, 1, 1, true), incomplete: true },
    others: [absent(1)],
    verdict: keep,
  },
  {
    what: 'both are suspects, one lost power',
    epochs: [
      [0, 1],
      [0, 1],
    ],
    own: { ...copy(0, 1, 2, true), incomplete: true },
    others: [copy(1, 1, 2, true)],
    verdict: take(1),
  },
  {
    what: 'a suspect, and who went on without it and may have answered reads with other bytes is away',
    epochs: [
      [0, 1],
      [1, 2],
      [0, 2],
    ],
    own: copy(0, 1, 1, true),
    others: [absent(2)],
    verdict: { kind: 'wait', epoch: 2, nodes: [nodeId(1)] },
  },
  {
    what: 'the same, and nobody doubts the copy: it has no write that others lack',
    epochs: [
      [0, 1],
      [1, 2],
      [0, 2],
    ],
    own: copy(0, 1, 1),
    others: [absent(2)],
    verdict: keep,
  },
  {
    what: 'nobody has it, all who could are here',
    epochs: [
      [0, 1],
      [0, 1],
    ],
    own: absent(0),
    others: [absent(1)],
    verdict: { kind: 'absent' },
  },
  {
    what: 'nobody here has it, and its holder is away',
    epochs: [[1], [0]],
    own: absent(0),
    others: [],
    verdict: { kind: 'wait', epoch: 1, nodes: [nodeId(1)] },
  },
]

for (const { what, epochs, own, others, verdict, patient } of dramas) {
  test(what, (t) => {
    t.deepEqual(decide(topologyOf(...epochs), oid, 2, own, others, patient), verdict)
  })
}

test('all suspects: every node comes to the same truth, the first in ring order', (t) => {
  const topology = topologyOf([0, 1, 2], [0, 1, 2])
  const order = topology.replicas(oid, 3).map((replica) => replica.id)
  const reports = [0, 1, 2].map((number) => copy(number, 1, 2, true))
  for (const own of reports) {
    const verdict = decide(
      topology,
      oid,
      3,
      own,
      reports.filter((report) => report !== own),
    )
    t.deepEqual(verdict, own.node === order[0] ? keep : { kind: 'take', from: order[0] })
  }
})

test('an object of a VDI that was made later is not waited for, nor lost with what was there before', (t) => {
  // Node 1 has not been seen since epoch 1; node 2 lost a disk in epoch 2.
  const topology = topologyOf([0, 1], [0, 2], [0, 2], [0, 2])
  const others = [{ ...absent(2), lostEpoch: 2 }]
  const judged = (createdIn: number) =>
    decide(topology, oid, 2, { ...absent(0), lostEpoch: 1 }, others, true, createdIn)
  t.deepEqual(judged(0), { kind: 'wait', epoch: 1, nodes: [nodeId(1)] })
  t.deepEqual(judged(1), { kind: 'wait', epoch: 1, nodes: [nodeId(1)] })
  t.deepEqual(judged(2), { kind: 'lost', nodes: [nodeId(2)], stale: false })
  t.deepEqual(judged(3), { kind: 'absent' })
})

test('a node that let changes go by proves nothing of those epochs, and only of those', (t) => {
  const topology = topologyOf([0, 1], [1, 2], [0, 2], [0, 2])
  const own = (epochs: readonly number[]) => ({ ...absent(0), passedEpochs: epochs })
  t.deepEqual(decide(topology, oid, 2, own([2, 3]), [absent(2)]), { kind: 'absent' })
  t.deepEqual(decide(topology, oid, 2, own([1]), [absent(2)]), { kind: 'wait', epoch: 1, nodes: [nodeId(1)] })
  let many: number[] = []
  for (let epoch = 10; epoch < 10 + PASSED_EPOCHS_MAX; epoch++) many = passedIn(many, epoch, 0)
  t.deepEqual(decide(topology, oid, 2, own(many), [absent(2)]).kind, 'wait', 'what is forgotten counts as passed')
  t.is(passedIn(many, 9999, 0).length, PASSED_EPOCHS_MAX)
  t.deepEqual(passedIn([3, 5, 8], 9, 5), [5, 8, 9])
  t.deepEqual(passedWithout([3, 5, 8], 8), [3, 5], 'what went by in it has come')
  t.is(passedWithout(many, many[PASSED_EPOCHS_MAX - 1]), many, 'but a full list stands for others too')
})

test('epochs that are forgotten ask for nobody: all known nodes have recovered past them', (t) => {
  const topology = new Topology(nodeId(0))
  const current = epochOf(9, [node(0)])
  topology.update(current, [epochOf(8, [node(0)]), current])
  t.deepEqual(decide(topology, oid, 1, copy(0, 1, 1), []), keep)
})

function accepting(at: number, zeros: boolean, ...lists: readonly (readonly number[])[]): Topology {
  const topology = new Topology(nodeId(0))
  const history = epochsOf(...lists)
  history[at - 1].accepted = { objects: [oidToHex(oid)], zeros }
  topology.update(history[history.length - 1], history)
  return topology
}

test('what an administrator has given up is waited for no longer: the newest copy that is left counts, or zeros', (t) => {
  const lists = [[0, 1, 2], [1, 2], [0], [0], [0]]
  t.is(decide(topologyOf(...lists), oid, 2, copy(0, 1, 1), []).kind, 'wait')
  t.deepEqual(decide(accepting(5, false, ...lists), oid, 2, copy(0, 1, 1), []), keep)
  t.deepEqual(decide(accepting(4, false, ...lists), oid, 2, copy(0, 1, 1), []), keep, 'also in the epochs that follow')
  t.deepEqual(decide(accepting(5, true, ...lists), oid, 2, copy(0, 1, 1), []), { kind: 'zeros' })
  t.deepEqual(decide(accepting(5, false, ...lists), oid, 2, absent(0), []), { kind: 'zeros' })
  t.deepEqual(decide(accepting(4, true, ...lists), oid, 2, copy(0, 4, 5), []), keep, 'written since')
  const other = new Topology(nodeId(0))
  const history = epochsOf(...lists)
  history[4].accepted = { objects: [oidToHex(dataOid(7, 1))], zeros: false }
  other.update(history[4], history)
  t.is(decide(other, oid, 2, copy(0, 1, 1), []).kind, 'wait', 'of this object nothing was given up')
})

test('what was away comes back after it was given up, and counts no more', (t) => {
  const lists = [[0, 1], [1], [0], [0], [0, 1], [0, 1]]
  const back = accepting(4, false, ...lists)
  t.deepEqual(decide(back, oid, 2, copy(0, 4, 5), [copy(1, 2, 2)]), keep)
  // It comes before the others have done what they were told: then nothing need be lost.
  t.deepEqual(decide(back, oid, 2, copy(0, 1, 1), [copy(1, 2, 2)]), take(1))
})

test('what is lost after something was given up is lost anew', (t) => {
  const lists = [[0, 1], [1], [0], [0], [1], [0]]
  const again: Verdict = { kind: 'wait', epoch: 5, nodes: [nodeId(1)] }
  t.deepEqual(decide(accepting(4, false, ...lists), oid, 2, copy(0, 4, 4), []), again)
  t.deepEqual(decide(accepting(4, true, ...lists), oid, 2, absent(0), []), again)
})

test('of equal copies one that can be read whole is taken; where there is none, its holder keeps it and others wait for it', (t) => {
  const three = topologyOf([0, 1, 2], [0, 1, 2])
  const holed = (number: number, writeEpoch: number, through: number): CopyReport => {
    return { ...copy(number, writeEpoch, through), gap: true }
  }
  t.deepEqual(decide(three, oid, 3, holed(0, 1, 2), [copy(1, 1, 2), absent(2)]), take(1))
  t.deepEqual(decide(three, oid, 3, copy(1, 1, 2), [holed(0, 1, 2), absent(2)]), keep)
  t.deepEqual(decide(three, oid, 3, absent(2), [holed(0, 1, 2), copy(1, 1, 2)]), take(1))
  t.deepEqual(decide(three, oid, 3, holed(0, 1, 2), [absent(1), absent(2)]), keep)
  t.deepEqual(decide(three, oid, 3, absent(2), [holed(0, 1, 2), absent(1)]), { kind: 'gap', node: nodeId(0) })
  // Older than the one with the gap: it is not the truth, however well it can be read.
  t.deepEqual(decide(three, oid, 3, copy(1, 1, 1), [holed(0, 2, 2), absent(2)]), { kind: 'gap', node: nodeId(0) })
  t.deepEqual(decide(three, oid, 3, holed(0, 2, 2), [copy(1, 1, 1), absent(2)]), keep)
  // It was away, and missed nothing.
  t.deepEqual(decide(three, oid, 3, copy(1, 1, 1), [holed(0, 1, 2), absent(2)]), keep)
  // Somebody doubts the one that is whole: it is not the equal of one that nobody does.
  t.deepEqual(decide(three, oid, 3, copy(1, 1, 2, true), [holed(0, 1, 2), absent(2)]), { kind: 'gap', node: nodeId(0) })
})

test('a suspect waits for who was a replica since, unless that one never asked a member of the epoch', (t) => {
  const topology = topologyOf([0, 1, 2], [0, 1, 2], [0, 1])
  const doubted = (number: number, asks = NO_ASKS) => ({ ...copy(number, 1, 3, true), settledThrough: 1, asks })
  const decided = (asks = NO_ASKS) => decide(topology, oid, 3, doubted(0), [doubted(1, asks)], true)
  t.deepEqual(decided(), { kind: 'wait', epoch: 2, nodes: [nodeId(2)] }, 'nobody knows')
  t.deepEqual(decided({ since: 1, newest: {} }), keep, 'it never asked')
  t.deepEqual(decided({ since: 1, newest: { [nodeId(2)]: 1 } }), keep, 'only before')
  t.deepEqual(decided({ since: 1, newest: { [nodeId(2)]: 2 } }), { kind: 'wait', epoch: 2, nodes: [nodeId(2)] })
  t.deepEqual(decided({ since: 3, newest: {} }), { kind: 'wait', epoch: 2, nodes: [nodeId(2)] }, 'a later process')
})

test('a copy on a disk that was away, older than the history that is kept: whoever lost a disk after that had left may have lost a newer one', (t) => {
  const topology = new Topology(nodeId(0))
  const history = epochsOf([0, 1], [0, 1], [0, 1], [0, 1], [0, 1], [0, 1]).slice(4)
  topology.update(history[history.length - 1], history)
  const back = { ...copy(0, 1, 1), keptThrough: 3, lostEpoch: 3 }
  t.deepEqual(decide(topology, oid, 2, back, [{ ...absent(1), lostEpoch: 3 }]), keep)
  const lost = (node: number): Verdict => ({ kind: 'lost', nodes: [nodeId(node)], stale: true })
  t.deepEqual(decide(topology, oid, 2, back, [{ ...absent(1), lostEpoch: 4 }]), lost(1))
  t.deepEqual(decide(topology, oid, 2, { ...back, lostEpoch: 4 }, [absent(1)]), lost(0), 'it had it elsewhere')
  // That one is back, too; and a copy that was here all the time needs no such proof.
  const later = { ...copy(1, 1, 1), keptThrough: 4, lostEpoch: 4 }
  t.deepEqual(decide(topology, oid, 2, back, [later]), keep)
  t.deepEqual(decide(topology, oid, 2, { ...back, keptThrough: 0 }, [{ ...absent(1), lostEpoch: 4 }]), keep)
})

test('nobody here has what may have gone with a disk: who was a replica lately and is away is waited for before it is lost', (t) => {
  // Node 1 lost a disk in epoch 1, which is forgotten: it lacks the object in epoch 2 for that, not because there is none.
  const topology = new Topology(nodeId(1))
  const history = epochsOf([1, 2], [1, 2], [1]).slice(1)
  topology.update(history[history.length - 1], history)
  const gone = { ...absent(1), lostEpoch: 1 }
  t.deepEqual(decide(topology, oid, 2, gone, []), { kind: 'wait', epoch: 2, nodes: [nodeId(2)] })
  t.deepEqual(decide(topology, oid, 2, gone, [absent(2)]), { kind: 'lost', nodes: [nodeId(1)], stale: false })
  t.deepEqual(decide(topology, oid, 2, absent(1), []), { kind: 'absent' })
  t.deepEqual(decide(topology, oid, 2, gone, [], true, 2), { kind: 'absent' }, 'made since')
  const back = { ...copy(1, 1, 1), keptThrough: 1, lostEpoch: 2 }
  const { epoch } = topology
  t.is(epoch, 3)
  t.is(decide(topology, oid, 2, back, []).kind, 'wait')
})
