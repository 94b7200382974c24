/** A client's side of the proof that both ends know the cluster's key (lib/protocol/proof.ts): dog, at the daemon of another host. */
import { randomBytes } from 'node:crypto'
import type { Socket } from 'node:net'
import { connect as tlsConnect } from 'node:tls'
import { asSheepError, SheepError } from '../errors.js'
import { refusalOf, tlsOf } from '../host/gate.js'
import { encodeRequest, FLAG_WRITE, HEADER_LENGTH, OP, u32 } from '../protocol/header.js'
import { Initiator, NONCE_BYTES } from '../protocol/proof.js'

const ANSWER_BYTES_MAX = 4_096

/** The socket to go on with: this one, or TLS over it. The caller bounds the time. SheepError: why the daemon or this end refuses. */
export async function proveKey(socket: Socket, key: Buffer): Promise<Socket> {
  const proposal = { role: 'client', self: '', to: '', encrypt: false } as const
  const initiator = new Initiator(key, proposal, randomBytes(NONCE_BYTES))
  const { prove, responder } = initiator.prove(await ask(socket, initiator.begin))
  await ask(socket, prove)
  if (responder.tlsKey === null) return socket
  const secure = tlsConnect({ ...tlsOf(responder.tlsKey), socket })
  await new Promise<void>((resolve, reject) => {
    secure.once('secureConnect', resolve)
    secure.once('error', (error) => reject(asSheepError(error)))
  })
  secure.removeAllListeners('error')
  return secure
}

/** Payload of the answer, which is all that comes. */
function ask(socket: Socket, payload: Buffer): Promise<Buffer> {
  const header = Buffer.alloc(HEADER_LENGTH)
  encodeRequest(header, 0, OP.PROOF, FLAG_WRITE, 0, 0, payload.length)
  socket.write(Buffer.concat([header, payload]))
  return new Promise((resolve, reject) => {
    let bytes = Buffer.alloc(0)
    const settle = (outcome: () => void): void => {
      socket.off('data', received)
      socket.off('close', closed)
      outcome()
    }
    const closed = (): void => settle(() => reject(new SheepError('permission', 'it closed the connection', HINT)))
    const received = (piece: Buffer): void => {
      bytes = Buffer.concat([bytes, piece])
      if (bytes.length < HEADER_LENGTH) return
      const end = HEADER_LENGTH + u32(bytes, 12)
      if (end > ANSWER_BYTES_MAX) settle(() => reject(refusalOf(Buffer.alloc(0))))
      if (bytes.length < end) return
      const answer = bytes.subarray(HEADER_LENGTH, end)
      if (u32(bytes, 16) === 0) settle(() => resolve(answer))
      else settle(() => reject(refusalOf(answer)))
    }
    socket.on('data', received)
    socket.on('close', closed)
  })
}

const HINT = 'all hosts of a cluster have one key file (docs/cluster-key.md)'
