import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { connect, Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import fc from 'fast-check'
import type { Slab } from '../../../lib/host/slab.js'
import { MESSAGE_MAX, Stream, type StreamHandler } from '../../../lib/host/stream.js'
import { connectStream, listenStream, type StreamAddress } from '../../../lib/host/stream-socket.js'
import { Conversation } from '../../fuzz/memory-socket.js'

const log = () => {}

/** Messages are a 4-byte length of the whole, then bytes. */
class Frames implements StreamHandler {
  readonly got: Buffer[] = []
  readonly reasons: string[] = []
  onMessage: ((bytes: Buffer, slab: Slab, start: number, end: number) => void) | null = null
  onDrained: (() => void) | null = null
  private readonly waiting: { count: number; resolve: () => void }[] = []
  private readonly closing: (() => void)[] = []

  messageLength(bytes: Buffer, start: number, end: number): number {
    if (end - start < 4) return 0
    const length = bytes.readUInt32LE(start)
    return length < 4 || length > MESSAGE_MAX ? -1 : length
  }

  message(slab: Slab, start: number, end: number): void {
    const bytes = Buffer.from(slab.bytes.subarray(start, end))
    this.got.push(bytes)
    this.onMessage?.(bytes, slab, start, end)
    for (const wait of this.waiting) if (this.got.length >= wait.count) wait.resolve()
  }

  closed(reason: string): void {
    this.reasons.push(reason)
    for (const resolve of this.closing) resolve()
  }

  drained(): void {
    this.onDrained?.()
  }

  async messages(count: number): Promise<void> {
    if (this.got.length < count) await new Promise<void>((resolve) => this.waiting.push({ count, resolve }))
  }

  async end(): Promise<string> {
    if (this.reasons.length === 0) await new Promise<void>((resolve) => this.closing.push(resolve))
    return this.reasons[0]
  }
}

function frame(length: number, seed = length): Buffer {
  const bytes = Buffer.allocUnsafe(length)
  for (let i = 4; i < length; i++) bytes[i] = (seed + i * 7) & 0xff
  bytes.writeUInt32LE(length)
  return bytes
}

function directory(t: ExecutionContext): string {
  const path = mkdtempSync(join(tmpdir(), 'stream-'))
  t.teardown(() => rmSync(path, { recursive: true }))
  return path
}

interface Pair {
  client: Stream
  server: Stream
  clientEnd: Frames
  serverEnd: Frames
}

async function pair(t: ExecutionContext, kind: 'tcp' | 'unix'): Promise<Pair> {
  const serverEnd = new Frames()
  const clientEnd = new Frames()
  let address: StreamAddress = { path: join(directory(t), 'socket') }
  if (kind === 'tcp') address = { host: '127.0.0.1', port: 0 }
  let accepted: (stream: Stream) => void
  const server = new Promise<Stream>((resolve) => {
    accepted = resolve
  })
  const listener = await listenStream(
    address,
    (stream) => {
      accepted(stream)
      return serverEnd
    },
    log,
  )
  t.teardown(() => listener.close())
  if (kind === 'tcp') address = { host: '127.0.0.1', port: listener.port }
  const client = connectStream(address, clientEnd)
  const both = { client, server: await server, clientEnd, serverEnd }
  t.teardown(() => {
    client.close('test over')
    both.server.close('test over')
  })
  return both
}

/** A plain socket at the other end, for bytes that no Stream would send. */
async function raw(t: ExecutionContext): Promise<{ socket: Socket; server: Stream; end: Frames }> {
  const end = new Frames()
  const path = join(directory(t), 'socket')
  let accepted: (stream: Stream) => void
  const server = new Promise<Stream>((resolve) => {
    accepted = resolve
  })
  const listener = await listenStream(
    { path },
    (stream) => {
      accepted(stream)
      return end
    },
    log,
  )
  t.teardown(() => listener.close())
  const socket = connect(path)
  t.teardown(() => socket.destroy())
  return { socket, server: await server, end }
}

for (const kind of ['tcp', 'unix'] as const) {
  test(`${kind}: messages of every size arrive whole and in order, both ways`, async (t) => {
    const { client, server, clientEnd, serverEnd } = await pair(t, kind)
    const sizes = [4, 5, 100, 4096, 40_000, 262_143, 262_144, 262_145, 1 << 20, (1 << 20) + 28, 5 << 20, 17, 33 << 20]
    for (const [i, size] of sizes.entries()) {
      const bytes = frame(size, i)
      client.send(bytes, 0, size)
      server.send(bytes, 0, size)
      bytes.fill(0xee)
    }
    await Promise.all([serverEnd.messages(sizes.length), clientEnd.messages(sizes.length)])
    for (const [i, size] of sizes.entries()) {
      t.true(serverEnd.got[i].equals(frame(size, i)), `to the server: ${size}`)
      t.true(clientEnd.got[i].equals(frame(size, i)), `to the client: ${size}`)
    }
    t.is(client.backlog, 0)
  })
}

test('TCP connections ask a silent peer whether it is still there', async (t) => {
  const { client, serverEnd } = await pair(t, 'tcp')
  client.send(frame(10), 0, 10)
  await serverEnd.messages(1)
  await new Promise((resolve) => setTimeout(resolve, 300))
  const port = Number(client.remote.split(':').at(-1)).toString(16).toUpperCase().padStart(4, '0')
  // proc_net_tcp(5): local, remote, state (01 established), queues, timer (02 keep-alive).
  const lines = readFileSync('/proc/net/tcp', 'utf8').split('\n')
  const ends = lines.map((line) => line.trim().split(/\s+/)).filter((fields) => fields[3] === '01')
  const ours = ends.filter((fields) => fields[1].endsWith(`:${port}`) || fields[2].endsWith(`:${port}`))
  t.is(ours.length, 2)
  for (const fields of ours) t.is(fields[5].slice(0, 2), '02', fields.join(' '))
})

test('messages cut anywhere are put together again', async (t) => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.integer({ min: 4, max: 300_000 }), { minLength: 1, maxLength: 20 }),
      fc.array(fc.integer({ min: 1, max: 400_000 }), { minLength: 1, maxLength: 20 }),
      async (sizes, cuts) => {
        const end = new Frames()
        const stream = new Stream(end, () => new Socket())
        const bytes = Buffer.concat(sizes.map((size, i) => frame(size, i)))
        let at = 0
        for (let turn = 0; at < bytes.length; turn++) {
          const room = stream.receiveBuffer()
          t.true(room.length > 0)
          const length = Math.min(room.length, cuts[turn % cuts.length], bytes.length - at)
          room.set(bytes.subarray(at, at + length))
          at += length
          stream.received(length)
        }
        t.is(end.got.length, sizes.length)
        for (const [i, size] of sizes.entries()) t.true(end.got[i].equals(frame(size, i)))
        stream.close('done')
      },
    ),
    { numRuns: 60 },
  )
})

test('a retained message is not overwritten until it is released', async (t) => {
  const { client, serverEnd } = await pair(t, 'unix')
  const held: { slab: Slab; start: number; end: number }[] = []
  serverEnd.onMessage = (_, slab, start, end) => {
    slab.retain()
    held.push({ slab, start, end })
  }
  const count = 600
  for (let i = 0; i < count; i++) client.send(frame(4096, i), 0, 4096)
  await serverEnd.messages(count)
  t.true(new Set(held.map(({ slab }) => slab)).size > 1)
  for (const [i, { slab, start, end }] of held.entries()) {
    t.true(slab.bytes.subarray(start, end).equals(frame(4096, i)), `message ${i}`)
    slab.release()
  }
})

test('what one turn sends arrives in order, whichever way it was sent', async (t) => {
  const { client, serverEnd } = await pair(t, 'unix')
  client.send(frame(100, 1), 0, 100)
  client.send(frame(100_000, 2), 0, 100_000)
  const at = client.reserve(50)
  frame(50, 3).copy(client.batch.bytes, at)
  const late = client.reserve(4096)
  const slab = client.detach(late)
  client.send(frame(60, 4), 0, 60)
  frame(4096, 5).copy(slab.bytes, late)
  client.sendSlab(slab, late, late + 4096)
  for (let i = 6; i < 200; i++) client.send(frame(9000, i), 0, 9000)
  await serverEnd.messages(199)
  const expected = [frame(100, 1), frame(100_000, 2), frame(50, 3), frame(60, 4), frame(4096, 5)]
  for (let i = 6; i < 200; i++) expected.push(frame(9000, i))
  for (const [i, bytes] of expected.entries()) t.true(serverEnd.got[i].equals(bytes), `message ${i}`)
})

test('a reader that pauses gets nothing until it resumes, and the sender sees its backlog grow and drain', async (t) => {
  const { client, server, clientEnd, serverEnd } = await pair(t, 'unix')
  let drained = 0
  clientEnd.onDrained = () => {
    if (client.backlog === 0) drained++
  }
  serverEnd.onMessage = () => server.pause()
  client.send(frame(10), 0, 10)
  client.send(frame(11), 0, 11)
  await serverEnd.messages(1)
  for (let i = 0; i < 40; i++) client.send(frame(100_000, i), 0, 100_000)
  await new Promise((resolve) => setTimeout(resolve, 50))
  t.is(serverEnd.got.length, 1)
  t.true(client.backlog > 1_000_000)
  t.is(drained, 0)
  server.resume()
  t.is(serverEnd.got.length, 2, 'the second was there already; its callback pauses again')
  serverEnd.onMessage = null
  server.resume()
  await serverEnd.messages(42)
  for (let i = 0; i < 40; i++) t.true(serverEnd.got[i + 2].equals(frame(100_000, i)))
  while (client.backlog > 0) await new Promise((resolve) => setImmediate(resolve))
  t.is(drained, 1)
})

test('pausing and resuming within a message neither loses nor repeats any', async (t) => {
  const { client, server, serverEnd } = await pair(t, 'unix')
  serverEnd.onMessage = () => {
    server.pause()
    server.resume()
    server.pause()
    setImmediate(() => server.resume())
  }
  for (let i = 0; i < 300; i++) client.send(frame(5000, i), 0, 5000)
  await serverEnd.messages(300)
  for (let i = 0; i < 300; i++) t.true(serverEnd.got[i].equals(frame(5000, i)))
})

test('a callback that sends while its stream is flushing is sent too', async (t) => {
  const { client, server, clientEnd, serverEnd } = await pair(t, 'tcp')
  serverEnd.onMessage = (bytes) => {
    server.send(bytes, 0, bytes.length)
    server.flush()
    server.send(bytes, 0, bytes.length)
  }
  clientEnd.onMessage = (bytes) => {
    if (bytes.length > 4) client.send(frame(bytes.length - 1), 0, bytes.length - 1)
  }
  client.send(frame(8), 0, 8)
  // 8 comes back twice, each sends a 7, each of which comes back twice: 2 + 4 + 8 + 16 + 32.
  await clientEnd.messages(62)
  await new Promise((resolve) => setTimeout(resolve, 20))
  t.is(clientEnd.got.length, 62)
})

test('an answer of -1 closes the stream with a reason, and nothing more is delivered', async (t) => {
  const { socket, end } = await raw(t)
  socket.on('error', () => {})
  socket.write(Buffer.concat([frame(20), Buffer.from([1, 0, 0, 0]), frame(20)]))
  t.is(await end.end(), 'not the protocol')
  t.is(end.got.length, 1)
})

test('the peer that closes is reported once, and sending to it afterwards is harmless', async (t) => {
  const { socket, server, end } = await raw(t)
  socket.end(frame(12))
  t.is(await end.end(), 'the peer closed')
  t.is(end.got.length, 1)
  t.false(server.open)
  server.send(frame(100), 0, 100)
  server.send(frame(100_000), 0, 100_000)
  server.flush()
  server.pause()
  server.resume()
  server.close('again')
  server.end('again')
  await new Promise((resolve) => setTimeout(resolve, 20))
  t.is(end.reasons.length, 1)
})

test('a peer that is gone while much is queued closes the stream and gives its memory back', async (t) => {
  const { socket, server, end } = await raw(t)
  socket.on('error', () => {})
  socket.pause()
  for (let i = 0; i < 50; i++) server.send(frame(200_000), 0, 200_000)
  t.true(server.backlog > 5_000_000)
  socket.destroy()
  const reason = await end.end()
  t.regex(reason, /EPIPE|ECONNRESET|the peer closed/)
  await new Promise((resolve) => setTimeout(resolve, 20))
  t.is(server.backlog, 0)
})

test.serial('end sends what is queued before it closes, and takes no more messages', async (t) => {
  const { socket, server, end } = await raw(t)
  const chunks: Buffer[] = []
  socket.pause()
  for (let i = 0; i < 30; i++) server.send(frame(100_000, i), 0, 100_000)
  server.end('going down')
  socket.write(frame(10))
  socket.on('data', (chunk: Buffer) => chunks.push(chunk)).resume()
  await new Promise<void>((resolve) => socket.once('end', () => resolve()))
  const received = Buffer.concat(chunks)
  const sent = Buffer.concat(Array.from({ length: 30 }, (_, i) => frame(100_000, i)))
  t.is(received.length, sent.length)
  t.true(received.equals(sent))
  t.is(await end.end(), 'going down')
  t.is(end.got.length, 0)
})

test.serial('end cuts off a peer that takes nothing more, not one that is slow', async (t) => {
  const { socket, server, end } = await raw(t)
  socket.pause()
  for (let i = 0; i < 30; i++) server.send(frame(100_000, i), 0, 100_000)
  server.end('going down')
  let taken = 0
  for (let sip = 0; sip < 4; sip++) {
    await new Promise((resolve) => setTimeout(resolve, 1500))
    t.true(server.open, `it took something 1.5 s before, ${sip}`)
    // More than the socket holds, or the server's side does not move.
    const enough = taken + 400_000
    socket.removeAllListeners('data').on('data', (chunk: Buffer) => {
      taken += chunk.length
      if (taken > enough) socket.pause()
    })
    socket.resume()
  }
  const start = performance.now()
  t.is(await end.end(), 'going down')
  const waited = performance.now() - start
  t.true(waited > 1500, `cut off after ${waited} ms`)
})

test('closing within a message stops delivery', async (t) => {
  const { client, server, serverEnd } = await pair(t, 'unix')
  serverEnd.onMessage = () => server.close('enough')
  for (let i = 0; i < 10; i++) client.send(frame(10), 0, 10)
  t.is(await serverEnd.end(), 'enough')
  t.is(serverEnd.got.length, 1)
})

test('connecting to nobody ends with the reason', async (t) => {
  const end = new Frames()
  const stream = connectStream({ path: join(directory(t), 'nobody') }, end)
  stream.send(frame(10), 0, 10)
  t.regex(await end.end(), /ENOENT/)
  const refused = new Frames()
  connectStream({ host: '127.0.0.1', port: 1 }, refused)
  t.regex(await refused.end(), /ECONNREFUSED/)
})

test('what is sent before the connection stands arrives first', async (t) => {
  const path = join(directory(t), 'socket')
  const end = new Frames()
  const listener = await listenStream({ path }, () => end, log)
  t.teardown(() => listener.close())
  const client = connectStream({ path }, new Frames())
  t.teardown(() => client.close('test over'))
  for (let i = 0; i < 10; i++) client.send(frame(50_000, i), 0, 50_000)
  await end.messages(10)
  for (let i = 0; i < 10; i++) t.true(end.got[i].equals(frame(50_000, i)))
})

test('a socket file left by a dead process is replaced, one in use is not, nor is another kind of file', async (t) => {
  const path = join(directory(t), 'socket')
  const first = await listenStream({ path, mode: 0o660 }, () => new Frames(), log)
  await t.throwsAsync(
    listenStream({ path }, () => new Frames(), log),
    { message: /in use by another process/ },
  )
  first.close()
  const other = join(directory(t), 'file')
  writeFileSync(other, 'precious')
  await t.throwsAsync(
    listenStream({ path: other }, () => new Frames(), log),
    { message: /is not a socket/ },
  )
  t.is(statSync(other).size, 8)
  const script = `require('net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 'SIGKILL'))`
  spawnSync(process.execPath, ['-e', script])
  t.true(statSync(path).isSocket())
  const second = await listenStream({ path, mode: 0o640 }, () => new Frames(), log)
  t.is(statSync(path).mode & 0o777, 0o640)
  second.close()
})

test('a stream that ends in the middle of a large message reads on to the end', async (t) => {
  const MIB = 1 << 20
  const { promise, resolve } = gate()
  const talk = new Conversation(() => ({
    messageLength: () => MIB,
    message: () => t.fail('the message was never whole'),
    closed: resolve,
  }))
  const say = (length: number): void => {
    for (let left = length; left > 0; ) {
      const taken = Math.min(left, talk.stream.receiveBuffer().length)
      talk.stream.received(taken)
      left -= taken
    }
  }
  say(100_000)
  talk.stream.end('enough')
  say(3 * MIB)
  talk.hangUp()
  await promise
  t.false(talk.stream.open)
})

function gate(): { promise: Promise<void>; resolve: () => void } {
  let resolve = (): void => {}
  const promise = new Promise<void>((done) => {
    resolve = done
  })
  return { promise, resolve }
}
