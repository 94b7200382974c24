/**
 * The byte-stream connection under NBD, peers and control: a socket that parses messages where they were received and
 * sends everything that one turn produced with one system call.
 *
 * Receiving: the kernel reads into slabs that the messages are handed out of, uncopied. Only the beginning of a message
 * that did not fit is ever moved. Sending: small messages are gathered in a batch, written at the end of the turn by
 * fs.writeSync on the socket's (non-blocking) descriptor: half the cost of socket.write, whose request objects and
 * callbacks matter at 4 KiB. What the kernel does not take goes through socket.write until that has drained.
 */
import { writeSync, writevSync } from 'node:fs'
import type { Socket } from 'node:net'
import { type ConnectionOptions, TLSSocket, type Server as TlsServer, connect as tlsConnect } from 'node:tls'
import { assert } from '../assert.js'
import { SLAB_SIZE_MAX, type Slab, takeSlab } from './slab.js'

/** Longest message, header included. */
export const MESSAGE_MAX = SLAB_SIZE_MAX
/** Longest `reserve`. */
export const RESERVE_MAX = 128 << 10
/** From here on a payload is written from where it lies rather than copied into the batch. */
export const LARGE = 32 << 10

const RECEIVE_SIZE = 256 << 10
/** A slab grown for a large message is kept for the next one up to this size. */
const RECEIVE_KEEP = 2 << 20
/** With less room than this the next read starts in another slab. */
const RECEIVE_ROOM = 32 << 10
const BATCH_SIZE = 256 << 10
/** How long `end` waits for a peer that takes nothing of what was sent, and for one that does. */
const END_IDLE_MS_MAX = 5000
const END_MS_MAX = 60_000

export interface StreamHandler {
  /**
   * Length in bytes of the message that begins at bytes[start], as far as bytes[start, end) tell: 0 while they do not,
   * -1 when this is not the protocol, which closes the stream. At most MESSAGE_MAX.
   */
  messageLength(bytes: Buffer, start: number, end: number): number
  /**
   * One whole message at slab.bytes[start, end). Its bytes stay until slab.release() if slab.retain() was called before
   * returning, else only during the call.
   */
  message(slab: Slab, start: number, end: number): void
  /** Once, never from within a call into the stream; no message after it. `reason` is for the log. */
  closed(reason: string): void
  /** Some of the backlog has gone out; `backlog` says what is left. */
  drained?(): void
}

interface RawHandle {
  fd?: number
}

/** What is sent on streams that have ended goes here: their users need not look before each reply. */
const nowhere = takeSlab(BATCH_SIZE)

const unflushed: Stream[] = []

function flushAll(): void {
  // A flush calls nobody, so the list does not grow meanwhile.
  for (const stream of unflushed) stream.flush()
  unflushed.length = 0
}

export class Stream {
  handler: StreamHandler
  /** Where `reserve` gives room: fill it before anything else is sent, it moves. */
  batch: Slab = takeSlab(BATCH_SIZE)
  private batched = 0
  private scheduled = false
  /** Bytes handed to socket.write and not yet taken by the kernel. */
  private queued = 0

  private slab: Slab = takeSlab(RECEIVE_SIZE)
  private start = 0
  private filled = 0
  /** Length of the message that is incomplete at `start`; 0 unknown. */
  private wanted = 0
  /** Length of the last message if it was large: the next one is likely to be, too. */
  private lastLarge = 0
  private parsing = false
  private paused = false

  private socket: Socket
  /** -1: only socket.write reaches the peer (connecting, TLS). */
  private fd = -1
  private reason = ''
  private isOpen = true
  private ending = false
  private endTimer: NodeJS.Timeout | undefined

  /**
   * `makeSocket` gives the socket `receiveBuffer` and `received` as its onread option (stream-socket.ts), and
   * allowHalfOpen.
   */
  constructor(handler: StreamHandler, makeSocket: (stream: Stream) => Socket) {
    this.handler = handler
    this.socket = makeSocket(this)
    this.attach()
  }

  get open(): boolean {
    return this.isOpen
  }

  /** Bytes queued and not yet taken by the kernel. */
  get backlog(): number {
    return this.queued + this.batched
  }

  get encrypted(): boolean {
    return this.socket instanceof TLSSocket
  }

  /** For logs: the peer's address, or '' on a Unix socket. */
  get remote(): string {
    const { remoteAddress, remotePort } = this.socket
    return remoteAddress === undefined ? '' : `${remoteAddress}:${remotePort}`
  }

  /** The peer's IP address; '' on a Unix socket, and when the connection has ended. */
  get remoteHost(): string {
    return this.socket.remoteAddress ?? ''
  }

  // --- sending

  /**
   * `length` bytes (at most RESERVE_MAX) at the end of the outgoing batch, as an offset into `batch.bytes`, for the caller
   * to fill in place before any other call on this stream.
   */
  reserve(length: number): number {
    assert(length <= RESERVE_MAX, `a reservation is at most ${RESERVE_MAX} bytes`)
    if (this.batched + length > this.batch.size) this.flush()
    const offset = this.batched
    this.batched = offset + length
    if (!this.parsing && !this.scheduled) this.schedule()
    return offset
  }

  /**
   * Takes a reservation out of the batch that could not be filled at once: its slab is returned, and is the caller's to
   * release; what was batched before it is sent as usual. Only for the latest reservation.
   */
  detach(offset: number): Slab {
    const slab = this.batch
    this.batched = offset
    slab.retain()
    this.flush()
    if (this.batch === slab && this.isOpen) {
      slab.release()
      this.batch = takeSlab(BATCH_SIZE)
    }
    return slab
  }

  /** Takes the bytes over before it returns. */
  send(bytes: Uint8Array, offset: number, length: number): void {
    if (length < LARGE) {
      const at = this.reserve(length)
      this.batch.bytes.set(
        offset === 0 && length === bytes.length ? bytes : bytes.subarray(offset, offset + length),
        at,
      )
      return
    }
    const taken = this.writeThrough(bytes, offset, length)
    if (taken === length || !this.isOpen) return
    const rest = takeSlab(length - taken)
    rest.bytes.set(bytes.subarray(offset + taken, offset + length), 0)
    this.enqueue(rest, 0, length - taken)
  }

  /** Sends slab.bytes[start, end), which must not change until sent; takes over one hold of it. */
  sendSlab(slab: Slab, start: number, end: number): void {
    const length = end - start
    if (length < LARGE) {
      const at = this.reserve(length)
      slab.bytes.copy(this.batch.bytes, at, start, end)
      slab.release()
      return
    }
    const taken = this.writeThrough(slab.bytes, start, length)
    if (taken === length || !this.isOpen) slab.release()
    else this.enqueue(slab, start + taken, end)
  }

  /** Hands the batch to the kernel now. Done by itself at the end of the turn at the latest. */
  flush(): void {
    this.scheduled = false
    const length = this.batched
    if (length === 0) return
    this.batched = 0
    if (!this.isOpen) return
    const taken = this.writable() ? this.write(length) : 0
    if (taken === length || !this.isOpen) return
    const slab = this.batch
    this.batch = takeSlab(BATCH_SIZE)
    this.enqueue(slab, taken, length)
  }

  private schedule(): void {
    this.scheduled = true
    if (unflushed.push(this) === 1) setImmediate(flushAll)
  }

  /** Everything before was taken by the kernel, and there is a descriptor to write to. */
  private writable(): boolean {
    // The socket lets go of its handle the moment it closes the descriptor, whose number may then be another file's.
    if (this.queued > 0 || this.fd < 0) return false
    return (this.socket as unknown as { _handle: RawHandle | null })._handle !== null
  }

  private write(length: number): number {
    try {
      return writeSync(this.fd, this.batch.bytes, 0, length)
    } catch (error) {
      return this.writeFailed(error as NodeJS.ErrnoException)
    }
  }

  /** Batch and payload in one system call; how many bytes of the payload the kernel took. */
  private writeThrough(bytes: Uint8Array, offset: number, length: number): number {
    if (!this.isOpen) return 0
    const before = this.batched
    if (!this.writable()) {
      this.flush()
      return 0
    }
    let taken: number
    try {
      const payload = bytes.subarray(offset, offset + length)
      taken =
        before === 0
          ? writeSync(this.fd, payload)
          : writevSync(this.fd, [this.batch.bytes.subarray(0, before), payload])
    } catch (error) {
      taken = this.writeFailed(error as NodeJS.ErrnoException)
    }
    if (taken >= before) {
      this.batched = 0
      return taken - before
    }
    if (this.isOpen) {
      const slab = this.batch
      this.batch = takeSlab(BATCH_SIZE)
      this.batched = 0
      this.enqueue(slab, taken, before)
    }
    return 0
  }

  private writeFailed(error: NodeJS.ErrnoException): number {
    if (error.code === 'EAGAIN' || error.code === 'EINTR') return 0
    this.close(`write: ${error.code ?? error.message}`)
    return 0
  }

  /** Takes over one hold of the slab. */
  private enqueue(slab: Slab, start: number, end: number): void {
    const length = end - start
    this.queued += length
    this.socket.write(slab.bytes.subarray(start, end), () => {
      slab.release()
      this.queued -= length
      if (this.isOpen) this.handler.drained?.()
    })
  }

  // --- receiving

  /** No message is delivered, and soon nothing is read, until `resume`. */
  pause(): void {
    if (this.paused) return
    this.paused = true
    this.socket.pause()
  }

  /** Messages already received are delivered before it returns, unless called from within a message. */
  resume(): void {
    if (!this.paused) return
    this.paused = false
    if (!this.isOpen) return
    this.parse()
    if (!this.paused && this.isOpen) this.socket.resume()
  }

  /** Where the kernel reads to next: never empty. For the socket's onread option. */
  readonly receiveBuffer = (): Uint8Array => {
    const have = this.filled - this.start
    if (have === 0) {
      const room = this.slab.size - this.filled
      const unfit = !this.slab.unshared && room < Math.max(RECEIVE_ROOM, this.lastLarge)
      if (unfit || this.slab.size > RECEIVE_KEEP) {
        this.replaceSlab(Math.min(this.slab.size, RECEIVE_KEEP))
      } else if (this.slab.unshared) {
        this.start = 0
        this.filled = 0
      }
    } else {
      const need = Math.max(this.wanted, have + RECEIVE_ROOM)
      if (this.start + need > this.slab.size) this.replaceSlab(Math.max(need, RECEIVE_SIZE))
    }
    // A large message is read to its end and no further, so that the next one begins in a slab of its own.
    const limit = this.wanted >= LARGE ? this.start + this.wanted : this.slab.size
    if (this.filled === 0 && limit === this.slab.size) return this.slab.bytes
    return new Uint8Array(this.slab.bytes.buffer, this.filled, limit - this.filled)
  }

  /** `length` bytes have arrived in the latest receiveBuffer. For the socket's onread option. */
  readonly received = (length: number): boolean => {
    this.filled += length
    this.parse()
    return !this.paused
  }

  /** Moves the incomplete message to the front of a slab of at least `size` bytes. */
  private replaceSlab(size: number): void {
    const { slab, start, filled } = this
    this.start = 0
    this.filled = filled - start
    if (slab.unshared && slab.size >= size && slab.size <= RECEIVE_KEEP) {
      slab.bytes.copyWithin(0, start, filled)
      return
    }
    this.slab = takeSlab(size)
    slab.bytes.copy(this.slab.bytes, 0, start, filled)
    slab.release()
  }

  private parse(): void {
    if (this.parsing) return
    this.parsing = true
    this.wanted = 0
    while (!this.paused && this.isOpen && !this.ending) {
      const have = this.filled - this.start
      if (have === 0) break
      const { slab, start } = this
      const length = this.handler.messageLength(slab.bytes, start, this.filled)
      assert(length <= MESSAGE_MAX, 'a protocol bounds its messages')
      if (length <= 0 || length > have) {
        if (length < 0) this.close('not the protocol')
        this.wanted = length
        break
      }
      this.start = start + length
      this.lastLarge = length >= LARGE ? length : 0
      this.handler.message(slab, start, start + length)
    }
    if (this.ending) this.dropReceived()
    this.parsing = false
    this.flush()
  }

  /** What comes after the end is read and forgotten, and the message that was not whole with it. */
  private dropReceived(): void {
    this.start = this.filled
    this.wanted = 0
  }

  // --- life

  /** Ends it now: what the kernel has not taken is lost. `closed` is called later in this turn. */
  close(reason: string): void {
    if (!this.isOpen) return
    this.isOpen = false
    if (this.reason === '') this.reason = reason
    this.fd = -1
    this.socket.destroy()
  }

  /**
   * Sends what is queued, then the end of the stream. No more messages are taken. It closes when the peer does: closing
   * first, with bytes unread, would make TCP throw away what was sent. A peer that takes nothing for 5 s, or is not done in a
   * minute, is cut off.
   */
  end(reason: string): void {
    if (!this.isOpen || this.ending) return
    this.ending = true
    this.reason = reason
    this.dropReceived()
    this.flush()
    if (!this.isOpen) return
    this.socket.end()
    this.socket.setTimeout(END_IDLE_MS_MAX, () => this.close(reason))
    this.endTimer = setTimeout(() => this.close(reason), END_MS_MAX)
    if (this.paused) this.socket.resume()
    this.paused = false
  }

  /**
   * From here on the peer speaks TLS, as `server` demands; it serves this stream alone. To be called within `message`,
   * when the peer may not have sent anything behind it: such bytes would pass for encrypted ones, so they close the
   * stream.
   */
  startTls(server: TlsServer): void {
    if (!this.endsPlain()) return
    server.once('secureConnection', (socket) => {
      this.socket = socket
      this.attach()
    })
    server.once('tlsClientError', (error) => this.close(`TLS: ${error.message}`))
    server.emit('connection', this.socket)
  }

  /** The other side of startTls, under its conditions. What is sent from here on is encrypted. */
  startTlsAsClient(options: ConnectionOptions): void {
    if (!this.endsPlain()) return
    this.socket = tlsConnect({ ...options, socket: this.socket })
    this.attach()
  }

  private endsPlain(): boolean {
    assert(!this.encrypted, 'TLS starts once')
    if (this.start !== this.filled) {
      this.close('plain bytes after the request for TLS')
      return false
    }
    this.flush()
    this.fd = -1
    return this.isOpen
  }

  private attach(): void {
    const { socket } = this
    if (socket instanceof TLSSocket) {
      socket.on('data', (chunk: Buffer) => this.decrypted(chunk))
    } else if (socket.connecting) {
      socket.once('connect', () => this.connected())
    } else {
      this.connected()
    }
    socket.on('error', (error: NodeJS.ErrnoException) => {
      if (this.reason === '') this.reason = error.code ?? error.message
    })
    socket.on('end', () => {
      if (socket === this.socket) this.close('the peer closed')
    })
    // Under TLS the plain socket is no longer ours to watch.
    socket.on('close', () => {
      if (socket === this.socket) this.ended()
    })
  }

  private ended(): void {
    this.isOpen = false
    this.fd = -1
    clearTimeout(this.endTimer)
    this.slab.release()
    this.batch.release()
    this.batch = nowhere
    this.batched = 0
    this.handler.closed(this.reason === '' ? 'closed' : this.reason)
  }

  private decrypted(chunk: Buffer): void {
    for (let done = 0; done < chunk.length && this.isOpen; ) {
      const room = this.receiveBuffer()
      const length = Math.min(room.length, chunk.length - done)
      room.set(chunk.subarray(done, done + length))
      done += length
      this.received(length)
    }
  }

  private connected(): void {
    const handle = (this.socket as unknown as { _handle: RawHandle | null })._handle
    const fd = handle?.fd
    if (fd !== undefined && fd >= 0) this.fd = fd
  }
}
