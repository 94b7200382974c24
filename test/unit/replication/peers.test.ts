import test from 'ava'
import type { Clock, Hold, Link, LinkHandler, Network } from '../../../lib/host/interfaces.js'
import { encodeResponse, FLAG_CREATE, HEADER_LENGTH, OP, u32 } from '../../../lib/protocol/header.js'
import { Peers } from '../../../lib/replication/peers.js'
import { LINK_LOST, ObjectRequest, WRITE } from '../../../lib/replication/request.js'
import { dataOid } from '../../../lib/vdi/oid.js'
import { node } from './nodes.js'

const SELF = node(0)
const PEER = node(1)
const NO_HOLD: Hold = { retain() {}, release() {} }

class Write extends ObjectRequest {
  override kind = WRITE
  override epoch = 3
  override oid = dataOid(1, 0)
  override flags = FLAG_CREATE
  result: number | null = null

  complete(result: number): void {
    this.result = result
  }
}

/** A peer that answers when the test says so. */
function rig() {
  const sent: { opcode: number; id: number }[] = []
  let handler!: LinkHandler
  const link: Link = {
    open: true,
    backlog: 0,
    send: (header) => sent.push({ opcode: header[1], id: u32(header, 8) }),
    close() {},
  }
  const network = {
    connect: (_address: unknown, given: LinkHandler) => {
      handler = given
      return link
    },
  } as unknown as Network
  const clock: Clock = { now: () => 0, wall: () => 0, after: () => ({ cancel() {} }) }
  const hello = () => ({ id: SELF.id, incarnation: 'a' })
  const peers = new Peers({ self: SELF, network, clock, log: () => {}, hello, hung: () => {} })
  peers.update([SELF, PEER])
  const answer = (opcode: number) => {
    const at = sent.findIndex((message) => message.opcode === opcode)
    const [message] = sent.splice(at, 1)
    const bytes = Buffer.alloc(HEADER_LENGTH)
    encodeResponse(bytes, 0, opcode, message.id, 0, 0)
    handler.message(link, bytes, 0, HEADER_LENGTH, 0, NO_HOLD)
  }
  return { peers, sent, answer, broken: () => handler.closed(link, 'broken') }
}

test('caught up: what the peer had answered before is here', async (t) => {
  const { peers, sent, answer } = rig()
  answer(OP.PEER_HELLO)
  const write = new Write()
  peers.submit(PEER.id, write)
  let caughtUp = false
  const waiting = peers.caughtUp(PEER.id).then(() => {
    caughtUp = true
  })
  t.deepEqual(
    sent.map(({ opcode }) => opcode),
    [OP.PEER_WRITE, OP.PEER_PING],
    'it is asked on the link on which the answers come',
  )
  answer(OP.PEER_WRITE)
  await Promise.resolve()
  t.false(caughtUp)
  answer(OP.PEER_PING)
  await waiting
  t.is(write.result, 0)
})

test('caught up: a link that breaks ends what was on it, and the question with an error', async (t) => {
  const { peers, answer, broken } = rig()
  answer(OP.PEER_HELLO)
  const write = new Write()
  peers.submit(PEER.id, write)
  const waiting = peers.caughtUp(PEER.id)
  broken()
  await t.throwsAsync(waiting, { message: /broke/ })
  t.is(write.result, LINK_LOST)
  await t.notThrowsAsync(peers.caughtUp(PEER.id), 'nothing is outstanding')
  await t.throwsAsync(peers.caughtUp(node(2).id), { message: /no member|not a member/ })
})
