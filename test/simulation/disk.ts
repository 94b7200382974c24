/**
 * A simulated disk with one file system. It tells what a process sees (the page cache) from what power loss leaves:
 *
 * - data: by 4 KiB page; a page written and not synced may or may not have reached the platter, each page for itself, in
 *   the version of any earlier write-back; a file's size likewise;
 * - names: creations, renames and removals that no syncDirectory covered survive in any subset that keeps, for each name,
 *   a prefix of what was done to it (renames are atomic, directories come with what is in them, as in every journalling
 *   file system);
 * - a process crash loses nothing but its requests in flight, which end up done in any subset of their pages.
 *
 * Faults: dead disk, bad pages, full, slow, flipped bits. A failed sync drops what it covered, as Linux does.
 * `SimDisk` outlives processes; `attach` gives one process its view of it.
 */
import {
  type Completion,
  type Disk,
  DiskError,
  type DiskSpace,
  type Extent,
  type OpenMode,
} from '../../lib/host/interfaces.js'
import type { Scheduler } from './clock.js'
import type { Process } from './process.js'
import type { SimRandom } from './random.js'

export const PAGE = 4096
const ZERO_PAGE = new Uint8Array(PAGE)

const ENOENT = 2
const EIO = 5
const EBADF = 9
const EEXIST = 17
const ENOSPC = 28

const TEXT: Record<number, string> = {
  [ENOENT]: 'no such file or directory',
  [EIO]: 'input/output error',
  [EBADF]: 'bad file descriptor',
  [EEXIST]: 'file exists',
  [ENOSPC]: 'no space left on device',
}

/** A page's bytes are never changed in place once `frozen`: the durable version or a running sync shares them. */
class Page {
  current: Uint8Array | null = null
  durable: Uint8Array | null = null
  frozen = false
  /** Counts writes; durableVersion is the write that `durable` shows */
  version = 0
  durableVersion = 0
}

export class File {
  readonly pages = new Map<number, Page>()
  readonly dirty = new Set<Page>()
  size = 0
  durableSize = 0
  sizeVersion = 0
  durableSizeVersion = 0
  /** Number of names in the page cache's view */
  names = 0
  opens = 0
  readonly bad = new Set<number>()

  constructor(readonly id: number) {}

  get usedPages(): number {
    let count = 0
    for (const page of this.pages.values()) if (page.current) count++
    return count
  }
}

class Directory {
  readonly entries = new Map<string, File | Directory>()
  constructor(readonly path: string) {}
}

/** One change of names that is not yet on the platter: `removes` and `binds` happen together. */
interface NameChange {
  /** Directory whose sync makes it durable */
  directory: string
  binds: string
  node: File | Directory | null
  removes: string
  removed: File | Directory | null
}

export interface DiskShape {
  /** Bytes of the device */
  capacity: number
  /** Mean of a data request that does not complete inline, ms */
  latency: number
  /** Mean of a sync, ms */
  syncLatency: number
  /** Probability that a data request completes before its call returns */
  inline: number
}

function parentOf(path: string): string {
  const slash = path.lastIndexOf('/')
  return slash < 0 ? '' : path.slice(0, slash)
}

function baseOf(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1)
}

/** `a/b`, `./a//b/` and `a/./b` name one thing. */
function normal(path: string): string {
  return path
    .split('/')
    .filter((part) => part !== '' && part !== '.')
    .join('/')
}

export class SimDisk {
  readonly directories = new Map<string, Directory>([['', new Directory('')]])
  /** What a power loss leaves of names: full path -> node. Directories are in it too. */
  #durableNames = new Map<string, File | Directory>()
  #changes: NameChange[] = []
  #nextFile = 1
  usedPages = 0
  /** Every request fails with EIO. */
  dead = false
  /** Times slower than usual. */
  slowness = 1
  readonly inFlight = new Set<Request>()

  constructor(
    readonly scheduler: Scheduler,
    readonly random: SimRandom,
    readonly shape: DiskShape,
  ) {}

  attach(process: Process): Disk {
    return new DiskView(this, process)
  }

  get capacityPages(): number {
    return Math.floor(this.shape.capacity / PAGE)
  }

  // names

  directory(path: string): Directory | undefined {
    return this.directories.get(path)
  }

  lookup(path: string): File | Directory | undefined {
    return path === '' ? this.directories.get('') : this.directories.get(parentOf(path))?.entries.get(baseOf(path))
  }

  bind(path: string, node: File | Directory): void {
    const parent = this.directories.get(parentOf(path))!
    const old = parent.entries.get(baseOf(path))
    parent.entries.set(baseOf(path), node)
    if (node instanceof File) node.names++
    else this.directories.set(path, node)
    if (old instanceof File) this.#unnamed(old)
  }

  unbind(path: string): void {
    const parent = this.directories.get(parentOf(path))!
    const old = parent.entries.get(baseOf(path))
    parent.entries.delete(baseOf(path))
    if (old instanceof File) this.#unnamed(old)
  }

  #unnamed(file: File): void {
    file.names--
    this.release(file)
  }

  /** Gives the blocks back when neither a name nor a descriptor holds the file. */
  release(file: File): void {
    if (file.names > 0 || file.opens > 0) return
    for (const page of file.pages.values()) if (page.current) this.usedPages--
    // The durable version may still come back after power loss; only the count of blocks in use is given back.
  }

  newFile(): File {
    return new File(this.#nextFile++)
  }

  change(change: NameChange): void {
    this.#changes.push(change)
  }

  get changesPending(): number {
    return this.#changes.length
  }

  /** Changes a directory sync that starts now will cover. */
  changesIn(directory: string): NameChange[] {
    return this.#changes.filter((change) => change.directory === directory)
  }

  /** Puts these changes on the platter, with every earlier one that they depend on. */
  commitChanges(chosen: readonly NameChange[]): void {
    const wanted = new Set(chosen)
    const names = new Set<string>()
    for (let i = this.#changes.length - 1; i >= 0; i--) {
      const change = this.#changes[i]
      if (!wanted.has(change) && !names.has(change.binds) && !names.has(change.removes)) continue
      wanted.add(change)
      for (const path of [change.binds, change.removes]) {
        for (let name = path; name !== ''; name = parentOf(name)) names.add(name)
      }
    }
    const rest: NameChange[] = []
    for (const change of this.#changes) {
      if (wanted.has(change)) this.#applyDurable(change)
      else rest.push(change)
    }
    this.#changes = rest
  }

  #applyDurable(change: NameChange): void {
    if (change.removes !== '' && this.#durableNames.get(change.removes) === change.removed) {
      this.#durableNames.delete(change.removes)
    }
    if (change.binds !== '') this.#durableNames.set(change.binds, change.node!)
  }

  // data

  /** Bytes [from, from+length) of `source` go to `position`; false when the disk is full. */
  put(file: File, source: Uint8Array, from: number, length: number, position: number): void {
    let done = 0
    while (done < length) {
      const at = position + done
      const count = Math.min(PAGE - (at % PAGE), length - done)
      const page = this.#writable(file, Math.floor(at / PAGE), count === PAGE)
      page.set(source.subarray(from + done, from + done + count), at % PAGE)
      done += count
    }
    this.grow(file, position + length)
  }

  grow(file: File, size: number): void {
    if (size <= file.size) return
    file.size = size
    file.sizeVersion++
  }

  /** Pages that a write to this range would have to allocate. */
  missing(file: File, position: number, length: number): number {
    let count = 0
    const last = Math.floor((position + length - 1) / PAGE)
    for (let i = Math.floor(position / PAGE); i <= last; i++) if (!file.pages.get(i)?.current) count++
    return count
  }

  #page(file: File, number: number): Page {
    let page = file.pages.get(number)
    if (!page) {
      page = new Page()
      file.pages.set(number, page)
    }
    return page
  }

  /** Marks the page as changed; some time before, the kernel may have written the former version back. */
  #touch(file: File, page: Page): void {
    if (page.version !== page.durableVersion && this.random.u32() < 0x20000000) {
      page.durable = page.current
      page.durableVersion = page.version
      page.frozen = true
    }
    page.version++
    file.dirty.add(page)
  }

  #writable(file: File, number: number, whole: boolean): Uint8Array {
    const page = this.#page(file, number)
    this.#touch(file, page)
    const old = page.current
    if (!old) this.usedPages++
    if (!old || page.frozen) {
      page.current = new Uint8Array(PAGE)
      if (old && !whole) page.current.set(old)
      page.frozen = false
    }
    return page.current!
  }

  #setPage(file: File, number: number, content: Uint8Array | null): void {
    const page = file.pages.get(number)
    if (!page && !content) return
    const target = page ?? this.#page(file, number)
    this.#touch(file, target)
    if (target.current && !content) this.usedPages--
    if (!target.current && content) this.usedPages++
    target.current = content
    target.frozen = content !== null
  }

  copyOut(file: File, target: Uint8Array, to: number, length: number, position: number): number {
    const count = Math.max(0, Math.min(length, file.size - position))
    let done = 0
    while (done < count) {
      const at = position + done
      const part = Math.min(PAGE - (at % PAGE), count - done)
      const content = file.pages.get(Math.floor(at / PAGE))?.current
      if (content) target.set(content.subarray(at % PAGE, (at % PAGE) + part), to + done)
      else target.fill(0, to + done, to + done + part)
      done += part
    }
    return count
  }

  /** Range reads as zeros afterwards; whole pages become holes, or (`keep`) allocated zeros. */
  clear(file: File, position: number, length: number, keep: boolean): void {
    const end = position + length
    for (let at = position; at < end; ) {
      const number = Math.floor(at / PAGE)
      const part = Math.min(PAGE - (at % PAGE), end - at)
      if (part === PAGE || (at % PAGE === 0 && end >= file.size && at + part >= file.size)) {
        this.#setPage(file, number, keep ? ZERO_PAGE : null)
      } else if (file.pages.get(number)?.current) {
        this.#writable(file, number, false).fill(0, at % PAGE, (at % PAGE) + part)
      } else if (keep) {
        this.#setPage(file, number, ZERO_PAGE)
      }
      at += part
    }
  }

  allocate(file: File, position: number, length: number): void {
    const last = Math.floor((position + length - 1) / PAGE)
    for (let i = Math.floor(position / PAGE); i <= last; i++) {
      if (!file.pages.get(i)?.current) this.#setPage(file, i, ZERO_PAGE)
    }
    this.grow(file, position + length)
  }

  truncate(file: File, size: number): void {
    if (size < file.size) {
      if (size % PAGE !== 0 && file.pages.get(Math.floor(size / PAGE))?.current) {
        this.#writable(file, Math.floor(size / PAGE), false).fill(0, size % PAGE)
      }
      const first = Math.ceil(size / PAGE)
      for (const number of file.pages.keys()) if (number >= first) this.#setPage(file, number, null)
    }
    if (size !== file.size) {
      file.size = size
      file.sizeVersion++
    }
  }

  /** What a sync that starts now will make durable. */
  capture(file: File): () => void {
    const pages: { page: Page; content: Uint8Array | null; version: number }[] = []
    for (const page of file.dirty) {
      page.frozen = true
      pages.push({ page, content: page.current, version: page.version })
    }
    const { size, sizeVersion } = file
    return () => {
      for (const { page, content, version } of pages) {
        if (page.durableVersion < version) {
          page.durable = content
          page.durableVersion = version
        }
        if (page.durableVersion === page.version) file.dirty.delete(page)
      }
      if (file.durableSizeVersion < sizeVersion) {
        file.durableSize = size
        file.durableSizeVersion = sizeVersion
      }
    }
  }

  /** A failed fsync: the kernel counts the pages as clean, though they never reached the platter. */
  forgetDirty(file: File): void {
    file.dirty.clear()
  }

  syncNow(file: File): void {
    this.capture(file)()
  }

  // faults

  /** Requests in flight of one process end in any subset of their pages. */
  cutShort(view: DiskView | null): void {
    for (const request of [...this.inFlight]) {
      if (view && request.view !== view) continue
      this.inFlight.delete(request)
      request.cut(this.random)
    }
  }

  /** The machine lost power. Nobody may be attached any more. */
  powerLoss(): void {
    const { random } = this
    this.cutShort(null)
    const keep = random.pick([0, 0.1, 0.5, 0.9, 1])
    if (random.chance(0.3)) this.commitChanges(this.#changes.slice(0, random.below(this.#changes.length + 1)))
    else this.commitChanges(this.#changes.filter(() => random.chance(keep)))
    this.#changes = []
    // A file whose name is lost or was never durable is gone.
    const names = [...this.#durableNames].sort((a, b) => (a[0] < b[0] ? -1 : 1))
    this.directories.clear()
    this.directories.set('', new Directory(''))
    this.#durableNames = new Map()
    this.usedPages = 0
    const files = new Set<File>()
    for (const [path, node] of names) {
      const parent = this.directories.get(parentOf(path))
      if (!parent) continue
      if (node instanceof Directory) {
        const directory = new Directory(path)
        this.directories.set(path, directory)
        parent.entries.set(baseOf(path), directory)
        this.#durableNames.set(path, directory)
      } else {
        parent.entries.set(baseOf(path), node)
        this.#durableNames.set(path, node)
        node.names = files.has(node) ? node.names + 1 : 1
        files.add(node)
      }
    }
    for (const file of files) this.#settle(file, keep)
  }

  #settle(file: File, keep: number): void {
    const { random } = this
    file.opens = 0
    if (file.sizeVersion !== file.durableSizeVersion && random.chance(keep)) file.durableSize = file.size
    file.size = file.durableSize
    file.durableSizeVersion = file.sizeVersion
    for (const [number, page] of file.pages) {
      if (page.version !== page.durableVersion && (!file.dirty.has(page) || !random.chance(keep))) {
        page.current = page.durable
      }
      if (number * PAGE >= file.size) page.current = null
      page.durable = page.current
      page.durableVersion = page.version
      page.frozen = true
      if (page.current) this.usedPages++
      else file.pages.delete(number)
    }
    file.dirty.clear()
    const tail = file.size % PAGE
    const last = file.pages.get(Math.floor(file.size / PAGE))
    if (tail !== 0 && last?.current) {
      const content = last.current.slice()
      content.fill(0, tail)
      last.current = content
      last.durable = content
    }
  }

  /** Flips one bit of a file at rest. */
  flipBit(file: File, byte: number, bit: number): boolean {
    const page = file.pages.get(Math.floor(byte / PAGE))
    if (!page?.current || file.dirty.has(page)) return false
    const content = page.current.slice()
    content[byte % PAGE] ^= 1 << bit
    page.current = content
    page.durable = content
    page.frozen = true
    return true
  }

  // for the checker

  /** Every file's path, sorted. */
  paths(): string[] {
    const found: string[] = []
    for (const directory of this.directories.values()) {
      for (const [name, node] of directory.entries) {
        if (node instanceof File) found.push(directory.path === '' ? name : `${directory.path}/${name}`)
      }
    }
    return found.sort()
  }

  /** Whole content as a process would read it; null when there is no such file. */
  content(path: string): Buffer | null {
    const file = this.lookup(normal(path))
    if (!(file instanceof File)) return null
    const bytes = Buffer.alloc(file.size)
    this.copyOut(file, bytes, 0, file.size, 0)
    return bytes
  }

  file(path: string): File | null {
    const file = this.lookup(normal(path))
    return file instanceof File ? file : null
  }
}

/** A data request between its call and its completion. */
class Request {
  #applied = false

  constructor(
    readonly view: DiskView,
    /** All of it, or with `some` the pages for which it says true */
    readonly effect: (some?: () => boolean) => void,
  ) {}

  apply(): void {
    if (this.#applied) return
    this.#applied = true
    this.effect()
  }

  cut(random: SimRandom): void {
    if (this.#applied) return
    this.#applied = true
    const share = random.pick([0, 0.5, 1])
    this.effect(() => random.chance(share))
  }
}

class DiskView implements Disk {
  readonly #files = new Map<number, { file: File; path: string }>()
  #nextFd = 3

  constructor(
    readonly disk: SimDisk,
    readonly process: Process,
  ) {}

  makeDirectory(path: string): void {
    path = normal(path)
    this.#call('mkdir', path)
    // Like mkdir -p: the interface has no way to say that a parent is missing.
    let at = ''
    for (const part of path.split('/')) {
      at = at === '' ? part : `${at}/${part}`
      const node = this.disk.lookup(at)
      if (node instanceof File) throw this.#error(EEXIST, 'mkdir', at)
      if (node) continue
      const directory = new Directory(at)
      this.disk.bind(at, directory)
      this.disk.change({ directory: parentOf(at), binds: at, node: directory, removes: '', removed: null })
    }
  }

  list(path: string): string[] {
    path = normal(path)
    this.#look('readdir', path)
    const directory = this.disk.directory(path)
    return directory ? this.disk.random.shuffle([...directory.entries.keys()]) : []
  }

  exists(path: string): boolean {
    this.process.touch()
    return this.disk.lookup(normal(path)) !== undefined
  }

  open(path: string, mode: OpenMode): number {
    path = normal(path)
    this.#look('open', path)
    const { disk } = this
    const node = disk.lookup(path)
    if (node instanceof Directory) throw this.#error(EIO, 'open', path)
    let file = node
    if (file && mode === 'create-new') throw this.#error(EEXIST, 'open', path)
    if (!file) {
      if (mode === 'read' || mode === 'write' || !disk.directory(parentOf(path))) {
        throw this.#error(ENOENT, 'open', path)
      }
      this.process.systemCall()
      if (disk.usedPages >= disk.capacityPages) throw this.#error(ENOSPC, 'open', path)
      file = disk.newFile()
      disk.bind(path, file)
      disk.change({ directory: parentOf(path), binds: path, node: file, removes: '', removed: null })
    }
    const fd = this.#nextFd++
    this.#files.set(fd, { file, path })
    file.opens++
    return fd
  }

  close(fd: number): void {
    this.process.touch()
    const { file } = this.#open(fd, 'close')
    this.#files.delete(fd)
    file.opens--
    this.disk.release(file)
  }

  size(fd: number): number {
    this.process.touch()
    return this.#open(fd, 'fstat').file.size
  }

  truncate(fd: number, size: number): void {
    const { file, path } = this.#open(fd, 'truncate')
    this.#call('truncate', path)
    this.disk.truncate(file, size)
  }

  unlink(path: string): void {
    path = normal(path)
    this.#call('unlink', path)
    const node = this.disk.lookup(path)
    if (!(node instanceof File)) throw this.#error(ENOENT, 'unlink', path)
    this.disk.unbind(path)
    this.disk.change({ directory: parentOf(path), binds: '', node: null, removes: path, removed: node })
  }

  rename(from: string, to: string): void {
    from = normal(from)
    to = normal(to)
    this.#call('rename', from)
    const node = this.disk.lookup(from)
    if (!(node instanceof File) || !this.disk.directory(parentOf(to))) throw this.#error(ENOENT, 'rename', from)
    node.names++ // the rename never leaves it without a name
    this.disk.unbind(from)
    this.disk.bind(to, node)
    node.names--
    this.disk.change({ directory: parentOf(to), binds: to, node, removes: from, removed: node })
  }

  readFile(path: string): Buffer | null {
    path = normal(path)
    this.#look('read', path)
    const file = this.disk.file(path)
    if (file && file.bad.size > 0) throw this.#error(EIO, 'read', path)
    return this.disk.content(path)
  }

  writeFileAtomic(path: string, content: Buffer | string): void {
    path = normal(path)
    this.#call('write', path)
    const { disk } = this
    if (!disk.directory(parentOf(path))) throw this.#error(ENOENT, 'write', path)
    const bytes = typeof content === 'string' ? Buffer.from(content) : content
    const file = disk.newFile()
    if (disk.usedPages + disk.missing(file, 0, Math.max(1, bytes.length)) > disk.capacityPages) {
      throw this.#error(ENOSPC, 'write', path)
    }
    disk.put(file, bytes, 0, bytes.length, 0)
    disk.syncNow(file)
    disk.bind(path, file)
    const change = { directory: parentOf(path), binds: path, node: file, removes: '', removed: null }
    disk.change(change)
    disk.commitChanges([change])
  }

  space(): DiskSpace {
    this.process.touch()
    const { disk } = this
    return { total: disk.capacityPages * PAGE, free: Math.max(0, disk.capacityPages - disk.usedPages) * PAGE }
  }

  read(fd: number, buffer: Uint8Array, bufferOffset: number, length: number, position: number, done: Completion): void {
    const { file } = this.#open(fd, 'read')
    if (this.#failed(file, position, length)) return this.#finish(-EIO, done)
    let result = 0
    this.#start(
      done,
      () => result,
      () => {
        result = this.disk.copyOut(file, buffer, bufferOffset, length, position)
      },
    )
  }

  write(
    fd: number,
    buffer: Uint8Array,
    bufferOffset: number,
    length: number,
    position: number,
    done: Completion,
  ): void {
    const { file } = this.#open(fd, 'write')
    if (bufferOffset + length > buffer.length) throw new Error('write beyond the end of its buffer')
    this.process.systemCall()
    const { disk } = this
    if (this.#failed(file, position, length)) return this.#finish(-EIO, done)
    if (disk.usedPages + disk.missing(file, position, length) > disk.capacityPages) return this.#finish(-ENOSPC, done)
    this.#start(
      done,
      () => length,
      (some) => {
        if (!some) return disk.put(file, buffer, bufferOffset, length, position)
        this.#byPage(position, length, some, (at, count) =>
          disk.put(file, buffer, bufferOffset + at - position, count, at),
        )
      },
    )
  }

  punch(fd: number, position: number, length: number, done: Completion): void {
    this.#clear('punch', fd, position, length, false, done)
  }

  zero(fd: number, position: number, length: number, done: Completion): void {
    this.#clear('zero', fd, position, length, true, done)
  }

  #clear(operation: string, fd: number, position: number, length: number, keep: boolean, done: Completion): void {
    const { file } = this.#open(fd, operation)
    this.process.systemCall()
    const { disk } = this
    if (this.#failed(file, position, length)) return this.#finish(-EIO, done)
    if (keep && disk.usedPages + disk.missing(file, position, length) > disk.capacityPages) {
      return this.#finish(-ENOSPC, done)
    }
    this.#start(
      done,
      () => 0,
      (some) => {
        if (!some) return disk.clear(file, position, length, keep)
        this.#byPage(position, length, some, (at, count) => disk.clear(file, at, count, keep))
      },
    )
  }

  allocate(fd: number, position: number, length: number, done: Completion): void {
    const { file } = this.#open(fd, 'allocate')
    this.process.systemCall()
    const { disk } = this
    if (this.#failed(file, position, length)) return this.#finish(-EIO, done)
    if (disk.usedPages + disk.missing(file, position, length) > disk.capacityPages) return this.#finish(-ENOSPC, done)
    this.#start(
      done,
      () => 0,
      (some) => {
        if (!some || some()) disk.allocate(file, position, length)
      },
    )
  }

  sync(fd: number, done: Completion): void {
    const { file } = this.#open(fd, 'fdatasync')
    this.process.systemCall()
    this.#syncing(done, file, this.disk.capture(file))
  }

  syncDirectory(path: string, done: Completion): void {
    path = normal(path)
    this.process.systemCall()
    if (!this.disk.directory(path)) throw this.#error(ENOENT, 'fsync', path)
    const changes = this.disk.changesIn(path)
    this.#syncing(done, null, () => this.disk.commitChanges(changes))
  }

  extents(fd: number, position: number, length: number): Extent[] {
    this.process.touch()
    const { file } = this.#open(fd, 'lseek')
    const found: Extent[] = []
    const end = Math.min(position + length, file.size)
    for (let at = position; at < end; ) {
      const part = Math.min(PAGE - (at % PAGE), end - at)
      if (file.pages.get(Math.floor(at / PAGE))?.current) {
        const last = found.at(-1)
        if (last && last.offset + last.length === at) last.length += part
        else found.push({ offset: at, length: part })
      }
      at += part
    }
    return found
  }

  usedBytes(fd: number): number {
    this.process.touch()
    return this.#open(fd, 'fstat').file.usedPages * PAGE
  }

  /** The process is gone: its descriptors are closed, its requests end anyhow. */
  detach(): void {
    this.disk.cutShort(this)
    for (const { file } of this.#files.values()) {
      file.opens--
      this.disk.release(file)
    }
    this.#files.clear()
  }

  #open(fd: number, operation: string): { file: File; path: string } {
    this.process.touch()
    const open = this.#files.get(fd)
    if (!open) throw this.#error(EBADF, operation, `fd ${fd}`)
    return open
  }

  #call(operation: string, path: string): void {
    this.process.systemCall()
    if (this.disk.dead) throw this.#error(EIO, operation, path)
  }

  #look(operation: string, path: string): void {
    this.process.touch()
    if (this.disk.dead) throw this.#error(EIO, operation, path)
  }

  #error(errno: number, operation: string, path: string): DiskError {
    return new DiskError(errno, operation, path, TEXT[errno])
  }

  #failed(file: File, position: number, length: number): boolean {
    if (this.disk.dead) return true
    if (file.bad.size === 0) return false
    const last = Math.floor((position + length - 1) / PAGE)
    for (let i = Math.floor(position / PAGE); i <= last; i++) if (file.bad.has(i)) return true
    return false
  }

  #byPage(position: number, length: number, some: () => boolean, part: (at: number, count: number) => void): void {
    for (let at = position; at < position + length; ) {
      const count = Math.min(PAGE - (at % PAGE), position + length - at)
      if (some()) part(at, count)
      at += count
    }
  }

  #delay(mean: number): number {
    const { disk } = this
    return disk.random.exponential(mean * disk.slowness) + 0.01
  }

  /** Inline or later; when later, the buffer is looked at somewhere between the call and the completion. */
  #start(done: Completion, result: () => number, effect: (some?: () => boolean) => void): void {
    const { disk } = this
    if (disk.slowness === 1 && disk.random.chance(disk.shape.inline)) {
      effect()
      done.complete(result())
      return
    }
    const request = new Request(this, effect)
    disk.inFlight.add(request)
    const total = this.#delay(disk.shape.latency)
    if (disk.random.chance(0.5)) {
      disk.scheduler.after(disk.random.float() * total, () => disk.inFlight.has(request) && request.apply(), true)
    }
    disk.scheduler.after(total, () => {
      if (!disk.inFlight.delete(request)) return
      request.apply()
      this.process.enter(() => done.complete(result()))
    })
  }

  #finish(result: number, done: Completion): void {
    const { disk } = this
    if (disk.random.chance(disk.shape.inline)) done.complete(result)
    else disk.scheduler.after(this.#delay(disk.shape.latency), () => this.process.enter(() => done.complete(result)))
  }

  #syncing(done: Completion, file: File | null, effect: () => void): void {
    const { disk } = this
    const request = new Request(this, (some) => {
      if (!some || some()) effect()
    })
    disk.inFlight.add(request)
    disk.scheduler.after(this.#delay(disk.shape.syncLatency), () => {
      if (!disk.inFlight.delete(request)) return
      const failed = disk.dead || (file !== null && file.bad.size > 0)
      if (!failed) request.apply()
      else if (file) disk.forgetDirty(file)
      this.process.enter(() => done.complete(failed ? -EIO : 0))
    })
  }
}

export type { DiskView }
