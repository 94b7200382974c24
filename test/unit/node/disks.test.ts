import test from 'ava'
import type { Cluster } from '../../../lib/cluster/cluster.js'
import type { ClusterCommand, EpochRecord, NodeInfo } from '../../../lib/cluster/types.js'
import { SheepError } from '../../../lib/errors.js'
import { Disks } from '../../../lib/node/disks.js'
import type { Replica } from '../../../lib/replication/replica.js'
import type { Topology } from '../../../lib/replication/topology.js'
import type { DiskSet } from '../../../lib/store/disk-set.js'
import { FakeClock } from '../vdi/world.js'

const SELF = { id: 'self', name: 'n1', space: 1 } as NodeInfo

/** A node in epoch 5 whose disk went in that epoch. */
function afterLoss() {
  const clock = new FakeClock()
  const topology = { epoch: 5 }
  const state = { lostEpoch: 0 }
  const proposed: ClusterCommand[] = []
  const fate = { refuse: false, suspended: 0 }
  const store = {
    state,
    base: null,
    space: () => ({ total: 1, free: 1 }),
    epochBegins: () => {},
  } as unknown as DiskSet
  const disks = new Disks({
    store,
    topology: topology as Topology,
    replica: { suspend: () => fate.suspended++ } as unknown as Replica,
    cluster: {
      history: [],
      propose: async (command: ClusterCommand) => {
        proposed.push(command)
        if (fate.refuse) throw new SheepError('busy', 'the epoch changes')
      },
    } as unknown as Cluster,
    clock,
    random: { hex: () => '', next: () => 0 } as never,
    log: () => {},
    self: SELF,
    attach: () => {
      throw new SheepError('not-found', 'no disk')
    },
    stop: () => {},
  })
  const begin = (number: number, lost: number) => {
    topology.epoch = number
    disks.epochBegins({ number, time: 0, nodes: [{ ...SELF, lost }] } as EpochRecord)
  }
  const lose = () => {
    state.lostEpoch = topology.epoch
    disks.lost()
  }
  return { clock, disks, state, proposed, fate, begin, lose }
}

test('after the loss of a disk a node takes part again in the epoch that says so, and not in one that began before', (t) => {
  const { disks, state, fate, begin, lose } = afterLoss()
  t.false(disks.isUnnamed)
  lose()
  t.is(fate.suspended, 1)
  begin(6, 0)
  t.true(disks.isUnnamed)
  t.is(state.lostEpoch, 5, 'it has nothing of that epoch, and says so')
  begin(7, 7)
  t.false(disks.isUnnamed)
  disks.stop()
})

test('the record of an earlier loss does not speak of this one', (t) => {
  const { disks, begin, lose } = afterLoss()
  begin(6, 6)
  lose()
  begin(7, 6)
  t.true(disks.isUnnamed)
  begin(8, 8)
  t.false(disks.isUnnamed)
  disks.stop()
})

test('a loss that the cluster did not hear of is told again, as a loss, also when an epoch has begun meanwhile', async (t) => {
  const { clock, disks, proposed, fate, begin, lose } = afterLoss()
  fate.refuse = true
  lose()
  for (let turn = 0; turn < 5; turn++) await Promise.resolve()
  begin(6, 0)
  fate.refuse = false
  clock.advance(1_000)
  t.deepEqual(proposed, [
    { type: 'disks', space: 1, lost: true, plugged: false },
    { type: 'disks', space: 1, lost: true, plugged: false },
  ])
  disks.stop()
})
