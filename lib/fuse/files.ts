/** The directory of volumes as a file system: what each request of the kernel does to VDIs. Reads and writes are in open-file.ts. */
import { SheepError } from '../errors.js'
import { sleep } from '../replication/sleep.js'
import { SIZE_GRAIN } from '../vdi/inode.js'
import type { VdiEntry } from '../vdi/types.js'
import { FILE_DEFAULT, FileAttributes } from './attributes.js'
import { type HeldSnapshot, SnapshotReads } from './copies.js'
import { Directory } from './directory.js'
import { type Handle, type HandleFile, Handles } from './handles.js'
import { Nodes, nodeOf, parseName } from './nodes.js'
import { OpenFile } from './open-file.js'
import type { FilesParts } from './parts.js'
import * as fuse from './protocol.js'
import { type Call, type FileCalls, FuseError } from './session.js'
import { copyRange } from './sharing.js'
import { getAttribute, listAttributes, removeAttribute, setAttribute } from './xattrs.js'

const READY_MS_MAX = 30_000
const READY_POLL_MS = 50
const HELD_MS_MAX = 5_000
/** Files whose space is being freed while their deleters go on */
const FREEING_MAX = 32

const RENAME_NOREPLACE = 1
const FALLOC_KEEP_SIZE = 1
const FALLOC_PUNCH_HOLE = 2
const FALLOC_ZERO_RANGE = 16

const EMPTY = Buffer.alloc(0)
export class Files implements FileCalls {
  readonly handles: Handles
  readonly nodes: Nodes
  private readonly open = new Map<number, OpenFile>()
  private readonly directory: Directory
  private readonly attributes: FileAttributes
  private readonly freeing = new Set<Promise<void>>()
  private readonly snapshotReads: SnapshotReads

  constructor(
    private readonly parts: FilesParts,
    handleFile: HandleFile | null,
    private readonly remember: (init: fuse.Init) => void,
  ) {
    this.handles = new Handles(handleFile)
    this.nodes = new Nodes(parts.registry)
    this.attributes = new FileAttributes(parts, this.nodes, (node) => this.open.get(node)?.known ?? null)
    this.snapshotReads = new SnapshotReads(parts.clock, (node) => this.holdSnapshot(node))
    this.directory = new Directory(this.nodes, (entry) => this.attributes.entryOut(entry))
    for (const { node, writes } of this.handles.all()) {
      const file = this.fileOf(node)
      if (writes) file.writers++
      else file.readers++
    }
  }

  // --- FileCalls

  initialized(init: fuse.Init): void {
    this.remember(init)
  }

  file(number: number, node: number, writes: boolean): OpenFile | null {
    const handle = this.handles.get(number)
    // A page that was mapped is written back with whichever handle of the file there is.
    if (handle === null || handle.node !== node || (writes && !handle.writes)) return null
    return this.open.get(node) ?? null
  }

  async call(call: Call): Promise<Buffer> {
    await this.ready()
    const { opcode, bytes, at } = call
    switch (opcode) {
      case fuse.LOOKUP:
        return this.lookup(call)
      case fuse.GETATTR:
        return this.attributes.attrOut(call.node)
      case fuse.SETATTR:
        return this.setAttributes(call)
      case fuse.MKNOD:
        return this.mknod(call)
      case fuse.CREATE:
        return this.create(call)
      case fuse.OPEN:
        return this.openFile(call)
      case fuse.RELEASE:
        return this.release(call)
      case fuse.FLUSH:
        return EMPTY
      case fuse.FSYNC:
        return this.fsync(call)
      case fuse.UNLINK:
        return this.unlink(call)
      case fuse.RENAME:
        return this.rename(call, fuse.u64(bytes, at), 0, at + 8)
      case fuse.RENAME2:
        return this.rename(call, fuse.u64(bytes, at), bytes.readUInt32LE(at + 8), at + 16)
      case fuse.STATFS:
        return fuse.statfsOut({ ...(await this.parts.space()), files: this.parts.registry().size })
      case fuse.OPENDIR:
        return this.directory.open()
      case fuse.READDIR:
      case fuse.READDIRPLUS:
        return this.readdir(call)
      case fuse.RELEASEDIR:
        this.directory.close(fuse.u64(bytes, at))
        return EMPTY
      case fuse.FSYNCDIR:
      case fuse.SYNCFS:
        return EMPTY
      case fuse.FALLOCATE:
        return this.fallocate(call)
      case fuse.LSEEK:
        return this.lseek(call)
      case fuse.COPY_FILE_RANGE:
        return this.copyRange(call)
      case fuse.GETXATTR:
        return getAttribute(call, this.attributes.fileData(call.node))
      case fuse.LISTXATTR:
        return listAttributes(call, this.attributes.fileData(call.node))
      case fuse.SETXATTR:
        return this.attributes.change(call.node, setAttribute(call, this.attributes.fileData(call.node)))
      case fuse.REMOVEXATTR:
        return this.attributes.change(call.node, removeAttribute(call, this.attributes.fileData(call.node)))
      case fuse.IOCTL:
        throw new FuseError(fuse.ENOTTY)
      case fuse.MKDIR:
      case fuse.SYMLINK:
      case fuse.LINK:
      case fuse.RMDIR:
        // There are files here and nothing else.
        throw new FuseError(opcode === fuse.RMDIR ? fuse.ENOTDIR : fuse.EPERM)
      default:
        throw new FuseError(fuse.ENOSYS)
    }
  }

  /** Lets go of all volumes; handles stay. */
  async stop(): Promise<void> {
    await Promise.all([...this.open.values()].map((file) => file.stop()))
  }

  // --- names

  private async lookup(call: Call): Promise<Buffer> {
    this.mustBeRoot(call.node)
    const [name] = this.names(call, call.at, 1)
    const entry = this.nodes.find(name)
    if (entry === undefined) throw new FuseError(fuse.ENOENT)
    return this.attributes.entryBytes(entry)
  }

  private async mknod(call: Call): Promise<Buffer> {
    const mode = call.bytes.readUInt32LE(call.at)
    const format = mode & fuse.S_IFMT
    if (format !== 0 && format !== fuse.S_IFREG) throw new FuseError(fuse.EPERM)
    const [name] = this.names(call, call.at + 16, 1)
    return this.attributes.entryBytes(await this.make(call, name, mode, true))
  }

  private async create(call: Call): Promise<Buffer> {
    const { bytes, at } = call
    const flags = bytes.readUInt32LE(at)
    const [name] = this.names(call, at + 16, 1)
    const entry = await this.make(call, name, bytes.readUInt32LE(at + 4), (flags & fuse.O_EXCL) !== 0)
    const opened = await this.openEntry(call, entry, flags)
    return Buffer.concat([await this.attributes.entryBytes(entry), opened])
  }

  /** A volume, or with `NAME@TAG` a snapshot. */
  private async make(call: Call, text: string, mode: number, exclusive: boolean): Promise<VdiEntry> {
    this.mustBeRoot(call.node)
    const { name, snapshot } = parseName(text)
    const there = this.nodes.find(text)
    if (there !== undefined) {
      if (exclusive && !call.again) throw new FuseError(fuse.EEXIST)
      return there
    }
    if (snapshot !== '') return this.parts.operations.snapshot(name, snapshot)
    const { uid, gid } = call.caller
    const file = {
      ...FILE_DEFAULT,
      length: 0,
      mode: mode & 0o777,
      uid,
      gid,
      mtime: Math.floor(this.parts.clock.wall()),
    }
    return this.parts.operations.create({ name, size: SIZE_GRAIN, file })
  }

  private async unlink(call: Call): Promise<Buffer> {
    this.mustBeRoot(call.node)
    const [text] = this.names(call, call.at, 1)
    const entry = this.nodes.find(text)
    if (entry === undefined) {
      if (call.again) return EMPTY
      throw new FuseError(fuse.ENOENT)
    }
    await this.remove(entry)
    return EMPTY
  }

  /** Resolves when it is out of sight; its space is freed meanwhile. */
  private async remove(entry: VdiEntry): Promise<void> {
    const { operations, registry, clock, log } = this.parts
    // Who has closed it a moment ago is still letting go of its lock; so is who compares copies with it.
    const deadline = clock.now() + HELD_MS_MAX
    while (this.isHeld(nodeOf(entry)) && clock.now() < deadline) await sleep(clock, READY_POLL_MS)
    await this.open.get(nodeOf(entry))?.quiet()
    let ended = false
    const deleting = operations.delete(entry.name, entry.snapshotTime === 0 ? '' : String(entry.snapId)).finally(() => {
      ended = true
    })
    const outOfSight = async (): Promise<void> => {
      while (!ended && (registry().get(entry.vid)?.state === 'live' || this.freeing.size >= FREEING_MAX)) {
        await sleep(clock, 1)
      }
    }
    await Promise.race([deleting, outOfSight()])
    if (ended) return deleting
    const freed = deleting
      .catch((error: unknown) => {
        if (!(error instanceof SheepError)) throw error
        log('warning', error.message)
      })
      .finally(() => this.freeing.delete(freed))
    this.freeing.add(freed)
  }

  private async rename(call: Call, newParent: number, flags: number, at: number): Promise<Buffer> {
    this.mustBeRoot(call.node)
    this.mustBeRoot(newParent)
    if ((flags & ~RENAME_NOREPLACE) !== 0) throw new FuseError(fuse.EINVAL)
    const [from, to] = this.names(call, at, 2)
    const source = this.nodes.find(from)
    const target = parseName(to)
    if (source === undefined) {
      if (call.again && this.nodes.find(to) !== undefined) return EMPTY
      throw new FuseError(fuse.ENOENT)
    }
    const isSnapshot = source.snapshotTime !== 0
    // A snapshot stays one of its volume; what is called by another tag then is the same.
    if (isSnapshot !== (target.snapshot !== '') || (isSnapshot && target.name !== source.name)) {
      throw new FuseError(fuse.EINVAL)
    }
    const there = this.nodes.find(to)
    if (there !== undefined) {
      if ((flags & RENAME_NOREPLACE) !== 0) throw new FuseError(fuse.EEXIST)
      if (there.vid === source.vid) return EMPTY
      await this.remove(there)
    }
    const { operations } = this.parts
    if (isSnapshot) await operations.setTag(source.name, String(source.snapId), target.snapshot)
    else await operations.rename(source.name, target.name)
    return EMPTY
  }

  private async readdir(call: Call): Promise<Buffer> {
    const { bytes, at, opcode } = call
    this.mustBeRoot(call.node)
    const plus = opcode === fuse.READDIRPLUS
    const size = Math.min(bytes.readUInt32LE(at + 16), fuse.PAYLOAD_MAX)
    return this.directory.read(fuse.u64(bytes, at), fuse.u64(bytes, at + 8), size, plus)
  }

  // --- open files

  private fileOf(node: number): OpenFile {
    let file = this.open.get(node)
    if (file === undefined) {
      file = new OpenFile(node, this.parts, this.snapshotReads, () => this.nodes.entry(node))
      this.open.set(node, file)
    }
    return file
  }

  private async openFile(call: Call): Promise<Buffer> {
    const flags = call.bytes.readUInt32LE(call.at)
    const entry = this.nodes.entry(call.node)
    const opened = await this.openEntry(call, entry, flags)
    if ((flags & fuse.O_TRUNC) === 0) return opened
    const handle = this.handles.get(fuse.u64(opened, 0)) as Handle
    try {
      if (handle.writes) await this.fileOf(call.node).truncate(0)
      return opened
    } catch (error) {
      await this.close(handle)
      throw error
    }
  }

  private async openEntry(call: Call, entry: VdiEntry, flags: number): Promise<Buffer> {
    const node = nodeOf(entry)
    // `NAME@TAG` is made by opening it to write, so that fails with the first write; an existing one is opened so by nobody.
    const asked = (flags & fuse.O_ACCMODE) !== fuse.O_RDONLY
    if (asked && entry.snapshotTime !== 0 && call.opcode === fuse.OPEN) throw new FuseError(fuse.EROFS)
    const writes = asked && entry.snapshotTime === 0
    const out = Buffer.alloc(16)
    const direct = (flags & fuse.O_DIRECT) !== 0
    // A close need not be told: nothing is kept back until then. (Else a program that starts another while the daemon restarts waits.)
    const kind = direct ? fuse.FOPEN_DIRECT_IO | fuse.FOPEN_PARALLEL_DIRECT_WRITES : 0
    out.writeUInt32LE(fuse.FOPEN_NOFLUSH | kind, 8)
    const former = call.again ? this.handles.openedBy(call.unique, node) : null
    if (former === null) {
      const file = this.fileOf(node)
      try {
        await file.openFor(writes)
      } catch (error) {
        if (file.idle) this.open.delete(node)
        throw error
      }
    }
    const handle = former ?? this.handles.add(node, writes, call.unique)
    fuse.putU64(out, 0, handle.number)
    return out
  }

  private async release(call: Call): Promise<Buffer> {
    const handle = this.handles.get(fuse.u64(call.bytes, call.at))
    if (handle !== null) await this.close(handle)
    return EMPTY
  }

  private async close(handle: Handle): Promise<void> {
    const file = this.fileOf(handle.node)
    this.handles.remove(handle)
    await this.letGo(file, handle.writes)
    if (handle.writes) this.attributes.written(handle.node)
  }

  private async letGo(file: OpenFile, writes: boolean): Promise<void> {
    await file.closeOf(writes)
    if (file.idle && this.open.get(file.node) === file) this.open.delete(file.node)
  }

  /** By no program: a copy is being compared with it. */
  private isHeld(node: number): boolean {
    const readers = this.open.get(node)?.readers ?? 0
    return readers > 0 && this.handles.all().every((handle) => handle.node !== node)
  }

  private async holdSnapshot(node: number): Promise<HeldSnapshot | null> {
    const file = this.fileOf(node)
    await file.openFor(false)
    const letGo = () => this.letGo(file, false)
    const errno = await file.prepare(false)
    const volume = file.source
    if (errno === 0 && volume !== null) return { volume, letGo }
    await letGo()
    return null
  }

  private async fsync(call: Call): Promise<Buffer> {
    const result = await this.opened(fuse.u64(call.bytes, call.at), call.node, false).flush()
    if (result < 0) throw new FuseError(-result)
    return EMPTY
  }

  private async fallocate(call: Call): Promise<Buffer> {
    const { bytes, at } = call
    const file = await this.writable(fuse.u64(bytes, at), call.node)
    const offset = fuse.u64(bytes, at + 8)
    const length = fuse.u64(bytes, at + 16)
    const mode = bytes.readUInt32LE(at + 24)
    const grows = (mode & FALLOC_KEEP_SIZE) === 0
    if (offset + length > Number.MAX_SAFE_INTEGER) throw new FuseError(fuse.EFBIG)
    switch (mode & ~FALLOC_KEEP_SIZE) {
      case 0:
        await file.allocate(offset, length, grows)
        break
      case FALLOC_PUNCH_HOLE:
        await file.discard(offset, length)
        break
      case FALLOC_ZERO_RANGE:
        await file.zero(offset, length, grows)
        break
      default:
        throw new FuseError(fuse.EOPNOTSUPP)
    }
    this.attributes.written(call.node)
    return EMPTY
  }

  private async lseek(call: Call): Promise<Buffer> {
    const { bytes, at } = call
    const file = this.opened(fuse.u64(bytes, at), call.node, false)
    const found = await file.seek(fuse.u64(bytes, at + 8), bytes.readUInt32LE(at + 16))
    const out = Buffer.alloc(8)
    fuse.putU64(out, 0, found)
    return out
  }

  private async copyRange(call: Call): Promise<Buffer> {
    const { bytes, at } = call
    const source = this.opened(fuse.u64(bytes, at), call.node, false)
    const target = await this.writable(fuse.u64(bytes, at + 24), fuse.u64(bytes, at + 16))
    const [from, to, length] = [at + 8, at + 32, at + 40].map((place) => fuse.u64(bytes, place))
    const copied = await copyRange(source, target, from, to, length)
    const out = Buffer.alloc(8)
    out.writeUInt32LE(copied, 0)
    return out
  }

  private opened(number: number, node: number, writes: boolean): OpenFile {
    const file = this.file(number, node, writes)
    if (file === null) throw new FuseError(fuse.EBADF)
    return file
  }

  private async writable(number: number, node: number): Promise<OpenFile> {
    const file = this.opened(number, node, true)
    const errno = await file.prepare(true)
    if (errno !== 0) throw new FuseError(errno)
    return file
  }

  // --- length

  private async setAttributes(call: Call): Promise<Buffer> {
    const { bytes, at, node } = call
    const valid = bytes.readUInt32LE(at)
    const change = this.attributes.changeIn(call)
    if (node === fuse.ROOT) {
      if (Object.keys(change).some((what) => what !== 'mtime')) throw new FuseError(fuse.EPERM)
      return this.attributes.attrOut(node)
    }
    if ((valid & fuse.FATTR_SIZE) !== 0) await this.truncate(call, valid, fuse.u64(bytes, at + 16))
    if (Object.keys(change).length > 0) await this.attributes.change(node, change)
    return this.attributes.attrOut(node)
  }

  private async truncate(call: Call, valid: number, length: number): Promise<void> {
    const { node } = call
    if ((valid & fuse.FATTR_FH) !== 0) {
      const file = await this.writable(fuse.u64(call.bytes, call.at + 8), node)
      await file.truncate(length)
      this.attributes.written(node)
      return
    }
    const file = this.fileOf(node)
    try {
      await file.openFor(true)
      try {
        await file.truncate(length)
      } finally {
        await file.closeOf(true)
      }
    } finally {
      this.attributes.written(node)
      if (file.idle && this.open.get(node) === file) this.open.delete(node)
    }
  }

  // --- inside

  /** Nothing is known of volumes before this node knows the cluster's state. FuseError EAGAIN. */
  private async ready(): Promise<void> {
    const { cluster, clock } = this.parts
    const deadline = clock.now() + READY_MS_MAX
    while (cluster.status !== 'running' && cluster.status !== 'halted') {
      if (clock.now() > deadline) throw new FuseError(fuse.EAGAIN)
      await sleep(clock, READY_POLL_MS)
    }
  }

  private mustBeRoot(node: number): void {
    if (node !== fuse.ROOT) throw new FuseError(fuse.ENOTDIR)
  }

  private names(call: Call, at: number, count: number): string[] {
    const found = fuse.names(call.bytes, at, call.end, count)
    if (found === null) throw new FuseError(fuse.EINVAL)
    return found
  }
}
