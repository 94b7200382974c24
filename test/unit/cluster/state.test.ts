import test from 'ava'
import type { LoggedCommand } from '../../../lib/cluster/history.js'
import { ClusterState } from '../../../lib/cluster/state.js'
import type { Acceptance } from '../../../lib/cluster/types.js'
import { dataOid, inodeOid, oidToHex } from '../../../lib/vdi/oid.js'
import { epochsOf } from '../replication/nodes.js'

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
