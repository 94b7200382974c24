/** Our end of the wire, against a peer that is no bus: what a bus would never let through must not hurt, and nothing may grow. */
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import fc from 'fast-check'
import { Bus } from '../../../lib/dbus/bus.js'
import { decode, encode, type Incoming, METHOD_CALL, METHOD_RETURN, variant } from '../../../lib/dbus/codec.js'
import { Connection } from '../../../lib/dbus/connection.js'
import { CallError } from '../../../lib/dbus/names.js'
import { until } from '../../support/process.js'

interface Peer {
  path: string
  socket(): Promise<Socket>
}

/** Accepts one client; `greet`: lets it in as a bus does. */
async function listen(t: ExecutionContext, greet = true): Promise<Peer> {
  const directory = mkdtempSync(join(tmpdir(), 'dbus-'))
  const path = join(directory, 'bus')
  const sockets: Socket[] = []
  const server: Server = createServer((socket) => {
    socket.on('error', () => {})
    if (greet) socket.once('data', () => socket.write('OK 0123456789abcdef0123456789abcdef\r\n'))
    sockets.push(socket)
  })
  await new Promise<void>((resolve) => server.listen(path, resolve))
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
    rmSync(directory, { recursive: true })
  })
  return { path, socket: () => until('a client', 5_000, () => sockets[0]) }
}

interface Client {
  connection: Connection
  messages: Incoming[]
  closed: string[]
}

async function client(path: string): Promise<Client> {
  const messages: Incoming[] = []
  const closed: string[] = []
  let ready = false
  const connection = new Connection(path, {
    ready: () => {
      ready = true
    },
    message: (message) => messages.push(message),
    closed: (reason) => closed.push(reason),
  })
  await until('the connection', 5_000, () => ready || closed.length > 0)
  return { connection, messages, closed }
}

function call(member: string, signature = '', body: unknown[] = []): Buffer {
  return encode(METHOD_CALL, { serial: 7, path: '/a', member, signature, body })
}

test.serial('messages come whole, however they are cut', async (t) => {
  const peer = await listen(t)
  const { connection, messages } = await client(peer.path)
  const socket = await peer.socket()
  const bytes = Buffer.concat([
    call('One', 's', ['x'.repeat(300)]),
    call('Two', 'at', [[1n, 2n ** 64n - 1n]]),
    call('Three'),
  ])
  for (let at = 0; at < bytes.length; at += 13) {
    socket.write(bytes.subarray(at, at + 13))
    if (at % 130 === 0) await new Promise((resolve) => setImmediate(resolve))
  }
  await until('three messages', 5_000, () => messages.length === 3)
  t.deepEqual(
    messages.map(({ member }) => member),
    ['One', 'Two', 'Three'],
  )
  t.deepEqual(messages[1].body, [[1n, 2n ** 64n - 1n]])
  connection.close('done')
})

test.serial('a message that is too large is not kept; its sender is told, and the next is heard', async (t) => {
  const peer = await listen(t)
  const { connection, messages, closed } = await client(peer.path)
  const socket = await peer.socket()
  const huge = call('Huge', 'ay', [Buffer.alloc(8 << 20)])
  for (let i = 0; i < 8; i++) {
    socket.write(huge)
    socket.write(call('Small'))
  }
  await until('the last', 10_000, () => messages.length === 16)
  t.is(messages[0].member, 'Huge')
  t.regex(messages[0].unreadable, /at most 262144 bytes/)
  t.deepEqual(messages[0].body, [])
  t.is(messages[1].unreadable, '')
  // A header of a mebibyte is passed over in silence.
  const path = `/${'a'.repeat(1 << 20)}`
  socket.write(encode(METHOD_CALL, { serial: 1, path, member: 'Long', signature: 'ay', body: [Buffer.alloc(1024)] }))
  socket.write(call('After'))
  await until('the one after', 10_000, () => messages.length === 17)
  t.is(messages[16].member, 'After')
  t.deepEqual(closed, [])
  connection.close('done')
})

test.serial('what dbus-next would die of: a file descriptor that is not there', async (t) => {
  const peer = await listen(t)
  const { connection, messages } = await client(peer.path)
  const bytes = call('Take', 'u', [3])
  // The same bytes under signature h
  const at = bytes.indexOf(Buffer.from('\x01u\x00', 'latin1'))
  t.true(at > 0)
  bytes[at + 1] = 'h'.charCodeAt(0)
  ;(await peer.socket()).write(Buffer.concat([bytes, call('After')]))
  await until('both', 5_000, () => messages.length === 2)
  t.regex(messages[0].unreadable, /cannot be read/)
  connection.close('done')
})

test.serial('bytes that are no message end nothing but the connection', (t) => {
  const sample = call('Some', 'sa{sv}', ['a', { b: variant('t', 1n), c: variant('as', ['d']) }])
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(sample.length - 1), fc.nat(255)), { maxLength: 6 }), (edits) => {
      const bytes = Buffer.from(sample)
      for (const [at, value] of edits) bytes[at] = value
      try {
        return typeof decode(bytes).unreadable === 'string'
      } catch (error) {
        return error instanceof Error
      }
    }),
    { numRuns: 3_000 },
  )
  t.pass()
})

test.serial('a peer that does not let us in, or says nothing sensible, is left', async (t) => {
  const peer = await listen(t, false)
  const waiting = client(peer.path)
  ;(await peer.socket()).write('REJECTED EXTERNAL\r\n')
  t.regex((await waiting).closed[0], /does not let us in: "REJECTED/)
  const other = await listen(t, false)
  const second = client(other.path)
  ;(await other.socket()).write('x'.repeat(5_000))
  t.regex((await second).closed[0], /no D-Bus/)
  t.regex((await client('/nowhere/bus')).closed[0], /ENOENT/)
})

test.serial('a bus that does not read: we read no more, and at last give it up', async (t) => {
  const peer = await listen(t)
  const { connection, messages, closed } = await client(peer.path)
  const socket = await peer.socket()
  socket.pause()
  connection.send(Buffer.alloc(4 << 20))
  for (let i = 0; i < 20_000; i++) socket.write(call('Flood'))
  await new Promise((resolve) => setTimeout(resolve, 300))
  const heard = messages.length
  t.true(heard < 20_000, `${heard} calls were taken while nothing could be answered`)
  socket.resume()
  await until('the rest', 20_000, () => messages.length === 20_000)
  socket.pause()
  for (let i = 0; i < 80 && closed.length === 0; i++) connection.send(Buffer.alloc(1 << 20))
  t.regex(closed[0], /lets \d+ bytes wait/)
})

test.serial('a bus that refuses HELLO, or never answers it, is an end like any other', async (t) => {
  const peer = await listen(t)
  const closed: string[] = []
  const bus = new Bus(peer.path, {
    ...{ ready: () => t.fail(), ownerChanged: () => t.fail(), call: () => t.fail(), signal: () => t.fail() },
    closed: (reason) => closed.push(reason),
  })
  const socket = await peer.socket()
  await new Promise((resolve) => setTimeout(resolve, 100))
  const text = 'too many connections'
  const error = {
    serial: 1,
    replySerial: 1,
    errorName: 'org.freedesktop.DBus.Error.LimitsExceeded',
    signature: 's',
    body: [text],
  }
  socket.write(encode(3, error))
  await until('its end', 5_000, () => closed.length > 0)
  t.deepEqual(closed, [text])
  await t.throwsAsync(bus.call({ destination: 'a.b', path: '/', interface: 'a.b', member: 'M' }, 50), {
    instanceOf: CallError,
  })
})

test.serial('an answer that nobody waits for is nothing', async (t) => {
  const peer = await listen(t)
  const closed: string[] = []
  const bus = new Bus(peer.path, {
    ...{ ready: () => t.fail(), ownerChanged: () => t.fail(), call: () => {}, signal: () => {} },
    closed: (reason) => closed.push(reason),
  })
  const socket = await peer.socket()
  await new Promise((resolve) => setTimeout(resolve, 100))
  socket.write(encode(METHOD_RETURN, { serial: 1, replySerial: 99 }))
  await new Promise((resolve) => setTimeout(resolve, 100))
  t.deepEqual(closed, [])
  bus.close('done')
})
