/** When a volume says, as it is closed, that there may be objects which it does not refer to. */
import test from 'ava'
import type { Router } from '../../../lib/gateway/router.js'
import { GatewayVolume } from '../../../lib/gateway/volume.js'
import { READ, REMOVE, WRITE } from '../../../lib/replication/request.js'
import { dataOid, inodeOid } from '../../../lib/vdi/oid.js'
import type { VdiEntry } from '../../../lib/vdi/types.js'
import { FakeClock } from '../vdi/world.js'
import { PendingRouter } from './pending-router.js'

const VID = 7
const ANCESTOR = 5
const SHIFT = 16
const SIZE = 2 ** SHIFT

/** One object, of `owner`; `next` ends the request that was sent last, which must be this one. */
function world(owner: number) {
  const router = new PendingRouter()
  const unreferenced: number[] = []
  const volume = new GatewayVolume({
    router: Object.assign(router, { options: { self: 'here' }, serves: true, isStopped: false }) as unknown as Router,
    clock: new FakeClock(),
    log: () => {},
    entry: { vid: VID, name: 'vm', size: SIZE, copies: 2, blockSizeShift: SHIFT } as VdiEntry,
    readOnly: false,
    entries: Uint32Array.of(owner),
    target: null,
    copiesOf: () => 2,
    storeNodes: () => [],
    replicasOf: () => [],
    holdersOf: () => [],
    tookAll: () => [],
    mayHaveDropped: () => false,
    standingOf: () => null,
    givenUp: () => false,
    unreferenced: (vid) => unreferenced.push(vid),
    clean: async () => {},
    closed: async () => {},
    latency: null,
  })
  const next = (kind: number, oid: number, result: number, bytes?: Buffer): void => {
    const request = router.submitted.pop()
    if (request?.kind !== kind || request.oid !== oid) throw new Error(`kind ${request?.kind} of ${request?.oid}`)
    bytes?.copy(request.bytes as Buffer)
    request.done.complete(result)
  }
  const results: number[] = []
  const discard = (): void => volume.discard(SIZE, 0, false, { complete: (result) => results.push(result) })
  return { volume, next, discard, results, unreferenced }
}

test('a discard of an inherited object: who kept one of this VDI on its word is to look again', (t) => {
  for (const asked of [false, true]) {
    const { volume, next, discard, results, unreferenced } = world(ANCESTOR)
    discard()
    t.is(asked && volume.refersTo(0), asked)
    next(WRITE, inodeOid(VID), 4)
    t.deepEqual([results, unreferenced], [[SIZE], [ANCESTOR]])
    t.false(volume.refersTo(0))
    t.is(volume.leftovers, asked)
  }
})

test('a discard of its own object removes it, but one who asked may have come with a copy since', (t) => {
  const { volume, next, discard, results } = world(VID)
  discard()
  t.true(volume.refersTo(0))
  next(WRITE, inodeOid(VID), 4)
  t.true(volume.refersTo(0), 'it is being removed')
  next(REMOVE, dataOid(VID, 0), 0)
  t.deepEqual(results, [SIZE])
  t.true(volume.leftovers)
})

test('an entry is cleared, and nobody has answered so: the object is still there', (t) => {
  const { volume, next, discard, results } = world(VID)
  discard()
  next(WRITE, inodeOid(VID), -108)
  next(READ, inodeOid(VID), 4, Buffer.alloc(4))
  t.deepEqual(results, [-108])
  t.false(volume.refersTo(0))
  t.true(volume.leftovers)
})

test('changes that end well leave nothing', (t) => {
  const { volume, next, discard, results } = world(VID)
  discard()
  next(WRITE, inodeOid(VID), 4)
  next(REMOVE, dataOid(VID, 0), 0)
  volume.write(Buffer.alloc(512), 0, 512, 0, false, { complete: (result) => results.push(result) })
  next(WRITE, dataOid(VID, 0), 512)
  next(WRITE, inodeOid(VID), 4)
  t.deepEqual(results, [SIZE, 512])
  t.true(volume.refersTo(0))
  t.false(volume.leftovers)
})
