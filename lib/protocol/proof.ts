/**
 * How two ends of a connection show each other that they know the cluster's key, before anything else is said (docs/architecture.md,
 * "Who may connect"). Pure: bytes in, bytes out; lib/host/gate.ts carries them.
 *
 *     who connects                                                who is connected to
 *     BEGIN  version, role, wish, nonce, own id, whom it looks for ->
 *                              <- CHALLENGE  version, wish, nonce, own id, HMAC(key, "responder" BEGIN CHALLENGE)
 *     PROVE  HMAC(key, "initiator" BEGIN CHALLENGE) ->
 *                                                             <- done; from here on TLS, when either side wishes it
 *
 * Each proof is over both nonces, so what was recorded is worth nothing later; over role, ids, versions and wishes, so none of
 * them can be changed on the way; and over a word for the side that makes it, so none can be sent back to where it came from.
 */
import { createHmac, timingSafeEqual } from 'node:crypto'
import { SheepError } from '../errors.js'
import { PEER_VERSION, putU16, putU32, u16, u32 } from './header.js'

/** Of this handshake; PEER_VERSION is that of what peers say after it. */
export const PROOF_VERSION = 1
export const NONCE_BYTES = 32
export const BEGIN_BYTES = 80
export const CHALLENGE_BYTES = 96
export const PROVE_BYTES = 32

/** CHALLENGE without its HMAC */
const CHALLENGE_SAID = 64
const WANTS_ENCRYPTION = 1
const ROLES = { peer: 1, client: 2 } as const
const NOBODY = '0'.repeat(16)

/** A peer is a daemon; a client is dog. */
export type Role = keyof typeof ROLES

export interface Proven {
  role: Role
  /** Node id of the other end; '' of a client */
  id: string
  /** The rest goes through TLS with this pre-shared key; null: as it is */
  tlsKey: Buffer | null
}

export interface Proposal {
  role: Role
  /** Own node id, '' for a client */
  self: string
  /** The node id that it looks for, '' any */
  to: string
  encrypt: boolean
}

/**
 *     0 u16 version of the handshake   2 u16 role   4 u32 version of the peer protocol   8 u8 flags   9 zero
 *     16 nonce   48 own node id   64 BEGIN: id of the node that is looked for; CHALLENGE: the proof
 */
function said(bytes: number, role: number, encrypt: boolean, nonce: Buffer, id: string): Buffer {
  const message = Buffer.alloc(bytes)
  putU16(message, 0, PROOF_VERSION)
  putU16(message, 2, role)
  putU32(message, 4, PEER_VERSION)
  message[8] = encrypt ? WANTS_ENCRYPTION : 0
  nonce.copy(message, 16, 0, NONCE_BYTES)
  putId(message, 48, id)
  return message
}

function putId(message: Buffer, at: number, id: string): void {
  message.write(id === '' ? NOBODY : id, at, 16, 'latin1')
}

/** SheepError invalid */
function idAt(message: Buffer, at: number): string {
  const id = message.toString('latin1', at, at + 16)
  if (!/^[0-9a-f]{16}$/.test(id)) throw malformed()
  return id === NOBODY ? '' : id
}

function checkVersions(message: Buffer): void {
  const version = u16(message, 0)
  const peer = u32(message, 4)
  if (version === PROOF_VERSION && peer === PEER_VERSION) return
  throw new SheepError(
    'version',
    `it speaks version ${version}.${peer}, this one ${PROOF_VERSION}.${PEER_VERSION}`,
    'run the same version of sheepdog on all hosts',
  )
}

function malformed(): SheepError {
  return new SheepError('invalid', 'it says something else than how to prove the cluster key')
}

function wrongKey(): SheepError {
  return new SheepError('permission', 'its cluster key is another one', 'all hosts of a cluster have one key file')
}

class Transcript {
  constructor(
    private readonly key: Buffer,
    private readonly begin: Buffer,
    private readonly challenge: Buffer,
  ) {}

  proof(of: 'initiator' | 'responder' | 'tls'): Buffer {
    const mac = createHmac('sha256', this.key).update(`sheepdog ${of}\0`)
    return mac.update(this.begin).update(this.challenge.subarray(0, CHALLENGE_SAID)).digest()
  }

  /** The pre-shared key of the TLS session that follows, of this one connection; null when neither side wishes it */
  get tlsKey(): Buffer | null {
    return ((this.begin[8] | this.challenge[8]) & WANTS_ENCRYPTION) === 0 ? null : this.proof('tls')
  }
}

/** The side that connects. */
export class Initiator {
  readonly begin: Buffer

  /** @param nonce NONCE_BYTES that were never used */
  constructor(
    private readonly key: Buffer,
    private readonly proposal: Proposal,
    nonce: Buffer,
  ) {
    const { role, self, to, encrypt } = proposal
    this.begin = said(BEGIN_BYTES, ROLES[role], encrypt, nonce, self)
    putId(this.begin, 64, to)
  }

  /** What to answer a CHALLENGE. SheepError invalid, version, permission: the other end has not proven that it knows the key. */
  prove(challenge: Buffer): { prove: Buffer; responder: Proven } {
    if (challenge.length !== CHALLENGE_BYTES) throw malformed()
    checkVersions(challenge)
    const transcript = new Transcript(this.key, this.begin, challenge)
    if (!timingSafeEqual(transcript.proof('responder'), challenge.subarray(CHALLENGE_SAID))) throw wrongKey()
    const id = idAt(challenge, 48)
    if (this.proposal.to !== '' && id !== this.proposal.to) {
      throw new SheepError('join-failed', `node ${id} is at the address of node ${this.proposal.to}`)
    }
    return { prove: transcript.proof('initiator'), responder: { role: 'peer', id, tlsKey: transcript.tlsKey } }
  }
}

/** The side that is connected to. */
export class Responder {
  private begin: Buffer | null = null
  private challenge: Buffer | null = null

  /** @param nonce NONCE_BYTES that were never used; `self`: own node id */
  constructor(
    private readonly key: Buffer,
    private readonly self: string,
    private readonly encrypt: boolean,
    private readonly nonce: Buffer,
  ) {}

  /** The CHALLENGE. SheepError invalid, version, join-failed: it looks for another node. */
  challengeTo(begin: Buffer): Buffer {
    if (begin.length !== BEGIN_BYTES || this.begin !== null) throw malformed()
    checkVersions(begin)
    const role = roleAt(begin)
    const id = idAt(begin, 48)
    const to = idAt(begin, 64)
    if ((role === 'peer') !== (id !== '')) throw malformed()
    if (role === 'peer' && to !== this.self) {
      throw new SheepError('join-failed', `node ${id} looks for node ${to} at the address of node ${this.self}`)
    }
    this.begin = Buffer.from(begin)
    this.challenge = said(CHALLENGE_BYTES, 0, this.encrypt, this.nonce, this.self)
    new Transcript(this.key, this.begin, this.challenge).proof('responder').copy(this.challenge, CHALLENGE_SAID)
    return this.challenge
  }

  /** Who it is, when PROVE proves it. SheepError invalid, permission */
  check(prove: Buffer): Proven {
    const { begin, challenge } = this
    if (begin === null || challenge === null || prove.length !== PROVE_BYTES) throw malformed()
    const transcript = new Transcript(this.key, begin, challenge)
    if (!timingSafeEqual(transcript.proof('initiator'), prove)) throw wrongKey()
    return { role: roleAt(begin), id: idAt(begin, 48), tlsKey: transcript.tlsKey }
  }
}

/** SheepError invalid */
function roleAt(begin: Buffer): Role {
  const role = u16(begin, 2)
  const name = (Object.keys(ROLES) as Role[]).find((known) => ROLES[known] === role)
  if (name === undefined) throw malformed()
  return name
}

/** What those with different keys must not share: tells keys apart, and says nothing about them. '' for no key. */
export function keyMark(key: Buffer | null): string {
  return key === null ? '' : createHmac('sha256', key).update('sheepdog mark\0').digest('hex').slice(0, 16)
}
