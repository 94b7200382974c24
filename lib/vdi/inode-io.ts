/** Inode objects through ObjectIo, in messages of bounded size. */
import {
  decodeIndex,
  encodeHeader,
  encodeIndex,
  entryPosition,
  headerOf,
  INDEX_OFFSET,
  LENGTH_BYTES,
  LENGTH_OFFSET,
  usedEntries,
} from './inode.js'
import { inOneEpoch, type ObjectIo } from './object-io.js'
import { inodeOid, type Oid } from './oid.js'
import type { VdiEntry } from './types.js'

/** Bytes of one read or write. */
export const IO_CHUNK = 2 ** 20

/** Reads or writes of one operation that run at once. */
const CHUNKS_AT_ONCE = 4

/** Runs `work` for 0 to count-1, at most `atOnce` at a time. The first failure is thrown when those that run have ended. */
export async function spread(count: number, atOnce: number, work: (i: number) => Promise<void>): Promise<void> {
  let next = 0
  const failures: unknown[] = []
  const lane = async () => {
    while (next < count && failures.length === 0) {
      try {
        await work(next++)
      } catch (error) {
        failures.push(error)
      }
    }
  }
  await Promise.all(Array.from({ length: Math.min(atOnce, count) }, lane))
  if (failures.length > 0) throw failures[0]
}

/** Index entries [first, end) of a VDI. SheepError no-object, invalid (damaged), and ObjectIo's. */
export async function readIndex(io: ObjectIo, vid: number, first: number, end: number): Promise<Uint32Array> {
  const index = new Uint32Array(end - first)
  const step = IO_CHUNK / 4
  await spread(Math.ceil(index.length / step), CHUNKS_AT_ONCE, async (i) => {
    const at = i * step
    const count = Math.min(step, index.length - at)
    index.set(decodeIndex(await io.read(inodeOid(vid), entryPosition(first + at), 4 * count)), at)
  })
  return index
}

/** Writes `bytes` into an object, piece by piece; `create`: the first piece makes it. */
export async function writePieces(
  io: ObjectIo,
  oid: Oid,
  bytes: Buffer,
  position: number,
  create: boolean,
): Promise<void> {
  if (create) await io.create(oid, position, bytes.subarray(0, IO_CHUNK))
  const start = create ? IO_CHUNK : 0
  await spread(Math.ceil(Math.max(0, bytes.length - start) / IO_CHUNK), CHUNKS_AT_ONCE, (i) => {
    const at = start + i * IO_CHUNK
    return io.write(oid, position + at, bytes.subarray(at, at + IO_CHUNK))
  })
}

/** Makes the inode object of `entry` with this index, durable on return. */
export async function createInode(
  io: ObjectIo,
  entry: VdiEntry,
  index: Uint32Array,
  fileLength: Buffer = NO_LENGTH,
): Promise<void> {
  const used = index.subarray(0, usedEntries(index))
  const header = encodeHeader(headerOf(entry))
  fileLength.copy(header, LENGTH_OFFSET)
  const bytes = Buffer.concat([header, encodeIndex(used)], INDEX_OFFSET + 4 * used.length)
  await inOneEpoch(io, async () => {
    await writePieces(io, inodeOid(entry.vid), bytes, 0, true)
    await io.flush(entry.vid)
  })
}

/** Of a growing file, as LengthRecord (lib/gateway) writes it. */
export function readLength(io: ObjectIo, vid: number): Promise<Buffer> {
  return io.read(inodeOid(vid), LENGTH_OFFSET, LENGTH_BYTES)
}

const NO_LENGTH = Buffer.alloc(LENGTH_BYTES)
