/** Block status: what a volume's extents are in the terms of the base:allocation context. */
import type { Extent } from '../host/interfaces.js'
import { META_CONTEXT_ID, STATE_HOLE, STATE_ZERO } from './constants.js'

/** Descriptors in one reply: 64 KiB. The protocol lets a reply cover less than was asked, and clients go on from there. */
export const DESCRIPTORS_MAX = 8192
/** Longest range looked up for one request, bytes: a bound on what one request costs. */
export const SPAN_MAX = 1 << 30

/**
 * Payload of the reply: the context's id, then (length, flags) for each range from `offset` on.
 * @param extents ranges with data within [offset, offset + length), in order; the rest reads as zeros
 * @param limit most descriptors
 */
export function blockStatus(offset: number, length: number, extents: readonly Extent[], limit: number): Buffer {
  const words: number[] = []
  let lastFlags = -1
  /** False: it would take one descriptor too many. */
  const add = (bytes: number, flags: number): boolean => {
    if (bytes === 0) return true
    if (flags === lastFlags) {
      words[words.length - 2] += bytes
      return true
    }
    if (words.length === 2 * limit) return false
    words.push(bytes, flags)
    lastFlags = flags
    return true
  }
  const end = offset + length
  let at = offset
  for (const extent of extents) {
    const start = Math.max(extent.offset, at)
    const stop = Math.min(extent.offset + extent.length, end)
    if (stop <= start) continue
    if (!add(start - at, STATE_HOLE | STATE_ZERO) || !add(stop - start, 0)) return encode(words)
    at = stop
  }
  add(end - at, STATE_HOLE | STATE_ZERO)
  return encode(words)
}

function encode(words: readonly number[]): Buffer {
  const payload = Buffer.allocUnsafe(4 + 4 * words.length)
  payload.writeUInt32BE(META_CONTEXT_ID, 0)
  for (const [i, word] of words.entries()) payload.writeUInt32BE(word, 4 + 4 * i)
  return payload
}
