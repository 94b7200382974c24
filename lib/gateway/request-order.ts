/**
 * Overlapping requests of a volume run one after another, in the order in which they were issued; the others run at
 * once. Replicas may therefore do what they are given in any order, and a repeated write never passes a later one.
 */
import { assert } from '../assert.js'

export interface Ordered {
  /** Bytes, [start, end) of the volume */
  start: number
  end: number
  /** Reads do not conflict with reads */
  readonly changes: boolean
  /** Place in `active`; -1 elsewhere */
  slot: number
  /** Called when it may run. */
  begin(): void
}

export class RequestOrder<R extends Ordered> {
  private readonly active: R[] = []
  private changing = 0
  private blocked: R[] = []
  private holds = 0
  private unblocking = false
  private idleWaiters: (() => void)[] = []

  get changingCount(): number {
    return this.changing
  }

  running(): readonly R[] {
    return this.active
  }

  admit(request: R): void {
    if (this.mayRun(request, this.blocked.length)) this.run(request)
    else this.blocked.push(request)
  }

  /** The request has ended. May begin others before it returns. */
  leave(request: R): void {
    const last = this.active.pop() as R
    if (last !== request) {
      assert(this.active[request.slot] === request, 'a request that ends was active')
      this.active[request.slot] = last
      last.slot = request.slot
    }
    request.slot = -1
    if (request.changes) this.changing--
    if (this.blocked.length > 0) this.unblock()
    if (this.changing === 0 && this.idleWaiters.length > 0) {
      for (const waiter of this.idleWaiters.splice(0)) waiter()
    }
  }

  /** From now on changes wait, until each hold is released; calls `idle` when none is in flight. Reads go on. */
  hold(idle: () => void): void {
    this.holds++
    if (this.changing === 0) idle()
    else this.idleWaiters.push(idle)
  }

  /** Ends one hold. */
  release(): void {
    if (this.holds === 0) return
    this.holds--
    if (this.holds === 0) this.unblock()
  }

  /** Ends all holds. */
  releaseAll(): void {
    this.holds = 0
    this.unblock()
  }

  private unblock(): void {
    // One that begins may end inline and come back here: the loop below goes on with the next, not a deeper one.
    if (this.unblocking) return
    this.unblocking = true
    for (let i = 0; i < this.blocked.length; ) {
      const request = this.blocked[i]
      if (this.mayRun(request, i)) {
        this.blocked.splice(i, 1)
        this.run(request)
        i = 0
      } else {
        i++
      }
    }
    this.unblocking = false
  }

  /** `before`: how many of the blocked ones were issued earlier. */
  private mayRun(request: R, before: number): boolean {
    if (request.changes && this.holds > 0) return false
    if (this.changing > 0 || request.changes) {
      for (const other of this.active) if (conflict(request, other)) return false
    }
    for (let i = 0; i < before; i++) if (conflict(request, this.blocked[i])) return false
    return true
  }

  private run(request: R): void {
    request.slot = this.active.length
    this.active.push(request)
    if (request.changes) this.changing++
    request.begin()
  }
}

function conflict(a: Ordered, b: Ordered): boolean {
  return a.start < b.end && b.start < a.end && (a.changes || b.changes)
}
