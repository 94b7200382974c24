/** An inode's header and index: what is decoded can be encoded again and is the same; what is not is refused. */
import { SheepError } from '../../lib/errors.js'
import * as inode from '../../lib/vdi/inode.js'
import { MAX_VID } from '../../lib/vdi/oid.js'
import type { SimRandom } from '../simulation/random.js'
import type { Harness } from './harness.js'
import { damaged } from './mutate.js'

/** Most inputs are headers; an index slice is as long as its sender likes. */
const SLICE_MAX = 600

function header(random: SimRandom): Buffer {
  return inode.encodeHeader({
    name: random.pick(['disk', 'ü'.repeat(127), 'a']),
    tag: random.pick(['', 'monday']),
    createTime: random.below(2 ** 31) * 1000,
    snapshotTime: random.pick([0, 1_700_000_000_123]),
    vmClock: BigInt(random.u32()),
    size: 512 * (1 + random.below(2 ** 24)),
    vmStateSize: random.below(2 ** 20),
    copies: 1 + random.below(5),
    blockSizeShift: 20 + random.below(12),
    snapId: random.u32(),
    vid: 1 + random.below(MAX_VID),
    parent: 0,
  })
}

function index(random: SimRandom): Buffer {
  const entries = Uint32Array.from({ length: random.below(SLICE_MAX) }, () => random.pick([0, 1, 77, MAX_VID]))
  return inode.encodeIndex(entries)
}

/** The first piece says which: 0 header, 1 index. */
function make(random: SimRandom): Buffer[] {
  const isIndex = random.chance(0.2)
  const bytes = isIndex ? index(random) : header(random).subarray(0, random.chance(0.9) ? 600 : 568)
  const changed = bytes.length > 0 && random.chance(0.9) ? damaged(random, bytes, bytes) : bytes
  return [Buffer.of(isIndex ? 1 : 0), isIndex ? changed.subarray(0, changed.length & ~3) : changed]
}

function take([kind, bytes]: readonly Buffer[]): boolean {
  try {
    if (kind[0] === 1) {
      const entries = inode.decodeIndex(bytes)
      if (!inode.encodeIndex(entries).equals(bytes)) throw new Error('an index is another after decoding')
      if (inode.usedEntries(entries) > entries.length) throw new Error('more entries in use than there are')
      return entries.length > 0
    }
    const decoded = inode.decodeHeader(bytes)
    const again = inode.decodeHeader(inode.encodeHeader(decoded))
    for (const [field, value] of Object.entries(decoded)) {
      const other = Reflect.get(again, field)
      // A time is milliseconds here and nanoseconds there.
      const near = typeof value === 'number' && Math.abs(value - other) < 1e-3
      if (other !== value && !near) throw new Error(`${field} is ${value}, and ${other} after decoding`)
    }
    return true
  } catch (error) {
    if (error instanceof SheepError) return false
    throw error
  }
}

export const inodeHarness: Harness = { make, take }
