/** The gate before connections, over real sockets: who gets through, what is logged, and that all arrives, in order. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { type Access, Gates } from '../../../lib/host/gate.js'
import type { Link, LinkHandler, Log } from '../../../lib/host/interfaces.js'
import { RealNetwork, StreamLink } from '../../../lib/host/network.js'
import { connectStream, listenStream } from '../../../lib/host/stream-socket.js'
import { encodeRequest, encodeResponse, FLAG_WRITE, HEADER_LENGTH, OP, u32 } from '../../../lib/protocol/header.js'
import { freePorts, until } from '../../support/process.js'
import { tell } from '../../support/stranger.js'

const needs = 'needs the key file of this cluster (docs/cluster-key.md)'
const KEY = Buffer.alloc(32, 1)
const A = 'a'.repeat(16)
const B = 'b'.repeat(16)
const noLog: Log = () => {}

function recorder(): { log: Log; lines: string[] } {
  const lines: string[] = []
  return { lines, log: (level, message) => level !== 'debug' && lines.push(`${level}: ${message}`) }
}

/** Answers each message with its own payload. */
class Echo implements LinkHandler {
  readonly opcodes: number[] = []
  constructor(readonly link: Link) {}
  message(link: Link, bytes: Buffer, at: number, payloadAt: number, length: number): void {
    this.opcodes.push(bytes[at + 1])
    const header = Buffer.alloc(HEADER_LENGTH)
    encodeResponse(header, 0, bytes[at + 1], u32(bytes, at + 8), 0, length)
    link.send(header, bytes, payloadAt, length)
  }
  closed(): void {}
}

class Asker implements LinkHandler {
  readonly got: Buffer[] = []
  reason = ''
  message(_link: Link, bytes: Buffer, _at: number, payloadAt: number, length: number): void {
    this.got.push(Buffer.from(bytes.subarray(payloadAt, payloadAt + length)))
  }
  closed(_link: Link, reason: string): void {
    this.reason = reason
  }
}

function request(opcode: number, id: number, payload: Buffer): Buffer {
  const header = Buffer.alloc(HEADER_LENGTH)
  encodeRequest(header, 0, opcode, FLAG_WRITE, 0, id, payload.length)
  return header
}

interface Ends {
  here: Access | null
  there: Access | null
  log?: Log
  thereLog?: Log
  /** Over a Unix socket */
  near?: boolean
}

/** B listens; A connects, sends `messages` at once, and gets what comes. */
async function meet(
  t: ExecutionContext,
  { here, there, log = noLog, thereLog = noLog, near }: Ends,
  messages: Buffer[],
) {
  const [port] = await freePorts(1, 21_000 + (process.pid % 9_000))
  const directory = mkdtempSync(join(tmpdir(), 'gate-'))
  const socket = join(directory, 'sock')
  const served: Echo[] = []
  const listener = await new RealNetwork(thereLog, '', there).listen({ host: '127.0.0.1', port, socket }, (link) => {
    const echo = new Echo(link)
    served.push(echo)
    return echo
  })
  t.teardown(() => {
    listener.close()
    for (const { link } of served) link.close()
    rmSync(directory, { recursive: true })
  })
  const network = new RealNetwork(log, near ? '127.0.0.1' : '', here)
  const asker = new Asker()
  const link = network.connect({ host: '127.0.0.1', port, socket, id: B }, asker)
  t.teardown(() => link.close())
  for (const [i, message] of messages.entries()) {
    link.send(request(OP.PEER_WRITE, i, message), message, 0, message.length)
  }
  return { asker, served, link, port, network, socket }
}

const access = (self: string, changes: Partial<Access> = {}): Access => ({ key: KEY, self, encrypt: false, ...changes })
const PAYLOADS = [0, 1, 100, 40_000, 4 << 20, 4_096].map((length, i) => Buffer.alloc(length, i))

for (const [name, changes, near, encrypted] of [
  ['plain', {}, false, false],
  ['encrypted', { encrypt: true }, false, true],
  ['on one host', {}, true, false],
  ['on one host, where nothing is encrypted', { encrypt: true }, true, false],
] as const) {
  test(`with one key all messages arrive, in order: ${name}`, async (t) => {
    const ends = { here: access(A, changes), there: access(B), near }
    const { asker, served, link } = await meet(t, ends, [...PAYLOADS])
    await until('all answers', 10_000, async () => asker.got.length === PAYLOADS.length)
    t.true(asker.got.every((bytes, i) => bytes.equals(PAYLOADS[i])))
    t.is((served[0].link as StreamLink).provenId, A)
    t.is((link as StreamLink).provenId, B)
    t.is((served[0].link as StreamLink).encrypted, encrypted)
  })
}

test('another key: nothing passes, each side says so once however often it is tried', async (t) => {
  const ours = recorder()
  const theirs = recorder()
  const ends = { here: access(A, { key: Buffer.alloc(32, 9) }), there: access(B), log: ours.log, thereLog: theirs.log }
  const { asker, served, network, port } = await meet(t, ends, [Buffer.from('secret')])
  await until('the refusal', 10_000, async () => asker.reason !== '')
  const again = new Asker()
  network.connect({ host: '127.0.0.1', port, id: B }, again)
  await until('the second refusal', 10_000, async () => again.reason !== '')
  t.is(served.length, 0)
  t.deepEqual(ours.lines, [
    `warning: no connection to 127.0.0.1:${port}: its cluster key is another one; all hosts of a cluster have one key file`,
  ])
  t.deepEqual(theirs.lines, ['warning: refused a connection from this host: it did not prove the cluster key'])
})

test('another node than the one that is looked for', async (t) => {
  const theirs = recorder()
  const ends = { here: access(A), there: access('c'.repeat(16)), thereLog: theirs.log }
  const { asker, served } = await meet(t, ends, [])
  await until('the refusal', 10_000, async () => asker.reason !== '')
  t.regex(asker.reason, /node a+ looks for node b+ at the address of node c+/)
  t.is(served.length, 0)
  t.is(theirs.lines.length, 1)
})

test('who is on this host may speak as a client without the key, and not as a peer', async (t) => {
  const theirs = recorder()
  const { served, port, socket } = await meet(t, { here: access(A), there: access(B), thereLog: theirs.log }, [])
  await until('the peer', 10_000, async () => served.length === 1)
  const hello = Buffer.from('hello')
  for (const at of [port, socket]) {
    for (const opcode of [OP.CONTROL, OP.READ_VDIS]) {
      const { answer } = await tell(at, [request(opcode, 1, hello), hello])
      t.is(answer.subarray(HEADER_LENGTH).toString(), 'hello')
    }
    for (const opcode of [OP.PEER_HELLO, OP.PEER_WRITE, OP.PEER_CALL]) {
      const { answer, closed } = await tell(at, [request(opcode, 1, hello), hello])
      t.true(closed)
      t.regex(answer.toString(), /a peer without the cluster key/)
    }
  }
  t.true(served.every(({ opcodes }) => !opcodes.includes(OP.PEER_HELLO) && !opcodes.includes(OP.PEER_WRITE)))
  t.deepEqual(theirs.lines, [
    `warning: refused a connection from this host: a peer without the cluster key; each host ${needs}`,
  ])
})

test('who is on another host may say nothing without the key, and not much', async (t) => {
  const theirs = recorder()
  const gates = new Gates(access(B), theirs.log)
  const served: Link[] = []
  const listener = await listenStream(
    { host: '127.0.0.1', port: 0 },
    (stream) => {
      const link = new StreamLink(null, false)
      gates.accepted(link, stream, false, (accepted) => {
        served.push(accepted)
        return new Echo(accepted)
      })
      return link
    },
    noLog,
  )
  t.teardown(() => listener.close())
  const hello = Buffer.from('hello')
  for (const opcode of [OP.CONTROL, OP.READ_VDIS, OP.PEER_HELLO]) {
    const { answer, closed } = await tell(listener.port, [request(opcode, 7, hello), hello])
    t.true(closed)
    t.is(u32(answer, 8), 7)
    t.regex(answer.toString(), /without the cluster key/)
  }
  const large = Buffer.alloc(8_192)
  const { answer, closed } = await tell(listener.port, [request(OP.PROOF, 1, large), large])
  t.true(closed)
  t.is(answer.length, 0)
  t.is(served.length, 0)
  t.deepEqual(theirs.lines, [
    `warning: refused a connection from 127.0.0.1: a client without the cluster key; from another host dog ${needs}`,
    `warning: refused a connection from 127.0.0.1: a peer without the cluster key; each host ${needs}`,
  ])
  // Once in, he would be told anew.
  const link = new StreamLink(null, true)
  const asker = new Asker()
  const stream = connectStream({ host: '127.0.0.1', port: listener.port }, link)
  new Gates(access(A), noLog).connecting(link, stream, asker, B, 'there', false)
  t.teardown(() => link.close())
  await until('the peer', 5_000, async () => served.length === 1)
  await tell(listener.port, [request(OP.PEER_HELLO, 7, hello), hello])
  t.is(theirs.lines.length, 3)
})
