/** One disk of a node, and what is told of it. */
import type { AttachedDisk } from './node-disks.js'
import type { FileStore } from './object-store.js'

export type DiskState = 'working' | 'full' | 'failed' | 'missing' | 'unplugged'

export interface DiskReport {
  /** 16 hex digits; '' unknown: it cannot be read */
  id: string
  path: string
  total: number
  free: number
  used: number
  objects: number
  /** full: new objects go elsewhere, or are refused. The last three hold nothing of this node any more */
  state: DiskState
  /** Why it is not working; '' */
  reason: string
}

export interface Place {
  readonly id: string
  readonly attached: AttachedDisk
  /** null: lost */
  store: FileStore | null
  /** In the state's list, or about to be (joinedEpoch Infinity) */
  state: DiskState
  reason: string
  /** Bytes free that were passed by for others' sake: the highest has the next turn */
  turn: number
}

/** Of a disk that holds nothing of this node */
export const NOTHING = { total: 0, free: 0, used: 0, objects: 0 }

/** A former disk is until its place is taken. */
export function ofInterest(places: readonly Place[]): Place[] {
  const ids = new Map(places.map((place) => [place.id, place]))
  const inUse = new Set(places.filter(({ store }) => store !== null).map(({ attached }) => attached.path))
  return [...ids.values()].filter(({ store, attached }) => store !== null || !inUse.has(attached.path))
}

export function reportOf({ id, attached: { path }, store, state, reason }: Place): DiskReport {
  if (store === null) return { ...NOTHING, id, path, state, reason }
  const { total, free } = store.gauge.estimate()
  const full = free < store.gauge.reserve
  const known = { id, path, total, free, used: total - free, objects: store.count }
  if (!full) return { ...known, state: 'working', reason: '' }
  return { ...known, state: 'full', reason: 'what is left is held in reserve, so new objects go elsewhere' }
}
