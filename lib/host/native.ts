/**
 * The few libc calls that Node does not offer, through koffi, on 64-bit systems (off_t has 64 bits). The library is loaded at first use, so that programs that
 * need none of it (`dog`) start faster. Constants: linux/falloc.h, linux/fs.h, sys/file.h, asm-generic/errno.h.
 */
import { createRequire } from 'node:module'
import { SheepError } from '../errors.js'

export const FALLOC_KEEP_SIZE = 0x01
export const FALLOC_PUNCH_HOLE = 0x02
export const FALLOC_ZERO_RANGE = 0x10

export const EAGAIN = 11
export const EINTR = 4
export const ENXIO = 6
export const EOPNOTSUPP = 95
export const ENOSYS = 38

const SEEK_DATA = 3
const SEEK_HOLE = 4
const RWF_NOWAIT = 0x08
const FADV_WILLNEED = 3
const LOCK_EX = 2
const LOCK_NB = 4
const AF_UNIX = 1
const SOCK_DGRAM_CLOEXEC = 2 | 0o2000000
const MSG_DONTWAIT_NOSIGNAL = 0x40 | 0x4000
/** asm-generic/fcntl.h */
const F_SETFD = 2
const F_GETFL = 3
const F_SETFL = 4
const F_SETOWN_EX = 15
const F_OWNER_TID = 0
const FD_CLOEXEC = 1
const SOL_SOCKET = 1
const SCM_RIGHTS = 1
const O_NONBLOCK = 0o4000
const O_ASYNC = 0o20000
/** sun_path of unix(7) */
const SOCKET_PATH_OFFSET = 2

type Koffi = typeof import('koffi')
type NativeCall = ((...values: number[]) => number) & {
  async(...values: [...number[], (error: Error | null, result: number) => void]): void
}

interface Libc {
  koffi: Koffi
  preadv2: NativeCall
  fallocate: NativeCall
  lseek: NativeCall
  flock: NativeCall
  fadvise: NativeCall
  socket: NativeCall
  sendmsg: NativeCall
  close: NativeCall
  read: NativeCall
  write: NativeCall
  fcntl: NativeCall
  gettid: NativeCall
}

let loaded: Libc | null = null

function libc(): Libc {
  if (loaded !== null) return loaded
  let koffi: Koffi
  try {
    koffi = createRequire(import.meta.url)('koffi') as Koffi
  } catch (error) {
    throw new SheepError(
      'system',
      `the koffi module does not load: ${(error as Error).message}`,
      `koffi has binaries for x86-64, arm64, ... glibc and musl; run npm install on this machine (${process.arch})`,
    )
  }
  // null: the symbols of this very process, whichever libc it runs on
  const library = koffi.load(null)
  const call = (name: string, result: string, parameters: string[]): NativeCall => {
    try {
      return library.func(name, result, parameters) as unknown as NativeCall
    } catch {
      throw new SheepError(
        'system',
        `this system's C library has no ${name}()`,
        'glibc 2.26 or musl 1.2.5 and later have it',
      )
    }
  }
  loaded = {
    koffi,
    preadv2: call('preadv2', 'long', ['int', 'intptr_t', 'int', 'int64', 'int']),
    fallocate: call('fallocate', 'int', ['int', 'int', 'int64', 'int64']),
    lseek: call('lseek', 'int64', ['int', 'int64', 'int']),
    flock: call('flock', 'int', ['int', 'int']),
    fadvise: call('posix_fadvise', 'int', ['int', 'int64', 'int64', 'int']),
    socket: call('socket', 'int', ['int', 'int', 'int']),
    sendmsg: call('sendmsg', 'long', ['int', 'intptr_t', 'int']),
    close: call('close', 'int', ['int']),
    read: call('read', 'long', ['int', 'intptr_t', 'size_t']),
    write: call('write', 'long', ['int', 'intptr_t', 'size_t']),
    // The third is a variable argument, which the ABIs of all 64-bit Linux systems pass like a fixed one of its size.
    fcntl: call('fcntl', 'int', ['int', 'int', 'intptr_t']),
    gettid: call('gettid', 'int', []),
  }
  return loaded
}

/** Negative errno of the call that just returned -1. */
function lastErrno(): number {
  return -libc().koffi.errno()
}

/**
 * Reads only what needs no wait (preadv2 with RWF_NOWAIT, man 2 readv): bytes read, possibly fewer than asked when the
 * rest is not in the page cache; -EAGAIN when nothing is; -EOPNOTSUPP where the file system cannot tell (tmpfs).
 *
 * Measured (Node 20, ext4, cached 4 KiB): 880 ns, fs.readSync 915 ns. That needs the buffer's address as a plain number:
 * passing a Buffer at an offset or a struct through koffi costs 100 to 700 ns more. The address of an ArrayBuffer's
 * memory does not change during its life; a detached one fails the bounds check because its views have length 0.
 */
export class NowaitReader {
  private readonly preadv2 = libc().preadv2
  private readonly iovec = new Uint32Array(4)
  private readonly iovecAddress = Number(libc().koffi.address(this.iovec.buffer))
  private readonly memory = new Memory()

  read(fd: number, buffer: Uint8Array, bufferOffset: number, length: number, position: number): number {
    const address = this.memory.address(buffer, bufferOffset, length)
    // struct iovec { void *base; size_t len } on a 64-bit little-endian machine
    this.iovec[0] = address % 0x100000000
    this.iovec[1] = address / 0x100000000
    this.iovec[2] = length
    const result = this.preadv2(fd, this.iovecAddress, 1, position, RWF_NOWAIT)
    return result < 0 ? lastErrno() : result
  }
}

/** Where buffers are, as numbers. */
class Memory {
  private readonly addresses = new WeakMap<ArrayBufferLike, number>()
  private lastMemory: ArrayBufferLike | null = null
  private lastAddress = 0

  address(buffer: Uint8Array, bufferOffset: number, length: number): number {
    if (bufferOffset < 0 || length < 0 || bufferOffset + length > buffer.byteLength) {
      throw new RangeError(`${length} bytes at ${bufferOffset} are outside a buffer of ${buffer.byteLength}`)
    }
    const memory = buffer.buffer
    if (memory !== this.lastMemory) this.find(memory)
    return this.lastAddress + buffer.byteOffset + bufferOffset
  }

  private find(memory: ArrayBufferLike): void {
    let address = this.addresses.get(memory)
    if (address === undefined) {
      address = Number(libc().koffi.address(memory))
      this.addresses.set(memory, address)
    }
    this.lastMemory = memory
    this.lastAddress = address
  }
}

/**
 * A device whose reads and writes are messages, one a call, and that tells of new ones by SIGIO (fcntl(2), O_ASYNC): it needs no thread
 * that waits, and a failed call costs no exception.
 */
export class MessageDevice {
  private readonly memory = new Memory()
  private readonly calls = libc()

  /** Switches it to non-blocking, and SIGIO to the calling thread. SheepError system. */
  constructor(readonly fd: number) {
    const { fcntl, gettid, koffi } = this.calls
    const owner = Int32Array.of(F_OWNER_TID, gettid())
    const told = fcntl(fd, F_SETOWN_EX, Number(koffi.address(owner.buffer)))
    const flags = fcntl(fd, F_GETFL, 0)
    if (told < 0 || flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK | O_ASYNC) < 0) {
      throw new SheepError('system', `a device cannot be waited for: errno ${-lastErrno()}`)
    }
  }

  /** Bytes of one message, or a negative errno: -EAGAIN none is there. */
  read(buffer: Uint8Array, bufferOffset: number, length: number): number {
    const result = this.calls.read(this.fd, this.memory.address(buffer, bufferOffset, length), length)
    return result < 0 ? lastErrno() : result
  }

  /** The same for one message that goes out. */
  write(buffer: Uint8Array, bufferOffset: number, length: number): number {
    const result = this.calls.write(this.fd, this.memory.address(buffer, bufferOffset, length), length)
    return result < 0 ? lastErrno() : result
  }
}

/** 0 or a negative errno. `mode`: FALLOC_* or 0. */
export function fallocate(fd: number, mode: number, position: number, length: number): number {
  return libc().fallocate(fd, mode, position, length) < 0 ? lastErrno() : 0
}

/** The same on a thread of the pool. */
export function fallocateAsync(
  fd: number,
  mode: number,
  position: number,
  length: number,
  done: (result: number) => void,
): void {
  libc().fallocate.async(fd, mode, position, length, (error, result) => {
    if (error !== null) throw error
    done(result < 0 ? lastErrno() : 0)
  })
}

/** Asks the kernel to read the range into the page cache, without waiting. Only a hint: failures do not matter. */
export function willNeed(fd: number, position: number, length: number): void {
  libc().fadvise(fd, position, length, FADV_WILLNEED)
}

/** Offset of the next data at or after `position`; -ENXIO when there is none; another negative errno. */
export function seekData(fd: number, position: number): number {
  const result = libc().lseek(fd, position, SEEK_DATA)
  return result < 0 ? lastErrno() : result
}

/** Offset of the next hole (the file's end counts as one) at or after `position`, or a negative errno. */
export function seekHole(fd: number, position: number): number {
  const result = libc().lseek(fd, position, SEEK_HOLE)
  return result < 0 ? lastErrno() : result
}

/** Exclusive lock that lasts until the file is closed or the process ends; 0, -EAGAIN when another process has it. */
export function lockExclusive(fd: number): number {
  return libc().flock(fd, LOCK_EX | LOCK_NB) < 0 ? lastErrno() : 0
}

/** Children of this process do not get it. */
export function closeOnExec(fd: number): void {
  libc().fcntl(fd, F_SETFD, FD_CLOEXEC)
}

/**
 * One datagram to a Unix socket, which Node has not: `@` begins a name in the abstract namespace (unix(7)). With a descriptor, which
 * the receiver gets a copy of. 0 or a negative errno.
 */
export function sendDatagram(path: string, text: string, descriptor?: number): number {
  const { socket, sendmsg, close } = libc()
  const name = Buffer.from(path.startsWith('@') ? `\0${path.slice(1)}` : path)
  const address = Buffer.alloc(SOCKET_PATH_OFFSET + name.length)
  address.writeUInt16LE(AF_UNIX, 0)
  name.copy(address, SOCKET_PATH_OFFSET)
  const bytes = Buffer.from(text)
  const control = descriptor === undefined ? Buffer.alloc(0) : rightsMessage(descriptor)
  const memory = new Memory()
  const addressOf = (of: Uint8Array | BigUint64Array) =>
    BigInt(memory.address(new Uint8Array(of.buffer, of.byteOffset, of.byteLength), 0, of.byteLength))
  // Held by this frame while the kernel reads them by their addresses
  const iovec = BigUint64Array.of(addressOf(bytes), BigInt(bytes.length))
  const message = BigUint64Array.of(
    addressOf(address),
    BigInt(address.length),
    addressOf(iovec),
    1n,
    control.length === 0 ? 0n : addressOf(control),
    BigInt(control.length),
    0n,
  )
  const fd = socket(AF_UNIX, SOCK_DGRAM_CLOEXEC, 0)
  if (fd < 0) return lastErrno()
  const sent = sendmsg(fd, Number(addressOf(message)), MSG_DONTWAIT_NOSIGNAL)
  const result = sent < 0 ? lastErrno() : 0
  close(fd)
  return result
}

/** cmsg(3) with SCM_RIGHTS: its length, level, type, and one descriptor, padded to 8 bytes */
function rightsMessage(descriptor: number): Buffer {
  const bytes = Buffer.alloc(24)
  bytes.writeBigUInt64LE(20n, 0)
  bytes.writeInt32LE(SOL_SOCKET, 8)
  bytes.writeInt32LE(SCM_RIGHTS, 12)
  bytes.writeInt32LE(descriptor, 16)
  return bytes
}
