/**
 * Which disks a node starts with: what each directory says of itself, held against the newest state found on them.
 *
 *     listed in the state             its own
 *     of this node, and not listed    strange: it was away, or failed; its objects count only after a check
 *     empty                           new, and so strange, too; but where a disk that is missing was last, nothing is mounted
 *     listed, and nowhere to be seen  missing: as good as lost
 */
import { SheepError } from '../errors.js'
import { type Disk, DiskError, type Log } from '../host/interfaces.js'
import {
  type Config,
  type DiskEntry,
  type IdentityParts,
  type NodeState,
  newConfig,
  readConfig,
  readState,
  refuseForeign,
  stateDamaged,
  writeConfig,
} from './identity.js'

/** A directory that is open for this daemon alone. */
export interface AttachedDisk {
  /** For people */
  readonly path: string
  readonly disk: Disk
  /** Lets go of it, so that its file system can be unmounted */
  close(): void
}

export interface KnownDisk {
  id: string
  attached: AttachedDisk
  /** The state lists it */
  own: boolean
}

/** One that cannot be used; `id` '' unknown */
export interface UnusableDisk {
  id: string
  path: string
  /** `failed`: it is there, and gives errors */
  state: 'missing' | 'failed'
  reason: string
}

export interface NodeDisks {
  /** node id */
  id: string
  state: NodeState
  disks: KnownDisk[]
  unusable: UnusableDisk[]
}

export interface FindParts extends IdentityParts {
  log: Log
  /** Of a new node; else a random one */
  newId?: string
}

interface Found {
  attached: AttachedDisk
  config: Config | null
  state: NodeState | null
}

const NEW_STATE: NodeState = {
  clusterId: '',
  recoveredEpoch: 0,
  recoveredBefore: [],
  passedEpochs: [],
  lostEpoch: 0,
  generation: 0,
  disks: [],
}

/**
 * `unusable`: those of the command line that could not be attached. SheepError invalid, version, io: nothing that this node can
 * start with; the message says which directory and why.
 */
export function findDisks(
  attached: readonly AttachedDisk[],
  unusable: readonly UnusableDisk[],
  parts: FindParts,
): NodeDisks {
  const broken = [...unusable]
  const found: Found[] = []
  for (const one of attached) {
    try {
      found.push(look(one))
    } catch (error) {
      if (!(error instanceof DiskError)) throw error
      if (attached.length === 1) throw diskFails(one.path, error)
      broken.push({ id: '', path: one.path, state: 'failed', reason: error.message })
    }
  }
  const known = found.filter((one): one is Found & { config: Config } => one.config !== null)
  if (known.length === 0) return newNode(found, broken, parts)
  const id = known[0].config.id
  const seen = new Map<string, string>()
  for (const { config, attached: one } of known) {
    if (config.id !== id) {
      throw new SheepError(
        'invalid',
        `${known[0].attached.path} is a disk of node ${id}, and ${one.path} of node ${config.id}`,
        'give the directories of one node only',
      )
    }
    const other = seen.get(config.disk)
    if (other !== undefined) throw copied(other, one.path)
    seen.set(config.disk, one.path)
  }
  const state = newestOf(known)
  for (const { state: said, attached: one } of known) {
    const foreign =
      said !== null && said.clusterId !== '' && state.clusterId !== '' && said.clusterId !== state.clusterId
    if (foreign) throw otherCluster(one.path, (said as NodeState).clusterId, state.clusterId)
  }
  const listed = (disk: string) => state.disks.some((entry) => entry.id === disk)
  const missing = state.disks.filter((entry) => !seen.has(entry.id))
  const disks: KnownDisk[] = []
  for (const { attached: one, config } of found) {
    if (config !== null) {
      disks.push({ id: config.disk, attached: one, own: listed(config.disk) })
      continue
    }
    // An empty directory where a disk should be is the place where it is not mounted: nothing must be written under it.
    if (missing.some((entry) => entry.path === one.path)) continue
    disks.push({ id: initialize(one.disk, id, state, parts), attached: one, own: false })
  }
  for (const entry of missing) {
    if (broken.some((one) => one.path === entry.path)) continue
    const reason = 'not there: is its file system mounted, and its directory on the command line?'
    broken.push({ id: entry.id, path: entry.path, state: 'missing', reason })
  }
  if (!disks.some((disk) => disk.own)) {
    throw new SheepError(
      'io',
      `none of this node's disks is here: ${state.disks.map((entry) => entry.path).join(', ')} are missing`,
      'mount them and give their directories, or start with a new empty directory as a new node',
    )
  }
  for (const { path, state: what, reason } of broken) {
    parts.log('error', `disk ${path} is ${what}: ${reason}; this node starts without it`)
  }
  return { id, state, disks, unusable: broken }
}

/** It is there, and gives errors; the node has no other. */
export function diskFails(path: string, error: DiskError): SheepError {
  return new SheepError('io', `disk ${path} fails: ${error.message}`, 'see dmesg; replace it if it goes on')
}

/** A disk for a node that runs. SheepError invalid: it is another node's, or somebody's; DiskError. */
export function findDisk(attached: AttachedDisk, node: string, state: NodeState, parts: IdentityParts): string {
  const { config, state: said } = look(attached)
  const { path } = attached
  if (config === null) return initialize(attached.disk, node, state, parts)
  if (config.id !== node) {
    throw new SheepError(
      'invalid',
      `${path} is a disk of node ${config.id}, this is node ${node}`,
      'give an empty directory, or plug it in at its own node',
    )
  }
  if (said !== null && said.clusterId !== '' && said.clusterId !== state.clusterId) {
    throw otherCluster(path, said.clusterId, state.clusterId)
  }
  return config.disk
}

function look(attached: AttachedDisk): Found {
  const { disk, path } = attached
  const config = named(path, () => readConfig(disk))
  if (config === null) named(path, () => refuseForeign(disk))
  return { attached, config, state: config === null ? null : readState(disk, config, path) }
}

function named<T>(path: string, work: () => T): T {
  try {
    return work()
  } catch (error) {
    if (error instanceof SheepError) throw new SheepError(error.code, `${path}: ${error.message}`, error.hint)
    throw error
  }
}

function newNode(found: readonly Found[], unusable: UnusableDisk[], parts: FindParts): NodeDisks {
  if (unusable.length > 0 || found.length === 0) {
    const { path, reason } = unusable[0]
    throw new SheepError('io', `a new node needs all of its disks: ${path}: ${reason}`, 'mount it, or leave it out')
  }
  const node = parts.newId ?? parts.random.hex(8)
  const disks = found.map(({ attached }) => ({ attached, config: newConfig(node, parts) }))
  const entries: DiskEntry[] = disks.map(({ attached, config }) => ({
    id: config.disk,
    path: attached.path,
    joined: 0,
  }))
  const state = { ...NEW_STATE, generation: 1, disks: entries }
  for (const { attached, config } of disks) writeConfig(attached.disk, config, state)
  const known = disks.map(({ attached, config }) => ({ id: config.disk, attached, own: true }))
  return { id: node, state, disks: known, unusable: [] }
}

function initialize(disk: Disk, node: string, state: NodeState, parts: IdentityParts): string {
  const config = newConfig(node, parts)
  writeConfig(disk, config, state)
  return config.disk
}

function newestOf(known: readonly Found[]): NodeState {
  let newest: NodeState | null = null
  for (const { state } of known) {
    if (state !== null && (newest === null || state.generation > newest.generation)) newest = state
  }
  if (newest === null) throw stateDamaged()
  return newest
}

function copied(one: string, other: string): SheepError {
  return new SheepError(
    'invalid',
    `${one} and ${other} are the same disk, or one is a copy of the other`,
    'give each disk once, and no copies',
  )
}

function otherCluster(path: string, theirs: string, ours: string): SheepError {
  return new SheepError(
    'invalid',
    `${path} is of cluster ${theirs}, this node of ${ours}`,
    'keep its content aside if you need it, and give an empty directory',
  )
}
