/**
 * The index of an open VDI, in memory and in its inode object: which vid owns each data object. A change is in the
 * inode object on all replicas before it counts. Changes that come while one is being written go together, neighbours in
 * one write. After a write that failed the inode object says which of its entries have changed all the same.
 *
 * Entries that no flush covers are known here. When every node that has them has left, its host may have lost them with its power,
 * while this gateway goes on with them: so they are written again.
 */
import type { Completion } from '../host/interfaces.js'
import { FLAG_FUA } from '../protocol/header.js'
import { READ, WRITE } from '../replication/request.js'
import { INDEX_OFFSET } from '../vdi/inode.js'
import { inodeOid } from '../vdi/oid.js'
import { LengthRecord } from './length-record.js'
import type { VolumeRouter } from './volume-router.js'

/** In place of a vid: what the entry is when it is written */
const AS_IT_IS = -1

/** Entries in one write */
const RUN_MAX = 65_536

interface Change {
  index: number
  vid: number
  durable: boolean
  done: Completion
}

export class IndexTable {
  /** Writes of entries begun or ended so far */
  changes = 1
  /** As many of those as a flush has covered */
  durable = 0
  /** Entries were written that no flush covers yet */
  onWritten: (() => void) | null = null
  /** Of its file, beside the index in the inode object */
  readonly fileLength: LengthRecord
  /** Those entries; and those that the flush which runs covers */
  private unflushed = new Set<number>()
  private covering = new Set<number>()
  private queue: Change[] = []
  private pending = 0

  constructor(
    private readonly router: VolumeRouter,
    /** Vid of the working VDI and its copies: they change with a snapshot, while nothing is being written */
    public vid: number,
    private readonly copies: number,
    private entries: Uint32Array,
  ) {
    this.fileLength = new LengthRecord({
      router,
      copies,
      vid: () => this.vid,
      written: () => {
        this.changes++
        this.onWritten?.()
      },
    })
  }

  get length(): number {
    return this.entries.length
  }

  /** Written since the last successful flush began */
  get dirty(): boolean {
    return this.durable !== this.changes
  }

  /** A copy */
  snapshot(): Uint32Array {
    return this.entries.slice()
  }

  get(index: number): number {
    return this.entries[index]
  }

  /** Room for more objects after a resize; new ones are holes. */
  resize(length: number): void {
    if (length <= this.entries.length) return
    const entries = new Uint32Array(length)
    entries.set(this.entries)
    this.entries = entries
  }

  replace(entries: Uint32Array): void {
    this.entries = entries
  }

  flushBegins(): void {
    for (const index of this.unflushed) this.covering.add(index)
    this.unflushed = new Set()
  }

  flushEnded(ok: boolean): void {
    if (!ok) for (const index of this.covering) this.unflushed.add(index)
    this.covering = new Set()
  }

  /** Writes all entries again that no flush covers, durably. `done` with 0, or the negative errno of one that failed. */
  rewrite(done: Completion): void {
    this.writeAgain(new Set([...this.covering, ...this.unflushed]), done)
  }

  /** All of them: the inode object is an older one, by an administrator's word. */
  rewriteAll(done: Completion): void {
    this.writeAgain(new Set(this.entries.keys()), done)
  }

  private writeAgain(indexes: ReadonlySet<number>, done: Completion): void {
    // One for this loop, for a write may end inline, and one for the length.
    let left = indexes.size + 2
    let outcome = 0
    const each: Completion = {
      complete: (result) => {
        if (result < 0) outcome = result
        if (--left === 0) done.complete(outcome)
      },
    }
    const busy = this.pending > 0
    for (const index of indexes) this.queue.push({ index, vid: AS_IT_IS, durable: true, done: each })
    if (!busy) this.write()
    this.fileLength.rewrite(each)
    each.complete(0)
  }

  /**
   * `done` with 0 once the inode object on all replicas says so, or a negative errno: then `get` tells what it says.
   * `durable`: also after power loss, which a removal of the object must wait for: an entry that came back would name what
   * is gone.
   */
  set(index: number, vid: number, durable: boolean, done: Completion): void {
    this.queue.push({ index, vid, durable, done })
    if (this.pending === 0) this.write()
  }

  private write(): void {
    if (this.queue.length === 0) return
    const changes = this.queue
    this.queue = []
    // Stable: of two changes of one entry the later is written in the next round.
    changes.sort((a, b) => a.index - b.index)
    const runs: Change[][] = []
    for (const change of changes) {
      const run = runs[runs.length - 1]
      const last = run?.[run.length - 1].index ?? -1
      if (change.index === last) this.queue.push(change)
      else if (change.index === last + 1 && run !== undefined && run.length < RUN_MAX) run.push(change)
      else runs.push([change])
    }
    this.pending = runs.length
    this.changes++
    for (const run of runs) this.writeRun(run)
  }

  private writeRun(run: Change[]): void {
    const bytes = Buffer.allocUnsafe(run.length * 4)
    run.forEach((change, i) => {
      bytes.writeUInt32LE(change.vid === AS_IT_IS ? this.entries[change.index] : change.vid, i * 4)
    })
    const flags = run.some((change) => change.durable) ? FLAG_FUA : 0
    const done: Completion = {
      complete: (result) => {
        this.changes++
        if (result < 0) this.lookAgain(run, bytes, result)
        else this.written(run, bytes, 0)
      },
    }
    const position = INDEX_OFFSET + run[0].index * 4
    this.router.submit(WRITE, inodeOid(this.vid), this.copies, bytes, 0, bytes.length, position, flags, false, done)
  }

  private note(run: readonly Change[]): void {
    const durable = run.some((change) => change.durable)
    for (const { index } of run) {
      if (!durable) {
        this.unflushed.add(index)
        continue
      }
      this.unflushed.delete(index)
      this.covering.delete(index)
    }
    if (!durable) this.onWritten?.()
  }

  /** Some of it may have been written before it failed. */
  private lookAgain(run: Change[], bytes: Buffer, failure: number): void {
    const done: Completion = { complete: (result) => this.written(run, result < 0 ? null : bytes, failure) }
    const position = INDEX_OFFSET + run[0].index * 4
    this.router.submit(READ, inodeOid(this.vid), this.copies, bytes, 0, bytes.length, position, 0, false, done)
  }

  /** `bytes`: what the inode object holds now; null when it cannot be told. */
  private written(run: Change[], bytes: Buffer | null, outcome: number): void {
    if (bytes !== null) {
      run.forEach((change, i) => {
        this.entries[change.index] = bytes.readUInt32LE(i * 4)
      })
    }
    if (outcome >= 0) this.note(run)
    this.pending--
    for (const change of run) change.done.complete(outcome)
    if (this.pending === 0) this.write()
  }
}
