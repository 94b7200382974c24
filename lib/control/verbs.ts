/**
 * The control protocol's verbs: arguments with their checks, and answers. The daemon's dispatcher and every client
 * (dog, D-Bus) import this one list, so neither can drift from it. docs/control-protocol.md describes the transport.
 */
import type { ClusterStatus, NodeInfo } from '../cluster/types.js'
import { SheepError } from '../errors.js'
import type { VdiLock } from '../vdi/types.js'
import { type Checked, type Checker, flag, integer, object, optional, text } from './check.js'
import type {
  CheckReport,
  DiskInfo,
  LogLine,
  NodeSpace,
  NodeStatistics,
  ObjectLocation,
  RecoveryProgress,
} from './services.js'

export const NAME_BYTES_MAX = 255
export const COPIES_MAX = 31
/** Objects of 1 MiB to 256 MiB */
export const BLOCK_SIZE_SHIFT_MIN = 20
export const BLOCK_SIZE_SHIFT_MAX = 28
export const LOG_LINES_MAX = 10_000

/** One VDI or snapshot, as lists show it. */
export interface VdiInfo {
  name: string
  /** '' for the working VDI and for snapshots without a tag */
  tag: string
  /** Snapshot id */
  id: number
  vid: number
  /** vid; 0 none */
  parent: number
  snapshot: boolean
  /** Its parent has another name */
  clone: boolean
  /** bytes */
  size: number
  /** In objects of its own, bytes, one copy counted */
  used: number
  /** In objects of its ancestors, bytes */
  shared: number
  copies: number
  objectSize: number
  /** ms since the Unix epoch; of a snapshot: when it was taken */
  created: number
  preallocated: boolean
  /** Who has it open, for people; '' nobody */
  holder: string
}

export interface NodeSummary extends NodeInfo {
  /** Position in lists: what `dog node kill` takes, besides id and name */
  number: number
  /** The daemon that answered */
  self: boolean
}

/** A per-node answer. `error`: why that node gave none. */
export interface OfNode<T> {
  node: NodeSummary
  answer: T | null
  error: string
}

export interface ClusterInfo {
  version: string
  status: ClusterStatus
  /** Why, and what to do; '' when there is nothing to say */
  reason: string
  /** Nodes of the epoch that do not hold valid copies of all their share yet: redundancy is reduced */
  recovering: NodeSummary[]
  /** null before format */
  config: { clusterId: string; created: number; copies: number; objectSize: number } | null
  /** Newest first */
  epochs: { number: number; time: number; nodes: NodeInfo[] }[]
}

export interface NodeInfoAnswer {
  nodes: OfNode<NodeSpace>[]
  /** Sum of the sizes of all working VDIs, bytes */
  volumeSize: number
}

export interface LockInfo extends VdiLock {
  /** NAME, or NAME@TAG */
  volume: string
  nodeName: string
}

const vdiName: Checker<string> = name('a volume name', false)
const newVdiName: Checker<string> = name('a volume name', true)
const newTag: Checker<string> = (value, path) => {
  const tag = newTagText(value, path)
  if (/^[0-9]+$/.test(tag)) {
    throw new SheepError('invalid', `tag ${tag} would be taken for a snapshot's id`, `use another one, e.g. v${tag}`)
  }
  return tag
}
const newTagText = name('a tag', true)
/** Tag or id of a snapshot */
const snapshot = name('a tag or snapshot id', false)
const size = integer(0, Number.MAX_SAFE_INTEGER)
const copies = optional(integer(0, COPIES_MAX), 0)
const blockSizeShift: Checker<number> = optional((value, path) => {
  return value === 0 ? 0 : integer(BLOCK_SIZE_SHIFT_MIN, BLOCK_SIZE_SHIFT_MAX)(value, path)
}, 0)
const node = optional(text(NAME_BYTES_MAX), '')

interface VerbShape<A, R> {
  arguments: Checker<A>
  /** Never set: carries the answer's type */
  answer?: R
}

function verb<R>() {
  return <F extends Record<string, Checker<unknown>>>(fields: F): VerbShape<{ [K in keyof F]: Checked<F[K]> }, R> => ({
    arguments: object(fields),
  })
}

/** All may send progress; those that count bytes say so. */
export const VERBS = {
  'cluster.info': verb<ClusterInfo>()({}),
  'cluster.format': verb<ClusterInfo>()({ copies, blockSizeShift, force: optional(flag, false) }),
  /** Stops all daemons */
  'cluster.shutdown': verb<Record<string, never>>()({}),
  /** Goes on without the nodes it waits for */
  'cluster.recover': verb<ClusterInfo>()({}),
  /** Every object of every VDI. Progress in bytes */
  'cluster.check': verb<CheckReport>()({ repair: optional(flag, false) }),

  /** Progress in bytes when preallocating */
  'vdi.create': verb<VdiInfo>()({ name: newVdiName, size, copies, blockSizeShift, preallocate: optional(flag, false) }),
  /** '' is all; else the VDI of this name and its snapshots */
  'vdi.list': verb<{ vdis: VdiInfo[] }>()({ name: optional(vdiName, '') }),
  'vdi.snapshot': verb<VdiInfo>()({ name: vdiName, tag: newTag }),
  'vdi.clone': verb<VdiInfo>()({ source: vdiName, snapshot, name: newVdiName }),
  'vdi.rollback': verb<VdiInfo>()({ name: vdiName, snapshot }),
  'vdi.delete': verb<Record<string, never>>()({ name: vdiName, snapshot: optional(snapshot, '') }),
  'vdi.resize': verb<VdiInfo>()({ name: vdiName, size, shrink: optional(flag, false) }),
  'vdi.rename': verb<Record<string, never>>()({ name: vdiName, newName: newVdiName }),
  /** Progress in bytes */
  'vdi.check': verb<CheckReport>()({
    name: vdiName,
    snapshot: optional(snapshot, ''),
    repair: optional(flag, false),
  }),
  /** index -1: the inode object */
  'vdi.locate': verb<ObjectLocation>()({
    name: vdiName,
    snapshot: optional(snapshot, ''),
    index: optional(integer(-1, 0xffffff), -1),
  }),
  'lock.list': verb<{ locks: LockInfo[] }>()({}),

  'node.list': verb<{ nodes: NodeSummary[] }>()({}),
  'node.info': verb<NodeInfoAnswer>()({}),
  'node.recovery': verb<{ nodes: OfNode<RecoveryProgress>[] }>()({}),
  /** `node` in these: number, id or name; '' is the daemon asked; 'all' */
  'node.stat': verb<{ nodes: OfNode<NodeStatistics>[] }>()({ node }),
  'node.md': verb<{ nodes: OfNode<DiskInfo[]>[] }>()({ node }),
  'node.log': verb<{ nodes: OfNode<LogLine[]>[] }>()({ node, lines: optional(integer(1, LOG_LINES_MAX), 100) }),
  'node.kill': verb<{ node: NodeSummary }>()({ node: text(NAME_BYTES_MAX) }),
} as const

export type Verb = keyof typeof VERBS
export type VerbArguments<V extends Verb> = Checked<(typeof VERBS)[V]['arguments']>
export type VerbAnswer<V extends Verb> = NonNullable<(typeof VERBS)[V]['answer']>

export function isVerb(value: unknown): value is Verb {
  return typeof value === 'string' && Object.hasOwn(VERBS, value)
}

/** VOLUME_OPEN's payload. */
export const volumeOpenRequest = object({
  name: vdiName,
  snapshot: optional(snapshot, ''),
  readOnly: optional(flag, false),
})

/**
 * Names and tags: 1 to 255 bytes. `NAME@TAG` names a snapshot and names become file names, so new ones have neither
 * '/' nor '@'. Existing ones are only looked up: what cannot exist is simply not found.
 */
function name(what: string, isNew: boolean): Checker<string> {
  const general = text(NAME_BYTES_MAX)
  return (value, path) => {
    const checked = general(value, path)
    if (checked === '')
      throw new SheepError('invalid', `${path} is empty`, `give ${what} of 1 to ${NAME_BYTES_MAX} bytes`)
    if (isNew && (/[/@]/.test(checked) || checked === '.' || checked === '..')) {
      throw new SheepError(
        'invalid',
        `${JSON.stringify(checked)} cannot be ${what}`,
        "leave out '/' and '@', and use more than dots",
      )
    }
    return checked
  }
}
