/** What the daemon's thread and the bus's thread say to each other (dbus.ts, worker.ts). */
import type { ClusterStatus, NodeInfo } from '../cluster/types.js'
import type { ErrorCode } from '../errors.js'
import type { LogLevel } from '../host/interfaces.js'

export interface LockFacts {
  /** node id */
  node: string
  session: string
  mode: string
  holder: string
  /** ms since the Unix epoch */
  since: number
}

/** A volume or a snapshot. */
export interface VolumeFacts {
  vid: number
  name: string
  tag: string
  snapId: number
  /** bytes */
  size: number
  copies: number
  objectSize: number
  /** ms since the Unix epoch; of a snapshot: when it was taken */
  created: number
  preallocated: boolean
  snapshot: boolean
  /** vid of its nearest ancestor that is still there, 0 none */
  parent: number
  /** ms; 0 for ever; null: as the cluster says */
  onNoQuorum: number | null
  locks: readonly LockFacts[]
}

export interface ClusterFacts {
  version: string
  status: ClusterStatus
  reason: string
  /** node id of this daemon */
  self: string
  /** '' before format, and 0 in the next three */
  clusterId: string
  created: number
  copies: number
  objectSize: number
  epoch: number
  epochTime: number
  nodes: readonly NodeInfo[]
  /** ids of those that hold valid copies of all their share of this epoch */
  recovered: readonly string[]
  recoveryHeld: boolean
  recoveryLimit: number
  /** ms that requests wait without quorum; 0 for ever */
  onNoQuorum: number
}

export type ClusterEvent =
  | { type: 'node-joined'; node: string; name: string; epoch: number }
  | { type: 'node-left'; node: string; name: string; epoch: number; reason: string; detail: string }
  | { type: 'epoch'; epoch: number; nodes: string[] }
  | { type: 'quorum-lost'; reason: string }
  | { type: 'quorum-regained' }
  | {
      type: 'recovery'
      node: string
      state: string
      objectsDone: number
      objectsTotal: number
      bytesDone: number
      bytesTotal: number
    }

/** To the bus's thread */
export type ToBus =
  | {
      type: 'facts'
      cluster: ClusterFacts
      changed: VolumeFacts[]
      /** vids */
      removed: number[]
      events: ClusterEvent[]
    }
  | { type: 'answer'; id: number; answer: unknown; error: null }
  | { type: 'answer'; id: number; answer: null; error: { code: ErrorCode; message: string; hint: string } }
  | { type: 'stop' }

/** From the bus's thread */
export type FromBus =
  /** The last facts have been taken: more may come */
  | { type: 'taken' }
  /** A verb of lib/control/verbs.ts with checked arguments; who asks for it is allowed to. caller: '' it changes nothing */
  | { type: 'call'; id: number; verb: string; arguments: Record<string, unknown>; caller: string }
  /** Who asked has gone */
  | { type: 'gone'; id: number }
  | { type: 'log'; level: LogLevel; message: string }
  /** What corosync-notifyd told of a host */
  | { type: 'host'; name: string; address: string; state: string }
  /** Nothing of ours is on the bus any more */
  | { type: 'stopped' }

export interface WorkerInput {
  /** The bus's socket; an abstract one begins with a NUL */
  socket: string
  /** For people: system, session or the address */
  bus: string
}
