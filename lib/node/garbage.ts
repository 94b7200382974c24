/**
 * What goes from this node's disks because nothing needs it: copies of former VDIs and of those that are gone, copies outside its
 * share, and what operations that were cut off have left. When each of them may be judged is decided here.
 */
import type { ClusterCommand } from '../cluster/types.js'
import type { Clock, Log } from '../host/interfaces.js'
import type { Recovery } from '../replication/recovery.js'
import type { Replica } from '../replication/replica.js'
import type { Topology } from '../replication/topology.js'
import { isFormer } from '../replication/validity.js'
import type { ObjectStore, StoredObject } from '../store/types.js'
import { type Oid, vidOf } from '../vdi/oid.js'
import type { Registry } from '../vdi/registry.js'
import type { VdiCommand } from '../vdi/types.js'
import { purge } from './purge.js'
import { Sweeper } from './sweep.js'

export interface GarbageParts {
  store: ObjectStore
  topology: Topology
  replica: Replica
  recovery: Recovery
  registry: () => Registry
  clock: Clock
  log: Log
  copiesOf: (vid: number) => number
  /** Of the node's own copies, those that something refers to; what nothing does is so durably (lib/vdi/reclaim.ts) */
  reachable: (oids: readonly Oid[]) => Promise<ReadonlySet<Oid>>
  /** The newest epoch for which this node's share is valid */
  recoveredEpoch: () => number
  /** The same of each node */
  recovered: () => ReadonlyMap<string, number>
}

export class Garbage {
  private readonly sweeper: Sweeper

  constructor(private readonly parts: GarbageParts) {
    this.sweeper = new Sweeper(parts)
  }

  stop(): void {
    this.sweeper.stop()
  }

  /** These VDIs lost their gateway, or have said that they left something. */
  suspect(vids: Iterable<number>): void {
    this.sweeper.suspect(vids)
    if (this.parts.recoveredEpoch() >= this.parts.topology.epoch) this.sweeper.begin()
  }

  /** This node's share is valid: now copies can be told apart from leftovers. */
  sweep(): void {
    this.sweeper.begin()
  }

  commandApplied(command: ClusterCommand, result: unknown): void {
    if (command.type === 'recovered') this.purgeWhenAllRecovered()
    if (command.type !== 'vdi') return
    const vdi = command.command
    const created = this.parts.registry().begunBy(vdi)
    if (created !== undefined) this.dropFormer(this.parts.store.ofVdi(created.vid))
    if (vdi.op === 'delete-done' && result !== null) this.deleted(vdi.vid, result as readonly number[])
    else if (mayLeave(vdi)) this.suspect([vdi.vid])
  }

  /** What is of a VDI that had the vid before: this node missed its deletion. */
  dropFormer(objects: Iterable<StoredObject>): void {
    const registry = this.parts.registry()
    this.drop([...objects].filter(({ oid, writeEpoch }) => isFormer(writeEpoch, registry.get(vidOf(oid))?.epoch ?? 0)))
  }

  /**
   * Whoever freed it removed what its index named. What is here all the same, no index ever named: a creation was cut off, and
   * while it was being freed nobody could tell. The vids in `gone` are not given again in this epoch: all of theirs goes. When
   * descendants still need the vid, they say what they need.
   */
  private deleted(vid: number, gone: readonly number[]): void {
    for (const one of gone) this.drop([...this.parts.store.ofVdi(one)])
    for (const one of [vid, ...gone]) this.parts.recovery.deleted(one)
    if (!gone.includes(vid)) this.suspect([vid])
  }

  private drop(objects: readonly StoredObject[]): void {
    const { recovery, replica, log } = this.parts
    if (objects.length > 0) log('info', `dropping ${objects.length} objects of VDIs that were deleted`)
    for (const object of objects) {
      recovery.cancel(object.oid)
      replica.discard(object)
    }
  }

  private purgeWhenAllRecovered(): void {
    const { topology, recovered } = this.parts
    const epoch = topology.epoch
    const all = () =>
      topology.epoch === epoch &&
      topology.current !== null &&
      topology.current.nodes.every((node) => node.vnodes === 0 || (recovered().get(node.id) ?? 0) >= epoch)
    if (all()) purge({ ...this.parts, mayGoOn: all })
  }
}

/** A volume's last word on this node: its gateway was still freeing, or did not get through with it. */
function mayLeave(vdi: VdiCommand): vdi is Extract<VdiCommand, { op: 'unlock' | 'migrate-finish' }> {
  return (vdi.op === 'unlock' && vdi.leftovers === true) || vdi.op === 'migrate-finish'
}
