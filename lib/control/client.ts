/**
 * The other end of ControlSession: dog, the D-Bus service and tests talk to a daemon through this. Every failure is a
 * SheepError that says what to do next.
 */
import { connect as connectSocket, type Socket } from 'node:net'
import { assert } from '../assert.js'
import { asSheepError, isErrorCode, SheepError } from '../errors.js'
import { isLoopback } from '../host/address.js'
import {
  encodeRequest,
  FLAG_WRITE,
  HEADER_LENGTH,
  MAX_PAYLOAD,
  OP,
  PROTOCOL_VERSION,
  putU64,
  RESULT_PROGRESS,
  u32,
} from '../protocol/header.js'
import { proveKey } from './prove.js'
import type { Verb, VerbAnswer, VerbArguments } from './verbs.js'

export type Target = { socket: string } | { host: string; port: number }

export interface ClientOptions {
  /** For the connection to be made */
  connectTimeoutMs: number
  /**
   * Without a byte from the daemon while it owes an answer. It says something every 5 s while it works (HEARTBEAT_MS), so
   * this finds dead and hung daemons, never slow work.
   */
  silenceTimeoutMs: number
  /** The cluster's key, asked for when the daemon is on another host; null: there is none here */
  key?: () => Buffer | null
}

export const DEFAULT_CLIENT_OPTIONS: ClientOptions = { connectTimeoutMs: 5_000, silenceTimeoutMs: 30_000 }

export interface ProgressReport {
  done: number
  /** 0: unknown */
  total: number
  text: string
}

export type ProgressCallback = (report: ProgressReport) => void

interface Pending {
  resolve(payload: Buffer): void
  reject(error: SheepError): void
  progress: ProgressCallback | null
}

export function describeTarget(target: Target): string {
  if ('socket' in target) return target.socket
  return target.host.includes(':') ? `[${target.host}]:${target.port}` : `${target.host}:${target.port}`
}

export class ControlClient {
  private readonly pending = new Map<number, Pending>()
  private nextId = 1
  private received: Buffer[] = []
  private receivedLength = 0
  private failure: SheepError | null = null

  /** SheepError unreachable */
  static connect(target: Target, options: ClientOptions = DEFAULT_CLIENT_OPTIONS): Promise<ControlClient> {
    return new Promise((resolve, reject) => {
      const socket = 'socket' in target ? connectSocket(target.socket) : connectSocket(target.port, target.host)
      const timer = setTimeout(() => {
        socket.destroy()
        reject(unreachable(target, `no answer within ${options.connectTimeoutMs / 1000} s`))
      }, options.connectTimeoutMs)
      socket.once('error', (error: NodeJS.ErrnoException) => {
        clearTimeout(timer)
        reject(unreachable(target, error.code ?? error.message))
      })
      const ready = (usable: Socket): void => {
        clearTimeout(timer)
        // TLS watches the socket below it by itself.
        if (usable === socket) socket.removeAllListeners('error')
        resolve(new ControlClient(usable, target, options.silenceTimeoutMs))
      }
      socket.once('connect', () => {
        const key = 'socket' in target || isLoopback(socket.remoteAddress ?? '') ? null : (options.key?.() ?? null)
        if (key === null) {
          ready(socket)
          return
        }
        proveKey(socket, key).then(ready, (error: unknown) => {
          clearTimeout(timer)
          socket.destroy()
          const { code, message, hint } = asSheepError(error)
          reject(new SheepError(code, `no connection to ${describeTarget(target)}: ${message}`, hint))
        })
      })
    })
  }

  private constructor(
    private readonly socket: Socket,
    readonly target: Target,
    private readonly silenceTimeoutMs: number,
  ) {
    socket.setNoDelay(true)
    socket.on('data', (bytes) => this.receive(bytes))
    socket.on('timeout', () => {
      if (this.pending.size > 0) this.fail(silent(target, silenceTimeoutMs))
    })
    socket.on('error', (error: NodeJS.ErrnoException) => this.fail(lost(target, error.code ?? error.message)))
    socket.on('close', () => this.fail(lost(target, 'the daemon closed it')))
  }

  async call<V extends Verb>(
    verb: V,
    given: VerbArguments<V>,
    progress: ProgressCallback | null = null,
  ): Promise<VerbAnswer<V>> {
    const answer = await this.exchange(OP.CONTROL, 0, 0, 0, json({ verb, arguments: given }), progress)
    return this.parse(answer) as VerbAnswer<V>
  }

  /** `snapshot`: tag or id; '' the working VDI. SheepError: what the daemon says, e.g. not-found, locked. */
  async openVolume(
    name: string,
    snapshot: string,
    readOnly: boolean,
    progress: ProgressCallback | null = null,
  ): Promise<RemoteVolume> {
    const answer = await this.exchange(OP.VOLUME_OPEN, 0, 0, 0, json({ name, snapshot, readOnly }), progress)
    const { handle, size, objectSize } = this.parse(answer) as { handle: number; size: number; objectSize: number }
    return new RemoteVolume(this, handle, size, objectSize)
  }

  /** Requests still under way fail with `unreachable`. */
  close(): void {
    this.failure ??= new SheepError('unreachable', 'the connection was closed here')
    this.rejectAll(this.failure)
    this.socket.destroy()
  }

  /** One request and its final answer's payload. `offset` and `handle` are volume requests' fields. */
  exchange(
    opcode: number,
    offset: number,
    handle: number,
    wanted: number,
    payload: Uint8Array | null,
    progress: ProgressCallback | null,
  ): Promise<Buffer> {
    if (this.failure !== null) return Promise.reject(this.failure)
    const id = this.nextId
    this.nextId = (this.nextId % 0xffffffff) + 1
    assert(!this.pending.has(id), 'request ids come round after 2^32 requests only')
    const header = Buffer.allocUnsafe(HEADER_LENGTH)
    encodeRequest(header, 0, opcode, payload === null ? 0 : FLAG_WRITE, 0, id, payload?.length ?? wanted)
    putU64(header, 16, offset)
    putU64(header, 24, handle)
    return new Promise((resolve, reject) => {
      if (this.pending.size === 0) this.socket.setTimeout(this.silenceTimeoutMs)
      this.pending.set(id, { resolve, reject, progress })
      this.socket.cork()
      this.socket.write(header)
      if (payload !== null) this.socket.write(payload)
      this.socket.uncork()
    })
  }

  private receive(bytes: Buffer): void {
    this.received.push(bytes)
    this.receivedLength += bytes.length
    while (this.receivedLength >= HEADER_LENGTH && this.failure === null) {
      const first = this.gather(HEADER_LENGTH)
      const length = u32(first, 12)
      if (first[0] !== PROTOCOL_VERSION || length > MAX_PAYLOAD) {
        this.fail(notSheep(this.target))
        return
      }
      if (this.receivedLength < HEADER_LENGTH + length) return
      const whole = this.gather(HEADER_LENGTH + length)
      this.received[0] = whole.subarray(HEADER_LENGTH + length)
      this.receivedLength -= HEADER_LENGTH + length
      try {
        this.response(u32(whole, 8), u32(whole, 16), whole.subarray(HEADER_LENGTH, HEADER_LENGTH + length))
      } catch (error) {
        this.fail(asSheepError(error))
      }
    }
  }

  /** The first buffer, made to hold at least `length` of the bytes received. */
  private gather(length: number): Buffer {
    if (this.received[0].length < length) this.received = [Buffer.concat(this.received)]
    return this.received[0]
  }

  private response(id: number, result: number, payload: Buffer): void {
    const pending = this.pending.get(id)
    if (pending === undefined) {
      this.fail(notSheep(this.target))
      return
    }
    if (result === RESULT_PROGRESS) {
      pending.progress?.(this.parse(payload) as ProgressReport)
      return
    }
    // Before it is taken off the list: an unreadable error fails all that is on it.
    const error = result === 0 ? null : this.errorOf(result, payload)
    this.pending.delete(id)
    if (this.pending.size === 0) this.socket.setTimeout(0)
    if (error === null) pending.resolve(payload)
    else pending.reject(error)
  }

  private errorOf(result: number, payload: Buffer): SheepError {
    const { code, message, hint } = (payload.length > 0 ? this.parse(payload) : {}) as Record<string, unknown>
    if (typeof code === 'string' && isErrorCode(code) && typeof message === 'string') {
      return new SheepError(code, message, typeof hint === 'string' ? hint : '')
    }
    return new SheepError(
      'unknown',
      `${describeTarget(this.target)} answered result ${result} without a reason`,
      'use a dog of the same version as the daemon',
    )
  }

  private parse(payload: Buffer): unknown {
    try {
      return JSON.parse(payload.toString('utf8')) ?? {}
    } catch {
      throw notSheep(this.target)
    }
  }

  private fail(error: SheepError): void {
    this.failure ??= error
    this.rejectAll(this.failure)
    this.socket.destroy()
  }

  private rejectAll(error: SheepError): void {
    const pending = [...this.pending.values()]
    this.pending.clear()
    for (const each of pending) each.reject(error)
  }
}

/** An open volume. Requests may run side by side; offsets, lengths and sizes are bytes. */
export class RemoteVolume {
  constructor(
    private readonly client: ControlClient,
    private readonly handle: number,
    readonly size: number,
    readonly objectSize: number,
  ) {}

  async read(offset: number, length: number): Promise<Buffer> {
    const bytes = await this.client.exchange(OP.VOLUME_READ, offset, this.handle, length, null, null)
    if (bytes.length !== length) throw notSheep(this.client.target)
    return bytes
  }

  /** `data` must stay untouched until it resolves. */
  async write(offset: number, data: Uint8Array): Promise<void> {
    await this.client.exchange(OP.VOLUME_WRITE, offset, this.handle, 0, data, null)
  }

  async flush(): Promise<void> {
    await this.client.exchange(OP.VOLUME_FLUSH, 0, this.handle, 0, null, null)
  }

  async close(): Promise<void> {
    await this.client.exchange(OP.VOLUME_CLOSE, 0, this.handle, 0, null, null)
  }
}

function json(value: unknown): Buffer {
  return Buffer.from(JSON.stringify(value))
}

const CONNECT_REASONS: Record<string, string> = {
  ECONNREFUSED: 'no daemon listens there',
  ENOENT: 'there is no such socket',
  EACCES: 'this user may not connect to it',
  ENOTFOUND: 'there is no host of that name',
  EAI_AGAIN: 'the host name cannot be looked up now',
  EHOSTUNREACH: 'the host cannot be reached',
  ENETUNREACH: 'the network cannot be reached',
  ENOTSOCK: 'that is no socket',
  EINVAL: 'that is no usable address',
}

function unreachable(target: Target, reason: string): SheepError {
  const hint =
    reason === 'EACCES'
      ? "run it as root, or as a member of the socket's group"
      : 'start one with: sheep STORE; or name another with -a ADDRESS -p PORT, or --socket PATH'
  return new SheepError(
    'unreachable',
    `cannot reach a sheep daemon at ${describeTarget(target)}: ${CONNECT_REASONS[reason] ?? reason}`,
    hint,
  )
}

function silent(target: Target, ms: number): SheepError {
  return new SheepError(
    'timeout',
    `${describeTarget(target)} said nothing for ${ms / 1000} s`,
    'see whether that daemon hangs (its log, its disk); if it is no sheep daemon, use -a and -p to name one',
  )
}

function lost(target: Target, reason: string): SheepError {
  return new SheepError(
    'unreachable',
    `the connection to ${describeTarget(target)} ended: ${reason}`,
    'see whether that daemon still runs; its log says why it stopped',
  )
}

function notSheep(target: Target): SheepError {
  return new SheepError(
    'version',
    `${describeTarget(target)} does not speak this version of the sheepdog protocol`,
    'use -a and -p to name a sheep daemon, of the same version as dog',
  )
}
