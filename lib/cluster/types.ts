import type { VdiCommand } from '../vdi/types.js'
import type { LeaveReason } from './engine.js'

export interface NodeInfo {
  /** 16 hex digits, made when the store was created; never changes */
  id: string
  /** host name or what the administrator calls it: for people */
  name: string
  host: string
  port: number
  /** Unix socket of the same listener, for peers on the same host */
  socket?: string
  /** Failure domain. Default: the host name (local engine: the node id, so that one host can try 3 copies) */
  zone: string
  /** bytes of disk this node offers; 0: gateway only */
  space: number
  /** in proportion to space: fixed when the node first joins, and again when its disks change; 0: gateway only, or drained */
  vnodes: number
  /** The last epoch that began because this node had lost a disk, or of which it said so when it joined */
  lost?: number
  /** The last epoch that began because a disk came to it, new or one that had been away */
  plugged?: number
  /** Ids of the disks that it came with when it last joined */
  disks?: string[]
  /** Its host's boot when it last joined: differs after whatever may have lost writes that were not synced */
  boot?: string
}

/** Why a node is not in the cluster any more, for people: nothing is decided by it, and members may know different ones. */
export interface Departure {
  reason: LeaveReason | 'expelled' | 'unknown'
  detail: string
}

/** A node that was in the cluster and is not any more, as far as this daemon has seen it leave. */
export interface DepartedNode extends Departure {
  node: NodeInfo
  /** The first without it, and when that began, ms since the Unix epoch */
  epoch: number
  time: number
}

export interface EpochRecord {
  number: number
  /** ms since the Unix epoch */
  time: number
  /** sorted by id */
  nodes: NodeInfo[]
  /** It began because an administrator gave up what these objects have lost */
  accepted?: Acceptance
}

/** Of these objects nobody waits for what was written before the epoch that says so */
export interface Acceptance {
  /** 16 hex digits each */
  objects: string[]
  /** They become zeros, also where an older copy is left */
  zeros: boolean
}

export interface ClusterConfig {
  /** 16 hex digits; changes with each format */
  clusterId: string
  formatTime: number
  copies: number
  blockSizeShift: number
}

/** What administrators say of recovery, for all nodes alike */
export interface RecoverySettings {
  /** Only what requests wait for is copied */
  held: boolean
  /** Of each node, bytes a second; 0: none */
  limit: number
}

export type ClusterCommand =
  | { type: 'format'; clusterId: string; copies: number; blockSizeShift: number; force: boolean }
  /** This node holds valid copies of all its share in `epoch` */
  | { type: 'recovered'; epoch: number }
  /** The node does not answer: drop it from the node list though the engine still counts it. It must say HELLO again. */
  | { type: 'expel'; node: string; epoch: number; reason: string }
  /** null: as it is */
  | { type: 'recovery'; held: boolean | null; limit: number | null }
  /** ms that requests of volumes without a word of their own wait for the quorum before they fail; 0: for ever */
  | { type: 'on-no-quorum'; ms: number }
  /** The sender's disks have changed: begins an epoch in which it offers `space`. `lost`: some of what it had is gone. `plugged`: one
   *  came */
  | { type: 'disks'; space: number; lost: boolean; plugged: boolean }
  /** The node gives its share to the others, and keeps what it has until they have it; or takes its share again. Until it starts anew */
  | { type: 'drain'; node: string; drained: boolean }
  /** Begins an epoch in which what is left of these objects counts: at most ACCEPTED_MAX. The result is null */
  | ({ type: 'accept' } & Acceptance)
  /** Orderly stop of all daemons */
  | { type: 'shutdown' }
  /** Cold start without these missing nodes */
  | { type: 'force-start' }
  | { type: 'exclusive-enter'; token: string }
  | { type: 'exclusive-leave'; token: string }
  | { type: 'vdi'; command: VdiCommand }

export type ClusterStatus =
  | 'joining'
  | 'waiting-for-format'
  /** cold start: not all nodes of the newest epoch are here; `Cluster.missing` names them */
  | 'waiting-for-nodes'
  | 'running'
  /** no quorum: I/O waits */
  | 'halted'
  /** expelled; rejoining */
  | 'expelled'
  | 'stopped'

/** The cluster as the layers above see it (lib/cluster/cluster.ts implements it). */
export interface ClusterView {
  readonly self: NodeInfo
  readonly status: ClusterStatus
  /** For people: why status is what it is, and what to do: "waiting for node b (10.0.0.2); dog cluster recover ..." */
  readonly statusReason: string
  /** null before format */
  readonly config: ClusterConfig | null
  /** Newest epoch; null before format */
  readonly epoch: EpochRecord | null
  /** Every epoch still needed, oldest first: at least back to the last one that every known node has recovered */
  readonly history: readonly EpochRecord[]
  /** node id -> newest epoch it has reported `recovered` for */
  readonly recovered: ReadonlyMap<string, number>
  readonly recovery: RecoverySettings
  /** Who left while this daemon ran and has not come back, last ones last: at most DEPARTED_MAX */
  readonly departed: readonly DepartedNode[]
  /** ms that a volume's requests wait without quorum before they fail, unless the volume says otherwise; 0: for ever */
  readonly onNoQuorum: number
  /**
   * Resolves with the command's result once it is delivered and durable on this member; `everywhere`: on all present
   * members. Rejects with SheepError: the command's own refusal, or halted / shutting-down / timeout.
   */
  propose(command: ClusterCommand, everywhere?: boolean): Promise<unknown>
  /** One member at a time, in total order; let go when the holder leaves. */
  exclusive<T>(run: () => Promise<T>): Promise<T>
}

export interface ClusterListener {
  /** Epoch record is durable here. `previous` is null at format or at this member's start. Called in total order. */
  epochChanged(current: EpochRecord, previous: EpochRecord | null, left: readonly string[]): void
  /** After each delivered command that was applied (result is what the proposer gets). Called in total order. */
  commandApplied(command: ClusterCommand, sender: string, result: unknown): void
  statusChanged(status: ClusterStatus, reason: string): void
}
