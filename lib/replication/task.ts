/** One object that recovery has to check or take, and who waits for it. */
import type { StagedObject } from '../store/types.js'
import type { Oid } from '../vdi/oid.js'
import type { Filling } from './filling.js'
import type { EnsureWaiter } from './replica.js'
import type { CopyReport } from './validity.js'

export interface Task {
  oid: Oid
  /** From the survey; null: ask */
  reports: CopyReport[] | null
  waiters: EnsureWaiter[]
  /** Changes: they need not wait for a copy when they may go by */
  changes: EnsureWaiter[]
  /** Replicas of this epoch that hold it and do what goes by here; null: not known yet */
  sources: readonly string[] | null
  running: boolean
  cancelled: boolean
  urgent: boolean
  /** In the line of those that somebody wanted */
  wanted: boolean
  waitingFor: readonly string[] | null
  /** The node of `waitingFor` is here, and cannot read a part of its copy: that may be written at any time; '' not so */
  gap: string
  /** The copy under way */
  staged: StagedObject | null
  /** The same, while clients' writes may go into it */
  filling: Filling | null
}

export function newTask(oid: Oid): Task {
  return {
    oid,
    reports: null,
    waiters: [],
    changes: [],
    sources: null,
    wanted: false,
    running: false,
    cancelled: false,
    urgent: false,
    waitingFor: null,
    gap: '',
    staged: null,
    filling: null,
  }
}

export function resumeAll(task: Task, result: number): void {
  for (const waiter of [...task.waiters.splice(0), ...task.changes.splice(0)]) waiter.resume(result)
}
