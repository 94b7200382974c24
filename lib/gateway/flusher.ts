/**
 * Flushes of one volume: to each node that took a write since the last flush began. Flushes asked for while one runs
 * share the next.
 */
import type { Clock, Completion } from '../host/interfaces.js'
import { mutations } from '../mutations.js'
import { dataOid, inodeOid, type Oid } from '../vdi/oid.js'
import type { IndexTable } from './index-table.js'
import type { VolumeRouter } from './volume-router.js'

export interface FlusherOptions {
  self: string
  router: VolumeRouter
  clock: Clock
  storeNodes: () => readonly string[]
  replicasOf: (oid: Oid) => readonly string[]
}

export class Flusher {
  /** Clock.now() when the last successful flush began: what completed before it is durable */
  flushedThrough = 0
  /** Nodes with completed writes that no flush covers; null: any of them may have some */
  private dirtyNodes: Set<string> | null = null
  /** Objects whose replicas are in dirtyNodes already */
  private readonly marked = new Set<number>()
  private waiting: Completion[] = []
  private running: Completion[] = []
  private pending = 0
  private result = 0
  private startedAt = 0
  /** As the last one who asked knew it: a snapshot gives the volume a new one */
  private vid = 0

  constructor(private readonly options: FlusherOptions) {}

  /** A write of this object completed on its replicas. */
  touched(index: number, vid: number): void {
    if (this.dirtyNodes === null || this.marked.has(index)) return
    this.marked.add(index)
    for (const node of this.options.replicasOf(dataOid(vid, index))) this.dirtyNodes.add(node)
  }

  /** Writes in flight go to other nodes now: the next flush asks all. */
  epochChanged(): void {
    this.dirtyNodes = null
    this.marked.clear()
  }

  flush(vid: number, index: IndexTable, done: Completion): void {
    this.vid = vid
    this.waiting.push(done)
    if (this.pending === 0) this.start(index)
  }

  private start(index: IndexTable): void {
    const { router, clock, storeNodes, replicasOf, self } = this.options
    const { vid } = this
    this.running = this.waiting
    this.waiting = []
    this.result = 0
    this.startedAt = clock.now()
    let nodes: Set<string>
    if (this.dirtyNodes === null) nodes = new Set(storeNodes())
    else {
      nodes = this.dirtyNodes
      if (index.dirty) for (const node of replicasOf(inodeOid(vid))) nodes.add(node)
    }
    if (mutations.flushLocalOnly) nodes = new Set([...nodes].filter((node) => node === self))
    this.dirtyNodes = new Set()
    this.marked.clear()
    const { changes } = index
    this.pending = nodes.size
    const done: Completion = {
      complete: (result) => {
        if (result < 0) this.result = result
        if (--this.pending > 0) return
        if (this.result < 0) {
          this.dirtyNodes = null
          this.marked.clear()
        } else {
          this.flushedThrough = this.startedAt
          index.durable = changes
        }
        this.finish(index)
      },
    }
    if (nodes.size === 0) {
      this.flushedThrough = this.startedAt
      this.finish(index)
      return
    }
    for (const node of nodes) router.flush(node, inodeOid(vid), done)
  }

  private finish(index: IndexTable): void {
    const ended = this.running
    this.running = []
    const result = Math.min(this.result, 0)
    for (const done of ended) done.complete(result)
    if (this.pending === 0 && this.waiting.length > 0) this.start(index)
  }
}
