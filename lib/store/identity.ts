/**
 * Who a store belongs to: the file `config`, written once, and `state`, the node's small persistent state. Both are JSON
 * and replaced atomically.
 */
import { SheepError } from '../errors.js'
import type { Clock, Disk, Random } from '../host/interfaces.js'

const CONFIG = 'config'
const STATE = 'state'
const MAGIC = 'sheepdog-store'
const VERSION = 1

/** What may lie in a directory that is to become a store: of a file system of its own, of the daemon that starts. */
const BEFORE_CONFIG = new Set(['lost+found', 'lock', 'sock', 'nbd', 'sheep.log', 'config.new', 'state', 'state.new'])

interface Config {
  magic: string
  version: number
  /** 16 hex digits, never changes */
  id: string
  /** ISO 8601 */
  created: string
}

export interface NodeState {
  /** Cluster that this store's objects belong to; '' none yet */
  clusterId: string
  /** All copies here were valid in this epoch; 0: nothing is known */
  recoveredEpoch: number
  /** Newest epoch in which changes of objects that were not valid here went by; 0: none did */
  passedEpoch: number
}

export interface IdentityParts {
  clock: Clock
  random: Random
}

export class Identity {
  constructor(
    private readonly disk: Disk,
    readonly id: string,
    readonly created: string,
  ) {}

  /**
   * Throws DiskError; SheepError invalid when it is missing or damaged: a store that does not know its cluster must not
   * guess, since the objects of another cluster are dropped.
   */
  loadState(): NodeState {
    const state = parse(this.disk.readFile(STATE) ?? Buffer.alloc(0)) as Partial<NodeState> | null
    const { clusterId, recoveredEpoch, passedEpoch = 0 } = state ?? {}
    if (
      typeof clusterId !== 'string' ||
      !/^([0-9a-f]{16})?$/.test(clusterId) ||
      !Number.isInteger(recoveredEpoch) ||
      (recoveredEpoch as number) < 0 ||
      !Number.isInteger(passedEpoch) ||
      passedEpoch < 0
    ) {
      throw new SheepError(
        'invalid',
        `the store's file ${STATE} is missing or damaged`,
        `write {"clusterId":"ID","recoveredEpoch":0} into it, with the id that dog cluster info shows on another node`,
      )
    }
    return { clusterId, recoveredEpoch: recoveredEpoch as number, passedEpoch }
  }

  /** Durable on return. Throws DiskError. */
  saveState(state: NodeState): void {
    writeState(this.disk, state)
  }
}

function writeState(disk: Disk, state: NodeState): void {
  disk.writeFileAtomic(STATE, `${JSON.stringify(state)}\n`)
}

/** The store's identity; a new one in an empty directory. Throws SheepError invalid, version; DiskError. */
export function openIdentity(disk: Disk, parts: IdentityParts): Identity {
  const text = disk.readFile(CONFIG)
  const config = text === null ? create(disk, parts) : check(text)
  return new Identity(disk, config.id, config.created)
}

function create(disk: Disk, { clock, random }: IdentityParts): Config {
  const foreign = disk.list('').filter((name) => !BEFORE_CONFIG.has(name))
  if (foreign.length > 0) {
    throw new SheepError(
      'invalid',
      `not a sheepdog store: the directory has no file ${CONFIG} and is not empty (${foreign.slice(0, 3).join(', ')})`,
      'choose an empty directory, or bring back the file',
    )
  }
  const created = new Date(clock.wall()).toISOString()
  const config = { magic: MAGIC, version: VERSION, id: random.hex(8), created }
  // The config comes last: it is what makes the directory a store.
  writeState(disk, { clusterId: '', recoveredEpoch: 0, passedEpoch: 0 })
  disk.writeFileAtomic(CONFIG, `${JSON.stringify(config, null, 2)}\n`)
  return config
}

function check(text: Buffer): Config {
  const config = parse(text) as Partial<Config> | null
  if (config?.magic !== MAGIC || !Number.isInteger(config.version)) {
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
  if (typeof config.id !== 'string' || !/^[0-9a-f]{16}$/.test(config.id) || typeof config.created !== 'string') {
    throw new SheepError('invalid', `the store's file ${CONFIG} is damaged`, 'bring back the file')
  }
  return config as Config
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
