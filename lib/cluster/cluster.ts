/**
 * A member of a cluster: the membership machine on a real engine, disk and clock. The engine's events step the machine; what the
 * machine wants done in order goes through one queue, in which entries wait for the disk. Entries that gather while it writes are
 * the next batch, so one sync serves them all. What the layers above see of the cluster (`epoch`, `registry`, ...) is always what
 * this member has on disk.
 */
import { assert } from '../assert.js'
import { asSheepError, hintField, SheepError } from '../errors.js'
import { type Clock, DiskError, type Log, type Random, type Timer } from '../host/interfaces.js'
import { Refusals } from '../protocol/refusals.js'
import { Registry } from '../vdi/registry.js'
import type { Engine, EngineView, LeaveReason, MemberId } from './engine.js'
import { Exclusive } from './exclusive.js'
import type { Entry } from './history.js'
import { Membership } from './membership.js'
import { decodeMessage, encodeMessage, type Hello, type Message, type NodeSummary } from './messages.js'
import { Probes } from './probes.js'
import { Proposals } from './proposals.js'
import { refusalIn } from './standing.js'
import { ClusterState, RECOVERY_DEFAULT } from './state.js'
import { type LogDisks, StateDisks } from './state-disks.js'
import type { MembershipEvent, Numbered, OrderedAction, Standing, TimerName, UrgentAction } from './steps.js'
import type {
  ClusterCommand,
  ClusterConfig,
  ClusterListener,
  ClusterStatus,
  ClusterView,
  DepartedNode,
  Departure,
  EpochRecord,
  NodeInfo,
  RecoverySettings,
} from './types.js'

/** For people: who asks what became of more has the log */
const DEPARTED_MAX = 16

const LEAVE_REASONS: Record<LeaveReason, string> = {
  left: 'it stopped in order',
  died: 'its process died',
  lost: 'its host has gone, or cannot be reached',
}

export const PROPOSAL_TIMEOUT_MS = 60_000

export interface ClusterOptions {
  engine: Engine
  /** The store's; this uses cluster/ and epoch/ of each */
  disks: LogDisks
  clock: Clock
  random: Random
  log: Log
  /** `vnodes` is ignored: the cluster gives them */
  self: NodeInfo
  /** Tells cluster keys apart; absent: no key. Members of another key are refused */
  keyMark?: string
  listener?: ClusterListener
  /** How long a proposal may wait for the cluster */
  proposalTimeoutMs?: number
}

export class Cluster implements ClusterView {
  /** Called in this order for each event. */
  readonly listeners: ClusterListener[] = []
  private readonly stateDisk: StateDisks
  private readonly proposals: Proposals
  private readonly claims: Exclusive
  private readonly timeoutMs: number
  private readonly timers = new Map<TimerName, Timer>()
  private readonly probes: Probes
  private readonly queue: Numbered[] = []
  private membership: Membership | null = null
  private state: ClusterState | null = null
  private standing: Standing = { status: 'joining', reason: 'starting', missing: [] }
  /** The last that the machine told; `standing` may be behind it */
  private newest: Standing | null = null
  /** As the engine said before the first view; null: nothing */
  private quorate: boolean | null = null
  private announced: EpochRecord | null = null
  /** By node id, of those that left since they came: why, as far as this member knows */
  private readonly departures = new Map<string, Departure>()
  private departed_: readonly DepartedNode[] = []
  /** Nodes that left since then */
  private readonly left = new Set<string>()
  /** The last epoch that took effect before this incarnation */
  private effective = 0
  private failed: SheepError | null = null
  /** seq through which entries are on disk */
  private durable = 0
  private writing = false
  private running = false
  /** Others may wait for what this member has on disk */
  private owesAck = false
  private lastAck = 0
  private hello: Hello | null = null
  private flushing = false
  private readonly noRegistry = new Registry()
  private refusals: Refusals

  constructor(readonly options: ClusterOptions) {
    const { clock, disks, log, listener, proposalTimeoutMs = PROPOSAL_TIMEOUT_MS } = options
    this.timeoutMs = proposalTimeoutMs
    if (listener !== undefined) this.listeners.push(listener)
    this.stateDisk = new StateDisks(disks, log)
    this.refusals = new Refusals(log)
    this.proposals = new Proposals({
      clock,
      waiting: () => refusalIn(this.standing),
      confirmed: (seq) => this.status === 'running' && this.membership!.ackedByAll(seq),
    })
    this.probes = new Probes(clock, this.timeoutMs)
    this.claims = new Exclusive({
      clock,
      random: options.random,
      timeoutMs: this.timeoutMs,
      queue: () => this.state?.exclusive ?? [],
      propose: (command, timeoutMs) => this.submit(command, false, timeoutMs),
      stopped: () => this.status === 'stopped',
    })
  }

  // what the layers above see

  get self(): NodeInfo {
    const { self } = this.options
    return this.epoch?.nodes.find((node) => node.id === self.id) ?? self
  }

  get status(): ClusterStatus {
    return this.standing.status
  }

  get statusReason(): string {
    return this.standing.reason
  }

  /** Why this member stopped by itself; null while it has not */
  get failure(): SheepError | null {
    return this.failed
  }

  /** Nodes that a start waits for */
  get missing(): NodeSummary[] {
    return this.standing.missing
  }

  get config(): ClusterConfig | null {
    return this.state?.history.config ?? null
  }

  get epoch(): EpochRecord | null {
    return this.state?.history.epoch ?? null
  }

  get history(): readonly EpochRecord[] {
    return this.state?.history.epochs ?? []
  }

  get recovered(): ReadonlyMap<string, number> {
    return this.state?.history.recovered ?? new Map()
  }

  get departed(): readonly DepartedNode[] {
    return this.departed_
  }

  /** Why a node that is not in the newest epoch any more left; undefined: not known here */
  departure(node: string): Departure | undefined {
    return this.departures.get(node)
  }

  /** For reading only; another object after this member was brought up to date by others. */
  get onNoQuorum(): number {
    return this.state?.onNoQuorum ?? 0
  }

  get recovery(): RecoverySettings {
    return this.state?.recovery ?? RECOVERY_DEFAULT
  }

  get registry(): Registry {
    return this.state?.registry ?? this.noRegistry
  }

  /** What is on disk. The newest epoch that this member's own disks know of; 0 none. SheepError, DiskError. */
  async load(): Promise<number> {
    const loaded = await this.stateDisk.load()
    if (loaded !== null) {
      this.state = loaded.state
      this.durable = loaded.state.history.seq
      this.effective = loaded.effective
    }
    return this.stateDisk.ownEpoch
  }

  /** After `load`. Resolves when the engine has taken this member; `status` tells the rest. SheepError, DiskError. */
  async start(): Promise<void> {
    await this.options.engine.join({
      view: (view) => this.viewed(view),
      message: (sender, payload) => this.received(sender, payload),
      quorum: (quorate, reason) => this.quorumChanged(quorate, reason),
      failed: (reason) => this.end(new SheepError('system', `the engine failed: ${reason}`), false),
    })
  }

  /** Orderly: the others see this member leave. Proposals under way are refused. */
  async stop(): Promise<void> {
    if (this.status === 'stopped') return
    this.halt(new SheepError('shutting-down', 'this daemon is stopping'))
    await this.options.engine.leave()
  }

  propose(command: ClusterCommand, everywhere = false): Promise<unknown> {
    return this.submit(command, everywhere, this.timeoutMs)
  }

  exclusive<T>(run: () => Promise<T>): Promise<T> {
    return this.claims.run(run)
  }

  /** Resolves once a message sent now has come back, and this member was still in the cluster there. SheepError */
  confirm(): Promise<void> {
    if (this.status !== 'running') return Promise.reject(refusalIn(this.standing))
    return this.probes.send((id) => this.send({ type: 'probe', id }))
  }

  private submit(command: ClusterCommand, everywhere: boolean, timeoutMs: number): Promise<unknown> {
    const { status } = this
    const stopping = status === 'stopped' || this.membership?.stopping
    if (stopping) return Promise.reject(new SheepError('shutting-down', 'this daemon is stopping'))
    if (status === 'waiting-for-format' && command.type !== 'format' && command.type !== 'force-start') {
      return Promise.reject(refusalIn(this.standing))
    }
    const promise = this.proposals.add(command, everywhere || this.options.engine.hasQuorum, timeoutMs)
    this.flushSoon()
    return promise
  }

  // from the engine

  private viewed(view: EngineView): void {
    if (this.status === 'stopped') return
    const { engine, self, keyMark } = this.options
    if (this.membership === null) {
      const history = this.state?.history.fork() ?? null
      this.membership = new Membership(engine.self, self, engine.hasQuorum, history, this.effective, keyMark)
      if (this.quorate !== null) this.step({ type: 'quorum', quorate: this.quorate })
    }
    for (const [member, reason] of view.reasons ?? []) {
      const node = this.membership.present.get(member)
      if (node !== undefined) this.departures.set(node, { reason, detail: LEAVE_REASONS[reason] })
    }
    this.step({ type: 'view', members: view.members, joined: view.joined })
  }

  private quorumChanged(quorate: boolean, reason?: string): void {
    this.quorate = quorate
    this.step({ type: 'quorum', quorate, reason })
  }

  private received(sender: MemberId, payload: Buffer): void {
    const message = decodeMessage(payload)
    if (message !== null) this.step({ type: 'message', sender, message })
    else this.options.log('warning', 'a member sent what is no message of this version', { sender })
  }

  private step(event: MembershipEvent): void {
    const { membership } = this
    if (membership === null || this.status === 'stopped') return
    const { clock } = this.options
    const actions = membership.step(event, { now: clock.now(), wall: Math.floor(clock.wall()) })
    for (const action of actions) {
      if ('number' in action) this.enqueue(action)
      else this.urgent(action)
    }
    if (event.type === 'message' && event.message.type === 'commands') {
      for (const { command } of event.message.list) {
        if (command.type === 'expel') this.departures.set(command.node, { reason: 'expelled', detail: command.reason })
      }
      this.owesAck ||= event.message.list.some((proposal) => proposal.everywhere)
    }
    this.work()
    if (event.type !== 'timer') this.proposals.recheck()
  }

  private enqueue(action: Numbered): void {
    if (action.type === 'standing') this.newest = action.standing
    // Bad news does not wait for the disk; good news come after the epoch they rest on.
    if (action.type === 'standing' && action.standing.status !== 'running') this.stand(action.standing)
    else this.queue.push(action)
  }

  private takeBack(from: number): void {
    const at = this.queue.findIndex(({ number }) => number >= from)
    if (at >= 0) this.disown(this.queue.splice(at))
  }

  private urgent(action: UrgentAction): void {
    switch (action.type) {
      case 'broadcast':
        if (action.message.type === 'hello') {
          // Of several rounds that began in one turn only the last counts.
          this.hello = action.message
          this.flushSoon()
        } else {
          this.send(action.message)
        }
        return
      case 'timer':
        this.timers.get(action.name)?.cancel()
        this.timers.set(
          action.name,
          this.options.clock.after(action.ms, () => this.step({ type: 'timer', name: action.name })),
        )
        return
      case 'untaken':
        this.proposals.untaken(action.ids)
        this.flushSoon()
        return
      case 'probed':
        this.probes.delivered(action.id, action.present ? null : refusalIn(this.standing))
        return
      case 'take-back':
        this.takeBack(action.from)
        return
      case 'stop':
        this.end(action.error, true)
    }
  }

  private send(message: Message): void {
    if (this.status === 'stopped') return
    this.options.engine.broadcast(encodeMessage(message))
    if (message.type !== 'refuse') return
    const { reason, hint } = message
    this.refusals.refused(reason, '', 'warning', `refused a daemon: ${reason}; ${hint}`)
  }

  /** At the end of this turn: the newest HELLO, then what may be proposed. */
  private flushSoon(): void {
    if (this.flushing) return
    this.flushing = true
    Promise.resolve().then(() => {
      this.flushing = false
      this.flush()
    })
  }

  private flush(): void {
    const { status, hello } = this
    if (status === 'stopped' || this.membership === null) return
    this.hello = null
    if (hello !== null) this.send(hello)
    const starting = status === 'waiting-for-format' || status === 'waiting-for-nodes'
    const may = (command: ClusterCommand): boolean =>
      status === 'running' || (starting && (command.type === 'format' || command.type === 'force-start'))
    for (const message of this.proposals.take(may)) this.send(message)
  }

  // the queue of what is done in order

  private work(): void {
    if (this.running) return
    this.running = true
    try {
      this.skipReplaced()
      while (this.queue.length > 0 && !this.writing && this.status !== 'stopped') {
        const action = this.queue[0]
        if (action.number >= this.membership!.firstUnstable) break
        if (action.type === 'entry' && !this.mayApply(action.entry)) {
          this.write()
          break
        } else {
          this.queue.shift()
          this.perform(action)
        }
      }
      this.acknowledge()
      if (this.queue.length === 0 && this.state !== null && this.status !== 'stopped')
        this.stateDisk.compact(this.state, this.membership!.effective)
    } catch (error) {
      if (!(error instanceof DiskError)) throw error
      this.diskFailed(error.errno, error.message)
    } finally {
      this.running = false
    }
  }

  private acknowledge(): void {
    const seq = this.state?.history.seq ?? 0
    if (!this.owesAck || seq <= this.lastAck) return
    this.lastAck = seq
    this.owesAck = this.queue.length > 0
    this.send({ type: 'ack', seq })
  }

  /** What has not taken effect when a whole state comes is of a state that goes. */
  private skipReplaced(): void {
    const { firstUnstable } = this.membership!
    const whole = (action: Numbered): boolean => action.type === 'install' || action.type === 'format'
    const at = this.queue.findLastIndex((action) => whole(action) && action.number < firstUnstable)
    if (at > 0) this.disown(this.queue.splice(0, at))
  }

  private disown(actions: readonly Numbered[]): void {
    this.proposals.disown(actions.flatMap((action) => ('by' in action && action.by !== 0 ? [action.by] : [])))
  }

  private mayApply(entry: Entry): boolean {
    if (entry.seq > this.durable) return false
    const { mode, confirmations } = this.membership!
    // Outside an epoch changes nothing here: it only becomes part of what this member knows.
    return entry.type !== 'epoch' || mode !== 'running' || confirmations.allow(entry.seq)
  }

  /** One batch: all entries that are not on disk yet, up to where the state is replaced. */
  private write(): void {
    const entries: Entry[] = []
    for (const action of this.queue) {
      const later = action.type === 'install' || action.type === 'format'
      if (later || action.number >= this.membership!.firstUnstable) break
      if (action.type === 'entry' && action.entry.seq > this.durable) entries.push(action.entry)
    }
    if (entries.length === 0) return
    this.writing = true
    this.stateDisk.append(entries, (result) => {
      this.writing = false
      if (this.status === 'stopped') {
        this.stateDisk.close()
        return
      }
      if (result < 0 && !this.writeElsewhere()) {
        this.diskFailed(-result, 'the log of cluster changes could not be written')
        return
      }
      if (result < 0) {
        this.work()
        return
      }
      this.durable = entries[entries.length - 1].seq
      if (entries.some((entry) => entry.type === 'epoch')) this.send({ type: 'stored', seq: this.durable })
      this.work()
      this.proposals.recheck()
    })
  }

  /** The disks that had the log have failed, and another has not had it yet: what was applied goes there, the rest again. */
  private writeElsewhere(): boolean {
    if (!this.stateDisk.hasSpare) return false
    try {
      this.stateDisk.install(this.state!, this.membership!.effective)
    } catch (error) {
      if (!(error instanceof DiskError)) throw error
      return false
    }
    this.durable = this.state!.history.seq
    return true
  }

  private perform(action: OrderedAction): void {
    switch (action.type) {
      case 'entry': {
        const { entry, by } = action
        const state = this.state!
        const outcome = state.apply(entry)
        if (entry.type === 'epoch') {
          for (const node of entry.left) this.left.add(node)
          if (this.membership!.mode === 'running') this.announce()
        } else if (outcome.error === null) {
          this.tellApplied(entry.command, entry.sender, outcome.value)
        }
        if (by !== 0) this.proposals.applied(by, entry.seq, outcome)
        this.claims.changed()
        return
      }
      case 'install':
        this.replaceState(ClusterState.fromJSON(action.state))
        this.proposals.disown([])
        return
      case 'format': {
        const { config, seq, record, command, sender, by } = action
        this.replaceState(ClusterState.format(config, seq, record))
        this.announced = null
        this.left.clear()
        this.announce()
        const value = { epoch: record.number }
        this.tellApplied(command, sender, value)
        if (by !== 0) this.proposals.applied(by, seq, { value, error: null })
        return
      }
      case 'send-state': {
        const { to, start, runtime, whole } = action
        this.send({ type: 'state', to, start, runtime, state: whole ? this.state!.toJSON() : null })
        return
      }
      case 'settle':
        this.proposals.settle(action.by, action.error)
        return
      case 'standing':
        if (action.standing === this.newest) this.stand(action.standing)
    }
  }

  private replaceState(state: ClusterState): void {
    this.stateDisk.install(state)
    this.state = state
    this.durable = state.history.seq
    this.membership!.effective = state.history.epoch.number
    // Whoever was there may have left, and come back, while this member was away.
    for (const { id } of this.announced?.nodes ?? []) this.left.add(id)
    this.claims.changed()
  }

  private announce(): void {
    const { epoch: current, epochs } = this.state!.history
    this.stateDisk.saveEpochs(epochs, this.state!)
    this.membership!.effective = current.number
    const previous = this.announced
    const left = [...this.left]
    this.announced = current
    // Who came in may have been one of them.
    this.refusals = new Refusals(this.options.log)
    this.left.clear()
    this.sayWhoLeft(current, previous)
    for (const listener of this.listeners) listener.epochChanged(current, previous, left)
  }

  private sayWhoLeft(current: EpochRecord, previous: EpochRecord | null): void {
    const here = new Set(current.nodes.map((node) => node.id))
    const departed = this.departed_.filter(({ node }) => !here.has(node.id))
    for (const node of previous?.nodes ?? []) {
      const { id, name, host, port } = node
      if (here.has(id)) continue
      const why = this.departures.get(id)
      departed.push({ node, epoch: current.number, time: current.time, ...(why ?? { reason: 'unknown', detail: '' }) })
      const text = why === undefined ? '' : `: ${why.reason === 'expelled' ? 'expelled, ' : ''}${why.detail}`
      const level = why?.reason === 'left' ? 'notice' : 'warning'
      this.options.log(level, `node ${name} (${host}:${port}) left with epoch ${current.number}${text}`)
    }
    this.departed_ = departed.slice(-DEPARTED_MAX)
    const before = new Set(previous?.nodes.map((node) => node.id))
    for (const node of here) if (!before.has(node)) this.departures.delete(node)
  }

  private tellApplied(command: ClusterCommand, sender: string, result: unknown): void {
    for (const listener of this.listeners) listener.commandApplied(command, sender, result)
  }

  private stand(standing: Standing): void {
    if (this.status === 'stopped') return
    this.standing = standing
    for (const listener of this.listeners) listener.statusChanged(standing.status, standing.reason)
    if (standing.status === 'running') {
      // Those who counted on this member before it was away look for its word anew.
      this.owesAck = true
      this.lastAck = 0
    }
    this.flushSoon()
  }

  private diskFailed(errno: number, what: string): void {
    const message = `the disk failed (errno ${errno}): ${what}`
    this.end(new SheepError('io', message, 'see the disk, then start the daemon again'), true)
  }

  private end(error: SheepError, leave: boolean): void {
    if (this.status === 'stopped') return
    this.failed = error
    this.options.log('error', error.message, hintField(error))
    this.halt(error)
    if (!leave) return
    this.options.engine.leave().catch((failure: unknown) => {
      this.options.log('warning', `leaving the ${this.options.engine.name} engine: ${asSheepError(failure).message}`)
    })
  }

  private halt(error: SheepError): void {
    assert(this.status !== 'stopped', 'a member stops once')
    for (const timer of this.timers.values()) timer.cancel()
    this.standing = { status: 'stopped', reason: error.message, missing: [] }
    this.queue.length = 0
    this.proposals.failAll(error)
    this.probes.failAll(error)
    this.claims.changed()
    if (!this.writing) this.stateDisk.close()
    for (const listener of this.listeners) listener.statusChanged('stopped', error.message)
  }
}
