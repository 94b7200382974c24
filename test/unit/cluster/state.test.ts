import test from 'ava'
import { ClusterState } from '../../../lib/cluster/state.js'
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
