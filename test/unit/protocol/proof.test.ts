/** The proof of the cluster's key, as bytes: who passes, and each way in which one who should not might try. */
import test from 'ava'
import fc from 'fast-check'
import { SheepError } from '../../../lib/errors.js'
import { PEER_VERSION } from '../../../lib/protocol/header.js'
import {
  BEGIN_BYTES,
  CHALLENGE_BYTES,
  Initiator,
  keyMark,
  PROOF_VERSION,
  PROVE_BYTES,
  type Proposal,
  Responder,
} from '../../../lib/protocol/proof.js'

const KEY = Buffer.alloc(32, 7)
const OTHER_KEY = Buffer.alloc(32, 8)
const A = 'a'.repeat(16)
const B = 'b'.repeat(16)
const PEER: Proposal = { role: 'peer', self: A, to: B, encrypt: false }

let nonces = 0
function nonce(): Buffer {
  return Buffer.alloc(32, ++nonces)
}

function initiator(proposal: Partial<Proposal> = {}, key = KEY): Initiator {
  return new Initiator(key, { ...PEER, ...proposal }, nonce())
}

function responder(encrypt = false, key = KEY, self = B): Responder {
  return new Responder(key, self, encrypt, nonce())
}

function code(run: () => unknown): string {
  try {
    run()
  } catch (error) {
    if (error instanceof SheepError) return error.code
    throw error
  }
  return ''
}

test('two ends with one key know each other', (t) => {
  const from = initiator()
  const to = responder()
  const challenge = to.challengeTo(from.begin)
  const { prove, responder: met } = from.prove(challenge)
  t.deepEqual([from.begin.length, challenge.length, prove.length], [BEGIN_BYTES, CHALLENGE_BYTES, PROVE_BYTES])
  t.deepEqual(met, { role: 'peer', id: B, tlsKey: null })
  t.deepEqual(to.check(prove), { role: 'peer', id: A, tlsKey: null })
})

test('a client has no id and looks for nobody', (t) => {
  const from = initiator({ role: 'client', self: '', to: '' })
  const to = responder()
  const { prove } = from.prove(to.challengeTo(from.begin))
  t.deepEqual(to.check(prove), { role: 'client', id: '', tlsKey: null })
  t.is(
    code(() => responder().challengeTo(initiator({ role: 'peer', self: '', to: '' }).begin)),
    'invalid',
  )
  t.is(
    code(() => responder().challengeTo(initiator({ role: 'client', to: '' }).begin)),
    'invalid',
  )
})

test('either side can wish for encryption, and both have its key, of this connection alone', (t) => {
  const keys = new Set<string>()
  for (const [mine, theirs] of [
    [true, false],
    [false, true],
    [true, true],
  ]) {
    const from = initiator({ encrypt: mine })
    const to = responder(theirs)
    const { prove, responder: met } = from.prove(to.challengeTo(from.begin))
    const { tlsKey } = to.check(prove)
    t.deepEqual(met.tlsKey, tlsKey)
    keys.add((tlsKey as Buffer).toString('hex'))
  }
  t.is(keys.size, 3)
})

test('another key is found out by both sides', (t) => {
  const from = initiator()
  t.is(
    code(() => from.prove(responder(false, OTHER_KEY).challengeTo(from.begin))),
    'permission',
  )
  const stranger = initiator({}, OTHER_KEY)
  const to = responder()
  const challenge = to.challengeTo(stranger.begin)
  t.is(
    code(() => stranger.prove(challenge)),
    'permission',
  )
  const guess = new Responder(OTHER_KEY, B, false, nonce())
  const prove = stranger.prove(guess.challengeTo(stranger.begin)).prove
  t.is(
    code(() => to.check(prove)),
    'permission',
  )
})

test('what was recorded is worth nothing later, to either side', (t) => {
  const from = initiator()
  const to = responder()
  const challenge = to.challengeTo(from.begin)
  const { prove } = from.prove(challenge)
  to.check(prove)
  const later = responder()
  later.challengeTo(from.begin)
  t.is(
    code(() => later.check(prove)),
    'permission',
  )
  t.is(
    code(() => initiator().prove(challenge)),
    'permission',
  )
})

test('a proof cannot be sent back to where it came from', (t) => {
  // The attacker has no key: he answers with what the other side says in another connection.
  const to = responder()
  const challenge = to.challengeTo(initiator().begin)
  t.is(
    code(() => to.check(challenge.subarray(64))),
    'permission',
  )
  const from = initiator({ self: B, to: A })
  const mirror = Buffer.concat([from.begin.subarray(0, 64), Buffer.alloc(32)])
  t.is(
    code(() => from.prove(mirror)),
    'permission',
  )
})

test('who looks for another node is told, and so is who finds one', (t) => {
  t.is(
    code(() => responder(false, KEY, 'c'.repeat(16)).challengeTo(initiator().begin)),
    'join-failed',
  )
  const from = initiator({ role: 'client', self: '', to: 'd'.repeat(16) })
  t.is(
    code(() => from.prove(responder().challengeTo(from.begin))),
    'join-failed',
  )
})

test('other versions are refused before anything is compared', (t) => {
  for (const [at, value] of [
    [0, PROOF_VERSION + 1],
    [4, PEER_VERSION + 1],
  ]) {
    const { begin } = initiator()
    begin.writeUInt16LE(value, at)
    t.is(
      code(() => responder().challengeTo(begin)),
      'version',
    )
    const from = initiator()
    const challenge = responder().challengeTo(from.begin)
    challenge.writeUInt16LE(value, at)
    t.is(
      code(() => from.prove(challenge)),
      'version',
    )
  }
})

test('no byte of any message can be changed on the way', (t) => {
  const message = fc.constantFrom('begin', 'challenge', 'prove')
  fc.assert(
    fc.property(message, fc.nat(), fc.integer({ min: 1, max: 255 }), fc.boolean(), (which, place, flip, encrypt) => {
      const from = initiator({ encrypt })
      const to = responder()
      const changed = (name: string, bytes: Buffer): Buffer => {
        const copy = Buffer.from(bytes)
        if (name === which) copy[place % copy.length] ^= flip
        return copy
      }
      const passed = code(() => {
        const challenge = changed('challenge', to.challengeTo(changed('begin', from.begin)))
        to.check(changed('prove', from.prove(challenge).prove))
      })
      return passed !== ''
    }),
    { numRuns: 600 },
  )
  t.pass()
})

test('messages out of turn and of other lengths are refused', (t) => {
  const { begin } = initiator()
  const to = responder()
  t.is(
    code(() => to.check(Buffer.alloc(PROVE_BYTES))),
    'invalid',
  )
  to.challengeTo(begin)
  t.is(
    code(() => to.challengeTo(begin)),
    'invalid',
  )
  t.is(
    code(() => to.check(Buffer.alloc(PROVE_BYTES - 1))),
    'invalid',
  )
  t.is(
    code(() => responder().challengeTo(begin.subarray(1))),
    'invalid',
  )
  t.is(
    code(() => initiator().prove(Buffer.alloc(0))),
    'invalid',
  )
})

test('marks tell keys apart', (t) => {
  t.is(keyMark(KEY), keyMark(Buffer.from(KEY)))
  t.not(keyMark(KEY), keyMark(OTHER_KEY))
  t.is(keyMark(null), '')
  t.regex(keyMark(KEY), /^[0-9a-f]{16}$/)
})
