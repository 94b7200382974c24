/**
 * One sheep, whole: cluster, store, replication, gateway and operations wired together. It is given everything that
 * touches the outside, so that the simulator runs the same node as production does.
 *
 * The order in which the parts learn of a new epoch is the heart of it: placement first, then the links, then the
 * replica (which lets nothing of the old epoch reach the disk any more), then recovery, and last the gateway, which sends
 * what is in flight again.
 */
import { Cluster } from '../cluster/cluster.js'
import type { Engine } from '../cluster/engine.js'
import { lastEpochOn } from '../cluster/state-disk.js'
import type { ClusterCommand, ClusterListener, ClusterStatus, EpochRecord, NodeInfo } from '../cluster/types.js'
import { asSheepError, SheepError } from '../errors.js'
import { Gateway } from '../gateway/gateway.js'
import {
  type Clock,
  DiskError,
  type Link,
  type LinkHandler,
  type Log,
  type Network,
  type PeerAddress,
  type Random,
  type Timer,
} from '../host/interfaces.js'
import { PEER_VERSION } from '../protocol/header.js'
import { type CallHandler, PeerSessions } from '../replication/peer-session.js'
import { Peers } from '../replication/peers.js'
import { Recovery } from '../replication/recovery.js'
import { Replica } from '../replication/replica.js'
import { surveyCalls } from '../replication/survey.js'
import { Topology } from '../replication/topology.js'
import { DiskSet } from '../store/disk-set.js'
import type { AttachedDisk, NodeDisks } from '../store/node-disks.js'
import type { StoredObject } from '../store/types.js'
import { fencedBy } from '../vdi/command.js'
import { objectBytes } from '../vdi/inode.js'
import { type Oid, vidOf } from '../vdi/oid.js'
import { VdiOperations } from '../vdi/operations.js'
import type { VdiLock } from '../vdi/types.js'
import { Checker } from './check.js'
import { Disks, lastDiskFailed, lostDisks } from './disks.js'
import { expeller } from './expel.js'
import { Garbage } from './garbage.js'
import { Lease } from './lease.js'
import { acceptanceText, Lost } from './lost.js'
import { Recovered } from './recovered.js'
import { Scrub } from './scrub.js'
import { limited, type NodeSettings, SETTINGS_DEFAULT } from './settings.js'

/** Interrupted operations are looked for this often; mostly there are none. */
const RESUME_MS = 30_000
/** A clean stop takes the checksums of what was just written, for so long */
const SEAL_MS = 5_000
const NOTHING: ReadonlySet<number> = new Set()

export interface NodeParts {
  self: NodeInfo
  clock: Clock
  random: Random
  /** From findDisks; `self.id` is its id */
  disks: NodeDisks
  network: Network
  /** See ClusterOptions */
  keyMark?: string
  engine: Engine
  log: Log
  /** Where peers, dog and clients reach this node */
  listen: PeerAddress
  /** Opens a directory for this daemon alone. SheepError */
  attach: (path: string) => AttachedDisk
  /** Handles an incoming link (lib/node/sessions.ts) */
  accept: (node: SheepNode, link: Link) => LinkHandler
  /** More calls that peers may make, by name */
  calls?: (node: SheepNode) => Map<string, CallHandler>
  /** What may change while it runs (`configure`); absent: as a node has it by itself */
  settings?: NodeSettings
  /** See StoreOptions */
  trustMs?: number
  /** See LeaseParts.ms */
  lease?: number
  /** The node cannot go on; nothing of it runs after this call */
  fatal: (error: Error) => void
  /** Bytes that new objects leave free on each disk; absent: in proportion to its size */
  reserve?: number
  /** The cluster was told to stop, or this node to leave */
  stopRequested: (reason: string) => void
}

export class SheepNode implements ClusterListener {
  readonly topology: Topology
  readonly cluster: Cluster
  readonly store: DiskSet
  readonly peers: Peers
  readonly peerSessions = new PeerSessions()
  readonly replica: Replica
  readonly recovery: Recovery
  readonly gateway: Gateway
  readonly operations: VdiOperations
  readonly checker: Checker
  readonly lost: Lost
  readonly scrub: Scrub
  private readonly garbage: Garbage
  private readonly recovered: Recovered
  /** Write locks as of the last command: of whom, when a node has left */
  private writers: readonly VdiLock[] = []
  /** Vids whose writer lost them since the last epoch began, by the word of the cluster and not by its own */
  private readonly fenced = new Set<number>()
  readonly calls = new Map<string, CallHandler>()
  private listener: { close(): void } | null = null
  private status: ClusterStatus = 'joining'
  private readonly lease: Lease
  private readonly timers = new Map<string, Timer>()
  private stopping = false
  readonly disks: Disks
  private settings: NodeSettings

  /** Opens the store: afterwards nothing is served yet. SheepError when the disk's content cannot be used. */
  static async open(parts: NodeParts): Promise<SheepNode> {
    const { log, clock, disks, reserve, trustMs } = parts
    let node: SheepNode | null = null
    let lost = ''
    const store = await DiskSet.open(disks, {
      log,
      clock,
      reserve,
      trustMs,
      lastEpochOn,
      epoch: () => node?.topology.epoch ?? 0,
      lost: () => node?.disks.lost(),
      allLost: (reason) => {
        lost = reason
        node?.disks.allLost(reason)
      },
    })
    const self: NodeInfo = {
      ...parts.self,
      get disks() {
        return store.diskIds
      },
      get lost() {
        return store.lostBefore
      },
      boot: parts.disks.disks[0]?.attached.disk.bootId ?? '',
    }
    node = new SheepNode({ ...parts, self }, store)
    // By its last disk, as it was read
    if (lost !== '') throw lastDiskFailed(lost)
    return node
  }

  private constructor(
    readonly parts: NodeParts,
    store: DiskSet,
  ) {
    const { self, clock, random, network, engine, log } = parts
    this.store = store
    this.settings = parts.settings ?? SETTINGS_DEFAULT
    this.topology = new Topology(self.id)
    const doubts = () => ({ ...store.doubts, asks: this.replica.askers.report() })
    const { keyMark } = parts
    this.cluster = new Cluster({ engine, disks: store, clock, random, log, self, keyMark, listener: this })
    this.lease = new Lease({
      ...{ clock, log, cluster: this.cluster, ms: parts.lease },
      pause: () => this.pause(),
      goOn: () => this.goOn('running', true),
    })
    const copiesOf = (vid: number) => this.cluster.registry.get(vid)?.copies ?? 0
    const bytesOf = (oid: Oid) => objectBytes(oid, this.cluster.registry.get(vidOf(oid)))
    const expel = expeller({ cluster: this.cluster, topology: this.topology, clock, log })
    this.peers = new Peers({
      self,
      network,
      clock,
      log,
      hello: () => ({
        id: self.id,
        incarnation: engine.self,
        version: PEER_VERSION,
        clusterId: this.cluster.config?.clusterId ?? '',
      }),
      hung: (node, reason) => expel(node, reason),
    })
    this.replica = new Replica({
      store,
      topology: this.topology,
      clock,
      log,
      bytesOf,
      copiesOf,
      recovered: () => store.recovered,
      lossUnmarked: () => store.countLoss(),
      diskFailed: (errno, what) => this.disks.failed(errno, what),
    })
    this.recovery = new Recovery({
      store,
      topology: this.topology,
      peers: this.peers,
      replica: this.replica,
      clock,
      log,
      bytesOf,
      copiesOf,
      createdIn: (vid) => this.cluster.registry.get(vid)?.epoch ?? 0,
      doubts,
      passing: (passedEpochs) => store.save({ passedEpochs }),
      renounce: (epoch) => store.renounce(epoch),
      settled: (gateway, oid, sources) => this.settled(gateway, oid, sources),
      taken: (oid) => this.garbage.suspect([vidOf(oid)]),
      recovered: (epoch) => {
        this.garbage.sweep()
        this.recovered.report(epoch)
      },
      settings: () => limited(this.cluster.recovery, this.settings.recoveryLimit),
      reachable: (oids) => this.operations.reclaim.reachable(oids),
    })
    this.replica.ensurer = this.recovery
    this.gateway = new Gateway({
      cluster: this.cluster,
      registry: () => this.cluster.registry,
      topology: this.topology,
      peers: this.peers,
      replica: this.replica,
      clock,
      random,
      log,
      inLease: () => this.lease.holds(),
      release: (vid, references) => this.operations.reclaim.release(vid, references),
    })
    this.operations = new VdiOperations({
      cluster: this.cluster,
      registry: () => this.cluster.registry,
      io: this.gateway.io,
      log,
      clock,
      quiesce: this.gateway,
    })
    const { topology, recovery, peers, gateway, replica } = this
    this.disks = new Disks({
      ...{ store, topology, replica, clock, random, log, self },
      cluster: this.cluster,
      attach: parts.attach,
      stop: (error) => this.stopAtOnce(error),
    })
    this.recovered = new Recovered({ store, topology, cluster: this.cluster, recovery, clock, log })
    this.garbage = new Garbage({
      ...{ store, topology, replica, recovery, clock, log, copiesOf },
      registry: () => this.cluster.registry,
      reachable: (oids) => this.operations.reclaim.reachable(oids),
      recoveredEpoch: () => this.recoveredEpoch,
      recovered: () => this.cluster.recovered,
    })
    this.scrub = new Scrub({
      ...{ store, topology, replica, recovery, peers, clock, log, copiesOf, bytesOf, disk: store },
      // A gateway without a disk has no share to recover: its scrub ends all the same.
      running: () =>
        this.cluster.status === 'running' &&
        (recovery.progress().state === 'idle' || topology.node(self.id)?.vnodes === 0),
      settings: () => this.settings.scrub,
    })
    const mend = (object: StoredObject) => this.scrub.mender.mend(object)
    this.checker = new Checker({
      ...{ store, topology, replica, recovery, peers, gateway, clock, mend },
      registry: () => this.cluster.registry,
    })
    this.lost = new Lost({ cluster: this.cluster, topology, gateway, inquiry: recovery.inquiry })
    this.replica.mend = mend
    store.onRot = mend
    const busy = () => recovery.pacer.busy
    const decided = () => recovery.decided()
    const surveyed = surveyCalls({ store, topology, replica, copiesOf, doubts, busy, clock, mend, decided })
    const asked = [surveyed, gateway.calls(), this.checker.calls(), this.scrub.calls()]
    const groups = [...asked, parts.calls?.(this) ?? new Map()]
    for (const group of groups) for (const [name, handler] of group) this.calls.set(name, handler)
  }

  /** Resolves when this node takes part in the cluster, or waits for what only people or other nodes can bring. SheepError. */
  async start(): Promise<void> {
    try {
      await this.join()
    } catch (error) {
      throw error instanceof DiskError ? lastDiskFailed(error.message) : error
    }
  }

  private async join(): Promise<void> {
    this.listener = await this.parts.network.listen(this.parts.listen, (link) => this.parts.accept(this, link))
    this.store.started(await this.cluster.load())
    await this.cluster.start()
    this.lease.tick()
    this.resumeLater()
  }

  /** Orderly: volumes are closed, the others see this node leave, everything is synced. */
  async stop(): Promise<void> {
    if (this.stopping) return
    this.stopping = true
    this.listener?.close()
    // Clients are served until their volumes are closed, and so it must be noticed until then that this daemon stood still.
    for (const timer of this.timers.values()) timer.cancel()
    if (this.cluster.status === 'running') await this.gateway.closeAll()
    this.lease.end()
    for (const timer of this.timers.values()) timer.cancel()
    this.recovery.stop()
    this.disks.stop()
    this.garbage.stop()
    this.recovered.stop()
    await this.scrub.close()
    this.gateway.router.stop()
    await this.cluster.stop()
    this.replica.suspend()
    this.peers.stop()
    await this.replica.sealing.drain(SEAL_MS)
    await this.store.close()
  }

  /** From now on. */
  configure(settings: NodeSettings): void {
    this.settings = settings
    this.recovery.settingsChanged()
  }

  /** Runs `work` on this node or, by the call of this name, on another. */
  async ask(node: string, method: string, argument: unknown): Promise<unknown> {
    if (node !== this.parts.self.id) return (await this.peers.call(node, method, argument)).json
    const handler = this.calls.get(method)
    if (handler === undefined) throw new SheepError('unsupported', `no such call: ${method}`)
    return (await handler(argument, Buffer.alloc(0), node)).json
  }

  get recoveredEpoch(): number {
    return this.store.state.recoveredEpoch
  }

  // --- ClusterListener --------------------------------------------------------------------------------------------

  epochChanged(current: EpochRecord, previous: EpochRecord | null, left: readonly string[]): void {
    const { cluster, topology, gateway } = this
    const clusterId = cluster.config?.clusterId ?? ''
    if (clusterId !== this.store.state.clusterId) this.adopt(clusterId)
    topology.update(current, cluster.history)
    this.disks.epochBegins(current)
    if (current.accepted !== undefined) {
      this.parts.log('warning', acceptanceText(current.accepted))
      void this.replica.reached(current.number).then(() => this.scrub.mendAll())
    }
    const self = topology.node(this.parts.self.id)
    const stayed = self !== undefined && !left.includes(self.id) && (previous?.number ?? 0) + 1 === current.number
    if (!stayed) gateway.router.suspend()
    // What was in flight when this node fell out is not sent again: its locks may be others' by now, its vids used anew.
    gateway.recheckLocks()
    if (!stayed) gateway.router.forget()
    if (!stayed) this.garbage.dropFormer(this.store.all())
    this.peers.update(self === undefined ? [] : current.nodes)
    if (self === undefined) {
      this.pause()
      return
    }
    for (const lock of this.writers) if (left.includes(lock.node)) this.fenced.add(lock.vid)
    this.writers = this.writeLocks()
    this.garbage.suspect(this.fenced)
    // An epoch that was on its way while this daemon stood still says nothing of what came after it.
    const { isLost } = this.lease
    const serves = !isLost && !this.disks.isUnnamed
    this.replica.epochChanged(left, new Set(this.fenced), serves ? () => this.recovery.begin() : null)
    this.fenced.clear()
    gateway.epochChanged(left, lostDisks(current, previous))
    if (isLost) this.pause()
    else gateway.router.resume()
    this.cancel('resume')
    this.resumeLater(0)
  }

  commandApplied(command: ClusterCommand, _sender: string, result: unknown): void {
    if (command.type === 'vdi') {
      const fenced = fencedBy(command.command)
      if (fenced !== 0) this.fenced.add(fenced)
      this.writers = this.writeLocks()
    }
    this.gateway.commandApplied(command)
    this.garbage.commandApplied(command, result)
    if (command.type === 'recovery') this.recovery.settingsChanged()
    if (command.type === 'shutdown') this.parts.stopRequested('the cluster was told to shut down')
  }

  statusChanged(status: ClusterStatus, reason: string): void {
    const former = this.status
    this.status = status
    this.parts.log(status === 'halted' ? 'warning' : 'notice', `now ${status}${reason === '' ? '' : `: ${reason}`}`)
    if (status === 'running') {
      this.goOn(former)
    } else {
      this.lease.forget()
      this.pause()
    }
  }

  // --- inside -----------------------------------------------------------------------------------------------------

  private stopAtOnce(error: SheepError): void {
    if (this.stopping) return
    this.pause()
    this.parts.fatal(error)
  }

  /** Serve nothing until the cluster says that this node is part of it. */
  private pause(): void {
    this.gateway.router.suspend()
    this.replica.suspend()
  }

  /** `sameEpoch`: this member was in it all the time */
  private goOn(former: ClusterStatus, sameEpoch = false): void {
    if (this.topology.node(this.parts.self.id) === undefined) return
    // Until the epoch that begins because a disk was lost.
    if (this.disks.isUnnamed || this.topology.epoch <= this.store.state.lostEpoch) {
      this.disks.announce()
    } else if (former === 'halted' || former === 'running') {
      const { recovery } = this
      this.replica.epochChanged([], NOTHING, () => (sameEpoch ? recovery.goOn() : recovery.begin()))
    }
    this.gateway.recheckLocks()
    this.gateway.router.resume()
  }

  /** First epoch of a cluster that this store was not in: what it holds is of another. */
  private adopt(clusterId: string): void {
    const foreign = [...this.store.all()]
    if (foreign.length > 0) this.parts.log('notice', `formatted anew: dropping ${foreign.length} objects`)
    for (const object of foreign) this.replica.discard(object)
    this.store.save({ clusterId, recoveredEpoch: 0, recoveredBefore: [], passedEpochs: [] })
  }

  private writeLocks(): readonly VdiLock[] {
    return this.cluster.registry.locks().filter((lock) => lock.mode === 'write')
  }

  private async settled(gateway: string, oid: Oid, sources: readonly string[]): Promise<boolean> {
    const answer = await this.ask(gateway, 'settled', { epoch: this.topology.epoch, oid, sources })
    return (answer as { settled: boolean }).settled
  }

  /** What was left half done is ended by the node in charge of it: which one that is, VdiOperations says, and nobody else. */
  private resumeLater(ms = RESUME_MS): void {
    this.later('resume', ms, () => {
      if (this.cluster.status !== 'running') {
        this.resumeLater()
        return
      }
      this.operations
        .resumeInterrupted()
        .catch((error: unknown) => this.parts.log('warning', `resuming operations: ${asSheepError(error).message}`))
        .finally(() => {
          if (!this.stopping) this.resumeLater()
        })
    })
  }

  private later(name: string, ms: number, run: () => void): void {
    this.timers.get(name)?.cancel()
    this.timers.set(name, this.parts.clock.after(ms, run))
  }

  private cancel(name: string): void {
    this.timers.get(name)?.cancel()
  }
}
