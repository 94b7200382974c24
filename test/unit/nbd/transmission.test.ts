import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import fc from 'fast-check'
import sinon from 'sinon'
import { blockStatus } from '../../../lib/nbd/block-status.js'
import * as nbd from '../../../lib/nbd/constants.js'
import { type NbdServer, startNbdServer } from '../../../lib/nbd/server.js'
import { BACKLOG_MAX, IN_FLIGHT_BYTES_MAX, IN_FLIGHT_MAX } from '../../../lib/nbd/transmission.js'
import { MemoryOpener, type MemoryVolume } from '../../support/memory-volume.js'
import { NbdClient } from '../../support/nbd-client.js'
import { until } from '../../support/process.js'

type Timing = 'inline' | 'later' | 'mixed'

interface Served {
  path: string
  opener: MemoryOpener
  server: NbdServer
}

// One after another: together they would starve each other, each moving tens of megabytes through one process.
const SIZE = 40 << 20

async function serve(t: ExecutionContext, timing: Timing = 'inline'): Promise<Served> {
  const directory = mkdtempSync(join(tmpdir(), 'nbd-'))
  const opener = new MemoryOpener({ timing })
  opener.add('disk', SIZE)
  opener.add('disk', 1 << 20, { tag: 'before', snapshotTime: 1 })
  const path = join(directory, 'nbd')
  const server = await startNbdServer({ unixSocket: path }, opener, () => {})
  t.teardown(async () => {
    for (const volume of opener.volumes) volume.unfreeze()
    await server.close()
    rmSync(directory, { recursive: true })
  })
  return { path, opener, server }
}

function pattern(length: number, seed: number): Buffer {
  const bytes = Buffer.allocUnsafe(length)
  for (let i = 0; i < length; i++) bytes[i] = (seed * 31 + i * 7 + (i >> 8)) & 0xff
  return bytes
}

for (const timing of ['inline', 'later', 'mixed'] as const) {
  for (const structured of [false, true]) {
    test.serial(
      `${timing}, ${structured ? 'structured' : 'simple'}: what is written is read, at any offset and length`,
      async (t) => {
        const { path, opener } = await serve(t, timing)
        const client = await NbdClient.open(path, 'disk', { structured })
        const lengths = [1, 511, 4096, 4097, 32_000, 32_768, 131_043, 131_044, 131_072, 300_000, 1 << 20, 32 << 20]
        for (const [i, length] of lengths.entries()) {
          const bytes = pattern(length, i)
          const written = await client.call(nbd.CMD_WRITE, i * 3 + 1, length, 0, bytes)
          t.is(written.error, 0)
          t.is(written.chunk, -1)
          const read = await client.call(nbd.CMD_READ, i * 3 + 1, length)
          t.is(read.error, 0)
          t.is(read.chunk, structured ? nbd.REPLY_TYPE_OFFSET_DATA : -1)
          t.true(read.data.equals(bytes), `${length} bytes`)
        }
        t.true(opener.volumes[0].bytes.subarray(34, 34 + (32 << 20)).equals(pattern(32 << 20, 11)))
        client.destroy()
      },
    )
  }

  test.serial(`${timing}: many requests at once are each answered once, with their own data`, async (t) => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(
          fc.record({
            write: fc.boolean(),
            length: fc.oneof(fc.integer({ min: 1, max: 10_000 }), fc.integer({ min: 1, max: 400_000 })),
            fails: fc.boolean(),
          }),
          { minLength: 1, maxLength: 60 },
        ),
        fc.boolean(),
        async (requests, structured) => {
          const { path, opener } = await serve(t, timing)
          const client = await NbdClient.open(path, 'disk', { structured })
          const [volume] = opener.volumes
          for (let i = 0; i < volume.bytes.length; i += 4096) volume.bytes.writeUInt32LE(i, i)
          const expected = new Map<number, { error: number; data: Buffer }>()
          const writes: { at: number; bytes: Buffer }[] = []
          let at = 0
          for (const [cookie, { write, length, fails }] of requests.entries()) {
            const offset = fails ? SIZE - length + 1 : at
            if (write) {
              const bytes = pattern(length, cookie)
              if (!fails) writes.push({ at, bytes })
              client.request(nbd.CMD_WRITE, cookie, offset, length, 0, bytes)
              expected.set(cookie, { error: fails ? nbd.ENOSPC : 0, data: Buffer.alloc(0) })
            } else {
              client.request(nbd.CMD_READ, cookie, offset, length)
              const data = Buffer.from(volume.bytes.subarray(offset, offset + length))
              expected.set(cookie, fails ? { error: nbd.EINVAL, data: Buffer.alloc(0) } : { error: 0, data })
            }
            at += length
          }
          while (expected.size > 0) {
            const reply = await client.reply()
            const right = expected.get(reply.cookie)
            if (right === undefined) throw new Error(`cookie ${reply.cookie} was not asked for, or twice`)
            expected.delete(reply.cookie)
            if (reply.error !== right.error) throw new Error(`error ${reply.error}, not ${right.error}`)
            if (reply.error === 0 && !reply.data.equals(right.data)) throw new Error(`wrong data for ${reply.cookie}`)
          }
          for (const { at, bytes } of writes) {
            if (!volume.bytes.subarray(at, at + bytes.length).equals(bytes)) throw new Error(`wrong bytes at ${at}`)
          }
          t.is((await client.call(nbd.CMD_FLUSH, 0, 0)).error, 0)
          client.destroy()
        },
      ),
      { numRuns: 12 },
    )
  })
}

test.serial('each command does what it says, with its flags', async (t) => {
  const { path, opener } = await serve(t)
  const client = await NbdClient.open(path, 'disk', { structured: true })
  const { calls } = opener.volumes[0]
  const { CMD_FLAG_FUA: FUA, CMD_FLAG_NO_HOLE: NO_HOLE, CMD_FLAG_FAST_ZERO: FAST, CMD_FLAG_DF: DF } = nbd
  const four = Buffer.from('four')
  t.is((await client.call(nbd.CMD_WRITE, 8, 4, FUA, four)).error, 0)
  t.is((await client.call(nbd.CMD_FLUSH, 0, 0, FUA)).error, 0)
  t.is((await client.call(nbd.CMD_READ, 8, 4, FUA | DF)).data.toString(), 'four')
  t.is((await client.call(nbd.CMD_TRIM, 4096, 0x1000000, FUA)).error, 0)
  t.is((await client.call(nbd.CMD_TRIM, 4096, 4096)).error, 0)
  t.is((await client.call(nbd.CMD_WRITE_ZEROES, 4096, 4096)).error, 0)
  t.is((await client.call(nbd.CMD_WRITE_ZEROES, 4096, 4096, NO_HOLE | FAST | FUA)).error, 0)
  t.is((await client.call(nbd.CMD_CACHE, 0, SIZE, FUA)).error, 0)
  t.deepEqual(calls, [
    'write 4 at 8 fua',
    'flush',
    'read 4 at 8',
    'discard 16777216 at 4096 fua',
    'discard 4096 at 4096',
    'zero 4096 at 4096',
    'zero 4096 at 4096 keep fua',
  ])
  client.destroy()
})

test.serial('requests that may not be are refused by number, touch nothing, and the connection goes on', async (t) => {
  const { path, opener } = await serve(t)
  const client = await NbdClient.open(path, 'disk', { structured: true, context: true })
  const [volume] = opener.volumes
  const refused = async (error: number, ...request: Parameters<NbdClient['call']>) => {
    t.is((await client.call(...request)).error, error, JSON.stringify(request.slice(0, 4)))
  }
  const one = Buffer.from('1')
  for (const type of [8, 9, 255, 0xffff]) await refused(nbd.EINVAL, type, 0, 0)
  for (const flags of [1 << 1, 1 << 3, 1 << 4, 1 << 5, 1 << 15]) await refused(nbd.EINVAL, nbd.CMD_READ, 0, 1, flags)
  for (const flags of [1 << 1, 1 << 2, 1 << 5]) await refused(nbd.EINVAL, nbd.CMD_WRITE, 0, 1, flags, one)
  await refused(nbd.EINVAL, nbd.CMD_FLUSH, 0, 0, 1 << 1)
  await refused(nbd.EINVAL, nbd.CMD_TRIM, 0, 1, nbd.CMD_FLAG_NO_HOLE)
  await refused(nbd.EINVAL, nbd.CMD_WRITE_ZEROES, 0, 1, nbd.CMD_FLAG_REQ_ONE)
  await refused(nbd.EINVAL, nbd.CMD_BLOCK_STATUS, 0, 1, nbd.CMD_FLAG_NO_HOLE)
  await refused(nbd.EINVAL, nbd.CMD_BLOCK_STATUS, 0, 0)
  for (const offset of [SIZE, SIZE - 511, 2 ** 40, 2 ** 52, 2 ** 63]) {
    await refused(nbd.EINVAL, nbd.CMD_READ, offset, 512)
    await refused(nbd.ENOSPC, nbd.CMD_WRITE, offset, 512, 0, Buffer.alloc(512))
    await refused(nbd.ENOSPC, nbd.CMD_WRITE_ZEROES, offset, 512)
    await refused(nbd.EINVAL, nbd.CMD_TRIM, offset, 512)
    await refused(nbd.EINVAL, nbd.CMD_CACHE, offset, 512)
    await refused(nbd.EINVAL, nbd.CMD_BLOCK_STATUS, offset, 512)
  }
  await refused(nbd.EINVAL, nbd.CMD_READ, 0, (32 << 20) + 1)
  await refused(nbd.EINVAL, nbd.CMD_READ, 0, 0xffffffff)
  await refused(nbd.EINVAL, nbd.CMD_TRIM, 1, 0xffffffff)
  t.deepEqual(volume.calls, [])
  for (const type of [nbd.CMD_READ, nbd.CMD_WRITE, nbd.CMD_TRIM, nbd.CMD_WRITE_ZEROES, nbd.CMD_CACHE]) {
    await refused(0, type, 0, 0)
  }
  t.deepEqual(volume.calls, [], 'nothing is done for a length of 0')
  await refused(0, nbd.CMD_READ, SIZE - 1, 1)
  client.destroy()
})

test.serial('DF needs structured replies', async (t) => {
  const { path } = await serve(t)
  const client = await NbdClient.open(path, 'disk')
  t.is((await client.call(nbd.CMD_READ, 0, 512, nbd.CMD_FLAG_DF)).error, nbd.EINVAL)
  t.is((await client.call(nbd.CMD_READ, 0, 512)).error, 0)
  client.destroy()
})

test.serial('a write that is too long ends the connection, whatever it says next', async (t) => {
  const { path, server } = await serve(t)
  const client = await NbdClient.open(path, 'disk')
  client.request(nbd.CMD_WRITE, 1, 0, (32 << 20) + 1)
  t.is((await client.closed()).length, 0)
  await until('the connection to go', 2000, () => server.connections().length === 0)
})

test.serial('snapshots are read, never written', async (t) => {
  const { path, opener } = await serve(t)
  const client = await NbdClient.open(path, 'disk@before', { structured: true })
  t.is((await client.call(nbd.CMD_READ, 0, 4096)).error, 0)
  t.is((await client.call(nbd.CMD_WRITE, 0, 1, 0, Buffer.alloc(1))).error, nbd.EPERM)
  t.is((await client.call(nbd.CMD_TRIM, 0, 1)).error, nbd.EPERM)
  t.is((await client.call(nbd.CMD_WRITE_ZEROES, 0, 1)).error, nbd.EPERM)
  t.is((await client.call(nbd.CMD_FLUSH, 0, 0)).error, 0)
  t.true(opener.requests[0].readOnly)
  t.is(opener.requests[0].snapshot, 'before')
  client.destroy()
})

for (const timing of ['inline', 'later'] as const) {
  test.serial(`${timing}: errors of the volume arrive as the numbers that NBD has`, async (t) => {
    const { path, opener } = await serve(t, timing)
    const client = await NbdClient.open(path, 'disk', { structured: true, context: true })
    const [volume] = opener.volumes
    const cases = [
      [5, 5],
      [28, 28],
      [122, 28],
      [27, 28],
      [30, 1],
      [116, 5],
      [11, 5],
      [95, 95],
    ]
    for (const [errno, expected] of cases) {
      volume.failWith = -errno
      t.is((await client.call(nbd.CMD_READ, 0, 4096)).error, expected)
      t.is((await client.call(nbd.CMD_READ, 0, 1 << 20)).error, expected)
      t.is((await client.call(nbd.CMD_WRITE, 0, 4096, 0, Buffer.alloc(4096))).error, expected)
      t.is((await client.call(nbd.CMD_FLUSH, 0, 0)).error, expected)
      t.is((await client.call(nbd.CMD_BLOCK_STATUS, 0, 4096)).error, 5)
    }
    volume.failWith = 0
    t.is((await client.call(nbd.CMD_READ, 0, 4096)).error, 0)
    client.destroy()
  })
}

test.serial('a volume that is taken away answers nothing: the client may ask again elsewhere', async (t) => {
  const { path, opener } = await serve(t, 'later')
  for (const type of [nbd.CMD_READ, nbd.CMD_FLUSH, nbd.CMD_TRIM]) {
    const client = await NbdClient.open(path, 'disk', { structured: true })
    opener.volumes.at(-1)!.failWith = -nbd.ESHUTDOWN
    client.request(type, 1, 0, type === nbd.CMD_FLUSH ? 0 : 4096)
    t.is((await client.closed()).length, 0)
  }
})

test.serial('block status tells data from holes, one range or all of them', async (t) => {
  const { path } = await serve(t)
  const client = await NbdClient.open(path, 'disk', { structured: true, context: true })
  for (const at of [0, 8192, 12_288]) await client.call(nbd.CMD_WRITE, at, 4096, 0, Buffer.alloc(4096))
  const ask = async (offset: number, length: number, flags = 0) => {
    const { chunk, data } = await client.call(nbd.CMD_BLOCK_STATUS, offset, length, flags)
    t.is(chunk, nbd.REPLY_TYPE_BLOCK_STATUS)
    return ranges(data)
  }
  t.deepEqual(await ask(0, 1 << 20), [
    [4096, 0],
    [4096, 3],
    [8192, 0],
    [(1 << 20) - 16_384, 3],
  ])
  t.deepEqual(await ask(0, 1 << 20, nbd.CMD_FLAG_REQ_ONE), [[4096, 0]])
  t.deepEqual(await ask(4096, 1 << 20, nbd.CMD_FLAG_REQ_ONE), [[4096, 3]])
  t.deepEqual(await ask(100, 200), [[200, 0]])
  t.deepEqual(await ask(1 << 20, SIZE - (1 << 20)), [[SIZE - (1 << 20), 3]])
  client.destroy()
})

function ranges(payload: Buffer): number[][] {
  const found: number[][] = []
  for (let i = 4; i < payload.length; i += 8) found.push([payload.readUInt32BE(i), payload.readUInt32BE(i + 4)])
  return found
}

test.serial('block status covers a prefix of what was asked, exactly, within its limit', (t) => {
  const gap = fc.record({ skip: fc.integer({ min: 0, max: 9 }), length: fc.integer({ min: 0, max: 9 }) })
  fc.assert(
    fc.property(
      fc.array(gap),
      fc.integer({ min: 1, max: 300 }),
      fc.integer({ min: 1, max: 12 }),
      (gaps, length, limit) => {
        const offset = 1000
        let at = offset - 5
        const extents = gaps.map(({ skip, length }) => {
          const extent = { offset: at + skip, length }
          at += skip + length
          return extent
        })
        const model = Array.from({ length }, (_, i) =>
          extents.some((each) => each.offset <= offset + i && offset + i < each.offset + each.length) ? 0 : 3,
        )
        const told = ranges(blockStatus(offset, length, extents, limit))
        const flat = told.flatMap(([bytes, flags]) => Array<number>(bytes).fill(flags))
        t.true(told.length >= 1 && told.length <= limit)
        t.true(told.every(([bytes], i) => bytes > 0 && (i === 0 || told[i][1] !== told[i - 1][1])))
        t.deepEqual(flat, model.slice(0, flat.length))
        if (told.length < limit) t.is(flat.length, length)
      },
    ),
  )
})

test.serial('requests beyond the limit stay in the socket until others finish', async (t) => {
  const { path, opener, server } = await serve(t)
  const client = await NbdClient.open(path, 'disk', { structured: true })
  const [volume] = opener.volumes
  volume.freeze()
  const count = 3 * IN_FLIGHT_MAX + 7
  for (let i = 0; i < count; i++) client.request(nbd.CMD_READ, i, i * 512, 512)
  await until('the limit to be reached', 2000, () => server.connections()[0].inFlight === IN_FLIGHT_MAX)
  await new Promise((resolve) => setTimeout(resolve, 50))
  t.is(server.connections()[0].inFlight, IN_FLIGHT_MAX)
  volume.unfreeze()
  const seen = new Set<number>()
  for (let i = 0; i < count; i++) seen.add((await client.reply()).cookie)
  t.is(seen.size, count)
  client.destroy()
})

test.serial('payload beyond the limit stays in the socket', async (t) => {
  const { path, opener, server } = await serve(t)
  const client = await NbdClient.open(path, 'disk')
  const [volume] = opener.volumes
  volume.freeze()
  const length = 8 << 20
  const count = 12
  const bytes = pattern(length, 1)
  for (let i = 0; i < count; i++) client.request(nbd.CMD_WRITE, i, 0, length, 0, bytes)
  const limit = IN_FLIGHT_BYTES_MAX / length
  await until('the limit to be reached', 30_000, () => server.connections()[0].inFlight === limit)
  await new Promise((resolve) => setTimeout(resolve, 100))
  t.is(server.connections()[0].inFlight, limit)
  volume.unfreeze()
  for (let i = 0; i < count; i++) t.is((await client.reply()).error, 0)
  t.true(volume.bytes.subarray(0, length).equals(bytes))
  client.destroy()
})

for (const timing of ['inline', 'later'] as const) {
  test.serial(`${timing}: a client that reads no replies gets no more of our memory than the limit`, async (t) => {
    const { path, opener } = await serve(t, timing)
    const client = await NbdClient.open(path, 'disk', { structured: true })
    const [volume] = opener.volumes
    client.socket.pause()
    const length = 1 << 20
    const count = 200
    for (let i = 0; i < count; i++) client.request(nbd.CMD_READ, i, 0, length)
    await new Promise((resolve) => setTimeout(resolve, 500))
    const most = (BACKLOG_MAX + IN_FLIGHT_BYTES_MAX) / length + 2
    t.true(volume.calls.length <= most, `${volume.calls.length} reads done`)
    client.socket.resume()
    const seen = new Set<number>()
    for (let i = 0; i < count; i++) seen.add((await client.reply()).cookie)
    t.is(seen.size, count)
    client.destroy()
  })
}

test.serial('a client that is gone keeps its volume until its requests have finished', async (t) => {
  const { path, opener, server } = await serve(t)
  const client = await NbdClient.open(path, 'disk', { structured: true })
  const [volume] = opener.volumes
  volume.freeze()
  for (let i = 0; i < 10; i++) client.request(nbd.CMD_WRITE, i, i * 4096, 4096, 0, pattern(4096, i))
  for (let i = 10; i < 20; i++) client.request(nbd.CMD_READ, i, 0, 100_000)
  await until('them to start', 2000, () => server.connections()[0].inFlight === 20)
  client.destroy()
  await new Promise((resolve) => setTimeout(resolve, 50))
  t.false(volume.closed)
  volume.unfreeze()
  await until('the volume to close', 2000, () => volume.closed)
  for (let i = 0; i < 10; i++) t.true(volume.bytes.subarray(i * 4096, (i + 1) * 4096).equals(pattern(4096, i)))
  t.is(server.connections().length, 0)
})

test.serial('DISC: what runs is answered, then the connection ends; nothing after it counts', async (t) => {
  const { path, opener } = await serve(t, 'later')
  const client = await NbdClient.open(path, 'disk')
  for (let i = 0; i < 30; i++) client.request(nbd.CMD_READ, i, 0, 4096)
  client.request(nbd.CMD_DISC, 99, 0, 0)
  client.request(nbd.CMD_WRITE, 100, 0, 4, 0, Buffer.from('late'))
  for (let i = 0; i < 30; i++) t.is((await client.reply()).data.length, 4096)
  t.is((await client.closed()).length, 0)
  await until('the volume to close', 2000, () => opener.volumes[0].closed)
  t.false(opener.volumes[0].calls.some((call) => call.startsWith('write')))
})

test.serial('closing the server answers what runs, then ends every connection', async (t) => {
  const { path, opener, server } = await serve(t)
  const clients = [await NbdClient.open(path, 'disk'), await NbdClient.open(path, 'disk@before')]
  const negotiating = await NbdClient.connect(path)
  for (const volume of opener.volumes) volume.freeze()
  for (const client of clients) for (let i = 0; i < 5; i++) client.request(nbd.CMD_READ, i, 0, 70_000)
  await until('them to start', 2000, () =>
    server.connections().every((each) => each.inFlight === 5 || each.exportName === ''),
  )
  const closing = server.close()
  for (const client of clients) client.request(nbd.CMD_READ, 6, 0, 1)
  await negotiating.closed()
  for (const volume of opener.volumes) volume.unfreeze()
  for (const client of clients) {
    for (let i = 0; i < 5; i++) t.is((await client.reply()).data.length, 70_000)
    t.is((await client.closed()).length, 0)
  }
  await closing
  t.true(opener.volumes.every((volume) => volume.closed))
  await t.throwsAsync(NbdClient.connect(path))
})

test.serial('closing the server does not wait for ever for requests that do not finish', async (t) => {
  const { path, opener, server } = await serve(t)
  const client = await NbdClient.open(path, 'disk')
  opener.volumes[0].freeze()
  client.request(nbd.CMD_WRITE, 1, 0, 4096, 0, pattern(4096, 1))
  await until('it to start', 2000, () => server.connections()[0].inFlight === 1)
  const clock = sinon.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'], shouldClearNativeTimers: true })
  t.teardown(() => clock.restore())
  const closing = server.close()
  await clock.tickAsync(20_000)
  clock.restore()
  await closing
  t.is((await client.closed()).length, 0)
  t.false(opener.volumes[0].closed, 'still in use by the request')
  opener.volumes[0].unfreeze()
  await until('the volume to close', 2000, () => opener.volumes[0].closed)
})

test.serial('what a connection does is counted', async (t) => {
  const { path, server } = await serve(t)
  const client = await NbdClient.open(path, 'disk')
  await client.call(nbd.CMD_WRITE, 0, 4096, 0, Buffer.alloc(4096))
  await client.call(nbd.CMD_READ, 0, 8192)
  await client.call(nbd.CMD_READ, 0, 1 << 20)
  t.deepEqual(server.connections(), [
    {
      client: path,
      exportName: 'disk',
      readOnly: false,
      encrypted: false,
      requests: 3,
      inFlight: 0,
      bytesRead: 8192 + (1 << 20),
      bytesWritten: 4096,
    },
  ])
  client.destroy()
})

for (const outcome of ['at once', 'later', 'with an error'] as const) {
  test.serial(
    `a read that ends ${outcome}, within which the volume finishes other requests, mixes up no reply`,
    async (t) => {
      const { path, opener } = await serve(t)
      const client = await NbdClient.open(path, 'disk', { structured: true })
      const volume: MemoryVolume = opener.volumes[0]
      // A gateway that holds back requests which overlap lets them go when the one before them finishes.
      volume.freeze()
      for (let i = 0; i < 40; i++) client.request(nbd.CMD_WRITE, i, i * 4096, 4096, 0, pattern(4096, i))
      await until('them to wait', 2000, () => volume.calls.length === 40)
      volume.read = (buffer, start, length, offset, done) => {
        volume.unfreeze()
        const finish = () => {
          volume.bytes.copy(buffer, start, offset, offset + length)
          done.complete(outcome === 'with an error' ? -nbd.EIO : length)
        }
        if (outcome === 'later') setImmediate(finish)
        else finish()
      }
      client.request(nbd.CMD_READ, 40, 39 * 4096, 4096)
      const seen = new Set<number>()
      for (let i = 0; i < 41; i++) {
        const { cookie, data, error } = await client.reply()
        t.is(error, cookie === 40 && outcome === 'with an error' ? nbd.EIO : 0)
        if (cookie === 40 && error === 0) t.true(data.equals(pattern(4096, 39)))
        seen.add(cookie)
      }
      t.is(seen.size, 41)
      client.destroy()
    },
  )
}
