/**
 * Who a store belongs to: the file `config`, written once, and `state`, the node's small persistent state. Both are JSON
 * and replaced atomically. A node with several disks has its id in the config of each, and its state on each.
 */
import { SheepError } from '../errors.js'
import type { Clock, Disk, Random } from '../host/interfaces.js'
import type { Departure } from './departures.js'

const CONFIG = 'config'
const STATE = 'state'
const MAGIC = 'sheepdog-store'
export const VERSION = 1

/** What may lie in a directory that is to become a store: of a file system of its own, of the daemon that starts. */
const BEFORE_CONFIG: ReadonlySet<string> = new Set([
  ...['lost+found', 'lock', 'sock', 'nbd', 'sheep.log', 'config.new', 'state', 'state.new'],
  ...['volumes', 'volumes-mount.json'],
])

export interface Config {
  magic: string
  version: number
  /** Of the node: 16 hex digits, never changes */
  id: string
  /** Of this disk, likewise. Stores of a node with one disk may lack it: then it is the node's */
  disk: string
  /** ISO 8601 */
  created: string
}

/** A disk that belongs to the node. */
export interface DiskEntry {
  id: string
  /** Where it was last */
  path: string
  /** StoredObject.joinedEpoch of its objects */
  joined: number
  /** StoredObject.keptEpoch of its objects, 0 when absent */
  kept?: number
}

export interface NodeState {
  /** Cluster that this store's objects belong to; '' none yet */
  clusterId: string
  /** All copies here were valid in this epoch; 0: nothing is known */
  recoveredEpoch: number
  /** Older ones of which that is known as well, ascending. A later one says nothing of objects that are not this node's in it */
  recoveredBefore: readonly number[]
  /** In which changes of objects that were not valid here went by, ascending (lib/replication/validity.ts, Doubts) */
  passedEpochs: readonly number[]
  /** Newest epoch in which this node may have served what went with a disk since; 0 none */
  lostEpoch: number
  /** Of two states of one node, the one with the higher is newer */
  generation: number
  /** Disks whose objects are this node's */
  disks: DiskEntry[]
  /** Disks that have left, the last one last; none when absent */
  departures?: readonly Departure[]
  /** Since it started, until an epoch begins with it: the newest epoch that its disks knew of then. In later ones it may have served
   *  with others. */
  base?: number
  /** As it started something of its disks was found spoiled: the epoch that begins next with it sets `lostEpoch` */
  lossPending?: true
}

export interface IdentityParts {
  clock: Clock
  random: Random
}

const HEX = /^[0-9a-f]{16}$/

/** null when the directory has none; it may be empty then. SheepError invalid, version; DiskError. */
export function readConfig(disk: Disk): Config | null {
  const text = disk.readFile(CONFIG)
  return text === null ? null : check(text)
}

/** SheepError invalid when there is something in the directory that is none of ours. DiskError */
export function refuseForeign(disk: Disk): void {
  const foreign = disk.list('').filter((name) => !BEFORE_CONFIG.has(name))
  if (foreign.length === 0) return
  throw new SheepError(
    'invalid',
    `not a sheepdog store: the directory has no file ${CONFIG} and is not empty (${foreign.slice(0, 3).join(', ')})`,
    'choose an empty directory, or bring back the file',
  )
}

export function newConfig(node: string, { clock, random }: IdentityParts): Config {
  return {
    magic: MAGIC,
    version: VERSION,
    id: node,
    disk: random.hex(8),
    created: new Date(clock.wall()).toISOString(),
  }
}

/** The config comes last: it is what makes the directory a store. Durable on return. Throws DiskError. */
export function writeConfig(disk: Disk, config: Config, state: NodeState): void {
  writeState(disk, state)
  disk.writeFileAtomic(CONFIG, `${JSON.stringify(config, null, 2)}\n`)
}

/** Durable on return. Throws DiskError. */
export function writeState(disk: Disk, state: NodeState): void {
  disk.writeFileAtomic(STATE, `${JSON.stringify(state)}\n`)
}

/** null when it is missing or damaged. Throws DiskError. */
export function readState(disk: Disk, config: Config, path: string): NodeState | null {
  const state = parse(disk.readFile(STATE) ?? Buffer.alloc(0)) as Partial<NodeState> | null
  if (state === null) return null
  // As written by a version that knew one disk only
  const { clusterId, recoveredEpoch, recoveredBefore = [], passedEpochs = [], lostEpoch = 0, generation = 0 } = state
  const { disks = [{ id: config.disk, path, joined: 0 }], departures = [], base, lossPending } = state
  const whole =
    typeof clusterId === 'string' &&
    /^([0-9a-f]{16})?$/.test(clusterId) &&
    [recoveredEpoch, lostEpoch, generation, base ?? 0].every(isCount) &&
    [undefined, true].includes(lossPending) &&
    [recoveredBefore, passedEpochs].every((epochs) => Array.isArray(epochs) && epochs.every(isCount)) &&
    Array.isArray(disks) &&
    Array.isArray(departures) &&
    departures.every((one) => HEX.test(one?.id) && isCount(one.epoch)) &&
    disks.every((entry) => HEX.test(entry?.id) && typeof entry.path === 'string') &&
    disks.every(({ joined, kept = 0 }) => isCount(joined) && isCount(kept))
  if (!whole) return null
  const known: NodeState = {
    clusterId,
    recoveredEpoch: recoveredEpoch as number,
    recoveredBefore,
    passedEpochs,
    lostEpoch,
    generation,
    disks,
  }
  if (departures.length > 0) known.departures = departures
  if (base !== undefined) known.base = base
  if (lossPending) known.lossPending = true
  return known
}

/** A store that does not know its cluster must not guess, since the objects of another cluster are dropped. */
export function stateDamaged(): SheepError {
  return new SheepError(
    'invalid',
    `the store's file ${STATE} is missing or damaged`,
    `write {"clusterId":"ID","recoveredEpoch":0} into it, with the id that dog cluster info shows on another node`,
  )
}

function isCount(value: unknown): boolean {
  return Number.isSafeInteger(value) && (value as number) >= 0
}

function check(text: Buffer): Config {
  const config = parse(text) as Partial<Config> | null
  if (config?.magic !== MAGIC || !Number.isInteger(config.version) || (config.version as number) < 1) {
    throw new SheepError(
      'invalid',
      `not a sheepdog store: its file ${CONFIG} is none of ours, or damaged`,
      'choose an empty directory, or bring back the file',
    )
  }
  if ((config.version as number) > VERSION) {
    throw new SheepError(
      'version',
      `this store has version ${config.version}, this sheep knows versions up to ${VERSION}`,
      'start the newer sheep that wrote it',
    )
  }
  const { id, disk = id, created } = config
  if (typeof id !== 'string' || !HEX.test(id) || typeof disk !== 'string' || !HEX.test(disk) || !created) {
    throw new SheepError('invalid', `the store's file ${CONFIG} is damaged`, 'bring back the file')
  }
  return { ...config, id, disk } as Config
}

/** null: no JSON object */
function parse(text: Buffer): object | null {
  try {
    const value: unknown = JSON.parse(text.toString())
    return typeof value === 'object' ? value : null
  } catch {
    return null
  }
}
