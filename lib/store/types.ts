import type { Completion, DiskSpace, Extent } from '../host/interfaces.js'
import type { Oid } from '../vdi/oid.js'

/** What the intent log says of an object. */
export interface Intent {
  /** Of the object when it was added */
  epoch: number
  /** May lack completed writes */
  incomplete: boolean
  /** Incomplete: the last epoch that its node was in before the host lost power; 0 not known to the log */
  lostIn: number
}

/**
 * One object of this node. The epochs are what its file's header says. Fields above `queue` belong to the store; those below are
 * lib/replication's to use and mean nothing to the store.
 */
export interface StoredObject {
  readonly oid: Oid
  writeEpoch: number
  checkEpoch: number
  /** Has writes that no sync covered yet */
  dirty: boolean
  /** An entry in the intent log is durable */
  intent: boolean
  /** Removed: any further use is an error */
  removed: boolean
  /** The disk could not read some of it; whoever looks into it clears this first */
  unreadable: boolean
  /** The epoch in which its disk came to this node after an absence: older marks are worth what they say and no more. 0: never
   *  away. Infinity: it came just now */
  readonly joinedEpoch: number
  /** Of a disk that was away: the last epoch before, of which it says what its node had; 0 when that is not known */
  readonly keptEpoch: number

  /** Epoch in which replication found this copy fit to serve; 0 unknown. A cache. */
  validEpoch: number
  /** Taken from the intent log at start, or its writer has left: to be checked before use */
  suspect: boolean
  /** Suspect: the epoch since which it is doubted; 0 when it was found so at start */
  doubtedIn: number
  /** Suspect, and may lack completed writes that were not synced: its host has booted since (or nobody can tell) */
  incomplete: boolean
  /** Incomplete: the last epoch that this node was in before that */
  lostIn: number
  /** The epoch in which a part of it was found that cannot be read, that no checksum speaks for and nobody else had; 0: none */
  gapIn: number
  /** node id of the gateway that wrote last; '' unknown */
  writer: string
  /** Clock.now() of the last write, for dropping quiet intents */
  lastWrite: number
}

/** Chunks whose bytes do not match their checksum (lib/store/checksums.ts). */
export interface Damage {
  /** log2 of a chunk's bytes */
  shift: number
  chunks: number[]
  /** The checksum that each should have */
  sums: number[]
}

/** Checksums of an object as its header has them. */
export interface ObjectSums {
  shift: number
  /** 64 of them; 0: the chunk is all zeros */
  sums: Uint32Array
  /** Chunks that were written since: their sums say nothing */
  written: number[]
}

/** What the receiver of a copy knows of it. */
export interface Received {
  /** The object's full size; 0 unknown */
  bytes: number
  /** Of the source's copy: it stays known here, and is never taken for true */
  damage: Damage | null
}

/** An object being received: invisible until committed. */
export interface StagedObject {
  readonly oid: Oid
  /** In the object's place: from now on write to that */
  readonly placed: boolean
  /** Also during a commit, which need not cover it: the object is synced again before what was written is said to be durable */
  write(buffer: Uint8Array, bufferOffset: number, length: number, position: number, done: Completion): void
  /** Syncs, then replaces the object atomically and durably. `received` null: writes go on, checksums come later. The new StoredObject is `store.get(oid)` afterwards. */
  commit(writeEpoch: number, checkEpoch: number, done: Completion, received?: Received | null): void
  /** Also during a commit: then nothing is put in place and commit's done gets -125 (ECANCELED); unless the copy is in place
   *  already and only its durability is outstanding. Then, and after completion, no effect: remove the object instead. */
  abort(): void
}

/**
 * Objects of one node on disk. Layout under the disk's root: `obj/XX/OID` (XX: last two hex digits of the oid, so that
 * neighbouring objects spread over 256 directories), `stage/OID`, `intent`. A file is a 4096-byte header, then the
 * object's bytes at 4096 + position; never-written parts are holes and read as zeros, also past the file's end.
 *
 * The header holds checksums of an object at rest: they are true while it has no intent, but for the chunks in `damage`.
 *
 * Data calls complete inline when the disk does. Positions are within the object. Callers never have two
 * overlapping writes of one object in flight.
 */
export interface ObjectStore {
  /** Number of objects */
  readonly count: number
  get(oid: Oid): StoredObject | undefined
  all(): IterableIterator<StoredObject>
  /** All of one VDI (data, inode, VM state) */
  ofVdi(vid: number): StoredObject[]
  /** New empty object; an existing one of this oid is replaced by an empty one. The file's existence is durable after the
   *  next sync of its vid. `intoReserve`: one that was here, and is lost. Throws DiskError (28: no space) */
  create(oid: Oid, writeEpoch: number, intoReserve?: boolean): StoredObject
  remove(object: StoredObject): void
  /** -74 (EBADMSG): the bytes do not match their checksum, or cannot be read. That is looked at before the first read of a chunk, and again
   *  every now and then. */
  read(
    object: StoredObject,
    buffer: Uint8Array,
    bufferOffset: number,
    length: number,
    position: number,
    done: Completion,
  ): void
  /** The same, whatever the checksums say. */
  readAsIs(
    object: StoredObject,
    buffer: Uint8Array,
    bufferOffset: number,
    length: number,
    position: number,
    done: Completion,
  ): void
  write(
    object: StoredObject,
    buffer: Uint8Array,
    bufferOffset: number,
    length: number,
    position: number,
    done: Completion,
  ): void
  /** Reads as zeros afterwards, blocks given back */
  punch(object: StoredObject, position: number, length: number, done: Completion): void
  /** Reads as zeros afterwards, blocks kept or reserved */
  zero(object: StoredObject, position: number, length: number, done: Completion): void
  /** Reserves blocks */
  allocate(object: StoredObject, length: number, done: Completion): void
  /** Ranges with data, positions within the object */
  extents(object: StoredObject, position: number, length: number): Extent[]
  usedBytes(object: StoredObject): number
  /** Header update, synchronous; durable with the object's next sync */
  setWriteEpoch(object: StoredObject, epoch: number): void
  setCheckEpoch(object: StoredObject, epoch: number): void
  /** Everything completed before the call is durable afterwards: dirty objects of this vid, their headers, and the creation
   *  and removal of files. Requests that arrive while one runs share the next. Cost grows with dirty objects only. */
  syncVdi(vid: number, done: Completion): void
  /** The same for one object */
  syncObject(object: StoredObject, done: Completion): void
  /** Throws DiskError 28 when no disk has room: above the larger reserve, or for a request that waits (`urgent`) the small one. A copy
   *  in place of one that has just been given up for it (`again`) may use what that has left, as an overwrite would */
  stage(oid: Oid, urgent: boolean, again?: boolean): StagedObject

  /** Durable before done; many calls in one turn or while a sync runs share one sync. Sets object.intent. */
  addIntent(object: StoredObject, done: Completion): void
  /** Need not be durable at once. An object that is not durable itself (writes, or its creation, since the last sync), or has
   *  checksums and was written since, keeps its intent: look at object.intent afterwards. `seal` is the way for those */
  dropIntents(objects: readonly StoredObject[]): void
  /** What the log held at open: oids written since they were last known clean, when this node stopped, with the writeEpoch
   *  they had when they were added (one that is gone was created in it). Such objects start `dirty` (the page cache may hold
   *  what was never synced) with `intent` set. */
  readonly intentsAtOpen: ReadonlyMap<Oid, Intent>

  /**
   * The object is quiet, and flushed: takes checksums of what was written since they were last taken, durably, and then drops
   * its intent, if it has one and `quiet` still agrees. False: it stays as it is; a later try may do better. Throws DiskError.
   * @param bytes the object's full size; 0 unknown
   */
  seal(object: StoredObject, bytes: number, quiet: () => boolean): Promise<boolean>
  /** null: it has none. Throws DiskError */
  sums(object: StoredObject): Promise<ObjectSums | null>
  /**
   * Compares all the object's bytes with its checksums, but those of chunks that were written since they were taken. `damage`
   * says what was found. 'unsealed': it has none; 'header': the header that holds them is no longer whole. Throws DiskError.
   * @param rest lets others have their turn, after so many bytes were read
   */
  verify(object: StoredObject, rest: (bytes: number) => Promise<void>): Promise<'compared' | 'unsealed' | 'header'>
  /** Chunks that are known to be rotten; null none. Throws DiskError */
  damage(object: StoredObject): Promise<Damage | null>
  /**
   * Puts these bytes in place of a chunk's, durably, if they match its checksum. 0; -125 when they do not, or when the chunk
   * was written since; or another negative errno.
   */
  mend(object: StoredObject, chunk: number, bytes: Buffer): Promise<number>

  /**
   * Pages (4 KiB) that the disk cannot read, in chunks that no checksum speaks for: how many. `blank`: they are made zeros, durably, and
   * can be read again; the object has an intent. -125 when it changes at this moment, or another negative errno.
   */
  gaps(object: StoredObject, blank: boolean): Promise<number>

  /** Where its file is, under the disk's root */
  pathOf(oid: Oid): string

  space(): DiskSpace
  /** Closes all files; a clean stop after syncing all */
  close(): Promise<void>
}
