import test from 'ava'
import { type Entry, History, type HistoryJson, type LoggedCommand } from '../../../lib/cluster/history.js'
import { ClusterState } from '../../../lib/cluster/state.js'
import type { Acceptance, EpochRecord } from '../../../lib/cluster/types.js'
import { dataOid, inodeOid, oidToHex } from '../../../lib/vdi/oid.js'
import { epochsOf, nodeId } from '../replication/nodes.js'

const config = { clusterId: 'a'.repeat(16), formatTime: 0, copies: 3, blockSizeShift: 22 }

function choose(state: ClusterState, ms: number): string {
  const command = { type: 'on-no-quorum', ms } as const
  const entry = {
    seq: state.history.seq + 1,
    type: 'command',
    sender: state.history.epoch.nodes[0].id,
    time: 0,
  } as const
  return state.apply({ ...entry, command }).error?.code ?? ''
}

test('what volumes do without quorum: they wait until told otherwise, and a copy of the state says the same', (t) => {
  const state = ClusterState.format(config, 1, epochsOf([0, 1])[0])
  t.is(state.onNoQuorum, 0)
  t.is(choose(state, 5000), '')
  t.is(state.onNoQuorum, 5000)
  for (const ms of [-1, 1.5, 86_400_001]) t.is(choose(state, ms), 'invalid')
  const json = JSON.parse(JSON.stringify(state))
  t.is(ClusterState.fromJSON(json).onNoQuorum, 5000)
  const { onNoQuorum: _, ...older } = json
  t.is(ClusterState.fromJSON(older).onNoQuorum, 0, 'a state from before there was a choice')
  t.throws(() => ClusterState.fromJSON({ ...json, onNoQuorum: 'x' }))
})

test('of which VDIs the inode was given up is known when the epoch in which it was is kept no more', (t) => {
  const state = ClusterState.format(config, 1, epochsOf([0, 1])[0])
  const { nodes } = state.history.epoch
  const apply = (command: LoggedCommand, { id } = nodes[0]) => {
    const entry = { seq: state.history.seq + 1, type: 'command', sender: id, time: 1, command } as const
    const { value, error } = state.apply(entry)
    if (error !== null) throw error
    return value
  }
  const begin = (accepted: Acceptance | undefined) => {
    const number = state.history.epoch.number + 1
    const record = { number, time: 0, nodes, ...(accepted === undefined ? {} : { accepted }) }
    state.apply({ seq: state.history.seq + 1, type: 'epoch', record, left: [] })
    for (const node of nodes) apply({ type: 'recovered', epoch: number }, node)
  }
  const create = (name: string): number => {
    const size = 2 ** 22
    const command = { op: 'create', name, size, copies: 2, blockSizeShift: 22, parent: 0, preallocated: false } as const
    const { vid } = apply({ type: 'vdi', command }) as { vid: number }
    apply({ type: 'vdi', command: { op: 'ready', vid } })
    return vid
  }
  const [lost, whole] = [create('lost'), create('whole')]
  begin({ objects: [inodeOid(lost), dataOid(whole, 0)].map(oidToHex), zeros: false })
  begin(undefined)
  t.deepEqual(
    state.history.epochs.map(({ accepted }) => accepted),
    [undefined],
    'that epoch is kept no more',
  )
  for (const each of [state, ClusterState.fromJSON(JSON.parse(JSON.stringify(state)))]) {
    t.is(each.registry.get(lost)?.givenUp, true)
    t.is(each.registry.get(whole)?.givenUp, undefined)
  }
  apply({ type: 'vdi', command: { op: 'delete-begin', vid: lost } })
  const { number } = state.history.epoch
  apply({ type: 'vdi', command: { op: 'delete-done', vid: lost, epoch: number } })
  begin(undefined)
  t.is(create('lost'), lost)
  t.is(state.registry.get(lost)?.givenUp, undefined, 'another VDI, which has the same vid')
})

test('epochs are kept back to the last one that everybody has recovered, each in it', (t) => {
  const [first, , ...rest] = epochsOf([0, 1, 2], [0, 1, 2], [0, 1, 2], [2], [0, 1, 2])
  let state = ClusterState.format(config, 1, first)
  const apply = (entry: object) => state.apply({ seq: state.history.seq + 1, ...entry } as Entry)
  const begin = (record: EpochRecord) => {
    const number = state.history.epoch.number + 1
    apply({ type: 'epoch', record: { ...record, number }, left: [] })
    // As it is read back after a restart, or sent to a newcomer.
    state = ClusterState.fromJSON(JSON.parse(JSON.stringify(state)))
  }
  const recovered = (...nodes: number[]) => {
    const { number: epoch } = state.history.epoch
    for (const node of nodes)
      apply({ type: 'command', sender: nodeId(node), time: 1, command: { type: 'recovered', epoch } })
  }
  const kept = () => state.history.epochs.map(({ number }) => number)
  begin(first)
  recovered(0, 1, 2)
  t.deepEqual(kept(), [2])
  begin(rest[0])
  recovered(0, 1)
  begin(rest[1])
  recovered(2)
  t.deepEqual(kept(), [2, 3, 4], 'node 2 has recovered alone: of what only the others had it did not hear')
  begin(rest[2])
  recovered(0, 2)
  t.deepEqual(kept(), [2, 3, 4, 5])
  recovered(1)
  t.deepEqual(kept(), [5])
  begin(first)
  apply({ type: 'command', sender: nodeId(0), time: 1, command: { type: 'recovered', epoch: 5 } })
  t.deepEqual(kept(), [5, 6])
  const { recoveredBefore, ...older } = JSON.parse(JSON.stringify(state.history)) as HistoryJson
  t.deepEqual(recoveredBefore, [])
  t.deepEqual(History.fromJSON(older).epochs.length, 2, 'made by an older daemon')
})
