/**
 * The disks of one node as one ObjectStore: an object lies on one of them, a new one goes where there is most room. What was on a disk
 * that is lost is removed, and requests that still hold it fail.
 */
import { type Completion, DiskError, type DiskSpace, type Extent } from '../host/interfaces.js'
import { type Oid, oidToHex } from '../vdi/oid.js'
import { DiskPlaces, type DiskSetOptions } from './disk-places.js'
import type { NodeDisks } from './node-disks.js'
import { type ObjectFile, objectPath } from './object-file.js'
import type { FileStore } from './object-store.js'
import { SyncGroup } from './sync-queue.js'
import type { Damage, ObjectStore, ObjectSums, StagedObject, StoredObject } from './types.js'

const EIO = 5
const ENOSPC = 28
const ECANCELED = 125

export class DiskSet extends DiskPlaces implements ObjectStore {
  /** SheepError when none of the node's own disks can be opened. */
  static async open(found: NodeDisks, options: DiskSetOptions): Promise<DiskSet> {
    const set = new DiskSet(found, options)
    await set.openAll(found)
    return set
  }

  get count(): number {
    return this.index.size
  }

  get(oid: Oid): StoredObject | undefined {
    return this.index.get(oid)
  }

  all(): IterableIterator<StoredObject> {
    return this.index.values()
  }

  ofVdi(vid: number): StoredObject[] {
    const found = this.places.flatMap(({ store }) => store?.ofVdi(vid) ?? [])
    return found.filter((object) => this.index.get(object.oid) === object)
  }

  create(oid: Oid, writeEpoch: number, intoReserve = false): StoredObject {
    const place = this.roomFor(oid, 'create', (store) => (intoReserve ? 0 : store.gauge.reserve))
    const former = this.index.get(oid)
    if (former !== undefined && former.place !== place) this.discard(former)
    try {
      const file = this.storeAt(place).create(oid, writeEpoch, intoReserve) as ObjectFile
      if (this.mayReturnElsewhere(file) !== null) file.intent = false
      return file
    } catch (error) {
      if (error instanceof DiskError && error.errno !== ENOSPC) void this.lose(this.places[place], error.message)
      throw error
    }
  }

  remove(object: StoredObject): void {
    const file = object as ObjectFile
    const store = this.storeOf(file)
    if (store !== null) this.guard(file.place, () => store.remove(file))
  }

  /**
   * A disk that has more free than `least`: where the object or its intent is if that will do, else in turn, each as often as is its share
   * of what is free.
   */
  private roomFor(oid: Oid, operation: string, least: (store: FileStore) => number): number {
    const home = this.index.get(oid)?.place ?? this.places.findIndex(({ store }) => store?.knowsIntent(oid))
    let best = -1
    let sum = 0
    for (const [number, place] of this.places.entries()) {
      const { store } = place
      if (store === null || this.isFull(number, store, least(store))) continue
      if (number === home) return home
      const { free } = store.gauge.estimate()
      place.turn += free
      sum += free
      if (best < 0 || place.turn > this.places[best].turn) best = number
    }
    if (best >= 0) {
      this.places[best].turn -= sum
      return best
    }
    const { free } = this.space()
    throw new DiskError(ENOSPC, operation, oidToHex(oid), `no space: ${free} bytes are free, held in reserve`)
  }

  private isFull(place: number, store: FileStore, least: number): boolean {
    return this.guard(place, () => store.gauge.belowReserve(least)) ?? true
  }

  private storeAt(place: number): FileStore {
    const { store, attached } = this.places[place]
    if (store === null) throw new DiskError(EIO, 'use', attached.path, 'this disk has failed')
    return store
  }

  // --- data ----------------------------------------------------------------------------------------------------------

  read(
    object: StoredObject,
    buffer: Uint8Array,
    bufferOffset: number,
    length: number,
    position: number,
    done: Completion,
  ): void {
    const store = this.storeOf(object)
    if (store === null) done.complete(-EIO)
    else store.read(object, buffer, bufferOffset, length, position, done)
  }

  readAsIs(
    object: StoredObject,
    buffer: Uint8Array,
    bufferOffset: number,
    length: number,
    position: number,
    done: Completion,
  ): void {
    const store = this.storeOf(object)
    if (store === null) done.complete(-EIO)
    else store.readAsIs(object, buffer, bufferOffset, length, position, done)
  }

  write(
    object: StoredObject,
    buffer: Uint8Array,
    bufferOffset: number,
    length: number,
    position: number,
    done: Completion,
  ): void {
    const store = this.storeOf(object)
    if (store === null) done.complete(-EIO)
    else store.write(object, buffer, bufferOffset, length, position, done)
  }

  punch(object: StoredObject, position: number, length: number, done: Completion): void {
    const store = this.storeOf(object)
    if (store === null) done.complete(-EIO)
    else store.punch(object, position, length, done)
  }

  zero(object: StoredObject, position: number, length: number, done: Completion): void {
    const store = this.storeOf(object)
    if (store === null) done.complete(-EIO)
    else store.zero(object, position, length, done)
  }

  allocate(object: StoredObject, length: number, done: Completion): void {
    const store = this.storeOf(object)
    if (store === null) done.complete(-EIO)
    else store.allocate(object, length, done)
  }

  extents(object: StoredObject, position: number, length: number): Extent[] {
    return this.tried(object, (store) => store.extents(object, position, length))
  }

  usedBytes(object: StoredObject): number {
    return this.tried(object, (store) => store.usedBytes(object))
  }

  private tried<T>(object: StoredObject, work: (store: FileStore) => T): T {
    const { place } = object as ObjectFile
    try {
      return work(this.storeAt(place))
    } catch (error) {
      if (error instanceof DiskError) void this.lose(this.places[place], error.message)
      throw error
    }
  }

  setWriteEpoch(object: StoredObject, epoch: number): void {
    this.storeOf(object)?.setWriteEpoch(object, epoch)
  }

  setCheckEpoch(object: StoredObject, epoch: number): void {
    this.storeOf(object)?.setCheckEpoch(object, epoch)
  }

  syncVdi(vid: number, done: Completion): void {
    const stores = this.working()
    if (stores.length === 1) {
      stores[0].store!.syncVdi(vid, done)
      return
    }
    const group = new SyncGroup(stores.length, done)
    for (const { store } of stores) {
      // A disk that fails while another is being synced
      if (store === null) group.complete(-EIO)
      else store.syncVdi(vid, group)
    }
  }

  syncObject(object: StoredObject, done: Completion): void {
    const store = this.storeOf(object)
    if (store === null) done.complete(-EIO)
    else store.syncObject(object, done)
  }

  stage(oid: Oid, urgent: boolean, again = false): StagedObject {
    const place = this.roomFor(oid, 'receive', ({ gauge }) => (again ? 0 : gauge.least(urgent)))
    let staged: StagedObject
    try {
      staged = this.storeAt(place).stage(oid, urgent, again)
    } catch (error) {
      if (error instanceof DiskError && error.errno !== ENOSPC) void this.lose(this.places[place], error.message)
      throw error
    }
    return {
      oid,
      get placed() {
        return staged.placed
      },
      write: (buffer, bufferOffset, length, position, done) => {
        if (this.places[place].store === null) done.complete(-EIO)
        else staged.write(buffer, bufferOffset, length, position, done)
      },
      commit: (writeEpoch, checkEpoch, done, received) => {
        if (this.places[place].store === null) done.complete(-EIO)
        else {
          const told = { complete: (result: number) => this.committed(oid, place, result, done) }
          staged.commit(writeEpoch, checkEpoch, told, received)
        }
      },
      abort: () => staged.abort(),
    }
  }

  private committed(oid: Oid, place: number, result: number, done: Completion): void {
    // Its disk may have been taken out between the copy's coming into place and this word of it.
    const gone = result >= 0 && this.index.get(oid)?.place !== place
    if (result >= 0 && !gone) this.replaceEverywhere(oid)
    done.complete(gone ? -ECANCELED : result)
  }

  addIntent(object: StoredObject, done: Completion): void {
    const file = object as ObjectFile
    const store = this.storeOf(file)
    const other = file.intent ? null : this.mayReturnElsewhere(file)
    if (store === null) done.complete(-EIO)
    else if (other === null) store.addIntent(file, done)
    else {
      // A former one on another disk, should the power bring it or its intent back when this one is lost, would be taken for it.
      other.syncRemoval(file.oid, {
        complete: (result) => {
          if (result < 0 || file.removed) done.complete(Math.min(result, 0))
          else this.addIntent(file, done)
        },
      })
    }
  }

  private mayReturnElsewhere(file: ObjectFile): FileStore | null {
    for (const [number, { store }] of this.places.entries()) {
      if (number !== file.place && store?.mayReturn(file.oid) === true) return store
    }
    return null
  }

  dropIntents(objects: readonly StoredObject[]): void {
    for (const { store } of this.working()) {
      if (store !== null) store.dropIntents(objects.filter((object) => this.storeOf(object) === store))
    }
  }

  /** Completes when no power loss can bring back what was removed before the call, as a file or as an intent. */
  settleRemovals(done: Completion): void {
    const stores = this.working()
    const group = new SyncGroup(stores.length, done)
    for (const { store } of stores) {
      // A disk that fails meanwhile is lost with what was on it.
      if (store === null) group.complete(0)
      else store.settleRemovals(group)
    }
  }

  space(): DiskSpace {
    let total = 0
    let free = 0
    for (const [number, { store }] of this.places.entries()) {
      const space = store === null ? undefined : this.guard(number, () => store.space())
      total += space?.total ?? 0
      free += space?.free ?? 0
    }
    return { total, free }
  }

  // --- checksums -----------------------------------------------------------------------------------------------------

  /** An object whose disk is lost is gone: `gone` is said of it, and no error. */
  private async looked<T>(object: StoredObject, gone: T, work: (store: FileStore) => Promise<T>): Promise<T> {
    const store = this.storeOf(object)
    if (store === null) return gone
    try {
      return await work(store)
    } catch (error) {
      if (!(error instanceof DiskError) || error.errno === ENOSPC) throw error
      void this.lose(this.places[(object as ObjectFile).place], error.message)
      return gone
    }
  }

  seal(object: StoredObject, bytes: number, quiet: () => boolean): Promise<boolean> {
    return this.looked(object, false, (store) => store.seal(object, bytes, quiet))
  }

  sums(object: StoredObject): Promise<ObjectSums | null> {
    return this.looked<ObjectSums | null>(object, null, (store) => store.sums(object))
  }

  verify(object: StoredObject, rest: (bytes: number) => Promise<void>): Promise<'compared' | 'unsealed' | 'header'> {
    return this.looked<'compared' | 'unsealed' | 'header'>(object, 'unsealed', (store) => store.verify(object, rest))
  }

  damage(object: StoredObject): Promise<Damage | null> {
    return this.looked<Damage | null>(object, null, (store) => store.damage(object))
  }

  async mend(object: StoredObject, chunk: number, bytes: Buffer): Promise<number> {
    return this.put(object, await this.looked(object, -ECANCELED, (store) => store.mend(object, chunk, bytes)))
  }

  async gaps(object: StoredObject, blank: boolean): Promise<number> {
    return this.put(object, await this.looked(object, -ECANCELED, (store) => store.gaps(object, blank)))
  }

  private put(object: StoredObject, result: number): number {
    if (result >= 0 || result === -ECANCELED || result === -ENOSPC || this.storeOf(object) === null) return result
    // A sector that cannot be written, either: the disk has none left to put in its place.
    void this.lose(this.places[(object as ObjectFile).place], `mending: errno ${-result}`)
    return -ECANCELED
  }

  pathOf(oid: Oid): string {
    return objectPath(oid)
  }
}
