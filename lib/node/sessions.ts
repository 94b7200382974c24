/** Incoming links: peers, dog and clients come to one port and are told apart by their opcodes. */

import type { ControlServices } from '../control/services.js'
import { ControlSession } from '../control/session.js'
import type { Hold, Link, LinkHandler } from '../host/interfaces.js'
import { encodeResponse, HEADER_LENGTH, OP, u32 } from '../protocol/header.js'
import { PeerSession } from '../replication/peer-session.js'
import { SdSession } from '../sd/session.js'
import type { SheepNode } from './node.js'
import { sdServices } from './services.js'
import { welcome } from './welcome.js'

const PEER_FIRST = OP.PEER_HELLO
const CONTROL_FIRST = OP.CONTROL
const CONTROL_LAST = OP.VOLUME_CLOSE
const RESULT_INVALID = 5
const NO_KEY = Buffer.from(
  JSON.stringify({
    code: 'permission',
    message: 'the daemon there runs without a cluster key',
    hint: 'give all daemons of a cluster the same key file (docs/cluster-key.md)',
  }),
)

export class Session implements LinkHandler {
  private peer: PeerSession | null = null
  private control: ControlSession | null = null
  private sd: SdSession | null = null

  constructor(
    private readonly node: SheepNode,
    private readonly services: ControlServices,
    private readonly link: Link,
    /** For people: where the link comes from */
    private readonly from: string,
  ) {}

  message(link: Link, bytes: Buffer, at: number, payloadAt: number, payloadLength: number, hold: Hold): void {
    const opcode = bytes[at + 1]
    if (opcode === OP.PROOF) {
      // With a key the gate has taken it (lib/host/gate.ts).
      this.answer(opcode, u32(bytes, at + 8), RESULT_INVALID, NO_KEY)
      this.link.close()
    } else if (opcode >= PEER_FIRST && opcode < CONTROL_FIRST) {
      this.peer ??= new PeerSession(link, {
        replica: this.node.replica,
        sessions: this.node.peerSessions,
        calls: this.node.calls,
        welcome: (hello) => {
          const { cluster, parts } = this.node
          return welcome(hello, link.provenId, parts.self.id, cluster.config?.clusterId ?? '')
        },
        log: this.node.parts.log,
      })
      this.peer.message(bytes, at, payloadAt, payloadLength, hold)
    } else if (opcode >= CONTROL_FIRST && opcode <= CONTROL_LAST) {
      this.control ??= new ControlSession(this.services, this.from, (id, result, payload) => {
        this.answer(opcode, id, result, payload)
      })
      this.control.request(bytes, at, payloadAt, payloadLength, hold)
    } else if (opcode < PEER_FIRST) {
      const send = (header: Buffer, payload: Buffer | null): void => {
        if (link.open) link.send(header, payload, 0, payload?.length ?? 0)
      }
      this.sd ??= new SdSession(sdServices(this.node), this.from, send, link)
      this.sd.request(bytes, at, payloadAt, payloadLength, hold)
    } else {
      this.answer(opcode, u32(bytes, at + 8), RESULT_INVALID, null)
    }
  }

  closed(): void {
    this.peer?.end()
    this.control?.closed()
    this.sd?.end().catch((error: unknown) => {
      this.node.parts.log('warning', `closing the volumes of ${this.from}: ${String(error)}`)
    })
  }

  private answer(opcode: number, id: number, result: number, payload: Uint8Array | null): void {
    if (!this.link.open) return
    const header = Buffer.allocUnsafe(HEADER_LENGTH)
    encodeResponse(header, 0, opcode, id, result, payload?.length ?? 0)
    this.link.send(header, payload, 0, payload?.length ?? 0)
  }
}
