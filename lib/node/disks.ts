/** What becomes of this node when its disks come and go: epochs of the cluster, commands of people (docs/architecture.md, "Disks"). */
import type { Cluster } from '../cluster/cluster.js'
import type { EpochRecord, NodeInfo } from '../cluster/types.js'
import { asSheepError, SheepError } from '../errors.js'
import type { Clock, Log, Random, Timer } from '../host/interfaces.js'
import type { Replica } from '../replication/replica.js'
import type { Topology } from '../replication/topology.js'
import type { DiskSet } from '../store/disk-set.js'
import { type AttachedDisk, findDisk } from '../store/node-disks.js'
import { refuseUnplug } from './unplug.js'

const RETRY_MS = 1_000
/** A file system that is unmounted under us is noticed so soon, also when nobody uses it. */
const LOOK_MS = 2_000

export interface DisksParts {
  store: DiskSet
  topology: Topology
  replica: Replica
  cluster: Cluster
  clock: Clock
  random: Random
  log: Log
  self: NodeInfo
  /** Opens a directory for this daemon alone. SheepError */
  attach: (path: string) => AttachedDisk
  /** The node cannot go on */
  stop: (error: SheepError) => void
}

export class Disks {
  /** The cluster is to hear of it */
  private changed = false
  private plugged = false
  /** Of what this node has lost and no epoch's record says so yet, the epoch in which it was; 0 all are named */
  private unnamed = 0
  private retry: Timer | null = null
  private looking: Timer
  private stopped = false

  constructor(private readonly parts: DisksParts) {
    this.looking = parts.clock.after(LOOK_MS, () => this.look())
  }

  stop(): void {
    this.stopped = true
    this.retry?.cancel()
    this.looking.cancel()
  }

  /** Takes a directory into use as one more disk, new or one that was away. SheepError; DiskError. */
  async plug(path: string): Promise<void> {
    const { clock, random, attach, self, store, replica } = this.parts
    const attached = attach(path)
    try {
      const id = findDisk(attached, self.id, store.state, { clock, random })
      // What a gateway that is gone may have left unfinished on it is doubted, as at a start.
      for (const object of await store.plug(id, attached)) replica.hot.add(object)
    } catch (error) {
      attached.close()
      throw error
    }
    this.changed = true
    this.plugged = true
    this.announce()
  }

  /**
   * Gives up a disk, by number, path or id; its path. Its objects are rebuilt from other copies, so it is refused while that might
   * lose some, unless `force`. SheepError.
   */
  async unplug(name: string, force: boolean): Promise<string> {
    const { store, cluster, topology } = this.parts
    if (!force) refuseUnplug({ cluster, topology }, store.objectsOn(name))
    return store.unplug(name)
  }

  /** What was served in this epoch may be gone: nothing more is, until the next one has begun. */
  lost(): void {
    const { replica, topology } = this.parts
    replica.suspend()
    this.unnamed = topology.epoch
    this.changed = true
    this.announce()
  }

  /** The others believe that this node has all it had: it takes no part before an epoch says that it has lost a disk. */
  get isUnnamed(): boolean {
    return this.unnamed !== 0
  }

  allLost(reason: string): void {
    this.parts.stop(lastDiskFailed(reason))
  }

  /** A request failed. The store has told of a disk that failed before; anything else is beyond what the program allows for. */
  failed(errno: number, what: string): void {
    const { store, topology, stop } = this.parts
    if (this.isUnnamed || store.state.lostEpoch >= topology.epoch) return
    stop(new SheepError('io', `the store failed (${what}, errno ${errno})`, 'see dmesg, and start sheep again'))
  }

  /** Each epoch, before anything is served in it. */
  epochBegins(current: EpochRecord): void {
    const { store, cluster, log, self } = this.parts
    const { base } = store
    const served = ({ number, nodes }: EpochRecord) =>
      number > (base as number) &&
      number < current.number &&
      nodes.some(({ id, disks }) => id === self.id && store.servedWithout(disks))
    if (base !== null && cluster.history.some(served)) {
      log('warning', 'this node ran with other disks after those that are here: all objects are checked')
      store.distrustAll()
    }
    // One may have begun for another reason before the cluster heard of the loss.
    const named = current.nodes.find(({ id }) => id === self.id)?.lost ?? 0
    if (named > this.unnamed) this.unnamed = 0
    store.epochBegins(current.number)
  }

  /** Makes the cluster begin an epoch with this node's disks as they are, if it has to. */
  announce(): void {
    const { store, cluster, topology, self, log, clock } = this.parts
    const lost = this.isUnnamed || store.state.lostEpoch >= topology.epoch
    if (this.stopped || topology.epoch === 0 || (!lost && !this.changed)) return
    const { plugged } = this
    this.changed = false
    this.plugged = false
    this.retry?.cancel()
    this.retry = null
    const space = self.space === 0 ? 0 : store.space().total
    cluster.propose({ type: 'disks', space, lost, plugged }).catch((error: unknown) => {
      log('debug', `telling of changed disks: ${asSheepError(error).message}`)
      this.changed = true
      this.plugged ||= plugged
      this.retry = clock.after(RETRY_MS, () => this.announce())
    })
  }

  private look(): void {
    this.parts.store.space()
    this.looking = this.parts.clock.after(LOOK_MS, () => this.look())
  }
}

export function lastDiskFailed(reason: string): SheepError {
  return new SheepError('io', `the last disk of this node failed (${reason})`, 'replace it and start sheep again')
}

/** Nodes that the epoch began for because they had lost a disk. */
export function lostDisks(current: EpochRecord, previous: EpochRecord | null): string[] {
  const before = new Map(previous?.nodes.map((node) => [node.id, node.lost ?? 0]))
  return current.nodes.filter((node) => (node.lost ?? 0) > (before.get(node.id) ?? 0)).map((node) => node.id)
}
