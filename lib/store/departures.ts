/**
 * Disks that have left their node, and may come back: through which epoch each says what the node had (docs/architecture.md,
 * "Coming back"). Pure functions of the node's state.
 */
import type { DiskEntry, NodeState } from './identity.js'

/** A disk that left longer ago than so many others is as one of which nothing is known. */
const DEPARTURES_MAX = 64

export interface Departure {
  /** Of the disk */
  id: string
  epoch: number
}

/** When it leaves after `last`, an epoch. One whose objects nobody has compared with others' since it came back says no more than then. */
function keptWhenLeaving(
  { joined, kept = 0 }: Omit<DiskEntry, 'id' | 'path'>,
  recoveredEpoch: number,
  last: number,
): number {
  return recoveredEpoch < joined ? Math.min(kept, last) : last
}

/**
 * StoredObject.keptEpoch of a disk that is here. `isBack`: it was away, or the node may have gone on without it after `base`; it counts from
 * the next epoch on.
 */
export function keptBy(state: NodeState, id: string, isBack: boolean): number {
  const { departures = [], disks, recoveredEpoch, lostEpoch, base = 0 } = state
  const entry = disks.find((one) => one.id === id)
  if (!isBack) return entry?.kept ?? 0
  const departure = departures.find((one) => one.id === id)
  if (departure !== undefined) return departure.epoch
  // It was missing at the start, and no epoch has begun since.
  return entry === undefined ? 0 : keptWhenLeaving(entry, recoveredEpoch, Math.max(lostEpoch, base))
}

/** When the node goes on with `disks` only, and `lostEpoch`. */
export function departuresAfter(
  { departures = [], disks: former, recoveredEpoch, base = 0 }: NodeState,
  disks: readonly DiskEntry[],
  lostEpoch: number,
): Departure[] {
  const here = new Set(disks.map(({ id }) => id))
  const last = Math.max(lostEpoch, base)
  const leaving = former
    .filter(({ id }) => !here.has(id))
    .map((entry) => ({ id: entry.id, epoch: keptWhenLeaving(entry, recoveredEpoch, last) }))
  const left = departures.filter(({ id }) => !here.has(id) && !leaving.some((one) => one.id === id))
  return [...left, ...leaving].slice(-DEPARTURES_MAX)
}
