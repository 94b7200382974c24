/**
 * Links to the other nodes of the epoch: object requests (pooled, no promise) and calls (JSON plus bytes, promises, for
 * everything that is not the data path). One link a peer; a link that breaks is made anew while the peer is a
 * member; what was outstanding on it ends as LINK_LOST, and whoever asked decides.
 *
 * A peer that is a member but answers nothing, not even a ping, for HUNG_MS is reported to `hung`: the cluster may vote
 * it out. Waiting for a slow disk or for recovery is not hanging: its event loop answers pings meanwhile.
 */
import { assert } from '../assert.js'
import type { NodeInfo } from '../cluster/types.js'
import { asSheepError, isErrorCode, SheepError } from '../errors.js'
import type { Clock, Hold, Link, LinkHandler, Log, Network, Timer } from '../host/interfaces.js'
import { encodeRequest, FLAG_WRITE, HEADER_LENGTH, OP, putU32, putU64, u32 } from '../protocol/header.js'
import { highWord, lowWord } from '../vdi/oid.js'
import { ALLOCATE, EIO, FLUSH, LINK_LOST, type ObjectRequest, READ, REMOVE, WRITE, ZERO } from './request.js'

export const PING_MS = 1_000
export const HUNG_MS = 8_000
const SILENT_MS = 3_000
const RECONNECT_MS = 100
/** Outstanding requests to one peer: more than any gateway lets in (see VOLUME_REQUESTS_MAX). */
const SLOTS_MAX = 65_536
const CALL_TIMEOUT_MS = 30_000

const OPCODE_OF_KIND: Record<number, number> = {
  [READ]: OP.PEER_READ,
  [WRITE]: OP.PEER_WRITE,
  [ZERO]: OP.PEER_ZERO,
  [FLUSH]: OP.PEER_FLUSH,
  [REMOVE]: OP.PEER_REMOVE,
  [ALLOCATE]: OP.PEER_ALLOCATE,
}

export interface CallAnswer {
  json: unknown
  body: Buffer
}

/** Outcome of one exchange on a link. */
interface Waiter {
  /** `bytes` is null when the link broke. */
  answered(result: number, bytes: Buffer | null, offset: number, length: number): void
}

export interface PeersOptions {
  self: NodeInfo
  network: Network
  clock: Clock
  log: Log
  /** What our HELLO says, JSON: `id`, and `incarnation`, which differs each time the daemon starts */
  hello: () => { id: string; incarnation: string; [field: string]: unknown }
  /** The peer does not answer though it is a member */
  hung: (node: NodeInfo, reason: string) => void
}

export class Peers {
  private readonly peers = new Map<string, Peer>()
  private readonly ticker: Timer[] = []
  /** Counts all links of this process: a peer must know which is the newest, also after it was away */
  private links = 0
  private stopped = false

  constructor(private readonly options: PeersOptions) {
    this.tick()
  }

  /** Keeps exactly one link to each of these nodes (this one left out). */
  update(nodes: readonly NodeInfo[]): void {
    const wanted = new Map(nodes.filter((node) => node.id !== this.options.self.id).map((node) => [node.id, node]))
    for (const [id, peer] of [...this.peers]) {
      const node = wanted.get(id)
      if (node === undefined || node.host !== peer.node.host || node.port !== peer.node.port) {
        this.peers.delete(id)
        peer.stop('the node left')
      }
    }
    for (const [id, node] of wanted) {
      const peer = this.peers.get(id)
      // What was not answered before this epoch is no sign of how things are in it.
      if (peer === undefined) this.peers.set(id, new Peer(node, this.options, () => ++this.links))
      else peer.forgive()
    }
  }

  submit(node: string, request: ObjectRequest): void {
    const peer = this.peers.get(node)
    if (peer === undefined) request.complete(LINK_LOST)
    else peer.submit(request)
  }

  /** SheepError: what the peer answered, or unreachable, or timeout. */
  call(
    node: string,
    method: string,
    argument: unknown,
    body?: Buffer,
    timeoutMs = CALL_TIMEOUT_MS,
  ): Promise<CallAnswer> {
    const peer = this.peers.get(node)
    if (peer === undefined) return Promise.reject(new SheepError('unreachable', `node ${node} is not a member`))
    return peer.call(method, argument, body, timeoutMs)
  }

  /**
   * Resolves when every answer that the peer had sent is here: those of one link keep their order, and what the peer asks comes on
   * another, which may be faster. What a link that breaks loses ends as LINK_LOST. SheepError unreachable.
   */
  caughtUp(node: string): Promise<void> {
    const peer = this.peers.get(node)
    if (peer === undefined) return Promise.reject(new SheepError('unreachable', `node ${node} is not a member`))
    return peer.caughtUp()
  }

  stop(): void {
    this.stopped = true
    for (const timer of this.ticker) timer.cancel()
    for (const peer of this.peers.values()) peer.stop('this daemon stops')
    this.peers.clear()
  }

  private tick(): void {
    if (this.stopped) return
    for (const peer of this.peers.values()) peer.tick()
    this.ticker[0] = this.options.clock.after(PING_MS, () => this.tick())
  }
}

class Peer implements LinkHandler {
  private link: Link | null = null
  private slots: (ObjectRequest | Waiter | null)[] = []
  private free: number[] = []
  private outstanding = 0
  private lastHeard: number
  private lastTick: number
  /** Clock.now() of the last attempt to connect */
  private connected = 0
  /** Clock.now() when it was last reported to be hung; 0 not since it was heard */
  private reported = 0
  private reconnect: Timer | null = null
  private stopped = false
  private readonly header = Buffer.alloc(HEADER_LENGTH)
  private readonly pong: Waiter = { answered: () => {} }

  constructor(
    readonly node: NodeInfo,
    private readonly options: PeersOptions,
    private readonly nextLink: () => number,
  ) {
    this.lastHeard = options.clock.now()
    this.lastTick = this.lastHeard
    this.connect()
  }

  submit(request: ObjectRequest): void {
    const link = this.link
    if (link === null || this.outstanding >= SLOTS_MAX) {
      request.complete(LINK_LOST)
      return
    }
    const slot = this.take(request)
    const header = this.header
    const carries = request.kind === WRITE
    encodeRequest(
      header,
      0,
      OPCODE_OF_KIND[request.kind],
      carries ? request.flags | FLAG_WRITE : request.flags,
      request.epoch,
      slot,
      carries || request.kind === READ ? request.length : 0,
    )
    putU32(header, 16, lowWord(request.oid))
    putU32(header, 20, highWord(request.oid))
    if (!carries) putU64(header, 24, request.length)
    putU32(header, 40, request.position)
    if (carries) link.send(header, request.buffer, request.bufferOffset, request.length)
    else link.send(header, null, 0, 0)
  }

  call(method: string, argument: unknown, body: Buffer | undefined, timeoutMs: number): Promise<CallAnswer> {
    const link = this.link
    if (link === null || this.outstanding >= SLOTS_MAX) {
      return Promise.reject(new SheepError('unreachable', `no link to node ${this.node.name}`))
    }
    return new Promise((resolve, reject) => {
      const timer = this.options.clock.after(timeoutMs, () => {
        waiter.answered = () => {}
        reject(new SheepError('timeout', `node ${this.node.name} did not answer ${method} within ${timeoutMs} ms`))
      })
      const waiter: Waiter = {
        answered: (result, bytes, offset, length) => {
          timer.cancel()
          if (bytes === null) {
            reject(new SheepError('unreachable', `link to node ${this.node.name} broke during ${method}`))
            return
          }
          try {
            const answer = decodeCall(bytes, offset, length)
            if (result === 0) resolve(answer)
            else reject(callError(answer.json, this.node.name, method))
          } catch (error) {
            reject(asSheepError(error))
          }
        },
      }
      const payload = encodeCall({ method, argument }, body)
      encodeRequest(this.header, 0, OP.PEER_CALL, FLAG_WRITE, 0, this.take(waiter), payload.length)
      link.send(this.header, payload, 0, payload.length)
    })
  }

  caughtUp(): Promise<void> {
    return new Promise((resolve, reject) => {
      const answered: Waiter['answered'] = (_result, bytes) => {
        if (bytes !== null) resolve()
        else reject(new SheepError('unreachable', `link to node ${this.node.name} broke`))
      }
      // What is outstanding has ended with the link.
      if (this.link === null) resolve()
      else if (this.outstanding >= SLOTS_MAX) answered(LINK_LOST, null, 0, 0)
      else this.ping({ answered })
    })
  }

  private ping(waiter: Waiter): void {
    encodeRequest(this.header, 0, OP.PEER_PING, 0, 0, this.take(waiter), 0)
    this.link?.send(this.header, null, 0, 0)
  }

  message(link: Link, bytes: Buffer, headerOffset: number, payloadOffset: number, payloadLength: number): void {
    if (link !== this.link) return
    this.lastHeard = this.options.clock.now()
    const slot = u32(bytes, headerOffset + 8)
    const waiting = slot < this.slots.length ? this.slots[slot] : null
    if (waiting === null || waiting === undefined) {
      this.options.log('warning', `node ${this.node.name} answered a request that was not made; closing the link`)
      link.close()
      return
    }
    this.slots[slot] = null
    this.free.push(slot)
    this.outstanding--
    const result = u32(bytes, headerOffset + 16)
    if ('answered' in waiting) {
      waiting.answered(result, bytes, payloadOffset, payloadLength)
      return
    }
    if (result !== 0) {
      waiting.complete(-(result & 0x7fffffff) || EIO)
      return
    }
    if (waiting.kind !== READ) {
      waiting.complete(waiting.length)
      return
    }
    // The buffer of a reader that has given up may be in other use by now.
    if (!waiting.cancelled) {
      if (payloadLength !== waiting.length) {
        waiting.complete(LINK_LOST)
        return
      }
      waiting.buffer.set(bytes.subarray(payloadOffset, payloadOffset + payloadLength), waiting.bufferOffset)
    }
    waiting.complete(waiting.length)
  }

  closed(link: Link, reason: string): void {
    if (link !== this.link) return
    this.link = null
    if (!this.stopped) this.options.log('debug', `link to node ${this.node.name} closed: ${reason}`)
    this.abandon()
    if (this.stopped) return
    this.reconnect = this.options.clock.after(RECONNECT_MS, () => this.connect())
  }

  forgive(): void {
    this.lastHeard = this.options.clock.now()
  }

  tick(): void {
    const now = this.options.clock.now()
    // After a pause of our own the silence was ours.
    if (now - this.lastTick > PING_MS * 3) this.lastHeard = now
    this.lastTick = now
    if (now - this.lastHeard <= HUNG_MS) this.reported = 0
    else if (this.reported === 0 || now - this.reported > HUNG_MS) {
      this.reported = now
      this.options.hung(this.node, `no answer for ${Math.round((now - this.lastHeard) / 1000)} s`)
    }
    // A connection that a broken network has left behind may stay silent long after the network is well.
    if (now - this.lastHeard > SILENT_MS && this.link !== null && now - this.connected > SILENT_MS) {
      const link = this.link
      link.close()
      this.closed(link, `silent for ${Math.round(now - this.lastHeard)} ms`)
      return
    }
    if (this.link === null || this.outstanding >= SLOTS_MAX) return
    this.ping(this.pong)
  }

  stop(reason: string): void {
    this.stopped = true
    this.reconnect?.cancel()
    const link = this.link
    this.link = null
    link?.close()
    this.options.log('debug', `link to node ${this.node.name} ended: ${reason}`)
    this.abandon()
  }

  private connect(): void {
    if (this.stopped) return
    const { host, port, socket, id } = this.node
    const link = this.options.network.connect({ host, port, socket, id }, this)
    this.link = link
    this.connected = this.options.clock.now()
    const payload = encodeCall({ ...this.options.hello(), to: this.node.id, link: this.nextLink() }, undefined)
    encodeRequest(this.header, 0, OP.PEER_HELLO, FLAG_WRITE, 0, this.take(this.pong), payload.length)
    link.send(this.header, payload, 0, payload.length)
  }

  private take(waiting: ObjectRequest | Waiter): number {
    const slot = this.free.length > 0 ? (this.free.pop() as number) : this.slots.length
    assert(this.slots[slot] === null || this.slots[slot] === undefined, 'a free slot is empty')
    this.slots[slot] = waiting
    this.outstanding++
    return slot
  }

  private abandon(): void {
    const slots = this.slots
    this.slots = []
    this.free = []
    this.outstanding = 0
    for (const waiting of slots) {
      if (waiting === null || waiting === undefined) continue
      if ('answered' in waiting) waiting.answered(LINK_LOST, null, 0, 0)
      else waiting.complete(LINK_LOST)
    }
  }
}

/** u32 length of the JSON, the JSON, the body. */
export function encodeCall(json: unknown, body: Buffer | undefined): Buffer {
  const text = Buffer.from(JSON.stringify(json ?? null))
  const bytes = Buffer.allocUnsafe(4 + text.length + (body?.length ?? 0))
  bytes.writeUInt32LE(text.length, 0)
  text.copy(bytes, 4)
  body?.copy(bytes, 4 + text.length)
  return bytes
}

/** The body is a copy. SheepError invalid on garbage. */
export function decodeCall(bytes: Buffer, offset: number, length: number): CallAnswer {
  const jsonLength = length >= 4 ? bytes.readUInt32LE(offset) : -1
  if (jsonLength < 0 || 4 + jsonLength > length) throw new SheepError('invalid', 'a peer message is cut short')
  let json: unknown
  try {
    json = JSON.parse(bytes.toString('utf8', offset + 4, offset + 4 + jsonLength))
  } catch {
    throw new SheepError('invalid', 'a peer message is not JSON')
  }
  return { json, body: Buffer.from(bytes.subarray(offset + 4 + jsonLength, offset + length)) }
}

function callError(json: unknown, node: string, method: string): SheepError {
  const { code, message, hint } = (json ?? {}) as { code?: unknown; message?: unknown; hint?: unknown }
  if (typeof code === 'string' && isErrorCode(code) && typeof message === 'string') {
    return new SheepError(code, message, typeof hint === 'string' ? hint : '')
  }
  return new SheepError('unknown', `node ${node} failed ${method} without a reason`)
}

export type { Hold }
