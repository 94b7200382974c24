/**
 * The disks of one node, and which object lies on which: disks that come and go, and the node's state on each of them
 * (docs/architecture.md, "Disks"). DiskSet makes one ObjectStore of it.
 */
import { assert } from '../assert.js'
import { SheepError } from '../errors.js'
import { type Clock, type Disk, DiskError, type Log } from '../host/interfaces.js'
import { type Oid, oidToHex } from '../vdi/oid.js'
import { completed } from './completed.js'
import { departuresAfter, keptBy } from './departures.js'
import { type DiskReport, NOTHING, ofInterest, type Place, reportOf } from './disk-report.js'
import { type DiskEntry, type NodeState, writeState } from './identity.js'
import { type AttachedDisk, diskFails, type NodeDisks, type UnusableDisk } from './node-disks.js'
import { markOf, type ObjectFile } from './object-file.js'
import { FileStore } from './object-store.js'
import type { Intent, StoredObject } from './types.js'

const ENOSPC = 28

export interface DiskSetOptions {
  clock: Clock
  log: Log
  /** FileStore's lastEpoch, of a disk that is about to be opened */
  lastEpochOn?: (disk: Disk) => number
  /** Newest epoch that this node may have served */
  epoch: () => number
  /** A disk is gone: serve nothing until an epoch above `lostEpoch` has begun. Called before anybody hears of a failed request */
  lost: (path: string, reason: string) => void
  /** The last one is gone */
  allLost: (reason: string) => void
  /** Bytes: SpaceGauge's, of each disk; -1 or absent: in proportion to its size */
  reserve?: number
  /** Files kept open, of each disk */
  handles?: number
  /** FileStore's */
  trustMs?: number
}

export class DiskPlaces {
  /** A read found bytes that do not match their checksum. */
  onRot: ((object: StoredObject) => void) | null = null
  readonly intentsAtOpen = new Map<Oid, Intent>()
  /** An object's `place` is an index of this; those that are lost stay */
  protected readonly places: Place[] = []
  protected readonly index = new Map<Oid, ObjectFile>()
  private node: NodeState
  private pendingLoss = false
  /** Some that the state lists was not there when this node started */
  private missing = false
  protected closed = false

  /** Opens all. SheepError when none of the node's own disks can be opened. */
  protected async openAll(found: NodeDisks): Promise<void> {
    const { options } = this
    let failure: SheepError | null = null
    // Its own first: of equal copies theirs stay.
    for (const { id, attached, own } of [...found.disks].sort((a, b) => Number(b.own) - Number(a.own))) {
      try {
        await this.add(id, attached, own ? (this.entry(id)?.joined ?? 0) : Number.POSITIVE_INFINITY)
      } catch (error) {
        if (!(error instanceof DiskError)) throw error
        failure ??= diskFails(attached.path, error)
        options.log('error', `disk ${attached.path} fails: ${error.message}; this node starts without it`)
        attached.close()
      }
    }
    if (this.ownPlaces().length === 0)
      throw failure ?? new SheepError('io', 'none of the disks of this node can be opened')
    // One that failed while others were opened is not listed any more.
    this.missing = this.node.disks.some((entry) => !this.working().some((place) => place.id === entry.id))
    this.pendingLoss ||= this.missing
    await this.tidyIntents()
  }

  private readonly unusable: UnusableDisk[]
  protected constructor(
    found: NodeDisks,
    private readonly options: DiskSetOptions,
  ) {
    this.node = found.state
    this.pendingLoss = found.state.lossPending === true
    this.unusable = [...found.unusable]
  }

  // --- the node's state ----------------------------------------------------------------------------------------------

  get state(): NodeState {
    return this.node
  }

  /** Epochs in which all copies of this node's share were valid, ascending */
  get recovered(): readonly number[] {
    return [...this.node.recoveredBefore, this.node.recoveredEpoch]
  }

  /** Why what this node says proves nothing of writes up to some epoch (lib/replication/validity.ts, Doubts) */
  get doubts(): { passedEpochs: readonly number[]; lostEpoch: number } {
    const { passedEpochs, lostEpoch } = this.node
    return { passedEpochs, lostEpoch }
  }

  /** For those among whom this node joins: the epoch after the last one of which something it had may have gone with a disk; 0 none */
  get lostBefore(): number {
    const last = Math.max(this.node.lostEpoch, this.pendingLoss ? (this.node.base ?? 0) : 0)
    return last > 0 ? last + 1 : 0
  }

  /** On every disk, durably. A disk that fails at it is lost. */
  save(change: Partial<Pick<NodeState, 'clusterId' | 'recoveredEpoch' | 'recoveredBefore' | 'passedEpochs'>>): void {
    this.saveAll({ ...this.node, ...change })
  }

  private saveAll(state: Omit<NodeState, 'disks' | 'generation'>): void {
    const disks: DiskEntry[] = this.ownPlaces().map(({ id, attached, store }) => ({
      id,
      path: attached.path,
      joined: store!.joinedEpoch,
      kept: store!.keptEpoch,
    }))
    // A disk that is missing since the start stays listed until its loss is settled.
    const missing = this.pendingLoss ? this.node.disks.filter((entry) => !this.gone(entry.id)) : []
    for (const entry of missing) if (!disks.some((disk) => disk.id === entry.id)) disks.push(entry)
    const departures = departuresAfter(this.node, disks, state.lostEpoch)
    this.node = { ...state, generation: this.node.generation + 1, disks, departures }
    for (const place of this.working()) {
      try {
        writeState(place.attached.disk, this.node)
      } catch (error) {
        if (!(error instanceof DiskError)) throw error
        this.lose(place, error.message)
      }
    }
  }

  /** It was lost while this daemon ran, and the state has been saved without it. */
  private gone(id: string): boolean {
    return this.places.some((place) => place.id === id && place.store === null)
  }

  /**
   * What is spoiled on this disk is as good as lost with one: without it this node proves nothing. On the disk before it is put right
   * there, so that a daemon that dies in between does not forget it. DiskError
   */
  private spoiledOn(disk: Disk): void {
    if (this.node.lossPending) return
    this.pendingLoss = true
    this.node = { ...this.node, generation: this.node.generation + 1, lossPending: true }
    writeState(disk, this.node)
  }

  private entry(id: string) {
    return this.node.disks.find((entry) => entry.id === id)
  }

  /** `epoch`: the newest that the log on its own disks knows. Called before the others can hear of this node. */
  started(epoch: number): void {
    if (this.node.base === undefined) this.saveAll({ ...this.node, base: epoch })
  }

  /** Until an epoch begins with this node: what `started` was told; null afterwards. */
  get base(): number | null {
    return this.node.base ?? null
  }

  /** All that work now. */
  get diskIds(): string[] {
    return this.working().map(({ id }) => id)
  }

  /**
   * Whether this node may have served without its own disks in an epoch after `base`, which it joined with `disks` (undefined: not known).
   * One of those that served would know of the epoch. One that is missing now may have gone on alone.
   */
  servedWithout(disks: readonly string[] | undefined): boolean {
    if (this.missing) return true
    const own = this.ownPlaces()
    return disks === undefined ? own.length < this.working().length : !own.some(({ id }) => disks.includes(id))
  }

  /** This node served in epochs that its disks do not know of: all of them count as having been away, and one as lost. */
  distrustAll(): void {
    for (const { id, store } of this.ownPlaces()) {
      store!.keptEpoch = keptBy(this.node, id, true)
      store!.joinedEpoch = Number.POSITIVE_INFINITY
    }
    this.pendingLoss = true
  }

  /** Before `started`: an object was lost, and cannot be made anew to say so. That it is not here proves nothing, as with a lost disk. */
  countLoss(): void {
    this.pendingLoss = true
  }

  /** Copies are given up that count for epochs up to this one: what this node says proves nothing of them any more, durably. */
  renounce(epoch: number): void {
    if (this.node.lostEpoch < epoch) this.saveAll({ ...this.node, lostEpoch: epoch })
  }

  /** Called as each epoch begins, before anything is served in it: what has come and gone before it counts from here. */
  epochBegins(epoch: number): void {
    const { base, lossPending, ...state } = this.node
    let changed = this.pendingLoss || base !== undefined
    let { lostEpoch } = state
    if (this.pendingLoss) lostEpoch = Math.max(lostEpoch, epoch - 1)
    this.pendingLoss = false
    for (const place of this.working()) {
      if (place.store!.joinedEpoch !== Number.POSITIVE_INFINITY) continue
      place.store!.joinedEpoch = epoch
      changed = true
    }
    if (changed) this.saveAll({ ...state, lostEpoch })
  }

  /** The cluster's log is on these; `own`: not strange. */
  list(): { disk: Disk; own: boolean }[] {
    return this.working().map(({ attached, store }) => ({
      disk: attached.disk,
      own: store!.joinedEpoch !== Number.POSITIVE_INFINITY,
    }))
  }

  /** A small file of the node, on each disk: null when none has it. */
  readFile(path: string): Buffer | null {
    for (const [number, { store }] of this.places.entries()) {
      const content = store === null ? null : this.guard(number, () => store.disk.readFile(path))
      if (content) return content
    }
    return null
  }

  /** Durable on return on all disks that have room. */
  writeFileAtomic(path: string, content: string): void {
    for (const [number, { store, attached }] of this.places.entries()) {
      if (store === null) continue
      try {
        this.guard(number, () => store.disk.writeFileAtomic(path, content))
      } catch (error) {
        this.options.log('warning', `${attached.path}: ${(error as Error).message}`)
      }
    }
  }

  // --- disks that come and go ----------------------------------------------------------------------------------------

  /** Objects of it are here afterwards; new ones in `intentsAtOpen`'s sense are suspects. SheepError, DiskError */
  private async add(id: string, attached: AttachedDisk, joined: number): Promise<Place> {
    const { clock, log } = this.options
    const number = this.places.length
    const place: Place = { id, attached, store: null, state: 'failed', reason: 'not open yet', turn: 0 }
    this.places.push(place)
    let store: FileStore
    try {
      store = await FileStore.open(attached.disk, {
        clock,
        log,
        reserve: this.options.reserve,
        // They share what the process may have open; a disk more or less does not matter.
        handles: this.options.handles,
        trustMs: this.options.trustMs,
        // The others have been counted as lost since they went away.
        spoiled: () => joined !== Number.POSITIVE_INFINITY && this.spoiledOn(attached.disk),
        lastEpoch: this.options.lastEpochOn?.(attached.disk),
        failed: (errno, what) => void this.lose(place, `${what}: errno ${errno}`),
        index: {
          added: (file) => {
            file.place = number
            // While the disk is being opened its objects wait for `adopt`.
            if (place.store !== null) this.cameIn(file)
          },
          removed: (file) => this.wentOut(file),
        },
      })
    } catch (error) {
      place.reason = (error as Error).message
      throw error
    }
    store.joinedEpoch = joined
    store.keptEpoch = keptBy(this.node, id, joined === Number.POSITIVE_INFINITY)
    store.onRot = (object) => this.onRot?.(object)
    place.store = store
    place.state = 'working'
    place.reason = ''
    this.adopt(place, store)
    return place
  }

  /** Of two copies of one object the one with the higher mark stays; its own among equals. */
  private adopt(place: Place, store: FileStore): void {
    const { log } = this.options
    for (const object of [...store.all()]) {
      const file = object as ObjectFile
      const former = this.index.get(file.oid)
      if (former === undefined) {
        this.index.set(file.oid, file)
        continue
      }
      const newer = markOf(file) > markOf(former)
      const loser = newer ? former : file
      log('notice', `two copies of object ${oidToHex(file.oid)}: dropping the older one`, {
        disk: this.places[loser.place].attached.path,
        mark: markOf(loser),
        kept: markOf(newer ? file : former),
      })
      if (newer) this.index.set(file.oid, file)
      this.discard(loser)
    }
    for (const [oid, intent] of store.intentsAtOpen) {
      if (store.get(oid) !== undefined || store.joinedEpoch !== Number.POSITIVE_INFINITY)
        this.intentsAtOpen.set(oid, intent)
      // It speaks of a copy that was made, and lost, before this disk went away.
      else store.forgetIntent(oid)
    }
    assert(place.store === store, 'a disk is adopted as it opens')
  }

  protected discard(file: ObjectFile): void {
    const { store } = this.places[file.place]
    if (store === null || file.removed) return
    file.replaced = true
    if (file.intent) store.dropIntents([file])
    this.guard(file.place, () => store.remove(file))
  }

  /** When the node starts. An intent must lie beside its object: only that disk's loss takes both. */
  private async tidyIntents(): Promise<void> {
    // One that was away speaks of its own copies only (`adopt`).
    for (const { store } of this.ownPlaces()) {
      for (const oid of store?.intentsAtOpen.keys() ?? []) {
        const file = this.index.get(oid)
        // Disks may fail meanwhile.
        const home = file === undefined ? null : this.storeOf(file)
        if (file === undefined || home === null || store!.get(oid) !== undefined) continue
        file.suspect = true
        await completed((done) => home.addIntent(file, done))
        if (file.intent) store!.forgetIntent(oid)
      }
    }
  }

  /**
   * A disk for a node that runs; `id` from findDisk. Its objects are here when this ends, and count from the next epoch on. SheepError
   * exists, DiskError. Returns the objects that have an intent.
   */
  async plug(id: string, attached: AttachedDisk): Promise<StoredObject[]> {
    const other = this.working().find((place) => place.id === id)
    if (other !== undefined) {
      throw new SheepError('exists', `${attached.path} is in use already, as ${other.attached.path}`)
    }
    const at = this.unusable.findIndex((one) => one.id === id || one.path === attached.path)
    const place = await this.add(id, attached, Number.POSITIVE_INFINITY)
    if (at >= 0) this.unusable.splice(at, 1)
    return [...place.store!.all()].filter((object) => object.intent)
  }

  /** Its objects are gone when this returns; the file system can be unmounted when it ends. SheepError not-found, invalid */
  async unplug(name: string): Promise<string> {
    const place = this.named(name)
    if (this.ownPlaces().every((own) => own === place)) {
      const alone = this.working().length === 1
      throw new SheepError(
        'invalid',
        `${place.attached.path} is the only disk of this node${alone ? '' : ' until the next epoch begins'}`,
        alone ? 'dog node kill stops the node' : 'try again in a moment',
      )
    }
    await this.lose(place, 'unplugged by an administrator')
    place.state = 'unplugged'
    return place.attached.path
  }

  /** The cluster's log could not be written there. */
  failed(disk: Disk, what: string): void {
    const place = this.places.find(({ attached }) => attached.disk === disk)
    if (place !== undefined) void this.lose(place, what)
  }

  objectsOn(name: string): StoredObject[] {
    return [...(this.named(name).store as FileStore).all()]
  }

  /** By id, path or number in `report`. */
  private named(name: string): Place {
    const listed = ofInterest(this.places)
    const number = /^[0-9]{1,4}$/.test(name) ? Number(name) : -1
    const place = listed.find((one) => one.id === name || one.attached.path === name) ?? listed[number]
    if (place?.store) return place
    throw new SheepError('not-found', `this node uses no disk ${name}`, 'dog node md info shows its disks')
  }

  /** Resolves when its files are closed. */
  protected async lose(place: Place, reason: string): Promise<void> {
    const { store } = place
    if (store === null || this.closed) return
    const { log, lost, allLost, epoch } = this.options
    place.store = null
    place.state = 'failed'
    place.reason = reason
    const { path } = place.attached
    // What came since does not count yet, and this one's state does not list it: that might serve alone.
    if (this.ownPlaces().length === 0) {
      log('error', `disk ${path} fails (${reason}), and it is the last one of this node`)
      allLost(`${path}: ${reason}`)
      return
    }
    log('error', `disk ${path} is taken out: ${reason}. Its ${store.count} objects are copied again from other nodes`, {
      hint: 'replace it; dog node md plug brings it, or a new one, back',
    })
    const abandoned = store.abandon()
    // Before this process has been in an epoch nobody can say yet which the last one is that the disk has served in. Later epochs that begin
    // without this node's knowledge, while it stands still, are none.
    this.pendingLoss ||= epoch() === 0
    this.saveAll({ ...this.node, lostEpoch: Math.max(this.node.lostEpoch, epoch()) })
    lost(path, reason)
    try {
      await abandoned
      place.attached.close()
    } catch (error) {
      if (!(error instanceof DiskError)) throw error
      log('debug', `closing ${path}: ${error.message}`)
    }
  }

  report(): DiskReport[] {
    for (const [number, { store }] of this.places.entries()) if (store !== null) this.guard(number, () => store.space())
    const reports = ofInterest(this.places).map(reportOf)
    for (const { id, path, state, reason } of this.unusable) reports.push({ ...NOTHING, id, path, state, reason })
    return reports
  }

  /** Those that work and were not away. */
  private ownPlaces(): Place[] {
    return this.working().filter((place) => place.store!.joinedEpoch !== Number.POSITIVE_INFINITY)
  }

  protected working(): Place[] {
    return this.places.filter((place) => place.store !== null)
  }

  /** null: its disk is lost */
  protected storeOf(object: StoredObject): FileStore | null {
    return this.places[(object as ObjectFile).place].store
  }

  // --- the table -----------------------------------------------------------------------------------------------------

  /** A new object, or a received copy that has just taken the place of one. */
  private cameIn(file: ObjectFile): void {
    const former = this.index.get(file.oid)
    // Elsewhere it stays until the new one is durable (`replaceEverywhere`); what is being written to it is lost.
    if (former !== undefined) former.replaced = true
    this.index.set(file.oid, file)
  }

  private wentOut(file: ObjectFile): void {
    if (this.index.get(file.oid) !== file) return
    this.index.delete(file.oid)
    for (const { store } of this.places) {
      // It was to be replaced by the one that went, which has not been served yet.
      const former = store?.get(file.oid) as ObjectFile | undefined
      if (former === undefined || former === file) continue
      former.replaced = false
      this.index.set(file.oid, former)
    }
  }

  protected replaceEverywhere(oid: Oid): void {
    const current = this.index.get(oid)
    for (const { store } of this.places) {
      const other = store?.get(oid) as ObjectFile | undefined
      if (other !== undefined && other !== current) this.discard(other)
    }
  }

  async close(): Promise<void> {
    assert(!this.closed, 'the store is closed once')
    const working = this.working()
    let failure: unknown = null
    for (const { store, attached } of working) {
      try {
        await store!.close()
        attached.close()
      } catch (error) {
        failure = error
      }
    }
    this.closed = true
    if (failure !== null) throw failure
  }

  /** What throws because the disk fails loses it. */
  protected guard<T>(place: number, work: () => T): T | undefined {
    try {
      return work()
    } catch (error) {
      if (!(error instanceof DiskError) || error.errno === ENOSPC) throw error
      void this.lose(this.places[place], error.message)
      return undefined
    }
  }
}
