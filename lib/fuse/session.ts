/**
 * The conversation with the kernel: requests are dispatched as they come and answered in any order. Reads and writes go to the file
 * without a copy or a promise; the rest are promises of a reply's bytes.
 *
 * A request that a process waits for and that somebody interrupted is answered EINTR once it has waited for INTERRUPTED_MS: programs do not
 * expect that of a disk, so not at once; and nobody shall wait for ever in a cluster without quorum. The work itself goes on.
 */
import { asSheepError, SheepError } from '../errors.js'
import type { Clock, Completion, Log, Timer } from '../host/interfaces.js'
import { type Slab, takeSlab } from '../host/slab.js'
import type { OpenFile } from './open-file.js'
import * as fuse from './protocol.js'

/** Requests taken at once; the kernel keeps the others. */
export const IN_FLIGHT_MAX = 1024
/** Bytes of the reads and writes among them */
export const IN_FLIGHT_BYTES_MAX = 128 << 20
export const INTERRUPTED_MS = 10_000
/** Reads and writes that the kernel sends without a process that waits for each */
const BACKGROUND = 64
const POOL_MAX = 256

const WANTED: readonly number[] = [
  fuse.INIT_ASYNC_READ,
  fuse.INIT_ATOMIC_O_TRUNC,
  fuse.INIT_BIG_WRITES,
  fuse.INIT_DO_READDIRPLUS,
  fuse.INIT_READDIRPLUS_AUTO,
  fuse.INIT_ASYNC_DIO,
  fuse.INIT_PARALLEL_DIROPS,
  fuse.INIT_MAX_PAGES,
  fuse.INIT_EXPLICIT_INVAL_DATA,
  fuse.INIT_HANDLE_KILLPRIV_V2,
  fuse.INIT_INIT_EXT,
  fuse.INIT_DIRECT_IO_ALLOW_MMAP,
  fuse.INIT_HAS_RESEND,
]

/** One request's words, for those who are no read or write. */
export interface Call {
  opcode: number
  node: number
  bytes: Buffer
  /** Behind the header */
  at: number
  end: number
  caller: fuse.Caller
  /** What the kernel calls the request; the same when it asks again after a restart */
  unique: string
  /** The process that had it before may have done it already */
  again: boolean
}

export interface FileCalls {
  /** For a READ or WRITE: null when there is no such handle, or it is not for that */
  file(handle: number, node: number, writes: boolean): OpenFile | null
  /** The reply's body. SheepError, FuseError */
  call(call: Call): Promise<Buffer>
  /** What was negotiated: to be remembered for the next process */
  initialized(init: fuse.Init): void
}

/** A refusal that is no user's concern in words. */
export class FuseError extends Error {
  override readonly name = 'FuseError'
  constructor(readonly errno: number) {
    super(`errno ${errno}`)
  }
}

export interface Channel {
  send(bytes: Uint8Array, offset: number, length: number): number
  resume(): void
}

class Transfer implements Completion {
  uniqueLow = 0
  uniqueHigh = 0
  slab: Slab | null = null
  length = 0
  writes = false
  answered = false
  timer: Timer | null = null
  file: OpenFile | null = null
  /** Where the bytes are, in the slab and in the file */
  data = 0
  offset = 0
  /** Place among those that run */
  slot = 0

  constructor(private readonly session: Session) {}

  /** To the file, once more if need be. */
  submit(): void {
    const { bytes } = this.slab as Slab
    const file = this.file as OpenFile
    if (this.writes) file.write(bytes, this.data, this.length, this.offset, this)
    else file.read(bytes, this.data, this.length, this.offset, this)
  }

  complete(result: number): void {
    this.session.transferred(this, result)
  }
}

export class Session {
  requests = 0
  inFlight = 0
  bytesRead = 0
  bytesWritten = 0
  /** Set by whoever opened the device */
  channel: Channel | null = null
  private inFlightBytes = 0
  private waiting = false
  private stopped = false
  private readonly pool: Transfer[] = []
  private readonly running = new Map<string, { interrupt(): void }>()
  private readonly transfers: Transfer[] = []
  private readonly reply = Buffer.alloc(fuse.OUT_HEADER + 8)
  private idleWaiters: (() => void)[] = []

  constructor(
    private readonly calls: FileCalls,
    private readonly clock: Clock,
    private readonly log: Log,
  ) {}

  get ready(): boolean {
    const ready = this.inFlight < IN_FLIGHT_MAX && this.inFlightBytes < IN_FLIGHT_BYTES_MAX
    if (!ready) this.waiting = true
    return ready
  }

  /** From now on nothing is answered: what is asked is left to the next process. */
  stop(): void {
    this.stopped = true
  }

  /** Resolves when all that was taken is answered. */
  idle(): Promise<void> {
    if (this.inFlight === 0) return Promise.resolve()
    return new Promise((resolve) => this.idleWaiters.push(resolve))
  }

  message(slab: Slab, start: number, length: number): void {
    const { bytes } = slab
    if (length < fuse.IN_HEADER || bytes.readUInt32LE(start) !== length) {
      this.log('error', 'a FUSE request without a proper header is dropped', { length })
      return
    }
    const opcode = bytes.readUInt32LE(start + 4)
    const low = bytes.readUInt32LE(start + 8)
    const high = bytes.readUInt32LE(start + 12)
    const at = start + fuse.IN_HEADER
    const end = start + length
    if (!fuse.isWhole(opcode, end - at)) {
      this.answer(low, high, -fuse.EINVAL)
      return
    }
    this.requests++
    switch (opcode) {
      case fuse.READ:
        this.read(bytes, at, start, low, high)
        break
      case fuse.WRITE:
        this.write(slab, at, end, start, low, high)
        break
      case fuse.FORGET:
      case fuse.BATCH_FORGET:
        // Node ids are computed, not counted: there is nothing to forget.
        break
      case fuse.INTERRUPT:
        this.interrupt(keyOf(bytes.readUInt32LE(at), bytes.readUInt32LE(at + 4)))
        break
      case fuse.INIT:
        this.init(bytes, at, end, low, high)
        break
      case fuse.DESTROY:
        this.answer(low, high, 0)
        break
      default:
        this.other(opcode, bytes, start, at, end, low, high)
    }
  }

  // --- data

  private read(bytes: Buffer, at: number, start: number, low: number, high: number): void {
    const offset = fuse.u64(bytes, at + 8)
    const length = bytes.readUInt32LE(at + 16)
    const file = this.calls.file(fuse.u64(bytes, at), fuse.u64(bytes, start + 16), false)
    if (file === null || length > fuse.PAYLOAD_MAX) {
      this.answer(low, high, file === null ? -fuse.EBADF : -fuse.EINVAL)
      return
    }
    this.begin(low, high, takeSlab(fuse.OUT_HEADER + length), fuse.OUT_HEADER, length, offset, file, false)
  }

  private write(slab: Slab, at: number, end: number, start: number, low: number, high: number): void {
    const { bytes } = slab
    const offset = fuse.u64(bytes, at + 8)
    const length = bytes.readUInt32LE(at + 16)
    const data = at + fuse.WRITE_IN
    const file = this.calls.file(fuse.u64(bytes, at), fuse.u64(bytes, start + 16), true)
    if (file === null || length !== end - data) {
      this.answer(low, high, file === null ? -fuse.EBADF : -fuse.EINVAL)
      return
    }
    slab.retain()
    this.begin(low, high, slab, data, length, offset, file, true)
  }

  private begin(
    low: number,
    high: number,
    slab: Slab,
    data: number,
    length: number,
    offset: number,
    file: OpenFile,
    writes: boolean,
  ): void {
    const transfer = this.pool.pop() ?? new Transfer(this)
    transfer.uniqueLow = low
    transfer.uniqueHigh = high
    transfer.slab = slab
    transfer.data = data
    transfer.length = length
    transfer.offset = offset
    transfer.file = file
    transfer.writes = writes
    transfer.answered = false
    transfer.slot = this.transfers.length
    this.transfers.push(transfer)
    this.inFlight++
    this.inFlightBytes += length
    transfer.submit()
  }

  /** A transfer's end. `result`: bytes, or a negative errno. */
  transferred(transfer: Transfer, result: number): void {
    const { uniqueLow: low, uniqueHigh: high, writes } = transfer
    const slab = transfer.slab as Slab
    if (result === -fuse.ESHUTDOWN && !this.stopped) {
      this.retry(transfer)
      return
    }
    if (!transfer.answered) {
      if (result < 0) this.answer(low, high, result)
      else if (writes) {
        this.bytesWritten += result
        this.answerWritten(low, high, result)
      } else {
        this.bytesRead += result
        this.put(slab.bytes, fuse.OUT_HEADER + result, 0, low, high)
        this.send(slab.bytes, fuse.OUT_HEADER + result)
      }
    }
    slab.release()
    transfer.slab = null
    transfer.timer?.cancel()
    transfer.timer = null
    transfer.file = null
    const last = this.transfers.pop() as Transfer
    if (last !== transfer) {
      this.transfers[transfer.slot] = last
      last.slot = transfer.slot
    }
    this.inFlightBytes -= transfer.length
    if (this.pool.length < POOL_MAX) this.pool.push(transfer)
    this.ended()
  }

  /** The file has no volume now: it was never opened by this process, or was taken away. */
  private retry(transfer: Transfer): void {
    const file = transfer.file as OpenFile
    file.prepare(transfer.writes).then(
      (errno) => {
        if (errno === 0) transfer.submit()
        else if (!this.stopped) this.transferred(transfer, -errno)
      },
      (error: unknown) => {
        throw error
      },
    )
  }

  private answerWritten(low: number, high: number, length: number): void {
    this.put(this.reply, fuse.OUT_HEADER + 8, 0, low, high)
    this.reply.writeUInt32LE(length, fuse.OUT_HEADER)
    this.reply.writeUInt32LE(0, fuse.OUT_HEADER + 4)
    this.send(this.reply, fuse.OUT_HEADER + 8)
  }

  // --- the rest

  private init(bytes: Buffer, at: number, end: number, low: number, high: number): void {
    const asked = fuse.decodeInit(bytes, at, end)
    if (asked.major !== fuse.MAJOR || asked.minor < fuse.MINOR_MIN) {
      this.log('error', `the kernel speaks FUSE ${asked.major}.${asked.minor}; 7.${fuse.MINOR_MIN} is needed`)
      this.answer(low, high, -71)
      return
    }
    const flags = new Set(WANTED.filter((bit) => asked.flags.has(bit)))
    const agreed = { minor: asked.minor, readahead: asked.readahead, flags }
    this.calls.initialized(agreed)
    this.answerBytes(low, high, fuse.initOut(agreed, BACKGROUND))
  }

  private other(
    opcode: number,
    bytes: Buffer,
    start: number,
    at: number,
    end: number,
    low: number,
    high: number,
  ): void {
    // Small, and waits for the cluster: not worth holding a slab of megabytes.
    const own = Buffer.from(bytes.subarray(at, end))
    const key = keyOf(low, high & 0x7fffffff)
    const call: Call = {
      opcode,
      node: fuse.u64(bytes, start + 16),
      bytes: own,
      at: 0,
      end: own.length,
      caller: fuse.callerOf(bytes, start),
      unique: key,
      again: (high & 0x80000000) !== 0,
    }
    let answered = false
    let timer: Timer | null = null
    const once = (result: number, body: Buffer | null): void => {
      if (answered) return
      answered = true
      timer?.cancel()
      if (body === null) this.answer(low, high, result)
      else this.answerBytes(low, high, body)
    }
    this.running.set(key, {
      interrupt: () => {
        timer ??= this.clock.after(INTERRUPTED_MS, () => once(-fuse.EINTR, null))
      },
    })
    this.inFlight++
    this.calls
      .call(call)
      .then(
        (body) => once(0, body),
        (error: unknown) => once(-this.errnoOf(error, call), null),
      )
      .finally(() => {
        this.running.delete(key)
        this.ended()
      })
  }

  private errnoOf(error: unknown, call: Call): number {
    if (error instanceof FuseError) return error.errno
    // A broken invariant stops the daemon.
    if (!(error instanceof SheepError)) throw error
    const { code, message, errno } = asSheepError(error)
    this.log('debug', `FUSE request ${call.opcode}: ${message}`, { code })
    return errno
  }

  private interrupt(key: string): void {
    const found = this.running.get(key)
    if (found !== undefined) {
      found.interrupt()
      return
    }
    const transfer = this.transfers.find((one) => keyOf(one.uniqueLow, one.uniqueHigh) === key)
    if (transfer === undefined) return
    transfer.timer ??= this.clock.after(INTERRUPTED_MS, () => {
      if (!transfer.answered) this.answer(transfer.uniqueLow, transfer.uniqueHigh, -fuse.EINTR)
      transfer.answered = true
    })
  }

  private ended(): void {
    this.inFlight--
    if (this.waiting && this.ready) {
      this.waiting = false
      this.channel?.resume()
    }
    if (this.inFlight === 0) for (const resolve of this.idleWaiters.splice(0)) resolve()
  }

  // --- replies

  private answer(low: number, high: number, error: number): void {
    this.put(this.reply, fuse.OUT_HEADER, error, low, high)
    this.send(this.reply, fuse.OUT_HEADER)
  }

  private answerBytes(low: number, high: number, body: Buffer): void {
    const bytes = Buffer.allocUnsafe(fuse.OUT_HEADER + body.length)
    body.copy(bytes, fuse.OUT_HEADER)
    this.put(bytes, bytes.length, 0, low, high)
    this.send(bytes, bytes.length)
  }

  private put(bytes: Buffer, length: number, error: number, low: number, high: number): void {
    bytes.writeUInt32LE(length, 0)
    bytes.writeInt32LE(error, 4)
    bytes.writeUInt32LE(low, 8)
    bytes.writeUInt32LE(high, 12)
  }

  private send(bytes: Buffer, length: number): void {
    if (this.stopped) return
    const result = this.channel?.send(bytes, 0, length) ?? 0
    // Nobody waits for it any more, or all is over: the device says so itself.
    if (result < 0 && result !== -fuse.ENOENT && result !== -19 && result !== -fuse.EPERM) {
      this.log('error', `a FUSE reply was refused by the kernel: errno ${-result}`)
    }
  }
}

function keyOf(low: number, high: number): string {
  return `${high >>> 0}:${low}`
}
