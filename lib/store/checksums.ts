/**
 * Checksums of an object at rest: CRC-32 of each of its CHUNKS chunks, against accidents, not adversaries. 4 MiB objects
 * have chunks of 64 KiB; larger ones larger chunks. A chunk that is all zeros has the sum 0 (and no other has), so that
 * holes cost nothing and count as what they are read as.
 *
 * What is read comes from the page cache when it is there: then the disk's own bytes are looked at by the next scrub after
 * the cache has let go of them.
 */
import { crc32 } from 'node:zlib'
import type { Disk, Extent } from '../host/interfaces.js'
import { completed } from './completed.js'

export const CHUNKS = 64
/** A page: 4 KiB */
export const SHIFT_MIN = 12
/** 2 GiB objects */
export const SHIFT_MAX = 25

export interface Checksums {
  /** log2 of a chunk's bytes */
  shift: number
  /** CHUNKS of them. Chunk i is bytes [i << shift, (i + 1) << shift) of the object */
  sums: Uint32Array
}

/** No chunk has it: the disk could not read the chunk. */
export const UNREADABLE = -1

/** One read: the event loop is held for some 30 us. */
const STEP = 65_536
/** Read between two pauses: less than 1 ms */
const RUN = 16 * STEP
const ZEROS = Buffer.alloc(STEP)

/** Chunks that are just large enough for an object of so many bytes. */
export function shiftFor(bytes: number): number {
  let shift = SHIFT_MIN
  while (shift < SHIFT_MAX && CHUNKS * 2 ** shift < bytes) shift++
  return shift
}

export function sumOf(chunk: Uint8Array): number {
  const sum = new ChunkSum()
  for (let at = 0; at < chunk.length; at += STEP) sum.add(chunk.subarray(at, Math.min(at + STEP, chunk.length)))
  return sum.value
}

class ChunkSum {
  private crc = 0
  private zeros = true

  add(bytes: Uint8Array): void {
    this.crc = crc32(bytes, this.crc)
    if (this.zeros) this.zeros = ZEROS.compare(bytes, 0, bytes.length, 0, bytes.length) === 0
  }

  addZeros(length: number): void {
    this.crc = crc32(ZEROS.subarray(0, length), this.crc)
  }

  get value(): number {
    return this.zeros ? 0 : this.crc || 1
  }
}

/** Sums chunks of one open file, whose data begins at `start`. */
export class ChunkReader {
  private readonly buffer = Buffer.allocUnsafe(STEP)
  private readonly extents: readonly Extent[]
  private sinceRest = 0

  /** @param rest lets others have their turn, after so many bytes were read */
  constructor(
    private readonly disk: Disk,
    private readonly fd: number,
    private readonly start: number,
    private readonly rest: (bytes: number) => Promise<void>,
  ) {
    this.extents = disk.extents(fd, start, CHUNKS * 2 ** SHIFT_MAX)
  }

  /** UNREADABLE: an I/O error. */
  async sum(chunk: number, shift: number): Promise<number> {
    const sum = new ChunkSum()
    const end = (chunk + 1) * 2 ** shift
    let hole = true
    for (let at = chunk * 2 ** shift; at < end; at += STEP) {
      const length = Math.min(STEP, end - at)
      if (!this.hasData(at, length)) {
        if (!hole) sum.addZeros(length)
        continue
      }
      if (hole) for (let zero = chunk * 2 ** shift; zero < at; zero += STEP) sum.addZeros(STEP)
      hole = false
      const position = this.start + at
      const got = await completed((done) => this.disk.read(this.fd, this.buffer, 0, length, position, done))
      if (got < 0) return UNREADABLE
      if (got < length) this.buffer.fill(0, got, length)
      sum.add(this.buffer.subarray(0, length))
      this.sinceRest += length
      if (this.sinceRest >= RUN) {
        const bytes = this.sinceRest
        this.sinceRest = 0
        await this.rest(bytes)
      }
    }
    return sum.value
  }

  private hasData(at: number, length: number): boolean {
    const from = this.start + at
    return this.extents.some((extent) => extent.offset < from + length && extent.offset + extent.length > from)
  }
}
