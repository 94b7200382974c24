/**
 * The proof of the cluster's key, both ends: whatever comes, nothing passes the gate but behind a whole and right proof, which only
 * those inputs hold that were made with the key.
 */
import { Gates } from '../../lib/host/gate.js'
import type { LinkHandler } from '../../lib/host/interfaces.js'
import { StreamLink } from '../../lib/host/network.js'
import { encodeResponse, HEADER_LENGTH, OP } from '../../lib/protocol/header.js'
import { Initiator, Responder } from '../../lib/protocol/proof.js'
import type { SimRandom } from '../simulation/random.js'
import { type Harness, turnsUntil } from './harness.js'
import { arriving, message } from './link.js'
import { Conversation } from './memory-socket.js'
import { damaged, randomBytes } from './mutate.js'

const KEY = Buffer.alloc(32, 5)
const SELF = 'b'.repeat(16)
const OTHER = 'a'.repeat(16)
const OURS = Buffer.alloc(32, 1)
const THEIRS = Buffer.alloc(32, 2)
const NOTHING = Buffer.alloc(32)

/** What one with the key says, given the nonce of the other end. */
function asInitiator(key: Buffer): { begin: Buffer; prove: Buffer } {
  const initiator = new Initiator(key, { role: 'peer', self: OTHER, to: SELF, encrypt: false }, THEIRS)
  const { begin } = initiator
  const { prove } = initiator.prove(new Responder(key, SELF, false, OURS).challengeTo(begin))
  return { begin, prove }
}

function asResponder(key: Buffer): Buffer {
  const initiator = new Initiator(key, { role: 'peer', self: SELF, to: OTHER, encrypt: false }, OURS)
  return new Responder(key, OTHER, false, THEIRS).challengeTo(initiator.begin)
}

const RIGHT = asInitiator(KEY)
const WRONG = asInitiator(Buffer.alloc(32, 6))
const CHALLENGES = [asResponder(KEY), asResponder(Buffer.alloc(32, 6))]

function said(random: SimRandom, payload: Buffer): Buffer {
  const other = random.pick([RIGHT.begin, RIGHT.prove, randomBytes(random, random.below(200))])
  return message(
    OP.PROOF,
    0,
    0,
    random.below(3),
    NOTHING,
    random.chance(0.9) ? payload : damaged(random, payload, other),
  )
}

function answered(random: SimRandom, payload: Buffer): Buffer {
  const body = random.chance(0.9) ? payload : damaged(random, payload, RIGHT.begin)
  const header = Buffer.alloc(HEADER_LENGTH)
  encodeResponse(header, 0, OP.PROOF, random.below(3), random.pick([0, 0, 0, 5, 20]), body.length)
  return Buffer.concat([header, body])
}

/** The first byte of the first piece says which end this is: 0 that is connected to, 1 that connects. */
function make(random: SimRandom): Buffer[] {
  const rest = message(random.pick([OP.PEER_HELLO, OP.CONTROL, OP.PROOF]), 0, 0, 1, NOTHING, Buffer.from('rest'))
  if (random.chance(0.6)) {
    const { begin, prove } = random.chance(0.8) ? RIGHT : WRONG
    const messages = [said(random, begin), said(random, prove), rest]
    return [Buffer.of(0), ...arriving(random, messages, random.pick([said(random, begin), rest]))]
  }
  const refusal = Buffer.from(JSON.stringify({ code: 'permission', message: 'no', hint: 'h' }))
  const first = random.pick([...CHALLENGES, CHALLENGES[0], refusal])
  const messages = [answered(random, first), answered(random, Buffer.alloc(0)), answered(random, refusal)]
  return [Buffer.of(1), ...arriving(random, messages, answered(random, CHALLENGES[0]))]
}

class Counted implements LinkHandler {
  messages = 0
  ended = 0
  message(): void {
    this.messages++
  }
  closed(): void {
    this.ended++
  }
}

async function take(input: readonly Buffer[], random: SimRandom): Promise<boolean> {
  const [kind, ...pieces] = input
  const incoming = kind[0] === 0
  const bytes = Buffer.concat(pieces)
  const gates = new Gates(
    { key: KEY, self: SELF, encrypt: false },
    () => {},
    () => OURS,
  )
  const inside = new Counted()
  let open = 0
  let gone = false
  const link = new StreamLink(null, !incoming)
  const talk = new Conversation((stream) => {
    if (incoming) {
      gates.accepted(link, stream, false, () => {
        open++
        return inside
      })
    } else {
      gates.connecting(link, stream, inside, OTHER, 'there', false)
    }
    const { handler } = link
    const closed = handler?.closed.bind(handler) as LinkHandler['closed']
    ;(handler as LinkHandler).closed = (...all) => {
      gone = true
      closed(...all)
    }
    return link
  })
  talk.socket.keeps = true
  await talk.say(pieces, random)
  const passed = link.provenId !== undefined
  const key = incoming ? RIGHT.prove : CHALLENGES[0]
  if (passed && !bytes.includes(key)) throw new Error('the gate opened without a proof')
  if ((inside.messages > 0 || open > 0) && !passed) throw new Error('a message passed the closed gate')
  if (passed && link.provenId !== OTHER) throw new Error(`the gate opened for ${link.provenId}`)
  talk.hangUp()
  await turnsUntil(() => gone || passed, 'the end of the connection')
  return passed || talk.socket.sentBytes > HEADER_LENGTH
}

export const gateHarness: Harness = { make, take }
