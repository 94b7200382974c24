/**
 * Flushes of one volume: to each node that took a write since the last flush began. Flushes asked for while one runs
 * share the next.
 *
 * A node that leaves takes nothing with it as long as another one that did the same write stays, or that took the object since: that
 * one is asked, and whoever takes an object has it on disk. When all of them have left, the flush waits until the object is there
 * again, on disk: else it would promise what nobody has. And when all of them have lost what was not on their disks before one that has
 * kept it was back, what was acknowledged may be gone: that flush fails, and so does every later one, until the volume is opened anew.
 */
import type { Clock, Completion } from '../host/interfaces.js'
import { mutations } from '../mutations.js'
import { FLAG_FUA } from '../protocol/header.js'
import { EIO, LOST, NO_OBJECT, WRITE } from '../replication/request.js'
import { inodeOid, type Oid, vidOf } from '../vdi/oid.js'
import type { IndexTable } from './index-table.js'
import type { VolumeRouter } from './volume-router.js'

export interface FlusherOptions {
  self: string
  router: VolumeRouter
  clock: Clock
  storeNodes: () => readonly string[]
  replicasOf: (oid: Oid) => readonly string[]
  /** Of those, the ones that have what was written: a change may have gone by the others */
  holdersOf: (oid: Oid) => readonly string[]
  /** Its replicas of the former epoch that had all of their share by its end, on disk */
  tookAll: (oid: Oid) => readonly string[]
  /** It was none of its replicas in the former epoch, and all nodes had all of their share by its end: it may have dropped its copy */
  mayHaveDropped: (oid: Oid, node: string) => boolean
  copiesOf: (vid: number) => number
  /** null: the node is not here */
  standingOf: (node: string) => Standing | null
  /** This epoch began because an administrator gave up what was written to it and is away */
  givenUp: (oid: Oid) => boolean
  /** Completed writes of this object may be gone: flushes fail from now on. Called once */
  lost: (oid: Oid) => void
}

/** What changes when a node may have lost what was not on its disks (architecture.md, "Flush"). */
export interface Standing {
  boot: string
  /** The last epoch that began because a disk had gone, also before the node joined; 0 none */
  lost: number
  /** The last epoch that began because a disk had come; 0 none since the node joined */
  plugged: number
}

/**
 * One who had what was written, and its standing then. `doubtful`: it has lost a disk since, with or without that; `departed`: it left
 * while others stayed, so it is not waited for, and what those have counts
 */
interface Holder extends Standing {
  doubtful: boolean
  departed: boolean
}

type Holders = Map<string, Holder>

/** Who is here and has a write that no flush covers, and who had it and left */
interface Covered {
  here: readonly string[]
  departed: Holders | null
}

export class Flusher {
  /** Clock.now() when the last successful flush began: what completed before it is durable */
  flushedThrough = 0
  /** Nodes with completed writes that no flush covers; null: any of them may have some */
  private dirtyNodes: Set<string> | null = null
  /** Objects that were touched in this epoch, and in no flush since */
  private readonly marked = new Set<Oid>()
  /** Objects with completed writes that no flush covers -> those who did the last one, and so have all, and are still here */
  private unflushed = new Map<Oid, Covered>()
  /** The same, of the flush that runs */
  private covering = new Map<Oid, Covered>()
  /** Of those, the ones that nobody is left of -> who had them */
  private readonly orphans = new Map<Oid, Holders>()
  private securing = new Map<Oid, Holders>()
  /** Of this epoch's nodes */
  private standings: ReadonlyMap<string, Standing>
  private hasLost = false
  private waiting: Completion[] = []
  private running: Completion[] = []
  private pending = 0
  private result = 0
  private startedAt = 0
  /** As the last one who asked knew it: a snapshot gives the volume a new one */
  private vid = 0

  constructor(private readonly options: FlusherOptions) {
    this.standings = this.standingsNow()
  }

  /** A write of this object completed on its replicas. */
  touched(oid: Oid): void {
    if (this.marked.has(oid)) return
    this.marked.add(oid)
    const { replicasOf, holdersOf } = this.options
    this.unflushed.set(oid, { here: holdersOf(oid), departed: null })
    // Also whom something else went by: its copy may be right since, and have this one.
    if (this.dirtyNodes !== null) for (const node of replicasOf(oid)) this.dirtyNodes.add(node)
  }

  /** The object is removed. */
  forgotten(oid: Oid): void {
    this.marked.delete(oid)
    this.unflushed.delete(oid)
    this.covering.delete(oid)
    this.orphans.delete(oid)
    this.securing.delete(oid)
  }

  /** Writes in flight go to other nodes now: the next flush asks all. `stayed`: the node was here all the time, with
   *  all its disks. */
  epochChanged(stayed: (node: string) => boolean): void {
    this.dirtyNodes = null
    this.marked.clear()
    const former = this.standings
    this.standings = this.standingsNow()
    for (const objects of [this.unflushed, this.covering]) {
      for (const [oid, covered] of objects) {
        const { here, departed } = this.after(oid, covered, former, stayed)
        if (here.length > 0) {
          objects.set(oid, { here, departed })
        } else {
          objects.delete(oid)
          this.orphans.set(oid, departed ?? new Map())
        }
      }
    }
    for (const objects of [this.orphans, this.securing]) {
      for (const [oid, holders] of objects) if (this.isGone(holders) || this.options.givenUp(oid)) this.lose(oid)
    }
  }

  /** With nobody here, those who were here to the end are departed no more, but waited for. */
  private after(
    oid: Oid,
    covered: Covered,
    former: ReadonlyMap<string, Standing>,
    stayed: (node: string) => boolean,
  ): Covered {
    const { tookAll, mayHaveDropped, replicasOf } = this.options
    const had = [...new Set([...covered.here, ...tookAll(oid)])].filter((node) => !mayHaveDropped(oid, node))
    const stay = had.filter(stayed)
    // Who is a replica no more has it for those that are. Should these lose it with their power, they are believed all the same.
    const serving = stay.filter((node) => replicasOf(oid).includes(node))
    const here = serving.length > 0 ? serving : stay
    const leaving = here.length === 0 ? had : had.filter((node) => !stayed(node))
    const departed: Holders = new Map(covered.departed)
    for (const node of had) departed.delete(node)
    for (const node of leaving) {
      const standing = former.get(node)
      if (standing !== undefined) departed.set(node, { ...standing, doubtful: false, departed: here.length > 0 })
    }
    return { here, departed: departed.size > 0 ? departed : null }
  }

  private standingsNow(): ReadonlyMap<string, Standing> {
    const { storeNodes, standingOf } = this.options
    const standings = new Map<string, Standing>()
    for (const node of storeNodes()) {
      const standing = standingOf(node)
      if (standing !== null) standings.set(node, standing)
    }
    return standings
  }

  /**
   * One of them is here and may have lost it, and none that has not: whoever is back first may be believed, and what it lacks be gone
   * for the others too. One that only started anew has lost nothing. Whether one that lost a disk still has it is known to the replicas,
   * until a disk comes to it, or it starts anew and names no loss or an older one; or until one is back that had left before and has lost
   * its power: when the disk went may not have been known then, and that one is asked first.
   */
  private isGone(holders: Holders): boolean {
    let gone = false
    let doubted = false
    let isFormerBack = false
    for (const [node, holder] of holders) {
      const now = this.standings.get(node)
      if (now === undefined) continue
      if (holder.departed) {
        isFormerBack ||= now.boot !== holder.boot
        continue
      }
      const hasLost = now.lost > holder.lost
      const isDoubtful = holder.doubtful || hasLost
      const returned = now.plugged > holder.plugged || now.lost < holder.lost
      if (now.boot !== holder.boot || (isDoubtful && returned)) gone = true
      else if (!isDoubtful) return false
      else if (hasLost) holders.set(node, { ...now, doubtful: true, departed: false })
      doubted ||= isDoubtful
    }
    return gone || (doubted && isFormerBack)
  }

  private lose(oid: Oid): void {
    // The gateway knows the index, and writes all of it again.
    if (this.hasLost || oid === inodeOid(vidOf(oid)) || mutations.believeFlush) return
    this.hasLost = true
    this.options.lost(oid)
  }

  /** Nobody is left of those who have what was written to it. */
  isOrphan(oid: Oid): boolean {
    return this.orphans.has(oid)
  }

  flush(vid: number, index: IndexTable, done: Completion): void {
    if (this.hasLost) {
      done.complete(EIO)
      return
    }
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
    this.covering = this.unflushed
    this.unflushed = new Map()
    const { changes } = index
    index.flushBegins()
    // One for this loop: flushes may end inline.
    this.pending = nodes.size + 1
    const done: Completion = {
      complete: (result) => {
        if (result < 0) this.result = result
        if (--this.pending === 0) this.flushed(index, changes)
      },
    }
    for (const node of nodes) router.flush(node, inodeOid(vid), done)
    done.complete(0)
  }

  private flushed(index: IndexTable, changes: number): void {
    if (this.hasLost) this.result = EIO
    if (this.result >= 0 && this.orphans.size > 0) {
      this.secure(index, changes)
      return
    }
    if (this.result < 0) {
      this.dirtyNodes = null
      for (const [oid, covered] of this.covering) if (!this.unflushed.has(oid)) this.unflushed.set(oid, covered)
    } else {
      this.flushedThrough = this.startedAt
      index.durable = changes
    }
    index.flushEnded(this.result >= 0)
    this.covering = new Map()
    this.finish(index)
  }

  /** Writes nothing to these objects, durably: that ends when all their replicas have what is valid, on disk. */
  private secure(index: IndexTable, changes: number): void {
    const { router, copiesOf } = this.options
    this.securing = new Map(this.orphans)
    this.orphans.clear()
    this.pending = this.securing.size
    for (const [oid, holders] of [...this.securing]) {
      const done: Completion = {
        complete: (result) => {
          if (this.securing.delete(oid)) {
            if (result < 0) {
              this.orphans.set(oid, holders)
              this.result = result === NO_OBJECT || result === LOST ? EIO : result
            }
          }
          if (--this.pending === 0) this.flushed(index, changes)
        },
      }
      if (oid === inodeOid(index.vid)) index.rewrite(done)
      else router.submit(WRITE, oid, copiesOf(vidOf(oid)), EMPTY, 0, 0, 0, FLAG_FUA, true, done)
    }
  }

  private finish(index: IndexTable): void {
    const ended = this.running
    this.running = []
    const result = Math.min(this.result, 0)
    for (const done of ended) done.complete(result)
    if (this.pending === 0 && this.waiting.length > 0) this.start(index)
  }
}

const EMPTY = new Uint8Array(0)
