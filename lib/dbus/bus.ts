/**
 * A bus that we are on: HELLO, our name, calls of ours and their answers, and what others send us. One connection's life: whoever
 * wants the bus back makes another.
 */
import {
  ERROR,
  encode,
  FLAG_NO_REPLY,
  type Incoming,
  METHOD_CALL,
  METHOD_RETURN,
  type Outgoing,
  SIGNAL,
} from './codec.js'
import { Connection } from './connection.js'
import { BUS_NAME, CallError, STANDARD_ERRORS } from './names.js'

/** Connecting, HELLO, the name, and each question to the bus itself */
const BUS_ANSWER_MS = 10_000
/** Default system.conf of dbus-daemon: max_message_size 32 MiB; who sends more is disconnected. */
const REPLY_BYTES_MAX = 31 << 20
/** A caller is told so much of an error */
const ERROR_CHARS_MAX = 2_000

const DRIVER = 'org.freedesktop.DBus'
const DRIVER_PATH = '/org/freedesktop/DBus'

/** Flag of CallError for a call to which no answer came in time. */
export const NO_ANSWER = STANDARD_ERRORS.noReply

export interface BusEvents {
  /** Connected, and known by `name`. `owner`: org.sheepdog is ours; else another daemon of this host has it, and we are next */
  ready(owner: boolean): void
  ownerChanged(owner: boolean): void
  call(message: Incoming): void
  signal(message: Incoming): void
  /** Once, and nothing after it */
  closed(reason: string): void
}

interface Waiting {
  resolve(message: Incoming): void
  reject(error: Error): void
  timer: NodeJS.Timeout
}

export interface Call {
  destination: string
  path: string
  interface: string
  member: string
  signature?: string
  body?: unknown[]
}

export class Bus {
  private readonly connection: Connection
  private readonly waiting = new Map<number, Waiting>()
  private readonly startTimer: NodeJS.Timeout
  private serial = 0
  private isReady = false
  private isOwner = false

  constructor(
    path: string,
    private readonly events: BusEvents,
  ) {
    this.startTimer = setTimeout(() => this.close('the bus does not answer'), BUS_ANSWER_MS)
    this.connection = new Connection(path, {
      ready: () => this.start(),
      message: (message) => this.received(message),
      closed: (reason) => this.ended(reason),
    })
  }

  close(reason: string): void {
    this.connection.close(reason)
  }

  /** Rejects with CallError: the error that was answered, or NO_ANSWER after `ms`. */
  call(call: Call, ms: number): Promise<Incoming> {
    return new Promise((resolve, reject) => {
      const serial = this.nextSerial()
      const timer = setTimeout(() => {
        this.waiting.delete(serial)
        reject(new CallError(NO_ANSWER, `${call.destination} did not answer within ${ms / 1000} s`))
      }, ms)
      this.waiting.set(serial, { resolve, reject, timer })
      this.connection.send(encode(METHOD_CALL, { ...call, serial }))
    })
  }

  driver(member: string, signature: string, ...body: unknown[]): Promise<Incoming> {
    const call = { destination: DRIVER, path: DRIVER_PATH, interface: DRIVER, member, signature, body }
    return this.call(call, BUS_ANSWER_MS)
  }

  /** What is sent to us, too, of signals that others send. CallError */
  async match(rule: string): Promise<void> {
    await this.driver('AddMatch', 's', rule)
  }

  /** CallError */
  async unmatch(rule: string): Promise<void> {
    await this.driver('RemoveMatch', 's', rule)
  }

  /** The user of a connection on this bus. CallError: it has gone */
  async userOf(name: string): Promise<number> {
    return Number((await this.driver('GetConnectionUnixUser', 's', name)).body[0])
  }

  /** To nobody when the caller wants no answer. */
  reply(to: Incoming, signature: string, body: unknown[]): void {
    this.replyWith(to, (reply) => encode(METHOD_RETURN, { ...reply, signature, body }))
  }

  /** `make`: the message, of kind METHOD_RETURN, with these fields. */
  replyWith(to: Incoming, make: (reply: Outgoing) => Buffer): void {
    if (to.flags & FLAG_NO_REPLY) return
    const bytes = make({ destination: to.sender, replySerial: to.serial, serial: this.nextSerial() })
    if (bytes.length <= REPLY_BYTES_MAX) this.connection.send(bytes)
    else this.fail(to, new CallError(STANDARD_ERRORS.limits, `the answer has ${bytes.length} bytes: ask for its parts`))
  }

  fail(to: Incoming, { errorName, message }: CallError): void {
    if (to.flags & FLAG_NO_REPLY) return
    const text = message.replaceAll('\0', ' ').slice(0, ERROR_CHARS_MAX)
    const error = { destination: to.sender, replySerial: to.serial, errorName, signature: 's', body: [text] }
    this.connection.send(this.encoded(ERROR, error))
  }

  /** Daemons of a host that wait for the name say nothing: each signal would be there as often as there are daemons. */
  signal(path: string, face: string, member: string, signature: string, body: unknown[]): void {
    if (this.isOwner) this.connection.send(this.encoded(SIGNAL, { path, interface: face, member, signature, body }))
  }

  private encoded(type: number, message: Omit<Outgoing, 'serial'>): Buffer {
    return encode(type, { ...message, serial: this.nextSerial() })
  }

  private nextSerial(): number {
    this.serial = this.serial === 0xffff_ffff ? 1 : this.serial + 1
    return this.serial
  }

  private start(): void {
    const begin = async (): Promise<void> => {
      await this.driver('Hello', '')
      // Queued behind another daemon of this host when there is one (flags 0): DBUS_REQUEST_NAME_REPLY_PRIMARY_OWNER is 1.
      const reply = await this.driver('RequestName', 'su', BUS_NAME, 0)
      clearTimeout(this.startTimer)
      this.isReady = true
      this.isOwner = this.isOwner || reply.body[0] === 1
      this.events.ready(this.isOwner)
    }
    begin().catch((error: Error) => this.close(error.message))
  }

  private received(message: Incoming): void {
    if (message.type === METHOD_RETURN || message.type === ERROR) this.answered(message)
    else if (message.type === METHOD_CALL) this.events.call(message)
    else if (message.type === SIGNAL) this.signalled(message)
  }

  private answered(message: Incoming): void {
    const waiting = this.waiting.get(message.replySerial)
    if (waiting === undefined) return
    this.waiting.delete(message.replySerial)
    clearTimeout(waiting.timer)
    if (message.type === METHOD_RETURN) waiting.resolve(message)
    else waiting.reject(new CallError(message.errorName, String(message.body[0] ?? message.errorName)))
  }

  private signalled(message: Incoming): void {
    const { sender, member, body } = message
    const name = sender === DRIVER && (member === 'NameAcquired' || member === 'NameLost')
    if (!name) {
      this.events.signal(message)
      return
    }
    const owner = member === 'NameAcquired'
    if (body[0] !== BUS_NAME || owner === this.isOwner) return
    this.isOwner = owner
    if (this.isReady) this.events.ownerChanged(owner)
  }

  private ended(reason: string): void {
    clearTimeout(this.startTimer)
    const error = new CallError(STANDARD_ERRORS.failed, reason)
    for (const { reject, timer } of this.waiting.values()) {
      clearTimeout(timer)
      reject(error)
    }
    this.waiting.clear()
    this.events.closed(reason)
  }
}
