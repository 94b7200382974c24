/**
 * Peer messages, both ends: a session that serves requests (with the real replica over a store of numbers), the link that asks
 * and gets whatever answers, and the binary bodies of recovery's calls.
 */

import { SheepError } from '../../lib/errors.js'
import type { Clock, LinkHandler, Log, Network } from '../../lib/host/interfaces.js'
import { StreamLink } from '../../lib/host/network.js'
import { welcome } from '../../lib/node/welcome.js'
import * as header from '../../lib/protocol/header.js'
import { NO_ASKS } from '../../lib/replication/askers.js'
import { decodeGrains, encodeGrains } from '../../lib/replication/grains.js'
import { PeerSession, PeerSessions } from '../../lib/replication/peer-session.js'
import { decodeCall, encodeCall, Peers } from '../../lib/replication/peers.js'
import { type EnsureWaiter, Replica } from '../../lib/replication/replica.js'
import { ObjectRequest, READ, WRITE } from '../../lib/replication/request.js'
import { decodeOids, decodeReports, encodeOids, encodeReports, surveyCalls } from '../../lib/replication/survey.js'
import { Topology } from '../../lib/replication/topology.js'
import { dataOid, highWord, inodeOid, lowWord, type Oid } from '../../lib/vdi/oid.js'
import type { SimRandom } from '../simulation/random.js'
import { fakeNode } from '../support/fake-services.js'
import { CountingStore } from './counting-store.js'
import { type Harness, turn } from './harness.js'
import { arriving, converse, message, wanting } from './link.js'
import { Conversation } from './memory-socket.js'
import { damaged, damagedJson, oddNumber, randomBytes, split } from './mutate.js'

const EPOCH = 5
const VID = 7
const OIDS: Oid[] = [dataOid(VID, 0), dataOid(VID, 1), inodeOid(VID), dataOid(8, 3)]
const SELF = fakeNode(0)
const OTHER = fakeNode(1)
const HELLO = {
  id: OTHER.id,
  to: SELF.id,
  version: header.PEER_VERSION,
  clusterId: 'c'.repeat(16),
  incarnation: 'i',
  link: 1,
}
const { OP } = header

const NONE: ReadonlySet<number> = new Set()
const stillClock: Clock = { now: () => 1, wall: () => 1, after: () => ({ cancel: () => {} }) }

function place(oid: Oid, length: number, position: number): Buffer {
  const fields = Buffer.alloc(32)
  fields.writeUInt32LE(lowWord(oid), 0)
  fields.writeUInt32LE(highWord(oid), 4)
  fields.writeUInt32LE(length >>> 0, 8)
  fields.writeUInt32LE(position >>> 0, 24)
  return fields
}

function call(random: SimRandom): Buffer {
  const argument = random.pick([
    { method: 'status', argument: { epoch: EPOCH } },
    { method: 'list', argument: { epoch: EPOCH, node: SELF.id, cursor: 0 } },
    { method: 'extents', argument: { epoch: EPOCH, oid: OIDS[0] } },
    { method: 'grains', argument: { epoch: EPOCH, oid: OIDS[0] } },
    { method: 'nothing', argument: {} },
  ])
  const oids = encodeOids(OIDS)
  const body = random.chance(0.5) ? oids : damaged(random, oids, oids)
  return encodeCall(random.chance(0.5) ? argument : damagedJson(random, argument), body)
}

function request(random: SimRandom): Buffer {
  const id = random.below(50)
  const epoch = random.chance(0.8) ? EPOCH : random.pick([0, EPOCH - 1, EPOCH + 1, 0xffffffff])
  const oid = random.pick(OIDS)
  const length = random.chance(0.9) ? random.below(9_000) : oddNumber(random)
  const position = random.chance(0.9) ? random.below(1 << 22) : oddNumber(random)
  const fields = place(oid, length, position)
  const flags = random.pick([0, 0, header.FLAG_CREATE, header.FLAG_FUA, header.FLAG_IF_VALID, header.FLAG_RECOVERY])
  switch (random.below(9)) {
    case 0:
    case 1:
      return message(OP.PEER_WRITE, flags, epoch, id, fields, Buffer.alloc(length % 70_000, 5))
    case 2:
      return wanting(message(OP.PEER_READ, flags, epoch, id, fields), length)
    case 3:
      return message(random.pick([OP.PEER_ZERO, OP.PEER_ALLOCATE]), flags, epoch, id, fields)
    case 4:
      return message(random.pick([OP.PEER_FLUSH, OP.PEER_REMOVE]), flags, epoch, id, fields)
    case 5:
      return message(OP.PEER_PING, 0, 0, id, fields)
    case 6:
      return message(0x80 + random.below(16), flags, epoch, id, fields)
    default:
      return message(OP.PEER_CALL, 0, 0, id, Buffer.alloc(32), call(random))
  }
}

function hello(random: SimRandom): Buffer {
  const json = random.chance(0.95) ? HELLO : damagedJson(random, HELLO)
  return message(OP.PEER_HELLO, 0, 0, 0, Buffer.alloc(32), encodeCall(json, undefined))
}

/** The first byte of the first piece says what the rest is for: 0 requests, 1 answers, 2 bodies. */
function make(random: SimRandom): Buffer[] {
  const kind = random.pick([0, 0, 0, 1, 1, 2])
  const marked = (pieces: Buffer[]) => [Buffer.of(kind), ...pieces]
  if (kind === 0) {
    const messages = Array.from({ length: random.below(14) }, () => request(random))
    return marked(arriving(random, [hello(random), ...messages], request(random)))
  }
  if (kind === 1) {
    const answers = Array.from({ length: random.below(8) }, (_, i) => answer(random, i))
    return marked(arriving(random, answers, answer(random, 0)))
  }
  const reports = encodeReports(
    OIDS.map((oid) => ({
      oid,
      writeEpoch: 3,
      validThrough: 4,
      settledThrough: 4,
      suspect: true,
      incomplete: false,
      hot: true,
      gap: false,
      keptThrough: 7,
    })),
  )
  const grains = encodeGrains({ hashes: new Map([[random.below(9), randomBytes(random, 20)]]), bytes: 0 })
  const body = random.pick([reports, encodeOids(OIDS), grains, encodeCall({ epoch: 1 }, reports)])
  return marked(split(random, random.chance(0.9) ? damaged(random, body, reports) : body))
}

function answer(random: SimRandom, slot: number): Buffer {
  const payload = random.pick([
    Buffer.alloc(0),
    Buffer.alloc(100, 1),
    Buffer.alloc(random.below(9_000)),
    encodeCall(random.chance(0.5) ? { code: 'busy', message: 'm', hint: 'h' } : damagedJson(random, HELLO), undefined),
  ])
  const head = Buffer.alloc(header.HEADER_LENGTH)
  const result = random.pick([0, 0, 1, 5, 0x80000005, oddNumber(random)])
  const id = random.chance(0.9) ? slot : oddNumber(random)
  header.encodeResponse(head, 0, OP.PEER_READ, id, result >>> 0, payload.length)
  return Buffer.concat([head, payload])
}

const topology = new Topology(SELF.id)
const record = { number: EPOCH, time: 1, nodes: [SELF, OTHER] }
topology.update(record, [{ number: EPOCH - 1, time: 1, nodes: [SELF] }, record])
const copiesOf = (vid: number): number => (vid === VID ? 2 : 0)

async function serve(input: readonly Buffer[], random: SimRandom): Promise<boolean> {
  const store = new CountingStore(random.split())
  const replica = new Replica({
    store,
    topology,
    clock: stillClock,
    log: () => {},
    copiesOf,
    bytesOf: () => 0,
    recovered: () => [EPOCH - 1],
    lossUnmarked: () => {},
    diskFailed: (errno, what) => {
      throw new Error(`a request made the disk fail: ${what}, errno ${errno}`)
    },
  })
  let ensuring = 0
  const ensure = (_oid: Oid, waiter: EnsureWaiter): void => {
    ensuring++
    setImmediate(() => {
      ensuring--
      waiter.resume(-2)
    })
  }
  const pass = (): boolean => false
  replica.ensurer = { ensure, ensureOrPass: ensure, pass, filling: () => null, wanted: () => {}, cancel: () => {} }
  replica.epochChanged([], NONE, () => {})
  const log: Log = (level, text) => {
    if (level === 'error') bugs.push(text)
  }
  const bugs: string[] = []
  const sessions = new PeerSessions()
  const calls = surveyCalls({
    ...{ store, topology, replica, copiesOf, clock: stillClock },
    ...{
      doubts: () => ({ passedEpochs: [], lostEpoch: 0, asks: NO_ASKS }),
      busy: () => false,
      mend: async () => true,
      decided: () => {},
    },
  })
  const answers = await converse(
    input,
    random,
    (link) => {
      const greet = (hello: unknown): string => welcome(hello, undefined, SELF.id, HELLO.clusterId)
      const session = new PeerSession(link, { replica, sessions, calls, welcome: greet, log })
      return {
        message: (_link, bytes, at, payloadAt, length, hold) => {
          // As lib/node/sessions.ts tells them apart.
          if (bytes[at + 1] >= OP.PEER_HELLO && bytes[at + 1] < OP.CONTROL) {
            session.message(bytes, at, payloadAt, length, hold)
          }
        },
        closed: () => {
          session.end()
        },
      }
    },
    () => store.waiting === 0 && ensuring === 0,
  )
  if (bugs.length > 0) throw new Error(bugs[0])
  return answers.length > header.HEADER_LENGTH
}

class Asked extends ObjectRequest {
  results: number[] = []

  complete(result: number): void {
    this.results.push(result)
  }
}

/** Requests and calls under way on a link whose other end says anything. Each must end exactly once. */
async function ask(input: readonly Buffer[], random: SimRandom): Promise<boolean> {
  let talk: Conversation | null = null
  let connections = 0
  const network: Network = {
    connect: (_address, handler: LinkHandler) => {
      connections++
      const link = new StreamLink(handler, true)
      talk = new Conversation((stream) => {
        link.attach(stream)
        return link
      })
      return link
    },
    listen: () => Promise.reject(new Error('nobody listens here')),
  }
  const peers = new Peers({
    ...{ self: SELF, network, clock: stillClock, log: () => {}, hung: () => {} },
    hello: () => ({ id: SELF.id, incarnation: 'j' }),
  })
  peers.update([SELF, OTHER])
  const requests = [READ, WRITE, READ].map((kind) => {
    const request = new Asked()
    Object.assign(request, { kind, oid: OIDS[0], length: 100, buffer: Buffer.alloc(100), epoch: EPOCH })
    peers.submit(OTHER.id, request)
    return request
  })
  let settled = 0
  const called = ['status', 'list'].map((method) =>
    peers.call(OTHER.id, method, {}).then(
      () => settled++,
      (error: unknown) => {
        settled++
        if (!(error instanceof SheepError)) throw error
      },
    ),
  )
  const conversation = talk as unknown as Conversation
  conversation.socket.reads = true
  await conversation.say(input, random)
  peers.stop()
  await Promise.all(called)
  await turn()
  for (const { results } of requests)
    if (results.length !== 1) throw new Error(`a request ended ${results.length} times`)
  if (settled !== 2 || connections !== 1) throw new Error(`${settled} calls ended, ${connections} connections`)
  return requests.some(({ results }) => results[0] >= 0)
}

function decode(input: readonly Buffer[]): boolean {
  const bytes = Buffer.concat(input as Buffer[])
  let read = 0
  for (const decoder of [decodeReports, decodeOids, decodeGrains, (all: Buffer) => decodeCall(all, 0, all.length)]) {
    try {
      decoder(bytes)
      read++
    } catch (error) {
      if (!(error instanceof SheepError)) throw error
    }
  }
  return read > 0
}

async function take(input: readonly Buffer[], random: SimRandom): Promise<boolean> {
  const [kind, ...pieces] = input
  if (kind[0] === 0) return serve(pieces, random)
  if (kind[0] === 1) return ask(pieces, random)
  return decode(pieces)
}

export const peerHarness: Harness = { make, take }
