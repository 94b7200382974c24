/** The conversation with the kernel: what is answered when things go wrong. */
import test from 'ava'
import { assert } from '../../../lib/assert.js'
import { SheepError } from '../../../lib/errors.js'
import type { OpenFile } from '../../../lib/fuse/open-file.js'
import * as fuse from '../../../lib/fuse/protocol.js'
import { type Call, FuseError, IN_FLIGHT_MAX, INTERRUPTED_MS, Session } from '../../../lib/fuse/session.js'
import type { Completion } from '../../../lib/host/interfaces.js'
import { slabBytes, takeSlab } from '../../../lib/host/slab.js'
import { FakeClock } from '../vdi/world.js'

interface Reply {
  error: number
  unique: number
  body: Buffer
}

/** One file, number 7 on node 2, whose transfers end with what is in `results`; the calls end as `call` says. */
function talk(call: (call: Call) => Promise<Buffer> = () => Promise.resolve(Buffer.alloc(0))) {
  const replies: Reply[] = []
  const results: number[] = []
  const waiting: Completion[] = []
  let prepared = 0
  const clock = new FakeClock()
  const transfer = (_bytes: Buffer, _at: number, length: number, _offset: number, done: Completion) => {
    const result = results.shift()
    if (result === undefined) waiting.push(done)
    else done.complete(result === 0 ? length : result)
  }
  const file = { read: transfer, write: transfer, prepare: () => Promise.resolve(prepared) } as unknown as OpenFile
  const session = new Session(
    { file: (handle, node) => (handle === 7 && node === 2 ? file : null), call, initialized: () => {} },
    clock,
    () => {},
  )
  session.channel = {
    send: (bytes, offset, length) => {
      const message = Buffer.from(bytes.subarray(offset, offset + length))
      assert(message.readUInt32LE(0) === length, 'a reply is as long as it says')
      replies.push({
        error: 0 - message.readInt32LE(4),
        unique: message.readUInt32LE(8),
        body: message.subarray(16),
      })
      return 0
    },
    resume: () => {},
  }
  const ask = (opcode: number, unique: number, body: Buffer, announced = fuse.IN_HEADER + body.length): void => {
    const slab = takeSlab(fuse.REQUEST_MAX)
    slab.bytes.fill(0, 0, fuse.IN_HEADER)
    slab.bytes.writeUInt32LE(announced, 0)
    slab.bytes.writeUInt32LE(opcode, 4)
    slab.bytes.writeUInt32LE(unique, 8)
    slab.bytes.writeUInt32LE(2, 16)
    body.copy(slab.bytes, fuse.IN_HEADER)
    session.message(slab, 0, fuse.IN_HEADER + body.length)
    slab.release()
  }
  const refuseVolume = (errno: number): void => {
    prepared = errno
  }
  return { session, clock, replies, results, waiting, ask, refuseVolume }
}

function transferOf(handle: number, length: number, data = 0): Buffer {
  const body = Buffer.alloc(40 + data)
  body.writeUInt32LE(handle, 0)
  body.writeUInt32LE(length, 16)
  return body
}

const turn = () => new Promise((resolve) => setImmediate(resolve))

test('refusals become errno, each to whom it belongs', async (t) => {
  const failures = [
    new FuseError(fuse.EBUSY),
    new SheepError('locked', 'another host writes it'),
    new SheepError('not-found', 'gone'),
    new SheepError('exists', 'there is one'),
    new SheepError('no-space', 'full'),
  ]
  const { ask, replies } = talk(() => Promise.reject(failures.shift()))
  for (let unique = 1; unique <= 5; unique++) ask(fuse.GETATTR, unique, Buffer.alloc(16))
  await turn()
  t.deepEqual(
    replies.map(({ error, unique }) => [unique, error]),
    [
      [1, fuse.EBUSY],
      [2, fuse.EBUSY],
      [3, fuse.ENOENT],
      [4, fuse.EEXIST],
      [5, fuse.ENOSPC],
    ],
  )
})

test('a request that is too short is EINVAL, one of another length than it says is dropped', (t) => {
  const { ask, replies, session } = talk()
  ask(fuse.READ, 1, Buffer.alloc(8))
  ask(fuse.GETATTR, 2, Buffer.alloc(16), 4096)
  t.deepEqual(
    replies.map(({ error, unique }) => [unique, error]),
    [[1, fuse.EINVAL]],
  )
  t.is(session.requests, 0)
})

test('reads and writes: a handle of nobody, too much, fewer bytes than said, a failing disk; no buffer stays', (t) => {
  const before = slabBytes().taken
  const { ask, replies, results, session } = talk()
  ask(fuse.READ, 1, transferOf(8, 4096))
  ask(fuse.READ, 2, transferOf(7, fuse.PAYLOAD_MAX + 1))
  ask(fuse.WRITE, 3, transferOf(7, 512, 511))
  results.push(-fuse.EIO, -fuse.ENOSPC, 0, 0)
  ask(fuse.READ, 4, transferOf(7, 4096))
  ask(fuse.WRITE, 5, transferOf(7, 512, 512))
  ask(fuse.READ, 6, transferOf(7, 4096))
  ask(fuse.WRITE, 7, transferOf(7, 512, 512))
  t.deepEqual(
    replies.map(({ error }) => error),
    [fuse.EBADF, fuse.EINVAL, fuse.EINVAL, fuse.EIO, fuse.ENOSPC, 0, 0],
  )
  t.is(replies[5].body.length, 4096)
  t.is(replies[6].body.readUInt32LE(), 512)
  t.deepEqual([session.bytesRead, session.bytesWritten, session.inFlight], [4096, 512, 0])
  t.is(slabBytes().taken, before)
})

test('a file without its volume gets it and the transfer goes on; without one it fails as opening did', async (t) => {
  const { ask, replies, results, refuseVolume } = talk()
  results.push(-fuse.ESHUTDOWN, 0)
  ask(fuse.READ, 1, transferOf(7, 512))
  await turn()
  t.is(replies[0].body.length, 512)
  refuseVolume(fuse.EIO)
  results.push(-fuse.ESHUTDOWN)
  ask(fuse.WRITE, 2, transferOf(7, 512, 512))
  await turn()
  t.is(replies[1].error, fuse.EIO)
})

test('who is interrupted is let go after a while, and answered once', (t) => {
  const { ask, replies, waiting, clock, session } = talk(() => new Promise(() => {}))
  ask(fuse.READ, 1, transferOf(7, 512))
  ask(fuse.FSYNC, 2, Buffer.alloc(16))
  for (const unique of [1, 2, 99]) {
    const body = Buffer.alloc(8)
    body.writeUInt32LE(unique, 0)
    ask(fuse.INTERRUPT, unique + 100, body)
  }
  t.is(replies.length, 0)
  clock.advance(INTERRUPTED_MS + 1)
  t.deepEqual(
    replies.map(({ error, unique }) => [unique, error]),
    [
      [1, fuse.EINTR],
      [2, fuse.EINTR],
    ],
  )
  waiting[0].complete(512)
  t.is(replies.length, 2)
  t.is(session.inFlight, 1)
})

test('what is forgotten is not answered, however often it was looked up', (t) => {
  const { ask, replies, session } = talk()
  ask(fuse.FORGET, 1, Buffer.alloc(8, 0xff))
  ask(fuse.BATCH_FORGET, 2, Buffer.alloc(8 + 32, 0xff))
  t.deepEqual([replies.length, session.inFlight, session.requests], [0, 0, 2])
})

test('no more is taken than may be under way; the first that ends asks for more', (t) => {
  const { ask, waiting, session } = talk()
  let resumed = 0
  const { channel } = session
  if (channel !== null) {
    channel.resume = () => {
      resumed++
    }
  }
  for (let unique = 1; unique <= IN_FLIGHT_MAX; unique++) {
    t.true(session.ready)
    ask(fuse.READ, unique, transferOf(7, 512))
  }
  t.false(session.ready)
  t.is(resumed, 0)
  waiting[0].complete(512)
  t.is(resumed, 1)
  t.true(session.ready)
  for (const done of waiting.slice(1)) done.complete(-fuse.EIO)
  t.is(session.inFlight, 0)
})
