/**
 * Object ids. On the wire and on disk an oid is 64 bits: index in bits 0-31, vid in 32-55, attribute 61, VM state 62,
 * inode 63 (wire-protocol.md). In memory it is one safe integer, so that it can be a Map key and compared without a
 * bigint: kind * 2^48 + vid * 2^24 + index. Indexes over 2^24-1 do not occur: an inode holds 2^20 entries.
 */
import { assert } from '../assert.js'

export type Oid = number

export const KIND_DATA = 0
export const KIND_INODE = 1
export const KIND_VM_STATE = 2
export const KIND_ATTRIBUTE = 3

export const MAX_VID = 0xffffff
export const MAX_INDEX = 0xffffff

const INDEX_SPAN = 0x1000000
const KIND_SPAN = 0x1000000000000

export function dataOid(vid: number, index: number): Oid {
  return vid * INDEX_SPAN + index
}

export function inodeOid(vid: number): Oid {
  return KIND_SPAN + vid * INDEX_SPAN
}

export function vmStateOid(vid: number, index: number): Oid {
  return 2 * KIND_SPAN + vid * INDEX_SPAN + index
}

export function kindOf(oid: Oid): number {
  return Math.floor(oid / KIND_SPAN)
}

export function vidOf(oid: Oid): number {
  return Math.floor(oid / INDEX_SPAN) % INDEX_SPAN
}

export function indexOf(oid: Oid): number {
  return oid % INDEX_SPAN
}

/** Upper 32 bits of the wire form. */
export function highWord(oid: Oid): number {
  const kind = kindOf(oid)
  const flag =
    kind === KIND_DATA ? 0 : kind === KIND_INODE ? 0x80000000 : kind === KIND_VM_STATE ? 0x40000000 : 0x20000000
  return (flag | vidOf(oid)) >>> 0
}

/** Lower 32 bits of the wire form. */
export function lowWord(oid: Oid): number {
  return indexOf(oid)
}

/** From the wire form's words; -1 when they are no valid oid. Never throws: the words may come from a stranger. */
export function oidFromWords(high: number, low: number): Oid {
  if (low > MAX_INDEX) return -1
  const flags = high >>> 24
  const vid = high & 0xffffff
  if (vid === 0) return -1
  const base = vid * INDEX_SPAN + low
  if (flags === 0) return base
  if (flags === 0x80) return low === 0 ? KIND_SPAN + base : -1
  if (flags === 0x40) return 2 * KIND_SPAN + base
  if (flags === 0x20) return 3 * KIND_SPAN + base
  return -1
}

/** 16 hexadecimal digits: the object's file name. */
export function oidToHex(oid: Oid): string {
  return highWord(oid).toString(16).padStart(8, '0') + lowWord(oid).toString(16).padStart(8, '0')
}

/** -1 when the text is not exactly an oid in the form of oidToHex. */
export function oidFromHex(text: string): Oid {
  if (!/^[0-9a-f]{16}$/.test(text)) return -1
  return oidFromWords(Number.parseInt(text.slice(0, 8), 16), Number.parseInt(text.slice(8), 16))
}

export function assertOid(oid: Oid): void {
  assert(Number.isSafeInteger(oid) && oid > 0 && vidOf(oid) > 0, `an oid names a vid: ${oid}`)
}
