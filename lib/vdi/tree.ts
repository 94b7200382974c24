/**
 * Who still needs an object: pure questions about the tree of snapshots and clones.
 *
 * An index entry is inherited from the parent when a child is made, and replaced or dropped for good by the VDI that writes there. Only a
 * working VDI's index changes, and a working VDI has no live children. So the VDIs that refer, or when deleted last referred, to
 * an object (w,i) form a connected subtree with w as its root. Hence for a VDI V that refers to (w,i) and goes, or stops referring:
 *
 * - some other live VDI refers to it iff one of V's *nearest live relatives* does: those that are reached from V, up and down,
 *   through VDIs that are not live;
 * - when a live VDI lies on the way from V's parent up to w, it does, and nothing need be read.
 *
 * An object whose owner is live is the owner's to free. (A snapshot that was given up half-way leaves a `deleting` child of a
 * working VDI, which may free and write the same object anew at any moment.) An index that names a vid which is neither V nor an ancestor of V
 * was written by a broken or hostile client: nothing is freed on its word.
 */
import { assert } from '../assert.js'
import { dataOid, indexOf, type Oid, vidOf } from './oid.js'
import type { VdiEntry } from './types.js'

/** What these functions ask of the registry. */
export interface VdiTree {
  get(vid: number): VdiEntry | undefined
  /** Direct descendants in any state */
  children(vid: number): readonly number[]
}

/** Live VDIs nearest to `vid`, the one above first. `vid` itself may be in any state and is not among them. */
export function nearestLive(tree: VdiTree, vid: number): VdiEntry[] {
  return walk(tree, vid, true)
}

/** Live VDIs nearest below `vid`. */
export function nearestLiveBelow(tree: VdiTree, vid: number): VdiEntry[] {
  return walk(tree, vid, false)
}

function walk(tree: VdiTree, start: number, upToo: boolean): VdiEntry[] {
  const found: VdiEntry[] = []
  const seen = new Set([start])
  const queue: { vid: number; down: boolean }[] = [{ vid: start, down: !upToo }]
  for (const { vid, down } of queue) {
    const neighbours = [...tree.children(vid)]
    const parent = tree.get(vid)?.parent ?? 0
    if (!down && parent !== 0) neighbours.unshift(parent)
    for (const next of neighbours) {
      if (seen.has(next)) continue
      seen.add(next)
      const entry = tree.get(next)
      assert(entry !== undefined, `relative ${next} of vid ${vid} has an entry`)
      // A pending child holds a copy of its live parent's index, so that parent answers for it
      if (entry.state === 'creating') continue
      if (entry.state === 'live') found.push(entry)
      else queue.push({ vid: next, down: next !== parent })
    }
  }
  return found
}

/** keep: something else needs it, or it is not ours to judge. free: nothing does. ask: look into the nearest live relatives. */
export type Fate = 'keep' | 'free' | 'ask'

/**
 * What becomes of an object of `owner` when `vid`, a live working VDI or one that is `deleting`, refers to it no more.
 */
export function fateOf(tree: VdiTree, vid: number, owner: number): Fate {
  const entry = tree.get(vid)
  if (entry === undefined) return 'keep'
  const working = entry.state === 'live' && entry.snapshotTime === 0
  if (!working && entry.state !== 'deleting') return 'keep'
  if (owner === vid) return working ? 'free' : 'ask'
  for (let up = tree.get(entry.parent); up !== undefined; up = tree.get(up.parent)) {
    if (up.state === 'live') return 'keep'
    if (up.vid === owner) return 'ask'
  }
  return 'keep'
}

/**
 * Objects that one VDI needs no more, on their way to be freed: those that any nearest live relative needs are struck out one relative
 * at a time, so that reading can stop when nothing is left.
 */
export class FreePlan {
  /** Objects that fateOf gave to free without asking */
  readonly free: Oid[] = []
  /** Objects that are freed if no relative strikes them out */
  private asked: Oid[] = []

  /** `references`: data objects that `vid` refers to no more, by owner and index. */
  constructor(tree: VdiTree, vid: number, references: Iterable<Oid>) {
    const fates = new Map<number, Fate>()
    for (const oid of references) {
      const owner = vidOf(oid)
      let fate = fates.get(owner)
      if (fate === undefined) {
        fate = fateOf(tree, vid, owner)
        fates.set(owner, fate)
      }
      if (fate === 'free') this.free.push(oid)
      else if (fate === 'ask') this.asked.push(oid)
    }
  }

  /** Nothing is left that a relative could strike out. */
  get settled(): boolean {
    return this.asked.length === 0
  }

  /** Index range [first, end) that relatives must be asked for. */
  get range(): { first: number; end: number } {
    return rangeOf(this.asked)
  }

  /** `index`: a live relative's entries from `first` on. */
  strike(index: Uint32Array, first: number): void {
    this.asked = this.asked.filter((oid) => index[indexOf(oid) - first] !== vidOf(oid))
  }

  /** Once every relative has been asked. */
  oids(): Oid[] {
    return this.free.concat(this.asked)
  }
}

/** Smallest index range [first, end) that covers the oids; empty for none. */
export function rangeOf(oids: readonly Oid[]): { first: number; end: number } {
  let first = Number.POSITIVE_INFINITY
  let end = 0
  for (const oid of oids) {
    const index = indexOf(oid)
    if (index < first) first = index
    if (index >= end) end = index + 1
  }
  return { first: Math.min(first, end), end }
}

/** The data objects that index entries refer to; `index[0]` is entry `first`. */
export function* referencesOf(index: Uint32Array, first = 0): Generator<Oid> {
  for (let i = 0; i < index.length; i++) if (index[i] !== 0) yield dataOid(index[i], first + i)
}

/** What a VDI descends from in people's eyes: the nearest live ancestor's vid; 0 none. */
export function liveParent(tree: VdiTree, vid: number): number {
  let up = tree.get(vid)?.parent ?? 0
  while (up !== 0 && tree.get(up)?.state !== 'live') up = tree.get(up)?.parent ?? 0
  return up
}
