/** The two small files that make a directory a store, as a start reads them: what it is, and what its node knew. */
import { SheepError } from '../../lib/errors.js'
import { readConfig, readState, writeConfig } from '../../lib/store/identity.js'
import type { SimRandom } from '../simulation/random.js'
import type { Harness } from './harness.js'
import { damaged } from './mutate.js'
import { PlainDisk } from './plain-disk.js'

const HEX = /^[0-9a-f]{16}$/

/** The pieces are `config` and `state`. */
function make(random: SimRandom): Buffer[] {
  const disk = new PlainDisk()
  const id = () => random.hex(8)
  const disks = Array.from({ length: 1 + random.below(3) }, (_, i) => ({ id: id(), path: `/d${i}`, joined: i }))
  const config = { magic: 'sheepdog-store', version: 1, id: id(), disk: disks[0].id, created: 'today' }
  writeConfig(disk, config, {
    clusterId: random.chance(0.9) ? id() : '',
    recoveredEpoch: random.below(100),
    recoveredBefore: Array.from({ length: random.below(4) }, (_, i) => i + 1),
    passedEpochs: Array.from({ length: random.below(4) }, (_, i) => i + 1),
    lostEpoch: random.below(100),
    generation: random.below(100),
    disks,
    ...(random.chance(0.3) ? { base: random.below(100) } : {}),
    ...(random.chance(0.3) ? { lossPending: true } : {}),
  })
  const files: Buffer[] = ['config', 'state'].map((name) => Buffer.from(disk.files.get(name)!))
  if (random.chance(0.2)) return files
  const at = random.below(2)
  files[at] = random.chance(0.5) ? otherValue(random, files[at]) : damaged(random, files[at], files[1 - at])
  return files
}

const ODD = [null, -1, 1.5, 2 ** 53, '', 'x', 'G'.repeat(16), [], {}, [null], [[]], [{ id: 1 }], true, false]

/** JSON as good as before, with one value that is not meant there. */
function otherValue(random: SimRandom, file: Buffer): Buffer {
  const value = JSON.parse(file.toString()) as Record<string, unknown>
  value[random.pick(Object.keys(value))] = random.pick(ODD)
  return Buffer.from(JSON.stringify(value))
}

async function take([configFile, stateFile]: readonly Buffer[]): Promise<boolean> {
  const disk = new PlainDisk()
  disk.files.set('config', configFile)
  disk.files.set('state', stateFile)
  let config: ReturnType<typeof readConfig>
  try {
    config = readConfig(disk)
  } catch (error) {
    if (error instanceof SheepError && ['invalid', 'version'].includes(error.code)) return false
    throw error
  }
  if (config === null) throw new Error('the file was there')
  if (!HEX.test(config.id) || !HEX.test(config.disk)) throw new Error('an id that is none')
  const state = readState(disk, config, '/d0')
  if (state === null) return true
  const counts = [
    state.recoveredEpoch,
    state.lostEpoch,
    state.generation,
    state.base ?? 0,
    ...state.recoveredBefore,
    ...state.passedEpochs,
  ]
  if (!counts.every((count) => Number.isSafeInteger(count) && count >= 0)) throw new Error('a count that is none')
  if (state.clusterId !== '' && !HEX.test(state.clusterId)) throw new Error('a cluster id that is none')
  if (!state.disks.every(({ id, path }) => HEX.test(id) && typeof path === 'string'))
    throw new Error('a disk that is none')
  return true
}

export const identityHarness: Harness = { make, take }
