/**
 * What this engine multicasts through CPG: frames that corosync takes whole. A large message is split into parts.
 *
 *     0 magic "SHC1" · 4 u8 type · 5 zeros · 8 stamp (8) · 16 u32 number of the message · 20 u32 part · 24 u32 parts ·
 *     28 u32 bytes of the whole message · 32 bytes of this part                                (integers little-endian)
 *
 * `stamp` names the component (corosync-group.ts) in which it counts. A control frame has zeros there and one part.
 */

/** Version of frames and of what control messages mean; another magic is of a version that this one cannot talk to. */
const MAGIC = Buffer.from('SHC1')
export const HEADER = 32
export const STAMP_BYTES = 8

export const TYPE_PAYLOAD = 1
export const TYPE_CONTROL = 2

/** What one multicast carries. CPG takes nearly 1 MiB at once; smaller ones let other hosts' messages in between. */
export const PART_BYTES = 64 << 10
/** Far more than the largest cluster state. */
export const MESSAGE_BYTES_MAX = 64 << 20

export interface Frame {
  type: number
  /** 16 hex digits */
  stamp: string
  number: number
  part: number
  parts: number
  total: number
  bytes: Buffer
}

export const NO_STAMP = '0'.repeat(STAMP_BYTES * 2)

export function controlFrame(text: string): Buffer {
  const bytes = Buffer.from(text)
  const head = header(TYPE_CONTROL, NO_STAMP, { number: 0, part: 0, parts: 1, total: bytes.length })
  return Buffer.concat([head, bytes])
}

/** How many parts a message of so many bytes has. */
export function partsOf(bytes: number): number {
  return Math.max(1, Math.ceil(bytes / PART_BYTES))
}

export function payloadFrame(stamp: string, number: number, payload: Buffer, part: number): Buffer {
  const parts = partsOf(payload.length)
  const head = header(TYPE_PAYLOAD, stamp, { number, part, parts, total: payload.length })
  return Buffer.concat([head, payload.subarray(part * PART_BYTES, (part + 1) * PART_BYTES)])
}

function header(type: number, stamp: string, rest: Pick<Frame, 'number' | 'part' | 'parts' | 'total'>): Buffer {
  const head = Buffer.alloc(HEADER)
  MAGIC.copy(head)
  head[4] = type
  head.write(stamp, 8, 'hex')
  head.writeUInt32LE(rest.number, 16)
  head.writeUInt32LE(rest.part, 20)
  head.writeUInt32LE(rest.parts, 24)
  head.writeUInt32LE(rest.total, 28)
  return head
}

/** null: not a frame of this version. Shares memory with `bytes`. */
export function decodeFrame(bytes: Buffer): Frame | null {
  if (bytes.length < HEADER || !bytes.subarray(0, 4).equals(MAGIC)) return null
  const frame = {
    type: bytes[4],
    stamp: bytes.toString('hex', 8, 8 + STAMP_BYTES),
    number: bytes.readUInt32LE(16),
    part: bytes.readUInt32LE(20),
    parts: bytes.readUInt32LE(24),
    total: bytes.readUInt32LE(28),
    bytes: bytes.subarray(HEADER),
  }
  const { type, part, parts, total } = frame
  if (type !== TYPE_PAYLOAD && type !== TYPE_CONTROL) return null
  if (total > MESSAGE_BYTES_MAX || parts !== partsOf(total) || part >= parts) return null
  const length = part < parts - 1 ? PART_BYTES : total - part * PART_BYTES
  if (type === TYPE_PAYLOAD && frame.bytes.length !== length) return null
  return frame
}

interface Partial {
  number: number
  parts: Buffer[]
}

/** Puts parts together, one message of a sender at a time: CPG keeps each sender's order. */
export class Joiner {
  private readonly partial = new Map<string, Partial>()

  /** The whole message with its last part; null before, and when its beginning was not seen. */
  add(sender: string, frame: Frame): Buffer | null {
    const { number, part, parts, bytes } = frame
    if (parts === 1) {
      this.partial.delete(sender)
      return bytes
    }
    if (part === 0) this.partial.set(sender, { number, parts: [] })
    const partial = this.partial.get(sender)
    if (partial === undefined || partial.number !== number || partial.parts.length !== part) {
      this.partial.delete(sender)
      return null
    }
    partial.parts.push(bytes)
    if (partial.parts.length < parts) return null
    this.partial.delete(sender)
    return Buffer.concat(partial.parts)
  }

  /** What was sent before counts no more. */
  clear(): void {
    this.partial.clear()
  }
}
