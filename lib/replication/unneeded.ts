/**
 * Objects whose newest copy is away, or lost, are waited for; but what nothing refers to needs no copy. It is what a deletion left on a
 * disk that was not there, and those who could tell may never come back. All such objects of a VDI are asked about together, and
 * beside recovery: its inode may be away itself.
 */
import { asSheepError } from '../errors.js'
import type { Clock, Log } from '../host/interfaces.js'
import { type Oid, vidOf } from '../vdi/oid.js'
import type { Task } from './task.js'
import type { Topology } from './topology.js'

const RETRY_MS = 2_000

export interface UnneededOptions {
  clock: Clock
  log: Log
  topology: Pick<Topology, 'epoch'>
  reachable: (oids: readonly Oid[]) => Promise<ReadonlySet<Oid>>
  /** Nothing referred to it in this epoch */
  drop: (task: Task, epoch: number) => void
}

export class Unneeded {
  /** By vid: about which the next question is */
  private readonly next = new Map<number, Set<Task>>()
  private readonly asking = new Set<number>()
  private stopped = false

  constructor(private readonly options: UnneededOptions) {}

  /** It waits, and does not run. */
  look(task: Task): void {
    const vid = vidOf(task.oid)
    const others = this.next.get(vid)
    if (others === undefined) this.next.set(vid, new Set([task]))
    else others.add(task)
    void this.ask(vid)
  }

  /** A new epoch: those that wait in it come again. */
  forget(): void {
    this.next.clear()
  }

  stop(): void {
    this.stopped = true
    this.forget()
  }

  private async ask(vid: number): Promise<void> {
    if (this.asking.has(vid)) return
    this.asking.add(vid)
    // So that those of this turn go together
    await Promise.resolve()
    for (let tasks = this.take(vid); tasks.length > 0; tasks = this.take(vid)) {
      const epoch = this.options.topology.epoch
      try {
        const reached = await this.options.reachable(tasks.map(({ oid }) => oid))
        for (const task of tasks) if (!reached.has(task.oid) && isWaiting(task)) this.options.drop(task, epoch)
      } catch (error) {
        this.options.log('debug', `what waits of vid ${vid.toString(16)}: ${asSheepError(error).message}`)
        this.options.clock.after(RETRY_MS, () => {
          if (!this.stopped) for (const task of tasks) if (isWaiting(task)) this.look(task)
        })
      }
    }
    this.asking.delete(vid)
  }

  private take(vid: number): Task[] {
    const tasks = [...(this.next.get(vid) ?? [])].filter(isWaiting)
    this.next.delete(vid)
    return tasks
  }
}

function isWaiting(task: Task): boolean {
  return task.waitingFor !== null && !task.running && !task.cancelled
}
