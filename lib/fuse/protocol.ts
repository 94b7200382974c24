/**
 * The kernel's side of FUSE, as bytes (linux/fuse.h, protocol 7.31 to 7.45): numbers, and how messages are read and written. Little-endian,
 * because the kernel uses the host's order and the hosts are. Node ids, offsets and sizes are numbers: what is above 2^53 becomes that.
 */
import { endianness } from 'node:os'
import { SheepError } from '../errors.js'

export const MAJOR = 7
export const MINOR = 45
/** COPY_FILE_RANGE of 7.28, explicit invalidation of 7.30, the 64-byte INIT of 7.23 */
export const MINOR_MIN = 31

export const IN_HEADER = 40
export const OUT_HEADER = 16
export const WRITE_IN = 40
/** Of one READ or WRITE */
export const PAYLOAD_MAX = 1 << 20
/** What a read of the device must have room for */
export const REQUEST_MAX = PAYLOAD_MAX + 4096
export const ROOT = 1

export const LOOKUP = 1
export const FORGET = 2
export const GETATTR = 3
export const SETATTR = 4
export const SYMLINK = 6
export const MKNOD = 8
export const MKDIR = 9
export const UNLINK = 10
export const RMDIR = 11
export const RENAME = 12
export const LINK = 13
export const OPEN = 14
export const READ = 15
export const WRITE = 16
export const STATFS = 17
export const RELEASE = 18
export const FSYNC = 20
export const SETXATTR = 21
export const GETXATTR = 22
export const LISTXATTR = 23
export const REMOVEXATTR = 24
export const FLUSH = 25
export const INIT = 26
export const OPENDIR = 27
export const READDIR = 28
export const RELEASEDIR = 29
export const FSYNCDIR = 30
export const CREATE = 35
export const INTERRUPT = 36
export const DESTROY = 38
export const IOCTL = 39
export const BATCH_FORGET = 42
export const FALLOCATE = 43
export const READDIRPLUS = 44
export const RENAME2 = 45
export const LSEEK = 46
export const COPY_FILE_RANGE = 47
export const SYNCFS = 50

export const NOTIFY_INVAL_INODE = 2
export const NOTIFY_RESEND = 7

/** Bits of INIT's flags, by place; those from 32 on are in flags2. */
export const INIT_ASYNC_READ = 0
export const INIT_ATOMIC_O_TRUNC = 3
export const INIT_BIG_WRITES = 5
export const INIT_DO_READDIRPLUS = 13
export const INIT_READDIRPLUS_AUTO = 14
export const INIT_ASYNC_DIO = 15
export const INIT_PARALLEL_DIROPS = 18
export const INIT_MAX_PAGES = 22
export const INIT_EXPLICIT_INVAL_DATA = 25
export const INIT_HANDLE_KILLPRIV_V2 = 28
export const INIT_INIT_EXT = 30
export const INIT_DIRECT_IO_ALLOW_MMAP = 36
export const INIT_HAS_RESEND = 39

export const FOPEN_DIRECT_IO = 1
export const FOPEN_NOFLUSH = 32
export const FOPEN_PARALLEL_DIRECT_WRITES = 64

export const FATTR_MODE = 1
export const FATTR_UID = 2
export const FATTR_GID = 4
export const FATTR_SIZE = 8
export const FATTR_MTIME = 32
export const FATTR_FH = 64
export const FATTR_MTIME_NOW = 256

export const EPERM = 1
export const ENOENT = 2
export const EINTR = 4
export const EIO = 5
export const ENXIO = 6
export const EBADF = 9
export const EAGAIN = 11
export const EBUSY = 16
export const EEXIST = 17
export const ENOTDIR = 20
export const EISDIR = 21
export const EINVAL = 22
export const ENOTTY = 25
export const EFBIG = 27
export const ENOSPC = 28
export const EROFS = 30
export const ERANGE = 34
export const ENAMETOOLONG = 36
export const ENOSYS = 38
export const ENODATA = 61
export const EOPNOTSUPP = 95
export const ESHUTDOWN = 108
export const ETIMEDOUT = 110

/** asm-generic/fcntl.h */
export const O_ACCMODE = 3
export const O_RDONLY = 0
export const O_EXCL = 0o200
export const O_TRUNC = 0o1000
export const O_DIRECT = process.arch === 'arm64' ? 0o200000 : 0o40000

export const S_IFMT = 0o170000
export const S_IFDIR = 0o040000
export const S_IFREG = 0o100000
const DT_DIR = 4
const DT_REG = 8

const TWO_TO_32 = 0x100000000
const SAFE_HIGH_MAX = 1 << 21

/** SheepError unsupported on machines where these bytes would be in another order. */
export function checkEndianness(): void {
  if (endianness() !== 'LE') throw new SheepError('unsupported', 'the FUSE front-end is for little-endian machines')
}

export function u64(bytes: Buffer, at: number): number {
  const high = bytes.readUInt32LE(at + 4)
  return high < SAFE_HIGH_MAX ? high * TWO_TO_32 + bytes.readUInt32LE(at) : Number.MAX_SAFE_INTEGER
}

export function putU64(bytes: Buffer, at: number, value: number): void {
  bytes.writeUInt32LE(value % TWO_TO_32, at)
  bytes.writeUInt32LE(Math.floor(value / TWO_TO_32), at + 4)
}

/** One message's fixed part, checked: what follows in `bytes` is `length` bytes in all. */
export interface Caller {
  uid: number
  gid: number
  pid: number
}

export function callerOf(bytes: Buffer, start: number): Caller {
  return {
    uid: bytes.readUInt32LE(start + 24),
    gid: bytes.readUInt32LE(start + 28),
    pid: bytes.readUInt32LE(start + 32),
  }
}

/** Least bytes behind the header, by opcode; what is shorter gets EINVAL. */
const ARGUMENT_MIN = new Map<number, number>([
  [LOOKUP, 2],
  [FORGET, 8],
  [GETATTR, 16],
  [SETATTR, 88],
  [MKNOD, 18],
  [UNLINK, 2],
  [RENAME, 12],
  [OPEN, 8],
  [READ, 40],
  [WRITE, WRITE_IN],
  [RELEASE, 24],
  [FSYNC, 16],
  [SETXATTR, 10],
  [GETXATTR, 10],
  [LISTXATTR, 8],
  [REMOVEXATTR, 2],
  [FLUSH, 24],
  [INIT, 16],
  [OPENDIR, 8],
  [READDIR, 40],
  [RELEASEDIR, 24],
  [CREATE, 18],
  [INTERRUPT, 8],
  [BATCH_FORGET, 8],
  [FALLOCATE, 32],
  [READDIRPLUS, 40],
  [RENAME2, 20],
  [LSEEK, 24],
  [COPY_FILE_RANGE, 56],
])

export function isWhole(opcode: number, argumentLength: number): boolean {
  return argumentLength >= (ARGUMENT_MIN.get(opcode) ?? 0)
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** `count` names, each ended by NUL, from `at`; null when they are not there. One that is no UTF-8 becomes '' (nothing has that name). */
export function names(bytes: Buffer, at: number, end: number, count: number): string[] | null {
  const found: string[] = []
  for (let from = at; found.length < count; ) {
    const to = bytes.indexOf(0, from)
    if (to < 0 || to >= end) return null
    found.push(decodeName(bytes.subarray(from, to)))
    from = to + 1
  }
  return found
}

function decodeName(bytes: Buffer): string {
  try {
    return utf8.decode(bytes)
  } catch {
    return ''
  }
}

export interface Attributes {
  node: number
  size: number
  /** bytes */
  used: number
  /** ms since the Unix epoch */
  mtime: number
  mode: number
  uid: number
  gid: number
  blockSize: number
}

export const ATTRIBUTES_BYTES = 88
export const ENTRY_BYTES = 40 + ATTRIBUTES_BYTES
export const ATTR_OUT_BYTES = 16 + ATTRIBUTES_BYTES

export function putAttributes(bytes: Buffer, at: number, attributes: Attributes): void {
  const { node, size, used, mtime, mode, uid, gid, blockSize } = attributes
  putU64(bytes, at, node)
  putU64(bytes, at + 8, size)
  putU64(bytes, at + 16, Math.ceil(used / 512))
  const seconds = Math.floor(mtime / 1000)
  const nanoseconds = Math.floor((mtime - seconds * 1000) * 1e6)
  for (let i = 0; i < 3; i++) {
    putU64(bytes, at + 24 + 8 * i, seconds)
    bytes.writeUInt32LE(nanoseconds, at + 48 + 4 * i)
  }
  bytes.writeUInt32LE(mode, at + 60)
  bytes.writeUInt32LE((mode & S_IFMT) === S_IFDIR ? 2 : 1, at + 64)
  bytes.writeUInt32LE(uid, at + 68)
  bytes.writeUInt32LE(gid, at + 72)
  bytes.writeUInt32LE(0, at + 76)
  bytes.writeUInt32LE(blockSize, at + 80)
  bytes.writeUInt32LE(0, at + 84)
}

export interface EntryOut {
  attributes: Attributes
  generation: number
  /** How long the kernel may believe the name, and the attributes: seconds */
  valid: number
}

export function putEntry(bytes: Buffer, at: number, { attributes, generation, valid }: EntryOut): void {
  putU64(bytes, at, attributes.node)
  putU64(bytes, at + 8, generation)
  putU64(bytes, at + 16, valid)
  putU64(bytes, at + 24, valid)
  bytes.writeUInt32LE(0, at + 32)
  bytes.writeUInt32LE(0, at + 36)
  putAttributes(bytes, at + 40, attributes)
}

/** Bytes of a directory entry with a name of so many. */
export function direntBytes(nameBytes: number, plus: boolean): number {
  return (plus ? ENTRY_BYTES : 0) + ((24 + nameBytes + 7) & ~7)
}

/** @param next where reading goes on behind this entry */
export function putDirent(
  bytes: Buffer,
  at: number,
  node: number,
  next: number,
  name: Buffer,
  directory: boolean,
): void {
  putU64(bytes, at, node)
  putU64(bytes, at + 8, next)
  bytes.writeUInt32LE(name.length, at + 16)
  bytes.writeUInt32LE(directory ? DT_DIR : DT_REG, at + 20)
  name.copy(bytes, at + 24)
  bytes.fill(0, at + 24 + name.length, at + direntBytes(name.length, false))
}

export interface Statfs {
  /** bytes */
  total: number
  free: number
  files: number
}

const STATFS_BLOCK = 4096
export const NAME_BYTES_MAX = 255

export function statfsOut({ total, free, files }: Statfs): Buffer {
  const bytes = Buffer.alloc(80)
  putU64(bytes, 0, Math.floor(total / STATFS_BLOCK))
  putU64(bytes, 8, Math.floor(free / STATFS_BLOCK))
  putU64(bytes, 16, Math.floor(free / STATFS_BLOCK))
  putU64(bytes, 24, files)
  putU64(bytes, 32, 0xffffff - files)
  bytes.writeUInt32LE(STATFS_BLOCK, 40)
  bytes.writeUInt32LE(NAME_BYTES_MAX, 44)
  bytes.writeUInt32LE(STATFS_BLOCK, 48)
  return bytes
}

export interface Init {
  minor: number
  readahead: number
  /** Places of the bits that are set */
  flags: ReadonlySet<number>
}

export function decodeInit(bytes: Buffer, at: number, end: number): Init & { major: number } {
  const flags = new Set<number>()
  const low = bytes.readUInt32LE(at + 12)
  for (let bit = 0; bit < 32; bit++) if ((low & (1 << bit)) !== 0) flags.add(bit)
  if (flags.has(INIT_INIT_EXT) && end - at >= 20) {
    const high = bytes.readUInt32LE(at + 16)
    for (let bit = 0; bit < 32; bit++) if ((high & (1 << bit)) !== 0) flags.add(32 + bit)
  }
  return {
    major: bytes.readUInt32LE(at),
    minor: bytes.readUInt32LE(at + 4),
    readahead: bytes.readUInt32LE(at + 8),
    flags,
  }
}

/** @param background requests that nobody waits for (readahead, asynchronous direct I/O) at once */
export function initOut({ minor, readahead, flags }: Init, background: number): Buffer {
  const bytes = Buffer.alloc(64)
  let low = 0
  let high = 0
  for (const bit of flags) {
    if (bit < 32) low |= 1 << bit
    else high |= 1 << (bit - 32)
  }
  bytes.writeUInt32LE(MAJOR, 0)
  bytes.writeUInt32LE(Math.min(minor, MINOR), 4)
  bytes.writeUInt32LE(readahead, 8)
  bytes.writeUInt32LE(low >>> 0, 12)
  bytes.writeUInt16LE(background, 16)
  bytes.writeUInt16LE(Math.ceil(background * 0.75), 18)
  bytes.writeUInt32LE(PAYLOAD_MAX, 20)
  bytes.writeUInt32LE(1, 24)
  bytes.writeUInt16LE(PAYLOAD_MAX / 4096, 28)
  bytes.writeUInt32LE(high >>> 0, 32)
  return bytes
}

/** A message of our own accord: the header's unique is 0, its error the code. */
export function notification(code: number, body: Buffer): Buffer {
  const bytes = Buffer.alloc(OUT_HEADER + body.length)
  bytes.writeUInt32LE(bytes.length, 0)
  bytes.writeInt32LE(code, 4)
  body.copy(bytes, OUT_HEADER)
  return bytes
}
