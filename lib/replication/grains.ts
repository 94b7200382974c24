/**
 * What an object holds, in short: a hash of each 64 KiB grain that is not all zeros. Equal lists mean equal bytes as a
 * client would read them, however the holes lie. SHA-1: against accidents, not adversaries.
 */
import { createHash } from 'node:crypto'
import { SheepError } from '../errors.js'
import type { ObjectStore, StoredObject } from '../store/types.js'

export const GRAIN = 65_536
const HASH_BYTES = 20
const ENTRY_BYTES = 4 + HASH_BYTES
const READ_SIZE = 16 * GRAIN
const ZEROS = Buffer.alloc(GRAIN)
const OBJECT_BYTES_MAX = 0x80000000

export interface Grains {
  /** Grain number -> hash */
  hashes: Map<number, Buffer>
  /** Bytes read */
  bytes: number
}

/** SheepError io: the disk cannot read it. */
export async function grainsOf(store: ObjectStore, object: StoredObject): Promise<Grains> {
  const hashes = new Map<number, Buffer>()
  const buffer = Buffer.allocUnsafe(READ_SIZE)
  let bytes = 0
  let next = 0
  for (const { offset, length } of store.extents(object, 0, OBJECT_BYTES_MAX)) {
    // Extents begin where the file system's blocks do; grains begin at the same places on every node.
    const end = Math.ceil((offset + length) / GRAIN) * GRAIN
    for (let at = Math.max(next, Math.floor(offset / GRAIN) * GRAIN); at < end; at += READ_SIZE) {
      const size = Math.min(READ_SIZE, end - at)
      const result = await new Promise<number>((resolve) =>
        store.read(object, buffer, 0, size, at, { complete: resolve }),
      )
      if (result < 0) throw new SheepError('io', `reading an object failed with errno ${-result}`)
      bytes += size
      for (let grain = 0; grain < size; grain += GRAIN) {
        if (buffer.compare(ZEROS, 0, GRAIN, grain, grain + GRAIN) === 0) continue
        const hash = createHash('sha1')
          .update(buffer.subarray(grain, grain + GRAIN))
          .digest()
        hashes.set((at + grain) / GRAIN, hash)
      }
    }
    next = Math.max(next, end)
  }
  return { hashes, bytes }
}

/** One hash of all. */
export function digestOf(grains: Grains): string {
  return createHash('sha1').update(encodeGrains(grains)).digest('hex')
}

export function encodeGrains({ hashes }: Grains): Buffer {
  const bytes = Buffer.alloc(hashes.size * ENTRY_BYTES)
  let at = 0
  for (const [grain, hash] of hashes) {
    bytes.writeUInt32LE(grain, at)
    hash.copy(bytes, at + 4)
    at += ENTRY_BYTES
  }
  return bytes
}

/** SheepError invalid on garbage. */
export function decodeGrains(bytes: Buffer): Map<number, Buffer> {
  if (bytes.length % ENTRY_BYTES !== 0) throw new SheepError('invalid', 'a list of grains is cut short')
  const hashes = new Map<number, Buffer>()
  for (let at = 0; at < bytes.length; at += ENTRY_BYTES) {
    const grain = bytes.readUInt32LE(at)
    if (grain >= OBJECT_BYTES_MAX / GRAIN) throw new SheepError('invalid', 'a grain lies outside any object')
    hashes.set(grain, bytes.subarray(at + 4, at + ENTRY_BYTES))
  }
  return hashes
}

export interface GrainDifference {
  /** To be read from the other */
  fetch: number[]
  /** All zeros there, not here */
  clear: number[]
}

/** What makes `own` equal to `other`. */
export function differingGrains(own: Map<number, Buffer>, other: Map<number, Buffer>): GrainDifference {
  const fetch: number[] = []
  const clear: number[] = []
  for (const [grain, hash] of other) if (own.get(grain)?.equals(hash) !== true) fetch.push(grain)
  for (const grain of own.keys()) if (!other.has(grain)) clear.push(grain)
  return { fetch, clear }
}
