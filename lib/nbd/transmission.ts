/**
 * The second phase of a connection: requests in, replies out. Requests run at once and finish in any order. The path of a
 * 4 KiB request allocates nothing and copies nothing: it is parsed where it was received, a read goes straight into the
 * outgoing batch behind its reply header, a write straight from the receive slab.
 */
import { assert } from '../assert.js'
import { asSheepError } from '../errors.js'
import type { Volume } from '../gateway/types.js'
import type { Completion, Extent } from '../host/interfaces.js'
import { type Slab, takeSlab } from '../host/slab.js'
import { RESERVE_MAX, type Stream, type StreamHandler } from '../host/stream.js'
import { blockStatus, DESCRIPTORS_MAX, SPAN_MAX } from './block-status.js'
import * as nbd from './constants.js'

/** Requests of one connection that may run at once; more stay in the socket. QEMU has 16, fio and libnbd up to some 64. */
export const IN_FLIGHT_MAX = 256
/** Payload bytes of one connection's running requests: two of the largest. */
export const IN_FLIGHT_BYTES_MAX = 2 * nbd.PAYLOAD_MAX
/** With more replies than this waiting for the client to read them, no request is taken until half of them are gone. */
export const BACKLOG_MAX = 4 << 20
/** Finished request objects kept for the next ones. */
const POOL_MAX = 64

const READ_LENGTH_SIMPLE = nbd.SIMPLE_REPLY_LENGTH
const READ_LENGTH_STRUCTURED = nbd.STRUCTURED_REPLY_LENGTH + 8
/** Longest read tried into the batch. */
const BATCHED_READ_MAX = RESERVE_MAX - READ_LENGTH_STRUCTURED
const OFFSET_HIGH_MAX = 1 << 21
const TWO_TO_32 = 0x100000000

export interface TransmissionHost {
  /** All requests have finished and the stream is closed. */
  finished(reason: string): void
}

/** One request while it runs; pooled. */
class Request implements Completion {
  cookieHigh = 0
  cookieLow = 0
  type = 0
  length = 0
  offset = 0
  /** What holds the payload: written from, or read into behind `start`. Null: none, or the batch while `inBatch`. */
  slab: Slab | null = null
  start = 0
  /** Payload bytes that it counts for among those in flight. */
  held = 0

  constructor(private readonly transmission: Transmission) {}

  complete(result: number): void {
    this.transmission.complete(this, result)
  }
}

export class Transmission implements StreamHandler {
  /** Bytes and requests served, for people. */
  bytesRead = 0
  bytesWritten = 0
  requests = 0
  inFlight = 0

  private inFlightBytes = 0
  private readonly pool: Request[] = []
  private readonly readHeader: number
  /** Whether the last read finished before it returned: then the next one is read straight into the batch. */
  private readsFinishInline = true
  /** The read that is being tried into the batch, which must not move meanwhile; what else finishes has to wait. */
  private inBatch: Request | null = null
  private inBatchResult: number | null = null
  private readonly deferred: { request: Request; result: number }[] = []
  private paused = false
  private ending = ''
  private closedReason: string | null = null

  constructor(
    private readonly stream: Stream,
    private readonly volume: Volume,
    private readonly structured: boolean,
    private readonly canBlockStatus: boolean,
    private readonly host: TransmissionHost,
  ) {
    this.readHeader = structured ? READ_LENGTH_STRUCTURED : READ_LENGTH_SIMPLE
  }

  messageLength(bytes: Buffer, start: number, end: number): number {
    if (end - start < nbd.REQUEST_LENGTH) return 0
    if (bytes.readUInt32BE(start) !== nbd.REQUEST_MAGIC) return -1
    if (bytes.readUInt16BE(start + 6) !== nbd.CMD_WRITE) return nbd.REQUEST_LENGTH
    const length = bytes.readUInt32BE(start + 24)
    return length > nbd.PAYLOAD_MAX ? -1 : nbd.REQUEST_LENGTH + length
  }

  message(slab: Slab, start: number): void {
    const { bytes } = slab
    const flags = bytes.readUInt16BE(start + 4)
    const type = bytes.readUInt16BE(start + 6)
    const high = bytes.readUInt32BE(start + 16)
    const request = this.take()
    request.type = type
    request.cookieHigh = bytes.readUInt32BE(start + 8)
    request.cookieLow = bytes.readUInt32BE(start + 12)
    // An offset beyond 2^53 is beyond every volume: any such value serves.
    request.offset =
      high < OFFSET_HIGH_MAX ? high * TWO_TO_32 + bytes.readUInt32BE(start + 20) : Number.MAX_SAFE_INTEGER
    request.length = bytes.readUInt32BE(start + 24)
    switch (type) {
      case nbd.CMD_READ:
        this.read(request, flags)
        break
      case nbd.CMD_WRITE:
        this.write(request, flags, slab, start + nbd.REQUEST_LENGTH)
        break
      case nbd.CMD_DISC:
        this.give(request)
        this.end('the client disconnected')
        break
      case nbd.CMD_FLUSH:
        this.begin(request, 0)
        request.length = 0
        if ((flags & ~nbd.CMD_FLAG_FUA) !== 0) request.complete(-nbd.EINVAL)
        else this.volume.flush(request)
        break
      case nbd.CMD_TRIM:
      case nbd.CMD_WRITE_ZEROES:
        this.zero(request, flags)
        break
      case nbd.CMD_CACHE:
        this.begin(request, 0)
        request.complete(this.fault(request, flags, nbd.CMD_FLAG_FUA, false))
        break
      case nbd.CMD_BLOCK_STATUS:
        this.blockStatus(request, flags)
        break
      default:
        this.begin(request, 0)
        request.complete(-nbd.EINVAL)
    }
    if (this.mustWait()) {
      this.paused = true
      this.stream.pause()
    }
  }

  drained(): void {
    this.resume()
  }

  closed(reason: string): void {
    this.closedReason = this.ending === '' ? reason : this.ending
    if (this.inFlight === 0) this.host.finished(this.closedReason)
  }

  /** Takes no more requests, answers those that run, and ends the stream. */
  end(reason: string): void {
    if (this.ending !== '') return
    this.ending = reason
    this.stream.pause()
    if (this.inFlight === 0) this.stream.end(reason)
  }

  // --- requests

  private read(request: Request, flags: number): void {
    const { length } = request
    const fault = this.fault(request, flags, nbd.CMD_FLAG_FUA | (this.structured ? nbd.CMD_FLAG_DF : 0), false)
    if (fault !== 0 || length === 0 || length > nbd.PAYLOAD_MAX) {
      this.begin(request, 0)
      request.complete(length > nbd.PAYLOAD_MAX ? -nbd.EINVAL : fault)
      return
    }
    this.begin(request, length)
    if (this.readsFinishInline && length <= BATCHED_READ_MAX && this.inBatch === null) {
      this.readIntoBatch(request)
      return
    }
    const slab = takeSlab(this.readHeader + length)
    request.slab = slab
    request.start = 0
    this.volume.read(slab.bytes, this.readHeader, length, request.offset, request)
    this.readsFinishInline = request.slab === null
  }

  private readIntoBatch(request: Request): void {
    const { stream } = this
    const at = stream.reserve(this.readHeader + request.length)
    request.slab = null
    request.start = at
    this.inBatch = request
    this.inBatchResult = null
    this.volume.read(stream.batch.bytes, at + this.readHeader, request.length, request.offset, request)
    this.inBatch = null
    const result = this.inBatchResult as number | null
    if (result === null) {
      this.readsFinishInline = false
      request.slab = stream.detach(at)
    } else if (result < 0) {
      stream.detach(at).release()
      this.finish(request, result)
    } else {
      this.writeReadHeader(stream.batch.bytes, at, request)
      this.bytesRead += request.length
      this.retire(request)
    }
    while (this.deferred.length > 0) {
      const { request, result } = this.deferred.shift() as { request: Request; result: number }
      this.finish(request, result)
    }
  }

  private write(request: Request, flags: number, slab: Slab, start: number): void {
    const fault = this.fault(request, flags, nbd.CMD_FLAG_FUA, true)
    if (fault !== 0 || request.length === 0) {
      this.begin(request, 0)
      request.complete(fault)
      return
    }
    this.begin(request, request.length)
    slab.retain()
    request.slab = slab
    const fua = (flags & nbd.CMD_FLAG_FUA) !== 0
    this.volume.write(slab.bytes, start, request.length, request.offset, fua, request)
  }

  private zero(request: Request, flags: number): void {
    this.begin(request, 0)
    const zeroFlags = nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FAST_ZERO
    const allowed = nbd.CMD_FLAG_FUA | (request.type === nbd.CMD_WRITE_ZEROES ? zeroFlags : 0)
    const fault = this.fault(request, flags, allowed, true)
    const fua = (flags & nbd.CMD_FLAG_FUA) !== 0
    if (fault !== 0 || request.length === 0) request.complete(fault)
    else if (request.type === nbd.CMD_TRIM) this.volume.discard(request.length, request.offset, fua, request)
    else this.volume.zero(request.length, request.offset, (flags & nbd.CMD_FLAG_NO_HOLE) !== 0, fua, request)
  }

  private blockStatus(request: Request, flags: number): void {
    this.begin(request, 0)
    let fault = this.fault(request, flags, nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_REQ_ONE, false)
    if (!this.canBlockStatus || request.length === 0) fault = -nbd.EINVAL
    if (fault !== 0) {
      request.complete(fault)
      return
    }
    const length = Math.min(request.length, SPAN_MAX)
    const limit = (flags & nbd.CMD_FLAG_REQ_ONE) !== 0 ? 1 : DESCRIPTORS_MAX
    this.volume.extents(length, request.offset).then(
      (extents) => this.blockStatusDone(request, length, extents, limit),
      (error) => request.complete(-asSheepError(error).errno),
    )
  }

  private blockStatusDone(request: Request, length: number, extents: readonly Extent[], limit: number): void {
    const payload = blockStatus(request.offset, length, extents, limit)
    const { stream } = this
    const at = stream.reserve(nbd.STRUCTURED_REPLY_LENGTH)
    const { bytes } = stream.batch
    this.writeStructuredHeader(bytes, at, request, nbd.REPLY_TYPE_BLOCK_STATUS, payload.length)
    stream.send(payload, 0, payload.length)
    this.retire(request)
  }

  /** 0, or the negative errno of a request that may not run. */
  private fault(request: Request, flags: number, allowed: number, writes: boolean): number {
    if ((flags & ~allowed) !== 0) return -nbd.EINVAL
    if (writes && this.volume.readOnly) return -nbd.EPERM
    if (request.offset + request.length <= this.volume.size) return 0
    return writes && request.type !== nbd.CMD_TRIM ? -nbd.ENOSPC : -nbd.EINVAL
  }

  // --- completion

  complete(request: Request, result: number): void {
    if (this.inBatch === null) this.finish(request, result)
    else if (this.inBatch === request) this.inBatchResult = result
    else this.deferred.push({ request, result })
  }

  private finish(request: Request, result: number): void {
    const { slab, length, type } = request
    request.slab = null
    const reads = type === nbd.CMD_READ
    if (result === -nbd.ESHUTDOWN) {
      // Not the request's fault, and here it will not be served: a client that connects again asks again (QEMU's
      // reconnect-delay), while a guest would take an answer for a bad disk.
      slab?.release()
      this.stream.close('the volume was taken away, or this daemon stops')
    } else if (result < 0) {
      slab?.release()
      this.replyError(request, nbd.errorValue(-result))
    } else if (reads && slab !== null) {
      this.writeReadHeader(slab.bytes, request.start, request)
      this.bytesRead += length
      this.stream.sendSlab(slab, request.start, request.start + this.readHeader + length)
    } else {
      if (type === nbd.CMD_WRITE) this.bytesWritten += length
      slab?.release()
      this.replyDone(request)
    }
    this.retire(request)
  }

  private begin(request: Request, bytes: number): void {
    request.held = bytes
    this.inFlight++
    this.inFlightBytes += bytes
    this.requests++
  }

  private retire(request: Request): void {
    this.inFlight--
    this.inFlightBytes -= request.held
    assert(this.inFlight >= 0 && this.inFlightBytes >= 0, 'an NBD request completes once')
    this.give(request)
    if (this.inFlight === 0) {
      if (this.closedReason !== null) this.host.finished(this.closedReason)
      else if (this.ending !== '') this.stream.end(this.ending)
    }
    // Later, because this may be called from within the volume, which need not expect new requests at this point.
    if (this.paused && !this.mustWait()) setImmediate(() => this.resume())
  }

  private mustWait(): boolean {
    return (
      this.inFlight >= IN_FLIGHT_MAX || this.inFlightBytes >= IN_FLIGHT_BYTES_MAX || this.stream.backlog > BACKLOG_MAX
    )
  }

  private resume(): void {
    if (!this.paused || this.ending !== '' || this.mustWait()) return
    this.paused = false
    this.stream.resume()
  }

  // --- replies

  private replyDone(request: Request): void {
    // Where structured replies were negotiated they are compulsory for reads only; the simple one is shorter.
    if (request.type === nbd.CMD_READ && this.structured) {
      const at = this.stream.reserve(nbd.STRUCTURED_REPLY_LENGTH)
      this.writeStructuredHeader(this.stream.batch.bytes, at, request, nbd.REPLY_TYPE_NONE, 0)
      return
    }
    this.writeSimple(request, 0)
  }

  private replyError(request: Request, error: number): void {
    const structured = this.structured && (request.type === nbd.CMD_READ || request.type === nbd.CMD_BLOCK_STATUS)
    if (!structured) {
      this.writeSimple(request, error)
      return
    }
    const at = this.stream.reserve(nbd.STRUCTURED_REPLY_LENGTH + 6)
    const { bytes } = this.stream.batch
    this.writeStructuredHeader(bytes, at, request, nbd.REPLY_TYPE_ERROR, 6)
    bytes.writeUInt32BE(error, at + nbd.STRUCTURED_REPLY_LENGTH)
    bytes.writeUInt16BE(0, at + nbd.STRUCTURED_REPLY_LENGTH + 4)
  }

  private writeSimple(request: Request, error: number): void {
    const at = this.stream.reserve(nbd.SIMPLE_REPLY_LENGTH)
    this.writeSimpleHeader(this.stream.batch.bytes, at, request, error)
  }

  private writeReadHeader(bytes: Buffer, at: number, request: Request): void {
    if (!this.structured) {
      this.writeSimpleHeader(bytes, at, request, 0)
      return
    }
    this.writeStructuredHeader(bytes, at, request, nbd.REPLY_TYPE_OFFSET_DATA, 8 + request.length)
    bytes.writeUInt32BE(Math.floor(request.offset / TWO_TO_32), at + 20)
    bytes.writeUInt32BE(request.offset >>> 0, at + 24)
  }

  private writeSimpleHeader(bytes: Buffer, at: number, request: Request, error: number): void {
    bytes.writeUInt32BE(nbd.SIMPLE_REPLY_MAGIC, at)
    bytes.writeUInt32BE(error, at + 4)
    bytes.writeUInt32BE(request.cookieHigh, at + 8)
    bytes.writeUInt32BE(request.cookieLow, at + 12)
  }

  /** The one and last chunk of its reply. */
  private writeStructuredHeader(bytes: Buffer, at: number, request: Request, type: number, length: number): void {
    bytes.writeUInt32BE(nbd.STRUCTURED_REPLY_MAGIC, at)
    bytes.writeUInt16BE(nbd.REPLY_FLAG_DONE, at + 4)
    bytes.writeUInt16BE(type, at + 6)
    bytes.writeUInt32BE(request.cookieHigh, at + 8)
    bytes.writeUInt32BE(request.cookieLow, at + 12)
    bytes.writeUInt32BE(length, at + 16)
  }

  private take(): Request {
    return this.pool.pop() ?? new Request(this)
  }

  private give(request: Request): void {
    if (this.pool.length < POOL_MAX) this.pool.push(request)
  }
}
