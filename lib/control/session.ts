/**
 * One client's connection, as the shared listener hands it over: opcodes 0xC0-0xC5 of docs/control-protocol.md. Requests
 * run side by side and are answered as they finish. While one takes long its client hears from us every HEARTBEAT_MS,
 * so that "slow" and "dead" differ for it.
 */
import { InvariantError } from '../assert.js'
import { asSheepError, ERRORS, SheepError } from '../errors.js'
import type { Volume } from '../gateway/types.js'
import type { Completion, Hold, Timer } from '../host/interfaces.js'
import { OP, RESULT_PROGRESS, u32, u64 } from '../protocol/header.js'
import { dispatch } from './dispatch.js'
import type { ControlServices, Progress } from './services.js'
import { isVerb, VERBS, volumeOpenRequest } from './verbs.js'

export const HEARTBEAT_MS = 5_000
export const TRANSFER_MAX = 4 << 20
const PROGRESS_INTERVAL_MS = 100
const JSON_MAX = 64 << 10
const REQUESTS_MAX = 64
const VOLUMES_MAX = 8
const TRANSFER_TOTAL_MAX = 64 << 20

/** Takes the payload's bytes over before it returns. */
export type SendResponse = (id: number, result: number, payload: Uint8Array | null) => void

export class ControlSession {
  private readonly requests = new Map<number, Request>()
  private readonly volumes = new Map<number, Volume>()
  private opening = 0
  private nextHandle = 1
  /** Bytes of volume reads and writes in flight */
  private transferring = 0
  private heartbeat: Timer | null = null
  private isClosed = false

  /** `client`: who it is, for people: appears as the holder of what it opens. */
  constructor(
    private readonly services: ControlServices,
    private readonly client: string,
    private readonly send: SendResponse,
  ) {}

  /** One whole request, as LinkHandler.message has it: the payload stays if `hold` is retained. */
  request(bytes: Buffer, headerOffset: number, payloadOffset: number, payloadLength: number, hold: Hold): void {
    if (this.isClosed) return
    const id = u32(bytes, headerOffset + 8)
    try {
      if (this.requests.has(id)) throw new SheepError('invalid', `request id ${id} is in use`)
      if (this.requests.size >= REQUESTS_MAX) {
        throw new SheepError('busy', `${REQUESTS_MAX} requests of this connection are under way`, 'wait for an answer')
      }
      this.start(id, bytes, headerOffset, payloadOffset, payloadLength, hold)
    } catch (error) {
      this.fail(id, error)
    }
  }

  /** The connection has ended: what it had open is closed, what it waited for may stop. */
  closed(): void {
    if (this.isClosed) return
    this.isClosed = true
    this.heartbeat?.cancel()
    this.requests.clear()
    for (const volume of this.volumes.values()) this.closeVolume(volume)
    this.volumes.clear()
  }

  private start(id: number, bytes: Buffer, header: number, at: number, length: number, hold: Hold): void {
    switch (bytes[header + 1]) {
      case OP.CONTROL:
        this.startVerb(id, parseJson(bytes, at, length))
        return
      case OP.VOLUME_OPEN:
        this.open(id, parseJson(bytes, at, length))
        return
      case OP.VOLUME_READ:
        this.read(id, u64(bytes, header + 24), u64(bytes, header + 16), u32(bytes, header + 12))
        return
      case OP.VOLUME_WRITE:
        this.write(id, u64(bytes, header + 24), u64(bytes, header + 16), bytes, at, length, hold)
        return
      case OP.VOLUME_FLUSH:
        this.volume(u64(bytes, header + 24)).flush(new Transfer(this, this.begin(id), null, 0, null))
        return
      case OP.VOLUME_CLOSE:
        this.close(id, u64(bytes, header + 24))
        return
      default:
        throw new SheepError('unsupported', `opcode ${bytes[header + 1]} is not one of the control protocol`)
    }
  }

  private startVerb(id: number, json: unknown): void {
    const { verb, arguments: given } = asRequest(json)
    if (!isVerb(verb)) {
      throw new SheepError(
        'unsupported',
        `this daemon (version ${this.services.version}) knows no verb ${JSON.stringify(verb).slice(0, 80)}`,
        'use a dog of the same version as the daemon',
      )
    }
    const checked = VERBS[verb].arguments(given, verb)
    const request = this.begin(id)
    this.settle(
      request,
      dispatch(this.services, verb, checked as never, request).then((answer) => encodeJson(answer)),
    )
  }

  private open(id: number, json: unknown): void {
    const wanted = volumeOpenRequest(json, 'volume.open')
    if (this.volumes.size + this.opening >= VOLUMES_MAX) {
      throw new SheepError('busy', `this connection has ${VOLUMES_MAX} volumes open`, 'close one first')
    }
    const request = this.begin(id)
    this.opening++
    const opened = this.services.volumes
      .open({ ...wanted, holder: this.client, shareable: false })
      .finally(() => this.opening--)
    this.settle(
      request,
      opened.then((volume) => {
        if (this.isClosed) {
          this.closeVolume(volume)
          return null
        }
        const handle = this.nextHandle++
        this.volumes.set(handle, volume)
        return encodeJson({ handle, size: volume.size, objectSize: volume.objectSize })
      }),
    )
  }

  private close(id: number, handle: number): void {
    const volume = this.volume(handle)
    this.volumes.delete(handle)
    this.settle(
      this.begin(id),
      volume.close().then(() => null),
    )
  }

  private read(id: number, handle: number, offset: number, length: number): void {
    const volume = this.transferable(handle, offset, length)
    const buffer = Buffer.allocUnsafe(length)
    const transfer = new Transfer(this, this.begin(id), buffer, length, null)
    this.transferring += length
    volume.read(buffer, 0, length, offset, transfer)
  }

  private write(
    id: number,
    handle: number,
    offset: number,
    bytes: Buffer,
    at: number,
    length: number,
    hold: Hold,
  ): void {
    const volume = this.transferable(handle, offset, length)
    if (volume.readOnly) {
      throw new SheepError('read-only', `${volume.entry.name} is open for reading only`, 'snapshots cannot be written')
    }
    hold.retain()
    const transfer = new Transfer(this, this.begin(id), null, length, hold)
    this.transferring += length
    volume.write(bytes, at, length, offset, false, transfer)
  }

  private volume(handle: number): Volume {
    const volume = this.volumes.get(handle)
    if (volume === undefined) throw new SheepError('invalid', `this connection has no volume open as ${handle}`)
    return volume
  }

  private transferable(handle: number, offset: number, length: number): Volume {
    const volume = this.volume(handle)
    if (length < 1 || length > TRANSFER_MAX) {
      throw new SheepError('invalid', `a transfer is 1 to ${TRANSFER_MAX} bytes, not ${length}`)
    }
    if (offset < 0 || offset + length > volume.size) {
      throw new SheepError(
        'invalid',
        `${length} bytes at ${offset} reach beyond the volume's ${volume.size}`,
        'dog vdi resize NAME SIZE makes it larger',
      )
    }
    if (this.transferring + length > TRANSFER_TOTAL_MAX) {
      throw new SheepError('busy', `${TRANSFER_TOTAL_MAX} bytes of this connection are under way`, 'wait for an answer')
    }
    return volume
  }

  // --- requests under way

  private begin(id: number): Request {
    const request = new Request(this, id, this.services.clock.now())
    this.requests.set(id, request)
    if (this.heartbeat === null) this.heartbeat = this.services.clock.after(HEARTBEAT_MS, () => this.beat())
    return request
  }

  private beat(): void {
    this.heartbeat = this.requests.size === 0 ? null : this.services.clock.after(HEARTBEAT_MS, () => this.beat())
    const now = this.services.clock.now()
    for (const request of this.requests.values()) {
      if (now - request.lastSent >= HEARTBEAT_MS) request.send(this.waitingFor())
    }
  }

  private waitingFor(): string {
    const { status, statusReason } = this.services.cluster
    return status === 'running' ? '' : `waiting: ${statusReason}`
  }

  private settle(request: Request, answer: Promise<Uint8Array | null>): void {
    answer.then(
      (payload) => this.finish(request, payload),
      (error: unknown) => {
        this.requests.delete(request.id)
        this.fail(request.id, error)
      },
    )
  }

  finish(request: Request, payload: Uint8Array | null): void {
    this.requests.delete(request.id)
    if (!this.isClosed) this.send(request.id, 0, payload)
  }

  transferred(request: Request, payload: Uint8Array | null, length: number, result: number): void {
    this.transferring -= length
    if (result >= 0) {
      this.finish(request, payload)
      return
    }
    this.requests.delete(request.id)
    this.fail(request.id, errorOfErrno(-result))
  }

  private fail(id: number, error: unknown): void {
    // A broken invariant stops the daemon: main hears of it as an unhandled rejection or exception.
    if (error instanceof InvariantError) throw error
    if (!(error instanceof SheepError)) {
      const stack = error instanceof Error ? (error.stack ?? error.message) : String(error)
      for (const line of stack.split('\n')) this.services.log('error', `control request: ${line}`)
    }
    if (this.isClosed) return
    const { code, result, message, hint } = asSheepError(error)
    this.send(id, result, encodeJson({ code, message, hint }))
  }

  progress(id: number, done: number, total: number, text: string): void {
    if (!this.isClosed) this.send(id, RESULT_PROGRESS, encodeJson({ done, total, text }))
  }

  get ended(): boolean {
    return this.isClosed
  }

  now(): number {
    return this.services.clock.now()
  }

  private closeVolume(volume: Volume): void {
    volume.close().catch((error: unknown) => {
      this.services.log('warning', `closing ${volume.entry.name}: ${asSheepError(error).message}`)
    })
  }
}

/** One request under way, and what has been said of its progress. */
class Request implements Progress {
  lastSent: number
  private done = 0
  private total = 0
  private text = ''

  constructor(
    private readonly session: ControlSession,
    readonly id: number,
    now: number,
  ) {
    this.lastSent = now
  }

  get cancelled(): boolean {
    return this.session.ended
  }

  report(done: number, total: number, text: string): void {
    const changed = text !== '' && text !== this.text
    this.done = done
    this.total = total
    if (changed) this.text = text
    if (changed || done === total || this.session.now() - this.lastSent >= PROGRESS_INTERVAL_MS) this.send('')
  }

  send(text: string): void {
    this.lastSent = this.session.now()
    this.session.progress(this.id, this.done, this.total, text === '' ? this.text : text)
  }
}

class Transfer implements Completion {
  constructor(
    private readonly session: ControlSession,
    private readonly request: Request,
    private readonly payload: Buffer | null,
    private readonly length: number,
    private readonly hold: Hold | null,
  ) {}

  complete(result: number): void {
    this.hold?.release()
    this.session.transferred(this.request, this.payload, this.length, result)
  }
}

function parseJson(bytes: Buffer, at: number, length: number): unknown {
  if (length > JSON_MAX) throw new SheepError('too-big', `a control request is at most ${JSON_MAX} bytes`)
  try {
    return JSON.parse(bytes.toString('utf8', at, at + length))
  } catch {
    throw new SheepError('invalid', 'a control request is not JSON')
  }
}

function asRequest(json: unknown): { verb: unknown; arguments: unknown } {
  if (typeof json !== 'object' || json === null || !Object.hasOwn(json, 'verb')) {
    throw new SheepError('invalid', 'a control request names no verb')
  }
  const { verb, arguments: given = {} } = json as { verb: unknown; arguments?: unknown }
  return { verb, arguments: given }
}

function encodeJson(value: unknown): Buffer {
  return Buffer.from(JSON.stringify(value))
}

const VOLUME_ERRORS = [
  { code: 'no-space', message: 'no space is left on a node that holds this data', hint: 'dog node info shows which' },
  { code: 'io', message: 'the data cannot be read or written', hint: 'dog node log shows the reason' },
  { code: 'read-only', message: 'the volume cannot be written', hint: 'it is a snapshot, or its lock was taken' },
] as const

function errorOfErrno(errno: number): SheepError {
  const known = VOLUME_ERRORS.find((error) => ERRORS[error.code].errno === errno)
  if (known !== undefined) return new SheepError(known.code, known.message, known.hint)
  return new SheepError('io', `the volume answered errno ${errno}`, 'dog node log shows the reason')
}
