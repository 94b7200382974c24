/**
 * org.sheepdog on D-Bus, the daemon's side of it: tells the bus's thread (worker.ts) what the cluster becomes, and does what is asked
 * there by the verbs of the control protocol. Nothing here waits for the bus: while its thread has not taken what it was told
 * last, changes only mark that there are some; what is on the way is one message and the answers to 64 calls.
 */
import { Worker } from 'node:worker_threads'
import { InvariantError } from '../assert.js'
import type { ClusterCommand, ClusterListener, ClusterStatus, Departure, EpochRecord } from '../cluster/types.js'
import { dispatch } from '../control/dispatch.js'
import type { ControlServices, Progress, RecoveryReport } from '../control/services.js'
import { isVerb, VERBS, type Verb, type VerbArguments } from '../control/verbs.js'
import { asSheepError, SheepError } from '../errors.js'
import { Facts } from './facts.js'
import type { ClusterEvent, FromBus, ToBus, WorkerInput } from './messages.js'

/** Changes are told at most so often; one that comes alone after the first of these */
const TELL_SOON_MS = 20
const TELL_MS = 250
const RECOVERY_MS = 500
/** Told later, since the bus's thread has not taken the ones before */
const EVENTS_MAX = 1_000
const STOP_MS = 2_000
/** The thread has ended by itself: a new one */
const RESTART_MS = 1_000
const RESTART_MS_MAX = 60_000
const LASTING_MS = 60_000
/** What strangers may make it keep; its own is some MiB and 2 KiB for each volume */
const WORKER_HEAP_MIB = 512
/** corosync-notifyd's word about a host counts for so long */
const HOST_NEWS_MS = 30_000
/** It comes about when the cluster goes on without the host: a loss is told a moment later, so that it can be in there. */
const HOST_WAIT_MS = 500

export interface DbusParts {
  services: ControlServices
  bus: WorkerInput
  /** Why a node that left did so, as far as the cluster knows */
  departure: (node: string) => Departure | undefined
}

type NodeLeft = Extract<ClusterEvent, { type: 'node-left' }>

export class Dbus implements ClusterListener {
  private readonly facts: Facts
  private worker: Worker | null = null
  private startedAt = 0
  private restartMs = RESTART_MS
  /** Timers: of telling, of recovery, of a new thread */
  private readonly timers = new Map<string, NodeJS.Timeout>()
  private dirty = false
  /** Facts that the thread has not taken yet */
  private onTheWay = 0
  private toldAt = 0
  private events: ClusterEvent[] = []
  private lost = false
  private recoveryTold = ''
  private readonly running = new Map<number, { cancelled: boolean }>()
  private readonly hosts = new Map<string, { name: string; at: number }>()
  /** Address -> the newest event of a node there that was lost */
  private readonly losses = new Map<string, NodeLeft>()
  private holdUntil = 0
  private stopped: (() => void) | null = null
  private stopping = false

  constructor(private readonly parts: DbusParts) {
    this.facts = new Facts(parts.services)
    this.start()
    this.watchRecovery()
  }

  /** Nothing of ours is on the bus when this resolves. */
  async stop(): Promise<void> {
    this.stopping = true
    for (const timer of this.timers.values()) clearTimeout(timer)
    const { worker } = this
    if (worker === null) return
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, STOP_MS)
      this.stopped = () => {
        clearTimeout(timer)
        resolve()
      }
      this.post({ type: 'stop' })
    })
    await worker.terminate()
  }

  // --- what happens in the cluster

  epochChanged(current: EpochRecord, previous: EpochRecord | null, left: readonly string[]): void {
    const before = new Map(previous?.nodes.map((node) => [node.id, node]))
    const now = new Set(current.nodes.map((node) => node.id))
    for (const node of before.values()) {
      if (!now.has(node.id)) this.nodeLeft(node, current.number)
    }
    for (const { id, name } of current.nodes) {
      if (previous === null || (before.has(id) && !left.includes(id))) continue
      if (before.has(id)) this.nodeLeft(before.get(id)!, current.number)
      this.event({ type: 'node-joined', node: id, name, epoch: current.number })
    }
    this.event({ type: 'epoch', epoch: current.number, nodes: [...now] })
    this.watchRecovery()
  }

  commandApplied(command: ClusterCommand): void {
    if (command.type === 'exclusive-enter' || command.type === 'exclusive-leave') return
    this.tellSoon()
  }

  statusChanged(status: ClusterStatus, reason: string): void {
    if (status === 'halted' && !this.lost) {
      this.lost = true
      this.event({ type: 'quorum-lost', reason })
    } else if (status === 'running' && this.lost) {
      this.lost = false
      this.event({ type: 'quorum-regained' })
    }
    this.tellSoon()
    this.watchRecovery()
  }

  private nodeLeft({ id, name, host }: EpochRecord['nodes'][number], epoch: number): void {
    const { reason, detail } = this.parts.departure(id) ?? { reason: 'unknown', detail: '' }
    const event: NodeLeft = { type: 'node-left', node: id, name, epoch, reason, detail }
    const now = this.parts.services.clock.now()
    const news = this.hosts.get(host)
    this.losses.delete(host)
    if (news !== undefined && now - news.at < HOST_NEWS_MS) {
      addWord(event, news.name, host)
    } else if (reason === 'lost') {
      this.losses.set(host, event)
      this.holdUntil = now + HOST_WAIT_MS
    }
    this.event(event)
  }

  private event(event: ClusterEvent): void {
    if (this.events.length >= EVENTS_MAX) this.events.shift()
    this.events.push(event)
    this.tellSoon()
  }

  /** Copying has no events: it is looked at while there is some. */
  private watchRecovery(): void {
    if (this.stopping || this.timers.has('recovery')) return
    const { cluster } = this.parts.services
    const { self, epoch, recovered } = cluster
    const here = epoch?.nodes.find(({ id }) => id === self.id)
    if (epoch === null || here === undefined || here.vnodes === 0) return
    const done = (recovered.get(self.id) ?? 0) >= epoch.number
    this.tellRecovery()
    if (!done) {
      this.later('recovery', RECOVERY_MS, () => this.watchRecovery())
    }
  }

  private tellRecovery(): void {
    const { services } = this.parts
    const node = services.cluster.self.id
    services
      .node(node)
      .recovery()
      .then((report) => this.recoveryReported(node, report))
      .catch((error: unknown) => services.log('debug', `D-Bus: recovery's progress: ${asSheepError(error).message}`))
  }

  private recoveryReported(node: string, report: RecoveryReport): void {
    const { state, objectsDone, objectsTotal, bytesTaken: bytesDone, bytesTotal } = report
    const event = { type: 'recovery' as const, node, state, objectsDone, objectsTotal, bytesDone, bytesTotal }
    const text = JSON.stringify(event)
    if (text === this.recoveryTold || (objectsTotal === 0 && state === 'idle')) return
    this.recoveryTold = text
    this.events = this.events.filter(({ type }) => type !== 'recovery')
    this.event(event)
  }

  // --- telling

  private tellSoon(): void {
    this.dirty = true
    if (this.stopping || this.onTheWay > 0 || this.timers.has('tell')) return
    const now = this.parts.services.clock.now()
    const wait = Math.max(TELL_SOON_MS, this.toldAt + TELL_MS - now, this.holdUntil - now)
    this.later('tell', wait, () => {
      if (this.dirty) this.tell()
    })
  }

  private tell(): void {
    if (this.worker === null) return
    this.dirty = false
    this.toldAt = this.parts.services.clock.now()
    this.onTheWay++
    const { events } = this
    this.events = []
    this.post({ type: 'facts', cluster: this.facts.cluster(), ...this.facts.changes(), events })
  }

  private post(message: ToBus): void {
    this.worker?.postMessage(message)
  }

  private later(name: string, ms: number, run: () => void): void {
    const timer = setTimeout(() => {
      this.timers.delete(name)
      run()
    }, ms)
    this.timers.set(name, timer)
  }

  // --- the thread

  private start(): void {
    const worker = new Worker(new URL('./worker.js', import.meta.url), {
      workerData: this.parts.bus,
      resourceLimits: { maxOldGenerationSizeMb: WORKER_HEAP_MIB },
    })
    this.worker = worker
    this.startedAt = this.parts.services.clock.now()
    this.onTheWay = 0
    this.facts.reset()
    worker.on('message', (message: FromBus) => this.heard(message))
    worker.on('error', (error) => this.ended(worker, error.stack ?? error.message))
    worker.on('exit', () => this.ended(worker, 'it ended'))
    this.tell()
  }

  private ended(worker: Worker, reason: string): void {
    if (this.worker !== worker) return
    this.worker = null
    this.stopped?.()
    if (this.stopping) return
    for (const call of this.running.values()) call.cancelled = true
    const { clock, log } = this.parts.services
    for (const line of reason.split('\n')) log('error', `D-Bus: the thread of the bus failed: ${line}`)
    if (clock.now() - this.startedAt > LASTING_MS) this.restartMs = RESTART_MS
    this.later('restart', this.restartMs, () => this.start())
    this.restartMs = Math.min(this.restartMs * 2, RESTART_MS_MAX)
  }

  private heard(message: FromBus): void {
    switch (message.type) {
      case 'taken':
        this.onTheWay--
        if (this.dirty) this.tellSoon()
        return
      case 'call':
        // A broken invariant stops the daemon: main hears of it as a rejection that nobody handles.
        void this.run(message)
        return
      case 'gone': {
        const call = this.running.get(message.id)
        if (call !== undefined) call.cancelled = true
        return
      }
      case 'log':
        this.parts.services.log(message.level, `D-Bus: ${message.message}`)
        return
      case 'host':
        this.hostChanged(message)
        return
      case 'stopped':
        this.stopped?.()
    }
  }

  private hostChanged({ name, address, state }: Extract<FromBus, { type: 'host' }>): void {
    const { clock, log, cluster } = this.parts.services
    const known = cluster.history.some(({ nodes }) => nodes.some(({ host }) => host === address))
    if (!known) return
    log('notice', `corosync-notifyd: host ${name === address ? name : `${name} (${address})`} has ${state}`)
    this.hosts.delete(address)
    if (state !== 'left') return
    this.hosts.set(address, { name, at: clock.now() })
    const loss = this.losses.get(address)
    this.losses.delete(address)
    if (loss !== undefined) addWord(loss, name, address)
  }

  private async run({ id, verb, arguments: given, caller }: Extract<FromBus, { type: 'call' }>): Promise<void> {
    const { services } = this.parts
    const call = { cancelled: false }
    this.running.set(id, call)
    const progress: Progress = {
      report: () => {},
      get cancelled() {
        return call.cancelled
      },
    }
    const worker = this.worker
    try {
      if (!isVerb(verb)) throw new SheepError('unsupported', `there is no verb ${verb}`)
      const checked = VERBS[verb].arguments(given, 'arguments') as VerbArguments<Verb>
      if (caller !== '') services.log('info', `D-Bus: ${verb} for ${caller}`)
      const answer = await dispatch(services, verb, checked, progress)
      if (this.worker !== worker) return
      // Who made something finds it on the bus when it has the answer.
      if (this.dirty) this.tell()
      this.post({ type: 'answer', id, answer, error: null })
    } catch (error) {
      if (error instanceof InvariantError) throw error
      const known = asSheepError(error)
      if (!(error instanceof SheepError)) services.log('error', `D-Bus: ${verb}: ${(error as Error).stack}`)
      const { code, message, hint } = known
      if (this.worker === worker) this.post({ type: 'answer', id, answer: null, error: { code, message, hint } })
    } finally {
      this.running.delete(id)
    }
  }
}

function addWord(event: NodeLeft, name: string, address: string): void {
  const host = name === address ? address : `${name} (${address})`
  event.detail = `${event.detail === '' ? '' : `${event.detail}; `}corosync has lost host ${host}`
}
