/** What the bus is told of the cluster: kept as it was told last, so that only differences are sent on. */
import type { ControlServices } from '../control/services.js'
import type { VdiEntry, VdiLock } from '../vdi/types.js'
import type { ClusterFacts, LockFacts, VolumeFacts } from './messages.js'

const NO_LOCKS: readonly LockFacts[] = []

export class Facts {
  private volumes = new Map<number, VolumeFacts>()

  constructor(private readonly services: ControlServices) {}

  cluster(): ClusterFacts {
    const { version, cluster } = this.services
    const { status, statusReason, self, config, epoch, recovered, recovery, onNoQuorum } = cluster
    return {
      ...{ version, status, reason: statusReason, self: self.id },
      clusterId: config?.clusterId ?? '',
      created: config?.formatTime ?? 0,
      copies: config?.copies ?? 0,
      objectSize: config === null ? 0 : 2 ** config.blockSizeShift,
      epoch: epoch?.number ?? 0,
      epochTime: epoch?.time ?? 0,
      nodes: epoch?.nodes ?? [self],
      recovered: epoch?.nodes.filter(({ id }) => (recovered.get(id) ?? 0) >= epoch.number).map(({ id }) => id) ?? [],
      ...{ recoveryHeld: recovery.held, recoveryLimit: recovery.limit, onNoQuorum },
    }
  }

  /** Since the last call. Looks at each volume and makes something only of those that differ: there may be thousands. */
  changes(): { changed: VolumeFacts[]; removed: number[] } {
    const locks = new Map<number, VdiLock[]>()
    for (const lock of this.services.vdis.locks()) {
      const list = locks.get(lock.vid)
      if (list === undefined) locks.set(lock.vid, [lock])
      else list.push(lock)
    }
    const changed: VolumeFacts[] = []
    const gone = new Set(this.volumes.keys())
    for (const entry of this.services.volumes.list()) {
      gone.delete(entry.vid)
      const own = locks.get(entry.vid) ?? NO_LOCKS
      const parent = entry.parent === 0 ? 0 : this.services.vdis.liveParent(entry.vid)
      const before = this.volumes.get(entry.vid)
      if (before !== undefined && unchanged(before, entry, parent, own)) continue
      const facts = factsOf(entry, parent, own)
      this.volumes.set(entry.vid, facts)
      changed.push(facts)
    }
    for (const vid of gone) this.volumes.delete(vid)
    return { changed, removed: [...gone] }
  }

  /** Everything is told anew. */
  reset(): void {
    this.volumes = new Map()
  }
}

function createdOf(entry: VdiEntry): number {
  return entry.snapshotTime || entry.createTime
}

function unchanged(before: VolumeFacts, entry: VdiEntry, parent: number, locks: readonly LockFacts[]): boolean {
  return (
    before.name === entry.name &&
    before.tag === entry.tag &&
    before.snapId === entry.snapId &&
    before.size === entry.size &&
    before.copies === entry.copies &&
    before.created === createdOf(entry) &&
    before.snapshot === (entry.snapshotTime !== 0) &&
    before.parent === parent &&
    before.onNoQuorum === (entry.onNoQuorum ?? null) &&
    before.locks.length === locks.length &&
    before.locks.every(({ node, session, mode }, i) => {
      const lock = locks[i]
      return node === lock.node && session === lock.session && mode === lock.mode
    })
  )
}

function factsOf(entry: VdiEntry, parent: number, locks: readonly LockFacts[]): VolumeFacts {
  const { vid, name, tag, snapId, size, copies, preallocated } = entry
  return {
    ...{ vid, name, tag, snapId, size, copies, preallocated, parent },
    objectSize: 2 ** entry.blockSizeShift,
    created: createdOf(entry),
    snapshot: entry.snapshotTime !== 0,
    onNoQuorum: entry.onNoQuorum ?? null,
    locks: locks.map(({ node, session, mode, holder, since }) => ({ node, session, mode, holder, since })),
  }
}
