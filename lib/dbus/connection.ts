/**
 * One connection to a bus: the socket, who we are (EXTERNAL: the kernel tells our user id), and whole messages out of its bytes.
 * Bounded on both sides: a message that is too large is not kept, and while the bus does not take what is sent nothing more is read.
 */
import { connect, type Socket } from 'node:net'
import { decode, frameBytes, type Incoming } from './codec.js'

/** Names, sizes and what polkit says are far below this. */
const MESSAGE_BYTES_MAX = 256 << 10
const HEADER_BYTES_MAX = 16 << 10
/** While so much waits for the bus no more calls are taken. */
const UNSENT_PAUSE_BYTES = 1 << 20
/** A bus that lets more than this wait is given up. */
const UNSENT_BYTES_MAX = 64 << 20
const FIXED_BYTES = 16
const LINE_BYTES_MAX = 1024

export interface ConnectionEvents {
  /** Now messages may be sent. */
  ready(): void
  message(message: Incoming): void
  /** Once, and nothing after it */
  closed(reason: string): void
}

export class Connection {
  private readonly socket: Socket
  private pending: Buffer = Buffer.alloc(0)
  private phase: 'line' | 'messages' | 'closed' = 'line'
  /** Bytes of a message that is too large, still to come */
  private skip = 0
  private paused = false

  /** @param path a socket's path; an abstract one begins with a NUL */
  constructor(
    path: string,
    private readonly events: ConnectionEvents,
  ) {
    this.socket = connect(path)
    this.socket.on('connect', () => {
      const uid = Buffer.from(String(process.geteuid?.() ?? 0)).toString('hex')
      this.socket.write(`\0AUTH EXTERNAL ${uid}\r\n`)
    })
    this.socket.on('data', (bytes) => this.received(bytes))
    this.socket.on('drain', () => this.drained())
    this.socket.on('error', (error) => this.close(error.message))
    this.socket.on('close', () => this.close('the bus closed the connection'))
  }

  send(bytes: Buffer): void {
    if (this.phase !== 'messages') return
    this.socket.write(bytes)
    const { writableLength } = this.socket
    if (writableLength > UNSENT_BYTES_MAX) this.close(`the bus lets ${writableLength} bytes wait`)
    else if (writableLength > UNSENT_PAUSE_BYTES && !this.paused) {
      this.paused = true
      this.socket.pause()
    }
  }

  close(reason: string): void {
    if (this.phase === 'closed') return
    this.phase = 'closed'
    this.pending = Buffer.alloc(0)
    this.socket.destroy()
    this.events.closed(reason)
  }

  private drained(): void {
    if (!this.paused || this.phase === 'closed') return
    this.paused = false
    this.take()
    if (!this.paused) this.socket.resume()
  }

  private received(bytes: Buffer): void {
    if (this.phase === 'closed') return
    const skipped = Math.min(this.skip, bytes.length)
    this.skip -= skipped
    const rest = bytes.subarray(skipped)
    this.pending = this.pending.length === 0 ? rest : Buffer.concat([this.pending, rest])
    if (this.phase === 'line') this.readLine()
    if (this.phase === 'messages') this.take()
  }

  private readLine(): void {
    const end = this.pending.indexOf('\r\n')
    if (end < 0) {
      if (this.pending.length > LINE_BYTES_MAX) this.close('this is no D-Bus')
      return
    }
    const line = this.pending.toString('latin1', 0, end)
    this.pending = this.pending.subarray(end + 2)
    if (!line.startsWith('OK ')) {
      this.close(`the bus does not let us in: ${JSON.stringify(line)}`)
      return
    }
    this.socket.write('BEGIN\r\n')
    this.phase = 'messages'
    this.events.ready()
  }

  /** What is there of whole messages, until the bus has to take something first. */
  private take(): void {
    while (!this.paused && this.phase === 'messages' && this.pending.length >= FIXED_BYTES) {
      const { total, header } = frameBytes(this.pending)
      const large = total > MESSAGE_BYTES_MAX
      // Who sends a path of 16 KiB gets no answer.
      const wanted = !large ? total : header > HEADER_BYTES_MAX ? 0 : header
      if (this.pending.length < wanted) return
      const message = wanted === 0 ? null : this.decoded(this.pending.subarray(0, wanted), large ? total : 0)
      this.skip = Math.max(0, total - this.pending.length)
      this.pending = this.pending.subarray(Math.min(total, this.pending.length))
      if (message !== null) this.events.message(message)
    }
  }

  private decoded(bytes: Buffer, largeBytes: number): Incoming | null {
    const unread =
      largeBytes === 0 ? '' : `a message has at most ${MESSAGE_BYTES_MAX} bytes here, this one ${largeBytes}`
    try {
      return decode(bytes, unread)
    } catch {
      // The bus lets only well-formed headers through: this is one that dbus-next does not know, and nobody can be answered.
      return null
    }
  }
}
