/** The intent log as a crash or a rotten disk leaves it: read without trouble, and no whole entry forgotten. */
import { crc32 } from 'node:zlib'
import { IntentLog } from '../../lib/store/intent-log.js'
import type { Intent } from '../../lib/store/types.js'
import { dataOid, highWord, inodeOid, lowWord, type Oid } from '../../lib/vdi/oid.js'
import type { SimRandom } from '../simulation/random.js'
import type { Harness } from './harness.js'
import { damaged, oddNumber } from './mutate.js'
import { PlainDisk } from './plain-disk.js'

const HEADER = 4096
const RECORD = 32
const OIDS: Oid[] = [dataOid(1, 0), dataOid(1, 1), dataOid(2, 7), inodeOid(1), dataOid(0xffffff, 0xfffff)]
const [ADD, DROP] = [1, 2]

function record(random: SimRandom, slot: number): Buffer {
  const bytes = Buffer.alloc(RECORD)
  const oid = random.pick(OIDS)
  bytes.writeUInt32LE(random.chance(0.95) ? random.pick([ADD, ADD, DROP, 3]) : oddNumber(random), 0)
  bytes.writeUInt32LE(random.chance(0.97) ? slot + 1 : oddNumber(random), 4)
  bytes.writeUInt32LE(lowWord(oid), 8)
  bytes.writeUInt32LE(random.chance(0.97) ? highWord(oid) : oddNumber(random), 12)
  bytes.writeUInt32LE(random.below(50), 16)
  bytes.writeUInt32LE(crc32(bytes.subarray(0, 28)), 28)
  return bytes
}

function make(random: SimRandom): Buffer[] {
  const head = Buffer.alloc(HEADER)
  head.write('SHEEPINT', 0, 'latin1')
  head.writeUInt32LE(1, 8)
  head.writeUInt32LE(random.chance(0.9) ? 16_384 : oddNumber(random), 12)
  head.write(random.pick(['boot', 'other', '']), 16, 'latin1')
  const count = random.below(60)
  const records = Array.from({ length: count }, (_, slot) => record(random, slot))
  const tail = Buffer.alloc(RECORD * random.below(20))
  const body = Buffer.concat([...records, tail])
  const hitBody = body.length > 0 && random.chance(0.7)
  return [
    random.chance(0.05) ? damaged(random, head.subarray(0, 100), head) : head,
    hitBody ? damaged(random, body, body, 6) : body,
  ]
}

/** Every slot that is whole, added and never dropped anywhere: it must be among the entries. */
function certain(bytes: Buffer): Set<Oid> {
  const added = new Set<Oid>()
  const dropped = new Set<Oid>()
  for (let at = HEADER; at + RECORD <= bytes.length; at += RECORD) {
    const slot = (at - HEADER) / RECORD
    const type = bytes.readUInt32LE(at)
    if (bytes.readUInt32LE(at + 4) !== slot + 1) continue
    if (bytes.readUInt32LE(at + 28) !== crc32(bytes.subarray(at, at + 28))) continue
    const oid = OIDS.find(
      (one) => lowWord(one) === bytes.readUInt32LE(at + 8) && highWord(one) === bytes.readUInt32LE(at + 12),
    )
    if (oid === undefined) continue
    if (type === DROP) dropped.add(oid)
    else if (type === ADD || type === 3) added.add(oid)
  }
  for (const oid of dropped) added.delete(oid)
  return added
}

async function take(input: readonly Buffer[], random: SimRandom): Promise<boolean> {
  const disk = new PlainDisk()
  const bytes = Buffer.concat(input as Buffer[])
  disk.files.set('intent', bytes)
  const entries = new IntentLog(disk, 4096, () => {}).read()
  if (entries === null) return false
  for (const oid of certain(bytes)) if (!entries.has(oid)) throw new Error(`the entry of ${oid} was forgotten`)
  if (entries.size * RECORD > bytes.length) throw new Error(`${entries.size} entries in ${bytes.length} bytes`)
  // Written anew and read again, seldom: it writes half a megabyte.
  if (random.chance(0.001)) {
    const log = new IntentLog(disk, 4096, () => {})
    await log.start(entries)
    const again = new IntentLog(disk, 4096, () => {}).read() as Map<Oid, Intent>
    await log.close()
    if (again.size !== entries.size) throw new Error(`${again.size} entries of ${entries.size} came back`)
    for (const [oid, { epoch }] of entries) {
      if (again.get(oid)?.epoch !== epoch) throw new Error(`the entry of ${oid} came back as another`)
    }
  }
  return entries.size > 0
}

export const intentLogHarness: Harness = { make, take }
