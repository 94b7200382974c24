/**
 * The right to run a cluster-wide operation: a claim in the replicated queue, held while it is first. The claims of a node that
 * leaves go with it, on all members at once.
 */
import { SheepError } from '../errors.js'
import type { Clock, Random } from '../host/interfaces.js'
import type { ExclusiveClaim } from './state.js'
import type { ClusterCommand } from './types.js'

export interface ExclusiveContext {
  clock: Clock
  random: Random
  /** How long to wait for one's turn */
  timeoutMs: number
  queue(): readonly ExclusiveClaim[]
  propose(command: ClusterCommand, timeoutMs: number): Promise<unknown>
  stopped(): boolean
}

export class Exclusive {
  /** Called when the queue may have changed */
  private readonly waiters = new Set<() => void>()

  constructor(readonly context: ExclusiveContext) {}

  changed(): void {
    for (const wake of [...this.waiters]) wake()
  }

  /**
   * SheepError busy: others held it all the time; halted: this node was thrown out meanwhile, so others may have run theirs at
   * the same time; and what propose throws.
   */
  async run<T>(operation: () => Promise<T>): Promise<T> {
    const token = this.context.random.hex(8)
    await this.enter(token)
    let lost = false
    const watch = (): void => {
      lost ||= this.context.queue()[0]?.token !== token
    }
    this.waiters.add(watch)
    try {
      const result = await operation()
      if (lost) {
        throw new SheepError(
          'halted',
          'this node left the cluster for a moment during the operation',
          'look whether it took effect, then try again',
        )
      }
      return result
    } finally {
      this.waiters.delete(watch)
      this.leave(token)
    }
  }

  private async enter(token: string): Promise<void> {
    const { clock, timeoutMs } = this.context
    const deadline = clock.now() + timeoutMs
    try {
      for (;;) {
        const left = deadline - clock.now()
        if (left <= 0) throw this.outOfTime()
        await this.context.propose({ type: 'exclusive-enter', token }, left)
        if (await this.turn(token, deadline)) return
      }
    } catch (error) {
      this.leave(token)
      throw error
    }
  }

  /** True when first; false when the claim is gone (this node left) and must be made anew. */
  private turn(token: string, deadline: number): Promise<boolean> {
    const { clock } = this.context
    return new Promise((resolve, reject) => {
      const end = (): void => {
        timer.cancel()
        this.waiters.delete(look)
      }
      const look = (): void => {
        const at = this.context.queue().findIndex((claim) => claim.token === token)
        if (this.context.stopped()) {
          end()
          reject(new SheepError('shutting-down', 'this daemon is stopping'))
        } else if (at <= 0) {
          end()
          resolve(at === 0)
        }
      }
      const timer = clock.after(Math.max(0, deadline - clock.now()), () => {
        end()
        reject(this.outOfTime())
      })
      this.waiters.add(look)
      look()
    })
  }

  private outOfTime(): SheepError {
    const holder = this.context.queue()[0]
    return new SheepError(
      'busy',
      `node ${holder?.node ?? 'of another operation'} has been running a cluster-wide operation all the time`,
      'try again when it is done',
    )
  }

  /** Has no deadline: the others wait for it. Gone by itself when this node leaves. */
  private leave(token: string): void {
    if (this.context.stopped()) return
    this.context.propose({ type: 'exclusive-leave', token }, 0).catch((error: unknown) => {
      const held = this.context.queue().some((claim) => claim.token === token)
      if (this.context.stopped() || !held) return
      if (!(error instanceof SheepError)) throw error
      // Busy, or its outcome was lost: once more, or nobody gets a turn.
      this.context.clock.after(100, () => this.leave(token))
    })
  }
}
