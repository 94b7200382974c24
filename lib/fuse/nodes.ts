/**
 * Files and what they are called. A node id is computed from what stays: of a snapshot its vid, of a volume the vid that it began with,
 * which snapshots of it leave behind and which stays taken while it lives. So ids mean the same to every process and on every host.
 */
import { SheepError } from '../errors.js'
import { parseReference } from '../vdi/name.js'
import type { Registry } from '../vdi/registry.js'
import { referenceOf } from '../vdi/registry.js'
import type { VdiEntry } from '../vdi/types.js'
import { EINVAL, ENAMETOOLONG, ENOENT, NAME_BYTES_MAX } from './protocol.js'
import { FuseError } from './session.js'

const VIDS = 0x1000000

export function nodeOf(entry: VdiEntry): number {
  return entry.snapshotTime !== 0 ? VIDS + entry.vid : 2 * VIDS + (entry.origin ?? entry.vid)
}

/** A vid is given again in a later epoch only: with it, a node id names one file for ever. */
export function generationOf(registry: Registry, entry: VdiEntry): number {
  return registry.get(nodeOf(entry) % VIDS)?.epoch ?? entry.epoch
}

/** The name to be created or found. FuseError EINVAL, ENAMETOOLONG: nothing can be called so. */
export function parseName(name: string): { name: string; snapshot: string } {
  if (Buffer.byteLength(name) > NAME_BYTES_MAX) throw new FuseError(ENAMETOOLONG)
  try {
    return parseReference(name)
  } catch (error) {
    if (error instanceof SheepError) throw new FuseError(EINVAL)
    throw error
  }
}

export class Nodes {
  /** Volume's origin -> vid that it has now, as far as known */
  private readonly working = new Map<number, number>()

  constructor(private readonly registry: () => Registry) {}

  /** undefined: there is none. FuseError ENAMETOOLONG */
  find(text: string): VdiEntry | undefined {
    try {
      const { name, snapshot } = parseName(text)
      return this.registry().find(name, snapshot)
    } catch (error) {
      if (error instanceof FuseError && error.errno === ENAMETOOLONG) throw error
      if (error instanceof FuseError || error instanceof SheepError) return undefined
      throw error
    }
  }

  /** FuseError ENOENT: it has been deleted. */
  entry(node: number): VdiEntry {
    const vid = node % VIDS
    const registry = this.registry()
    if (node < 2 * VIDS) {
      const entry = registry.get(vid)
      if (entry?.state === 'live' && entry.snapshotTime !== 0 && nodeOf(entry) === node) return entry
      throw new FuseError(ENOENT)
    }
    const known = registry.get(this.working.get(vid) ?? vid)
    if (known !== undefined && isWorking(known, vid)) return known
    for (const entry of registry.all()) {
      if (!isWorking(entry, vid)) continue
      this.working.set(vid, entry.vid)
      return entry
    }
    this.working.delete(vid)
    throw new FuseError(ENOENT)
  }

  /** By name; a name that no program could open is left out. */
  list(): { name: Buffer; entry: VdiEntry }[] {
    return this.registry()
      .live()
      .map((entry) => ({ name: Buffer.from(referenceOf(entry)), entry }))
      .filter(({ name }) => name.length <= NAME_BYTES_MAX)
  }
}

function isWorking(entry: VdiEntry, origin: number): boolean {
  return entry.state === 'live' && entry.snapshotTime === 0 && (entry.origin ?? entry.vid) === origin
}
