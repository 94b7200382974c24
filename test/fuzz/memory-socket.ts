/** A socket without a kernel, and a conversation over it: what is sent arrives in the pieces that the fuzzer chose. */
import { EventEmitter } from 'node:events'
import type { Socket } from 'node:net'
import { Stream, type StreamHandler } from '../../lib/host/stream.js'
import type { SimRandom } from '../simulation/random.js'
import { turn, turnsUntil } from './harness.js'

/** What one connection may make the daemon keep for a client that reads nothing: replies queued, and some in flight. */
const UNREAD_BYTES_MAX = 100 << 20

const nobody: StreamHandler = { messageLength: () => 0, message: () => {}, closed: () => {} }

export class MemorySocket extends EventEmitter {
  readonly connecting = false
  readonly _handle = {}
  readonly sent: Buffer[] = []
  sentBytes = 0
  unreadBytes = 0
  paused = false
  closed = false
  /** Otherwise the other side never reads, and writes are never taken */
  reads = true
  keeps = false
  private readonly untaken: (() => void)[] = []

  write(bytes: Buffer, taken: () => void): void {
    this.sentBytes += bytes.length
    if (this.keeps) this.sent.push(Buffer.from(bytes))
    if (this.reads) {
      taken()
      return
    }
    this.unreadBytes += bytes.length
    this.untaken.push(taken)
    if (this.unreadBytes > UNREAD_BYTES_MAX)
      throw new Error(`${this.unreadBytes} bytes wait for a client that reads nothing`)
  }

  end(): void {
    setImmediate(() => this.emit('end'))
  }

  /** As a real socket: the callbacks of what was not written are called, with an error. */
  destroy(): void {
    if (this.closed) return
    this.closed = true
    process.nextTick(() => {
      for (const taken of this.untaken.splice(0)) taken()
      this.emit('close')
    })
  }

  setTimeout(): void {}
  pause(): void {
    this.paused = true
  }
  resume(): void {
    this.paused = false
  }
}

export class Conversation {
  readonly socket = new MemorySocket()
  readonly stream: Stream

  constructor(handler: (stream: Stream) => StreamHandler) {
    this.stream = new Stream(nobody, () => this.socket as unknown as Socket)
    this.stream.handler = handler(this.stream)
  }

  /** The pieces in turn, while the stream takes them. `between` is called before each. */
  async say(pieces: readonly Buffer[], random: SimRandom, between?: () => void): Promise<void> {
    this.socket.reads = !random.chance(0.03)
    const hurried = random.chance(0.5)
    for (const piece of pieces) {
      between?.()
      for (let at = 0; at < piece.length && this.stream.open; ) {
        if (this.socket.paused) {
          // A client that reads nothing waits for ever; it hangs up.
          if (!this.socket.reads) return
          await turnsUntil(() => !this.socket.paused || !this.stream.open, 'the stream stays paused')
          if (!this.stream.open) return
        }
        const room = this.stream.receiveBuffer()
        const length = Math.min(room.length, piece.length - at)
        room.set(piece.subarray(at, at + length))
        this.stream.received(length)
        at += length
        if (!hurried) await turn()
      }
    }
    if (random.chance(0.5)) await turn()
  }

  hangUp(): void {
    if (!this.socket.closed) this.socket.emit('end')
  }
}
