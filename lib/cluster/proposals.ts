/**
 * This member's own proposals, from the call to the answer. Each waits, within its deadline, until the member may
 * propose; is broadcast; comes back in total order as an entry or as nothing; and is answered when the entry is on this
 * member's disk, or on everybody's.
 *
 *      queued --broadcast--> sent --delivered and taken--> applied --confirmed--> answered
 *        ^------- delivered, this member took no part ------/
 */
import { SheepError } from '../errors.js'
import type { Clock, Timer } from '../host/interfaces.js'
import type { Commands } from './messages.js'
import type { Outcome } from './state.js'
import type { ClusterCommand } from './types.js'

/** A layer above that has more under way than this is broken or under attack. */
const PROPOSALS_MAX = 4096
/** In one message; more go in the next. */
const BATCH_MAX = 256

interface Pending {
  command: ClusterCommand
  everywhere: boolean
  state: 'queued' | 'sent' | 'applied'
  id: number
  /** Of the entry, once applied */
  seq: number
  outcome: Outcome | null
  timer: Timer | null
  resolve(value: unknown): void
  reject(error: SheepError): void
}

export interface ProposalContext {
  clock: Clock
  /** Why a proposal waits, as an error for those whose time is over */
  waiting(): SheepError
  /** The entry is where all must have it */
  confirmed(seq: number): boolean
}

export class Proposals {
  private readonly queue: Pending[] = []
  private readonly byId = new Map<number, Pending>()
  private lastId = 0

  constructor(readonly context: ProposalContext) {}

  /** `timeoutMs` 0: no deadline, for what must happen for others to go on. */
  add(command: ClusterCommand, everywhere: boolean, timeoutMs: number): Promise<unknown> {
    if (this.queue.length + this.byId.size >= PROPOSALS_MAX) {
      return Promise.reject(
        new SheepError('busy', 'too many cluster operations are under way', 'try again in a moment'),
      )
    }
    return new Promise((resolve, reject) => {
      const pending: Pending = {
        command,
        everywhere,
        state: 'queued',
        id: 0,
        seq: 0,
        outcome: null,
        timer: null,
        resolve,
        reject,
      }
      if (timeoutMs > 0) pending.timer = this.context.clock.after(timeoutMs, () => this.expire(pending))
      this.queue.push(pending)
    })
  }

  /** Messages with all that is queued and passes `may`; they count as sent. */
  take(may: (command: ClusterCommand) => boolean): Commands[] {
    const batch = this.queue.filter((pending) => may(pending.command))
    if (batch.length === 0) return []
    this.queue.splice(0, this.queue.length, ...this.queue.filter((pending) => !batch.includes(pending)))
    const time = Math.floor(this.context.clock.wall())
    const messages: Commands[] = []
    for (let at = 0; at < batch.length; at += BATCH_MAX) {
      const list = batch.slice(at, at + BATCH_MAX).map((pending) => {
        pending.state = 'sent'
        pending.id = ++this.lastId
        this.byId.set(pending.id, pending)
        return { id: pending.id, time, everywhere: pending.everywhere, command: pending.command }
      })
      messages.push({ type: 'commands', list })
    }
    return messages
  }

  /** They were delivered and changed nothing: they go out again when this member may propose. */
  untaken(ids: readonly number[]): void {
    const again: Pending[] = []
    for (const id of ids) {
      const pending = this.byId.get(id)
      if (pending === undefined) continue
      this.byId.delete(id)
      pending.state = 'queued'
      again.push(pending)
    }
    this.queue.unshift(...again)
  }

  /** The entry of proposal `id` is on disk and applied. */
  applied(id: number, seq: number, outcome: Outcome): void {
    const pending = this.byId.get(id)
    if (pending === undefined) return
    pending.state = 'applied'
    pending.seq = seq
    pending.outcome = outcome
    if (!pending.everywhere || outcome.error !== null) this.answer(pending, outcome)
  }

  /** Answered without an entry. */
  settle(id: number, error: SheepError | null): void {
    const pending = this.byId.get(id)
    if (pending !== undefined) this.answer(pending, error === null ? { value: null, error } : { value: null, error })
  }

  /** Answers what has meanwhile been confirmed. */
  recheck(): void {
    for (const pending of [...this.byId.values()]) {
      if (pending.state === 'applied' && this.context.confirmed(pending.seq)) this.answer(pending, pending.outcome!)
    }
  }

  /** These, and those whose entry is applied, are of a state that may not be the cluster's. */
  disown(ids: readonly number[]): void {
    const error = new SheepError(
      'halted',
      'this node was cut off before all members had confirmed the operation: it may have been lost',
      'look whether it took effect, then try again',
    )
    for (const pending of [...this.byId.values()]) {
      if (pending.state === 'applied' || ids.includes(pending.id)) this.answer(pending, { value: null, error })
    }
  }

  failAll(error: SheepError): void {
    for (const pending of [...this.queue, ...this.byId.values()]) this.answer(pending, { value: null, error })
  }

  private expire(pending: Pending): void {
    const { state } = pending
    const waiting = this.context.waiting()
    const error =
      state === 'queued'
        ? waiting
        : new SheepError(
            waiting.code === 'halted' ? 'halted' : 'timeout',
            'the cluster did not confirm the operation in time; it may still take effect',
            'dog cluster info says how the cluster is; look whether it took effect before trying again',
          )
    this.answer(pending, { value: null, error })
  }

  private answer(pending: Pending, { value, error }: Outcome): void {
    pending.timer?.cancel()
    this.byId.delete(pending.id)
    const at = this.queue.indexOf(pending)
    if (at >= 0) this.queue.splice(at, 1)
    if (error === null) pending.resolve(value)
    else pending.reject(error)
  }
}
