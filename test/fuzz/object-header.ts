/** The first bytes of object files, and the walk over a store's files at its start. */
import { crc32 } from 'node:zlib'
import { SheepError } from '../../lib/errors.js'
import { decodeHeader, encodeHeader, HEADER_BYTES } from '../../lib/store/header.js'
import { objectPath } from '../../lib/store/object-file.js'
import { scanObjects } from '../../lib/store/scan.js'
import { dataOid, inodeOid, type Oid } from '../../lib/vdi/oid.js'
import type { SimRandom } from '../simulation/random.js'
import type { Harness } from './harness.js'
import { damaged } from './mutate.js'
import { PlainDisk } from './plain-disk.js'

const CRC_AT = 508
const OIDS: Oid[] = [dataOid(1, 0), dataOid(1, 1), inodeOid(1), dataOid(0xffffff, 0xfffff)]

/** Each piece is the beginning of one file. */
function make(random: SimRandom): Buffer[] {
  return OIDS.slice(0, 1 + random.below(OIDS.length)).map((oid) => {
    const bytes = Buffer.alloc(HEADER_BYTES)
    encodeHeader(bytes, oid, random.below(100), random.below(100))
    if (random.chance(0.2)) return bytes
    const changed = Buffer.from(damaged(random, bytes.subarray(0, random.chance(0.9) ? 512 : 4096), bytes))
    // A checksum that fits, as if we had written it.
    if (random.chance(0.5) && changed.length >= CRC_AT + 4) {
      changed.writeUInt32LE(crc32(changed.subarray(0, CRC_AT)), CRC_AT)
    }
    return changed
  })
}

async function take(input: readonly Buffer[], random: SimRandom): Promise<boolean> {
  const disk = new PlainDisk()
  for (const [i, bytes] of input.entries()) {
    const path = random.chance(0.98) ? objectPath(OIDS[i]) : `obj/${random.pick(['00/x', 'zz', 'ff/00'])}`
    disk.files.set(path, bytes)
  }
  const files = disk.files.size
  let found = 0
  try {
    await scanObjects(
      disk,
      () => {},
      (header) => {
        const again = Buffer.alloc(HEADER_BYTES)
        encodeHeader(again, header.oid, header.writeEpoch, header.checkEpoch)
        const decoded = decodeHeader(again)
        if (typeof decoded === 'string' || decoded.oid !== header.oid)
          throw new Error('a header is another after decoding')
        if (!OIDS.includes(header.oid)) throw new Error('an object that was never there')
        found++
      },
    )
  } catch (error) {
    if (error instanceof SheepError && error.code === 'version') return false
    throw error
  }
  const gone = files - disk.files.size
  const empty = input.filter((bytes) => bytes.subarray(0, 512).every((byte) => byte === 0)).length
  if (gone > empty) throw new Error(`${gone} files were removed, of which ${empty} were empty`)
  return found > 0
}

export const objectHeaderHarness: Harness = { make, take }
