import type { Completion, Extent } from '../host/interfaces.js'
import type { VdiEntry } from '../vdi/types.js'

/**
 * An open VDI, as front-ends see it. Requests take a Completion whose result is the byte count (or 0), or a negative
 * errno. Buffers must stay untouched until completion. Offsets and lengths are bytes, within `size`: the front-end has
 * checked them. Any request may complete inline. Requests may be issued while others run; overlapping ones are ordered
 * as issued. While the cluster has no quorum or a replica is away, requests wait; they do not fail,
 * but for those of a volume that was told to wait for its quorum for a time only: -EIO, and they may be done later, in their order.
 */
export interface Volume {
  readonly entry: VdiEntry
  /** bytes; grows or shrinks by resize */
  readonly size: number
  readonly readOnly: boolean
  readonly objectSize: number
  read(buffer: Uint8Array, bufferOffset: number, length: number, offset: number, done: Completion): void
  /** `fua`: durable on all replicas before completion */
  write(buffer: Uint8Array, bufferOffset: number, length: number, offset: number, fua: boolean, done: Completion): void
  /** Zeros afterwards. `keepBlocks`: space stays reserved (NBD NO_HOLE); otherwise space is given back */
  zero(length: number, offset: number, keepBlocks: boolean, fua: boolean, done: Completion): void
  /** Discard: like zero without keepBlocks; whole objects are freed */
  discard(length: number, offset: number, fua: boolean, done: Completion): void
  /** Everything completed before is durable on all replicas at completion */
  flush(done: Completion): void
  /** Ranges that hold data; the rest reads as zeros. May report data where there are zeros, never the reverse */
  extents(length: number, offset: number): Promise<Extent[]>
  /** Called when the size or the tie to the VDI changes: 'resized', or 'revoked' (lock broken, VDI deleted): requests fail from now */
  onChange: ((what: 'resized' | 'revoked') => void) | null
  /** Flushes, unlocks. Idempotent. */
  close(): Promise<void>
}

/** What files of volumes (lib/fuse) need beside it. */
export interface FileVolume extends Volume {
  /** Like write; at completion the inode object says that the file reaches to the end of this write at least. Not for the last size: within `size` */
  writeGrowing(buffer: Uint8Array, bufferOffset: number, length: number, offset: number, done: Completion): void
  /** The inode object says that the file is so long. 0 or a negative errno; none of writeGrowing may be under way */
  recordLength(length: number): Promise<number>
  /** Blocks for what is a hole now; the rest stays as it is */
  allocate(length: number, offset: number, done: Completion): void
  /**
   * Object `index` becomes that of `source`, which is open, a snapshot, and, unless it has a hole there, this VDI's ancestor. 0; -18 when
   * the bytes differ (or this VDI has no object of its own there), unless they are to be replaced; another negative errno
   */
  share(index: number, source: FileVolume, mode: ShareMode): Promise<number>
}

/** Whatever is there; only when it has the same bytes; only tell whether it has, whatever `source` is to this VDI */
export type ShareMode = 'replace' | 'equal' | 'compare'

export interface OpenRequest {
  name: string
  /** Tag or decimal snapshot id; '' is the working VDI */
  snapshot: string
  readOnly: boolean
  /** For people: who opens, e.g. "NBD client on /run/sheepdog/nbd.sock" */
  holder: string
  /** Requests of one client that share a volume (NBD multi-conn, migration) */
  shareable: boolean
}

export interface VolumeOpener {
  /** SheepError: not-found, no-tag, locked (the message says by which node and holder), starting-up, ... */
  open(request: OpenRequest): Promise<Volume>
  /** All live VDIs and snapshots */
  list(): VdiEntry[]
  /** Without opening. SheepError not-found, no-tag */
  find(name: string, snapshot: string): VdiEntry
}
