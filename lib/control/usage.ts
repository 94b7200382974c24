/** How much space each VDI takes: counted from its index, which is what its own objects are named in. */
import type { ClusterView } from '../cluster/types.js'
import { SheepError } from '../errors.js'
import type { Clock } from '../host/interfaces.js'
import { entriesFor } from '../vdi/inode.js'
import { readIndex, spread } from '../vdi/inode-io.js'
import type { ObjectIo } from '../vdi/object-io.js'
import type { VdiEntry } from '../vdi/types.js'
import type { VdiUsage } from './services.js'

/** A list is not kept waiting for longer by inodes that cannot be read now. */
export const USAGE_MS_MAX = 5_000
const READS_AT_ONCE = 16
const REMEMBERED_MAX = 50_000

export interface UsageParts {
  /** Reads wait while objects are out of reach */
  io: ObjectIo
  clock: Clock
  cluster: Pick<ClusterView, 'status'>
}

export class UsageReader {
  /** By vid: a snapshot's index is final. vids are used again after a delete, so the time tells one from another. */
  private readonly snapshots = new Map<number, { snapshotTime: number; usage: VdiUsage }>()
  /** Under way, by vid: who asks meanwhile shares it, so that lists asked for again and again do not pile up reads. */
  private readonly reading = new Map<number, Promise<VdiUsage>>()

  constructor(private readonly parts: UsageParts) {}

  /** In the entries' order; null where it is not known in time. */
  usage(entries: readonly VdiEntry[]): Promise<(VdiUsage | null)[]> {
    const known: (VdiUsage | null)[] = entries.map((entry) => this.remembered(entry))
    if (this.parts.cluster.status !== 'running' || !known.includes(null)) return Promise.resolve(known)
    return new Promise((resolve, reject) => {
      const timer = this.parts.clock.after(USAGE_MS_MAX, () => resolve([...known]))
      const missing = entries.flatMap((entry, i) => (known[i] === null ? [{ entry, i }] : []))
      spread(missing.length, READS_AT_ONCE, async (at) => {
        const { entry, i } = missing[at]
        known[i] = await this.read(entry).catch(unknown)
      }).then(() => {
        timer.cancel()
        resolve(known)
      }, reject)
    })
  }

  private remembered({ vid, snapshotTime }: VdiEntry): VdiUsage | null {
    const known = this.snapshots.get(vid)
    return known !== undefined && known.snapshotTime === snapshotTime ? known.usage : null
  }

  private remember(vid: number, snapshotTime: number, usage: VdiUsage): void {
    if (this.snapshots.size >= REMEMBERED_MAX) this.snapshots.clear()
    this.snapshots.set(vid, { snapshotTime, usage })
  }

  private read(entry: VdiEntry): Promise<VdiUsage> {
    const { vid, snapshotTime } = entry
    const under = this.reading.get(vid)
    if (under !== undefined) return under
    const reading = this.count(entry)
      .then((usage) => {
        if (snapshotTime !== 0) this.remember(vid, snapshotTime, usage)
        return usage
      })
      .finally(() => this.reading.delete(vid))
    this.reading.set(vid, reading)
    return reading
  }

  private async count({ vid, size, blockSizeShift }: VdiEntry): Promise<VdiUsage> {
    const index = await readIndex(this.parts.io, vid, 0, entriesFor(size, blockSizeShift))
    let own = 0
    let inherited = 0
    for (const owner of index) {
      if (owner === vid) own++
      else if (owner !== 0) inherited++
    }
    const objectSize = 2 ** blockSizeShift
    return { used: own * objectSize, shared: inherited * objectSize }
  }
}

/** An inode that is out of reach, or was deleted while we read, has no figures; anything else is a bug. */
function unknown(error: unknown): null {
  if (!(error instanceof SheepError)) throw error
  return null
}
