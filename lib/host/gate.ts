/**
 * What stands before each connection where a cluster has a key: no message passes until both ends have proven that they know
 * it (lib/protocol/proof.ts). Then the gate takes itself away, and costs nothing.
 *
 * Who comes from this host (Unix socket, loopback) may speak as a client, though not as a peer, without: the permissions of
 * the socket decide about him.
 */
import { randomBytes } from 'node:crypto'
import { createServer } from 'node:tls'
import { asSheepError, isErrorCode, SheepError } from '../errors.js'
import { encodeRequest, encodeResponse, FLAG_WRITE, HEADER_LENGTH, OP, u32 } from '../protocol/header.js'
import { Initiator, NONCE_BYTES, type Proven, Responder } from '../protocol/proof.js'
import { Refusals } from '../protocol/refusals.js'
import type { Hold, Link, LinkHandler, Log } from './interfaces.js'
import type { StreamLink } from './network.js'
import type { Stream } from './stream.js'

export interface Access {
  /** The cluster's: CLUSTER_KEY_BYTES */
  key: Buffer
  /** Own node id */
  self: string
  /** Connections to other hosts are encrypted; those are that the other end wishes so, in any case */
  encrypt: boolean
}

/** For both proofs, and TLS */
const PROOF_MS_MAX = 10_000
/** Connections of other hosts that have proven nothing yet: beyond it the newest is closed. */
const UNPROVEN_MAX = 256
/** Of a message of somebody who has proven nothing */
const UNPROVEN_BYTES_MAX = 4_096
/** Who was refused may not try again at once. */
const REFUSED_MS = 1_000
const REASON_MAX = 300
const TLS_IDENTITY = 'sheepdog'
/** TLS 1.3 with a pre-shared key and (EC)DHE: what was recorded cannot be read by who learns the cluster's key later. */
const TLS = { minVersion: 'TLSv1.3', maxVersion: 'TLSv1.3', ciphers: 'TLS_AES_128_GCM_SHA256' } as const

export class Gates {
  private readonly refusals: Refusals
  private unproven = 0

  constructor(
    readonly access: Access,
    private readonly log: Log,
    /** NONCE_BYTES that were never used */
    readonly nonce: () => Buffer = () => randomBytes(NONCE_BYTES),
  ) {
    this.refusals = new Refusals(log)
  }

  /** @param to the node that must be there. `handler` gets what comes once both have proven the key, and the end. */
  connecting(link: StreamLink, stream: Stream, handler: LinkHandler, to: string, where: string, near: boolean): void {
    link.handler = new Outgoing(this, stream, handler, to, where, near)
    link.attach(stream, false)
    ;(link.handler as Outgoing).begin()
  }

  /** @param near of this host, for sure */
  accepted(link: StreamLink, stream: Stream, near: boolean, accept: (link: Link) => LinkHandler): void {
    link.attach(stream, false)
    link.handler = new Incoming(this, link, stream, near, accept)
    if (near) return
    link.payloadMax = UNPROVEN_BYTES_MAX
    if (this.unproven >= UNPROVEN_MAX) stream.close(`${UNPROVEN_MAX} others have not proven the cluster key yet`)
    this.unproven++
  }

  /** One of those that `accepted` counted has proven the key, or ended. */
  settled(): void {
    this.unproven--
  }

  refused(who: string, error: SheepError, message: string): void {
    this.refusals.refused(who, `${error.code} ${error.message}`, 'warning', message)
  }

  proven(who: string, what: string, { id, tlsKey }: Proven): void {
    this.refusals.gotIn(who)
    const whose = id === '' ? 'a client' : `node ${id}`
    this.log('debug', `${what} ${whose} at ${who}: the cluster key is proven${tlsKey === null ? '' : ', encrypted'}`)
  }
}

class Outgoing implements LinkHandler {
  private readonly initiator: Initiator
  private readonly timer: NodeJS.Timeout
  private responder: Proven | null = null
  private refusal: SheepError | null = null

  constructor(
    private readonly gates: Gates,
    private readonly stream: Stream,
    private readonly handler: LinkHandler,
    to: string,
    private readonly where: string,
    near: boolean,
  ) {
    const { key, self, encrypt } = gates.access
    const proposal = { role: 'peer', self, to, encrypt: encrypt && !near } as const
    this.initiator = new Initiator(key, proposal, gates.nonce())
    this.timer = setTimeout(() => stream.close('it does not prove the cluster key'), PROOF_MS_MAX)
  }

  begin(): void {
    this.say(this.initiator.begin)
  }

  message(link: Link, bytes: Buffer, at: number, payloadAt: number, payloadLength: number): void {
    const payload = bytes.subarray(payloadAt, payloadAt + payloadLength)
    try {
      if (u32(bytes, at + 16) !== 0) throw refusalOf(payload)
      if (this.responder === null) {
        const { prove, responder } = this.initiator.prove(payload)
        this.responder = responder
        this.say(prove)
        return
      }
    } catch (error) {
      this.refusal = asSheepError(error)
      this.stream.close(this.refusal.message)
      return
    }
    const { responder } = this
    clearTimeout(this.timer)
    this.gates.proven(this.where, 'connected to', responder)
    if (responder.tlsKey !== null) this.stream.startTlsAsClient(tlsOf(responder.tlsKey))
    ;(link as StreamLink).proven(this.handler, responder.id)
  }

  closed(link: Link, reason: string): void {
    clearTimeout(this.timer)
    const { handler, refusal, where } = this
    if (refusal === null) {
      handler.closed(link, reason)
      return
    }
    this.gates.refused(where, refusal, `no connection to ${where}: ${refusal.withHint}`)
    setTimeout(() => handler.closed(link, refusal.message), REFUSED_MS)
  }

  private say(payload: Buffer): void {
    const header = Buffer.alloc(HEADER_LENGTH)
    encodeRequest(header, 0, OP.PROOF, FLAG_WRITE, 0, 0, payload.length)
    this.stream.send(header, 0, HEADER_LENGTH)
    this.stream.send(payload, 0, payload.length)
  }
}

const LEFT = new SheepError('permission', 'it did not prove the cluster key')

class Incoming implements LinkHandler {
  private readonly responder: Responder
  private timer: NodeJS.Timeout | null = null
  private challenged = false
  private refusing = false
  private counted: boolean
  /** For the log; without the port, which differs each time */
  private readonly who: string
  /** Of a client of this host */
  private client: LinkHandler | null = null

  constructor(
    private readonly gates: Gates,
    private readonly link: StreamLink,
    private readonly stream: Stream,
    private readonly near: boolean,
    private readonly accept: (link: Link) => LinkHandler,
  ) {
    const { key, self, encrypt } = gates.access
    this.responder = new Responder(key, self, encrypt && !near, gates.nonce())
    this.counted = !near
    this.who = near ? 'this host' : stream.remoteHost || 'a host that is gone'
    if (!near) this.limitTime()
  }

  message(link: Link, bytes: Buffer, at: number, payloadAt: number, payloadLength: number, hold: Hold): void {
    const opcode = bytes[at + 1]
    if (opcode === OP.PROOF && this.client === null) {
      this.proof(u32(bytes, at + 8), bytes.subarray(payloadAt, payloadAt + payloadLength))
    } else if (this.near && !this.challenged && (opcode < OP.PEER_HELLO || opcode >= OP.CONTROL)) {
      this.client ??= this.open()
      this.client.message(link, bytes, at, payloadAt, payloadLength, hold)
    } else {
      const isPeer = opcode >= OP.PEER_HELLO && opcode < OP.CONTROL
      const what = isPeer ? 'a peer' : 'a client'
      const hint = `${isPeer ? 'each host' : 'from another host dog'} needs the key file of this cluster (docs/cluster-key.md)`
      this.refuse(opcode, u32(bytes, at + 8), new SheepError('permission', `${what} without the cluster key`, hint))
    }
  }

  closed(link: Link, reason: string): void {
    this.settle()
    this.client?.closed(link, reason)
    // It may have found that this end has another key.
    if (this.challenged && !this.refusing)
      this.gates.refused(this.who, LEFT, `refused a connection from ${this.who}: ${LEFT.withHint}`)
  }

  private open(): LinkHandler {
    this.link.letOut()
    return this.accept(this.link)
  }

  private proof(id: number, payload: Buffer): void {
    if (this.timer === null) this.limitTime()
    try {
      if (!this.challenged) {
        this.challenged = true
        this.answer(OP.PROOF, id, 0, this.responder.challengeTo(payload))
        return
      }
      const proven = this.responder.check(payload)
      this.answer(OP.PROOF, id, 0, null)
      this.settle()
      this.gates.proven(this.who, 'connected from', proven)
      if (proven.tlsKey !== null) this.stream.startTls(tlsServerOf(proven.tlsKey))
      this.link.proven(this.accept, proven.id)
    } catch (error) {
      if (!(error instanceof SheepError)) throw error
      this.refuse(OP.PROOF, id, error)
    }
  }

  private refuse(opcode: number, id: number, error: SheepError): void {
    this.refusing = true
    this.gates.refused(this.who, error, `refused a connection from ${this.who}: ${error.withHint}`)
    const { code, message, hint, result } = error
    this.answer(opcode, id, result, Buffer.from(JSON.stringify({ code, message: `refused: ${message}`, hint })))
    this.stream.end(error.message)
  }

  private answer(opcode: number, id: number, result: number, payload: Buffer | null): void {
    const header = Buffer.alloc(HEADER_LENGTH)
    encodeResponse(header, 0, opcode, id, result, payload?.length ?? 0)
    this.stream.send(header, 0, HEADER_LENGTH)
    if (payload !== null) this.stream.send(payload, 0, payload.length)
  }

  private limitTime(): void {
    this.timer = setTimeout(() => this.stream.close('it does not prove the cluster key'), PROOF_MS_MAX)
  }

  /** It is no longer one of the unproven. */
  private settle(): void {
    if (this.timer !== null) clearTimeout(this.timer)
    if (this.counted) this.gates.settled()
    this.counted = false
  }
}

/** What the other end says when it refuses. */
export function refusalOf(payload: Buffer): SheepError {
  let said: { code?: unknown; message?: unknown; hint?: unknown } | null = null
  try {
    said = JSON.parse(payload.toString('utf8'))
  } catch {
    // It is no sheep that answers so.
  }
  const { code, message, hint } = said ?? {}
  if (typeof code !== 'string' || !isErrorCode(code) || typeof message !== 'string') {
    return new SheepError('permission', 'what is there does not know how to prove the cluster key')
  }
  return new SheepError(code, message.slice(0, REASON_MAX), typeof hint === 'string' ? hint.slice(0, REASON_MAX) : '')
}

/** For the side that connects. */
export function tlsOf(psk: Buffer) {
  return { ...TLS, pskCallback: () => ({ psk, identity: TLS_IDENTITY }), checkServerIdentity: () => undefined }
}

function tlsServerOf(psk: Buffer) {
  const pskCallback = (_socket: unknown, identity: string): Buffer | null => (identity === TLS_IDENTITY ? psk : null)
  return createServer({ ...TLS, pskCallback, handshakeTimeout: PROOF_MS_MAX })
}
