/**
 * Simulated cluster engine with corosync's guarantees (extended virtual synchrony, agreed delivery):
 *
 * - members of one group see the same messages and views in one order, each at its own pace;
 * - a change of members reforms groups; those who go on together have delivered the same before their next view; messages
 *   of members that are gone and that none of them had delivered may be dropped, though the lost members may have seen
 *   them;
 * - after a partition heals, both sides see the others as joined, under their old member ids;
 * - quorum counts hosts that are up and connected, whether a daemon runs on them or not. A loss of quorum is told
 *   before the view that shows it, a gain after.
 *
 * `hasQuorum: false` is the local engine: no partitions, always quorate.
 */
import type { Engine, EngineEvents, EngineView, MemberId } from '../../lib/cluster/engine.js'
import type { Scheduler } from './clock.js'
import type { Process } from './process.js'
import type { SimRandom } from './random.js'

type Item =
  | { type: 'message'; sender: MemberId; payload: Buffer; group: Group; number: number }
  | { type: 'view'; view: EngineView }
  | { type: 'quorum'; quorate: boolean }

interface Group {
  members: Member[]
  /** Messages ordered so far; each member has delivered a prefix */
  ordered: number
  /** A host is gone or out of reach: nothing is ordered until the group has reformed */
  frozen: boolean
}

export interface EngineShape {
  hasQuorum: boolean
  /** Mean time to order or deliver a message, ms */
  latency: number
  /** From a host's silence to the new view: between this and twice this, ms */
  tokenTimeout: number
}

export class EngineHub {
  #groups: Group[] = []
  #joins = 0
  /** Hosts that cannot reach each other are in different sides. */
  #sideOf: (host: string) => number = () => 0
  readonly #hostsDown = new Set<string>()

  constructor(
    readonly scheduler: Scheduler,
    readonly random: SimRandom,
    readonly shape: EngineShape,
    /** Every host that has a vote */
    readonly hosts: readonly string[],
  ) {}

  attach(process: Process, host: string): SimEngine {
    return new SimEngine(this, process, host)
  }

  /** `sideOf` as it is from now on; the members find out after the token's time-out. */
  partition(sideOf: (host: string) => number): void {
    this.#sideOf = sideOf
    for (const group of this.#groups) {
      const first = group.members[0]
      if (group.members.some((member) => this.#side(member) !== this.#side(first))) group.frozen = true
    }
    this.#reformAfter(this.shape.tokenTimeout * (1 + this.random.float()))
  }

  /** The host's kernel is gone; its daemon too. */
  hostDown(host: string): void {
    this.#hostsDown.add(host)
    for (const group of this.#groups) {
      if (group.members.some((member) => member.host === host)) group.frozen = this.shape.hasQuorum
    }
    this.#reformAfter(this.shape.tokenTimeout * (1 + this.random.float()))
  }

  hostUp(host: string): void {
    if (!this.#hostsDown.delete(host)) return
    this.#reformAfter(this.shape.tokenTimeout * 0.5 * (1 + this.random.float()))
  }

  /** Only the daemon died: its engine service notices at once. */
  processDied(): void {
    this.#reformAfter(this.random.exponential(2))
  }

  /** Throws one member out, as a service does that lost its client or was killed under it. */
  fail(process: Process, reason: string): void {
    for (const group of this.#groups) {
      for (const member of group.members) {
        if (member.process !== process || member.failed) continue
        member.failed = true
        this.scheduler.after(0, () => member.process.enter(() => member.events!.failed(reason)))
        this.processDied()
      }
    }
  }

  /** Something has happened that some members are still to be told of */
  get unsettled(): boolean {
    return this.#groups.some((group) => group.frozen || group.members.some((member) => member.hasNews))
  }

  // for the members

  nextJoin(): number {
    return ++this.#joins
  }

  join(member: Member): void {
    this.#groups.push({ members: [member], ordered: 0, frozen: true })
    this.#reformAfter(this.random.exponential(this.shape.latency * 4))
  }

  leave(member: Member): void {
    member.leaving = true
    this.#reformAfter(this.random.exponential(this.shape.latency * 2))
  }

  submit(member: Member, payload: Buffer): void {
    this.scheduler.after(this.random.exponential(this.shape.latency), () => this.#order(member), true)
    member.unordered.push(payload)
  }

  /** The oldest unordered message of this member gets its place. */
  #order(member: Member): void {
    const group = this.#groupOf(member)
    const present = !member.failed && !this.#hostsDown.has(member.host)
    if (!group || !present) return
    if (group.frozen) {
      member.held++
      return
    }
    const payload = member.unordered.shift()
    if (!payload) return
    const item: Item = { type: 'message', sender: member.self, payload, group, number: ++group.ordered }
    for (const other of group.members) other.enqueue(item)
  }

  #groupOf(member: Member): Group | undefined {
    return this.#groups.find((group) => group.members.includes(member))
  }

  #side(member: Member): number {
    return this.#sideOf(member.host)
  }

  #reformAfter(ms: number): void {
    this.scheduler.after(ms, () => this.#reform(), true)
  }

  #gone(member: Member): boolean {
    return !member.process.alive || member.leaving || member.failed || this.#hostsDown.has(member.host)
  }

  #quorate(side: number): boolean {
    if (!this.shape.hasQuorum) return true
    const reachable = this.hosts.filter((host) => !this.#hostsDown.has(host) && this.#sideOf(host) === side)
    return reachable.length * 2 > this.hosts.length
  }

  /** Puts everybody into the group of their side, and tells those for whom anything changed. */
  #reform(): void {
    const old = this.#groups
    const sides = new Map<number, Member[]>()
    for (const group of old) {
      for (const member of group.members) {
        if (this.#gone(member)) continue
        const side = this.#side(member)
        const list = sides.get(side) ?? []
        list.push(member)
        sides.set(side, list)
      }
    }
    const groups: Group[] = []
    for (const [side, members] of sides) {
      members.sort((a, b) => a.joinNumber - b.joinNumber)
      const same = old.find(
        (group) => group.members.length === members.length && members.every((member) => group.members.includes(member)),
      )
      const quorate = this.#quorate(side)
      if (same && members.every((member) => member.viewed)) {
        same.frozen = false
        groups.push(same)
        for (const member of members) member.tellQuorum(quorate)
      } else {
        groups.push(this.#newGroup(old, members, quorate))
      }
    }
    this.#groups = groups
    for (const group of old) {
      for (const member of group.members) if (member.leaving) member.left()
    }
    for (const group of groups) {
      for (const member of group.members) {
        for (let held = member.held; held > 0; held--) {
          this.scheduler.after(this.random.exponential(this.shape.latency), () => this.#order(member), true)
        }
        member.held = 0
      }
    }
  }

  #newGroup(old: readonly Group[], members: Member[], quorate: boolean): Group {
    const ids = members.map((member) => member.self)
    for (const group of old) {
      const together = group.members.filter((member) => members.includes(member))
      if (together.length === 0) continue
      this.#agree(group, together)
      const before = group.members.map((member) => member.self)
      for (const member of together) {
        const known = member.viewed ? before : []
        const view: EngineView = {
          members: ids,
          joined: ids.filter((id) => !known.includes(id)),
          left: known.filter((id) => !ids.includes(id)),
        }
        if (!quorate) member.tellQuorum(false)
        member.enqueue({ type: 'view', view })
        if (quorate) member.tellQuorum(true)
        member.viewed = true
      }
    }
    return { members, ordered: 0, frozen: false }
  }

  /** Those who go on together end with the same messages of the old group. */
  #agree(group: Group, together: readonly Member[]): void {
    if (together.length === group.members.length) return
    const stays = new Set(together.map((member) => member.self))
    const given = Math.max(...together.map((member) => member.givenOf(group)))
    const cut = this.random.chance(0.5) ? group.ordered : this.random.between(given, group.ordered)
    for (const member of together) {
      member.drop(
        (item) => item.type === 'message' && item.group === group && item.number > cut && !stays.has(item.sender),
      )
    }
  }
}

/** One daemon in the engine. */
class Member {
  events: EngineEvents | null = null
  readonly unordered: Buffer[] = []
  /** Orderings that came while the group was frozen */
  held = 0
  leaving = false
  failed = false
  /** Has been told a view */
  viewed = false
  /** The last message that was given to the daemon: its group and number */
  #givenGroup: Group | null = null
  #givenNumber = 0
  onLeft: (() => void) | null = null
  #quorate: boolean | null = null
  readonly #queue: Item[] = []
  #delivering = false

  constructor(
    readonly hub: EngineHub,
    readonly process: Process,
    readonly host: string,
    readonly self: MemberId,
    readonly joinNumber: number,
  ) {}

  enqueue(item: Item): void {
    this.#queue.push(item)
    this.#next()
  }

  tellQuorum(quorate: boolean): void {
    if (this.#quorate === quorate) return
    this.#quorate = quorate
    this.enqueue({ type: 'quorum', quorate })
  }

  get hasNews(): boolean {
    return this.#queue.some((item) => item.type !== 'message')
  }

  givenOf(group: Group): number {
    return this.#givenGroup === group ? this.#givenNumber : 0
  }

  drop(unwanted: (item: Item) => boolean): void {
    const rest = this.#queue.filter((item) => !unwanted(item))
    this.#queue.splice(0, this.#queue.length, ...rest)
  }

  left(): void {
    const { onLeft } = this
    this.onLeft = null
    if (onLeft) this.hub.scheduler.after(0, () => this.process.enter(onLeft))
  }

  #next(): void {
    if (this.#delivering || this.#queue.length === 0) return
    this.#delivering = true
    const { hub } = this
    hub.scheduler.after(hub.random.exponential(hub.shape.latency), () => {
      this.#delivering = false
      const item = this.#queue.shift()
      if (item && !this.failed) {
        // A daemon that stands still has it all the same: the service cannot take it back.
        if (item.type === 'message') {
          this.#givenGroup = item.group
          this.#givenNumber = item.number
        }
        this.process.enter(() => this.#deliver(item))
      }
      this.#next()
    })
  }

  #deliver(item: Item): void {
    const events = this.events!
    const { scheduler } = this.hub
    if (scheduler.trace.on) scheduler.trace.line(scheduler.now, `${this.process.name} engine: ${describe(item)}`)
    if (item.type === 'message') {
      events.message(item.sender, Buffer.from(item.payload))
    } else if (item.type === 'view') {
      events.view(item.view)
    } else {
      events.quorum(item.quorate)
    }
  }
}

/** For the trace. */
function describe(item: Item): string {
  if (item.type === 'quorum') return `quorum ${item.quorate}`
  if (item.type === 'message') return `${item.sender} says ${item.payload.toString('latin1', 0, 200)}`
  const { members, joined, left } = item.view
  return `view ${members}${joined.length > 0 ? ` + ${joined}` : ''}${left.length > 0 ? ` - ${left}` : ''}`
}

export class SimEngine implements Engine {
  readonly name = 'simulated'
  readonly hasQuorum: boolean
  readonly #member: Member

  constructor(
    readonly hub: EngineHub,
    readonly process: Process,
    host: string,
  ) {
    this.hasQuorum = hub.shape.hasQuorum
    this.#member = new Member(hub, process, host, `engine-${process.name}`, hub.nextJoin())
  }

  get self(): MemberId {
    return this.#member.self
  }

  join(events: EngineEvents): Promise<void> {
    this.process.systemCall()
    this.#member.events = events
    this.hub.join(this.#member)
    return Promise.resolve()
  }

  leave(): Promise<void> {
    this.process.systemCall()
    return new Promise((resolve) => {
      this.#member.onLeft = resolve
      this.hub.leave(this.#member)
    })
  }

  broadcast(payload: Buffer): void {
    this.process.systemCall()
    this.hub.submit(this.#member, Buffer.from(payload))
  }
}
