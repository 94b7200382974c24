/**
 * The index of an open VDI, in memory and in its inode object: which vid owns each data object. A change is in the
 * inode object on all replicas before it counts. Changes that come while one is being written go together.
 */
import type { Completion } from '../host/interfaces.js'
import { FLAG_FUA } from '../protocol/header.js'
import { WRITE } from '../replication/request.js'
import { INDEX_OFFSET } from '../vdi/inode.js'
import { inodeOid } from '../vdi/oid.js'
import type { Router } from './router.js'

interface Change {
  index: number
  vid: number
  durable: boolean
  done: Completion
}

export class IndexTable {
  /** Written since the last flush began */
  dirty = true
  private queue: Change[] = []
  private writing: Change[] = []
  private pending = 0
  private result = 0

  constructor(
    private readonly router: Router,
    /** Vid of the working VDI and its copies: they change with a snapshot, while nothing is being written */
    public vid: number,
    private readonly copies: number,
    private entries: Uint32Array,
  ) {}

  get length(): number {
    return this.entries.length
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

  /**
   * `done` with 0 once the inode object on all replicas says so, or a negative errno. `durable`: also after power loss,
   * which a removal of the object must wait for: an entry that came back would name what is gone.
   */
  set(index: number, vid: number, durable: boolean, done: Completion): void {
    this.queue.push({ index, vid, durable, done })
    if (this.pending === 0) this.write()
  }

  private write(): void {
    if (this.queue.length === 0) return
    const changes = this.queue
    this.queue = []
    changes.sort((a, b) => a.index - b.index)
    this.writing = changes
    this.result = 0
    const runs: Change[][] = []
    for (const change of changes) {
      const run = runs[runs.length - 1]
      if (run !== undefined && change.index === run[run.length - 1].index + 1) run.push(change)
      else runs.push([change])
    }
    this.pending = runs.length
    this.dirty = true
    for (const run of runs) {
      const bytes = Buffer.allocUnsafe(run.length * 4)
      run.forEach((change, i) => {
        bytes.writeUInt32LE(change.vid, i * 4)
      })
      const position = INDEX_OFFSET + run[0].index * 4
      const flags = run.some((change) => change.durable) ? FLAG_FUA : 0
      const done: Completion = { complete: (result) => this.written(result) }
      this.router.submit(WRITE, inodeOid(this.vid), this.copies, bytes, 0, bytes.length, position, flags, false, done)
    }
  }

  private written(result: number): void {
    if (result < 0) this.result = result
    if (--this.pending > 0) return
    const changes = this.writing
    this.writing = []
    this.dirty = true
    if (this.result >= 0) for (const change of changes) this.entries[change.index] = change.vid
    const outcome = Math.min(this.result, 0)
    for (const change of changes) change.done.complete(outcome)
    if (this.pending === 0) this.write()
  }
}
