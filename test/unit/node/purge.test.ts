import test from 'ava'
import { purge } from '../../../lib/node/purge.js'
import type { Replica } from '../../../lib/replication/replica.js'
import { Topology } from '../../../lib/replication/topology.js'
import type { ObjectStore, StoredObject } from '../../../lib/store/types.js'
import { dataOid } from '../../../lib/vdi/oid.js'
import { epochsOf, nodeId } from '../replication/nodes.js'
import { FakeClock } from '../vdi/world.js'

const OBJECTS = 40

test('a disk that takes its time to remove files holds the others up for one at a time', (t) => {
  const topology = new Topology(nodeId(0))
  const epochs = epochsOf([0, 1], [0, 1])
  topology.update(epochs[1], epochs)
  const clock = new FakeClock()
  const objects = new Set<StoredObject>()
  for (let i = 0; i < OBJECTS; i++) objects.add({ oid: dataOid(7, i), writeEpoch: 1, removed: false } as StoredObject)
  let longest = 0
  let began = 0
  const step = (run: () => void): void => {
    began = clock.now()
    run()
    longest = Math.max(longest, clock.now() - began)
  }
  const said: string[] = []
  step(() =>
    purge({
      store: { all: () => new Set(objects).values() } as unknown as ObjectStore,
      topology,
      replica: {
        discard: (object: StoredObject) => {
          objects.delete(object)
          clock.advance(300)
        },
      } as unknown as Replica,
      clock: { now: () => clock.now(), wall: () => 0, after: (ms, fn) => clock.after(ms, () => step(fn)) },
      log: (_level, text) => said.push(text),
      copiesOf: () => 0,
      mayGoOn: () => true,
    }),
  )
  for (let turn = 0; turn <= OBJECTS; turn++) clock.advance(0)
  t.is(objects.size, 0)
  t.is(longest, 300)
  t.deepEqual(said, [`dropped ${OBJECTS} copies that other nodes hold now`])
})
