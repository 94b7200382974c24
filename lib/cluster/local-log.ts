/**
 * The log that the members of the local engine append to and read: one file a generation, records in the order in which the kernel
 * took them.
 *
 *     head     "CRC JSON\n": boot id, generation, nonce, members at its beginning
 *     record   0 nonce (8) · 8 u32 payload length · 12 u32 crc32 of the rest · 16 u8 kind · 17 zeros · 20 u32 number ·
 *              24 sender (16 ASCII) · 40 payload                                                 (integers little-endian)
 *
 * A writer that is killed inside write(2), or meets a full disk, leaves part of a record; nobody can take it back, since others
 * append behind it. So a reader that finds no whole record looks for the next nonce. When a whole record begins inside the
 * range that an unfinished one claims, that one will never be finished: the kernel does one append after the other. All
 * readers come to the same records whenever they look.
 */
import fs from 'node:fs'
import { crc32 } from 'node:zlib'

export const KIND_JOIN = 1
/** payload: the member's id */
export const KIND_LEAVE = 2
export const KIND_MESSAGE = 3
/** Nothing after it counts: go on in the next generation. payload: this generation */
export const KIND_SEAL = 4

const HEADER = 40
const NONCE = 8
export const ID_LENGTH = 16
/** Far more than the largest cluster state. */
export const PAYLOAD_MAX = 64 << 20
const READ_BYTES = 1 << 18

export interface LogHead {
  boot: string
  generation: number
  /** 16 hex digits */
  nonce: string
  /** In the order of joining, with the number of the last record of each */
  members: [string, number][]
}

export interface LogRecord {
  kind: number
  sender: string
  /** Rises with each record of the sender; 0: not counted */
  number: number
  payload: Buffer
}

export function encodeHead(head: LogHead): Buffer {
  const json = JSON.stringify(head)
  return Buffer.from(`${crc32(json).toString(16).padStart(8, '0')} ${json}\n`)
}

/** null when the file does not begin with a whole head. */
export function readHead(fd: number): { head: LogHead; length: number } | null {
  const start = Buffer.alloc(1 << 16)
  const bytes = fs.readSync(fd, start, 0, start.length, 0)
  const end = start.subarray(0, bytes).indexOf(0x0a)
  if (end < 10) return null
  const json = start.toString('utf8', 9, end)
  if (Number.parseInt(start.toString('utf8', 0, 8), 16) !== crc32(json)) return null
  return { head: JSON.parse(json) as LogHead, length: end + 1 }
}

export function encodeRecord(nonce: Buffer, record: LogRecord): Buffer {
  const { kind, sender, number, payload } = record
  const bytes = Buffer.alloc(HEADER + payload.length)
  nonce.copy(bytes, 0)
  bytes.writeUInt32LE(payload.length, 8)
  bytes[16] = kind
  bytes.writeUInt32LE(number, 20)
  bytes.write(sender, 24, ID_LENGTH, 'latin1')
  payload.copy(bytes, HEADER)
  bytes.writeUInt32LE(checksum(bytes, 0, payload.length), 12)
  return bytes
}

function checksum(bytes: Buffer, at: number, length: number): number {
  return crc32(bytes.subarray(at + 16, at + HEADER + length), crc32(bytes.subarray(at + 8, at + 12)))
}

/** Reads one generation from behind its head. */
export class LogReader {
  private buffer = Buffer.allocUnsafe(2 * READ_BYTES)
  private start = 0
  private end = 0
  /** Of buffer[start] in the file */
  private position: number

  constructor(
    readonly fd: number,
    readonly nonce: Buffer,
    position: number,
  ) {
    this.position = position
  }

  /** The next record; null when there is none yet. */
  next(): LogRecord | null {
    for (;;) {
      const record = this.parse()
      if (record !== null) return record
      if (this.fill() === 0) return null
    }
  }

  private fill(): number {
    const held = this.end - this.start
    if (this.buffer.length - this.end < READ_BYTES) {
      const target = held + READ_BYTES > this.buffer.length ? Buffer.allocUnsafe(2 * (held + READ_BYTES)) : this.buffer
      this.buffer.copy(target, 0, this.start, this.end)
      this.buffer = target
      this.start = 0
      this.end = held
    }
    const bytes = fs.readSync(this.fd, this.buffer, this.end, READ_BYTES, this.position + held)
    this.end += bytes
    return bytes
  }

  private skip(bytes: number): void {
    this.start += bytes
    this.position += bytes
  }

  /** Drops what is no record; null when what is there is no whole one. */
  private parse(): LogRecord | null {
    for (;;) {
      const found = this.buffer.subarray(this.start, this.end).indexOf(this.nonce)
      if (found < 0) {
        // The last bytes may be the beginning of a nonce.
        this.skip(Math.max(0, this.end - this.start - (NONCE - 1)))
        return null
      }
      this.skip(found)
      const length = this.lengthAt(this.start)
      if (length >= 0 && this.start + HEADER + length <= this.end) {
        if (this.soundAt(this.start, length)) return this.take(length)
        this.skip(1)
      } else {
        const later = this.wholeRecordAfter(this.start)
        if (later < 0) return null
        this.skip(later - this.start)
      }
    }
  }

  /** Payload length; -1 when the header is not all there or the length is absurd. */
  private lengthAt(at: number): number {
    if (at + HEADER > this.end) return -1
    const length = this.buffer.readUInt32LE(at + 8)
    return length <= PAYLOAD_MAX ? length : -1
  }

  private soundAt(at: number, length: number): boolean {
    return this.buffer.readUInt32LE(at + 12) === checksum(this.buffer, at, length)
  }

  private wholeRecordAfter(at: number): number {
    const limit = this.buffer.subarray(0, this.end)
    for (let found = limit.indexOf(this.nonce, at + 1); found >= 0; found = limit.indexOf(this.nonce, found + 1)) {
      const length = this.lengthAt(found)
      if (length >= 0 && found + HEADER + length <= this.end && this.soundAt(found, length)) return found
    }
    return -1
  }

  private take(length: number): LogRecord {
    const { buffer, start } = this
    const record = {
      kind: buffer[start + 16],
      number: buffer.readUInt32LE(start + 20),
      sender: buffer.toString('latin1', start + 24, start + HEADER),
      payload: Buffer.from(buffer.subarray(start + HEADER, start + HEADER + length)),
    }
    this.skip(HEADER + length)
    return record
  }
}
