/**
 * What the core is given instead of reaching out itself: clock, random source, disk, network. Production passes the
 * real ones (the other files of this folder), test/simulation passes simulated ones. The core (placement, vdi,
 * cluster, store, replication, gateway) imports nothing of node:fs, node:net, timers, Date or Math.random.
 */

export interface Timer {
  cancel(): void
}

export interface Clock {
  /** Milliseconds, monotonic, fractional. */
  now(): number
  /** Milliseconds since the Unix epoch: for people's eyes and time stamps only, never for decisions. */
  wall(): number
  /** Calls `fn` once after `ms`. */
  after(ms: number, fn: () => void): Timer
}

export interface Random {
  /** Uniform in [0, 2^32). */
  u32(): number
  /** `bytes` random bytes in hex. */
  hex(bytes: number): string
}

/**
 * Receives the end of a disk or volume request. An object with a method rather than a closure, so that hot-path
 * requests can be pooled and allocate nothing.
 */
export interface Completion {
  /** `result`: bytes done (0 or more), or a negative errno (-5 EIO, -28 ENOSPC, ...). May be called before the call that
   *  started the request returns. */
  complete(result: number): void
}

export interface DiskSpace {
  total: number
  free: number
}

export interface Extent {
  offset: number
  length: number
}

export type OpenMode = 'read' | 'write' | 'create' | 'create-new'

/**
 * One file system directory tree that holds a store. Paths are relative to its root, '/' separated. The synchronous
 * methods are the kernel's quick ones; they throw DiskError. Data methods complete inline when the kernel need not wait,
 * later otherwise; callers must cope with both.
 */
export interface Disk {
  /** Differs after whatever may have lost completed writes that were not synced: the host's boot id. '': unknown */
  readonly bootId: string
  /** How many files the process may have open, sockets included; absent: no limit worth minding */
  readonly openFilesMax?: number
  makeDirectory(path: string): void
  /** Names in a directory; empty when it does not exist. */
  list(path: string): string[]
  exists(path: string): boolean
  open(path: string, mode: OpenMode): number
  close(fd: number): void
  /** Bytes (the file's apparent size). */
  size(fd: number): number
  truncate(fd: number, size: number): void
  unlink(path: string): void
  /** Atomic replacement, durable only after syncDirectory of the parent. */
  rename(from: string, to: string): void
  /** Whole small file; null when it does not exist. */
  readFile(path: string): Buffer | null
  /** Replaces the file so that a crash at any moment leaves the old or the new content, durable on return. */
  writeFileAtomic(path: string, content: Buffer | string): void
  space(): DiskSpace

  read(fd: number, buffer: Uint8Array, bufferOffset: number, length: number, position: number, done: Completion): void
  write(fd: number, buffer: Uint8Array, bufferOffset: number, length: number, position: number, done: Completion): void
  /** As `write`, of many bytes that nobody waits for: others' requests go on meanwhile. */
  writeBulk(
    fd: number,
    buffer: Uint8Array,
    bufferOffset: number,
    length: number,
    position: number,
    done: Completion,
  ): void
  /** A hint that this range will be read soon; never waits. */
  willNeed?(fd: number, position: number, length: number): void
  /** Makes the range read as zeros and gives its blocks back. */
  punch(fd: number, position: number, length: number, done: Completion): void
  /** Reserves blocks for the range, which reads as zeros where nothing was written. */
  allocate(fd: number, position: number, length: number, done: Completion): void
  /** Makes the range read as zeros and keeps or reserves its blocks. */
  zero(fd: number, position: number, length: number, done: Completion): void
  /** fdatasync: all completed writes of this file, and its size, survive power loss. Never completes inline. */
  sync(fd: number, done: Completion): void
  /** Makes creations, renames and removals in this directory survive power loss. Never completes inline. */
  syncDirectory(path: string, done: Completion): void
  /** Ranges that hold data (not holes) within [position, position+length), in order. */
  extents(fd: number, position: number, length: number): Extent[]
  /** Blocks in use by this file, in bytes. */
  usedBytes(fd: number): number
}

/** errno is the positive Linux number. */
export class DiskError extends Error {
  override readonly name = 'DiskError'
  constructor(
    readonly errno: number,
    readonly operation: string,
    readonly path: string,
    detail: string,
  ) {
    super(`${operation} ${path}: ${detail}`)
  }
}

/** Where a peer listens. `socket` is a Unix socket usable when both are on one host. */
export interface PeerAddress {
  host: string
  port: number
  socket?: string
  /** Node id of who should be there */
  id?: string
}

/**
 * One message-oriented, ordered, reliable-until-closed link to a peer. A message is a 48-byte header (lib/protocol) and
 * a payload. `send` copies or keeps nothing past its return: the bytes are taken over before it returns.
 */
export interface Link {
  readonly open: boolean
  /** Node id that the other end has proven with the cluster's key, '' when it is no node; absent: no proof was asked for */
  readonly provenId?: string
  /** Queues one message; `length` payload bytes from `payload[offset]`. Sent at the end of the current turn at the latest. */
  send(header: Uint8Array, payload: Uint8Array | null, offset: number, length: number): void
  /** Bytes queued and not yet taken by the kernel: back-pressure for bulk senders. */
  readonly backlog: number
  /** No message comes until `resume`: back-pressure for those who ask for more than is to be kept. Absent: there is none. */
  pause?(): void
  resume?(): void
  close(): void
}

export interface LinkHandler {
  /**
   * One whole message. `bytes[headerOffset..+48]` is the header, `bytes[payloadOffset..+payloadLength]` the payload. The
   * bytes stay valid until `hold.release()` if `hold.retain()` was called before returning, else only during the call.
   */
  message(
    link: Link,
    bytes: Buffer,
    headerOffset: number,
    payloadOffset: number,
    payloadLength: number,
    hold: Hold,
  ): void
  /** Once; no message after it. `reason` is for the log. */
  closed(link: Link, reason: string): void
}

/** Reference count on a receive buffer. */
export interface Hold {
  retain(): void
  release(): void
}

export interface Network {
  /** Returns at once; messages queue until connected. `handler.closed` is called when it fails or ends. */
  connect(address: PeerAddress, handler: LinkHandler): Link
  /** Calls `accept` for every incoming link; its return value handles it. */
  listen(address: PeerAddress, accept: (link: Link) => LinkHandler): Promise<{ close(): void }>
}

export type LogLevel = 'error' | 'warning' | 'notice' | 'info' | 'debug'

export type Log = (level: LogLevel, message: string, fields?: Record<string, unknown>) => void
