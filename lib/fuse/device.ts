/**
 * /dev/fuse: takes requests until there are none, and waits for SIGIO. The kernel hands out one request a read and wants room for the
 * largest, so small ones are read one behind the other into one slab, which those who still need their bytes hold.
 */
import { MessageDevice } from '../host/native.js'
import { type Slab, takeSlab } from '../host/slab.js'
import { EAGAIN, EINTR, ENOENT, REQUEST_MAX } from './protocol.js'

const SLAB_BYTES = 4 << 20
/** Requests taken before others have a turn */
const BATCH_MAX = 64
const ENODEV = 19

export interface DeviceHandler {
  /** One request, `length` bytes from `start`; whoever needs it later retains the slab. */
  message(slab: Slab, start: number, length: number): void
  /** False: no more for now; then it calls `resume` */
  readonly ready: boolean
  /** Unmounted, or the connection was aborted. Nothing more comes */
  ended(errno: number): void
}

export class FuseDevice {
  private readonly device: MessageDevice
  private slab: Slab
  private at = 0
  private closed = false
  private scheduled = false
  private readonly wake = (): void => this.drain()

  /** SheepError system. The descriptor stays the caller's. */
  constructor(
    readonly fd: number,
    private readonly handler: DeviceHandler,
  ) {
    this.slab = takeSlab(SLAB_BYTES)
    // Before the device is told to send it: it ends a process that does not expect it.
    process.on('SIGIO', this.wake)
    this.device = new MessageDevice(fd)
    this.resume()
  }

  /** A whole reply or notification. 0, or a negative errno: -ENOENT nobody waits for it any more */
  send(bytes: Uint8Array, offset: number, length: number): number {
    return Math.min(0, this.device.write(bytes, offset, length))
  }

  resume(): void {
    if (this.scheduled || this.closed) return
    this.scheduled = true
    setImmediate(() => {
      this.scheduled = false
      this.drain()
    })
  }

  /** Takes no more requests; the kernel keeps them. */
  close(): void {
    if (this.closed) return
    this.closed = true
    // A listener stays: a signal may be on its way.
    process.on('SIGIO', ignore)
    process.off('SIGIO', this.wake)
    this.slab.release()
  }

  private drain(): void {
    for (let i = 0; !this.closed && this.handler.ready; i++) {
      if (i === BATCH_MAX) {
        this.resume()
        return
      }
      this.makeRoom()
      const got = this.device.read(this.slab.bytes, this.at, REQUEST_MAX)
      if (got === -EAGAIN) return
      // Interrupted, or the request was taken back meanwhile.
      if (got === -EINTR || got === -ENOENT) continue
      if (got < 0) {
        this.close()
        this.handler.ended(-got)
        return
      }
      const start = this.at
      this.at += (got + 7) & ~7
      this.handler.message(this.slab, start, got)
    }
  }

  private makeRoom(): void {
    if (this.at + REQUEST_MAX <= this.slab.size) return
    this.at = 0
    if (this.slab.unshared) return
    this.slab.release()
    this.slab = takeSlab(SLAB_BYTES)
  }
}

export const UNMOUNTED = ENODEV

function ignore(): void {}
