import { assert } from '../assert.js'
import type { Clock, Timer } from './interfaces.js'

/** Longest delay that setTimeout keeps; it fires at once above it (Node: timers, "setTimeout"). */
const MS_MAX = 0x7fffffff

class RealTimer implements Timer {
  private readonly handle: NodeJS.Timeout

  constructor(ms: number, fn: () => void) {
    this.handle = setTimeout(fn, ms)
  }

  cancel(): void {
    clearTimeout(this.handle)
  }
}

export class RealClock implements Clock {
  now(): number {
    return performance.now()
  }

  wall(): number {
    return Date.now()
  }

  after(ms: number, fn: () => void): Timer {
    assert(ms >= 0 && ms <= MS_MAX, `a timer's delay is 0 to ${MS_MAX} ms: ${ms}`)
    return new RealTimer(ms, fn)
  }
}
