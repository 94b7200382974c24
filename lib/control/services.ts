/**
 * What the control verbs need of a node. Thin on purpose: a verb checks its arguments, calls one of these, and shapes the
 * answer. Everything here is JSON when it leaves, so that a node can be asked about another one over a peer call.
 */
import type { ClusterView } from '../cluster/types.js'
import type { VolumeOpener } from '../gateway/types.js'
import type { Clock, Log, LogLevel, Random } from '../host/interfaces.js'
import type { Incident } from '../replication/mender.js'
import type { RecoveryProgress } from '../replication/recovery-progress.js'
import type { DiskReport } from '../store/disk-report.js'
import type { VdiEntry, VdiLock, VdiMigration } from '../vdi/types.js'

/** How far something long is; and the way to learn that nobody waits for it any more. */
export interface Progress {
  /** `total` 0: unknown. `text`: what is being done, for people; '' keeps the last one. */
  report(done: number, total: number, text: string): void
  /** True once the client has gone: the work may stop at a point where stopping is safe. */
  readonly cancelled: boolean
}

/** Bytes, one copy counted. used: in objects of its own; shared: in objects of its ancestors. */
export interface VdiUsage {
  used: number
  shared: number
}

export interface CreateRequest {
  name: string
  /** bytes */
  size: number
  /** 0: the cluster's default */
  copies: number
  /** 0: the cluster's default, or larger when the size needs it */
  blockSizeShift: number
  preallocate: boolean
  /** ms, 0: requests wait for the quorum for ever; null: as the cluster says */
  onNoQuorum: number | null
}

/** `snapshot` is a tag or a decimal snapshot id; '' is the working VDI. All throw SheepError. */
export interface VdiService {
  /** `progress` counts bytes preallocated */
  create(request: CreateRequest, progress: Progress): Promise<VdiEntry>
  /** The snapshot's entry */
  snapshot(name: string, tag: string): Promise<VdiEntry>
  /** The clone's entry */
  clone(source: string, snapshot: string, name: string): Promise<VdiEntry>
  /** The new working VDI's entry */
  rollback(name: string, snapshot: string): Promise<VdiEntry>
  /** `progress` counts bytes freed */
  delete(name: string, snapshot: string, progress: Progress): Promise<void>
  resize(name: string, size: number, shrink: boolean): Promise<VdiEntry>
  /** ms, 0: waits for ever; null: as the cluster says */
  setOnNoQuorum(name: string, ms: number | null): Promise<VdiEntry>
  rename(name: string, newName: string): Promise<void>
  /** UsageReader (usage.ts): in the entries' order; null where it is not known in time */
  usage(entries: readonly VdiEntry[]): Promise<(VdiUsage | null)[]>
  locks(): VdiLock[]
  /** Also one whose time is over */
  migration(vid: number): VdiMigration | undefined
  /** Those taken away, once no replica takes a write of their holders any more. not-locked, busy, timeout */
  breakLock(entry: VdiEntry, seen: { node: string; session: string }): Promise<readonly VdiLock[]>
  /** `to`: node id; '' any */
  announceMigration(entry: VdiEntry, to: string, ms: number): Promise<void>
  cancelMigration(entry: VdiEntry): Promise<void>
  finishMigration(entry: VdiEntry): Promise<void>
  /** The VDI or snapshot that has this vid now */
  entry(vid: number): VdiEntry | undefined
  /** vid of the nearest ancestor that is still there; 0 none */
  liveParent(vid: number): number
}

export interface CheckProblem {
  /** 16 hex digits */
  oid: string
  /**
   * missing: a replica lacks the object; stale: it is not known to have all writes, and recovery has not come to it yet;
   * differs: its bytes differ from the others', each true to its checksums; bit-rot: its bytes are not what it once stored;
   * lost: no replica has it; unreadable: its disk fails
   */
  kind: 'missing' | 'stale' | 'differs' | 'bit-rot' | 'lost' | 'unreadable'
  /** ids of the nodes whose copy is wrong */
  nodes: string[]
  repaired: boolean
}

export interface CheckReport {
  objects: number
  /** Compared, over all replicas */
  bytes: number
  problems: CheckProblem[]
}

/** Something that a node found wrong with one of its copies at rest. */
export interface ScrubIncident extends Incident {
  /** Name of the VDI or snapshot; '' none has the vid any more */
  volume: string
}

/** One node's scrub. Counts are of the pass that runs, or else of the last one; times in ms since the Unix epoch, 0 never. */
export interface ScrubReport {
  state: 'idle' | 'running' | 'stopped'
  /** Of the pass, 0 to 1 */
  done: number
  began: number
  /** Of the last whole pass */
  ended: number
  /** When the next pass begins by itself; 0: one runs, or they are stopped */
  due: number
  /** Looked at, and those that the node has */
  objects: number
  objectsTotal: number
  /** Read */
  bytes: number
  /** Bytes read a second at most */
  rate: number
  /** Objects that had rotted */
  found: number
  repaired: number
  unrepaired: number
  /** Objects whose replicas differ, each true to its checksums */
  diverged: number
  /** Objects that are rotten now: nobody has their bytes */
  rotten: number
  /** The newest last, since the daemon started */
  incidents: ScrubIncident[]
}

export interface ObjectLocation {
  /** 16 hex digits */
  oid: string
  /** -1 for the inode object */
  index: number
  /** vid that owns the object; 0: a hole, nothing is stored */
  owner: number
  /** In ring order, those that should have it first */
  copies: ObjectCopy[]
}

export interface ObjectCopy {
  /** node id */
  node: string
  /** Placement puts a copy here */
  expected: boolean
  /** 'unknown': the node did not answer */
  state: 'valid' | 'stale' | 'missing' | 'unknown'
  /** Blocks in use, bytes */
  used: number
}

export interface NodeSpace {
  /** bytes */
  total: number
  free: number
  /** On the store's file system, by objects and whatever else is there */
  used: number
  objects: number
}

/** lib/replication's own progress, with the time since it began in place of a clock's reading. */
export interface RecoveryReport extends Omit<RecoveryProgress, 'since'> {
  seconds: number
}

export interface RequestCounts {
  active: number
  total: number
  read: number
  write: number
  flush: number
  remove: number
  readBytes: number
  writeBytes: number
}

export interface NodeStatistics {
  /** seconds */
  uptime: number
  /** Of user and system time, seconds */
  cpu: number
  /** Resident, bytes */
  memory: number
  clients: RequestCounts
  peers: RequestCounts
  /** Of peers' requests, those that failed */
  peerErrors: number
  /** Those that this node has open, counted since then, the busiest first */
  volumes: VolumeCounts[]
}

export interface VolumeCounts {
  /** NAME, or NAME@TAG */
  volume: string
  read: number
  write: number
  flush: number
  readBytes: number
  writeBytes: number
}

export type DiskInfo = DiskReport

/** Where a node's own host has the volumes, absolute paths; '' nowhere. */
export interface NodePlaces {
  /** Unix socket of the NBD server */
  nbd: string
  /** Directory in which each volume is a file */
  volumes: string
}

export interface LogLine {
  /** ms since the Unix epoch */
  time: number
  level: LogLevel
  message: string
}

/** Of one node, this or another. Method names are the peer calls' names, behind "node.". */
export interface NodeService {
  space(): Promise<NodeSpace>
  recovery(): Promise<RecoveryReport>
  statistics(): Promise<NodeStatistics>
  disks(): Promise<DiskInfo[]>
  places(): Promise<NodePlaces>
  /** An absolute path there. Its disks afterwards */
  plug(path: string): Promise<DiskInfo[]>
  /** By number in `disks`, path or id; its path. `force`: though some objects may have no other copy */
  unplug(disk: string, force: boolean): Promise<string>
  log(lines: number): Promise<LogLine[]>
  scrub(action: 'status' | 'start' | 'stop'): Promise<ScrubReport>
  /** Starts its orderly leave and returns */
  stop(): Promise<void>
}

/** An object of a live VDI whose newest copy is not here. */
export interface LostObject {
  /** 16 hex digits */
  oid: string
  /** Names of VDIs and snapshots that refer to it; some of them when there are many */
  volumes: string[]
  /** Of a VDI that is being deleted: its inode */
  deleting: boolean
  /** -1 for the inode object */
  index: number
  /** Within the volume, bytes */
  offset: number
  /** away: with nodes that are not here; disk: with disks of nodes that are here; unreadable: a part of it cannot be read on the node
   *  that has it; nobody: no node has it, or could have */
  reason: 'away' | 'disk' | 'unreadable' | 'nobody'
  /** Names of those nodes */
  nodes: string[]
  /** The newest copy that is here: on which node, and the last epoch whose writes it has for certain. null: none */
  left: { node: string; epoch: number } | null
}

export interface ControlServices {
  readonly version: string
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
  readonly cluster: ClusterView
  readonly volumes: VolumeOpener
  readonly vdis: VdiService
  /** A member of the newest epoch, or this node. SheepError not-found, unreachable from its methods */
  node(id: string): NodeService
  /** Compares all replicas of all objects of these VDIs, repairs when asked. `progress` counts bytes */
  check(entries: readonly VdiEntry[], repair: boolean, progress: Progress): Promise<CheckReport>
  /** Of these VDIs, what can be read by nobody as it was last. `progress` counts objects */
  lost(name: string, progress: Progress): Promise<LostObject[]>
  /** From now on what is left of these counts; which of them were lost. */
  acceptLost(objects: readonly string[], zeros: boolean): Promise<string[]>
  /** `index` -1: the inode object */
  locate(entry: VdiEntry, index: number): Promise<ObjectLocation>
}
