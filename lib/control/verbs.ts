/**
 * The control protocol's verbs: arguments with their checks, and answers. The daemon's dispatcher and every client
 * (dog, D-Bus) import this one list, so neither can drift from it. docs/control-protocol.md describes the transport.
 */
import type { ClusterStatus, DepartedNode, NodeInfo, RecoverySettings } from '../cluster/types.js'
import { SheepError } from '../errors.js'
import { MAX_COPIES } from '../placement/ring.js'
import { MIGRATION_MS_MAX, ON_NO_QUORUM_MS_MAX, SESSION_MAX } from '../vdi/command.js'
import { checkShift, checkSize } from '../vdi/inode.js'
import { checkName, checkTag, NAME_BYTES_MAX, snapIdOf } from '../vdi/name.js'
import type { VdiLock } from '../vdi/types.js'
import { type Checked, type Checker, flag, integer, list, nullable, object, optional, text } from './check.js'
import type {
  CheckReport,
  DiskInfo,
  LogLine,
  LostObject,
  NodePlaces,
  NodeSpace,
  NodeStatistics,
  ObjectLocation,
  RecoveryReport,
  ScrubReport,
} from './services.js'

export const COPIES_MAX = MAX_COPIES
/** PATH_MAX of Linux, without its NUL */
const PATH_BYTES_MAX = 4095
/** Hexadecimal digits of an object's id */
const OID_BYTES = 16
/** In one request, which has 64 KiB */
export const ACCEPT_MAX = 1_000
/** Kept in a daemon's memory */
export const LOG_LINES_MAX = 5_000

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
  /** In objects of its own, bytes, one copy counted; null: its inode cannot be read now */
  used: number | null
  /** In objects of its ancestors, bytes */
  shared: number | null
  copies: number
  objectSize: number
  /** ms since the Unix epoch; of a snapshot: when it was taken */
  created: number
  preallocated: boolean
  /** ms that requests wait without quorum before they fail, 0: for ever; null: as the cluster says */
  onNoQuorum: number | null
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
  /** What administrators say of it, for all nodes */
  recovery: RecoverySettings
  /** ms that requests of volumes without a word of their own wait for the quorum before they fail; 0: for ever */
  onNoQuorum: number
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
  /** Of the writer, while a live migration is announced; else null */
  migration: { to: string; toName: string; until: number } | null
}

const vdiName: Checker<string> = (value) => {
  checkName(value)
  return value
}
/** '' is all */
const vdiNameOrNone: Checker<string> = optional((value, path) => (value === '' ? '' : vdiName(value, path)), '')
const newTag: Checker<string> = (value) => {
  checkTag(value)
  return value
}
/** Tag or id */
const snapshot: Checker<string> = (value) => {
  if (typeof value !== 'string' || snapIdOf(value) === 0) checkTag(value)
  return value
}
/** '' is the working VDI */
const snapshotOrNone: Checker<string> = optional((value, path) => (value === '' ? '' : snapshot(value, path)), '')
const size: Checker<number> = (value) => {
  checkSize(value)
  return value
}
const copies = optional(integer(0, COPIES_MAX), 0)
const blockSizeShift: Checker<number> = optional((value) => {
  if (value !== 0) checkShift(value)
  return value as number
}, 0)
/** ms; 0 waits for ever */
const onNoQuorum = integer(0, ON_NO_QUORUM_MS_MAX)
const scrubAction: Checker<'status' | 'start' | 'stop'> = optional((value, path) => {
  if (value === 'status' || value === 'start' || value === 'stop') return value
  throw new SheepError('invalid', `${path} must be status, start or stop`)
}, 'status')
const node = optional(text(NAME_BYTES_MAX), '')
const lockName = object({ node: text(SESSION_MAX), session: text(SESSION_MAX) })
/** Longest time that an announced migration waits for its target. */
export const MIGRATION_SECONDS_MAX = MIGRATION_MS_MAX / 1000

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
  'cluster.format': verb<ClusterInfo>()({
    copies,
    blockSizeShift,
    force: optional(flag, false),
    onNoQuorum: optional(onNoQuorum, 0),
  }),
  /** What volumes without a word of their own do without quorum, from now on */
  'cluster.set': verb<ClusterInfo>()({ onNoQuorum }),
  /** Stops all daemons */
  'cluster.shutdown': verb<Record<string, never>>()({}),
  /** Goes on without the nodes it waits for */
  'cluster.recover': verb<ClusterInfo>()({}),
  /** Of all nodes, from now on; null: as it is. `limit`: of each node, bytes a second, 0 none */
  'cluster.recovery': verb<RecoverySettings>()({
    held: nullable(flag),
    limit: nullable(integer(0, Number.MAX_SAFE_INTEGER)),
  }),
  /** Every object of every VDI. Progress in bytes */
  'cluster.scrub': verb<{ nodes: OfNode<ScrubReport>[] }>()({ action: scrubAction }),
  /** '' is all VDIs; else this one and its snapshots. Progress in objects */
  'cluster.lost': verb<{ objects: LostObject[] }>()({ name: vdiNameOrNone }),
  /** Objects by their ids. Those of them that were still lost, and of which what is left counts from now on */
  'cluster.acceptLost': verb<{ objects: string[] }>()({
    objects: list(text(OID_BYTES), ACCEPT_MAX),
    zeros: optional(flag, false),
  }),
  'cluster.check': verb<CheckReport>()({ repair: optional(flag, false) }),

  /** Progress in bytes when preallocating */
  'vdi.create': verb<VdiInfo>()({
    name: vdiName,
    size,
    copies,
    blockSizeShift,
    preallocate: optional(flag, false),
    onNoQuorum: optional(nullable(onNoQuorum), null),
  }),
  /** null: as the cluster says */
  'vdi.set': verb<VdiInfo>()({ name: vdiName, onNoQuorum: nullable(onNoQuorum) }),
  /** '' is all; else the VDI of this name and its snapshots */
  'vdi.list': verb<{ vdis: VdiInfo[] }>()({ name: vdiNameOrNone }),
  'vdi.snapshot': verb<VdiInfo>()({ name: vdiName, tag: newTag }),
  'vdi.clone': verb<VdiInfo>()({ source: vdiName, snapshot, name: vdiName }),
  'vdi.rollback': verb<VdiInfo>()({ name: vdiName, snapshot }),
  /** Progress in bytes freed */
  'vdi.delete': verb<Record<string, never>>()({ name: vdiName, snapshot: snapshotOrNone }),
  'vdi.resize': verb<VdiInfo>()({ name: vdiName, size, shrink: optional(flag, false) }),
  'vdi.rename': verb<Record<string, never>>()({ name: vdiName, newName: vdiName }),
  /** Progress in bytes */
  'vdi.check': verb<CheckReport>()({
    name: vdiName,
    snapshot: snapshotOrNone,
    repair: optional(flag, false),
  }),
  /** index -1: the inode object */
  'vdi.locate': verb<ObjectLocation>()({
    name: vdiName,
    snapshot: snapshotOrNone,
    index: optional(integer(-1, 0xffffff), -1),
  }),
  'lock.list': verb<{ locks: LockInfo[] }>()({}),
  /** `holder`: the lock that is meant, as lock.list names it. Answers when no replica takes a write of its holder any more */
  'lock.break': verb<{ locks: LockInfo[] }>()({ name: vdiName, snapshot: snapshotOrNone, holder: lockName }),
  /** Lets a second node, `to` or '' any, open the volume beside its writer for so many seconds */
  'lock.migrate': verb<{ lock: LockInfo }>()({ name: vdiName, to: node, seconds: integer(1, MIGRATION_SECONDS_MAX) }),
  'lock.cancel': verb<Record<string, never>>()({ name: vdiName }),
  /** Moves the lock to the target before it writes */
  'lock.finish': verb<{ lock: LockInfo }>()({ name: vdiName }),

  /** `departed`: who left while the daemon that answers ran, and has not come back, last ones last */
  'node.list': verb<{ nodes: NodeSummary[]; departed: readonly DepartedNode[] }>()({}),
  'node.info': verb<NodeInfoAnswer>()({}),
  'node.recovery': verb<{ nodes: OfNode<RecoveryReport>[] }>()({}),
  /** `node` in these: number, id or name; '' is the daemon asked; 'all' */
  'node.stat': verb<{ nodes: OfNode<NodeStatistics>[] }>()({ node }),
  'node.places': verb<{ nodes: OfNode<NodePlaces>[] }>()({ node }),
  'node.md': verb<{ nodes: OfNode<DiskInfo[]>[] }>()({ node }),
  /** `path` on the node's host. The disks afterwards */
  'node.plug': verb<{ node: NodeSummary; disks: DiskInfo[] }>()({ node, path: text(PATH_BYTES_MAX) }),
  /** `disk`: number in node.md's list, path or id. `path` is its own */
  'node.unplug': verb<{ node: NodeSummary; path: string }>()({
    node,
    disk: text(PATH_BYTES_MAX),
    force: optional(flag, false),
  }),
  /** Gives its share to the others, or takes it again. Answers at once: node.recovery says how far it is */
  'node.drain': verb<{ node: NodeSummary }>()({ node: text(NAME_BYTES_MAX), drained: optional(flag, true) }),
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
  snapshot: snapshotOrNone,
  readOnly: optional(flag, false),
})
