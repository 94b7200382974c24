/** An ObjectStore that keeps no bytes: which objects there are, and that nobody asks for what cannot be. */
import type { Completion, DiskSpace, Extent } from '../../lib/host/interfaces.js'
import type { Intent, ObjectStore, StagedObject, StoredObject } from '../../lib/store/types.js'
import { type Oid, vidOf } from '../../lib/vdi/oid.js'
import type { SimRandom } from '../simulation/random.js'

const OBJECT_BYTES_MAX = 0x80000000

export class CountingStore implements ObjectStore {
  readonly intentsAtOpen: ReadonlyMap<Oid, Intent> = new Map()
  /** Requests that have not completed */
  waiting = 0
  private readonly objects = new Map<Oid, StoredObject>()

  constructor(private readonly random: SimRandom) {}

  get count(): number {
    return this.objects.size
  }

  get(oid: Oid): StoredObject | undefined {
    return this.objects.get(oid)
  }

  all(): IterableIterator<StoredObject> {
    return this.objects.values()
  }

  ofVdi(vid: number): StoredObject[] {
    return [...this.objects.values()].filter((object) => vidOf(object.oid) === vid)
  }

  create(oid: Oid, writeEpoch: number): StoredObject {
    const former = this.objects.get(oid)
    if (former !== undefined) former.removed = true
    const object: StoredObject = {
      ...{
        oid,
        writeEpoch,
        checkEpoch: 0,
        dirty: true,
        intent: former?.intent ?? false,
        removed: false,
        unreadable: false,
      },
      ...{
        validEpoch: 0,
        suspect: false,
        doubtedIn: 0,
        incomplete: false,
        lostIn: 0,
        gapIn: 0,
        writer: '',
        lastWrite: 0,
        joinedEpoch: 0,
        keptEpoch: 0,
      },
    }
    this.objects.set(oid, object)
    return object
  }

  remove(object: StoredObject): void {
    this.present(object)
    object.removed = true
    this.objects.delete(object.oid)
  }

  read(object: StoredObject, buffer: Uint8Array, start: number, length: number, at: number, done: Completion): void {
    this.present(object)
    this.within(buffer, start, length, at)
    this.end(done, length)
  }

  readAsIs(
    object: StoredObject,
    buffer: Uint8Array,
    start: number,
    length: number,
    at: number,
    done: Completion,
  ): void {
    this.read(object, buffer, start, length, at, done)
  }

  write(object: StoredObject, buffer: Uint8Array, start: number, length: number, at: number, done: Completion): void {
    this.read(object, buffer, start, length, at, done)
  }

  punch(object: StoredObject, position: number, length: number, done: Completion): void {
    this.present(object)
    if (position + length > OBJECT_BYTES_MAX) throw new Error(`${length} bytes at ${position} of an object`)
    this.end(done, 0)
  }

  zero(object: StoredObject, position: number, length: number, done: Completion): void {
    this.punch(object, position, length, done)
  }

  allocate(object: StoredObject, length: number, done: Completion): void {
    this.punch(object, 0, length, done)
  }

  extents(): Extent[] {
    return []
  }

  usedBytes(): number {
    return 0
  }

  setWriteEpoch(object: StoredObject, epoch: number): void {
    this.present(object)
    object.writeEpoch = epoch
  }

  setCheckEpoch(object: StoredObject, epoch: number): void {
    object.checkEpoch = epoch
  }

  syncVdi(_vid: number, done: Completion): void {
    this.end(done, 0)
  }

  syncObject(_object: StoredObject, done: Completion): void {
    this.end(done, 0)
  }

  stage(): StagedObject {
    throw new Error('nothing is received here')
  }

  addIntent(object: StoredObject, done: Completion): void {
    object.intent = true
    this.end(done, 0)
  }

  dropIntents(objects: readonly StoredObject[]): void {
    for (const object of objects) object.intent = false
  }

  async seal(object: StoredObject, _bytes: number, quiet: () => boolean): Promise<boolean> {
    if (quiet()) object.intent = false
    return !object.intent
  }

  async sums(): Promise<null> {
    return null
  }

  async verify(): Promise<'unsealed'> {
    return 'unsealed'
  }

  async damage(): Promise<null> {
    return null
  }

  async gaps(): Promise<number> {
    return 0
  }

  async mend(): Promise<number> {
    throw new Error('nothing is rotten here')
  }

  pathOf(oid: Oid): string {
    return String(oid)
  }

  space(): DiskSpace {
    return { total: 1, free: 1 }
  }

  async close(): Promise<void> {}

  private present(object: StoredObject): void {
    if (object.removed || this.objects.get(object.oid) !== object) throw new Error('an object that was removed is used')
  }

  private within(buffer: Uint8Array, start: number, length: number, position: number): void {
    if (start < 0 || length < 0 || start + length > buffer.length)
      throw new Error(`${length} bytes of a shorter buffer`)
    if (position < 0 || position + length > OBJECT_BYTES_MAX) throw new Error(`${length} bytes at ${position}`)
  }

  private end(done: Completion, result: number): void {
    if (this.random.chance(0.5)) {
      done.complete(result)
      return
    }
    this.waiting++
    setImmediate(() => {
      this.waiting--
      done.complete(result)
    })
  }
}
