/**
 * How fast recovery may go. Clients come first: while this node or the one that is read from serves them, recovery rests
 * for a while after each piece, in proportion to the time that the piece took, so that a slow disk gets more rest than a fast
 * one. It never rests so long that it goes slower than BUSY_MIN; and never goes faster than the administrator's limit.
 */
import type { Clock } from '../host/interfaces.js'

/** Of the time that a piece took */
const REST = 0.5
/** Bytes a second that recovery does beside clients, whatever they do */
const BUSY_MIN = 8 * 1024 * 1024
/** Clients' requests within WATCH_MS that make a node busy: less is no load that one could hurt. */
const BUSY_REQUESTS = 10
const WATCH_MS = 100
/** What may be done at once after a pause, under a limit */
const BURST_MS = 100
const RATE_WINDOW_S = 5

export class Pacer {
  /** Bytes a second; 0 none */
  limit = 0
  private watchedAt = 0
  private watched = 0
  private busyNow = false
  /** Clock.now() at which the limit allows the next piece */
  private allowed = 0

  /** `requests`: of clients, as this node as a replica has served them so far. */
  constructor(
    private readonly clock: Clock,
    private readonly requests: () => number,
  ) {}

  /** Whether this node serves clients. */
  get busy(): boolean {
    const now = this.clock.now()
    const since = now - this.watchedAt
    if (since >= WATCH_MS) {
      const requests = this.requests()
      this.busyNow = (requests - this.watched) * WATCH_MS >= BUSY_REQUESTS * since
      this.watched = requests
      this.watchedAt = now
    }
    return this.busyNow
  }

  /** Milliseconds to wait before a piece of so many bytes is read, under the limit. */
  delay(bytes: number): number {
    if (this.limit === 0) return 0
    const now = this.clock.now()
    const at = Math.max(this.allowed, now - BURST_MS)
    this.allowed = at + (bytes / this.limit) * 1000
    return Math.max(0, at - now)
  }

  /** Milliseconds to rest after a piece that took `ms`, beside clients. */
  static rest(ms: number, bytes: number): number {
    return Math.min(ms * REST, Math.max(0, (bytes / BUSY_MIN) * 1000 - ms))
  }
}

/** Bytes over the last seconds. */
export class RateMeter {
  /** By second, in a ring */
  private readonly buckets = new Float64Array(RATE_WINDOW_S + 1)
  private second = 0
  private began = 0

  constructor(private readonly clock: Clock) {}

  begin(): void {
    this.began = this.clock.now()
    this.buckets.fill(0)
  }

  add(bytes: number): void {
    this.turn()
    this.buckets[this.second % this.buckets.length] += bytes
  }

  /** Bytes a second, over the last RATE_WINDOW_S or since `begin` */
  get rate(): number {
    this.turn()
    const now = this.clock.now()
    const from = Math.max(this.began, (this.second - RATE_WINDOW_S) * 1000)
    const sum = this.buckets.reduce((total, bytes) => total + bytes, 0)
    return now > from ? (sum / (now - from)) * 1000 : 0
  }

  private turn(): void {
    const second = Math.floor(this.clock.now() / 1000)
    if (second - this.second > this.buckets.length) this.second = second - this.buckets.length
    while (this.second < second) this.buckets[++this.second % this.buckets.length] = 0
  }
}
