/**
 * Gives back the objects that nothing reaches any more: when a VDI goes, when a working VDI overwrites or discards what it had inherited,
 * and when somebody finds an object and asks whether anything needs it. Who needs what is `tree.ts`; here are the order of steps and what may
 * happen in between.
 *
 * Deleting V, by the one node in charge of V (`creator` of a `deleting` entry):
 *   1. `deleting` is applied on every member.
 *   2. V's index is read; then the nearest live relatives', until nothing is left that one of them could need.
 *   3. Working relatives are flushed: what was read of them is durable from now on, so that no power loss brings back a reference.
 *   4. The objects are removed, then VM state and inode, then `delete-done`; all again when the epoch has changed meanwhile.
 * A crash anywhere: the next in charge starts at 1 again. V's inode goes after its objects, so the same plan is made again, or a smaller
 * one; removing what is gone is no error.
 *
 * Against a gateway on another node, whose working VDI R stops referring to (w,i) meanwhile: it writes R's index, then looks at its
 * registry. Had it not applied V's `deleting` by then, its index write was complete before step 1 was, so step 2 reads it. Had
 * it, V does not count for it and it asks the others. Either way whoever is last sees that nobody is left; both may free, which is harmless.
 * Two working VDIs that stop referring at once: each writes its own index before it reads the other's, so one of them sees both.
 *
 * Against reuse of the vid: V's vid is free after `delete-done`, which only the node in charge can propose, after its last removal ended. A node
 * that was dropped from the cluster is no longer in charge; ObjectIo refuses, and does not send again, what it had in flight.
 */

import { asSheepError, SheepError } from '../errors.js'
import type { Log } from '../host/interfaces.js'
import { SHRINK_SESSION } from './command.js'
import { decodeHeader, entriesFor, INDEX_OFFSET } from './inode.js'
import { readIndex, spread } from './inode-io.js'
import { inOneEpoch, type ObjectIo } from './object-io.js'
import { indexOf, inodeOid, KIND_DATA, kindOf, type Oid, vidOf, vmStateOid } from './oid.js'
import type { Registry } from './registry.js'
import { FreePlan, nearestLive, nearestLiveBelow, rangeOf, referencesOf } from './tree.js'
import type { VdiCommand, VdiEntry, VdiLock } from './types.js'

/** Objects in one ObjectIo.remove. */
export const REMOVE_BATCH = 1024

/** Where the index cannot be read as a whole, so many entries are read at once: 512 bytes. */
const PART_ENTRIES = 128

/** Inodes flushed at once. */
const FLUSHES_AT_ONCE = 8

/** Bytes given back so far, and in all. */
export type Progress = (done: number, total: number) => void

export interface ReclaimParts {
  self: () => string
  registry: () => Registry
  io: ObjectIo
  log: Log
  propose: (command: VdiCommand) => Promise<unknown>
  /** Those who have VDIs open for writing */
  writers: { referred(lock: VdiLock, indexes: readonly number[]): Promise<ReadonlySet<number> | null> }
}

export class Reclaim {
  private readonly running = new Map<number, Promise<void>>()
  /** By vid: the batch of releases that has not begun, and the end of the last one that has a place */
  private readonly nextReleases = new Map<number, { references: Oid[]; answer: Promise<void> }>()
  private readonly lastReleases = new Map<number, Promise<void>>()

  constructor(private readonly parts: ReclaimParts) {}

  isFreeing(vid: number): boolean {
    return this.running.has(vid)
  }

  /** Frees everything of a VDI in `deleting` that this node is in charge of. Asked twice, it is done once. */
  free(vid: number, progress: Progress = () => {}): Promise<void> {
    let run = this.running.get(vid)
    if (run === undefined) {
      run = this.freeOnce(vid, progress).finally(() => this.running.delete(vid))
      this.running.set(vid, run)
    }
    return run
  }

  private async freeOnce(vid: number, progress: Progress): Promise<void> {
    const { io, registry } = this.parts
    const entry = this.inCharge(vid, null)
    const inode = await this.readOwn(entry)
    const plan = new FreePlan(registry(), vid, referencesOf(inode.index))
    await this.ask(vid, plan)
    const oids = plan.oids()
    for (let i = 0; i < inode.vmStateObjects; i++) oids.push(vmStateOid(vid, i))
    const total = oids.length * 2 ** entry.blockSizeShift
    for (let done = false; !done; ) {
      const { epoch } = io
      for (let at = 0; at < oids.length; at += REMOVE_BATCH) {
        this.inCharge(vid, entry)
        await io.remove(oids.slice(at, at + REMOVE_BATCH))
        progress(Math.min(at + REMOVE_BATCH, oids.length) * 2 ** entry.blockSizeShift, total)
      }
      this.inCharge(vid, entry)
      await io.remove([inodeOid(vid)])
      this.inCharge(vid, entry)
      // Else a node that has joined meanwhile may have copies, which it could not tell from what was written since.
      done = (await this.parts.propose({ op: 'delete-done', vid, epoch })) !== null
    }
  }

  /**
   * `references`: data objects that the index of the working VDI `vid`, open on this node, names no more (by copy-on-write or discard; the
   * index write is complete). Frees those that nothing else needs. Until it resolves no write of this VDI may create one of them anew.
   * Calls that come while one of this VDI runs are answered together.
   */
  release(vid: number, references: readonly Oid[]): Promise<void> {
    let batch = this.nextReleases.get(vid)
    if (batch !== undefined) {
      for (const oid of references) batch.references.push(oid)
      return batch.answer
    }
    const collected = references.slice()
    const answer = (this.lastReleases.get(vid) ?? Promise.resolve()).then(() => {
      this.nextReleases.delete(vid)
      return this.releaseNow(vid, collected)
    })
    batch = { references: collected, answer }
    this.nextReleases.set(vid, batch)
    // Those that wait hear of the failure; the next batch starts all the same
    const ended = answer
      .catch(() => {})
      .finally(() => {
        if (this.lastReleases.get(vid) === ended) this.lastReleases.delete(vid)
      })
    this.lastReleases.set(vid, ended)
    return answer
  }

  private async releaseNow(vid: number, references: readonly Oid[]): Promise<void> {
    const plan = new FreePlan(this.parts.registry(), vid, references)
    if (plan.settled && plan.free.length === 0) return
    // Else a power loss could bring the reference back, after the object has gone
    await inOneEpoch(this.parts.io, async () => {
      await this.mustNotName(vid, references)
      await this.parts.io.flush(vid)
    })
    await this.ask(vid, plan)
    const oids = plan.oids()
    for (let at = 0; at < oids.length; at += REMOVE_BATCH) {
      const lock = this.parts.registry().lockOf(vid)
      if (lock?.mode !== 'write' || lock.node !== this.parts.self()) {
        throw new SheepError('not-locked', `vid ${vid} is no longer open for writing here`)
      }
      await this.parts.io.remove(oids.slice(at, at + REMOVE_BATCH))
    }
  }

  /** Power may have taken an entry that its gateway has, and will write anew. SheepError busy. */
  private async mustNotName(vid: number, references: readonly Oid[]): Promise<void> {
    const { first, end } = rangeOf(references)
    const index = await readIndex(this.parts.io, vid, first, end)
    if (references.some((oid) => index[indexOf(oid) - first] === vidOf(oid))) {
      throw new SheepError('busy', `the index of vid ${vid}, as it is stored, names an object that is to be freed`)
    }
  }

  /** Strikes out of the plan what live relatives need; what is left is needed by none, durably. */
  private ask(vid: number, plan: FreePlan): Promise<void> {
    return inOneEpoch(this.parts.io, () => this.askRelatives(vid, plan))
  }

  private async askRelatives(vid: number, plan: FreePlan): Promise<void> {
    const { registry } = this.parts
    const working: number[] = []
    const asked = new Set<number>()
    let relatives = nearestLive(registry(), vid)
    for (let next = 0; next < relatives.length && !plan.settled; next++) {
      const relative = relatives[next]
      if (asked.has(relative.vid)) continue
      const index = await this.indexOfLive(relative, plan.range)
      if (index === null) {
        // It went meanwhile: whom does it leave as the nearest?
        relatives = nearestLive(registry(), vid)
        next = -1
        continue
      }
      asked.add(relative.vid)
      plan.strike(index.entries, index.first)
      if (relative.snapshotTime === 0) working.push(relative.vid)
    }
    if (!plan.settled) await this.flush(working)
  }

  private flush(vids: readonly number[]): Promise<void> {
    return spread(vids.length, FLUSHES_AT_ONCE, (i) => this.parts.io.flush(vids[i]))
  }

  /**
   * Entries of a live VDI that lie in a range; null when it has ceased to be live. One whose inode was given up can only be deleted: it
   * refers to nothing, unless a gateway has it open, which writes the index anew.
   */
  private async indexOfLive(
    entry: VdiEntry,
    range: { first: number; end: number },
  ): Promise<{ first: number; entries: Uint32Array } | null> {
    const { io, registry } = this.parts
    const end = Math.min(range.end, entriesFor(entry.size, entry.blockSizeShift))
    const first = Math.min(range.first, end)
    try {
      return { first, entries: await readIndex(io, entry.vid, first, end) }
    } catch (error) {
      if (asSheepError(error).code !== 'no-object') throw error
      const now = registry().get(entry.vid)
      if (now?.state !== 'live') return null
      if (now.givenUp !== true || registry().lockOf(entry.vid)?.mode === 'write') throw error
      return { first, entries: new Uint32Array(end - first) }
    }
  }

  /**
   * What a VDI that goes refers to. A missing inode: nothing, it was removed before or never written. What cannot be read of it nobody
   * will free; when that is all of it, it is away: SheepError io.
   */
  private async readOwn(entry: VdiEntry): Promise<{ index: Uint32Array; vmStateObjects: number }> {
    const { io, log } = this.parts
    let bytes: Buffer
    try {
      bytes = await io.read(inodeOid(entry.vid), 0, INDEX_OFFSET)
    } catch (error) {
      const { code } = asSheepError(error)
      if (code === 'no-object') return { index: new Uint32Array(0), vmStateObjects: 0 }
      if (code !== 'io') throw error
      bytes = Buffer.alloc(0)
    }
    const index = await readParts(io, entry, log)
    try {
      const header = decodeHeader(bytes)
      return { index, vmStateObjects: entriesFor(header.vmStateSize, header.blockSizeShift) }
    } catch (error) {
      // One that was given up before its inode was whole has no VM state; a damaged one leaves it to `dog cluster check`
      log('warning', 'inode header of a VDI being deleted cannot be read', {
        vid: entry.vid,
        error: asSheepError(error).message,
      })
      return { index, vmStateObjects: 0 }
    }
  }

  /** The entry, if it is (still: the same as `former`) this node's to free. SheepError busy. */
  private inCharge(vid: number, former: VdiEntry | null): VdiEntry {
    const entry = this.parts.registry().get(vid)
    if (
      entry?.state !== 'deleting' ||
      entry.creator !== this.parts.self() ||
      (former !== null && entry.createTime !== former.createTime)
    ) {
      throw new SheepError('busy', `vid ${vid} is not this node's to free: another took it over`)
    }
    return entry
  }

  /**
   * Of these objects, those that something reaches or may be about to reach; the others are garbage at this moment. An object of a VDI
   * that is being created or freed counts as reached: its node is at work. Of one that is open for writing its gateway says what it
   * refers to; SheepError busy when it cannot be asked now, or while what the index does not name may be in the making (shrinking).
   * What is garbage now stays so, whatever loses its power.
   * Before removing a copy the caller checks, without waiting in between, that it was not written since it asked.
   */
  async reachable(oids: Iterable<Oid>): Promise<Set<Oid>> {
    const reached = new Set<Oid>()
    const byOwner = new Map<number, Oid[]>()
    for (const oid of oids) {
      const entry = this.parts.registry().get(vidOf(oid))
      if (entry === undefined) continue
      if (kindOf(oid) !== KIND_DATA) {
        if (entry.state !== 'deleted') reached.add(oid)
        continue
      }
      const group = byOwner.get(entry.vid)
      if (group === undefined) byOwner.set(entry.vid, [oid])
      else group.push(oid)
    }
    for (const [owner, group] of byOwner) {
      for (const oid of await this.reachedOf(owner, group)) reached.add(oid)
    }
    return reached
  }

  /** Of these objects of a VDI that is open for writing, those that its stored index names. One that was given up: none, it is written anew. */
  private async storedIn(entry: VdiEntry, oids: readonly Oid[]): Promise<ReadonlySet<Oid>> {
    const range = rangeOf(oids)
    const end = Math.min(range.end, entriesFor(entry.size, entry.blockSizeShift))
    const first = Math.min(range.first, end)
    try {
      const index = await readIndex(this.parts.io, entry.vid, first, end)
      return new Set(oids.filter((oid) => index[indexOf(oid) - first] === entry.vid))
    } catch (error) {
      const givenUp = this.parts.registry().get(entry.vid)?.givenUp === true
      if (asSheepError(error).code !== 'no-object' || !givenUp) throw error
      return new Set()
    }
  }

  private async reachedOf(owner: number, oids: readonly Oid[]): Promise<readonly Oid[]> {
    const { registry, io } = this.parts
    const reached: Oid[] = []
    let rest = oids
    let again = true
    while (again) {
      again = false
      // As of inOneEpoch()
      const { epoch } = io
      const entry = registry().get(owner)
      if (entry === undefined) return reached
      if (entry.state === 'creating' || entry.state === 'deleting') return oids
      const lock = registry().lockOf(owner)
      const shrinking = lock?.session.startsWith(SHRINK_SESSION) === true
      if (lock?.mode === 'write' && !shrinking) {
        const referred = await this.parts.writers.referred(lock, rest.map(indexOf))
        again = registry().lockOf(owner) !== lock
        if (again) continue
        if (referred === null)
          throw new SheepError('busy', `vid ${owner} is open, and its gateway does not say what it refers to`)
        const unnamed = rest.filter((oid) => !referred.has(indexOf(oid)))
        if (unnamed.length === 0) return oids
        // An entry may have been cleared without an answer, and so not durably; or the power has taken that since, and
        // the next gateway will find what is stored.
        const stored = await this.storedIn(entry, unnamed)
        await this.flush([owner])
        again = io.epoch !== epoch
        if (again) continue
        const garbage = new Set(unnamed.filter((oid) => !stored.has(oid)))
        return oids.filter((oid) => !garbage.has(oid))
      }
      const referrers = entry.state === 'live' ? [entry] : nearestLiveBelow(registry(), owner)
      for (const referrer of referrers) {
        if (rest.length === 0) break
        const index = await this.indexOfLive(referrer, rangeOf(rest))
        if (index === null) {
          again = true
          break
        }
        const missed: Oid[] = []
        for (const oid of rest) (index.entries[indexOf(oid) - index.first] === owner ? reached : missed).push(oid)
        rest = missed
      }
      if (shrinking && rest.length > 0) throw new SheepError('busy', `vid ${owner} is being shrunk`)
      // What one of them has just ceased to refer to no power loss may bring back.
      if (rest.length > 0 && !again) {
        await this.flush(referrers.filter(({ snapshotTime }) => snapshotTime === 0).map(({ vid }) => vid))
      }
      // Somebody opened it while its index was read
      again ||= rest.length > 0 && (io.epoch !== epoch || registry().lockOf(owner)?.mode === 'write')
    }
    return reached
  }
}

/**
 * The index of a VDI that is deleted, zeros where the disk cannot read it. What is its own goes with the vid; what only that part of the
 * index had of an ancestor stays until that goes. SheepError io: nothing of the inode can be read.
 */
async function readParts(io: ObjectIo, entry: VdiEntry, log: Log): Promise<Uint32Array> {
  const count = entriesFor(entry.size, entry.blockSizeShift)
  let failure: unknown
  try {
    return await readIndex(io, entry.vid, 0, count)
  } catch (error) {
    if (asSheepError(error).code !== 'io') throw error
    failure = error
  }
  const index = new Uint32Array(count)
  let unread = 0
  for (let at = 0; at < count; at += PART_ENTRIES) {
    const end = Math.min(at + PART_ENTRIES, count)
    try {
      index.set(await readIndex(io, entry.vid, at, end), at)
    } catch (error) {
      if (asSheepError(error).code !== 'io') throw error
      unread += end - at
    }
  }
  if (unread === count && !(await isReadable(io, entry.vid))) throw failure
  log('warning', `${unread} entries of the index of a VDI being deleted cannot be read`, { vid: entry.vid })
  return index
}

async function isReadable(io: ObjectIo, vid: number): Promise<boolean> {
  try {
    await io.read(inodeOid(vid), 0, PART_ENTRIES * 4)
    return true
  } catch (error) {
    if (asSheepError(error).code !== 'io') throw error
    return false
  }
}
