/**
 * One incarnation of one simulated daemon: the gate through which the world calls code under test, and the counter of
 * system calls by which it can be made to die between any two of them.
 *
 *   running --pause--> stopped --resume--> running      calls wait in order, as they do in a kernel's buffers
 *      any  --die--> dead                               nothing is called any more; its system calls throw
 */
import type { Scheduler } from './clock.js'
import type { Verdict } from './trace.js'

/** Thrown out of a system call of a dead process: unwinds the code under test, never seen by anybody else. */
export class ProcessDied extends Error {
  override readonly name = 'ProcessDied'
}

/** Whose code ran last: rejections that surface during the drain are its. */
export const running: { process: Process | null } = { process: null }

export class Process {
  alive = true
  paused = false
  /** By what calls, in the order in which a process that goes on sees to them: the worst for one that was voted out meanwhile */
  readonly #waiting = { client: [] as (() => void)[], peer: [] as (() => void)[], timer: [] as (() => void)[] }
  #callsLeft = -1

  constructor(
    /** node name and incarnation, as "n2.5" */
    readonly name: string,
    readonly scheduler: Scheduler,
    readonly verdict: Verdict,
    /** Called once, within the system call at which it dies or from `die` */
    readonly onDeath: (process: Process) => void,
  ) {}

  /** Calls code under test now, or when the process goes on, or never. */
  enter(call: () => void, by: 'client' | 'peer' | 'timer' = 'peer'): void {
    if (!this.alive) return
    if (this.paused || this.#waits > 0) this.#waiting[by].push(call)
    else this.#call(call)
  }

  get #waits(): number {
    const { client, peer, timer } = this.#waiting
    return client.length + peer.length + timer.length
  }

  #call(call: () => void): void {
    running.process = this
    try {
      call()
    } catch (error) {
      this.threw(error)
    }
  }

  /** An exception that reached the top of the process (or a rejection that nobody handled). */
  threw(error: unknown): void {
    if (!this.alive || error instanceof ProcessDied) return
    const thrown = error instanceof Error ? error : new Error(String(error))
    this.verdict.report(`uncaught ${thrown.name}`, `${this.name}: ${thrown.message}`, thrown.stack)
  }

  /** A system call with an effect: the process may die instead of doing it. */
  systemCall(): void {
    this.touch()
    if (this.#callsLeft < 0) return
    if (this.#callsLeft-- > 0) return
    this.die()
    throw new ProcessDied(this.name)
  }

  /** Code of a dead process must not go on. */
  touch(): void {
    if (!this.alive) throw new ProcessDied(this.name)
  }

  /** Dies at the (n+1)th system call from now. */
  dieAfter(calls: number): void {
    this.#callsLeft = calls
  }

  die(): void {
    if (!this.alive) return
    this.alive = false
    for (const queue of Object.values(this.#waiting)) queue.length = 0
    this.onDeath(this)
  }

  pause(): void {
    this.paused = true
  }

  resume(): void {
    if (!this.paused) return
    this.paused = false
    if (this.#waits > 0) this.scheduler.after(0, () => this.#catchUp())
  }

  /** One waiting call an event; new ones queue behind until the last has run. */
  #catchUp(): void {
    if (!this.alive || this.paused) return
    const { client, peer, timer } = this.#waiting
    const queue = client.length > 0 ? client : peer.length > 0 ? peer : timer
    if (this.#waits > 1) this.scheduler.after(0, () => this.#catchUp())
    this.#call(queue[0])
    queue.shift()
  }
}
