/** Sends raw bytes to a port or socket as any stranger can, and says what happened. */
import { connect } from 'node:net'
import { encodeRequest, FLAG_WRITE, HEADER_LENGTH, OP, PEER_VERSION } from '../../lib/protocol/header.js'
import { Initiator, PROOF_VERSION } from '../../lib/protocol/proof.js'
import { encodeCall } from '../../lib/replication/peers.js'

export interface Reaction {
  /** What the server sent before it closed or fell silent */
  answer: Buffer
  /** The server closed the connection */
  closed: boolean
}

/**
 * `at` is a TCP port, on loopback if no host is named, or a Unix socket's path. Waits until the server closes or has been silent for
 * `quiet` ms. Without that some answer is expected, which on a busy machine takes its time.
 */
export function tell(
  at: number | string | { host: string; port: number },
  pieces: readonly Buffer[],
  quiet?: number,
): Promise<Reaction> {
  return new Promise((resolve, reject) => {
    const socket =
      typeof at === 'string' ? connect(at) : connect(typeof at === 'number' ? { host: '127.0.0.1', port: at } : at)
    const answer: Buffer[] = []
    let closed = false
    let timer: NodeJS.Timeout | undefined
    const hangUpAfter = (ms: number) => {
      clearTimeout(timer)
      timer = setTimeout(() => socket.destroy(), ms)
    }
    hangUpAfter(10_000)
    socket.on('connect', () => {
      for (const piece of pieces) socket.write(piece)
      hangUpAfter(quiet ?? 10_000)
    })
    socket.on('data', (data) => {
      answer.push(data)
      hangUpAfter(quiet ?? 1000)
    })
    socket.on('end', () => {
      closed = true
    })
    // A reset is the server's way to say no while we still send.
    socket.on('error', (error: NodeJS.ErrnoException) => {
      closed = true
      if (error.code === 'ECONNREFUSED' || error.code === 'ENOENT') reject(error)
    })
    socket.on('close', () => {
      clearTimeout(timer)
      resolve({ answer: Buffer.concat(answer), closed })
    })
  })
}

/** A 48-byte header of the sheepdog protocol (wire-protocol.md) with fields at their offsets. */
export function sheepdogHeader(fields: {
  version?: number
  opcode: number
  flags?: number
  id?: number
  length?: number
}): Buffer {
  const header = Buffer.alloc(48)
  header[0] = fields.version ?? 2
  header[1] = fields.opcode
  header.writeUInt16LE(fields.flags ?? 0, 2)
  header.writeUInt32LE(fields.id ?? 1, 8)
  header.writeUInt32LE(fields.length ?? 0, 12)
  return header
}

function peerMessage(opcode: number, payload: Buffer): Buffer {
  const header = Buffer.alloc(HEADER_LENGTH)
  encodeRequest(header, 0, opcode, FLAG_WRITE, 0, 0, payload.length)
  return Buffer.concat([header, payload])
}

/** What a peer says first where there is no cluster key. */
export function unprovenHello(): Buffer {
  const hello = encodeCall({ id: 'a'.repeat(16), to: 'b'.repeat(16), version: PEER_VERSION, link: 1 }, undefined)
  return peerMessage(OP.PEER_HELLO, hello)
}

/** The first word of a proof of the next version. */
export function proofOfNextVersion(): Buffer {
  const proposal = { role: 'client', self: '', to: '', encrypt: false } as const
  const begin = Buffer.from(new Initiator(Buffer.alloc(32), proposal, Buffer.alloc(32)).begin)
  begin.writeUInt16LE(PROOF_VERSION + 1, 0)
  return peerMessage(OP.PROOF, begin)
}
