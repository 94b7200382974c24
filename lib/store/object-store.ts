/** The objects of one node: the table in memory, and the files behind it (layout: types.ts, header.ts, intent-log.ts). */
import { assert } from '../assert.js'
import {
  type Clock,
  type Completion,
  type Disk,
  DiskError,
  type DiskSpace,
  type Extent,
  type Log,
  type Timer,
} from '../host/interfaces.js'
import { assertOid, type Oid } from '../vdi/oid.js'
import { completed } from './completed.js'
import { ALLOCATE, DataOps, type DataPath, PUNCH, READ, READ_AS_IS, WRITE, ZERO } from './data-op.js'
import { type Handle, HandleCache, handlesDefault } from './handle-cache.js'
import { assertEpoch, HEADER_BYTES } from './header.js'
import { HeaderWriter } from './header-writer.js'
import { IntentLog } from './intent-log.js'
import { HEADER_STALE, ObjectFile, objectPath } from './object-file.js'
import { clearStage, makeDirectories, scanObjects } from './scan.js'
import { Sealer } from './sealer.js'
import { SpaceGauge } from './space-gauge.js'
import { StagedFile, type StageOwner } from './staged-file.js'
import { Syncs } from './syncs.js'
import type { Damage, Intent, ObjectStore, ObjectSums, StagedObject, StoredObject } from './types.js'
import { clearUnsynced, noteUnsynced, unsyncedObjects, writeAgain } from './unsynced.js'

const NOBODY: Completion = { complete() {} }
const ENOSPC = 28
const EIO = 5

const INTENTS_DEFAULT = 4096
const PARALLEL_SYNCS_DEFAULT = 2
const TRUST_MS_DEFAULT = 600_000
/** A sector that cannot be read is put right by being written; a disk with such ones in more objects than so many, in that time, is going. */
const READ_FAILURES_MAX = 10
const READ_FAILURES_MS = 600_000

export interface StoreOptions {
  clock: Clock
  log: Log
  /** Files kept open; twice as many while most are dirty */
  handles?: number
  /** Syncs of files and directories at a time; the default leaves half of libuv's four threads to others */
  parallelSyncs?: number
  /** Bytes of free space below which no object is created or received; default: see SpaceGauge */
  reserve?: number
  /** The last epoch that this node was in before it stopped; default 0, none */
  lastEpoch?: number
  /** A chunk that was compared with its checksum is read without another look for at most so long, ms; 0: never */
  trustMs?: number
  /** Intents above which `onIntentPressure` is called */
  intents?: number
  /** The disk did not do what it was asked for, and not for want of room: told before those who asked are */
  failed?: (errno: number, what: string) => void
  /**
   * Something that was here turns out to be no use as the store is opened: an object's file, or the intent log, which may have named
   * objects that the power took. Called, at times more than once, before anything is done that keeps the next start from seeing it.
   */
  spoiled?: () => void
  /** Told of each object that comes into the table or goes from it */
  index?: { added(file: ObjectFile): void; removed(file: ObjectFile): void }
}

export class FileStore implements ObjectStore, DataPath, StageOwner {
  readonly handles: HandleCache
  readonly headers: HeaderWriter
  readonly gauge: SpaceGauge
  intentsAtOpen: ReadonlyMap<Oid, Intent> = new Map()
  /** The intent log has become long: drop what is quiet. Called again only after it has shrunk by a quarter. */
  onIntentPressure: (() => void) | null = null

  /** A copy's bytes were found not to match their checksums, for the first time, or could not be read */
  onRot: ((object: StoredObject) => void) | null = null
  trust: number

  private readonly log: Log
  private readonly lastEpoch: number
  private readonly clock: Clock
  private readonly trustMs: number
  private readonly sealer: Sealer
  private readonly table = new Map<Oid, ObjectFile>()
  private readonly staging = new Map<Oid, StagedFile>()
  private readonly syncs: Syncs
  private readonly intents: IntentLog
  private readonly data: DataOps
  private closed = false
  /** Objects of which something could not be read -> Clock.now() then: one sector may be tried often */
  private readonly readFailures = new Map<Oid, number>()
  private trustTimer: Timer | null = null

  /** Opens the store under the disk's root, new or not. Throws DiskError, SheepError. */
  static async open(disk: Disk, options: StoreOptions): Promise<FileStore> {
    const store = new FileStore(disk, options)
    await store.load()
    return store
  }

  private constructor(
    readonly disk: Disk,
    private readonly options: StoreOptions,
  ) {
    this.log = options.log
    this.lastEpoch = options.lastEpoch ?? 0
    this.clock = options.clock
    this.trustMs = options.trustMs ?? TRUST_MS_DEFAULT
    this.trust = this.trustMs === 0 ? 0 : 1
    this.gauge = new SpaceGauge(disk, options.clock, options.reserve ?? -1)
    this.handles = new HandleCache(disk, options.handles ?? handlesDefault(disk), (file) => this.syncs.syncSoon(file))
    this.headers = new HeaderWriter(disk, this.handles)
    this.syncs = new Syncs({
      disk,
      handles: this.handles,
      headers: this.headers,
      log: options.log,
      parallel: options.parallelSyncs ?? PARALLEL_SYNCS_DEFAULT,
      removalsDurable: (oids) => this.forgetIntents(oids),
      unsynced: (oid) => noteUnsynced(disk, oid, options.log),
      failed: (errno, what) => this.failed(errno, what),
    })
    this.intents = new IntentLog(disk, options.intents ?? INTENTS_DEFAULT, options.log)
    this.intents.onPressure = () => this.intentPressure()
    this.data = new DataOps(this)
    this.sealer = new Sealer({
      disk,
      handles: this.handles,
      headers: this.headers,
      clock: options.clock,
      log: options.log,
      changed: (file) => this.syncs.changed(file),
      sync: (file, done) => this.syncs.syncObject(file, done),
      durable: (file) => this.syncs.durable(file),
      dropIntent: (oid) => this.intents.drop(oid),
      rot: (file) => this.onRot?.(file),
      readFailed: (file) => this.readFailed(file),
      unreadable: (file) => this.unreadable(file),
    })
  }

  private async load(): Promise<void> {
    const { disk, log } = this
    await makeDirectories(disk)
    clearStage(disk)
    const synced = await completed((done) => this.syncs.syncDirectories(done))
    if (synced < 0) throw new DiskError(-synced, 'sync', 'obj', `errno ${-synced}`)
    const { unfinished, spoiled } = await scanObjects(
      disk,
      log,
      ({ oid, writeEpoch, checkEpoch, shift }) => {
        const file = new ObjectFile(this.syncs, oid, writeEpoch, checkEpoch)
        file.shift = shift
        file.summed = shift !== 0
        file.headerSums = file.summed
        this.insert(file)
      },
      this.options.spoiled,
    )
    const unsynced = unsyncedObjects(disk)
    let logged = this.readIntents()
    if (logged === null) {
      if (this.table.size > 0 || this.intents.exists) this.options.spoiled?.()
      logged = new Map(
        [...this.table.values()].map(({ oid, writeEpoch }) => [
          oid,
          { epoch: writeEpoch, incomplete: true, lostIn: 0 },
        ]),
      )
      if (logged.size > 0) {
        log('warning', 'the intent log is missing or cannot be read: every object will be checked', {
          objects: logged.size,
        })
      }
    }
    if (unsynced.length > 0) for (const intent of logged.values()) intent.incomplete = true
    // A killed daemon loses no file: one that is not here was removed, and the log was not told yet. What the disk has spoiled
    // is not made anew, empty: others may have it, and none may lose it to that.
    for (const [oid, { incomplete }] of logged) {
      if (this.table.has(oid) || unfinished.has(oid)) continue
      if (!incomplete || spoiled.has(oid)) logged.delete(oid)
    }
    // What lost power since the last start did so in the last epoch that this node was in.
    for (const intent of logged.values()) if (intent.incomplete && intent.lostIn === 0) intent.lostIn = this.lastEpoch
    this.intentsAtOpen = logged
    for (const [oid, { epoch, incomplete, lostIn }] of logged) {
      const file = this.table.get(oid)
      if (file === undefined) continue
      if (file.writeEpoch < epoch) {
        // The one that was created in its place is lost: with the power, which has brought this one back.
        this.remove(file)
        continue
      }
      file.intent = true
      file.suspect = true
      file.incomplete = incomplete
      file.lostIn = lostIn
      file.doubtAllChunks()
      // A killed process may have left writes in the page cache that nobody has synced.
      this.wrote(file)
    }
    // What is made in place of one that is not here has what that was created with, nothing: of later epochs it says nothing, however long
    // its node went on with it. Another one's copy of those has all that was ever flushed.
    for (const [oid, intent] of logged) if (!this.table.has(oid)) intent.lostIn = Math.min(intent.lostIn, intent.epoch)
    if (unsynced.length > 0) await this.writeAgain([...unsynced, ...logged.keys()])
    // Those that are not here are kept too: what is made in their place is as doubtful.
    await this.intents.start(logged)
    clearUnsynced(disk)
    this.trustLater()
  }

  /** What failed syncs of a former run have left: unsynced.ts */
  private async writeAgain(oids: readonly Oid[]): Promise<void> {
    const files = new Set<ObjectFile>()
    for (const oid of oids) {
      const file = this.table.get(oid)
      if (file !== undefined) files.add(file)
    }
    this.log('warning', 'a sync failed when sheep last ran: what it may not have covered is written again', {
      objects: files.size,
    })
    for (const file of files) {
      await writeAgain(this.disk, objectPath(file.oid))
      this.wrote(file)
    }
  }

  private readIntents(): Map<Oid, Intent> | null {
    try {
      return this.intents.read()
    } catch (error) {
      if (!(error instanceof DiskError) || error.errno !== EIO) throw error
      this.log('error', error.message)
      return null
    }
  }

  // table

  get count(): number {
    return this.table.size
  }

  get(oid: Oid): StoredObject | undefined {
    return this.table.get(oid)
  }

  all(): IterableIterator<StoredObject> {
    return this.table.values()
  }

  ofVdi(vid: number): StoredObject[] {
    return [...this.syncs.objects(vid)]
  }

  private insert(file: ObjectFile): void {
    this.table.set(file.oid, file)
    this.syncs.insert(file)
    this.options.index?.added(file)
  }

  failed(errno: number, what: string): void {
    if (!this.closed) this.options.failed?.(errno, what)
  }

  readFailed(file: ObjectFile): void {
    const now = this.clock.now()
    this.readFailures.set(file.oid, now)
    for (const [oid, at] of this.readFailures) if (now - at >= READ_FAILURES_MS) this.readFailures.delete(oid)
    const { size } = this.readFailures
    if (size > READ_FAILURES_MAX) this.failed(EIO, `parts of ${size} objects cannot be read`)
  }

  unreadable(file: ObjectFile): void {
    this.log('error', `a part of ${objectPath(file.oid)} cannot be read`, { errno: EIO })
    file.unreadable = true
    this.readFailed(file)
    if (!file.removed) this.onRot?.(file)
  }

  /** Of all its objects: StoredObject.joinedEpoch */
  get joinedEpoch(): number {
    return this.syncs.joinedEpoch
  }

  set joinedEpoch(epoch: number) {
    this.syncs.joinedEpoch = epoch
  }

  get keptEpoch(): number {
    return this.syncs.keptEpoch
  }

  set keptEpoch(epoch: number) {
    this.syncs.keptEpoch = epoch
  }

  /** The object's file is no longer in its place. */
  private detach(file: ObjectFile): void {
    file.removed = true
    this.table.delete(file.oid)
    this.options.index?.removed(file)
    this.handles.release(file)
    this.syncs.detach(file)
  }

  // creation and removal

  create(oid: Oid, writeEpoch: number, intoReserve = false): StoredObject {
    assertOid(oid)
    assertEpoch(writeEpoch)
    assert(!this.closed, 'the store is open')
    const path = objectPath(oid)
    if (!intoReserve) this.refuseWhenFull('create', path)
    const former = this.table.get(oid)
    if (former !== undefined) this.remove(former)
    const file = new ObjectFile(this.syncs, oid, writeEpoch, 0)
    this.handles.adopt(file, this.handles.openFile(path, 'create-new'))
    file.header = HEADER_STALE
    this.headers.update(file)
    if (file.header === HEADER_STALE) {
      this.handles.release(file)
      this.discard(path)
      this.syncs.directoryChanged(oid)
      throw new DiskError(-file.headerError, 'create', path, `errno ${-file.headerError}`)
    }
    // A former object's entry speaks of the oid and so of this one too, unless it says less of how new it is.
    file.intent = this.intents.covers(oid, writeEpoch) && !this.syncs.mayReturn(oid)
    this.insert(file)
    this.syncs.directoryChanged(oid)
    this.wrote(file)
    return file
  }

  remove(object: StoredObject): void {
    const file = object as ObjectFile
    assert(!file.removed, 'an object is removed once')
    this.disk.unlink(objectPath(file.oid))
    this.detach(file)
  }

  private refuseWhenFull(operation: string, path: string, least = this.gauge.reserve): void {
    if (!this.gauge.belowReserve(least)) return
    const { free } = this.gauge.space()
    const reserve = Math.ceil(least)
    throw new DiskError(ENOSPC, operation, path, `no space: ${free} bytes are free, ${reserve} are held in reserve`)
  }

  private discard(path: string): void {
    try {
      this.disk.unlink(path)
    } catch (error) {
      if (!(error instanceof DiskError)) throw error
      this.log('warning', `a file is left behind: ${error.message}`)
    }
  }

  // data

  read(
    object: StoredObject,
    buffer: Uint8Array,
    bufferOffset: number,
    length: number,
    position: number,
    done: Completion,
  ): void {
    this.data.start(READ, object as ObjectFile, buffer, bufferOffset, length, position, done)
  }

  readAsIs(
    object: StoredObject,
    buffer: Uint8Array,
    bufferOffset: number,
    length: number,
    position: number,
    done: Completion,
  ): void {
    this.data.start(READ_AS_IS, object as ObjectFile, buffer, bufferOffset, length, position, done)
  }

  write(
    object: StoredObject,
    buffer: Uint8Array,
    bufferOffset: number,
    length: number,
    position: number,
    done: Completion,
  ): void {
    this.data.start(WRITE, object as ObjectFile, buffer, bufferOffset, length, position, done)
  }

  punch(object: StoredObject, position: number, length: number, done: Completion): void {
    this.data.start(PUNCH, object as ObjectFile, null, 0, length, position, done)
  }

  zero(object: StoredObject, position: number, length: number, done: Completion): void {
    this.data.start(ZERO, object as ObjectFile, null, 0, length, position, done)
  }

  allocate(object: StoredObject, length: number, done: Completion): void {
    this.data.start(ALLOCATE, object as ObjectFile, null, 0, length, 0, done)
  }

  extents(object: StoredObject, position: number, length: number): Extent[] {
    const { fd } = this.handles.of(object as ObjectFile)
    const found = this.disk.extents(fd, position + HEADER_BYTES, length)
    for (const extent of found) extent.offset -= HEADER_BYTES
    return found
  }

  usedBytes(object: StoredObject): number {
    return this.disk.usedBytes(this.handles.of(object as ObjectFile).fd)
  }

  setWriteEpoch(object: StoredObject, epoch: number): void {
    const file = object as ObjectFile
    assertEpoch(epoch)
    assert(!file.removed, 'an object that is gone is not used')
    assert(epoch >= file.writeEpoch, 'the epoch of the last write does not go back')
    if (epoch === file.writeEpoch) return
    file.writeEpoch = epoch
    this.wrote(file)
    this.headers.update(file)
  }

  setCheckEpoch(object: StoredObject, epoch: number): void {
    const file = object as ObjectFile
    assertEpoch(epoch)
    assert(!file.removed, 'an object that is gone is not used')
    if (epoch === file.checkEpoch) return
    file.checkEpoch = epoch
    this.syncs.changed(file)
    this.headers.update(file)
  }

  wrote(file: ObjectFile): void {
    this.syncs.wrote(file)
  }

  // syncs

  syncVdi(vid: number, done: Completion): void {
    this.syncs.syncVdi(vid, done)
  }

  syncObject(object: StoredObject, done: Completion): void {
    assert(!object.removed, 'an object that is gone is not used')
    this.syncs.syncObject(object as ObjectFile, done)
  }

  // received copies

  stage(oid: Oid, urgent: boolean, again = false): StagedObject {
    assertOid(oid)
    assert(!this.closed, 'the store is open')
    assert(!this.staging.has(oid), 'one copy of an object is received at a time')
    if (!again) this.refuseWhenFull('stage', objectPath(oid), this.gauge.least(urgent))
    const staged = new StagedFile(this, oid)
    this.staging.set(oid, staged)
    return staged
  }

  openStaged(path: string): number {
    // Left behind when its removal failed
    if (this.disk.exists(path)) this.disk.unlink(path)
    return this.handles.openFile(path, 'create-new')
  }

  discardStaged(path: string): void {
    this.discard(path)
  }

  stageWrote(bytes: number): void {
    this.gauge.wrote(bytes)
  }

  stageEnded(staged: StagedFile): void {
    this.staging.delete(staged.oid)
  }

  takeOver(staged: StagedFile, fd: number, writeEpoch: number, checkEpoch: number, done: Completion): void {
    const { oid } = staged
    const former = this.table.get(oid)
    if (former !== undefined) {
      former.replaced = true
      this.detach(former)
    }
    const file = new ObjectFile(this.syncs, oid, writeEpoch, checkEpoch)
    file.shift = staged.checksums.shift
    file.summed = file.shift !== 0
    file.headerSums = file.summed
    for (const chunk of staged.rot) file.rots(chunk)
    // The checksums were taken of these bytes just now, but for those that are known to be rotten.
    if (file.rot === null) file.trustAllChunks(this.trust)
    this.handles.adopt(file, fd)
    this.insert(file)
    this.syncs.syncPlace(oid, done)
  }

  // intents

  addIntent(object: StoredObject, done: Completion): void {
    const file = object as ObjectFile
    assert(!file.removed, 'an object that is gone is not used')
    if (file.intent) {
      done.complete(0)
      return
    }
    if (this.syncs.mayReturn(file.oid)) {
      // The former object of this id, should the power bring it back, would be taken for this one: of one epoch, with an entry.
      const placed: Completion = {
        complete: (result) => {
          if (result < 0 || file.removed) done.complete(Math.min(result, 0))
          else this.addIntent(file, done)
        },
      }
      this.syncs.syncPlace(file.oid, placed)
      return
    }
    this.intents.add(file.oid, file.writeEpoch, {
      complete: (result) => {
        if (result >= 0) {
          file.intent = true
          if (file.removed) this.syncs.removed(file.oid)
        } else if (result !== -ENOSPC) {
          this.failed(-result, 'intent log')
        }
        done.complete(result)
      },
    })
  }

  dropIntents(objects: readonly StoredObject[]): void {
    for (const object of objects) {
      const file = object as ObjectFile
      if (!file.intent || file.removed || !file.mayBeQuiet || !this.syncs.durable(file)) continue
      file.intent = false
      this.intents.drop(file.oid)
    }
  }

  /** A former object of this id was removed, and a power loss may bring it back, or its entry in the intent log */
  mayReturn(oid: Oid): boolean {
    return this.syncs.mayReturn(oid) || this.intents.mayReturn(oid)
  }

  /** One step towards that it may not; the other one, if there is one, is for the next call. */
  syncRemoval(oid: Oid, done: Completion): void {
    if (this.syncs.mayReturn(oid)) this.syncs.syncPlace(oid, done)
    else this.intents.settle(done)
  }

  /** Whether the log names the object, or a power loss may bring it or that back */
  knowsIntent(oid: Oid): boolean {
    return this.intents.knows(oid) || this.mayReturn(oid)
  }

  /** The object is not here, or is known equal: its entry goes. */
  forgetIntent(oid: Oid): void {
    this.forgetIntents([oid])
  }

  private forgetIntents(oids: readonly Oid[]): void {
    for (const oid of oids) if (this.table.get(oid)?.intent !== true) this.intents.drop(oid)
  }

  private intentPressure(): void {
    this.syncs.syncRemovals(NOBODY)
    this.onIntentPressure?.()
  }

  /** Completes when no power loss can bring back what was removed before the call, nor its entry in the intent log. */
  settleRemovals(done: Completion): void {
    const logged: Completion = {
      complete: (result) => {
        if (result < 0 && result !== -ENOSPC) this.failed(-result, 'intent log')
        done.complete(result)
      },
    }
    this.syncs.syncRemovals({
      complete: (result) => {
        if (result < 0) done.complete(result)
        else this.intents.settle(logged)
      },
    })
  }

  // checksums

  look(file: ObjectFile, handle: Handle, position: number, length: number, done: Completion): void {
    this.sealer.look(file, handle, position, length, done)
  }

  seal(object: StoredObject, bytes: number, quiet: () => boolean): Promise<boolean> {
    return this.sealer.seal(object as ObjectFile, bytes, quiet)
  }

  sums(object: StoredObject): Promise<ObjectSums | null> {
    return this.sealer.sums(object as ObjectFile)
  }

  verify(object: StoredObject, rest: (bytes: number) => Promise<void>): Promise<'compared' | 'unsealed' | 'header'> {
    return this.sealer.verifyAll(object as ObjectFile, rest)
  }

  damage(object: StoredObject): Promise<Damage | null> {
    return this.sealer.damage(object as ObjectFile)
  }

  pathOf(oid: Oid): string {
    return objectPath(oid)
  }

  mend(object: StoredObject, chunk: number, bytes: Buffer): Promise<number> {
    return this.sealer.mend(object as ObjectFile, chunk, bytes)
  }

  gaps(object: StoredObject, blank: boolean): Promise<number> {
    return this.sealer.gaps(object as ObjectFile, blank)
  }

  private trustLater(): void {
    if (this.trustMs === 0) return
    this.trustTimer = this.clock.after(this.trustMs, () => {
      this.trust++
      this.trustLater()
    })
  }

  rest(): Promise<void> {
    return new Promise((resolve) => this.clock.after(0, resolve))
  }

  // the whole

  space(): DiskSpace {
    return this.gauge.space()
  }

  /** Number of objects with an intent */
  get intentCount(): number {
    return this.intents.size
  }

  /** Takes the disk out as it is: nothing is synced, what is in flight ends with errors, all objects are removed ones. */
  async abandon(): Promise<void> {
    assert(!this.closed, 'a store is closed once')
    this.closed = true
    for (const staged of [...this.staging.values()]) staged.abort()
    for (const file of [...this.table.values()]) {
      file.replaced = true
      this.detach(file)
    }
    this.handles.releaseAll()
    await this.intents.close()
  }

  async close(): Promise<void> {
    assert(!this.closed, 'the store is closed once')
    this.closed = true
    this.trustTimer?.cancel()
    for (const staged of [...this.staging.values()]) staged.abort()
    let failure = 0
    for (const vid of this.syncs.vids()) {
      const result = await completed((done) => this.syncVdi(vid, done))
      if (result < 0) failure = result
    }
    await this.intents.close()
    this.handles.releaseAll()
    if (failure < 0) throw new DiskError(-failure, 'sync', 'obj', `errno ${-failure}`)
  }
}
