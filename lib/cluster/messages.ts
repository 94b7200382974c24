/**
 * What members broadcast to each other: JSON, one message a payload. Members trust each other; still, a payload that is
 * none of these is refused here and nowhere else.
 */
import { SheepError } from '../errors.js'
import type { Unconfirmed } from './confirmations.js'
import type { MemberId } from './engine.js'
import { isMessage } from './shape.js'
import { ClusterState, type StateJson } from './state.js'
import type { ClusterCommand, NodeInfo } from './types.js'

/**
 * Members of different protocols cannot be in one cluster. Raised when a message or an entry changes its meaning, and with PEER_VERSION
 * (lib/protocol/header.ts): members that cannot connect to each other would be in one epoch.
 */
export const PROTOCOL = 1

export type NodeSummary = Pick<NodeInfo, 'id' | 'name' | 'host' | 'port'>

export interface EpochSummary {
  number: number
  /** Digest with which it began */
  line: string
  nodes: NodeSummary[]
}

/** What a member's state is: its last known epoch and how far beyond that it is. */
export interface Summary {
  clusterId: string
  /** From the last that took effect here to the newest, oldest first; at least the newest */
  epochs: EpochSummary[]
  seq: number
  digest: string
  /** The last epoch that took effect here: what it wrote into objects is of this epoch at most. 0: none */
  effective: { epoch: number; line: string }
}

export interface Hello {
  type: 'hello'
  protocol: number
  /** Tells cluster keys apart (keyMark of lib/protocol/proof.ts); absent: no key */
  key?: string
  /** The round that it belongs to: whose call it answers */
  round: string
  /** Tells this HELLO from the sender's others */
  nonce: number
  node: NodeInfo
  /** outside: takes no part; frozen: lost members without quorum, its state stands still; running */
  mode: 'outside' | 'frozen' | 'running'
  quorate: boolean
  /** An administrator said to start without the nodes that are missing */
  forced: boolean
  /** What it has, on disk at least; null: nothing */
  summary: Summary | null
}

/** Begins a round: at its delivery everybody says HELLO. */
export interface Again {
  type: 'again'
  nonce: number
  /** The sender was sent a STATE that it could not take: if you count it as established, do not */
  lost: boolean
}

export interface Proposal {
  /** Rises with each broadcast of its sender */
  id: number
  /** ms since the Unix epoch, the proposer's */
  time: number
  /** All members must have it on disk before the proposer goes on: each says so */
  everywhere: boolean
  command: ClusterCommand
}

export interface Commands {
  type: 'commands'
  list: Proposal[]
}

/** All entries through `seq` are on this member's disk; those that begin an epoch may wait for others to say so too. */
export interface Stored {
  type: 'stored'
  seq: number
}

/** All entries through `seq` are on this member's disk and applied. */
export interface Ack {
  type: 'ack'
  seq: number
}

export interface Newcomer {
  hello: Hello
  heard: number
}

/** What the members share beside the replicated state: how far they have come in the order of events, and who is who. */
export interface Runtime {
  /** The sender's count of ordered events when this was true */
  at: number
  members: MemberId[]
  /** Established members and their nodes */
  established: [MemberId, string][]
  /** Heard and accepted, to be established when their STATE is delivered; `heard`: the sender's count at their HELLO */
  waiting: [MemberId, Newcomer][]
  expelled: MemberId[]
  unconfirmed: Unconfirmed[]
  round: string
}

/** All entries through `seq` have been delivered to this member, on the line that has this digest there. */
export interface Receipt {
  type: 'receipt'
  seq: number
  digest: string
}

/**
 * The state for those who lack it. Its delivery, not its sending, establishes them: everybody counts them in from there.
 * `start` names the round that decided on a start of the whole cluster; '' for newcomers to a running one.
 */
export interface StateMessage {
  type: 'state'
  to: MemberId[]
  start: string
  runtime: Runtime
  /** null when nobody needs it: the members go on where they stopped */
  state: StateJson | null
}

/** To itself, in order: am I still in? */
export interface Probe {
  type: 'probe'
  id: number
}

/** This member cannot take part; it stops and tells its administrator why. */
export interface Refuse {
  type: 'refuse'
  to: MemberId
  reason: string
  hint: string
}

export type Message = Hello | Again | Commands | Receipt | Stored | Ack | StateMessage | Probe | Refuse

export function encodeMessage(message: Message): Buffer {
  return Buffer.from(JSON.stringify(message))
}

/** null when the payload is no message of this protocol, or its state is none. */
export function decodeMessage(payload: Buffer): Message | null {
  let value: unknown
  try {
    value = JSON.parse(payload.toString())
  } catch {
    return null
  }
  if (!isMessage(value)) return null
  if (value.type === 'state' && value.state !== null && !isState(value.state)) return null
  return value
}

function isState(value: unknown): boolean {
  try {
    ClusterState.fromJSON(value)
    return true
  } catch (error) {
    if (error instanceof SheepError) return false
    throw error
  }
}
