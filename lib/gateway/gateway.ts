/**
 * Opens VDIs for front-ends: takes and keeps the cluster-wide lock, loads the index, and passes on what the cluster
 * says meanwhile (snapshots, resizes, a lost lock). One volume object per VDI and daemon; clients that may share one do.
 */
import type { ClusterCommand, ClusterView, NodeInfo } from '../cluster/types.js'
import { asSheepError, SheepError } from '../errors.js'
import type { Clock, Log, Random } from '../host/interfaces.js'
import type { CallHandler } from '../replication/peer-session.js'
import type { Peers } from '../replication/peers.js'
import type { Replica } from '../replication/replica.js'
import { sleep } from '../replication/sleep.js'
import { decodeOids, encodeOids } from '../replication/survey.js'
import type { Topology } from '../replication/topology.js'
import { fencedBy, mayTakeEffect } from '../vdi/command.js'
import { decodeIndex, entriesFor, INDEX_OFFSET } from '../vdi/inode.js'
import { createInode } from '../vdi/inode-io.js'
import { formatReference } from '../vdi/name.js'
import { dataOid, inodeOid, KIND_INODE, kindOf, type Oid, vidOf } from '../vdi/oid.js'
import { type Registry, referenceOf } from '../vdi/registry.js'
import type { VdiCommand, VdiEntry, VdiLock } from '../vdi/types.js'
import { numberIn, textIn } from './call.js'
import type { Standing } from './flusher.js'
import { HandOver } from './hand-over.js'
import { endHold, Holds } from './holds.js'
import type { Latency } from './latency.js'
import { MigrationTarget } from './migration-target.js'
import { RoutedIo } from './object-io.js'
import { type OpenVolume, SharedVolume } from './open-volume.js'
import { QuorumWait } from './quorum-wait.js'
import { Router } from './router.js'
import type { FileVolume, OpenRequest, VolumeOpener } from './types.js'
import { GatewayVolume } from './volume.js'

const CLEAN_TIMEOUT_MS = 5_000
const UNLOCK_RETRY_MS = 1_000
const SESSION_BYTES = 8
const BUSY_MS_MAX = 10_000
const BUSY_RETRY_MS = 50
/** A volume whose last client has just gone is flushed and unlocked: who opens it next waits so long. */
const CLOSING_MS_MAX = 2_000
/** After which a volume that is open here may be another's, or another's be ours. */
const LOCK_COMMANDS: ReadonlySet<VdiCommand['op']> = new Set([
  'unlock',
  'break',
  'migrate-begin',
  'migrate-cancel',
  'migrate-finish',
])
/** After which the entry of a volume that is open here may be another. */
const ENTRY_COMMANDS: ReadonlySet<VdiCommand['op']> = new Set([
  'resize',
  'rename',
  'set-tag',
  'set-file',
  'adopt',
  'set-on-no-quorum',
])
/** A write that waits for longer has its reasons, which are looked at anew. */
const SETTLED_MS = 1_000
const SETTLED_POLL_MS = 2

export interface GatewayOptions {
  cluster: ClusterView
  registry: () => Registry
  topology: Topology
  peers: Peers
  replica: Replica
  clock: Clock
  random: Random
  log: Log
  /** False: this daemon stood still, and does not know yet whether the cluster has gone on without it */
  inLease: () => boolean
  /** Frees those of these objects, to which `vid` refers no more, that nothing else refers to (lib/vdi/reclaim.ts) */
  release: (vid: number, references: readonly Oid[]) => Promise<void>
}

function addTo(sum: GatewayVolume['counters'], more: GatewayVolume['counters']): void {
  for (const key of Object.keys(sum) as (keyof typeof sum)[]) sum[key] += more[key]
}

export class Gateway implements VolumeOpener {
  readonly router: Router
  readonly io: RoutedIo
  /** Of volumes opened from now on; null: not observed */
  latency: Latency | null = null
  /** Of volumes that are open no more */
  private readonly past = { reads: 0, writes: 0, readBytes: 0, writeBytes: 0, flushes: 0 }
  private readonly open_ = new Map<string, OpenVolume>()
  private readonly opening = new Map<string, Promise<OpenVolume>>()
  /** -> vid. Locked, or about to be, and not in `open_` yet */
  private readonly loading = new Map<Promise<unknown>, number>()
  private readonly unlocking = new Set<string>()
  readonly handOver: HandOver
  private readonly holds: Holds

  constructor(private readonly options: GatewayOptions) {
    const { topology, replica, peers, clock, cluster } = options
    const { inLease } = options
    this.router = new Router({ self: cluster.self.id, topology, replica, peers, clock, inLease })
    this.router.onSuspend = () => {
      for (const open of [...this.open_.values()]) open.quorum.lost()
    }
    this.router.onResume = () => {
      for (const open of [...this.open_.values()]) open.quorum.regained()
    }
    this.handOver = new HandOver({
      ...options,
      opened: (session) => this.open_.get(session),
      isEnding: (session) => this.unlocking.has(session),
      hold: (vid, by) => this.holds.holdHere(vid, by),
      release: (id) => this.holds.releaseHere(id),
    })
    this.holds = new Holds({
      ...options,
      writers: (vid) => this.writers(vid),
      opening: (vid) => [...this.loading].filter(([, loading]) => loading === vid).map(([opening]) => opening),
      opened: () => this.open_.values(),
    })
    this.io = new RoutedIo({
      router: this.router,
      copiesOf: this.copiesOf,
      storeNodes: this.storeNodes,
      mayLack: (oid) => {
        const entry = kindOf(oid) === KIND_INODE ? options.registry().get(vidOf(oid)) : undefined
        return entry?.state !== 'live' || entry.givenUp === true
      },
    })
  }

  // --- VolumeOpener -----------------------------------------------------------------------------------------------

  list(): VdiEntry[] {
    return this.options.registry().live()
  }

  find(name: string, snapshot: string): VdiEntry {
    this.mustRun()
    return this.options.registry().find(name, snapshot)
  }

  async open(request: OpenRequest): Promise<FileVolume> {
    const entry = this.find(request.name, request.snapshot)
    const readOnly = request.readOnly || entry.snapshotTime !== 0
    const key = `${entry.vid}${readOnly ? 'r' : 'w'}`
    if (request.shareable) {
      const shared = [...this.open_.values()].find(
        (open) => open.shareable && open.volume.vid === entry.vid && open.volume.readOnly === readOnly,
      )
      if (shared !== undefined && shared.closing === null && !shared.volume.isRevoked) return this.share(shared)
      // Its last client has just gone: the next one waits until its lock is free.
      if (shared?.closing) await shared.closing
      const opening = this.opening.get(key)
      if (opening !== undefined) return this.share(await opening)
    }
    const opening = this.lockPatiently(entry, readOnly, request)
    if (!request.shareable) return this.share(await opening)
    this.opening.set(key, opening)
    try {
      return this.share(await opening)
    } finally {
      this.opening.delete(key)
    }
  }

  /** What this daemon has open, for `dog` and for a clean stop. */
  volumes(): { volume: GatewayVolume; holder: string; session: string }[] {
    return [...this.open_.values()]
  }

  /** Of all requests since the daemon started. */
  totals(): GatewayVolume['counters'] {
    const sum = { ...this.past }
    for (const { volume } of this.open_.values()) addTo(sum, volume.counters)
    return sum
  }

  private forget({ session, volume }: OpenVolume): void {
    this.open_.delete(session)
    addTo(this.past, volume.counters)
  }

  async closeAll(): Promise<void> {
    await Promise.all([...this.open_.values()].map((open) => open.volume.close()))
  }

  /** See FlusherOptions */
  private tookAll(oid: Oid): readonly string[] {
    const { topology, cluster } = this.options
    const former = topology.epoch - 1
    const replicas = topology.replicasIn(former, oid, this.copiesOf(vidOf(oid))) ?? []
    return replicas.map(({ id }) => id).filter((id) => cluster.recovered.get(id) === former)
  }

  /** See FlusherOptions */
  private mayHaveDropped(oid: Oid, node: string): boolean {
    const { topology, cluster } = this.options
    const former = topology.epoch - 1
    const record = cluster.history.find(({ number }) => number === former)
    const hasAll = ({ id, vnodes }: NodeInfo) => vnodes === 0 || (cluster.recovered.get(id) ?? 0) >= former
    if (record === undefined || !record.nodes.every(hasAll)) return false
    const replicas = topology.replicasIn(former, oid, this.copiesOf(vidOf(oid))) ?? []
    return replicas.every(({ id }) => id !== node)
  }

  // --- what the cluster says --------------------------------------------------------------------------------------

  /** `lost`: nodes that have lost a disk since the last epoch */
  epochChanged(left: readonly string[], lost: readonly string[]): void {
    const { topology } = this.options
    const stayed = (node: string) => topology.node(node) !== undefined && !left.includes(node) && !lost.includes(node)
    for (const open of this.open_.values()) {
      open.volume.epochChanged(stayed)
      if (topology.accepted(inodeOid(open.volume.vid))?.epoch === topology.epoch) void this.restoreIndex(open)
      if (open.hold !== null && left.includes(open.hold.by)) endHold(open)
    }
    this.locksChanged()
  }

  /**
   * An administrator gave up what was lost of the inode: it is an older one, or none. But as long as this node has the volume open for
   * writing it knows the index.
   */
  private async restoreIndex({ volume, session }: OpenVolume): Promise<void> {
    const { clock, log } = this.options
    const what = referenceOf(volume.entry)
    while (!volume.readOnly && !volume.isTarget && !volume.isRevoked && this.holdsLock(session)) {
      try {
        try {
          await this.io.read(inodeOid(volume.vid), 0, INDEX_OFFSET)
        } catch (error) {
          if (asSheepError(error).code !== 'no-object') throw error
          await createInode(this.io, volume.entry, volume.index.snapshot())
        }
        const done = await new Promise<number>((complete) => volume.index.rewriteAll({ complete }))
        if (done < 0) throw new SheepError('io', `writing it failed with errno ${-done}`)
        log('notice', `the index of ${what} was lost, and is written anew: the volume is open here`)
        return
      } catch (error) {
        log('warning', `writing the lost index of ${what} anew: ${asSheepError(error).message}`)
        await sleep(clock, UNLOCK_RETRY_MS)
      }
    }
  }

  commandApplied(command: ClusterCommand): void {
    if (command.type !== 'vdi') return
    const vdi = command.command
    const registry = this.options.registry()
    if (vdi.op === 'snapshot-commit') {
      for (const open of this.open_.values()) {
        if (open.volume.readOnly || open.volume.vid !== vdi.vid) continue
        const child = registry.get(vdi.child)
        if (child !== undefined) open.volume.entryChanged(child)
        endHold(open)
      }
    } else if (vdi.op === 'abort') {
      const parent = registry.get(vdi.vid)?.parent
      for (const open of this.open_.values()) {
        if (open.volume.vid === parent) endHold(open)
      }
    } else if (ENTRY_COMMANDS.has(vdi.op)) {
      for (const open of this.open_.values()) {
        const entry = registry.get(open.volume.vid)
        if (entry !== undefined && entry !== open.volume.entry) open.volume.entryChanged(entry)
      }
    } else if (LOCK_COMMANDS.has(vdi.op)) {
      this.recheckLocks()
      // After a fence the epoch that follows comes first: until then the former writer's last writes may change the index.
      if (fencedBy(vdi) === 0) this.locksChanged()
    }
  }

  /** What this node no longer holds the lock of, since it was out of the cluster or by a command, must not be written by it. */
  recheckLocks(): void {
    for (const open of [...this.open_.values()]) {
      if (this.holdsLock(open.session)) continue
      const { volume } = open
      const { hold } = open
      const moved = hold?.handedOver === true
      if (moved) {
        this.options.log('notice', `${referenceOf(volume.entry)} has moved to node ${hold.by}`)
      } else {
        const what = `the lock of ${referenceOf(volume.entry)} is lost; its clients must open it again`
        this.options.log('warning', what)
      }
      volume.revoke(moved)
      this.forget(open)
    }
  }

  /** Locks may have become others', or come to this node, by a live migration. */
  private locksChanged(): void {
    for (const open of this.open_.values()) {
      const lock = this.ownLock(open.session)
      const { hold } = open
      if (hold?.handedOver && !this.handOver.hasTarget(open.volume.vid, hold.by)) endHold(open)
      if (lock?.mode !== 'write' || !open.volume.isTarget || open.arriving) continue
      open.arriving = true
      const arriving = this.arrive(open)
      this.loading.set(arriving, lock.vid)
      void arriving.finally(() => this.loading.delete(arriving))
    }
  }

  /** This node's target has become the writer: from here on it is like any other open volume. */
  private async arrive(open: OpenVolume): Promise<void> {
    const { volume, session } = open
    const { clock, log, registry } = this.options
    const ours = () => this.ownLock(session)?.mode === 'write' && !volume.isRevoked
    while (ours()) {
      const entry = registry().get(volume.vid) as VdiEntry
      try {
        await this.handOver.reachedEverywhere(this.options.topology.epoch)
        const entries = await this.readIndex(entry)
        if (!ours()) return
        // Resized meanwhile
        if (registry().get(volume.vid) !== entry) continue
        volume.arrive(entry, entries)
        log('notice', `${referenceOf(entry)} has moved here`)
        return
      } catch (error) {
        log('warning', `reading the index of ${referenceOf(entry)}: ${asSheepError(error).message}`)
        await sleep(clock, UNLOCK_RETRY_MS)
      }
    }
  }

  private async readIndex(entry: VdiEntry): Promise<Uint32Array> {
    const count = entriesFor(entry.size, entry.blockSizeShift)
    return decodeIndex(await this.io.read(inodeOid(entry.vid), INDEX_OFFSET, count * 4))
  }

  /** Peer calls that the other nodes make to this gateway. */
  calls(): Map<string, CallHandler> {
    const clean: CallHandler = async (argument, body, from) => {
      this.options.replica.clean(decodeOids(body), (argument as { ended?: unknown }).ended === true, from)
      return { json: null, body: Buffer.alloc(0) }
    }
    const referred: CallHandler = async (argument) => {
      const { indexes } = argument as { indexes?: unknown }
      if (!Array.isArray(indexes)) throw new SheepError('invalid', 'the call names no indexes')
      const [vid, session] = [numberIn(argument, 'vid'), textIn(argument, 'session')]
      const found = this.referredHere(vid, session, indexes.map(Number))
      return { json: { referred: found }, body: Buffer.alloc(0) }
    }
    const settled: CallHandler = async (argument, _body, from) => {
      const { epoch, oid, sources } = argument as { epoch?: unknown; oid?: unknown; sources?: unknown }
      if (typeof oid !== 'number' || !Array.isArray(sources)) throw new SheepError('invalid', 'settled: oid, sources')
      const { clock, topology, peers, cluster } = this.options
      // What it has answered must have come before it is said that it has not.
      if (from !== cluster.self.id) await peers.caughtUp(from)
      const deadline = clock.now() + SETTLED_MS
      const settled = () => topology.epoch === epoch && this.router.settled(oid, from, sources)
      while (!settled() && clock.now() < deadline) await sleep(clock, SETTLED_POLL_MS)
      return { json: { settled: settled() }, body: Buffer.alloc(0) }
    }
    return new Map([
      ['settled', settled],
      ['clean', clean],
      ['referred', referred],
      ...this.holds.calls(),
      ...this.handOver.calls(),
    ])
  }

  /** As of Holds */
  hold(vid: number): Promise<() => void> {
    return this.holds.hold(vid)
  }

  /** See Quiesce (lib/vdi/operations.ts). */
  async referred(lock: VdiLock, indexes: readonly number[]): Promise<ReadonlySet<number> | null> {
    const { vid, session, node } = lock
    let found: readonly number[] | null
    if (node === this.options.cluster.self.id) {
      found = this.referredHere(vid, session, indexes)
    } else {
      try {
        const answer = await this.options.peers.call(node, 'referred', { vid, session, indexes })
        found = (answer.json as { referred: number[] | null }).referred
      } catch (error) {
        this.options.log(
          'debug',
          `asking node ${node} what vid ${vid.toString(16)} refers to: ${asSheepError(error).message}`,
        )
        found = null
      }
    }
    return found === null ? null : new Set(found)
  }

  // --- inside -----------------------------------------------------------------------------------------------------

  private referredHere(vid: number, session: string, indexes: readonly number[]): number[] | null {
    const open = this.open_.get(session)
    if (open === undefined || open.volume.vid !== vid || open.volume.isRevoked || open.volume.isTarget) return null
    return indexes.filter((index) => open.volume.refersTo(index))
  }

  readonly copiesOf = (vid: number): number => this.options.registry().get(vid)?.copies ?? 0

  readonly storeNodes = (): string[] => {
    return this.options.topology.storing().map((node) => node.id)
  }

  private mustRun(): void {
    const { cluster } = this.options
    if (cluster.status === 'running') return
    const code =
      cluster.status === 'waiting-for-format'
        ? 'wait-for-format'
        : cluster.status === 'stopped'
          ? 'shutting-down'
          : cluster.status === 'halted'
            ? 'halted'
            : 'starting-up'
    throw new SheepError(code, cluster.statusReason === '' ? `the cluster is ${cluster.status}` : cluster.statusReason)
  }

  /** A snapshot or rollback of the VDI takes a moment, in which it cannot be opened; afterwards the name means another vid. */
  private async lockPatiently(entry: VdiEntry, readOnly: boolean, request: OpenRequest): Promise<OpenVolume> {
    const { clock } = this.options
    const begun = clock.now()
    for (;;) {
      const attempt = this.lockAndLoad(entry, readOnly, request)
      this.loading.set(attempt, entry.vid)
      try {
        return await attempt
      } catch (error) {
        const { code } = asSheepError(error)
        const waited = clock.now() - begun
        const wait =
          code === 'busy' || this.meansAnother(request, entry)
            ? waited <= BUSY_MS_MAX
            : code === 'locked' &&
              waited <= CLOSING_MS_MAX &&
              (await this.handOver.isClosing(entry.vid, CLOSING_MS_MAX))
        if (!wait) throw code === 'locked' ? this.sayWhere(asSheepError(error), entry) : error
      } finally {
        this.loading.delete(attempt)
      }
      await sleep(clock, BUSY_RETRY_MS)
      entry = this.find(request.name, request.snapshot)
    }
  }

  /** It was looked up before this node had heard of what comes before the lock in the order of all: a snapshot, a rollback. */
  private meansAnother({ name, snapshot }: OpenRequest, { vid }: VdiEntry): boolean {
    try {
      return this.find(name, snapshot).vid !== vid
    } catch {
      return false
    }
  }

  private async lockAndLoad(entry: VdiEntry, readOnly: boolean, request: OpenRequest): Promise<OpenVolume> {
    const { cluster, random, clock, log, topology } = this.options
    const session = random.hex(SESSION_BYTES)
    const mode = readOnly ? 'read' : 'write'
    const command = { op: 'lock', vid: entry.vid, session, mode, holder: request.holder } as const
    let locked: VdiEntry
    try {
      // Who reads only is about to name nothing.
      locked = (await cluster.propose({ type: 'vdi', command }, !readOnly)) as VdiEntry
    } catch (error) {
      // Nobody knows whether it took effect, or will: a lock without a volume would stay as long as this node does.
      if (mayTakeEffect(asSheepError(error))) void this.unlock(entry.vid, session)
      throw error
    }
    try {
      if (this.meansAnother(request, entry))
        throw new SheepError('busy', `"${entry.name}" has been snapshotted, rolled back or made anew meanwhile`)
      // Until then its former holder, if it lost the volume and did not close it, may have writes on the wire.
      await this.handOver.reachedEverywhere(topology.epoch)
      const isTarget = this.ownLock(session)?.mode === 'target'
      const entries = isTarget
        ? new Uint32Array(entriesFor(locked.size, locked.blockSizeShift))
        : await this.readIndex(locked)
      if (!this.holdsLock(session))
        throw new SheepError('halted', `the lock of "${entry.name}" was lost while it was opened`)
      const replicasOf = (oid: Oid) => topology.replicas(oid, this.copiesOf(vidOf(oid))).map((node) => node.id)
      const volume = new GatewayVolume({
        router: this.router,
        clock,
        log,
        entry: this.options.registry().get(locked.vid) ?? locked,
        readOnly,
        entries,
        target: isTarget ? this.target(session) : null,
        copiesOf: this.copiesOf,
        storeNodes: this.storeNodes,
        replicasOf,
        holdersOf: (oid) => replicasOf(oid).filter((node) => !this.router.wentBy.has(oid, node)),
        tookAll: (oid) => this.tookAll(oid),
        mayHaveDropped: (oid, node) => this.mayHaveDropped(oid, node),
        standingOf: (node) => standingOf(topology.node(node)),
        givenUp: (oid) => topology.accepted(oid)?.epoch === topology.epoch,
        unreferenced: (owner, index) => this.unreferenced(session, owner, index),
        clean: (oids, ended) => this.clean(oids, ended),
        closed: () => this.closed(session),
        latency: this.latency,
      })
      const open: OpenVolume = {
        volume,
        session,
        shareable: request.shareable,
        clients: new Set(),
        closing: null,
        holder: request.holder,
        hold: null,
        arriving: false,
        releasing: new Set(),
        quorum: new QuorumWait({
          clock,
          limit: () => volume.entry.onNoQuorum ?? cluster.onNoQuorum,
          lostAt: () => this.router.suspendedAt,
          ended: () => volume.router.isRevoked,
        }),
      }
      volume.onChange = (what) => {
        for (const client of [...open.clients]) client.onChange?.(what)
      }
      this.open_.set(session, open)
      // A target may have become the writer, or lost its place, before it was here to be told.
      if (isTarget) this.locksChanged()
      return open
    } catch (error) {
      await this.unlock(locked.vid, session)
      throw error
    }
  }

  private target(session: string): MigrationTarget {
    const { clock, log } = this.options
    return new MigrationTarget({
      clock,
      log,
      readAtSource: (offset, length) => this.handOver.readAtSource(session, offset, length),
      takeOver: () => void this.handOver.takeOver(session),
    })
  }

  private share(open: OpenVolume): FileVolume {
    return new SharedVolume(open, () => {
      if (open.clients.size > 0) return Promise.resolve()
      open.closing = open.volume.close()
      return open.closing
    })
  }

  private async closed(session: string): Promise<void> {
    const open = this.open_.get(session)
    if (open === undefined) return
    this.forget(open)
    // Without the lock nothing of it is freed here any more.
    await this.unlock(open.volume.vid, session, open.volume.leftovers || open.releasing.size > 0)
  }

  /** The lock must go even when the cluster pauses: a lock that stays keeps the VDI from everybody. */
  private async unlock(vid: number, session: string, leftovers = false): Promise<void> {
    const { cluster, clock, log } = this.options
    this.unlocking.add(session)
    while (cluster.status !== 'stopped') {
      try {
        await cluster.propose({ type: 'vdi', command: { op: 'unlock', vid, session, leftovers } })
        break
      } catch (error) {
        const { code, message } = asSheepError(error)
        if (code === 'not-locked' || code === 'shutting-down' || code === 'not-found') break
        log('warning', `unlocking vid ${vid.toString(16)}: ${message}`)
        await sleep(clock, UNLOCK_RETRY_MS)
      }
    }
    this.unlocking.delete(session)
  }

  private unreferenced(session: string, owner: number, index: number): void {
    const { registry, release, log } = this.options
    const open = this.open_.get(session)
    const former = registry().get(owner)
    // The owner is live: it refers to the object itself.
    if (open === undefined || former === undefined || former.state === 'live') return
    const releasing = release(open.volume.vid, [dataOid(owner, index)])
      .catch((error: unknown) => {
        open.volume.leftovers = true
        const { message } = asSheepError(error)
        log('info', `an object of deleted VDI ${owner.toString(16)} is freed when its descendant is closed: ${message}`)
      })
      .finally(() => open.releasing.delete(releasing))
    open.releasing.add(releasing)
  }

  private async clean(oids: readonly Oid[], ended: boolean): Promise<void> {
    if (oids.length === 0) return
    const { topology, peers, replica, cluster, log } = this.options
    const byNode = new Map<string, Oid[]>()
    for (const oid of oids) {
      const copies = this.copiesOf(vidOf(oid))
      if (copies === 0) continue
      for (const node of topology.replicas(oid, copies)) {
        const list = byNode.get(node.id)
        if (list === undefined) byNode.set(node.id, [oid])
        else list.push(oid)
      }
    }
    await Promise.all(
      [...byNode].map(async ([node, list]) => {
        if (node === cluster.self.id) {
          replica.clean(list, ended, node)
          return
        }
        try {
          await peers.call(node, 'clean', { ended }, encodeOids(list), CLEAN_TIMEOUT_MS)
        } catch (error) {
          // They stay in that node's log: a check more after a crash, nothing worse.
          log('debug', `clean on node ${node}: ${asSheepError(error).message}`)
        }
      }),
    )
  }

  private ownLock(session: string): VdiLock | undefined {
    const { registry, cluster } = this.options
    return registry().lockOfSession(cluster.self.id, session)
  }

  private holdsLock(session: string): boolean {
    return this.ownLock(session) !== undefined
  }

  private writers(vid: number): OpenVolume[] {
    return [...this.open_.values()].filter(({ volume }) => volume.vid === vid && !volume.readOnly && !volume.isTarget)
  }

  private sayWhere(error: SheepError, entry: VdiEntry): SheepError {
    if (error.code !== 'locked') return error
    const lock = this.options.registry().lockOf(entry.vid)
    if (lock === undefined) return error
    const node = this.options.topology.node(lock.node)
    const where = node === undefined ? lock.node : `${node.name} (${node.host}:${node.port})`
    return new SheepError(
      'locked',
      `${formatReference(entry.name, '')} is open on ${where}: ${lock.holder}`,
      'close it there, or snapshot it and open the snapshot; dog vdi lock list shows all that are open',
    )
  }
}

function standingOf(node: NodeInfo | undefined): Standing | null {
  return node === undefined ? null : { boot: node.boot ?? '', lost: node.lost ?? 0, plugged: node.plugged ?? 0 }
}
