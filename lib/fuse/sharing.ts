/** Copies between files: whole objects of a snapshot are shared, the rest is copied here instead of through the copying program. */
import { SheepError } from '../errors.js'
import { DIFFERENT } from '../gateway/share.js'
import type { FileVolume } from '../gateway/types.js'
import { type Slab, takeSlab } from '../host/slab.js'
import { completed } from '../store/completed.js'
import type { OpenFile } from './open-file.js'
import { type ProposerParts, proposePatiently } from './parts.js'
import { FuseError } from './session.js'

const PIECE = 1 << 20
/** Of one request: the next one tells of progress, and may be interrupted before it */
const COPY_MAX = 64 << 20

/** Bytes copied, fewer than asked at times. FuseError. */
export async function copyRange(
  source: OpenFile,
  target: OpenFile,
  from: number,
  to: number,
  length: number,
): Promise<number> {
  const errno = await source.prepare(false)
  if (errno !== 0) throw new FuseError(errno)
  const shared = from === to ? await target.shareFrom(source, from, length) : 0
  return shared > 0 ? shared : copyBytes(source, target, from, to, Math.min(length, COPY_MAX))
}

async function copyBytes(
  source: OpenFile,
  target: OpenFile,
  from: number,
  to: number,
  length: number,
): Promise<number> {
  const slab: Slab = takeSlab(PIECE)
  try {
    for (let done = 0; done < length; ) {
      const count = Math.min(PIECE, length - done)
      const got = await again(source, false, (one) => source.read(slab.bytes, 0, count, from + done, one))
      if (got === 0) return done
      await again(target, true, (one) => target.write(slab.bytes, 0, got, to + done, one))
      done += got
    }
    return length
  } finally {
    slab.release()
  }
}

/** False: this volume, which is open for writing, has another parent, or snapshots. SheepError */
export async function descendFrom(parts: ProposerParts, volume: FileVolume, parent: number): Promise<boolean> {
  if (volume.entry.parent === parent) return true
  try {
    await proposePatiently(parts, () => ({ op: 'adopt', vid: volume.entry.vid, parent }))
    return true
  } catch (error) {
    if (error instanceof SheepError && error.code === 'invalid') return false
    throw error
  }
}

/** An object with the bytes of the snapshot's becomes the snapshot's, if the volume may descend from it. 0 or a negative errno; SheepError */
export async function shareEqual(
  parts: ProposerParts,
  volume: FileVolume,
  snapshot: FileVolume,
  index: number,
): Promise<number> {
  const { objectSize, entry } = volume
  // Whose space was reserved keeps it.
  if (snapshot.objectSize !== objectSize || entry.preallocated) return DIFFERENT
  const at = index * objectSize
  const length = Math.min(objectSize, snapshot.size - at)
  const isHole = length <= 0 || (await snapshot.extents(length, at)).length === 0
  if (!isHole && entry.parent !== snapshot.entry.vid) {
    const same = await volume.share(index, snapshot, 'compare')
    if (same < 0) return same
    if (!(await descendFrom(parts, volume, snapshot.entry.vid))) return DIFFERENT
  }
  return volume.share(index, snapshot, 'equal')
}

/** Until the file has a volume. */
async function again(
  file: OpenFile,
  writes: boolean,
  start: (done: { complete(result: number): void }) => void,
): Promise<number> {
  for (;;) {
    const result = await completed(start)
    if (result >= 0) return result
    if (result !== -108) throw new FuseError(-result)
    const errno = await file.prepare(writes)
    if (errno !== 0) throw new FuseError(errno)
  }
}
