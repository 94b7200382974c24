/**
 * Simulated time: one queue of events for the whole world. The loop takes the earliest event, runs it, and then lets every
 * promise settle: a setImmediate turn runs only after Node has emptied its microtask and nextTick queues, and nothing
 * else in the process does I/O, so the turn is a complete drain. Events marked quiet belong to the
 * world, run no code under test, and need no turn.
 */
import type { Clock, Timer } from '../../lib/host/interfaces.js'
import type { Process } from './process.js'
import type { Trace } from './trace.js'

/**
 * Turns that are queued at once: Node empties its microtask and nextTick queues between immediates of one queue as well,
 * and so asks the kernel for I/O, of which there is none, once in so many turns only.
 */
const TURNS = 64

class Event implements Timer {
  cancelled = false
  constructor(
    readonly time: number,
    readonly order: number,
    readonly quiet: boolean,
    public run: (() => void) | null,
  ) {}

  cancel(): void {
    this.cancelled = true
    this.run = null
  }
}

function before(a: Event, b: Event): boolean {
  return a.time < b.time || (a.time === b.time && a.order < b.order)
}

export class Scheduler {
  /** ms since the world began. */
  now = 0
  events = 0
  readonly #heap: Event[] = []
  #order = 0

  constructor(readonly trace: Trace) {}

  /** Runs `run` after `ms` (>= 0) of simulated time; events of one instant run in the order in which they were made. */
  after(ms: number, run: () => void, quiet = false): Timer {
    const event = new Event(this.now + Math.max(0, ms), this.#order++, quiet, run)
    this.#push(event)
    return event
  }

  get pending(): number {
    return this.#heap.length
  }

  /**
   * Runs events until `stop` says so (asked after each event and its drain), or none is left ('empty'), or simulated
   * time would pass `until` ('time'), or `eventsMax` more have run ('events').
   */
  run(stop: () => boolean, until: number, eventsMax: number): Promise<'stopped' | 'empty' | 'time' | 'events'> {
    const last = this.events + eventsMax
    return new Promise((resolve, reject) => {
      let ended = false
      const turn = (): void => {
        if (ended) return
        try {
          const end = this.#untilDrain(stop, until, last)
          if (!end) return
          ended = true
          resolve(end)
        } catch (error) {
          ended = true
          reject(error)
        }
      }
      const turns = (): void => {
        if (ended) return
        for (let i = 0; i < TURNS; i++) setImmediate(turn)
        setImmediate(turns)
      }
      turns()
    })
  }

  /** Runs events up to one that needs a drain, or says why not. */
  #untilDrain(stop: () => boolean, until: number, last: number): 'stopped' | 'empty' | 'time' | 'events' | null {
    for (;;) {
      if (stop()) return 'stopped'
      const event = this.#pop()
      if (!event) return 'empty'
      if (event.time > until || this.events >= last) {
        this.#push(event)
        return event.time > until ? 'time' : 'events'
      }
      this.events++
      this.now = event.time
      this.trace.mix(event.time * 1000, event.order)
      const { run } = event
      event.run = null
      run!()
      if (!event.quiet) return null
    }
  }

  #push(event: Event): void {
    const heap = this.#heap
    let i = heap.length
    heap.push(event)
    while (i > 0) {
      const up = (i - 1) >> 1
      if (!before(event, heap[up])) break
      heap[i] = heap[up]
      i = up
    }
    heap[i] = event
  }

  /** Earliest event that was not cancelled. */
  #pop(): Event | null {
    for (;;) {
      const event = this.#popAny()
      if (!event?.cancelled) return event
    }
  }

  #popAny(): Event | null {
    const heap = this.#heap
    if (heap.length === 0) return null
    const top = heap[0]
    const last = heap.pop()!
    if (heap.length > 0) {
      let i = 0
      for (;;) {
        let child = 2 * i + 1
        if (child >= heap.length) break
        if (child + 1 < heap.length && before(heap[child + 1], heap[child])) child++
        if (!before(heap[child], last)) break
        heap[i] = heap[child]
        i = child
      }
      heap[i] = last
    }
    return top
  }
}

/** Wall time of the world's beginning: any fixed moment. */
const EPOCH_MS = 1_700_000_000_000

/**
 * One process's clock: its own zero, a rate that is off by a few hundred ppm, a wall clock that is wrong by up to
 * minutes. Timers die with the process and wait while it is stopped.
 */
export class SimClock implements Clock {
  readonly #zero: number

  constructor(
    readonly scheduler: Scheduler,
    readonly process: Process,
    readonly rate: number,
    readonly wallOffset: number,
  ) {
    this.#zero = scheduler.now - 1000
  }

  now(): number {
    return (this.scheduler.now - this.#zero) * this.rate
  }

  wall(): number {
    return Math.floor(EPOCH_MS + this.wallOffset + this.scheduler.now)
  }

  after(ms: number, fn: () => void): Timer {
    this.process.touch()
    if (!(ms >= 0)) throw new Error(`timer of ${ms} ms`)
    let cancelled = false
    const timer = this.scheduler.after(ms / this.rate, () =>
      this.process.enter(() => {
        if (!cancelled) fn()
      }, 'timer'),
    )
    return {
      cancel: () => {
        cancelled = true
        timer.cancel()
      },
    }
  }
}
