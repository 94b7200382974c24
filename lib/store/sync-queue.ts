/**
 * Who waits for which sync. A unit is a file or a directory. Requests for one unit share its syncs:
 *
 *     join --+-- nothing changed, none running --> done at once
 *            +-- none running ---------------> waits for the next one, which is queued
 *            +-- one running, nothing changed since it started --> that one covers all: waits for it
 *            +-- one running, changed since --> waits for the next one
 *
 * At most `limit` syncs run at a time, so that a flush of thousands of files leaves the disk to others as well. A failed
 * sync may have lost what it covered, and the kernel says so once only (fsync(2), "EIO"): the unit fails from then on.
 */
import type { Completion } from '../host/interfaces.js'

export abstract class SyncUnit {
  /** Changed since the last sync started (or no sync ever did) */
  changed = false
  syncing = false
  queued = false
  /** Negative errno of a sync that failed; 0 none */
  lost = 0
  covered: Completion[] | null = null
  waiting: Completion[] | null = null

  get idle(): boolean {
    return !this.changed && !this.syncing
  }

  abstract startSync(done: Completion): void
  /** After each sync, before its waiters hear. */
  abstract synced(ok: boolean): void
}

class Run implements Completion {
  constructor(
    private readonly queue: SyncQueue,
    private readonly unit: SyncUnit,
  ) {}

  complete(result: number): void {
    this.queue.ended(this.unit, result)
  }
}

export class SyncQueue {
  private queue: SyncUnit[] = []
  private head = 0
  private running = 0
  private pumping = false

  constructor(private readonly limit: number) {}

  join(unit: SyncUnit, done: Completion): void {
    if (unit.lost !== 0) {
      done.complete(unit.lost)
    } else if (unit.idle) {
      done.complete(0)
    } else if (unit.syncing && !unit.changed) {
      if (unit.covered === null) unit.covered = [done]
      else unit.covered.push(done)
    } else {
      if (unit.waiting === null) unit.waiting = [done]
      else unit.waiting.push(done)
      this.enqueue(unit)
      this.pump()
    }
  }

  private enqueue(unit: SyncUnit): void {
    if (unit.queued || unit.syncing) return
    unit.queued = true
    this.queue.push(unit)
  }

  private pump(): void {
    // A sync that ends inline (its file does not open) comes back here: the loop below goes on, not a deeper one.
    if (this.pumping) return
    this.pumping = true
    while (this.running < this.limit && this.head < this.queue.length) {
      const unit = this.queue[this.head++]
      if (this.head === this.queue.length) {
        this.queue = []
        this.head = 0
      }
      this.running++
      unit.queued = false
      unit.syncing = true
      unit.changed = false
      unit.covered = unit.waiting
      unit.waiting = null
      unit.startSync(new Run(this, unit))
    }
    this.pumping = false
  }

  ended(unit: SyncUnit, result: number): void {
    this.running--
    unit.syncing = false
    if (result < 0) unit.changed = true
    unit.synced(result >= 0)
    let told = unit.covered
    unit.covered = null
    if (unit.waiting !== null && unit.lost !== 0) {
      told = told === null ? unit.waiting : told.concat(unit.waiting)
      unit.waiting = null
    }
    if (unit.waiting !== null) this.enqueue(unit)
    if (told !== null) for (const done of told) done.complete(Math.min(result, 0))
    this.pump()
  }
}

/** Completes `done` once `count` requests have ended: with the first failure, else 0. */
export class SyncGroup implements Completion {
  private result = 0

  constructor(
    private count: number,
    private readonly done: Completion,
  ) {}

  complete(result: number): void {
    if (result < 0 && this.result === 0) this.result = result
    if (--this.count === 0) this.done.complete(this.result)
  }
}
