/** The serving end of a peer's link: decodes requests, hands them to the replica, answers. */
import { InvariantError } from '../assert.js'
import { asSheepError, SheepError } from '../errors.js'
import type { Hold, Link, Log } from '../host/interfaces.js'
import { type Slab, takeSlab } from '../host/slab.js'
import { encodeResponse, HEADER_LENGTH, OP, u16, u32, u64 } from '../protocol/header.js'
import { Refusals } from '../protocol/refusals.js'
import { oidFromWords } from '../vdi/oid.js'
import { type CallAnswer, decodeCall, encodeCall } from './peers.js'
import type { Replica } from './replica.js'
import { ALLOCATE, EIO, FLUSH, ObjectRequest, READ, REMOVE, WRITE, ZERO } from './request.js'

/** Largest object: a read or write may not reach past it. */
const OBJECT_BYTES_MAX = 0x80000000
/** One piece of data in a peer request. */
export const PIECE_MAX = 4 * 1024 * 1024
const POOL_MAX = 256
/** From here on a read's buffer comes from the slabs: fresh ones cost their page faults, and collections of garbage. */
const LARGE = 32 * 1024

const KIND_OF_OPCODE: Record<number, number> = {
  [OP.PEER_READ]: READ,
  [OP.PEER_WRITE]: WRITE,
  [OP.PEER_ZERO]: ZERO,
  [OP.PEER_FLUSH]: FLUSH,
  [OP.PEER_REMOVE]: REMOVE,
  [OP.PEER_ALLOCATE]: ALLOCATE,
}

export type CallHandler = (argument: unknown, body: Buffer, from: string) => Promise<CallAnswer>

export interface PeerServices {
  replica: Replica
  sessions: PeerSessions
  calls: ReadonlyMap<string, CallHandler>
  /** Checks a peer's HELLO; its node id. SheepError to refuse. */
  welcome(hello: unknown): string
  log: Log
}

/** Peers whose newest link is remembered. */
const SESSIONS_MAX = 8_192

/**
 * The newest link of each peer. Requests that a link has lost are sent again on the next one, so when that begins nothing
 * of the former may be begun any more, and what it has at the disk must have ended: it could land after a later write.
 */
export class PeerSessions {
  private refusals: Refusals | null = null
  private readonly newest = new Map<string, { incarnation: string; number: number; session: PeerSession }>()

  /** `number` counts the links of one incarnation. False: a newer one is here already. */
  begin(peer: string, incarnation: string, number: number, session: PeerSession): boolean {
    const former = this.newest.get(peer)
    if (former !== undefined) {
      if (former.incarnation === incarnation && former.number >= number) return false
      former.session.end()
      former.session.link.close()
      session.services.replica.barrier()
    } else if (this.newest.size >= SESSIONS_MAX) {
      this.newest.delete(this.newest.keys().next().value as string)
    }
    this.newest.set(peer, { incarnation, number, session })
    return true
  }

  refused(log: Log, peer: string, what: string): void {
    this.refusals ??= new Refusals(log)
    this.refusals.refused(peer, what, 'warning', `closing a peer's link: ${what}`)
  }
}

export class PeerSession {
  /** Node id, '' before HELLO */
  private peer = ''
  private closed = false
  /** Given to the replica and not answered */
  private readonly running: IncomingRequest[] = []
  private readonly pool: IncomingRequest[] = []
  private readonly header = Buffer.alloc(HEADER_LENGTH)

  constructor(
    readonly link: Link,
    readonly services: PeerServices,
  ) {}

  /** One whole message whose opcode is a peer's. */
  message(bytes: Buffer, at: number, payloadAt: number, payloadLength: number, hold: Hold): void {
    if (this.closed) return
    const opcode = bytes[at + 1]
    const id = u32(bytes, at + 8)
    if (opcode === OP.PEER_HELLO) {
      this.hello(id, bytes, payloadAt, payloadLength)
    } else if (this.peer === '') {
      this.refuse('a request before HELLO')
    } else if (opcode === OP.PEER_PING) {
      this.answer(opcode, id, 0, null, 0)
    } else if (opcode === OP.PEER_CALL) {
      this.call(id, bytes, payloadAt, payloadLength)
    } else {
      this.request(opcode, id, bytes, at, payloadAt, payloadLength, hold)
    }
  }

  /** The link is gone: nobody waits for what is not at the disk yet. */
  end(): void {
    this.closed = true
    for (const request of this.running) request.cancelled = true
    this.services.replica.abandon()
  }

  answer(opcode: number, id: number, result: number, payload: Uint8Array | null, length: number): void {
    if (this.closed) return
    encodeResponse(this.header, 0, opcode, id, result, length)
    this.link.send(this.header, payload, 0, length)
  }

  began(request: IncomingRequest): void {
    request.place = this.running.length
    this.running.push(request)
  }

  ended(request: IncomingRequest): void {
    const last = this.running.pop() as IncomingRequest
    if (last !== request) {
      this.running[request.place] = last
      last.place = request.place
    }
    if (this.pool.length < POOL_MAX) this.pool.push(request)
  }

  private request(
    opcode: number,
    id: number,
    bytes: Buffer,
    at: number,
    payloadAt: number,
    payloadLength: number,
    hold: Hold,
  ): void {
    const kind = KIND_OF_OPCODE[opcode]
    const oid = oidFromWords(u32(bytes, at + 20), u32(bytes, at + 16))
    const position = u32(bytes, at + 40)
    const length = kind === WRITE ? payloadLength : kind === READ ? u32(bytes, at + 12) : u64(bytes, at + 24)
    if (kind === undefined || oid < 0 || length < 0 || position + length > OBJECT_BYTES_MAX) {
      this.refuse('a malformed request')
      return
    }
    if ((kind === READ || kind === WRITE) && length > PIECE_MAX) {
      this.refuse(`a piece of ${length} bytes`)
      return
    }
    const request = this.pool.length > 0 ? (this.pool.pop() as IncomingRequest) : new IncomingRequest(this)
    request.opcode = opcode
    request.id = id
    request.kind = kind
    request.epoch = u32(bytes, at + 4)
    request.oid = oid
    request.position = position
    request.length = length
    request.flags = u16(bytes, at + 2)
    request.writer = this.peer
    if (kind === WRITE) {
      request.buffer = bytes
      request.bufferOffset = payloadAt
    } else if (kind === READ) {
      request.readInto(length)
    }
    request.run(this.services.replica, kind === WRITE ? hold : null)
  }

  private hello(id: number, bytes: Buffer, payloadAt: number, payloadLength: number): void {
    try {
      const hello = decodeCall(bytes, payloadAt, payloadLength).json
      const peer = this.services.welcome(hello)
      const { incarnation, link } = hello as { incarnation?: unknown; link?: unknown }
      if (typeof incarnation !== 'string' || typeof link !== 'number' || this.peer !== '') {
        throw new SheepError('invalid', 'a HELLO that names no link')
      }
      if (!this.services.sessions.begin(peer, incarnation, link, this)) {
        throw new SheepError('busy', 'a newer link of this peer is here already')
      }
      this.peer = peer
      this.answer(OP.PEER_HELLO, id, 0, null, 0)
    } catch (error) {
      this.refuse(asSheepError(error).withHint)
    }
  }

  private call(id: number, bytes: Buffer, payloadAt: number, payloadLength: number): void {
    void this.runCall(bytes, payloadAt, payloadLength).then(
      ({ json, body }) => this.answerCall(id, 0, encodeCall(json, body)),
      (error: unknown) => {
        // A broken invariant stops the daemon: main hears of it as an unhandled rejection.
        if (error instanceof InvariantError) throw error
        if (!(error instanceof SheepError)) {
          this.services.log('error', `a peer's call: ${(error as Error).stack ?? error}`, { peer: this.peer })
        }
        const { code, message, hint } = asSheepError(error)
        this.answerCall(id, EIO & 0x7fffffff, encodeCall({ code, message, hint }, undefined))
      },
    )
  }

  private async runCall(bytes: Buffer, payloadAt: number, payloadLength: number): Promise<CallAnswer> {
    const { json, body } = decodeCall(bytes, payloadAt, payloadLength)
    const { method, argument } = (json ?? {}) as { method?: unknown; argument?: unknown }
    const handler = typeof method === 'string' ? this.services.calls.get(method) : undefined
    if (handler === undefined) throw new SheepError('unsupported', `no such peer call: ${String(method)}`)
    return handler(argument, body, this.peer)
  }

  private answerCall(id: number, result: number, payload: Buffer): void {
    this.answer(OP.PEER_CALL, id, result, payload, payload.length)
  }

  private refuse(what: string): void {
    this.services.sessions.refused(this.services.log, this.peer, what)
    this.end()
    this.link.close()
  }
}

class IncomingRequest extends ObjectRequest {
  opcode = 0
  id = 0
  /** Index in the session's `running` */
  place = 0
  private done = false
  private hold: Hold | null = null
  /** What a large read goes into: answered from there, uncopied */
  private slab: Slab | null = null

  constructor(private readonly session: PeerSession) {
    super()
  }

  readInto(length: number): void {
    this.bufferOffset = 0
    if (length < LARGE) {
      this.buffer = Buffer.allocUnsafe(length)
      return
    }
    this.slab = takeSlab(length)
    this.buffer = this.slab.bytes
  }

  run(replica: Replica, hold: Hold | null): void {
    this.done = false
    this.hold = null
    this.cancelled = false
    this.session.began(this)
    replica.submit(this)
    if (this.done) return
    // Not done inline: the payload must outlive this turn.
    if (hold !== null) {
      hold.retain()
      this.hold = hold
    }
  }

  complete(result: number): void {
    this.done = true
    const { session } = this
    if (result < 0) {
      const code = (-result | 0x80000000) >>> 0
      session.answer(this.opcode, this.id, code, null, 0)
    } else if (this.kind === READ) {
      session.answer(this.opcode, this.id, 0, this.buffer, this.length)
    } else {
      session.answer(this.opcode, this.id, 0, null, 0)
    }
    this.hold?.release()
    this.hold = null
    this.slab?.release()
    this.slab = null
    session.ended(this)
  }
}
