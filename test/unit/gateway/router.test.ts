import test from 'ava'
import { Router } from '../../../lib/gateway/router.js'
import type { Clock } from '../../../lib/host/interfaces.js'
import type { Peers } from '../../../lib/replication/peers.js'
import type { Replica } from '../../../lib/replication/replica.js'
import { type ObjectRequest, WENT_BY, WRITE } from '../../../lib/replication/request.js'
import { Topology } from '../../../lib/replication/topology.js'
import { dataOid } from '../../../lib/vdi/oid.js'
import { epochsOf, node } from '../replication/nodes.js'

const OID = dataOid(1, 0)
const clock: Clock = { now: () => 0, wall: () => 0, after: () => ({ cancel() {} }) }

test('a write that went by a replica is done, and who let it is known for the epoch', (t) => {
  const epochs = epochsOf([0, 1], [0, 1])
  const topology = new Topology(node(0).id)
  topology.update(epochs[0], epochs.slice(0, 1))
  const sent: ObjectRequest[] = []
  const replica = { submit: (request: ObjectRequest) => sent.push(request) } as unknown as Replica
  const peers = { submit: (_node: string, request: ObjectRequest) => sent.push(request) } as unknown as Peers
  const router = new Router({ self: node(0).id, topology, replica, peers, clock, inLease: () => true })
  router.resume()
  const results: number[] = []
  const done = { complete: (result: number) => results.push(result) }
  router.submit(WRITE, OID, 2, Buffer.alloc(512), 0, 512, 0, 0, false, done)
  const [first, second] = sent as (ObjectRequest & { node: string })[]
  const other = second.node
  first.complete(512)
  t.deepEqual(results, [])
  second.complete(WENT_BY)
  t.deepEqual(results, [512])
  t.true(router.wentBy.has(OID, other))
  t.deepEqual(
    [node(0).id, node(1).id].filter((id) => router.wentBy.has(OID, id)),
    [other],
  )
  t.false(router.wentBy.has(dataOid(1, 1), other))
  topology.update(epochs[1], epochs)
  t.false(router.wentBy.has(OID, other), 'in a new one it is told anew')
})
