/** What goes into the membership machine and what comes out. Only data: the same events give the same actions. */
import type { SheepError } from '../errors.js'
import type { MemberId } from './engine.js'
import type { Entry } from './history.js'
import type { Message, NodeSummary, Runtime } from './messages.js'
import type { StateJson } from './state.js'
import type { ClusterCommand, ClusterConfig, ClusterStatus, EpochRecord } from './types.js'

export type TimerName = 'again' | 'sponsor'

/** In the engine's total order, the same on every member. */
export type OrderedEvent =
  | { type: 'view'; members: readonly MemberId[]; joined: readonly MemberId[] }
  | { type: 'message'; sender: MemberId; message: Message }

export type MembershipEvent =
  | OrderedEvent
  | { type: 'quorum'; quorate: boolean; reason?: string }
  | { type: 'timer'; name: TimerName }

export interface Instant {
  /** ms, monotonic */
  now: number
  /** ms since the Unix epoch: for records, never for decisions */
  wall: number
}

/** How things stand, for people and for the layers above. */
export interface Standing {
  status: ClusterStatus
  reason: string
  /** Nodes that a start waits for */
  missing: NodeSummary[]
}

/** To be done at once. */
export type UrgentAction =
  | { type: 'broadcast'; message: Message }
  | { type: 'timer'; name: TimerName; ms: number }
  /** Own proposals that were delivered and changed nothing, because this member took no part: propose them again */
  | { type: 'untaken'; ids: number[] }
  /** Own probe `id` was delivered */
  | { type: 'probed'; id: number; present: boolean }
  /** Forget the ordered actions with this number and higher: they will not take effect */
  | { type: 'take-back'; from: number }
  /** This member cannot take part */
  | { type: 'stop'; error: SheepError }

/** To be done in this order, each when all before it is done and it is stable, entries when they are on disk. */
export type OrderedAction =
  /** `by`: id of this member's own proposal that asked for it; 0 none */
  | { type: 'entry'; entry: Entry; by: number }
  /** The whole state anew */
  | { type: 'install'; state: StateJson }
  | {
      type: 'format'
      config: ClusterConfig
      seq: number
      record: EpochRecord
      command: ClusterCommand
      sender: string
      by: number
    }
  /** Broadcast the state as it is after what came before */
  | { type: 'send-state'; to: MemberId[]; start: string; runtime: Runtime; whole: boolean }
  /** Answers an own proposal that needs no entry */
  | { type: 'settle'; by: number; error: SheepError | null }
  | { type: 'standing'; standing: Standing }

/** Rises with each ordered action. */
export type Numbered = OrderedAction & { number: number }

export type Action = UrgentAction | Numbered
