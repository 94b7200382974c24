/**
 * One request for one object to one replica. The same object carries it to this node's own store or over a link, so the
 * gateway need not know which. Instances are pooled by their owners; `complete` is called exactly once per submit.
 */
import type { Completion } from '../host/interfaces.js'
import type { Oid } from '../vdi/oid.js'

export const READ = 0
export const WRITE = 1
export const ZERO = 2
export const FLUSH = 3
export const REMOVE = 4
export const ALLOCATE = 5

/** Completion results beyond negative errno. */
export const WRONG_EPOCH = -1001
/** The copy is not known to be valid, and the request said IF_VALID */
export const NOT_VALID = -1002
/** The link broke, or the node left: the request may or may not have been done */
export const LINK_LOST = -1003
/** The newest copy went with a disk, and no other node can have it */
export const LOST = -1004
/** Not done here, and need not be: other replicas that have the object do it (docs/architecture.md, "A write while copies are missing") */
export const WENT_BY = -1005
/** No replica has the object, as far as all present members know */
export const NO_OBJECT = -2
export const EIO = -5
/** The store's word for bytes that do not match their checksum (EBADMSG) */
export const ROTTEN = -74
export const ENOSPC = -28

export abstract class ObjectRequest implements Completion {
  kind = READ
  epoch = 0
  /** FLUSH: any oid of the vid */
  oid: Oid = 0
  /** Bytes, within the object */
  position = 0
  length = 0
  /** READ: filled. WRITE: the data. Must stay untouched until completion. */
  buffer: Uint8Array = EMPTY
  bufferOffset = 0
  /** FLAG_* of lib/protocol/header.ts */
  flags = 0
  /** Node id of the gateway */
  writer = ''
  /** Set by the owner: the buffer is no longer its own; end without touching it. Only while not `atDisk`. */
  cancelled = false
  /** Set by the replica: the disk is reading from or writing to the buffer */
  atDisk = false

  /** Bytes done, or a negative result. */
  abstract complete(result: number): void
}

const EMPTY = new Uint8Array(0)
