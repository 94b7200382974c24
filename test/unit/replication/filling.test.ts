import test from 'ava'
import type { Completion } from '../../../lib/host/interfaces.js'
import { Filling } from '../../../lib/replication/filling.js'
import { ENOSPC } from '../../../lib/replication/request.js'
import type { ObjectStore, StagedObject } from '../../../lib/store/types.js'
import { dataOid } from '../../../lib/vdi/oid.js'

const OID = dataOid(1, 0)

function setup() {
  const writes: Completion[] = []
  let aborted = false
  const staged = {
    oid: OID,
    placed: false,
    write: (_buffer: Uint8Array, _offset: number, _length: number, _position: number, done: Completion) =>
      writes.push(done),
    abort: () => {
      aborted = true
    },
  } as unknown as StagedObject
  const filling = new Filling({ get: () => undefined } as unknown as ObjectStore, OID, staged)
  const results: number[] = []
  const write = () => {
    filling.write('g', Buffer.alloc(512), 0, 512, 0, { complete: (result) => results.push(result) })
  }
  return { filling, writes, results, write, aborted: () => aborted }
}

test('a copy that is given up is idle only when the writes that went into it are answered', async (t) => {
  const { filling, writes, results, write } = setup()
  await filling.idle()
  write()
  write()
  let idle = false
  const waiting = filling.idle().then(() => {
    idle = true
  })
  writes[0].complete(512)
  await new Promise((resolve) => setImmediate(resolve))
  t.false(idle)
  writes[1].complete(512)
  t.deepEqual(results, [512, 512])
  await waiting
})

test('a write for which there is no room ends the copy and is no failure', async (t) => {
  const { filling, writes, results, write, aborted } = setup()
  write()
  writes[0].complete(ENOSPC)
  t.deepEqual(results, [512])
  t.true(filling.full)
  t.true(aborted())
  t.false(filling.takes(0, 512))
  await filling.idle()
})
