/**
 * Frees objects that nothing refers to: what a gateway left when it died between creating an object and entering it in
 * the index, or between clearing the entry and removing the object, or what a stop of everything brought back. Each node
 * sweeps its own copies: of the VDIs that were open on a node that left, and of all once after its start.
 */
import { asSheepError, SheepError } from '../errors.js'
import type { Clock, Log } from '../host/interfaces.js'
import type { Replica } from '../replication/replica.js'
import { sleep } from '../replication/sleep.js'
import type { Topology } from '../replication/topology.js'
import type { ObjectStore, StoredObject } from '../store/types.js'
import { type Oid, oidToHex, vidOf } from '../vdi/oid.js'
import type { Registry } from '../vdi/registry.js'

const RETRY_MS = 2_000
/** Between two VDIs, so that a node with thousands of them has time for its clients */
const PAUSE_MS = 2

export interface SweepParts {
  store: ObjectStore
  topology: Topology
  replica: Replica
  registry: () => Registry
  clock: Clock
  log: Log
  reachable: (oids: readonly Oid[]) => Promise<ReadonlySet<Oid>>
}

export class Sweeper {
  private readonly waiting = new Set<number>()
  /** Of these something changed while it was judged: judged again in a while */
  private readonly changed = new Set<number>()
  private all = true
  private running = false
  private stopped = false

  constructor(private readonly parts: SweepParts) {}

  /**
   * These VDIs lost their gateway. Their deleted ancestors' objects may be theirs too, and what it left while an ancestor was the
   * working VDI is that one's.
   */
  suspect(vids: Iterable<number>): void {
    const registry = this.parts.registry()
    for (const vid of vids) {
      let entry = registry.get(vid)
      this.waiting.add(vid)
      while (entry !== undefined && entry.parent !== 0) {
        entry = registry.get(entry.parent)
        if (entry !== undefined) this.waiting.add(entry.vid)
      }
    }
  }

  /** This node's share is valid: now copies can be told apart from leftovers. */
  begin(): void {
    if (this.running || this.stopped) return
    this.running = true
    void this.run()
      .catch((error: unknown) => {
        // Not reached, no quorum, a new epoch: tried again after the next recovery, or in a while.
        this.parts.log('debug', `sweep: ${asSheepError(error).message}`)
        this.parts.clock.after(RETRY_MS, () => this.begin())
      })
      .finally(() => {
        this.running = false
      })
  }

  stop(): void {
    this.stopped = true
  }

  private async run(): Promise<void> {
    if (this.all) {
      for (const object of this.parts.store.all()) this.waiting.add(vidOf(object.oid))
      this.all = false
    }
    for (const vid of this.waiting) {
      if (this.stopped) return
      this.waiting.delete(vid)
      try {
        await this.sweep(vid)
      } catch (error) {
        this.waiting.add(vid)
        throw error
      }
      await sleep(this.parts.clock, PAUSE_MS)
    }
    if (this.changed.size === 0) return
    for (const vid of this.changed) this.waiting.add(vid)
    this.changed.clear()
    this.parts.clock.after(RETRY_MS, () => this.begin())
  }

  private async sweep(vid: number): Promise<void> {
    const { store, reachable, replica, topology, log } = this.parts
    const epoch = topology.epoch
    const seen = new Map<StoredObject, number>()
    for (const object of store.ofVdi(vid)) {
      // Written in this epoch: whoever wrote it may know a newer registry than this node.
      if (object.writeEpoch < epoch || this.parts.registry().get(vid) !== undefined) seen.set(object, object.lastWrite)
    }
    if (seen.size === 0) return
    const reached = await reachable([...seen.keys()].map((object) => object.oid))
    await replica.reached(epoch)
    if (replica.activeEpoch !== epoch) throw new SheepError('busy', `epoch ${epoch} is past`)
    for (const [object, lastWrite] of seen) {
      if (reached.has(object.oid) || object.removed) continue
      if (object.lastWrite !== lastWrite || store.get(object.oid) !== object) {
        // Written while it was asked about: by a gateway that will name it, or only by what the recovery of others does to it.
        this.changed.add(vid)
        continue
      }
      log('info', `freeing object ${oidToHex(object.oid)}: nothing refers to it`)
      replica.discard(object)
    }
  }
}
