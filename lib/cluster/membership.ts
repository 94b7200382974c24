/**
 * Who is in the cluster, as a pure state machine (with newcomers.ts, starting.ts and commands.ts, which use its fields): events of the engine in, actions out. Every member runs it over the same
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

import { commands } from './commands.js'
import { Confirmations } from './confirmations.js'
import type { MemberId } from './engine.js'
import { type Entry, type History, sortedById } from './history.js'
import { KeptEvents } from './kept-events.js'
import { type Former, Line } from './line.js'
import {
  type Again,
  type Hello,
  type Message,
  type Newcomer,
  PROTOCOL,
  type StateMessage,
  type Summary,
} from './messages.js'
import { admit, metByRunning, sendState, sponsor, takeState } from './newcomers.js'
import { standingOf } from './standing.js'
import type { Decision, Refusal } from './start.js'
import { begin, decide } from './starting.js'
import type { Action, Instant, MembershipEvent, OrderedAction, OrderedEvent, Standing, TimerName } from './steps.js'
import type { Acceptance, EpochRecord, NodeInfo } from './types.js'

/** The first member calls a round; the others when none began for so long. */
const ROUND_WAIT_MS = 1_000
/** No STATE for so long after the running ones were heard: ask again. */
const STATE_WAIT_MS = 10_000
/** Before a member that was expelled once asks to come back. */
export const REJOIN_MS = 200

const WENT_ON = 'the other nodes went on without this one while it had no quorum'

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
  /** Why there is no quorum, when the engine says */
  noQuorum = ''

  established = new Map<MemberId, string>()
  waiting = new Map<MemberId, Newcomer>()
  expelled = new Set<MemberId>()
  readonly acks = new Map<MemberId, number>()
  readonly confirmations: Confirmations
  /** Ordered events so far */
  count = 0
  readonly kept = new KeptEvents()
  line: Line
  /** Of the last ordered action */
  number = 0
  /** The seq that the last RECEIPT said */
  receipted = 0
  replaying = false
  sending = false
  forced = false
  forceIds: number[] = []
  private nonce = 0
  rejoinMs = REJOIN_MS
  runningSince = 0
  instant: Instant = { now: 0, wall: 0 }
  private standing: Standing = { status: 'joining', reason: '', missing: [] }
  actions: Action[] = []

  /** @param history what is on disk; null when the store was never in a cluster */
  constructor(
    readonly self: MemberId,
    readonly node: NodeInfo,
    readonly hasQuorum: boolean,
    history: History | null,
    /** The last epoch that took effect here, 0 none; kept right by the owner */
    public effective: number,
    /** Tells cluster keys apart; '' no key */
    readonly keyMark = '',
  ) {
    this.quorate = !hasQuorum
    this.line = new Line(hasQuorum, history)
    this.confirmations = new Confirmations(hasQuorum, node.id)
    const { epochs = [], seq = 0 } = history ?? {}
    for (const [at, { number }] of epochs.entries()) {
      if (number > effective && at > 0) this.confirmations.add(seq, idsOf(epochs[at - 1]))
    }
  }

  get history(): History | null {
    return this.line.delivered
  }

  step(event: MembershipEvent, instant: Instant): Action[] {
    this.actions = []
    this.instant = instant
    if (this.mode === 'stopped') return []
    if (event.type === 'quorum') this.quorumChanged(event.quorate, event.reason ?? '')
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

  push(action: OrderedAction): void {
    this.actions.push({ ...action, number: ++this.number })
  }

  /** What this member has, for those who wait for it to be everywhere. */
  private receipt(): void {
    const { history } = this
    if (!this.hasQuorum || this.mode !== 'running' || history === null || history.seq === this.receipted) return
    this.receipted = history.seq
    this.broadcast({ type: 'receipt', seq: history.seq, digest: history.digest })
  }

  ordered(event: OrderedEvent): void {
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
        commands(this, sender, message.list)
        return
      case 'stored':
        if (this.established.has(sender)) this.confirmations.stored(this.established.get(sender)!, message.seq)
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

  broadcast(message: Message): void {
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
    const stay = [...this.established].filter(([member]) => !away(member)).map(([, node]) => node)
    if (!this.quorate || (this.mode === 'running' && !this.canGoOn(stay))) this.freeze()
    else this.line.retain(new Set(members.filter((member) => !away(member))))
    if (gone.length > 0) this.drop(gone, 0, [])
    this.round = null
    if (this.mode !== 'running' || members.some((member) => !this.established.has(member))) {
      if (members[0] === this.self || joined.includes(this.self)) this.callAgain(false)
      else this.timer('again', ROUND_WAIT_MS)
    }
    sponsor(this)
  }

  /** With these nodes of the newest epoch the next one can be confirmed, and all that are not yet. */
  private canGoOn(nodes: readonly string[]): boolean {
    return this.confirmations.possible(new Set(nodes), idsOf(this.history!.epoch))
  }

  /**
   * They are no longer established; while running the next epoch is without them. `needs`: who must have it before it takes
   * effect; all the others when not given.
   */
  drop(gone: readonly MemberId[], by: number, needs?: readonly MemberId[]): void {
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

  rollBack(): Former | 'same' | null {
    const from = this.line.firstUnstable
    const former = this.line.rollBack()
    if (former !== null) this.actions.push({ type: 'take-back', from })
    this.confirmations.takeBack(this.history?.seq ?? 0)
    this.receipted = 0
    return former
  }

  callAgain(lost: boolean): void {
    this.broadcast({ type: 'again', nonce: ++this.nonce, lost })
    this.timer('again', STATE_WAIT_MS)
  }

  private again(sender: MemberId, { nonce, lost }: Again): void {
    if (lost && this.mode === 'running' && this.established.has(sender) && this.established.size > 1) {
      this.drop([sender], 0)
      // Among repeated events it is what the others have made of it; a later STATE may have counted this member in again.
      if (sender === this.self && !this.replaying) this.fall('this node lost its place while it was joining')
    }
    const round = `${sender} ${nonce}`
    const { mode, quorate, forced, history, node } = this
    assert(mode !== 'stopped', 'a stopped member says nothing')
    const summary = history && summaryOf(history, this.effective)
    const protocol = PROTOCOL
    const said = { protocol, round, nonce: ++this.nonce, node, mode, quorate, forced, summary }
    const mine: Hello = this.keyMark === '' ? { type: 'hello', ...said } : { type: 'hello', key: this.keyMark, ...said }
    this.round = { key: round, mine, hellos: new Map(), decision: null }
    this.broadcast(mine)
  }

  private hello(sender: MemberId, hello: Hello): void {
    const { round } = this
    if (sender === this.self && !this.replaying) this.kept.helloDelivered(hello.nonce, this.count)
    if (round === null || hello.round !== round.key) return
    round.hellos.set(sender, hello)
    if (this.mode === 'running') {
      metByRunning(this, sender, hello)
    } else if (hello.mode === 'running') {
      if (this.mode === 'frozen') this.thaw(WENT_ON)
      this.timer('again', STATE_WAIT_MS)
    } else {
      decide(this)
    }
  }

  /** From running to outside. The state stays until STATE replaces it, for a start in which it is the newest. */
  fall(reason: string): void {
    this.thaw(reason)
    this.sending = false
    this.round = null
    this.kept.forget()
  }

  /** From frozen to outside: the events kept may serve for the STATE to come. */
  thaw(reason: string): void {
    this.mode = 'outside'
    this.fallen = reason
    this.established.clear()
    this.waiting.clear()
    this.expelled.clear()
    this.acks.clear()
  }

  private refused(refusal: Refusal): void {
    this.mode = 'stopped'
    this.actions.push({ type: 'stop', error: new SheepError('join-failed', refusal.reason, refusal.hint) })
  }

  get maySponsor(): boolean {
    return this.mode === 'running' && !this.replaying && !this.stopping && this.quorate && this.waiting.size > 0
  }

  private state(sender: MemberId, message: StateMessage): void {
    if (sender === this.self) this.sending = false
    if (message.start !== '') begin(this, sender, message)
    else if (this.mode === 'running') admit(this, sender, message.to)
    else if (message.to.includes(this.self)) {
      if (this.mode === 'frozen') this.thaw(WENT_ON)
      takeState(this, message)
    }
  }

  becomeRunning(): void {
    this.mode = 'running'
    this.fallen = ''
    this.forced = false
    this.kept.forget()
    this.runningSince = this.instant.now
    for (const by of this.forceIds) this.push({ type: 'settle', by, error: null })
    this.forceIds = []
    sponsor(this)
  }

  others(): MemberId[] {
    return [...this.established.keys()].filter((member) => member !== this.self)
  }

  makeEpoch(
    nodes: readonly NodeInfo[],
    left: string[],
    by: number,
    needs: Iterable<MemberId>,
    former: Former | null,
    accepted?: Acceptance,
  ): void {
    const { seq, epoch } = this.history!
    const record: EpochRecord = { number: epoch.number + 1, time: this.instant.wall, nodes: sortedById(nodes) }
    if (accepted !== undefined) record.accepted = accepted
    this.confirmations.add(seq + 1, idsOf(epoch))
    this.append({ seq: seq + 1, type: 'epoch', record, left }, by, needs, former)
  }

  /** `needs`: those who could go on without this member */
  append(entry: Entry, by: number, needs: Iterable<MemberId>, former: Former | null = null): void {
    const others = [...needs].filter((member) => member !== this.self)
    this.line.append(entry, this.number + 1, others, former)
    this.push({ type: 'entry', entry, by })
  }

  // quorum and time

  private quorumChanged(quorate: boolean, reason: string): void {
    if (!this.hasQuorum) return
    this.noQuorum = reason
    if (quorate === this.quorate) return
    this.quorate = quorate
    if (!quorate || this.members.length === 0) return
    if (this.mode === 'running') sponsor(this)
    else this.callAgain(false)
  }

  timer(name: TimerName, ms: number): void {
    if (!this.replaying) this.actions.push({ type: 'timer', name, ms })
  }

  private timerFired(name: TimerName): void {
    if (name === 'sponsor') {
      if (this.maySponsor && !this.sending) sendState(this, [...this.waiting.keys()], '')
      return
    }
    if (this.mode === 'running') return
    const { round } = this
    // While nobody runs, a complete round stands until something changes.
    const heardRunning = round !== null && [...round.hellos.values()].some((hello) => hello.mode === 'running')
    // Those who run and send nothing may count this member in.
    if (round === null || heardRunning) this.callAgain(heardRunning)
  }
}

function idsOf(record: EpochRecord): string[] {
  return record.nodes.map((node) => node.id)
}

function summaryOf(history: History, effective: number): Summary {
  const { config, seq, digest, epoch } = history
  const known = history.epochs.filter(({ number }) => number >= effective || number === epoch.number)
  const epochs = known.map(({ number, nodes }) => ({
    number,
    line: history.lineOf(number)!,
    nodes: nodes.map(({ id, name, host, port }) => ({ id, name, host, port })),
  }))
  const line = history.lineOf(effective) ?? ''
  return { clusterId: config.clusterId, epochs, seq, digest, effective: { epoch: effective, line } }
}
