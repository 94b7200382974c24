import type { Completion } from '../host/interfaces.js'
import { type Oid, oidToHex } from '../vdi/oid.js'
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
  syncFile(file: ObjectFile, done: Completion): void
  fileSynced(file: ObjectFile, ok: boolean): void
}

export class ObjectFile extends SyncUnit implements StoredObject {
  dirty = false
  intent = false
  removed = false
  validEpoch = 0
  suspect = false
  incomplete = false
  lostIn = 0
  writer = ''
  lastWrite = 0

  /** Taken out of the table by a received copy: writes in flight to this one are lost */
  replaced = false
  /** Written since the last sync started; `dirty` outlasts the sync, `changed` counts header updates too */
  wrote = false
  handle: Handle | null = null
  header = HEADER_WRITTEN
  /** Negative errno of the last header write; 0 it went well */
  headerError = 0
  headerWaiters: Completion[] | null = null

  constructor(
    private readonly owner: FileOwner,
    readonly oid: Oid,
    public writeEpoch: number,
    public checkEpoch: number,
  ) {
    super()
  }

  startSync(done: Completion): void {
    this.wrote = false
    this.owner.syncFile(this, done)
  }

  synced(ok: boolean): void {
    this.owner.fileSynced(this, ok)
  }
}
