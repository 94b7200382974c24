/**
 * An object of a snapshot becomes one of a VDI that descends from it, without a copy: the index names its owner, and what the VDI had
 * there goes. The caller holds back all other requests of the object, and holds the snapshot open, so that it is not deleted before the
 * index names what it refers to.
 *
 * Should the snapshot's lock have been broken meanwhile, somebody may be deleting it, and may have read this index before it named the
 * object: then the entry goes back, for the VDI's own object is still there. Not broken as far as this node knows after the entry is
 * written means that whoever deletes it later reads the entry: a broken lock counts once every member knows of it.
 */
import { SheepError } from '../errors.js'
import { READ, REMOVE } from '../replication/request.js'
import { completed } from '../store/completed.js'
import { within } from '../vdi/making.js'
import { dataOid, type Oid } from '../vdi/oid.js'
import type { ShareMode } from './types.js'
import type { GatewayVolume } from './volume.js'
import type { VolumeRouter } from './volume-router.js'

const PIECE = 1024 * 1024
/** The bytes differ: EXDEV, which no request of an object ends with. */
export const DIFFERENT = -18
const ESHUTDOWN = -108
const ETIMEDOUT = -110
/** Other requests of the object wait while it is compared, and so does the file's close: not for a snapshot's copies that are away. */
export const COMPARE_MS_MAX = 5_000

/** 0, or a negative errno; DIFFERENT when only an equal object is wanted and the VDI's is not, or is not its own. */
export async function shareObject(
  volume: GatewayVolume,
  index: number,
  source: GatewayVolume,
  mode: ShareMode,
): Promise<number> {
  const own = volume.index.get(index)
  const owner = index < source.index.length ? source.index.get(index) : 0
  if (own === owner) return 0
  if (mode !== 'replace') {
    // What is not its own takes no space; neither does what has just been cut off.
    if (own !== volume.vid) return DIFFERENT
    const same = await equal(volume, index, own, owner)
    if (same < 0 || mode === 'compare') return same
  }
  volume.allocating.set(index, [])
  const result = await replace(volume, index, source, own, owner)
  for (const piece of volume.settled(index, result)) piece.begin()
  return result
}

async function replace(
  volume: GatewayVolume,
  index: number,
  source: GatewayVolume,
  own: number,
  owner: number,
): Promise<number> {
  if (source.isRevoked) return ESHUTDOWN
  const set = await completed((done) => volume.index.set(index, owner, true, done))
  if (set < 0) return set
  if (source.isRevoked) {
    const back = await completed((done) => volume.index.set(index, own, true, done))
    return back < 0 ? back : ESHUTDOWN
  }
  volume.forgotten(index)
  if (own === 0) return 0
  if (own !== volume.vid) {
    volume.options.unreferenced(own, index)
    return 0
  }
  const { router, entry } = volume
  return completed((done) => router.submit(REMOVE, dataOid(own, index), entry.copies, EMPTY, 0, 0, 0, 0, false, done))
}

async function equal(volume: GatewayVolume, index: number, own: number, owner: number): Promise<number> {
  const { router, objectSize, options } = volume
  const length = Math.min(PIECE, objectSize)
  const a = Buffer.alloc(length)
  const b = Buffer.alloc(length)
  let late = false
  const compare = async (): Promise<number> => {
    for (let at = 0; at < objectSize && !late; at += length) {
      const results = await Promise.all([
        read(router, own, index, options.copiesOf(own), a, at),
        read(router, owner, index, options.copiesOf(owner), b, at),
      ])
      const failed = results.find((result) => result < 0)
      if (failed !== undefined) return failed
      if (!a.equals(b)) return DIFFERENT
    }
    return 0
  }
  try {
    return await within(options.clock, COMPARE_MS_MAX, compare(), () => {
      late = true
      return new SheepError('timeout', 'a copy is away')
    })
  } catch (error) {
    if (late) return ETIMEDOUT
    throw error
  }
}

function read(
  router: VolumeRouter,
  vid: number,
  index: number,
  copies: number,
  to: Buffer,
  at: number,
): Promise<number> {
  if (vid === 0) {
    to.fill(0)
    return Promise.resolve(0)
  }
  const oid: Oid = dataOid(vid, index)
  return completed((done) => router.submit(READ, oid, copies, to, 0, to.length, at, 0, true, done))
}

const EMPTY = new Uint8Array(0)
