/**
 * A daemon that stood still (SIGSTOP, a host that swapped itself to death) may have been voted out and not know it: it serves nothing
 * until the cluster has confirmed, in order, that it is still there.
 */
import type { Cluster } from '../cluster/cluster.js'
import { asSheepError } from '../errors.js'
import type { Clock, Log, Timer } from '../host/interfaces.js'
import { mutations } from '../mutations.js'

/** Corosync goes on without a silent host after 2.2 times its token time-out, and dog takes none below 500 ms. */
const LEASE_MS = 1_000
const TICKS_PER_LEASE = 4
const CONFIRM_RETRY_MS = 500
const NEVER_AGAIN = -1

export interface LeaseParts {
  clock: Clock
  log: Log
  cluster: Pick<Cluster, 'status' | 'confirm'>
  /** An event loop that stood still for so long, ms, has lost it: less than the others take to go on without a silent host; absent: LEASE_MS */
  ms: number | undefined
  /** Nothing is served from now on */
  pause: () => void
  /** Confirmed, in the epoch in which it stood still */
  goOn: () => void
}

export class Lease {
  private readonly ms: number
  private lastTick: number
  private lastWall: number
  private timer: Timer | null = null
  private retry: Timer | null = null
  /** Stood still, and not yet told that it is still in the cluster: the number of the question; 0 no; NEVER_AGAIN it has stopped serving */
  private unconfirmed = 0
  private questions = 0

  constructor(private readonly parts: LeaseParts) {
    this.ms = parts.ms ?? LEASE_MS
    this.lastTick = parts.clock.now()
    this.lastWall = parts.clock.wall()
  }

  /** First, and then by itself. */
  tick(): void {
    if (this.unconfirmed === NEVER_AGAIN) return
    const { clock, cluster } = this.parts
    const gap = this.sinceTick()
    this.lastTick = clock.now()
    this.lastWall = clock.wall()
    if (gap > this.ms && cluster.status === 'running') this.confirm(gap)
    this.timer?.cancel()
    this.timer = clock.after(this.ms / TICKS_PER_LEASE, () => this.tick())
  }

  /** What a client asked after the daemon stood still may be there before the timer that notices it. */
  holds(): boolean {
    if (this.sinceTick() <= this.ms || mutations.trustPausedGateway) return true
    this.tick()
    return this.unconfirmed === 0
  }

  get isLost(): boolean {
    return this.unconfirmed !== 0
  }

  /** This node serves nothing for another reason, and will be told when it may. */
  forget(): void {
    if (this.unconfirmed !== NEVER_AGAIN) this.unconfirmed = 0
  }

  end(): void {
    this.unconfirmed = NEVER_AGAIN
    this.timer?.cancel()
    this.retry?.cancel()
  }

  /** ms. The monotonic clock stands still while the host does (clock_gettime(2), CLOCK_MONOTONIC), so the other one counts as well. */
  private sinceTick(): number {
    const { clock } = this.parts
    return Math.max(clock.now() - this.lastTick, clock.wall() - this.lastWall)
  }

  private confirm(gap: number): void {
    const { cluster, clock, log, pause, goOn } = this.parts
    if (cluster.status !== 'running') return
    log('warning', `this daemon stood still for ${(gap / 1000).toFixed(1)} s; asking the cluster before going on`)
    const question = ++this.questions
    this.unconfirmed = question
    pause()
    cluster.confirm().then(
      () => {
        if (this.unconfirmed !== question) return
        this.unconfirmed = 0
        if (cluster.status === 'running') goOn()
      },
      (error: unknown) => {
        log('warning', `not confirmed yet: ${asSheepError(error).message}`)
        if (this.unconfirmed !== question) return
        this.retry?.cancel()
        this.retry = clock.after(CONFIRM_RETRY_MS, () => this.confirm(gap))
      },
    )
  }
}
