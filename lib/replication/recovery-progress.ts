/** How far this node's recovery of the epoch is: for people, and for what waits for its end. */
import type { Task } from './task.js'

export interface RecoveryProgress {
  epoch: number
  /** no-room: degraded, since the disk has no room for more copies; it goes on by itself when there is some */
  state: 'idle' | 'surveying' | 'recovering' | 'waiting' | 'held' | 'no-room'
  objectsTotal: number
  objectsDone: number
  bytesTaken: number
  /** From the size of those taken so far; 0: not known yet */
  bytesTotal: number
  /** Bytes a second, over the last seconds */
  rate: number
  /** Seconds, at the pace so far; 0: not known */
  left: number
  /** The administrator's, bytes a second; 0 none */
  limit: number
  /** Names of nodes whose copies are needed and that are away, with how many objects wait */
  waitingFor: { nodes: readonly string[]; objects: number }[]
  /** Clock.now() at which this epoch's recovery began */
  since: number
}

/** By the nodes that are needed. */
export function whatWaits(tasks: Iterable<Task>): RecoveryProgress['waitingFor'] {
  const waiting = new Map<string, { nodes: readonly string[]; objects: number }>()
  for (const { waitingFor } of tasks) {
    if (waitingFor === null) continue
    const key = waitingFor.join()
    const entry = waiting.get(key) ?? { nodes: waitingFor, objects: 0 }
    entry.objects++
    waiting.set(key, entry)
  }
  return [...waiting.values()]
}
