/**
 * Membership machines on a total-order bus, without clock or disk of their own: the test says who gets what next. The bus has
 * what corosync gives: groups that part and meet again, each member at its own pace, messages of those who are gone that
 * nobody who stays has seen may be lost, quorum told before a view that loses it and after one that gains it.
 */
import assert from 'node:assert/strict'
import type { Entry } from '../../../lib/cluster/history.js'
import { Membership } from '../../../lib/cluster/membership.js'
import { decodeMessage, encodeMessage, type Message } from '../../../lib/cluster/messages.js'
import { ClusterState, type StateJson } from '../../../lib/cluster/state.js'
import type { Numbered, OrderedEvent, Standing, TimerName } from '../../../lib/cluster/steps.js'
import type { ClusterCommand, NodeInfo } from '../../../lib/cluster/types.js'
import type { SheepError } from '../../../lib/errors.js'

export interface Group {
  members: Member[]
  side: number
}

type Item = { quorate: boolean } | { group: Group; event: OrderedEvent; payload: Buffer | null }

export interface Proposed {
  command: ClusterCommand
  everywhere: boolean
  state: 'waiting' | 'sent' | 'applied' | 'done' | 'unknown'
  error: SheepError | null
  seq: number
}

export function nodeInfo(number: number, space = 1000): NodeInfo {
  const id = String(number).padStart(16, '0')
  return { id, name: `n${number}`, host: `h${number}`, port: 7000, zone: `z${number}`, space, vnodes: 0 }
}

/** One host with its disk; its daemon comes and goes. */
export class Host {
  member: Member | null = null
  incarnation = 0
  /** What a restart finds: a snapshot, the log since, and the last epoch that took effect */
  disk: { state: StateJson; log: Entry[]; effective: number } | null = null
  side = 0
  refused: SheepError | null = null

  constructor(
    readonly bus: Bus,
    readonly number: number,
    readonly info = nodeInfo(number),
  ) {}
}

export class Member {
  readonly id: string
  readonly machine: Membership
  state: ClusterState | null
  readonly inbox: Item[] = []
  readonly outbox: Buffer[] = []
  readonly ordered: Numbered[] = []
  readonly timers = new Map<TimerName, number>()
  readonly proposals = new Map<number, Proposed>()
  standing: Standing = { status: 'joining', reason: '', missing: [] }
  newest: Standing | null = null
  /** The group whose view it was given last */
  group: Group | null = null
  told: boolean | null = null
  private owesAck = false
  private lastAck = 0
  private durable = 0
  private lastId = 0

  constructor(
    readonly bus: Bus,
    readonly host: Host,
  ) {
    this.id = `m${host.number}.${++host.incarnation}`
    this.state = host.disk && ClusterState.fromJSON(JSON.parse(JSON.stringify(host.disk.state)))
    for (const entry of host.disk?.log ?? []) this.state!.apply(JSON.parse(JSON.stringify(entry)) as Entry)
    const history = this.state?.history.fork() ?? null
    this.durable = history?.seq ?? 0
    this.machine = new Membership(this.id, host.info, bus.hasQuorum, history, host.disk?.effective ?? 0)
  }

  get alive(): boolean {
    return this.host.member === this
  }

  /** The next thing the engine has for it; false when there is none. */
  deliver(): boolean {
    const item = this.inbox.shift()
    if (item === undefined) return false
    if ('quorate' in item) {
      this.step({ type: 'quorum', quorate: item.quorate })
      return true
    }
    if (item.event.type === 'view') this.group = item.group
    const message = item.payload === null ? null : decodeMessage(item.payload)
    if (item.payload !== null) assert(message, 'every message decodes')
    this.step(item.event.type === 'view' ? item.event : { ...item.event, message: message! })
    return true
  }

  fire(name: TimerName): void {
    if (this.timers.delete(name)) this.step({ type: 'timer', name })
  }

  private step(event: Parameters<Membership['step']>[0]): void {
    const now = this.bus.steps
    for (const action of this.machine.step(event, { now, wall: now })) {
      if (action.type === 'broadcast') this.send(action.message)
      else if (action.type === 'timer') this.timers.set(action.name, action.ms)
      else if (action.type === 'untaken') this.untaken(action.ids)
      else if (action.type === 'take-back') this.takeBack(action.from)
      else if (action.type === 'stop') {
        this.host.refused = action.error
        this.bus.crash(this.host)
        return
      } else if (action.type !== 'probed') this.order(action)
    }
    if (event.type === 'message' && event.message.type === 'commands') {
      this.owesAck ||= event.message.list.some((proposal) => proposal.everywhere)
    }
    this.recheck()
  }

  private order(action: Numbered): void {
    if (action.type === 'standing') this.newest = action.standing
    if (action.type === 'standing' && action.standing.status !== 'running') this.standing = action.standing
    else this.ordered.push(action)
  }

  /** Writes what is stable to the disk, in one batch. */
  write(): void {
    const whole = this.ordered.findLastIndex(
      ({ type, number }) => (type === 'install' || type === 'format') && number < this.machine.firstUnstable,
    )
    if (whole > 0) this.disown(this.ordered.splice(0, whole).flatMap((one) => ('by' in one ? [one.by] : [])))
    const entries: Entry[] = []
    for (const action of this.ordered) {
      if (action.type === 'install' || action.type === 'format' || action.number >= this.machine.firstUnstable) break
      if (action.type === 'entry' && action.entry.seq > this.durable) entries.push(action.entry)
    }
    if (entries.length === 0) return
    this.host.disk!.log.push(...entries)
    this.durable = entries[entries.length - 1].seq
    if (entries.some((entry) => entry.type === 'epoch')) this.send({ type: 'stored', seq: this.durable })
  }

  /** Lets take effect what may. */
  work(): void {
    this.write()
    while (this.alive && this.ordered.length > 0 && this.ordered[0].number < this.machine.firstUnstable) {
      const action = this.ordered[0]
      if (action.type === 'entry') {
        const { entry } = action
        const free = entry.type === 'command' || this.machine.mode !== 'running'
        if (entry.seq > this.durable || !(free || this.machine.confirmations.allow(entry.seq))) break
      }
      this.perform(this.ordered.shift()!)
    }
    if (!this.alive || this.state === null) return
    if (this.owesAck && this.state.history.seq > this.lastAck) {
      this.owesAck = this.ordered.length > 0
      this.lastAck = this.state.history.seq
      this.send({ type: 'ack', seq: this.lastAck })
    }
    this.recheck()
  }

  private replace(state: ClusterState): void {
    this.state = state
    this.durable = state.history.seq
    this.host.disk = { state: state.toJSON(), log: [], effective: 0 }
    this.tookEffect()
  }

  private tookEffect(): void {
    const { history } = this.state!
    this.host.disk!.effective = history.epoch.number
    this.machine.effective = history.epoch.number
    this.bus.epochInEffect(this)
  }

  private perform(action: Numbered): void {
    switch (action.type) {
      case 'entry': {
        const outcome = this.state!.apply(action.entry)
        if (action.entry.type === 'epoch' && this.machine.mode === 'running') this.tookEffect()
        const proposal = this.proposals.get(action.by)
        if (proposal) Object.assign(proposal, { state: 'applied', error: outcome.error, seq: action.entry.seq })
        return
      }
      case 'install':
        this.replace(ClusterState.fromJSON(JSON.parse(JSON.stringify(action.state))))
        this.disown([])
        return
      case 'format': {
        this.replace(ClusterState.format(action.config, action.seq, action.record))
        const proposal = this.proposals.get(action.by)
        if (proposal) Object.assign(proposal, { state: 'applied', seq: action.seq })
        return
      }
      case 'send-state': {
        const { to, start, runtime, whole } = action
        this.send({ type: 'state', to, start, runtime, state: whole ? this.state!.toJSON() : null })
        return
      }
      case 'settle': {
        const proposal = this.proposals.get(action.by)
        if (proposal) Object.assign(proposal, { state: 'done', error: action.error })
        return
      }
      case 'standing':
        if (action.standing !== this.newest) return
        this.standing = action.standing
        this.owesAck = true
        this.lastAck = 0
        for (const proposal of this.proposals.values())
          if (proposal.state === 'waiting') this.broadcastProposal(proposal)
    }
  }

  private recheck(): void {
    for (const proposal of this.proposals.values()) {
      if (proposal.state !== 'applied') continue
      const everywhere = proposal.everywhere && proposal.error === null
      if (everywhere && !(this.standing.status === 'running' && this.machine.ackedByAll(proposal.seq))) continue
      proposal.state = 'done'
      if (proposal.error === null) this.bus.acknowledged.push(proposal.command)
    }
  }

  private takeBack(from: number): void {
    const at = this.ordered.findIndex(({ number }) => number >= from)
    const gone = at < 0 ? [] : this.ordered.splice(at)
    this.disown(gone.flatMap((one) => ('by' in one ? [one.by] : [])))
  }

  private disown(ids: readonly number[]): void {
    for (const [id, proposal] of this.proposals) {
      if (proposal.state === 'applied' || (ids.includes(id) && proposal.state === 'sent')) proposal.state = 'unknown'
    }
  }

  private untaken(ids: readonly number[]): void {
    for (const id of ids) {
      const proposal = this.proposals.get(id)
      if (proposal?.state !== 'sent') continue
      this.proposals.delete(id)
      proposal.state = 'waiting'
      this.proposals.set(-++this.lastId, proposal)
    }
    if (this.standing.status === 'running') {
      for (const proposal of this.proposals.values()) if (proposal.state === 'waiting') this.broadcastProposal(proposal)
    }
  }

  propose(command: ClusterCommand, everywhere = this.bus.hasQuorum): Proposed {
    const proposal: Proposed = { command, everywhere, state: 'waiting', error: null, seq: 0 }
    this.proposals.set(-++this.lastId, proposal)
    const { status } = this.standing
    const early = command.type === 'format' || command.type === 'force-start'
    if (status === 'running' || (early && status.startsWith('waiting'))) this.broadcastProposal(proposal)
    return proposal
  }

  private broadcastProposal(proposal: Proposed): void {
    for (const [id, one] of this.proposals) if (one === proposal) this.proposals.delete(id)
    const id = ++this.lastId
    this.proposals.set(id, proposal)
    proposal.state = 'sent'
    const { command, everywhere } = proposal
    this.send({ type: 'commands', list: [{ id, time: 1, everywhere, command }] })
  }

  private send(message: Message): void {
    if (this.alive) this.outbox.push(encodeMessage(message))
  }
}

export class Bus {
  readonly hosts: Host[]
  groups: Group[] = []
  steps = 0
  /** An administrator chose to go on without some nodes: there may be two lines then */
  forced = false
  /** Commands that were answered with success */
  readonly acknowledged: ClusterCommand[] = []
  /** cluster id and epoch number -> digest of the line, for each epoch that took effect anywhere */
  private readonly lines = new Map<string, string>()
  private joins: Member[] = []

  constructor(
    readonly hasQuorum: boolean,
    count: number,
    /** True: the message gets lost with those who left */
    readonly loses: () => boolean = () => false,
  ) {
    this.hosts = Array.from({ length: count }, (_, at) => new Host(this, at))
  }

  get members(): Member[] {
    return this.hosts.flatMap(({ member }) => (member === null ? [] : [member]))
  }

  start(host: Host): Member {
    assert(host.member === null)
    host.refused = null
    const member = new Member(this, host)
    host.member = member
    this.joins.push(member)
    this.reform()
    return member
  }

  crash(host: Host): void {
    host.member = null
    this.reform()
  }

  /** `sideOf` each host, for as long as it is not called again. */
  part(sideOf: (host: Host) => number): void {
    assert(this.hasQuorum, 'without quorum there are no partitions')
    for (const host of this.hosts) host.side = sideOf(host)
    this.reform()
  }

  /** The oldest message that this member has sent gets its place. */
  order(member: Member): boolean {
    const group = this.groups.find((one) => one.members.includes(member))
    const payload = group && member.outbox.shift()
    if (!payload) return false
    for (const other of group.members) {
      other.inbox.push({ group, payload, event: { type: 'message', sender: member.id, message: null as never } })
    }
    return true
  }

  private quorate(side: number): boolean {
    return !this.hasQuorum || this.hosts.filter((host) => host.side === side).length * 2 > this.hosts.length
  }

  private reform(): void {
    const sides = [...new Set(this.hosts.map((host) => host.side))]
    const old = this.groups
    this.groups = []
    for (const side of sides) {
      const present = [...old.flatMap((group) => group.members), ...this.joins].filter((one) => one.alive)
      const members = this.joinOrder(present.filter((one) => one.host.side === side))
      const quorate = this.quorate(side)
      const same = old.find(
        (group) => group.members.length === members.length && members.every((member) => group.members.includes(member)),
      )
      if (same) {
        same.side = side
        this.groups.push(same)
        for (const member of members) this.tell(member, quorate)
        continue
      }
      if (members.length === 0) continue
      const group: Group = { members, side }
      this.groups.push(group)
      for (const from of old) this.agree(from, group)
      for (const member of members) {
        const from = old.find((one) => one.members.includes(member))
        const before = from?.members.map((one) => one.id) ?? []
        const ids = members.map((one) => one.id)
        const joined = ids.filter((id) => !before.includes(id))
        if (!quorate) this.tell(member, false)
        member.inbox.push({ group, payload: null, event: { type: 'view', members: ids, joined } })
        if (quorate) this.tell(member, true)
      }
    }
    this.joins = []
  }

  private readonly born = new Map<Member, number>()

  private joinOrder(members: Member[]): Member[] {
    for (const member of members) if (!this.born.has(member)) this.born.set(member, this.born.size)
    return members.sort((a, b) => this.born.get(a)! - this.born.get(b)!)
  }

  private tell(member: Member, quorate: boolean): void {
    if (!this.hasQuorum || member.told === quorate) return
    member.told = quorate
    member.inbox.push({ quorate })
  }

  /** Those who go from one group to the next together have the same of the old one. */
  private agree(from: Group, to: Group): void {
    const together = from.members.filter((member) => to.members.includes(member))
    if (together.length === 0 || together.length === from.members.length) return
    const stays = new Set(together.map((member) => member.id))
    const pending = (member: Member): Item[] => member.inbox.filter((item) => 'group' in item && item.group === from)
    const least = Math.min(...together.map((member) => pending(member).length))
    // What the quickest of them has not had yet may be lost from some point on, of the senders who are gone.
    let lost = false
    const gone = pending(together.find((member) => pending(member).length === least)!).map((item) => {
      lost ||= this.loses()
      const sender = 'event' in item && item.event.type === 'message' ? item.event.sender : ''
      return lost && sender !== '' && !stays.has(sender)
    })
    for (const member of together) {
      const items = pending(member)
      const unwanted = new Set(items.slice(items.length - least).filter((_, at) => gone[at]))
      const rest = member.inbox.filter((item) => !unwanted.has(item))
      member.inbox.splice(0, member.inbox.length, ...rest)
    }
  }

  epochInEffect(member: Member): void {
    if (this.forced) return
    const { config, epoch } = member.state!.history
    const key = `${config.clusterId} ${epoch.number}`
    const line = member.state!.history.lineOf(epoch.number)!
    assert.equal(this.lines.get(key) ?? line, line, `two epochs ${key} took effect`)
    this.lines.set(key, line)
  }

  /** What must hold at every moment. */
  check(): void {
    for (const group of this.groups) {
      if (group.members.length < 2) continue
      const running = group.members.filter((one) => one.group === group && one.machine.mode === 'running')
      const digests = new Map<number, string>()
      for (const { state, machine } of running) {
        for (const history of [state?.history, machine.delivered]) {
          if (!history) continue
          const digest = digests.get(history.seq) ?? history.digest
          assert.equal(history.digest, digest, `entry ${history.seq} is the same on all`)
          digests.set(history.seq, digest)
        }
      }
    }
  }

  /** Everything that is under way comes to its end; timers fire when nothing else is left. */
  settle(): void {
    for (let rounds = 0; rounds < 400; rounds++) {
      let busy = true
      while (busy) {
        busy = false
        for (const member of this.members) {
          if (!member.alive) continue
          this.steps++
          assert(this.steps < 1_000_000, 'it comes to an end')
          busy = this.order(member) || busy
          busy = member.deliver() || busy
          if (member.alive) member.work()
          busy = (member.alive && member.outbox.length > 0) || busy
        }
        this.check()
      }
      const timed = this.members.filter((member) => member.timers.size > 0)
      if (timed.length === 0 || this.quiet()) return
      const soonest = Math.min(...timed.flatMap((member) => [...member.timers.values()]))
      for (const member of timed) {
        for (const [name, ms] of [...member.timers]) if (ms <= soonest) member.fire(name)
      }
    }
    assert.fail(
      `no rest: ${this.members.map((one) => `${one.id} ${one.standing.status} ${one.standing.reason}`).join('; ')}`,
    )
  }

  /** All run, or wait for what only people can bring. */
  private quiet(): boolean {
    const ends = ['running', 'waiting-for-format', 'waiting-for-nodes', 'halted']
    return this.members.every((member) => ends.includes(member.standing.status))
  }
}
