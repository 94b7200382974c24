/**
 * Making a VDI, the shape that create, snapshot, clone and rollback share:
 *
 *   reserve   a command makes an entry in `creating`: the vid is taken, the name has a pending entry
 *   build     the inode (its index copied from the source), durable; preallocated objects
 *   commit    one command makes it live, and in the same instant the former working VDI a snapshot, or `deleting`
 *
 * Before the commit nothing refers to what was built; after it everything is there. This node leaves before the commit: the registry
 * turns `creating` into `deleting`, and the lowest member frees what was built (`VdiOperations.resumeInterrupted`). The build
 * fails, or takes too long: `abort`, then the same here; what a build that took too long still has in flight must end before its
 * vid may be freed and taken again. The commit's fate is unknown (it timed out): `abort` is ordered after it and tells which it was.
 */
import { asSheepError, SheepError } from '../errors.js'
import type { Clock, Log } from '../host/interfaces.js'
import type { Reclaim } from './reclaim.js'
import type { Registry } from './registry.js'
import type { VdiCommand, VdiEntry } from './types.js'

export type Reserve = Extract<VdiCommand, { op: 'create' | 'snapshot-begin' | 'rollback-begin' }>

export interface MakingParts {
  self: () => string
  registry: () => Registry
  propose: (command: VdiCommand, everywhere?: boolean) => Promise<unknown>
  reclaim: Reclaim
  clock: Clock
  log: Log
}

/** Rejects with `error` when `promise` takes longer than `ms`. */
export function within<T>(clock: Clock, ms: number, promise: Promise<T>, error: () => SheepError): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = clock.after(ms, () => reject(error()))
    promise.then(resolve, reject).finally(() => timer.cancel())
  })
}

export class Making {
  /** `creating` entries, and given-up ones, that this process is at work on: vid -> epoch of the entry */
  private readonly building = new Map<number, number>()
  /** Reservations whose result has not reached this process: their entries are not interrupted ones */
  private reserving = 0

  constructor(private readonly parts: MakingParts) {}

  /** Nobody but this process is to touch what it has built so far. */
  isBuilding(vid: number): boolean {
    return this.building.has(vid)
  }

  /** An entry in `creating` that this node is in charge of and no longer at work on: a failed abort, or a lost answer. */
  isInterrupted(vid: number): boolean {
    const entry = this.parts.registry().get(vid)
    const mine = entry?.state === 'creating' && entry.creator === this.parts.self()
    return mine && this.reserving === 0 && !this.building.has(vid)
  }

  /**
   * To be asked after a build has waited for anything but its objects: while this node was out of the cluster the others may have given the
   * entry up, freed its vid and given it again. SheepError busy.
   */
  mustBuild({ vid, epoch }: VdiEntry): void {
    const entry = this.parts.registry().get(vid)
    const mine = entry?.state === 'creating' && entry.creator === this.parts.self() && entry.epoch === epoch
    if (!mine) throw interrupted(vid, gone(vid))
  }

  /** Reserve, build within `msMax`, commit. Answers the live entry; rejects when it did not come to be. */
  async make(
    reserve: Reserve,
    msMax: number,
    build: (entry: VdiEntry) => Promise<void>,
    commit: (vid: number) => VdiCommand,
  ): Promise<VdiEntry> {
    const { registry, clock, propose } = this.parts
    const entry = await this.reserve(reserve)
    const { vid } = entry
    const building = { done: false }
    const built = build(entry).finally(() => {
      building.done = true
    })
    try {
      await within(clock, msMax, built, () => {
        const what = 'its inode could not be written in time'
        return new SheepError(
          'timeout',
          `vid ${vid}: ${what} (${msMax / 1000} s)`,
          'dog node recovery; dog cluster info',
        )
      })
      // On every member, before objects of a former working VDI are freed
      await propose(commit(vid), true)
      this.end(entry)
    } catch (error) {
      // Freed by the others: what has the vid now, if anything, is not this one.
      if (registry().get(vid)?.epoch !== entry.epoch) {
        this.end(entry)
        throw interrupted(vid, error)
      }
      const ended = registry().get(vid)?.state !== 'creating'
      if (await this.abort(entry)) {
        const freed = built.catch(() => {}).then(() => this.free(entry))
        // A build that hangs is not waited for
        if (building.done) await freed
        // Whatever it met then is only how that showed.
        throw ended ? interrupted(vid, error) : error
      }
    }
    const made = registry().get(vid)
    if (made === undefined) throw gone(vid)
    return made
  }

  private async reserve(command: Reserve): Promise<VdiEntry> {
    this.reserving++
    try {
      const { vid } = (await this.parts.propose(command)) as { vid: number }
      const entry = this.parts.registry().get(vid)
      if (entry === undefined) throw gone(vid)
      this.building.set(vid, entry.epoch)
      return entry
    } finally {
      this.reserving--
    }
  }

  /** This process is at work on it no more. */
  private end({ vid, epoch }: VdiEntry): void {
    if (this.building.get(vid) === epoch) this.building.delete(vid)
  }

  /** False when the commit had been delivered all the same. */
  private async abort(entry: VdiEntry): Promise<boolean> {
    const { vid } = entry
    try {
      await this.parts.propose({ op: 'abort', vid })
    } catch (error) {
      if (this.parts.registry().get(vid)?.state === 'live') {
        this.end(entry)
        return false
      }
      const { message } = asSheepError(error)
      this.parts.log('warning', 'giving up a VDI failed; it will be tried again', { vid, error: message })
    }
    return true
  }

  /** What was built and given up. `resumeInterrupted` does it when the abort or this failed. */
  private async free(given: VdiEntry): Promise<void> {
    const { vid, epoch } = given
    this.end(given)
    const entry = this.parts.registry().get(vid)
    if (entry?.state !== 'deleting' || entry.epoch !== epoch) return
    try {
      await this.parts.reclaim.free(vid)
    } catch (error) {
      const { message } = asSheepError(error)
      this.parts.log('warning', 'freeing a VDI that was given up failed; it will be tried again', {
        vid,
        error: message,
      })
    }
  }
}

function interrupted(vid: number, error: unknown): SheepError {
  const { message } = asSheepError(error)
  return new SheepError(
    'busy',
    `this node was out of the cluster for a moment, and the others gave up vid ${vid}, which it was making (${message})`,
    'try again',
  )
}

function gone(vid: number): SheepError {
  return new SheepError('not-found', `vid ${vid} is gone: this node had left the cluster, or it was deleted meanwhile`)
}
