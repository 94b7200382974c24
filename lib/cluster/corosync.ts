/**
 * The corosync engine: daemons on many hosts, with corosync's membership, order and quorum.
 *
 *     corosync  --  libcpg, libquorum in a thread of their own (corosync-worker.ts, corosync-library.ts)
 *                       |  messages, processes, rings, what libquorum says
 *                   Group (corosync-group.ts): components, stamps, what of it is a view and quorum
 *                       |
 *                   this class: splits and joins messages, sends again what a change cut off, reconnects
 *
 * Multicasts are made by the main thread on the worker's handle: they only fill a buffer that corosync shares with this
 * process. When that is full, or a ring is being formed, the rest waits here, in order.
 *
 * When corosync stops under it, a member goes on alone and without quorum, so that requests wait, and connects again for as long
 * as it takes. Its id stays: for the others it was cut off, and comes back.
 */
import { randomBytes } from 'node:crypto'
import { Worker } from 'node:worker_threads'
import { assert } from '../assert.js'
import { SheepError } from '../errors.js'
import type { Log } from '../host/interfaces.js'
import {
  controlFrame,
  decodeFrame,
  Joiner,
  MESSAGE_BYTES_MAX,
  partsOf,
  payloadFrame,
  TYPE_CONTROL,
} from './corosync-frames.js'
import { Group, type Intro } from './corosync-group.js'
import { CS_OK, type Handle, type LibraryEvent, multicast } from './corosync-library.js'
import type { WorkerOutput } from './corosync-worker.js'
import type { Engine, EngineEvents, MemberId } from './engine.js'

const RECONNECT_MS = 1_000
/** Corosync's buffer is full, or it forms a ring. */
const SEND_RETRY_MS = 2
/** Own messages that were not delivered yet */
const UNDELIVERED_BYTES_MAX = 2 * MESSAGE_BYTES_MAX
const LEAVE_WAIT_MS = 5_000
/** Said after so long: a daemon that keeps others waiting, messages that corosync does not take */
const PATIENCE_MS = 10_000

/** The thread's side, as tests replace it. */
export interface CorosyncConnection {
  /** One multicast on this connection: a cs_error_t */
  multicast(handle: Handle, bytes: Buffer): number
  /** A batch of events has been taken. */
  taken(): void
  /** Asks it to leave the group and end; it answers `ended`. */
  stop(): void
}

export type Connect = (group: string, on: (output: WorkerOutput) => void) => CorosyncConnection

export interface CorosyncEngineOptions {
  /** Of the process group: daemons of one cluster have the same */
  group: string
  log: Log
  connect?: Connect
}

export class CorosyncEngine implements Engine {
  readonly name = 'corosync'
  readonly hasQuorum = true
  /** Sorts by age, so that the oldest member comes first */
  readonly self: MemberId = `${Date.now().toString(16).padStart(12, '0')}-${randomBytes(8).toString('hex')}`
  private readonly group: Group
  private readonly joiner = new Joiner()
  private events: EngineEvents | null = null
  private connection: CorosyncConnection | null = null
  private handle: Handle | null = null
  private process = ''
  /** Why there is no connection */
  private trouble = ''
  private phase: 'new' | 'joining' | 'member' | 'leaving' | 'gone' = 'new'
  private joined: { resolve(): void; reject(error: Error): void } | null = null
  private ended: (() => void) | null = null

  /** Alone: own messages come back without corosync */
  private detached = false
  private stamp: string | null = null
  private readonly controls: string[] = []
  private readonly undelivered: { number: number; payload: Buffer }[] = []
  private undeliveredBytes = 0
  private lastNumber = 0
  /** What of `undelivered` is sent next */
  private next = { message: 0, part: 0 }
  private pumping = false
  private retry: NodeJS.Timeout | null = null
  private reconnect: NodeJS.Timeout | null = null
  private impatience: NodeJS.Timeout | null = null
  private strangers = 0

  constructor(readonly options: CorosyncEngineOptions) {
    const { log } = options
    this.group = new Group(this.self, {
      view: (view) => {
        const { members, joined, left } = view
        log('debug', 'corosync: a view', { members: members.join(), joined: joined.join(), left: left.join() })
        this.events!.view(view)
      },
      quorum: (quorate) => {
        log('debug', quorate ? 'corosync: quorate' : 'corosync: no quorum')
        this.events!.quorum(quorate, quorate ? '' : this.trouble)
      },
      send: (intro) => {
        this.controls.push(JSON.stringify(intro))
        this.pump()
      },
      installed: (stamp) => this.installed(stamp),
    })
  }

  /** SheepError system: corosync does not run here, is too old, knows no quorum. */
  join(events: EngineEvents): Promise<void> {
    assert(this.phase === 'new', 'an engine joins once')
    this.phase = 'joining'
    this.events = events
    return new Promise((resolve, reject) => {
      this.joined = { resolve, reject }
      this.connect()
    })
  }

  async leave(): Promise<void> {
    const { phase } = this
    if (phase === 'leaving' || phase === 'gone' || phase === 'new') return
    const deadline = performance.now() + LEAVE_WAIT_MS
    while (phase === 'member' && this.undelivered.length > 0 && performance.now() < deadline) {
      await new Promise((resolve) => setTimeout(resolve, SEND_RETRY_MS))
    }
    this.phase = 'leaving'
    for (const timer of [this.retry, this.reconnect, this.impatience]) if (timer !== null) clearTimeout(timer)
    if (this.connection !== null) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, LEAVE_WAIT_MS)
        this.ended = () => {
          clearTimeout(timer)
          resolve()
        }
        this.connection!.stop()
      })
    }
    this.phase = 'gone'
    this.joined?.reject(new SheepError('shutting-down', 'this daemon is stopping'))
  }

  broadcast(payload: Buffer): void {
    assert(this.phase !== 'new' && this.phase !== 'joining', 'only a member broadcasts')
    assert(payload.length <= MESSAGE_BYTES_MAX, `a message has at most ${MESSAGE_BYTES_MAX} bytes: ${payload.length}`)
    if (this.phase !== 'member') return
    if (this.undeliveredBytes + payload.length > UNDELIVERED_BYTES_MAX) {
      this.phase = 'gone'
      this.connection?.stop()
      this.events!.failed(`corosync does not deliver: ${this.undeliveredBytes} bytes of messages wait`)
      return
    }
    this.lastNumber = (this.lastNumber + 1) >>> 0
    this.undelivered.push({ number: this.lastNumber, payload: Buffer.from(payload) })
    this.undeliveredBytes += payload.length
    this.pumpSoon()
  }

  // the connection

  private connect(): void {
    this.reconnect = null
    const { group, connect = startWorker } = this.options
    const connection = connect(group, (output) => {
      if (this.connection === connection || this.connection === null) this.heard(output)
    })
    this.connection = connection
  }

  private heard(output: WorkerOutput): void {
    if (output.type === 'connected') {
      this.handle = output.handle
      this.process = output.self
      this.group.attach(output.self)
    } else if (output.type === 'events') {
      for (const event of output.events) this.take(event)
      this.connection?.taken()
    } else {
      this.lost(output.reason, output.hint)
    }
  }

  private lost(reason: string, hint: string): void {
    this.connection = null
    this.handle = null
    this.ended?.()
    if (this.phase === 'joining') {
      this.phase = 'gone'
      this.joined!.reject(new SheepError('system', `corosync: ${reason}`, hint || 'systemctl start corosync'))
    }
    if (this.phase !== 'member') return
    if (this.trouble === '') this.options.log('warning', `corosync is lost: ${reason}; connecting again`)
    this.trouble = `corosync does not run on this host (${reason}): systemctl status corosync; I/O waits until it is back`
    if (!this.detached) {
      this.detached = true
      this.controls.length = 0
      this.group.lost()
    }
    this.reconnect = setTimeout(() => this.connect(), RECONNECT_MS)
  }

  // events

  private take(event: LibraryEvent): void {
    if (this.phase !== 'joining' && this.phase !== 'member') return
    switch (event.type) {
      case 'message':
        this.received(event.sender, Buffer.from(event.bytes.buffer, event.bytes.byteOffset, event.bytes.length))
        return
      case 'processes':
        if (this.phase === 'joining' && event.processes.includes(this.process)) {
          this.phase = 'member'
          this.joined!.resolve()
          this.joined = null
        }
        this.group.changed(event.processes, event.left, event.down, event.quit)
        return
      case 'ring':
        this.group.ringChanged(event.ring, event.nodes)
        return
      case 'quorum':
        this.group.quorumSays(event.ring, event.quorate)
    }
  }

  private received(sender: string, bytes: Buffer): void {
    const frame = decodeFrame(bytes)
    if (frame === null) {
      this.stranger(sender)
    } else if (frame.type === TYPE_CONTROL) {
      const intro = introOf(frame.bytes)
      if (intro === null) this.stranger(sender)
      else this.group.delivered(sender, intro)
    } else if (this.group.accepts(sender, frame.stamp)) {
      const payload = this.joiner.add(sender, frame)
      if (payload === null) return
      if (sender === this.process) this.confirmed(frame.number)
      this.events!.message(this.group.memberOf(sender), payload)
    }
  }

  /** An own message was delivered. */
  private confirmed(number: number): void {
    const first = this.undelivered.shift()
    assert(first !== undefined && first.number === number, 'own messages come back in order')
    this.undeliveredBytes -= first.payload.length
    this.next.message = Math.max(0, this.next.message - 1)
  }

  private stranger(sender: string): void {
    if (this.strangers++ > 0) return
    const what = `process ${sender} in group ${this.options.group} speaks another version of sheepdog, or is none`
    this.options.log('warning', what, { hint: 'install the same version on all hosts, or use -c corosync:GROUP' })
  }

  // sending

  private installed(stamp: string | null): void {
    this.stamp = stamp
    this.joiner.clear()
    this.next = { message: 0, part: 0 }
    if (stamp === null) {
      this.controls.length = 0
      this.detached = false
      this.impatience ??= setTimeout(() => this.complain(), PATIENCE_MS)
    } else {
      if (this.impatience !== null) clearTimeout(this.impatience)
      this.impatience = null
      if (!this.detached) this.trouble = ''
      this.pumpSoon()
    }
  }

  private complain(): void {
    this.impatience = null
    const { awaited } = this.group
    const whom = awaited.length > 0 ? `NODE:PID ${awaited.join(', ')}` : 'its own quorum service'
    this.options.log('warning', `corosync's members changed ${PATIENCE_MS / 1000} s ago; waiting for ${whom}`)
  }

  private pumpSoon(): void {
    if (this.pumping) return
    this.pumping = true
    const pump = (): void => {
      this.pumping = false
      this.pump()
    }
    if (this.detached) setImmediate(pump)
    else queueMicrotask(pump)
  }

  private pump(): void {
    if (this.retry !== null || (this.phase !== 'member' && this.phase !== 'joining')) return
    if (this.detached) {
      this.loopBack()
      return
    }
    while (this.controls.length > 0) {
      if (!this.multicast(controlFrame(this.controls[0]))) return
      this.controls.shift()
    }
    while (this.stamp !== null && this.next.message < this.undelivered.length) {
      const { message, part } = this.next
      const { number, payload } = this.undelivered[message]
      if (!this.multicast(payloadFrame(this.stamp, number, payload, part))) return
      this.next = part + 1 < partsOf(payload.length) ? { message, part: part + 1 } : { message: message + 1, part: 0 }
    }
  }

  /** False: not now; it is tried again. */
  private multicast(bytes: Buffer): boolean {
    const { connection, handle } = this
    if (connection !== null && handle !== null && connection.multicast(handle, bytes) === CS_OK) return true
    // Whatever it is, the worker's end of the connection says it if it is for good.
    this.retry = setTimeout(() => {
      this.retry = null
      this.pump()
    }, SEND_RETRY_MS)
    return false
  }

  private loopBack(): void {
    const first = this.undelivered[0]
    if (first === undefined || this.stamp === null) return
    this.confirmed(first.number)
    this.events!.message(this.self, first.payload)
    this.pumpSoon()
  }
}

/** null: not one. */
function introOf(bytes: Buffer): Intro | null {
  let value: Partial<Intro> | null
  try {
    value = JSON.parse(bytes.toString())
  } catch {
    return null
  }
  if (typeof value !== 'object' || value === null) return null
  const { place, fragment, members, primary, quorate } = value
  const sound =
    typeof place === 'string' &&
    typeof fragment === 'string' &&
    typeof primary === 'boolean' &&
    typeof quorate === 'boolean' &&
    Array.isArray(members) &&
    members.every((pair) => Array.isArray(pair) && typeof pair[0] === 'string' && typeof pair[1] === 'string')
  return sound ? { place, fragment, members, primary, quorate } : null
}

function startWorker(group: string, on: (output: WorkerOutput) => void): CorosyncConnection {
  const shared = new Int32Array(new SharedArrayBuffer(8))
  const worker = new Worker(new URL('./corosync-worker.js', import.meta.url), { workerData: { group, shared } })
  let ended = false
  const end = (output: WorkerOutput): void => {
    if (ended) return
    ended = true
    on(output)
  }
  worker.on('message', (output: WorkerOutput) => {
    if (output.type === 'ended') end(output)
    else on(output)
  })
  worker.on('error', (error) => end({ type: 'ended', reason: `its thread failed: ${error.message}`, hint: '' }))
  worker.on('exit', () => end({ type: 'ended', reason: 'its thread ended', hint: '' }))
  return {
    multicast,
    taken: () => {
      Atomics.add(shared, 1, 1)
      Atomics.notify(shared, 1)
    },
    stop: () => {
      Atomics.store(shared, 0, 1)
      Atomics.notify(shared, 0)
    },
  }
}
