/**
 * Simulated network between in-process nodes. One link is like one TCP connection: each direction is ordered and
 * reliable until the link ends; links and directions know nothing of each other's timing. What can go wrong:
 *
 * - a cut direction (partition, also one-way) stalls; when it heals in time the messages arrive late, else each end finds
 *   out for itself that the connection timed out;
 * - a broken link, or the death of a process, loses any suffix of what was under way, per direction;
 * - a host that lost power says nothing: the other end learns when it sends to the rebooted host, or by its time-out;
 * - a stopped process takes nothing, its peers notice nothing.
 *
 * Receive buffers are overwritten once the receiver may no longer look at them.
 */
import type { Hold, Link, LinkHandler, Network, PeerAddress } from '../../lib/host/interfaces.js'
import type { Scheduler } from './clock.js'
import type { Process } from './process.js'
import type { SimRandom } from './random.js'
import type { Verdict } from './trace.js'

const HEADER_BYTES = 48

export interface NetworkShape {
  /** Mean one-way delay, ms */
  latency: number
  /** Probability of a delay of up to `spike` ms */
  spikeChance: number
  spike: number
  /** After how long without progress an end gives up, ms: between this and twice this */
  timeout: number
}

interface Listener {
  process: Process
  host: string
  accept: (link: Link) => LinkHandler
}

export class SimNetwork {
  readonly #listeners = new Map<string, Listener>()
  readonly #cuts = new Set<string>()
  readonly ends = new Set<End>()
  /** Hosts without power: nobody there to refuse a connection */
  readonly down = new Set<string>()
  messages = 0

  constructor(
    readonly scheduler: Scheduler,
    readonly random: SimRandom,
    readonly verdict: Verdict,
    readonly shape: NetworkShape,
  ) {}

  /** The network as `process` on `host` sees it. */
  attach(process: Process, host: string): Network {
    return {
      connect: (address, handler) => this.#connect(process, host, address, handler),
      listen: (address, accept) => this.#listen(process, host, address, accept),
    }
  }

  delay(): number {
    const { random, shape } = this
    if (random.chance(shape.spikeChance)) return random.float() * shape.spike
    return 0.02 + random.exponential(shape.latency)
  }

  isCut(from: string, to: string): boolean {
    return this.#cuts.has(`${from}>${to}`)
  }

  /** Cuts the direction from -> to until `heal`. */
  cut(from: string, to: string): void {
    if (this.isCut(from, to)) return
    this.#cuts.add(`${from}>${to}`)
    for (const end of this.ends) if (end.host === from && end.peer?.host === to) this.#stall(end)
  }

  heal(from: string, to: string): void {
    this.#cuts.delete(`${from}>${to}`)
    for (const end of [...this.ends]) if (end.host === from && end.peer?.host === to) end.pump()
  }

  /** A direction that makes no progress for long: both ends give up, each in its own time. */
  #stall(sender: End): void {
    const wait = this.shape.timeout * (1 + this.random.float())
    this.scheduler.after(
      wait,
      () => {
        const other = sender.peer
        if (!other || !this.isCut(sender.host, other.host)) return
        sender.end('connection timed out', 0)
        other.end('connection timed out', this.random.float() * this.shape.timeout)
      },
      true,
    )
  }

  /** Ends one link as a broken middlebox would. */
  breakLink(end: End): void {
    const { peer } = end
    end.loseSuffix()
    end.end('connection reset', this.delay())
    if (!peer) return
    peer.loseSuffix()
    peer.end('connection reset', this.delay())
  }

  /** The process died; its kernel closes its connections. */
  processDied(process: Process): void {
    this.#forget(process)
    for (const end of [...this.ends]) {
      if (end.process !== process) continue
      if (this.random.chance(0.7)) end.loseSuffix()
      end.finish()
    }
  }

  /** The host is silent from now on. */
  hostDied(process: Process): void {
    this.#forget(process)
    for (const end of [...this.ends]) {
      if (end.process !== process) continue
      end.loseSuffix()
      end.vanish(this.shape.timeout * (1 + this.random.float()))
    }
  }

  #forget(process: Process): void {
    for (const [key, listener] of this.#listeners) if (listener.process === process) this.#listeners.delete(key)
  }

  listenerAt(host: string): boolean {
    for (const listener of this.#listeners.values()) if (listener.host === host) return true
    return false
  }

  #connect(process: Process, host: string, address: PeerAddress, handler: LinkHandler): Link {
    process.systemCall()
    const near = new End(this, process, host, handler)
    this.ends.add(near)
    const key = `${address.host}:${address.port}`
    this.scheduler.after(this.delay(), () => this.#arrive(near, key, address.host))
    return near
  }

  #arrive(near: End, key: string, to: string): void {
    if (near.closing || !near.process.alive) return
    if (this.down.has(to) || this.isCut(near.host, to) || this.isCut(to, near.host)) {
      near.end('connection timed out', this.shape.timeout)
      return
    }
    const listener = this.#listeners.get(key)
    if (!listener?.process.alive) {
      near.end('connection refused', this.delay())
      return
    }
    const far = new End(this, listener.process, listener.host, null)
    this.ends.add(far)
    far.peer = near
    near.peer = far
    listener.process.enter(() => {
      far.handler = listener.accept(far)
      far.pump()
    })
    near.pump()
  }

  #listen(
    process: Process,
    host: string,
    address: PeerAddress,
    accept: (link: Link) => LinkHandler,
  ): Promise<{ close(): void }> {
    process.systemCall()
    const key = `${address.host}:${address.port}`
    if (this.#listeners.has(key)) return Promise.reject(new Error(`address in use: ${key}`))
    const listener = { process, host, accept }
    this.#listeners.set(key, listener)
    return Promise.resolve({
      close: () => {
        if (this.#listeners.get(key) === listener) this.#listeners.delete(key)
      },
    })
  }
}

interface Message {
  bytes: Buffer
  arrives: number
}

/** One end of a link. `peer` is null until the connection stands. */
export class End implements Link {
  peer: End | null = null
  /** No more sends; `closed` is on its way */
  closing = false
  /** `closed` was called, or the process is gone */
  #gone = false
  /** Sent by this end, not yet taken by the other */
  readonly #outgoing: Message[] = []
  #lastArrival = 0
  #pumpAt = -1
  /** After the last outgoing message the other end is told that this one has closed */
  #finished = false
  /** The host at the other end has forgotten this connection */
  #peerVanished = false
  #backlog = 0

  constructor(
    readonly network: SimNetwork,
    readonly process: Process,
    readonly host: string,
    public handler: LinkHandler | null,
  ) {}

  get open(): boolean {
    return !this.closing
  }

  get backlog(): number {
    return this.#backlog
  }

  send(header: Uint8Array, payload: Uint8Array | null, offset: number, length: number): void {
    this.process.systemCall()
    if (header.length !== HEADER_BYTES) {
      this.network.verdict.report('bad message', `${this.process.name} sent a header of ${header.length} bytes`)
    }
    if (payload && offset + length > payload.length) {
      this.network.verdict.report('bad message', `${this.process.name} sent beyond the end of its buffer`)
    }
    if (this.closing) return
    if (this.#peerVanished && this.peer && this.network.listenerAt(this.peer.host)) {
      this.end('connection reset', this.network.delay())
    }
    const bytes = Buffer.allocUnsafe(HEADER_BYTES + length)
    bytes.set(header, 0)
    if (payload) bytes.set(payload.subarray(offset, offset + length), HEADER_BYTES)
    const { scheduler } = this.network
    this.#lastArrival = Math.max(this.#lastArrival, scheduler.now + this.network.delay())
    this.#outgoing.push({ bytes, arrives: this.#lastArrival })
    this.#backlog += bytes.length
    this.pump()
  }

  close(): void {
    this.process.touch()
    if (this.closing) return
    this.end('closed', 0)
    this.finish()
  }

  /** Hands over what has arrived, and comes back for the rest. */
  pump(): void {
    const { peer, network } = this
    if (!peer?.handler) return
    const { now } = network.scheduler
    if (network.isCut(this.host, peer.host)) return
    const next = this.#outgoing[0]
    if (!next) {
      if (this.#finished) peer.end('closed by peer', network.delay())
      return
    }
    if (next.arrives > now) {
      if (this.#pumpAt === next.arrives) return
      this.#pumpAt = next.arrives
      network.scheduler.after(next.arrives - now, () => {
        this.#pumpAt = -1
        this.#deliver()
      })
      return
    }
    this.#deliverSoon()
  }

  #deliverSoon(): void {
    if (this.#pumpAt >= 0) return
    this.#pumpAt = this.network.scheduler.now
    this.network.scheduler.after(0, () => {
      this.#pumpAt = -1
      this.#deliver()
    })
  }

  /** One read of the receiver's socket: everything that has arrived by now. */
  #deliver(): void {
    const { peer, network } = this
    if (!peer?.handler || network.isCut(this.host, peer.host)) return
    const { now } = network.scheduler
    let count = 0
    while (count < this.#outgoing.length && this.#outgoing[count].arrives <= now) count++
    for (const message of this.#outgoing.splice(0, count)) {
      this.#backlog -= message.bytes.length
      network.messages++
      peer.process.enter(() => peer.#receive(message.bytes))
    }
    this.pump()
  }

  #receive(bytes: Buffer): void {
    if (this.#gone || this.closing) return
    const hold = new BufferHold(bytes, this.network.verdict, this.process.name)
    this.handler!.message(this, bytes, 0, HEADER_BYTES, bytes.length - HEADER_BYTES, hold)
    hold.returned()
  }

  /** A random number of the messages under way, counted from the end, never arrives. */
  loseSuffix(): void {
    const kept = this.network.random.below(this.#outgoing.length + 1)
    for (const message of this.#outgoing.splice(kept)) this.#backlog -= message.bytes.length
  }

  /** `handler.closed` after `delay`; nothing is received or sent any more from then on. */
  end(reason: string, delay: number): void {
    if (this.#gone || (this.closing && delay > 0)) return
    if (delay === 0) this.closing = true
    this.network.scheduler.after(delay, () => {
      this.closing = true
      this.process.enter(() => {
        if (this.#gone) return
        this.#gone = true
        this.network.ends.delete(this)
        this.handler?.closed(this, reason)
      })
      if (!this.process.alive) this.network.ends.delete(this)
    })
  }

  /** The process at this end is gone or has closed: what was sent still goes, then the other end is told. */
  finish(): void {
    this.#finished = true
    this.closing = true
    if (!this.process.alive) {
      this.#gone = true
      this.network.ends.delete(this)
    }
    this.pump()
  }

  /** The host at this end lost power: nobody tells the other one. */
  vanish(peerTimeout: number): void {
    this.#gone = true
    this.closing = true
    this.network.ends.delete(this)
    if (!this.peer) return
    this.peer.#peerVanished = true
    this.peer.end('connection timed out', peerTimeout)
    this.pump()
  }
}

/** Poisons a receive buffer when its time is over, so that a late look is noticed. */
class BufferHold implements Hold {
  #references = 1

  constructor(
    readonly bytes: Buffer,
    readonly verdict: Verdict,
    readonly owner: string,
  ) {}

  retain(): void {
    if (this.#references === 0) this.verdict.report('hold', `${this.owner} retained a buffer after its release`)
    this.#references++
  }

  release(): void {
    if (this.#references === 0) this.verdict.report('hold', `${this.owner} released a buffer twice`)
    if (--this.#references === 0) this.bytes.fill(0xdb)
  }

  returned(): void {
    this.release()
  }
}
