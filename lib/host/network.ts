/** The real Network: streams that speak 48-byte headers, TCP between hosts, a Unix socket between daemons of one host. */
import { existsSync } from 'node:fs'
import { HEADER_LENGTH, MAX_PAYLOAD, requestPayloadLength, u32 } from '../protocol/header.js'
import { isLoopback } from './address.js'
import { type Access, Gates } from './gate.js'
import type { Link, LinkHandler, Log, Network, PeerAddress } from './interfaces.js'
import type { Slab } from './slab.js'
import { LARGE, type Stream, type StreamHandler } from './stream.js'
import { connectStream, listenStream, type StreamListener } from './stream-socket.js'

export class RealNetwork implements Network {
  private readonly gates: Gates | null

  /**
   * @param host this one's address: the same socket path may exist on every host. '': no peer is near
   * @param access the cluster's key; null: whoever can connect may
   */
  constructor(
    private readonly log: Log,
    private readonly host = '',
    access: Access | null = null,
  ) {
    this.gates = access === null ? null : new Gates(access, log)
  }

  connect(address: PeerAddress, handler: LinkHandler): Link {
    const { host, port, socket, id = '' } = address
    const link = new StreamLink(handler, true)
    const near = socket !== undefined && host === this.host && existsSync(socket)
    const stream = connectStream(near ? { path: socket } : { host, port }, link)
    if (this.gates === null) link.attach(stream)
    else this.gates.connecting(link, stream, handler, id, near ? socket : `${host}:${port}`, near)
    return link
  }

  /** Listens on TCP and, when named, on the Unix socket. SheepError busy, system. */
  async listen(address: PeerAddress, accept: (link: Link) => LinkHandler): Promise<{ close(): void }> {
    const { gates } = this
    const accepted =
      (near: (stream: Stream) => boolean) =>
      (stream: Stream): StreamHandler => {
        const link = new StreamLink(null, false)
        if (gates !== null) {
          gates.accepted(link, stream, near(stream), accept)
          return link
        }
        link.attach(stream)
        link.handler = accept(link)
        return link
      }
    const listeners: StreamListener[] = []
    try {
      if (address.socket !== undefined) {
        listeners.push(
          await listenStream(
            { path: address.socket, mode: 0o660 },
            accepted(() => true),
            this.log,
          ),
        )
      }
      // By the address that the kernel names: one that has none (it has gone already) is not of this host.
      const fromHere = accepted((stream) => isLoopback(stream.remoteHost))
      listeners.push(await listenStream({ host: address.host, port: address.port }, fromHere, this.log))
    } catch (error) {
      for (const listener of listeners) listener.close()
      throw error
    }
    return {
      close: () => {
        for (const listener of listeners) listener.close()
      },
    }
  }
}

/**
 * With more answers than this waiting for the other side to read them, none of its requests is taken until half of them are
 * gone. Only what others ask of us: if both sides of a link stopped reading because the other did not read, neither would go on.
 */
const UNREAD_MAX = 8 << 20

export class StreamLink implements Link, StreamHandler {
  /** Node id that the other end has proven */
  provenId: string | undefined
  /** Longest payload that is taken */
  payloadMax = MAX_PAYLOAD
  private stream: Stream | null = null
  /** Where messages go; null while nothing may go out */
  private outlet: Stream | null = null
  /** What waits for that; bounded by those who send, as what waits for a connection is */
  private kept: Buffer[] = []
  /** The other side does not read what it asked for */
  private unread = false
  private held = false

  constructor(
    public handler: LinkHandler | null,
    /** We asked: what comes are responses, which carry data_length bytes whatever their flags */
    private readonly asking: boolean,
  ) {}

  /** @param open false: messages wait for letOut, or proven */
  attach(stream: Stream, open = true): void {
    this.stream = stream
    if (open) this.outlet = stream
  }

  letOut(): void {
    const stream = this.stream as Stream
    this.outlet = stream
    this.payloadMax = MAX_PAYLOAD
    for (const message of this.kept) stream.send(message, 0, message.length)
    this.kept = []
  }

  /** The other end is node `id` ('' none), for sure: what waited goes out, and what comes goes to this handler. */
  proven(handler: LinkHandler | ((link: Link) => LinkHandler), id: string): void {
    this.provenId = id
    this.letOut()
    this.handler = typeof handler === 'function' ? handler(this) : handler
  }

  get open(): boolean {
    return this.stream?.open === true
  }

  get backlog(): number {
    return this.stream?.backlog ?? 0
  }

  get encrypted(): boolean {
    return this.stream?.encrypted === true
  }

  /** For logs */
  get remote(): string {
    return this.stream?.remote ?? ''
  }

  send(header: Uint8Array, payload: Uint8Array | null, offset: number, length: number): void {
    const stream = this.outlet
    if (stream === null) {
      this.keep(header, payload, offset, length)
      return
    }
    if (!stream.open) return
    if (payload === null || length === 0) {
      stream.send(header, 0, HEADER_LENGTH)
    } else if (length < LARGE) {
      const at = stream.reserve(HEADER_LENGTH + length)
      const { bytes } = stream.batch
      bytes.set(header, at)
      if (payload instanceof Buffer) payload.copy(bytes, at + HEADER_LENGTH, offset, offset + length)
      else bytes.set(payload.subarray(offset, offset + length), at + HEADER_LENGTH)
    } else {
      stream.send(header, 0, HEADER_LENGTH)
      stream.send(payload, offset, length)
    }
  }

  private keep(header: Uint8Array, payload: Uint8Array | null, offset: number, length: number): void {
    if (!this.open) return
    this.kept.push(Buffer.from(header.subarray(0, HEADER_LENGTH)))
    if (payload !== null && length > 0) this.kept.push(Buffer.from(payload.subarray(offset, offset + length)))
  }

  close(): void {
    this.stream?.close('closed by this daemon')
  }

  messageLength(bytes: Buffer, start: number, end: number): number {
    if (end - start < HEADER_LENGTH) return 0
    const payload = this.asking ? u32(bytes, start + 12) : requestPayloadLength(bytes, start)
    return payload > this.payloadMax ? -1 : HEADER_LENGTH + payload
  }

  message(slab: Slab, start: number, end: number): void {
    const payload = start + HEADER_LENGTH
    this.handler?.message(this, slab.bytes, start, payload, end - payload, slab)
    if (this.asking || this.backlog <= UNREAD_MAX) return
    this.unread = true
    this.stream?.pause()
  }

  drained(): void {
    if (!this.unread || this.backlog > UNREAD_MAX / 2) return
    this.unread = false
    if (!this.held) this.stream?.resume()
  }

  pause(): void {
    this.held = true
    this.stream?.pause()
  }

  resume(): void {
    this.held = false
    if (!this.unread) this.stream?.resume()
  }

  closed(reason: string): void {
    this.kept = []
    this.handler?.closed(this, reason)
  }
}
