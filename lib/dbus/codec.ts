/**
 * Messages to and from bytes, by dbus-next's codec. Its connection and its bus object are not used: they end the process when a message
 * names a file descriptor that was not sent, or when the bus refuses HELLO; they read messages of any size, and keep what the
 * bus does not take without a limit (dbus-next 0.10.2: lib/dbus-buffer.js, lib/bus.js, lib/message.js, lib/connection.js).
 */
import { createRequire } from 'node:module'
import type { Message as MessageType, Variant as VariantType } from 'dbus-next'

const load = createRequire(import.meta.url)

interface Reader {
  readonly buffer: Buffer
  readonly pos: number
  readInt8(): number
  readString(bytes: number): string
  readArray(element: unknown, bytes: number): unknown[]
  readStruct(members: unknown[]): unknown[]
  align(power: number): void
  read(signature: string): unknown[]
}

const { Message } = load('dbus-next/lib/message-type.js') as { Message: typeof MessageType }
const { Variant: VariantClass } = load('dbus-next/lib/variant.js') as { Variant: typeof VariantType }
const DBusBuffer = load('dbus-next/lib/dbus-buffer.js') as {
  new (bytes: Buffer, start: number, endian: number, descriptors: null, options: object): Reader
}
const { marshallMessage, messageToJsFmt } = load('dbus-next/lib/marshall-compat.js') as {
  marshallMessage(message: MessageType): [Buffer, unknown[]]
  messageToJsFmt(message: { signature: string; body: unknown[] }): { body: unknown[] }
}
const { parseSignature } = load('dbus-next/lib/signature.js') as {
  parseSignature(signature: string): { child: unknown[] }[]
}

export const METHOD_CALL = 1
export const METHOD_RETURN = 2
export const ERROR = 3
export const SIGNAL = 4

export const FLAG_NO_REPLY = 1
/** The caller can wait while somebody is asked for a password. */
export const FLAG_INTERACTIVE = 4

const LITTLE_ENDIAN = 0x6c
const FIXED_BYTES = 16
const HEADER_FIELD = parseSignature('a(yv)')[0].child[0]

/** Header field codes of the specification, and what they are called here */
const FIELDS = ['', 'path', 'interface', 'member', 'errorName', 'replySerial', 'destination', 'sender', 'signature']

/** dbus-next's, which believes every length that it reads, within the message that there is. */
class BoundedReader extends DBusBuffer {
  override readInt8(): number {
    this.within(1)
    return super.readInt8()
  }

  override readString(bytes: number): string {
    this.within(bytes)
    return super.readString(bytes)
  }

  override readArray(element: unknown, bytes: number): unknown[] {
    this.within(bytes)
    return super.readArray(element, bytes)
  }

  override readStruct(members: unknown[]): unknown[] {
    // An array of what has no bytes would have no end.
    if (members.length === 0) throw new Error('an empty structure')
    return super.readStruct(members)
  }

  private within(bytes: number): void {
    if (bytes > this.buffer.length - this.pos) throw new Error('a length beyond the end of the message')
  }
}

/** What came from the bus. Names that the kind of message does not have are ''. */
export interface Incoming {
  type: number
  flags: number
  serial: number
  path: string
  interface: string
  member: string
  errorName: string
  replySerial: number
  destination: string
  sender: string
  signature: string
  /** Empty when `unreadable` is set */
  body: unknown[]
  /** Why its arguments cannot be read; '' they are in `body` */
  unreadable: string
}

export function variant(signature: string, value: unknown): VariantType {
  return new VariantClass(signature, value)
}

/** The value of a variant in a body, whose type the sender chose. */
export function plainOf(value: unknown): unknown {
  return value instanceof VariantClass ? value.value : value
}

/** Bytes of the whole message that begins with these 16, and of its header. */
export function frameBytes(fixed: Buffer): { total: number; header: number } {
  const u32 = (at: number): number => (fixed[0] === LITTLE_ENDIAN ? fixed.readUInt32LE(at) : fixed.readUInt32BE(at))
  const header = FIXED_BYTES + Math.ceil(u32(12) / 8) * 8
  return { total: header + u32(4), header }
}

/**
 * @param bytes a whole message, which the bus has found well-formed; or its header, when `unread` says why the rest was not kept
 * @throws when even the header cannot be read
 */
export function decode(bytes: Buffer, unread = ''): Incoming {
  const endian = bytes[0]
  const u32 = (at: number): number => (endian === LITTLE_ENDIAN ? bytes.readUInt32LE(at) : bytes.readUInt32BE(at))
  const reader = new BoundedReader(bytes.subarray(FIXED_BYTES), 0, endian, null, {})
  const header: Record<string, unknown> = {}
  const fields = reader.readArray(HEADER_FIELD, u32(12)) as [number, [unknown, [unknown]]][]
  for (const [code, [, [value]]] of fields) {
    if (code > 0 && code < FIELDS.length) header[FIELDS[code]] = value
  }
  const text = (name: string): string => (typeof header[name] === 'string' ? (header[name] as string) : '')
  const incoming: Incoming = {
    type: bytes[1],
    flags: bytes[2],
    serial: u32(8),
    path: text('path'),
    interface: text('interface'),
    member: text('member'),
    errorName: text('errorName'),
    replySerial: Number(header.replySerial ?? 0),
    destination: text('destination'),
    sender: text('sender'),
    signature: text('signature'),
    body: [],
    unreadable: unread,
  }
  if (unread !== '' || incoming.signature === '') return incoming
  try {
    reader.align(3)
    const { signature } = incoming
    incoming.body = messageToJsFmt({ signature, body: reader.read(signature) }).body
  } catch (error) {
    incoming.unreadable = `its arguments cannot be read: ${(error as Error).message}`
  }
  return incoming
}

export interface Outgoing {
  serial: number
  destination?: string
  path?: string
  interface?: string
  member?: string
  errorName?: string
  replySerial?: number
  flags?: number
  signature?: string
  body?: unknown[]
}

/** @throws when the body is not of its signature */
export function encode(type: number, message: Outgoing): Buffer {
  return marshallMessage(new Message({ ...message, type } as never))[0]
}
