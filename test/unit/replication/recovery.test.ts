import test from 'ava'
import type { Clock } from '../../../lib/host/interfaces.js'
import type { Peers } from '../../../lib/replication/peers.js'
import { Recovery } from '../../../lib/replication/recovery.js'
import { Replica } from '../../../lib/replication/replica.js'
import { encodeReports } from '../../../lib/replication/survey.js'
import { Topology } from '../../../lib/replication/topology.js'
import { dataOid } from '../../../lib/vdi/oid.js'
import { CountingStore } from '../../fuzz/counting-store.js'
import { SimRandom } from '../../simulation/random.js'
import { epochsOf, node } from './nodes.js'

const OID = dataOid(1, 0)
const clock: Clock = { now: () => 0, wall: () => 0, after: () => ({ cancel() {} }) }
const turns = async () => {
  for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve))
}

test('what was heard in the former epoch decides nothing in a new one that has not begun here yet', async (t) => {
  const epochs = epochsOf([0, 1], [0, 1], [0, 1])
  const topology = new Topology(node(0).id)
  topology.update(epochs[1], epochs.slice(0, 2))
  const store = new CountingStore(new SimRandom(1, 0))
  const object = store.create(OID, 1)
  object.suspect = true
  object.intent = true
  const asked: string[] = []
  const doubts = () => ({ passedEpochs: [], lostEpoch: 0 })
  const peers = {
    call: async (_node: string, method: string, argument: { epoch: number }) => {
      asked.push(`${method} in ${argument.epoch}`)
      // The other one is valid no further than the former epoch: that is what it says in that.
      const report = {
        oid: OID,
        writeEpoch: 1,
        validThrough: argument.epoch,
        suspect: true,
        incomplete: false,
        hot: true,
      }
      return { json: { next: -1, writers: [''], ...doubts() }, body: encodeReports([report]) }
    },
  } as unknown as Peers
  const copiesOf = () => 2
  const shared = { store, topology, clock, log: () => {}, copiesOf, bytesOf: () => 0 }
  const replica = new Replica({ ...shared, recoveredEpoch: () => 1, lossUnmarked: () => {}, diskFailed: () => {} })
  let held = true
  const recovery = new Recovery({
    ...{ ...shared, peers, replica, doubts, createdIn: () => 1 },
    taken: () => {},
    settings: () => ({ held, limit: 0 }),
    passing: () => {},
    settled: async () => true,
    recovered: () => {},
    reachable: async (oids) => new Set(oids),
  })
  replica.ensurer = recovery
  replica.epochChanged([], new Set(), () => recovery.begin())
  await turns()
  t.deepEqual(asked, ['list in 2'])
  t.is(recovery.progress().objectsTotal, 1)
  // The third epoch is here, and a request of the second still at the disk.
  replica.began()
  topology.update(epochs[2], epochs)
  replica.epochChanged([], new Set(), () => recovery.begin())
  held = false
  recovery.settingsChanged()
  let resumed = false
  recovery.ensure(OID, { resume: () => (resumed = true) })
  await turns()
  t.deepEqual(asked, ['list in 2'])
  t.false(resumed)
  t.true(object.suspect)
  replica.ended()
  await turns()
  t.true(resumed, 'it asks anew, in the epoch that has begun')
  t.is(asked[1], 'list in 3')
})
