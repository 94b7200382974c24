/**
 * Which nodes hold which object, now and in past epochs. A cache over the cluster's epoch history; pure but for the
 * cache. `copies` of an object comes from the registry entry of its vid.
 */
import { assert } from '../assert.js'
import type { EpochRecord, NodeInfo } from '../cluster/types.js'
import { Ring } from '../placement/ring.js'
import { type Oid, oidFromHex } from '../vdi/oid.js'

const CACHED_RINGS_MAX = 64

/** An administrator gave up what an object had lost. */
export interface Accepted {
  /** What was written before it, and is not here, nobody waits for */
  epoch: number
  /** What was written before it does not count */
  zeros: boolean
}

export class Topology {
  current: EpochRecord | null = null
  private history: readonly EpochRecord[] = []
  /** By epoch number. A node that came over to another line of history finds other records under its numbers. */
  private readonly rings = new Map<number, { record: EpochRecord; ring: Ring }>()

  private acceptances = new Map<Oid, Accepted>()

  constructor(readonly self: string) {}

  get epoch(): number {
    return this.current === null ? 0 : this.current.number
  }

  /** Number of the oldest epoch that is kept */
  get oldest(): number {
    return this.history[0]?.number ?? this.epoch
  }

  update(current: EpochRecord, history: readonly EpochRecord[]): void {
    this.current = current
    this.history = history
    this.acceptances = acceptedIn(history)
    while (this.rings.size > CACHED_RINGS_MAX) this.rings.delete(this.rings.keys().next().value as number)
  }

  /** Nodes that hold the object in the current epoch, in ring order. */
  replicas(oid: Oid, copies: number): readonly NodeInfo[] {
    assert(this.current !== null, 'placement is asked for only in an epoch')
    return this.ring(this.current).replicas(oid, copies)
  }

  holds(oid: Oid, copies: number, node = this.self): boolean {
    return this.replicas(oid, copies).some((candidate) => candidate.id === node)
  }

  /** null when that epoch is no longer in the history. */
  replicasIn(epoch: number, oid: Oid, copies: number): readonly NodeInfo[] | null {
    const record = this.record(epoch)
    return record === null ? null : this.ring(record).replicas(oid, copies)
  }

  /** Whether the node was in an epoch between `epoch` and the current one, up to `last`. */
  wentOn(id: string, epoch: number, last = this.epoch): boolean {
    return this.history.some(({ number, nodes }) => {
      return number > epoch && number < this.epoch && number <= last && nodes.some((node) => node.id === id)
    })
  }

  accepted(oid: Oid): Accepted | undefined {
    return this.acceptances.get(oid)
  }

  get allAccepted(): IterableIterator<Oid> {
    return this.acceptances.keys()
  }

  node(id: string): NodeInfo | undefined {
    return this.current?.nodes.find((node) => node.id === id)
  }

  /** Nodes of the current epoch that may have objects: a drained one has no share and keeps what it has until the others have it. */
  storing(): NodeInfo[] {
    return this.current === null ? [] : this.current.nodes.filter((node) => node.space > 0 || node.vnodes > 0)
  }

  /** Those, this one left out. */
  peers(): NodeInfo[] {
    return this.storing().filter((node) => node.id !== this.self)
  }

  private record(epoch: number): EpochRecord | null {
    if (this.current !== null && this.current.number === epoch) return this.current
    // History is sorted by number and short; the epochs asked for are nearly always the newest.
    for (let i = this.history.length - 1; i >= 0; i--) {
      const record = this.history[i]
      if (record.number === epoch) return record
      if (record.number < epoch) return null
    }
    return null
  }

  private ring(record: EpochRecord): Ring {
    const known = this.rings.get(record.number)
    if (known?.record === record) return known.ring
    const ring = new Ring(record.nodes)
    this.rings.set(record.number, { record, ring })
    return ring
  }
}

/** The newest of each object. */
function acceptedIn(history: readonly EpochRecord[]): Map<Oid, Accepted> {
  const found = new Map<Oid, Accepted>()
  for (const { number, accepted } of history) {
    if (accepted === undefined) continue
    for (const object of accepted.objects) found.set(oidFromHex(object), { epoch: number, zeros: accepted.zeros })
  }
  return found
}
