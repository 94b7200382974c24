/**
 * The first 4096 bytes of an object's file; its data follows. Little-endian:
 *
 *     0  8  magic "SHEEPOBJ"
 *     8  4  version, 2
 *    12  4  flags, 0
 *    16  8  oid: low word, high word (lib/vdi/oid.ts, the wire's form)
 *    24  4  writeEpoch
 *    28  4  checkEpoch
 *    32  4  log2 of a chunk's bytes; 0: no checksums
 *    36  256 checksums of CHUNKS chunks (checksums.ts)
 *   508  4  crc32 of bytes 0..507
 *
 * Version 1 has zeros in 32..507: no checksums. It is read, and becomes version 2 with the next header write.
 *
 * Everything lies in the first 512 bytes and is written in one aligned 4096-byte write: one sector on any disk, so a
 * power loss leaves the old header or the new one. The whole page is written so that the kernel need not read it first.
 *
 * A header may reach the disk before the data it speaks of, or the data without it. Neither is believed by itself: the
 * object had an intent before it was touched, and is checked before it serves.
 */
import { crc32 } from 'node:zlib'
import { assert } from '../assert.js'
import { highWord, lowWord, type Oid, oidFromWords } from '../vdi/oid.js'
import { CHUNKS, type Checksums, SHIFT_MAX, SHIFT_MIN } from './checksums.js'

export const HEADER_BYTES = 4096
/** What must be read to decode a header. */
export const HEADER_USED_BYTES = 512

const MAGIC = Buffer.from('SHEEPOBJ', 'latin1')
export const VERSION = 2
const VERSION_MIN = 1
const SHIFT_AT = 32
const SUMS_AT = 36
const CRC_AT = 508
const EPOCH_MAX = 0xffffffff

export interface Header {
  oid: Oid
  writeEpoch: number
  checkEpoch: number
  /** log2 of a chunk's bytes; 0: the header holds no checksums */
  shift: number
}

export function assertEpoch(epoch: number): void {
  assert(Number.isInteger(epoch) && epoch >= 0 && epoch <= EPOCH_MAX, 'an epoch is a 32-bit number')
}

/** Fills `buffer` (HEADER_BYTES, zero beyond what a former header wrote). */
export function encodeHeader(
  buffer: Buffer,
  oid: Oid,
  writeEpoch: number,
  checkEpoch: number,
  checksums: Checksums | null = null,
): void {
  MAGIC.copy(buffer)
  buffer.writeUInt32LE(VERSION, 8)
  buffer.writeUInt32LE(0, 12)
  buffer.writeUInt32LE(lowWord(oid), 16)
  buffer.writeUInt32LE(highWord(oid), 20)
  buffer.writeUInt32LE(writeEpoch, 24)
  buffer.writeUInt32LE(checkEpoch, 28)
  if (checksums === null) {
    buffer.fill(0, SHIFT_AT, SUMS_AT + CHUNKS * 4)
  } else {
    buffer.writeUInt32LE(checksums.shift, SHIFT_AT)
    for (let chunk = 0; chunk < CHUNKS; chunk++) buffer.writeUInt32LE(checksums.sums[chunk], SUMS_AT + chunk * 4)
  }
  buffer.writeUInt32LE(crc32(buffer.subarray(0, CRC_AT)), CRC_AT)
}

/**
 * `bytes`: the start of a file, as many as there are. `empty`: nothing but zeros, what a crash leaves of a file that was
 * never synced. A text says what is wrong.
 */
export function decodeHeader(bytes: Buffer): Header | 'empty' | 'newer' | string {
  const used = bytes.subarray(0, HEADER_USED_BYTES)
  if (used.every((byte) => byte === 0)) return 'empty'
  if (used.length < HEADER_USED_BYTES) return `only ${used.length} bytes`
  if (!MAGIC.equals(used.subarray(0, MAGIC.length))) return 'no object header'
  if (used.readUInt32LE(CRC_AT) !== crc32(used.subarray(0, CRC_AT))) return 'header checksum does not match'
  const version = used.readUInt32LE(8)
  if (version < VERSION_MIN || version > VERSION) return 'newer'
  const oid = oidFromWords(used.readUInt32LE(20), used.readUInt32LE(16))
  if (oid < 0) return 'header names no valid object'
  const shift = version === 1 ? 0 : used.readUInt32LE(SHIFT_AT)
  if (shift !== 0 && (shift < SHIFT_MIN || shift > SHIFT_MAX)) return 'newer'
  return { oid, writeEpoch: used.readUInt32LE(24), checkEpoch: used.readUInt32LE(28), shift }
}

/** The checksums in the start of this object's file; null: none, or no header of this object. */
export function decodeChecksums(bytes: Buffer, oid: Oid): Checksums | null {
  const header = decodeHeader(bytes)
  if (typeof header === 'string' || header.oid !== oid || header.shift === 0) return null
  const sums = new Uint32Array(CHUNKS)
  for (let chunk = 0; chunk < CHUNKS; chunk++) sums[chunk] = bytes.readUInt32LE(SUMS_AT + chunk * 4)
  return { shift: header.shift, sums }
}
