/** The cluster's log and snapshot on disk: whatever lies there is loaded, cut at a torn end, or refused as damaged. */
import { crc32 } from 'node:zlib'
import type { Entry } from '../../lib/cluster/history.js'
import { StateDisk } from '../../lib/cluster/state-disk.js'
import { SheepError } from '../../lib/errors.js'
import { DiskError } from '../../lib/host/interfaces.js'
import type { SimRandom } from '../simulation/random.js'
import { entries, formatted } from './cluster-samples.js'
import type { Harness } from './harness.js'
import { damaged, damagedJson, disordered } from './mutate.js'
import { PlainDisk } from './plain-disk.js'

const FILES = ['cluster/snapshot.json', 'cluster/log', 'epoch/00000001', 'epoch/00000002']

function line(text: string): string {
  return `${crc32(text).toString(16).padStart(8, '0')} ${text}\n`
}

const first = formatted()
const snapshotJson = JSON.stringify(first)
const BASE = line(`base ${first.history.seq} ${first.history.digest}`)
const RECORDS = [first.history.epoch, (entries[0] as Extract<Entry, { type: 'epoch' }>).record]

function snapshot(json: string): Buffer {
  return Buffer.from(`{"crc32":${crc32(json)},"state":${json}}\n`)
}

function log(random: SimRandom): Buffer {
  const lines = entries.map((entry, i) => {
    const json = random.chance(0.95) ? JSON.stringify(entry) : JSON.stringify(damagedJson(random, entry))
    // Batches of up to three entries.
    return line(`${entry.seq} ${entries[i - (i % 3)].seq} ${json}`)
  })
  const kept = random.chance(0.1) ? disordered(random, lines) : lines.slice(0, random.below(lines.length + 1))
  return Buffer.from(BASE + kept.join(''))
}

/** Each piece is a file, in the order of FILES; an empty one is not there. */
function make(random: SimRandom): Buffer[] {
  const json = random.chance(0.8) ? snapshotJson : (JSON.stringify(damagedJson(random, first.toJSON())) ?? 'null')
  const files = [snapshot(json), log(random), ...RECORDS.map((one) => Buffer.from(`${JSON.stringify(one, null, 1)}\n`))]
  const hit = random.below(6)
  return files.map((bytes, i) => {
    if (random.chance(0.02)) return Buffer.alloc(0)
    return i === hit || (hit > 3 && i === 1) ? damaged(random, bytes, files[1]) : bytes
  })
}

async function take(input: readonly Buffer[]): Promise<boolean> {
  const disk = new PlainDisk()
  for (const [i, bytes] of input.entries()) if (bytes.length > 0) disk.files.set(FILES[i], bytes)
  const loaded = await load(disk)
  if (loaded === null) return false
  // What was loaded once is loaded again, the same: the cut was made on disk.
  const again = await load(disk)
  if (again !== loaded) throw new Error('a second start finds another state')
  return true
}

/** The state as text; null when there is none or it was refused. */
async function load(disk: PlainDisk): Promise<string | null> {
  const state = new StateDisk(disk)
  try {
    const found = await state.load()
    return found === null ? null : `${JSON.stringify(found.state)} ${found.effective}`
  } catch (error) {
    if (error instanceof SheepError || error instanceof DiskError) return null
    throw error
  } finally {
    state.close()
  }
}

export const stateDiskHarness: Harness = { make, take }
