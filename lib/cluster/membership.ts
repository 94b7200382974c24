/**
 * Who is in the cluster, as a pure state machine: events of the engine in, actions out. Every member runs it over the same
 * order of events, so all come to the same entries with the same numbers (lib/cluster/history.ts).
 *
 *                    all heard, nobody runs, enough are here: the holder's STATE
 *      outside ------------------------------------------------------------------> running
 *         ^  \------ heard by the running ones, their STATE is delivered ----------^  |  ^
 *         |                                                                           |  | as from outside,
 *         +--- expelled; a better state runs elsewhere <------------------------------+  | state kept
 *         +--------------------------- the others went on meanwhile <--- frozen <--------+
 *                                                             (a view without quorum)
 *
 * Rounds. When the view has members who are not established, one calls AGAIN; at its delivery everybody says HELLO, marked with
 * that call. So all HELLOs of a round tell how things stood at one point of the order. A running member needs nobody's HELLO but the
 * newcomer's, so a member that hangs delays no other. The others hear all members of the view before they conclude that nobody runs.
 *
 * Newcomers. The first established member (the sponsor) broadcasts STATE: a snapshot as of `runtime.at`. When STATE is
 * *delivered*, all count those it is for as established and make the next epoch; the newcomer takes the snapshot, repeats the
 * events that came after `at`, which it kept, and so stands where the others do. A sponsor that dies before is replaced by
 * the next, which sends its own. A newcomer that dies before is simply not there at delivery.
 *
 * Start. When nobody runs, all members of the round compute the same decision (lib/cluster/start.ts); the first holder of the newest
 * state sends it with the round's name; its delivery makes all accepted ones established and begins the next epoch.
 *
 * Quorum. The engine tells the loss before the view that shows it, the gain after (lib/cluster/engine.ts). So at a view all members of
 * that view agree on whether it is quorate: without, they take back what was not stable (lib/cluster/line.ts) and freeze. Frozen
 * members apply nothing and make no epoch; they go on by a start of their own, or fall outside when they hear that others run. A
 * loss without a view only halts: proposals wait.
 */
import { assert } from '../assert.js'
import { SheepError } from '../errors.js'

import type { MemberId } from './engine.js'
import { type Entry, History, sortedById } from './history.js'
import { KeptEvents } from './kept-events.js'
import { type Former, Line } from './line.js'
import {
  type Again,
  type Hello,
  type Message,
  type Newcomer,
  PROTOCOL,
  type Proposal,
  type Runtime,
  type StateMessage,
  type Summary,
} from './messages.js'
import { standingOf } from './standing.js'
import {
  compareStates,
  type Decision,
  decideStart,
  type FormatWish,
  formatted,
  type Refusal,
  refusalOf,
  withVnodes,
} from './start.js'
import type { Action, Instant, MembershipEvent, OrderedAction, OrderedEvent, Standing, TimerName } from './steps.js'
import type { ClusterCommand, NodeInfo } from './types.js'

/** The first member calls a round; the others when none began for so long. */
const ROUND_WAIT_MS = 1_000
/** No STATE for so long after the running ones were heard: ask again. */
const STATE_WAIT_MS = 10_000
/** Each later established member waits this much longer before it sends STATE in the sponsor's place. */
const SPONSOR_PATIENCE_MS = 3_000
/** Before an expelled member asks to come back; doubled each time until it has been in for REJOIN_CALM_MS. */
const REJOIN_MS = 200
const REJOIN_MS_MAX = 30_000
const REJOIN_CALM_MS = 60_000

export type Mode = 'outside' | 'frozen' | 'running' | 'stopped'

export interface Round {
  key: string
  mine: Hello
  hellos: Map<MemberId, Hello>
  /** Made when all members were heard and none runs */
  decision: Decision | null
}

export class Membership {
  mode: Mode = 'outside'
  members: readonly MemberId[] = []
  round: Round | null = null
  /** Was running, and is outside: its state is no longer the cluster's */
  fallen = ''
  /** Ends with all daemons: views make no more epochs, so that the next start waits for all of today's nodes */
  stopping = false
  quorate: boolean

  private established = new Map<MemberId, string>()
  private waiting = new Map<MemberId, Newcomer>()
  private expelled = new Set<MemberId>()
  private readonly acks = new Map<MemberId, number>()
  /** Ordered events so far */
  private count = 0
  private readonly kept = new KeptEvents()
  private line: Line
  /** Of the last ordered action */
  private number = 0
  /** The seq that the last RECEIPT said */
  private receipted = 0
  private replaying = false
  private sending = false
  private forced = false
  private forceIds: number[] = []
  private nonce = 0
  private rejoinMs = REJOIN_MS
  private runningSince = 0
  private instant: Instant = { now: 0, wall: 0 }
  private standing: Standing = { status: 'joining', reason: '', missing: [] }
  private actions: Action[] = []

  /** @param history what is on disk; null when the store was never in a cluster */
  constructor(
    readonly self: MemberId,
    readonly node: NodeInfo,
    readonly hasQuorum: boolean,
    history: History | null,
  ) {
    this.quorate = !hasQuorum
    this.line = new Line(hasQuorum, history)
  }

  private get history(): History | null {
    return this.line.delivered
  }

  step(event: MembershipEvent, instant: Instant): Action[] {
    this.actions = []
    this.instant = instant
    if (this.mode === 'stopped') return []
    if (event.type === 'quorum') this.quorumChanged(event.quorate)
    else if (event.type === 'timer') this.timerFired(event.name)
    else {
      this.count++
      if (this.mode !== 'running') this.kept.keep({ count: this.count, event, quorate: this.quorate })
      this.ordered(event)
      this.receipt()
    }
    const standing = standingOf(this)
    const { status, reason } = this.standing
    if (standing.status !== status || standing.reason !== reason) {
      this.standing = standing
      this.push({ type: 'standing', standing })
    }
    return this.actions
  }

  /** All established members have said that entry `seq` is on their disks. */
  ackedByAll(seq: number): boolean {
    if (this.mode !== 'running') return false
    for (const member of this.established.keys()) {
      if (member !== this.self && (this.acks.get(member) ?? 0) < seq) return false
    }
    return true
  }

  /** Established members and their node ids, in no order. */
  get present(): ReadonlyMap<MemberId, string> {
    return this.established
  }

  /** Ordered actions with this number and higher must wait. */
  get firstUnstable(): number {
    return this.line.firstUnstable
  }

  /** Of the entries delivered; null before the first start. */
  get delivered(): History | null {
    return this.history
  }

  private push(action: OrderedAction): void {
    this.actions.push({ ...action, number: ++this.number })
  }

  /** What this member has, for those who wait for it to be everywhere. */
  private receipt(): void {
    const { history } = this
    if (!this.hasQuorum || this.mode !== 'running' || history === null || history.seq === this.receipted) return
    this.receipted = history.seq
    this.broadcast({ type: 'receipt', seq: history.seq, digest: history.digest })
  }

  private ordered(event: OrderedEvent): void {
    if (event.type === 'view') this.viewed(event.members, event.joined)
    else if (this.members.includes(event.sender)) this.heard(event.sender, event.message)
  }

  private heard(sender: MemberId, message: Message): void {
    switch (message.type) {
      case 'hello':
        this.hello(sender, message)
        return
      case 'again':
        this.again(sender, message)
        return
      case 'commands':
        this.commands(sender, message.list)
        return
      case 'ack':
        if (this.established.has(sender)) this.acks.set(sender, Math.max(message.seq, this.acks.get(sender) ?? 0))
        return
      case 'receipt':
        this.line.received(sender, message.seq, message.digest)
        return
      case 'state':
        this.state(sender, message)
        return
      case 'probe':
        if (sender === this.self && !this.replaying) {
          this.actions.push({ type: 'probed', id: message.id, present: this.mode === 'running' })
        }
        return
      case 'refuse':
        if (message.to === this.self && this.mode === 'outside') this.refused(message)
        return
    }
  }

  private broadcast(message: Message): void {
    if (!this.replaying) this.actions.push({ type: 'broadcast', message })
  }

  // views and rounds

  private viewed(members: readonly MemberId[], joined: readonly MemberId[]): void {
    this.members = members
    const away = (member: MemberId): boolean =>
      member !== this.self && (!members.includes(member) || joined.includes(member))
    const gone = [...this.established.keys()].filter(away)
    for (const member of [...this.waiting.keys()]) if (away(member)) this.waiting.delete(member)
    for (const member of [...this.expelled]) if (away(member)) this.expelled.delete(member)
    if (this.hasQuorum) {
      if (this.quorate) this.line.settleAll()
      else this.freeze()
    }
    if (gone.length > 0) this.drop(gone, 0, [])
    this.round = null
    if (this.mode !== 'running' || members.some((member) => !this.established.has(member))) {
      if (members[0] === this.self || joined.includes(this.self)) this.callAgain(false)
      else this.timer('again', ROUND_WAIT_MS)
    }
    this.sponsor()
  }

  /**
   * They are no longer established; while running the next epoch is without them. `needs`: who must have it before it takes
   * effect; all the others when not given.
   */
  private drop(gone: readonly MemberId[], by: number, needs?: readonly MemberId[]): void {
    const nodes = gone.map((member) => this.established.get(member)!).sort()
    for (const member of gone) {
      this.established.delete(member)
      this.acks.delete(member)
    }
    this.line.excuse(gone)
    if (this.mode !== 'running' || this.stopping) return
    const rest = this.history!.epoch.nodes.filter((node) => !nodes.includes(node.id))
    this.makeEpoch(rest, nodes, by, needs ?? this.established.keys(), null)
  }

  private freeze(): void {
    const former = this.rollBack()
    if (former !== null && former !== 'same') {
      this.thaw(former.fallen)
      this.mode = former.mode
    } else if (this.mode === 'running') {
      this.mode = 'frozen'
    }
    this.waiting.clear()
    this.expelled.clear()
    this.sending = false
    this.stopping = false
    this.kept.forget()
  }

  private rollBack(): Former | 'same' | null {
    const from = this.line.firstUnstable
    const former = this.line.rollBack()
    if (former !== null) this.actions.push({ type: 'take-back', from })
    this.receipted = 0
    return former
  }

  private callAgain(lost: boolean): void {
    this.broadcast({ type: 'again', nonce: ++this.nonce, lost })
    this.timer('again', STATE_WAIT_MS)
  }

  private again(sender: MemberId, { nonce, lost }: Again): void {
    if (lost && this.mode === 'running' && this.established.has(sender) && this.established.size > 1) {
      this.drop([sender], 0)
      if (sender === this.self) this.fall('this node lost its place while it was joining')
    }
    const round = `${sender} ${nonce}`
    const { mode, quorate, forced, history, node } = this
    assert(mode !== 'stopped', 'a stopped member says nothing')
    const summary = history && summaryOf(history)
    const protocol = PROTOCOL
    const mine: Hello = { type: 'hello', protocol, round, nonce: ++this.nonce, node, mode, quorate, forced, summary }
    this.round = { key: round, mine, hellos: new Map(), decision: null }
    this.broadcast(mine)
  }

  private hello(sender: MemberId, hello: Hello): void {
    const { round } = this
    if (sender === this.self && !this.replaying) this.kept.helloDelivered(hello.nonce, this.count)
    if (round === null || hello.round !== round.key) return
    round.hellos.set(sender, hello)
    if (this.mode === 'running') {
      this.metByRunning(sender, hello)
    } else if (hello.mode === 'running') {
      if (this.mode === 'frozen') this.thaw('the other nodes went on without this one while it had no quorum')
      this.timer('again', STATE_WAIT_MS)
    } else {
      this.decide()
    }
  }

  private metByRunning(sender: MemberId, hello: Hello): void {
    if (this.established.has(sender) || (this.expelled.has(sender) && hello.mode !== 'outside')) return
    if (hello.mode === 'running' && this.isBetter(sender, hello)) {
      this.fall('another part of the cluster went further than this one')
      this.callAgain(false)
      return
    }
    this.expelled.delete(sender)
    const others = [...this.waiting].filter(([member]) => member !== sender).map(([, other]) => other.hello.node.id)
    const refusal = refusalOf(hello, this.history!, new Set([...this.established.values(), ...others]))
    if (refusal === null) this.waiting.set(sender, { hello, heard: this.count })
    else if (this.sponsorNow() === this.self) this.refuse(sender, refusal)
    this.sponsor()
  }

  /** Two parts run, which the engine's quorum should have prevented: one must give way, the same on both sides. */
  private isBetter(sender: MemberId, hello: Hello): boolean {
    const { summary } = this.round!.mine
    const standing = hello.summary && summary ? compareStates(hello.summary, summary) : 0
    if (standing !== 0) return standing > 0
    return this.members.indexOf(sender) < this.members.findIndex((member) => this.established.has(member))
  }

  /** From running to outside. The state stays until STATE replaces it, for a start in which it is the newest. */
  private fall(reason: string): void {
    this.thaw(reason)
    this.sending = false
    this.round = null
    this.kept.forget()
  }

  /** From frozen to outside: the events kept may serve for the STATE to come. */
  private thaw(reason: string): void {
    this.mode = 'outside'
    this.fallen = reason
    this.established.clear()
    this.waiting.clear()
    this.expelled.clear()
    this.acks.clear()
  }

  private refuse(to: MemberId, refusal: Refusal): void {
    this.broadcast({ type: 'refuse', to, ...refusal })
  }

  private refused(refusal: Refusal): void {
    this.mode = 'stopped'
    this.actions.push({ type: 'stop', error: new SheepError('join-failed', refusal.reason, refusal.hint) })
  }

  // newcomers to a running cluster

  private sponsorNow(): MemberId | undefined {
    return this.members.find((member) => this.established.has(member))
  }

  private get maySponsor(): boolean {
    return this.mode === 'running' && !this.replaying && !this.stopping && this.quorate && this.waiting.size > 0
  }

  private sponsor(): void {
    if (!this.maySponsor || this.sending) return
    const rank = this.members.filter((member) => this.established.has(member)).indexOf(this.self)
    if (rank === 0) this.sendState([...this.waiting.keys()], '')
    else this.timer('sponsor', rank * SPONSOR_PATIENCE_MS)
  }

  private sendState(to: MemberId[], start: string): void {
    if (this.replaying) return
    this.sending = true
    const { count, members, established, waiting, expelled, round } = this
    const runtime: Runtime = {
      at: count,
      members: [...members],
      established: [...established],
      waiting: [...waiting],
      expelled: [...expelled],
      round: round?.key ?? '',
    }
    this.push({ type: 'send-state', to, start, runtime, whole: to.length > 0 })
  }

  private state(sender: MemberId, message: StateMessage): void {
    if (sender === this.self) this.sending = false
    if (message.start !== '') this.begin(sender, message)
    else if (this.mode === 'running') this.admit(sender, message.to)
    else if (this.mode === 'outside' && message.to.includes(this.self)) this.takeState(message)
  }

  private admit(sender: MemberId, to: readonly MemberId[]): void {
    if (!this.established.has(sender) || this.stopping) return
    const admitted = to.filter((member) => this.waiting.has(member))
    if (admitted.length > 0) {
      const { epoch, known } = this.history!
      const needs = [...this.established.keys()]
      const nodes = admitted.map((member) => this.waiting.get(member)!.hello.node)
      for (const [at, member] of admitted.entries()) {
        this.established.set(member, nodes[at].id)
        this.waiting.delete(member)
      }
      const joins = admitted.includes(this.self) ? this.former() : null
      this.makeEpoch([...epoch.nodes, ...withVnodes(nodes, epoch.nodes, known)], [], 0, needs, joins)
    }
    this.sponsor()
  }

  /** Takes the snapshot and repeats what was ordered after it; the last of that is this very message, which admits. */
  private takeState({ runtime, state }: StateMessage): void {
    const mine = runtime.waiting.find(([member]) => member === this.self)?.[1]
    const said = mine && this.kept.countOf(mine.hello.nonce)
    if (mine === undefined || said === undefined || state === null) {
      // The events since are not all kept. But the others may count this member in by now.
      this.callAgain(true)
      return
    }
    const offset = said - mine.heard
    const later = this.kept.after(runtime.at + offset)
    const { line, members, round, actions, quorate, count, receipted, fallen } = this
    this.actions = []
    if (line.firstUnstable < Number.POSITIVE_INFINITY)
      this.actions.push({ type: 'take-back', from: line.firstUnstable })
    this.line = new Line(this.hasQuorum, null)
    this.line.replace(History.fromJSON(state.history), this.number + 1, [], null)
    this.push({ type: 'install', state })
    this.mode = 'running'
    this.receipted = 0
    this.members = runtime.members
    this.established = new Map(runtime.established)
    this.waiting = new Map(
      runtime.waiting.map(([member, { hello, heard }]) => [member, { hello, heard: heard + offset }]),
    )
    this.expelled = new Set(runtime.expelled)
    this.round =
      runtime.round === '' ? null : { key: runtime.round, mine: mine.hello, hellos: new Map(), decision: null }
    this.replaying = true
    for (const event of later) {
      this.count = event.count
      this.quorate = event.quorate
      this.ordered(event.event)
    }
    this.replaying = false
    this.quorate = quorate
    assert(this.count === count, 'the repeated events end with this one')
    if (this.mode === 'running' && this.established.has(this.self)) {
      this.actions = [...actions, ...this.actions]
      this.becomeRunning()
      return
    }
    // Its sender was no longer established when it came, or all froze before: nobody was admitted.
    this.thaw(fallen)
    Object.assign(this, { line, members, round, actions, receipted, stopping: false })
  }

  private becomeRunning(): void {
    this.mode = 'running'
    this.fallen = ''
    this.forced = false
    this.kept.forget()
    this.runningSince = this.instant.now
    for (const by of this.forceIds) this.push({ type: 'settle', by, error: null })
    this.forceIds = []
    this.sponsor()
  }

  // start of the whole cluster

  private decide(): void {
    const { round, members } = this
    if (round === null || this.mode === 'running') return
    if (!members.every((member) => round.hellos.has(member))) return
    const hellos = [...round.hellos.values()]
    if (hellos.some((hello) => hello.mode === 'running')) return
    // Nobody runs, so no STATE is on its way that would need what came before.
    this.kept.forget()
    const forced = this.forced || hellos.some((hello) => hello.forced)
    const decision = decideStart(members, round.hellos, this.hasQuorum, forced)
    round.decision = decision
    if (decision.accepted[0] === this.self) {
      for (const [member, refusal] of decision.refused) this.refuse(member, refusal)
    }
    if (decision.kind !== 'start' || decision.holders[0] !== this.self || !this.quorate) return
    this.sendState(
      decision.accepted.filter((member) => !decision.holders.includes(member)),
      round.key,
    )
  }

  private begin(sender: MemberId, message: StateMessage): void {
    const { round } = this
    const decision = round?.decision
    if (this.mode === 'running' || !round || message.start !== round.key) return
    if (decision?.kind !== 'start' || decision.holders[0] !== sender) return
    if (!decision.accepted.includes(this.self)) return
    const former = this.former()
    const { accepted, holders } = decision
    if (!holders.includes(this.self)) {
      assert(message.state !== null, 'a start brings the state for those who lack it')
      this.rollBack()
      this.line.replace(History.fromJSON(message.state.history), this.number + 1, [], null)
      this.push({ type: 'install', state: message.state })
    }
    const nodeOf = (member: MemberId): NodeInfo => round.hellos.get(member)!.node
    const goesOn = (member: MemberId): boolean =>
      holders.includes(member) && round.hellos.get(member)!.mode === 'frozen'
    this.established = new Map(accepted.map((member) => [member, nodeOf(member).id]))
    this.acks.clear()
    this.waiting.clear()
    this.expelled.clear()
    this.mode = 'running'
    this.round = null
    const { epoch, known } = this.history!
    const stayed = new Set(accepted.filter(goesOn).map((member) => nodeOf(member).id))
    const left = epoch.nodes.map((node) => node.id).filter((id) => !stayed.has(id))
    const newcomers = accepted.filter((member) => !goesOn(member)).map(nodeOf)
    if (left.length > 0 || newcomers.length > 0) {
      const kept = epoch.nodes.filter((node) => stayed.has(node.id))
      this.makeEpoch([...kept, ...withVnodes(newcomers, epoch.nodes, known)], left, 0, accepted, former)
    }
    this.becomeRunning()
  }

  /** What this member goes back to when the step that makes it run is taken back. */
  private former(): Former {
    const { mode, fallen } = this
    return { mode: mode === 'frozen' ? 'frozen' : 'outside', fallen }
  }

  // commands

  private commands(sender: MemberId, list: readonly Proposal[]): void {
    const node = this.established.get(sender)
    const untaken: number[] = []
    for (const proposal of list) {
      const { command, id } = proposal
      const by = sender === this.self ? id : 0
      if (this.mode !== 'running' && (command.type === 'format' || command.type === 'force-start')) {
        this.answer(by, this.startCommand(sender, proposal, by))
      } else if (this.mode === 'running' && node !== undefined && this.established.has(sender)) {
        this.answer(by, this.take(node, proposal, by))
      } else if (by !== 0 && !this.replaying) {
        untaken.push(id)
      }
    }
    if (untaken.length > 0) this.actions.push({ type: 'untaken', ids: untaken })
  }

  /** 'later': an entry or a start will answer. */
  private answer(by: number, outcome: SheepError | 'done' | 'later'): void {
    if (by === 0 || outcome === 'later') return
    this.push({ type: 'settle', by, error: outcome === 'done' ? null : outcome })
  }

  private take(sender: string, proposal: Proposal, by: number): SheepError | 'done' | 'later' {
    const { command, time } = proposal
    switch (command.type) {
      case 'force-start':
        return 'done'
      case 'expel':
        return this.expel(command, by)
      case 'format':
        if (!command.force) return alreadyFormatted(this.history!.config.clusterId)
        this.waiting.clear()
        return this.format({ command, time, sender, by, history: this.history!, former: null })
      case 'shutdown':
      case 'recovered':
      case 'exclusive-enter':
      case 'exclusive-leave':
      case 'vdi':
        if (command.type === 'shutdown') this.stopping = true
        this.append({ seq: this.history!.seq + 1, type: 'command', sender, time, command }, by, this.established.keys())
        return 'later'
      default:
        return new SheepError('invalid', 'a command of a kind that is not known here')
    }
  }

  private expel(command: Extract<ClusterCommand, { type: 'expel' }>, by: number): SheepError | 'later' {
    const member = [...this.established.keys()].find((one) => this.established.get(one) === command.node)
    if (member === undefined) return new SheepError('not-found', `node ${command.node} is not in the cluster`)
    if (command.epoch !== this.history!.epoch.number) {
      return new SheepError('busy', `epoch ${command.epoch} is over: node ${command.node} may be well by now`)
    }
    if (this.established.size === 1) return new SheepError('invalid', 'the only node cannot be expelled')
    this.drop([member], by)
    this.expelled.add(member)
    if (member !== this.self) {
      this.sponsor()
      return 'later'
    }
    const calm = this.instant.now - this.runningSince > REJOIN_CALM_MS
    this.rejoinMs = calm ? REJOIN_MS : Math.min(this.rejoinMs * 2, REJOIN_MS_MAX)
    this.fall(`expelled: ${command.reason}`)
    this.timer('again', this.rejoinMs)
    return 'later'
  }

  /** Format and force-start, of members that do not run. */
  private startCommand(sender: MemberId, proposal: Proposal, by: number): SheepError | 'done' | 'later' {
    const decision = this.round?.decision
    if (!decision) {
      return new SheepError('starting-up', 'the daemons are still introducing themselves', 'try again in a moment')
    }
    const { command } = proposal
    if (command.type === 'force-start') {
      if (decision.kind === 'format') {
        return new SheepError('wait-for-format', 'there is no cluster to start', 'dog cluster format')
      }
      if (by !== 0) this.forceIds.push(by)
      this.forced = true
      this.decide()
      return 'later'
    }
    assert(command.type === 'format', 'only two commands work before the start')
    if (!decision.accepted.includes(this.self)) return new SheepError('join-failed', 'this node may not take part')
    const hellos = decision.accepted.map((member) => this.round!.hellos.get(member)!)
    const summaries = hellos.flatMap(({ summary }) => (summary === null ? [] : [summary]))
    if (summaries.length > 0 && !command.force) return alreadyFormatted(summaries[0].clusterId)
    if (!this.quorate || this.mode === 'frozen') return new SheepError('halted', 'no quorum', 'wait for more nodes')
    const node = this.round!.hellos.get(sender)!.node.id
    const before = this.established
    this.established = new Map(decision.accepted.map((member, at) => [member, hellos[at].node.id]))
    const former = this.former()
    const outcome = this.format({ command, time: proposal.time, sender: node, by, hellos, former })
    if (outcome === 'later') {
      this.round = null
      this.becomeRunning()
    } else {
      this.established = before
    }
    return outcome
  }

  private format(wish: FormatWish & { by: number; former: Former | null }): SheepError | 'later' {
    const { command, sender, by, former } = wish
    const made = formatted(wish)
    if (made instanceof SheepError) return made
    const { config, seq, record } = made
    this.line.replace(History.format(config, seq, record), this.number + 1, this.others(), former)
    this.push({ type: 'format', config, seq, record, command, sender, by })
    return 'later'
  }

  private others(): MemberId[] {
    return [...this.established.keys()].filter((member) => member !== this.self)
  }

  private makeEpoch(
    nodes: readonly NodeInfo[],
    left: string[],
    by: number,
    needs: Iterable<MemberId>,
    former: Former | null,
  ): void {
    const { seq, epoch } = this.history!
    const record = { number: epoch.number + 1, time: this.instant.wall, nodes: sortedById(nodes) }
    this.append({ seq: seq + 1, type: 'epoch', record, left }, by, needs, former)
  }

  /** `needs`: those who could go on without this member */
  private append(entry: Entry, by: number, needs: Iterable<MemberId>, former: Former | null = null): void {
    const others = [...needs].filter((member) => member !== this.self)
    this.line.append(entry, this.number + 1, others, former)
    this.push({ type: 'entry', entry, by })
  }

  // quorum and time

  private quorumChanged(quorate: boolean): void {
    if (!this.hasQuorum || quorate === this.quorate) return
    this.quorate = quorate
    if (!quorate || this.members.length === 0) return
    if (this.mode === 'running') this.sponsor()
    else this.callAgain(false)
  }

  private timer(name: TimerName, ms: number): void {
    if (!this.replaying) this.actions.push({ type: 'timer', name, ms })
  }

  private timerFired(name: TimerName): void {
    if (name === 'sponsor') {
      if (this.maySponsor && !this.sending) this.sendState([...this.waiting.keys()], '')
      return
    }
    if (this.mode === 'running') return
    const { round } = this
    // While nobody runs, a complete round stands until something changes.
    const heardRunning = round !== null && [...round.hellos.values()].some((hello) => hello.mode === 'running')
    if (round === null || heardRunning) this.callAgain(false)
  }
}

function alreadyFormatted(clusterId: string): SheepError {
  return new SheepError(
    'exists',
    `the cluster is formatted already (id ${clusterId})`,
    'dog cluster format --force destroys all its volumes',
  )
}

function summaryOf(history: History): Summary {
  const { config, epoch, seq, digest } = history
  const line = history.lineOf(epoch.number)!
  const nodes = epoch.nodes.map(({ id, name, host, port }) => ({ id, name, host, port }))
  return { clusterId: config.clusterId, epoch: epoch.number, line, nodes, seq, digest }
}
