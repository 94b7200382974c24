/** One connection to the daemon's port, with 48-byte headers: its bytes in pieces, answers checked against the requests. */
import type { LinkHandler } from '../../lib/host/interfaces.js'
import { StreamLink } from '../../lib/host/network.js'
import { slabBytes } from '../../lib/host/slab.js'
import { encodeRequest, FLAG_WRITE, HEADER_LENGTH } from '../../lib/protocol/header.js'
import type { SimRandom } from '../simulation/random.js'
import { requireNoSlabs, turnsUntil } from './harness.js'
import { Conversation } from './memory-socket.js'
import { damaged, disordered, randomBytes, split } from './mutate.js'

/** A request with everything behind its header's common fields at 16, and a payload when there is one. */
export function message(
  opcode: number,
  flags: number,
  epoch: number,
  id: number,
  fields: Buffer,
  payload?: Buffer,
): Buffer {
  const header = Buffer.alloc(HEADER_LENGTH)
  encodeRequest(header, 0, opcode, payload === undefined ? flags : flags | FLAG_WRITE, epoch, id, payload?.length ?? 0)
  fields.copy(header, 16, 0, HEADER_LENGTH - 16)
  return payload === undefined ? header : Buffer.concat([header, payload])
}

export function wanting(header: Buffer, length: number): Buffer {
  header.writeUInt32LE(length >>> 0, 12)
  return header
}

/** The messages as they may arrive: in order or not, whole or damaged, cut anywhere. */
export function arriving(random: SimRandom, messages: readonly Buffer[], other: Buffer): Buffer[] {
  const ordered = random.chance(0.3) ? disordered(random, messages) : messages
  if (random.chance(0.02)) return split(random, randomBytes(random, random.below(400)))
  if (random.chance(0.4)) return split(random, Buffer.concat(ordered))
  // Damage to one message leaves the others readable.
  const hit = random.below(ordered.length + 1)
  const bytes = ordered.map((one, i) => (i === hit ? damaged(random, one, other) : one))
  return split(random, Buffer.concat(bytes))
}

/** Says it all, hangs up, and waits until `idle`; nothing may be left. The bytes that were answered. */
export async function converse(
  input: readonly Buffer[],
  random: SimRandom,
  handler: (link: StreamLink) => LinkHandler,
  idle: () => boolean,
): Promise<Buffer> {
  const before = slabBytes().taken
  let gone = false
  const talk = new Conversation((stream) => {
    const link = new StreamLink(null, false)
    link.attach(stream)
    const inner = handler(link)
    link.handler = {
      message: (...all) => inner.message(...all),
      closed: (...all) => {
        inner.closed(...all)
        gone = true
      },
    }
    return link
  })
  talk.socket.keeps = true
  await talk.say(input, random)
  talk.hangUp()
  await turnsUntil(() => gone && idle(), 'the end of the connection and of its work')
  requireNoSlabs(before)
  return Buffer.concat(talk.socket.sent)
}
