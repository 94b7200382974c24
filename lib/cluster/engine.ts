/**
 * What a cluster engine gives: members, one total order of messages and views, quorum. Everything above it is the same
 * for every engine. An engine's member id names one incarnation of one daemon: it is never reused.
 */
export type MemberId = string

/** left: in order; died: its process; lost: its host, or the way to it */
export type LeaveReason = 'left' | 'died' | 'lost'

export interface EngineView {
  /** All members, in the order in which they joined. The same list on every member. */
  readonly members: readonly MemberId[]
  readonly joined: readonly MemberId[]
  readonly left: readonly MemberId[]
  /** Why they did, where the engine knows */
  readonly reasons?: ReadonlyMap<MemberId, LeaveReason>
}

export interface EngineEvents {
  /** In one total order with `message` on all members. The first view contains this member. */
  view(view: EngineView): void
  message(sender: MemberId, payload: Buffer): void
  /**
   * On each change, and after join when it is not yet quorate or becomes so. A loss comes before the view that shows it, a gain
   * after: so all members of a view agree on whether it is quorate. Never called when `hasQuorum` is false.
   * `reason`, for people: why there is none, when it is something else than that most hosts are out of reach.
   */
  quorum(quorate: boolean, reason?: string): void
  /** The engine cannot go on (its service died, this member was thrown out). The daemon leaves service at once. */
  failed(reason: string): void
}

export interface Engine {
  readonly name: string
  /** Valid after join. */
  readonly self: MemberId
  /**
   * True when a partition's minority is told by `quorum(false)`, and a member that is lost may have been delivered last messages
   * that those who go on are not. False (local) when there can be no partition: what one member got, all get.
   */
  readonly hasQuorum: boolean
  join(events: EngineEvents): Promise<void>
  /** Orderly: the others see a view without this member. */
  leave(): Promise<void>
  /** Delivered to every member, this one too, in total order. Never calls back before it returns. */
  broadcast(payload: Buffer): void
}
