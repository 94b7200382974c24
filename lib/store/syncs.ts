/**
 * What of each VDI is not yet durable: files that changed, and directories in which files came or went. A flush costs what
 * was changed since the last one, whatever else the VDI has.
 */
import { type Completion, type Disk, DiskError, type Log } from '../host/interfaces.js'
import { type Oid, oidToHex, vidOf } from '../vdi/oid.js'
import type { Handle, HandleCache } from './handle-cache.js'
import type { HeaderWriter } from './header-writer.js'
import { DIRECTORIES, directoryIndex, directoryPath, type FileOwner, type ObjectFile } from './object-file.js'
import { SyncGroup, SyncQueue, SyncUnit } from './sync-queue.js'

const NOBODY: Completion = { complete() {} }
/** Removals in a directory that nobody has asked to make durable */
const GONE_MAX = 256

class DirectoryUnit extends SyncUnit {
  /** Objects removed from it, until that is durable: a power loss may bring them back, and the intent log may still name them */
  private gone = new Set<Oid>()
  private covering = new Set<Oid>()

  constructor(
    private readonly syncs: Syncs,
    readonly index: number,
  ) {
    super()
  }

  startSync(done: Completion): void {
    this.covering = this.gone
    this.gone = new Set()
    this.syncs.syncDirectory(this, done)
  }

  synced(ok: boolean): void {
    if (ok) this.syncs.removalsDurable([...this.covering])
    else for (const oid of this.covering) this.gone.add(oid)
    this.covering = new Set()
  }

  /** Number of removals that no sync covers yet */
  get removals(): number {
    return this.gone.size
  }

  removed(oid: Oid): void {
    this.gone.add(oid)
  }

  get mayReturnAny(): boolean {
    return this.gone.size + this.covering.size > 0
  }

  mayReturn(oid: Oid): boolean {
    return this.gone.has(oid) || this.covering.has(oid)
  }
}

class VdiFiles {
  readonly objects = new Set<ObjectFile>()
  /** Objects whose sync unit is not idle */
  readonly unsynced = new Set<ObjectFile>()
  /** Directories in which objects of this vid came or went, and no sync of the vid covered it */
  readonly directories = new Set<DirectoryUnit>()
}

export interface SyncOptions {
  disk: Disk
  handles: HandleCache
  headers: HeaderWriter
  log: Log
  /** Syncs at a time */
  parallel: number
  /** The removal of these objects is durable */
  removalsDurable: (oids: readonly Oid[]) => void
  /** The object's sync failed; told before `failed` */
  unsynced: (oid: Oid) => void
  /** The disk did not do what it was asked for */
  failed: (errno: number, what: string) => void
}

export class Syncs implements FileOwner {
  private readonly queue: SyncQueue
  private readonly vdis = new Map<number, VdiFiles>()
  private readonly directories: DirectoryUnit[] = []
  joinedEpoch = 0
  keptEpoch = 0

  constructor(private readonly options: SyncOptions) {
    this.queue = new SyncQueue(options.parallel)
    for (let index = 0; index < DIRECTORIES; index++) this.directories.push(new DirectoryUnit(this, index))
  }

  vids(): number[] {
    return [...this.vdis.keys()]
  }

  objects(vid: number): Iterable<ObjectFile> {
    return this.vdis.get(vid)?.objects ?? []
  }

  private vdi(vid: number): VdiFiles {
    let files = this.vdis.get(vid)
    if (files === undefined) {
      files = new VdiFiles()
      this.vdis.set(vid, files)
    }
    return files
  }

  insert(file: ObjectFile): void {
    this.vdi(vidOf(file.oid)).objects.add(file)
  }

  /** The file is no longer in its place. */
  detach(file: ObjectFile): void {
    const files = this.vdi(vidOf(file.oid))
    files.objects.delete(file)
    files.unsynced.delete(file)
    this.removed(file.oid)
  }

  /** This object is gone from its directory; the intent log is told when that is durable. */
  removed(oid: Oid): void {
    const directory = this.directoryChanged(oid)
    directory.removed(oid)
    if (directory.removals > GONE_MAX) this.queue.join(directory, NOBODY)
  }

  /** A former object of this id was removed, and a power loss might bring it back. */
  mayReturn(oid: Oid): boolean {
    return this.directories[directoryIndex(oid)].mayReturn(oid)
  }

  /** A file of this object came or went. */
  directoryChanged(oid: Oid): DirectoryUnit {
    const directory = this.directories[directoryIndex(oid)]
    directory.changed = true
    this.vdi(vidOf(oid)).directories.add(directory)
    return directory
  }

  /** The object's content changed, or is about to. */
  wrote(file: ObjectFile): void {
    file.wrote = true
    file.dirty = true
    this.changed(file)
  }

  /** Something in the object's file changed, perhaps only its header. */
  changed(file: ObjectFile): void {
    if (file.changed) return
    file.changed = true
    if (!file.removed) this.vdi(vidOf(file.oid)).unsynced.add(file)
  }

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
    for (const unit of units) this.queue.join(unit, group)
  }

  syncObject(file: ObjectFile, done: Completion): void {
    const directory = this.directories[directoryIndex(file.oid)]
    const alone = !this.vdi(vidOf(file.oid)).directories.has(directory)
    const group = alone ? done : new SyncGroup(2, done)
    this.queue.join(file, group)
    if (!alone) this.queue.join(directory, group)
  }

  /** Whether all writes of the object, and its place in its directory, are durable. */
  durable(file: ObjectFile): boolean {
    const directory = this.directories[directoryIndex(file.oid)]
    return !file.dirty && (directory.idle || !this.vdi(vidOf(file.oid)).directories.has(directory))
  }

  /** For nobody who waits. */
  syncSoon(file: ObjectFile): void {
    if (!file.queued && !file.syncing) this.queue.join(file, NOBODY)
  }

  /** The object's directory only: its file is durable. */
  syncPlace(oid: Oid, done: Completion): void {
    this.queue.join(this.directoryChanged(oid), done)
  }

  /** What a killed process did to the directories may still be in the page cache only. */
  syncDirectories(done: Completion): void {
    const group = new SyncGroup(this.directories.length, done)
    for (const directory of this.directories) {
      directory.changed = true
      this.queue.join(directory, group)
    }
  }

  /** Makes the removals so far durable. */
  syncRemovals(done: Completion): void {
    const pending = this.directories.filter((directory) => directory.mayReturnAny)
    if (pending.length === 0) {
      done.complete(0)
      return
    }
    const group = new SyncGroup(pending.length, done)
    for (const directory of pending) this.queue.join(directory, group)
  }

  removalsDurable(oids: readonly Oid[]): void {
    this.options.removalsDurable(oids)
  }

  syncFile(file: ObjectFile, done: Completion): void {
    if (file.removed) {
      // Power loss must not bring it back as it was before what was to be synced: instead, it stays removed. Not through the
      // queue, in which this waits already.
      this.syncDirectory(this.directories[directoryIndex(file.oid)], done)
      return
    }
    this.options.headers.ready(file, {
      complete: (result) => {
        if (file.removed) this.syncFile(file, done)
        else if (result < 0) done.complete(result)
        else this.syncContent(file, done)
      },
    })
  }

  private syncContent(file: ObjectFile, done: Completion): void {
    const { disk, handles, log } = this.options
    let handle: Handle
    try {
      handle = handles.of(file)
    } catch (error) {
      if (!(error instanceof DiskError)) throw error
      done.complete(-error.errno)
      return
    }
    handle.pins++
    disk.sync(handle.fd, {
      complete: (result) => {
        handles.unpin(handle)
        if (result < 0) {
          file.lost = result
          log('error', `a sync failed, what it covered may be lost: object ${oidToHex(file.oid)}`, { errno: -result })
          this.options.unsynced(file.oid)
          this.options.failed(-result, 'sync of an object')
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
    this.options.disk.syncDirectory(path, {
      complete: (result) => {
        if (result < 0) {
          directory.lost = result
          this.options.log('error', `a sync failed, files in ${path} may be lost`, { errno: -result })
          this.options.failed(-result, `sync of ${path}`)
        }
        done.complete(result)
      },
    })
  }
}
