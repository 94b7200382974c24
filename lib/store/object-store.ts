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
} from '../host/interfaces.js'
import { assertOid, type Oid, oidToHex, vidOf } from '../vdi/oid.js'
import { completed } from './completed.js'
import { ALLOCATE, DataOps, type DataPath, PUNCH, READ, WRITE, ZERO } from './data-op.js'
import { HandleCache } from './handle-cache.js'
import { assertEpoch, HEADER_BYTES } from './header.js'
import { HeaderWriter } from './header-writer.js'
import { IntentLog } from './intent-log.js'
import {
  DIRECTORIES,
  directoryIndex,
  directoryPath,
  type FileOwner,
  HEADER_STALE,
  ObjectFile,
  objectPath,
} from './object-file.js'
import { clearStage, makeDirectories, scanObjects } from './scan.js'
import { SpaceGauge } from './space-gauge.js'
import { StagedFile, type StageOwner } from './staged-file.js'
import { SyncGroup, SyncQueue, SyncUnit } from './sync-queue.js'
import type { ObjectStore, StagedObject, StoredObject } from './types.js'

const ENOSPC = 28
const EIO = 5

const HANDLES_DEFAULT = 4096
const INTENTS_DEFAULT = 4096
const PARALLEL_SYNCS_DEFAULT = 2

const NOBODY: Completion = { complete() {} }

export interface StoreOptions {
  disk: Disk
  clock: Clock
  log: Log
  /** Files kept open */
  handles?: number
  /** Syncs of files and directories at a time; the default leaves half of libuv's four threads to others */
  parallelSyncs?: number
  /** Bytes of free space below which no object is created or received; default: see SpaceGauge */
  reserve?: number
  /** Intents above which `onIntentPressure` is called */
  intents?: number
}

/** A directory of objects whose entries changed. */
class DirectoryUnit extends SyncUnit {
  /** Objects removed from it, whose intents go once the removal is durable */
  removed: Oid[] = []
  private covering: Oid[] = []

  constructor(
    private readonly store: FileStore,
    readonly index: number,
  ) {
    super()
  }

  startSync(done: Completion): void {
    this.covering = this.removed
    this.removed = []
    this.store.syncDirectory(this, done)
  }

  synced(ok: boolean): void {
    if (ok) this.store.forgetIntents(this.covering)
    else this.removed = this.covering.concat(this.removed)
    this.covering = []
  }
}

class VdiFiles {
  readonly objects = new Set<ObjectFile>()
  /** Objects whose sync unit is not idle */
  readonly unsynced = new Set<ObjectFile>()
  /** Directories in which objects of this vid came or went, and no sync of the vid covered it */
  readonly directories = new Set<DirectoryUnit>()
}

export class FileStore implements ObjectStore, DataPath, FileOwner, StageOwner {
  readonly disk: Disk
  readonly handles: HandleCache
  readonly headers: HeaderWriter
  readonly gauge: SpaceGauge
  intentsAtOpen: ReadonlySet<Oid> = new Set()
  /** The intent log has become long: drop what is quiet. Called again only after it has shrunk by a quarter. */
  onIntentPressure: (() => void) | null = null

  private readonly log: Log
  private readonly table = new Map<Oid, ObjectFile>()
  private readonly vdis = new Map<number, VdiFiles>()
  private readonly directories: DirectoryUnit[] = []
  private readonly staging = new Map<Oid, StagedFile>()
  private readonly syncs: SyncQueue
  private readonly intents: IntentLog
  private readonly data: DataOps
  private closed = false

  /** Use `openObjectStore`. */
  constructor(options: StoreOptions) {
    this.disk = options.disk
    this.log = options.log
    this.gauge = new SpaceGauge(options.disk, options.clock, options.reserve ?? -1)
    this.handles = new HandleCache(options.disk, options.handles ?? HANDLES_DEFAULT, (file) => this.syncSoon(file))
    this.headers = new HeaderWriter(options.disk, this.handles)
    this.syncs = new SyncQueue(options.parallelSyncs ?? PARALLEL_SYNCS_DEFAULT)
    this.intents = new IntentLog(options.disk, options.intents ?? INTENTS_DEFAULT, options.log)
    this.intents.onPressure = () => this.intentPressure()
    this.data = new DataOps(this)
    for (let index = 0; index < DIRECTORIES; index++) this.directories.push(new DirectoryUnit(this, index))
  }

  async open(): Promise<void> {
    const { disk, log } = this
    await makeDirectories(disk)
    clearStage(disk)
    await scanObjects(disk, log, ({ oid, writeEpoch, checkEpoch }) => {
      this.insert(new ObjectFile(this, oid, writeEpoch, checkEpoch))
    })
    let logged = this.readIntents()
    if (logged === null) {
      logged = new Set(this.table.keys())
      if (logged.size > 0) {
        log('warning', 'the intent log is missing or cannot be read: every object will be checked', {
          objects: logged.size,
        })
      }
    }
    this.intentsAtOpen = logged
    // An object that is not here needs no check: there is nothing to be wrong.
    const suspects = [...logged].filter((oid) => this.table.has(oid))
    for (const oid of suspects) {
      const file = this.table.get(oid)!
      file.intent = true
      file.suspect = true
      // A killed process may have left writes in the page cache that nobody has synced.
      this.wrote(file)
      this.directoryChanged(oid)
    }
    await this.intents.start(suspects)
  }

  private readIntents(): Set<Oid> | null {
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
    return [...(this.vdis.get(vid)?.objects ?? [])]
  }

  private vdi(vid: number): VdiFiles {
    let files = this.vdis.get(vid)
    if (files === undefined) {
      files = new VdiFiles()
      this.vdis.set(vid, files)
    }
    return files
  }

  private insert(file: ObjectFile): void {
    this.table.set(file.oid, file)
    this.vdi(vidOf(file.oid)).objects.add(file)
  }

  /** The object's file is no longer in its place. */
  private detach(file: ObjectFile): void {
    file.removed = true
    this.table.delete(file.oid)
    const files = this.vdi(vidOf(file.oid))
    files.objects.delete(file)
    files.unsynced.delete(file)
    this.handles.release(file)
    const directory = this.directoryChanged(file.oid)
    if (this.intents.knows(file.oid)) directory.removed.push(file.oid)
  }

  private directoryChanged(oid: Oid): DirectoryUnit {
    const directory = this.directories[directoryIndex(oid)]
    directory.changed = true
    this.vdi(vidOf(oid)).directories.add(directory)
    return directory
  }

  // creation and removal

  create(oid: Oid, writeEpoch: number): StoredObject {
    assertOid(oid)
    assertEpoch(writeEpoch)
    assert(!this.closed, 'the store is open')
    const path = objectPath(oid)
    this.refuseWhenFull('create', path)
    const former = this.table.get(oid)
    if (former !== undefined) this.remove(former)
    const file = new ObjectFile(this, oid, writeEpoch, 0)
    this.handles.adopt(file, this.handles.openFile(path, 'create-new'))
    file.header = HEADER_STALE
    this.headers.update(file)
    if (file.header === HEADER_STALE) {
      this.handles.release(file)
      this.discard(path)
      throw new DiskError(-file.headerError, 'create', path, `errno ${-file.headerError}`)
    }
    // A former object's entry speaks of the oid and so of this one too.
    file.intent = this.intents.has(oid)
    this.insert(file)
    this.directoryChanged(oid)
    this.wrote(file)
    return file
  }

  remove(object: StoredObject): void {
    const file = object as ObjectFile
    assert(!file.removed, 'an object is removed once')
    this.disk.unlink(objectPath(file.oid))
    this.detach(file)
  }

  private refuseWhenFull(operation: string, path: string): void {
    if (!this.gauge.belowReserve()) return
    const { free } = this.gauge.space()
    const reserve = Math.ceil(this.gauge.reserve)
    throw new DiskError(ENOSPC, operation, path, `no space: ${free} bytes are free, ${reserve} are held in reserve`)
  }

  private discard(path: string): void {
    try {
      this.disk.unlink(path)
    } catch (error) {
      if (!(error instanceof DiskError)) throw error
      this.log('warning', `a file is left behind until the next start: ${error.message}`)
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
    this.changed(file)
    this.headers.update(file)
  }

  wrote(file: ObjectFile): void {
    file.wrote = true
    file.dirty = true
    this.changed(file)
  }

  private changed(file: ObjectFile): void {
    if (file.changed) return
    file.changed = true
    if (!file.removed) this.vdi(vidOf(file.oid)).unsynced.add(file)
  }

  // syncs

  syncVdi(vid: number, done: Completion): void {
    const files = this.vdis.get(vid)
    if (files === undefined) {
      done.complete(0)
      return
    }
    const units: SyncUnit[] = []
    for (const file of files.unsynced) units.push(file)
    for (const directory of files.directories) {
      if (directory.idle) files.directories.delete(directory)
      else units.push(directory)
    }
    if (files.objects.size === 0 && files.directories.size === 0) this.vdis.delete(vid)
    if (units.length === 0) {
      done.complete(0)
      return
    }
    const group = new SyncGroup(units.length, done)
    for (const unit of units) this.syncs.join(unit, group)
  }

  syncObject(object: StoredObject, done: Completion): void {
    const file = object as ObjectFile
    assert(!file.removed, 'an object that is gone is not used')
    const directory = this.directories[directoryIndex(file.oid)]
    const group = new SyncGroup(2, done)
    this.syncs.join(file, group)
    if (this.vdi(vidOf(file.oid)).directories.has(directory)) this.syncs.join(directory, group)
    else group.complete(0)
  }

  private syncSoon(file: ObjectFile): void {
    if (!file.queued && !file.syncing) this.syncs.join(file, NOBODY)
  }

  syncFile(file: ObjectFile, done: Completion): void {
    if (file.removed) {
      done.complete(0)
      return
    }
    this.headers.ready(file, {
      complete: (result) => {
        if (result < 0 || file.removed) done.complete(result)
        else this.syncContent(file, done)
      },
    })
  }

  private syncContent(file: ObjectFile, done: Completion): void {
    let handle: ReturnType<HandleCache['of']>
    try {
      handle = this.handles.of(file)
    } catch (error) {
      if (!(error instanceof DiskError)) throw error
      done.complete(-error.errno)
      return
    }
    handle.pins++
    this.disk.sync(handle.fd, {
      complete: (result) => {
        this.handles.unpin(handle)
        if (result < 0) {
          file.lost = result
          this.log('error', `a sync failed, what it covered may be lost: object ${oidToHex(file.oid)}`, {
            errno: -result,
          })
        }
        done.complete(result)
      },
    })
  }

  fileSynced(file: ObjectFile, ok: boolean): void {
    if (ok) file.dirty = file.wrote
    if (file.idle && !file.removed) this.vdi(vidOf(file.oid)).unsynced.delete(file)
  }

  syncDirectory(directory: DirectoryUnit, done: Completion): void {
    const path = directoryPath(directory.index)
    this.disk.syncDirectory(path, {
      complete: (result) => {
        if (result < 0) {
          directory.lost = result
          this.log('error', `a sync failed, files in ${path} may be lost`, { errno: -result })
        }
        done.complete(result)
      },
    })
  }

  // received copies

  stage(oid: Oid): StagedObject {
    assertOid(oid)
    assert(!this.closed, 'the store is open')
    assert(!this.staging.has(oid), 'one copy of an object is received at a time')
    this.refuseWhenFull('stage', objectPath(oid))
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

  takeOver(oid: Oid, fd: number, writeEpoch: number, checkEpoch: number, done: Completion): void {
    const former = this.table.get(oid)
    if (former !== undefined) {
      former.replaced = true
      this.detach(former)
    }
    const file = new ObjectFile(this, oid, writeEpoch, checkEpoch)
    this.handles.adopt(file, fd)
    this.insert(file)
    this.syncs.join(this.directoryChanged(oid), done)
  }

  // intents

  addIntent(object: StoredObject, done: Completion): void {
    const file = object as ObjectFile
    assert(!file.removed, 'an object that is gone is not used')
    if (file.intent) {
      done.complete(0)
      return
    }
    this.intents.add(file.oid, {
      complete: (result) => {
        if (result >= 0) {
          file.intent = true
          if (file.removed) this.directoryChanged(file.oid).removed.push(file.oid)
        }
        done.complete(result)
      },
    })
  }

  /** An object with writes that are not synced keeps its intent. */
  dropIntents(objects: readonly StoredObject[]): void {
    for (const object of objects) {
      if (!object.intent || object.removed || object.dirty) continue
      object.intent = false
      this.intents.drop(object.oid)
    }
  }

  forgetIntents(oids: readonly Oid[]): void {
    for (const oid of oids) if (this.table.get(oid)?.intent !== true) this.intents.drop(oid)
  }

  private intentPressure(): void {
    for (const directory of this.directories) if (directory.removed.length > 0) this.syncs.join(directory, NOBODY)
    this.onIntentPressure?.()
  }

  // the whole

  space(): DiskSpace {
    return this.gauge.space()
  }

  /** Number of objects with an intent */
  get intentCount(): number {
    return this.intents.size
  }

  async close(): Promise<void> {
    assert(!this.closed, 'the store is closed once')
    this.closed = true
    for (const staged of [...this.staging.values()]) staged.abort()
    let failure = 0
    for (const vid of [...this.vdis.keys()]) {
      const result = await completed((done) => this.syncVdi(vid, done))
      if (result < 0) failure = result
    }
    await this.intents.close()
    this.handles.releaseAll()
    if (failure < 0) throw new DiskError(-failure, 'sync', 'obj', `errno ${-failure}`)
  }
}

/** Opens the store under the disk's root, new or not. Throws DiskError, SheepError. */
export async function openObjectStore(options: StoreOptions): Promise<FileStore> {
  const store = new FileStore(options)
  await store.open()
  return store
}
