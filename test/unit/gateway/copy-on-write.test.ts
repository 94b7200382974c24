import test from 'ava'
import { CopyOnWrite } from '../../../lib/gateway/copy-on-write.js'
import type { VolumeRouter } from '../../../lib/gateway/volume-router.js'
import type { Completion } from '../../../lib/host/interfaces.js'
import { FLAG_CREATE, FLAG_FUA } from '../../../lib/protocol/header.js'
import { READ } from '../../../lib/replication/request.js'
import { dataOid, type Oid } from '../../../lib/vdi/oid.js'

const SIZE = 2 * 1024 * 1024

test('a copy whose replicas lose their power before its last piece is synced is made again', async (t) => {
  const ancestor = Buffer.alloc(SIZE, 7)
  const state = { epoch: 4, own: Buffer.alloc(0), steps: [] as string[] }
  const submit = (
    kind: number,
    _oid: Oid,
    _copies: number,
    buffer: Uint8Array,
    bufferOffset: number,
    length: number,
    position: number,
    flags: number,
    _absentFails: boolean,
    done: Completion,
  ) => {
    if (kind === READ) {
      ancestor.copy(buffer, bufferOffset, position, position + length)
    } else if ((flags & FLAG_CREATE) !== 0) {
      state.own = Buffer.alloc(SIZE)
      state.steps.push('create')
    } else if ((flags & FLAG_FUA) !== 0) {
      // What was not synced is gone, and those that come after them sync what they have.
      if (state.epoch === 4) state.own = Buffer.alloc(SIZE)
      state.epoch = 5
      state.steps.push('sync')
    } else {
      state.own.set(buffer.subarray(bufferOffset, bufferOffset + length), position)
      state.steps.push('write')
    }
    done.complete(length)
  }
  const router = {
    submit,
    get epoch() {
      return state.epoch
    },
  } as unknown as VolumeRouter
  const job = { from: dataOid(1, 3), fromCopies: 1, to: dataOid(2, 3), toCopies: 1, objectSize: SIZE }
  const result = await new Promise<number>((resolve) => {
    new CopyOnWrite(router).run({ ...job, overlay: Buffer.alloc(512, 9), overlayPosition: 4096 }, resolve)
  })
  t.is(result, 0)
  const once = ['create', 'write', 'write', 'sync']
  t.deepEqual(state.steps, [...once, ...once])
  const expected = Buffer.from(ancestor).fill(9, 4096, 4608)
  t.true(state.own.equals(expected))
})
