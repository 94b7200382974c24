/** Framing (lib/host/stream.ts): however the bytes are cut, the same messages come out, and kept ones stay as they were. */
import { type Slab, slabBytes } from '../../lib/host/slab.js'
import { MESSAGE_MAX, type StreamHandler } from '../../lib/host/stream.js'
import type { SimRandom } from '../simulation/random.js'
import { type Harness, requireNoSlabs, turn, turnsUntil } from './harness.js'
import { Conversation } from './memory-socket.js'
import { damaged, randomBytes, split } from './mutate.js'

/** u32 length of the whole, then that many bytes less four. */
const HEAD = 4

function make(random: SimRandom): Buffer[] {
  const messages = Array.from({ length: random.below(12) }, (_, i) => {
    const length = HEAD + random.below(random.pick([3, 60, 5_000, random.chance(0.1) ? 300_000 : 50]))
    const bytes = Buffer.alloc(length, i + random.below(100))
    bytes.writeUInt32LE(length, 0)
    return bytes
  })
  const bytes = Buffer.concat(messages)
  return split(random, random.chance(0.3) && bytes.length > 0 ? damaged(random, bytes, randomBytes(random, 8)) : bytes)
}

/** The deliberately simple reading of the same bytes. */
function expected(bytes: Buffer): Buffer[] {
  const messages: Buffer[] = []
  for (let at = 0; at + HEAD <= bytes.length; ) {
    const length = bytes.readUInt32LE(at)
    if (length < HEAD || length > MESSAGE_MAX || at + length > bytes.length) break
    messages.push(bytes.subarray(at, at + length))
    at += length
  }
  return messages
}

async function take(input: readonly Buffer[], random: SimRandom): Promise<boolean> {
  const before = slabBytes().taken
  const kept: { slab: Slab; start: number; end: number }[] = []
  const copies: Buffer[] = []
  let over = false
  const talk = new Conversation((stream) => {
    const handler: StreamHandler = {
      messageLength: (bytes, start, end) => {
        if (end - start < HEAD) return 0
        const length = bytes.readUInt32LE(start)
        return length < HEAD || length > MESSAGE_MAX ? -1 : length
      },
      message: (slab, start, end) => {
        copies.push(Buffer.from(slab.bytes.subarray(start, end)))
        if (random.chance(0.5)) {
          slab.retain()
          kept.push({ slab, start, end })
        } else kept.push({ slab, start: -1, end })
        const reply = random.chance(0.5) ? random.below(200) : random.below(100_000)
        stream.send(Buffer.alloc(reply), 0, reply)
        if (random.chance(0.1)) {
          stream.pause()
          void turn().then(() => stream.resume())
        }
        const whim = random.below(100)
        if (whim === 0) stream.close('enough')
        else if (whim === 1) stream.end('done')
      },
      closed: () => {
        over = true
      },
    }
    return handler
  })
  await talk.say(input, random)
  await turnsUntil(() => !talk.socket.paused || over || !talk.socket.reads, 'the stream stays paused')
  const wanted = expected(Buffer.concat(input as Buffer[]))
  if (copies.length > wanted.length) throw new Error(`${copies.length} messages of ${wanted.length}`)
  talk.hangUp()
  await turnsUntil(() => over, 'the end of the stream')
  for (const [i, { slab, start, end }] of kept.entries()) {
    if (!copies[i].equals(wanted[i])) throw new Error(`message ${i} is another than was sent`)
    if (start < 0) continue
    if (!slab.bytes.subarray(start, end).equals(copies[i])) throw new Error(`message ${i} changed while it was held`)
    slab.release()
  }
  requireNoSlabs(before)
  return copies.length > 0
}

export const streamHarness: Harness = { make, take }
