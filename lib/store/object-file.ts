import type { Completion } from '../host/interfaces.js'
import { type Oid, oidToHex } from '../vdi/oid.js'
import { CHUNKS, type Checksums } from './checksums.js'
import type { Handle } from './handle-cache.js'
import { SyncUnit } from './sync-queue.js'
import type { StoredObject } from './types.js'

export const DIRECTORIES = 256

/** Which of the directories under obj/ an object's file lies in. */
export function directoryIndex(oid: Oid): number {
  return oid % DIRECTORIES
}

export function directoryPath(index: number): string {
  return `obj/${index.toString(16).padStart(2, '0')}`
}

export function objectPath(oid: Oid): string {
  return `${directoryPath(directoryIndex(oid))}/${oidToHex(oid)}`
}

export const HEADER_WRITTEN = 0
/** Epochs in memory are newer than those in the file, and no write of them is under way */
export const HEADER_STALE = 1
export const HEADER_WRITING = 2

/** What the file does for its object: lib/store's own side of StoredObject. */
export interface FileOwner {
  /** StoredObject.joinedEpoch of all its objects */
  readonly joinedEpoch: number
  /** Likewise */
  readonly keptEpoch: number
  syncFile(file: ObjectFile, done: Completion): void
  fileSynced(file: ObjectFile, ok: boolean): void
}

export class ObjectFile extends SyncUnit implements StoredObject {
  /** Which of the node's disks it lies on: DiskSet's */
  place = 0
  dirty = false
  intent = false
  removed = false
  unreadable = false
  validEpoch = 0
  suspect = false
  doubtedIn = 0
  incomplete = false
  lostIn = 0
  gapIn = 0
  writer = ''
  lastWrite = 0

  /** Taken out of the table by a received copy: writes in flight to this one are lost */
  replaced = false
  /** Written since the last sync started; `dirty` outlasts the sync, `changed` counts header updates too */
  wrote = false
  handle: Handle | null = null
  /** Changes of its bytes in flight */
  writing = 0
  /** log2 of a chunk's bytes, of the checksums that the header holds or that are being made; 0 none */
  shift = 0
  /** The header in the file holds checksums of `shift`. Those of the chunks that are not `written` are true */
  summed = false
  /** The header in the file may hold checksums, true or not */
  headerSums = false
  /** Checksums for the next header write */
  sums: Checksums | null = null
  /** Bit i: chunk i was changed since its checksum was taken (two halves of CHUNKS bits) */
  writtenLow = 0
  writtenHigh = 0
  /** The same, of chunks whose checksums are being taken: until these are in the header it has former ones, which are not theirs */
  beingSummedLow = 0
  beingSummedHigh = 0
  /** Bit i: chunk i need not be looked at before it is read, in the store's current `trust` (0: trust nothing) */
  sureLow = 0
  sureHigh = 0
  sureTrust = 0
  /** Chunks whose bytes were found not to match their checksum */
  rot: Set<number> | null = null
  /** Counts the checksums taken: what was compared with former ones says nothing */
  seals = 0
  sealing = false
  /** Chunks are being mended: changes wait */
  mending = 0
  mendWaiters: (() => void)[] = []
  header = HEADER_WRITTEN
  /** Negative errno of the last header write; 0 it went well */
  headerError = 0
  headerWaiters: Completion[] | null = null
  /** Counts header writes begun */
  headerWrites = 0

  constructor(
    private readonly owner: FileOwner,
    readonly oid: Oid,
    public writeEpoch: number,
    public checkEpoch: number,
  ) {
    super()
  }

  /** Of a former run: nobody knows which chunks were changed since their checksums were taken. */
  doubtAllChunks(): void {
    this.writtenLow = this.writtenHigh = this.sureLow = this.sureHigh = -1
  }

  /** Without an intent, nothing in the file would be taken for what it is not. */
  get mayBeQuiet(): boolean {
    if (!this.headerSums) return true
    const changed = this.writtenLow | this.writtenHigh | this.beingSummedLow | this.beingSummedHigh
    return this.summed && changed === 0
  }

  trustAllChunks(trust: number): void {
    this.sureTrust = trust
    this.sureLow = this.sureHigh = -1
  }

  /** This range is being changed. */
  touch(position: number, length: number): void {
    const first = position >>> this.shift
    const last = (position + length - 1) >>> this.shift
    if (last >= CHUNKS) {
      // The object has outgrown its checksums.
      this.summed = false
      this.shift = 0
      this.rot = null
      return
    }
    for (let chunk = first; chunk <= last; chunk++) {
      const bit = 1 << (chunk & 31)
      if (chunk < 32) this.writtenLow |= bit
      else this.writtenHigh |= bit
      if (this.rot !== null && this.staysRotten(chunk, position, length)) continue
      if (chunk < 32) this.sureLow |= bit
      else this.sureHigh |= bit
    }
  }

  isWritten(chunk: number): boolean {
    const changed = chunk < 32 ? this.writtenLow | this.beingSummedLow : this.writtenHigh | this.beingSummedHigh
    return (changed & (1 << (chunk & 31))) !== 0
  }

  /** Whether a read of this range may go ahead without a look at checksums. */
  isSure(position: number, length: number, trust: number): boolean {
    if (this.sureTrust !== trust || trust === 0) {
      this.sureTrust = trust
      this.sureLow = this.writtenLow | this.beingSummedLow
      this.sureHigh = this.writtenHigh | this.beingSummedHigh
      if (this.rot !== null) for (const chunk of this.rot) this.unsure(chunk)
    }
    const first = position >>> this.shift
    const last = Math.min(CHUNKS - 1, (position + length - 1) >>> this.shift)
    for (let chunk = first; chunk <= last; chunk++) {
      if (((chunk < 32 ? this.sureLow : this.sureHigh) & (1 << (chunk & 31))) === 0) return false
    }
    return true
  }

  makeSure(chunk: number): void {
    if (chunk < 32) this.sureLow |= 1 << chunk
    else this.sureHigh |= 1 << (chunk - 32)
  }

  private unsure(chunk: number): void {
    if (chunk < 32) this.sureLow &= ~(1 << chunk)
    else this.sureHigh &= ~(1 << (chunk - 32))
  }

  rots(chunk: number): void {
    this.rot ??= new Set()
    this.rot.add(chunk)
    this.unsure(chunk)
  }

  mended(chunk: number): void {
    if (this.rot === null) return
    this.rot.delete(chunk)
    if (this.rot.size === 0) this.rot = null
  }

  /** A rotten chunk is right again only when all of it is written. */
  private staysRotten(chunk: number, position: number, length: number): boolean {
    if (!(this.rot as Set<number>).has(chunk)) return false
    const whole = position <= chunk * 2 ** this.shift && position + length >= (chunk + 1) * 2 ** this.shift
    if (whole) this.mended(chunk)
    return !whole
  }

  get joinedEpoch(): number {
    return this.owner.joinedEpoch
  }

  get keptEpoch(): number {
    return this.owner.keptEpoch
  }

  startSync(done: Completion): void {
    this.wrote = false
    this.owner.syncFile(this, done)
  }

  synced(ok: boolean): void {
    this.owner.fileSynced(this, ok)
  }
}

/** How new a copy is: of two that one node had on different disks, the one that it had later has the higher. */
export function markOf({ writeEpoch, checkEpoch }: StoredObject): number {
  return Math.max(writeEpoch, checkEpoch)
}
