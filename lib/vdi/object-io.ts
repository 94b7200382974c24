import type { Oid } from './oid.js'

/**
 * Whole-object access through replication, for VDI operations (not the data path). All calls wait out epoch changes
 * and recovery. SheepError: no-object, no-space, io, halted. When this node was itself dropped from the node list, its calls in
 * flight reject with halted and are not sent again after it has come back: others may have taken over and reused the ids.
 */
export interface ObjectIo {
  /** Number of the current one */
  readonly epoch: number
  /** `length` bytes from `position`; zeros where nothing was written. no-object when no replica has it. */
  read(oid: Oid, position: number, length: number): Promise<Buffer>
  write(oid: Oid, position: number, data: Buffer): Promise<void>
  /** Creates (or empties) the object on all replicas and writes `data` at `position`. `copies` from the registry entry. */
  create(oid: Oid, position: number, data: Buffer): Promise<void>
  /** Everything written to objects of this vid in the current epoch is durable on all replicas: see inOneEpoch() */
  flush(vid: number): Promise<void>
  /** Removes on every node that may have it; absent is fine */
  remove(oids: readonly Oid[]): Promise<void>
  /** Preallocates: creates the object with `length` bytes reserved, zeros */
  allocate(oid: Oid, length: number): Promise<void>
}

/**
 * Does `work`, which ends with a flush, again when the epoch has changed meanwhile: those that had what it wrote or read may all have
 * lost it with their power before they were asked to flush, and nobody else would know.
 */
export async function inOneEpoch<T>(io: Pick<ObjectIo, 'epoch'>, work: () => Promise<T>): Promise<T> {
  for (;;) {
    const { epoch } = io
    const result = await work()
    if (io.epoch === epoch) return result
  }
}
