/**
 * A file system in memory that forgets: what was not synced may be lost by `crash`, page by page and name by name, calls
 * can fail, and requests wait until the test lets them go on. Deliberately plain; test/simulation has the elaborate one.
 */
import {
  type Completion,
  type Disk,
  DiskError,
  type DiskSpace,
  type Extent,
  type OpenMode,
} from '../../../lib/host/interfaces.js'

const PAGE = 4096

class Inode {
  pages = new Map<number, Buffer>()
  durable = new Map<number, Buffer>()
  dirty = new Set<number>()
  size = 0
  durableSize = 0
  sizeDirty = false
  /** Pages that a failed sync covered: they count as clean, are not on the disk, and are there as long as the page cache keeps them */
  readonly lost = new Set<number>()

  put(bytes: Uint8Array, position: number): void {
    for (let done = 0; done < bytes.length; ) {
      const number = Math.floor((position + done) / PAGE)
      const from = (position + done) % PAGE
      const part = bytes.subarray(done, done + Math.min(PAGE - from, bytes.length - done))
      const page = Buffer.from(this.pages.get(number) ?? Buffer.alloc(PAGE))
      page.set(part, from)
      this.pages.set(number, page)
      this.dirty.add(number)
      this.lost.delete(number)
      done += part.length
    }
    this.grow(position + bytes.length)
  }

  grow(size: number): void {
    if (size <= this.size) return
    this.size = size
    this.sizeDirty = true
  }

  get(buffer: Uint8Array, position: number): number {
    const count = Math.max(0, Math.min(buffer.length, this.size - position))
    for (let done = 0; done < count; ) {
      const from = (position + done) % PAGE
      const length = Math.min(PAGE - from, count - done)
      const page = this.pages.get(Math.floor((position + done) / PAGE))
      if (page === undefined) buffer.fill(0, done, done + length)
      else buffer.set(page.subarray(from, from + length), done)
      done += length
    }
    return count
  }

  /** Everything of it reaches the disk. */
  persist(): void {
    this.durable = new Map(this.pages)
    this.durableSize = this.size
    this.dirty.clear()
    this.sizeDirty = false
  }

  /** The page cache gives up what it takes for clean. */
  evict(keep: () => boolean): void {
    for (const number of this.lost) {
      if (keep()) continue
      const durable = this.durable.get(number)
      durable === undefined ? this.pages.delete(number) : this.pages.set(number, durable)
      this.lost.delete(number)
    }
  }

  afterPowerLoss(keep: () => boolean): Inode {
    const after = new Inode()
    after.pages = new Map(this.durable)
    for (const number of this.dirty) if (keep()) after.pages.set(number, this.pages.get(number)!)
    after.size = this.sizeDirty && keep() ? this.size : this.durableSize
    for (const number of [...after.pages.keys()]) if (number * PAGE >= after.size) after.pages.delete(number)
    after.durable = new Map(after.pages)
    after.durableSize = after.size
    return after
  }
}

interface Request {
  /** Does it, and gives the result */
  run: () => number
  /** What of it is there when the process dies in between */
  partly: (keep: () => boolean) => void
  done: Completion
}

/** Names that change together; null: the name goes */
type NameChange = [string, Inode | null][]

const parentOf = (path: string) => path.slice(0, Math.max(0, path.lastIndexOf('/')))

export class MemoryDisk implements Disk {
  bootId = 'boot 1'
  /** Positive errno to fail a call with, or 0. Called for each that can fail. */
  failing: (operation: string) => number = () => 0
  /** Whether this data request completes inline */
  inline: () => boolean = () => true
  total = 1 << 30
  calls: string[] = []
  readonly waiting: Request[] = []
  readonly open_ = new Map<number, Inode>()
  private nextFd = 3
  private names = new Map<string, Inode>()
  private durableNames = new Map<string, Inode>()
  private pendingNames: NameChange[] = []
  /** Paths of the directories in each */
  private directories = new Map<string, Set<string>>([['', new Set()]])

  /** The machine after a crash. `keep` decides for each thing that was not synced; `power` false: only requests are cut. */
  crash(power: boolean, keep: () => boolean): MemoryDisk {
    for (const request of this.waiting) request.partly(keep)
    const after = new MemoryDisk()
    after.bootId = power ? `boot ${Number(this.bootId.slice(5)) + 1}` : this.bootId
    after.directories = this.directories
    if (!power) {
      for (const inode of this.names.values()) inode.evict(keep)
      after.names = this.names
      after.durableNames = this.durableNames
      after.pendingNames = this.pendingNames
      return after
    }
    const names = new Map(this.durableNames)
    for (const changes of this.pendingNames) {
      if (!keep()) continue
      for (const [path, inode] of changes) inode === null ? names.delete(path) : names.set(path, inode)
    }
    const copies = new Map<Inode, Inode>()
    for (const [path, inode] of names) {
      let copy = copies.get(inode)
      if (copy === undefined) {
        copy = inode.afterPowerLoss(keep)
        copies.set(inode, copy)
      }
      names.set(path, copy)
    }
    after.names = names
    after.durableNames = new Map(names)
    return after
  }

  /** Ends one waiting request. */
  step(choice: number): void {
    if (this.waiting.length === 0) return
    const [request] = this.waiting.splice(choice % this.waiting.length, 1)
    request.done.complete(request.run())
  }

  /** Whether the file's pages from `first` on, and its name, are there after a power loss whatever that keeps. */
  isDurable(path: string, first: number): boolean {
    const inode = this.names.get(path)
    if (inode === undefined || this.durableNames.get(path) !== inode) return false
    return [...inode.pages].every(([number, page]) => number < first || inode.durable.get(number) === page)
  }

  /** A bit of a file at rest turns over. */
  flip(path: string, byte: number): void {
    const inode = this.names.get(path)!
    const number = Math.floor(byte / PAGE)
    const page = Buffer.from(inode.pages.get(number)!)
    page[byte % PAGE] ^= 4
    inode.pages.set(number, page)
    inode.durable.set(number, page)
  }

  /** A sync of it failed, and what that covered was not written again */
  lost(path: string): boolean {
    return (this.names.get(path)?.lost.size ?? 0) > 0
  }

  paths(): string[] {
    return [...this.names.keys()].sort()
  }

  private check(operation: string, path: string): void {
    this.calls.push(`${operation} ${path}`)
    const errno = this.failing(operation)
    if (errno !== 0) throw new DiskError(errno, operation, path, `injected ${errno}`)
  }

  private rebind(changes: [string, Inode | null][]): void {
    for (const [path, inode] of changes) inode === null ? this.names.delete(path) : this.names.set(path, inode)
    this.pendingNames.push(changes)
  }

  private inode(fd: number): Inode {
    const inode = this.open_.get(fd)
    if (inode === undefined) throw new Error(`file ${fd} is not open`)
    return inode
  }

  makeDirectory(path: string): void {
    if (this.directories.has(path)) return
    this.directories.set(path, new Set())
    this.directories.get(parentOf(path))!.add(path)
  }

  list(path: string): string[] {
    const found = []
    for (const name of this.names.keys()) if (parentOf(name) === path) found.push(name)
    for (const name of this.directories.get(path) ?? []) found.push(name)
    return found.map((name) => name.slice(name.lastIndexOf('/') + 1)).sort()
  }

  exists(path: string): boolean {
    return this.names.has(path) || this.directories.has(path)
  }

  open(path: string, mode: OpenMode): number {
    this.check('open', path)
    let inode = this.names.get(path)
    if (inode !== undefined && mode === 'create-new') throw new DiskError(17, 'open', path, 'exists')
    if (inode === undefined) {
      if (mode === 'read' || mode === 'write') throw new DiskError(2, 'open', path, 'missing')
      if (!this.directories.has(parentOf(path))) throw new DiskError(2, 'open', path, 'no directory')
      inode = new Inode()
      this.rebind([[path, inode]])
    }
    const fd = this.nextFd++
    this.open_.set(fd, inode)
    return fd
  }

  close(fd: number): void {
    this.inode(fd)
    this.open_.delete(fd)
  }

  size(fd: number): number {
    return this.inode(fd).size
  }

  truncate(): void {
    throw new Error('the store truncates nothing')
  }

  unlink(path: string): void {
    this.check('unlink', path)
    if (!this.names.has(path)) throw new DiskError(2, 'unlink', path, 'missing')
    this.rebind([[path, null]])
  }

  rename(from: string, to: string): void {
    this.check('rename', from)
    const inode = this.names.get(from)
    if (inode === undefined) throw new DiskError(2, 'rename', from, 'missing')
    this.rebind([
      [from, null],
      [to, inode],
    ])
  }

  readFile(path: string): Buffer | null {
    const inode = this.names.get(path)
    if (inode === undefined) return null
    const bytes = Buffer.alloc(inode.size)
    inode.get(bytes, 0)
    return bytes
  }

  writeFileAtomic(path: string, content: Buffer | string): void {
    this.check('write', path)
    const inode = new Inode()
    inode.put(Buffer.from(content as string), 0)
    inode.persist()
    this.names.set(path, inode)
    this.durableNames.set(path, inode)
  }

  space(): DiskSpace {
    let used = 0
    for (const inode of this.names.values()) used += inode.pages.size * PAGE
    return { total: this.total, free: Math.max(0, this.total - used) }
  }

  private start(request: Request, mayBeInline: boolean): void {
    if (mayBeInline && this.inline()) request.done.complete(request.run())
    else this.waiting.push(request)
  }

  read(fd: number, buffer: Uint8Array, bufferOffset: number, length: number, position: number, done: Completion): void {
    const inode = this.inode(fd)
    const errno = this.failing('read')
    const target = buffer.subarray(bufferOffset, bufferOffset + length)
    this.start({ run: () => (errno !== 0 ? -errno : inode.get(target, position)), partly() {}, done }, true)
  }

  private change(operation: string, done: Completion, result: number, effects: (() => void)[]): void {
    const errno = this.failing(operation)
    this.calls.push(operation)
    const partly = (keep: () => boolean) => {
      for (const effect of effects) if (keep()) effect()
    }
    const run = () => {
      if (errno === 0) for (const effect of effects) effect()
      else effects[0]?.()
      return errno === 0 ? result : -errno
    }
    this.start({ run, partly, done }, true)
  }

  /** One effect a page, as power loss tears. */
  private byPage(position: number, length: number, effect: (at: number, count: number) => void): (() => void)[] {
    const effects: (() => void)[] = []
    for (let at = position; at < position + length; ) {
      const start = at
      const count = Math.min(PAGE - (at % PAGE), position + length - at)
      effects.push(() => effect(start, count))
      at += count
    }
    return effects
  }

  writeBulk(
    fd: number,
    buffer: Uint8Array,
    bufferOffset: number,
    length: number,
    position: number,
    done: Completion,
  ): void {
    this.write(fd, buffer, bufferOffset, length, position, done)
  }

  write(
    fd: number,
    buffer: Uint8Array,
    bufferOffset: number,
    length: number,
    position: number,
    done: Completion,
  ): void {
    const inode = this.inode(fd)
    const effects = this.byPage(position, length, (at, count) => {
      const from = bufferOffset + at - position
      inode.put(buffer.subarray(from, from + count), at)
    })
    this.change('write', done, length, effects)
  }

  private clear(
    fd: number,
    operation: string,
    position: number,
    length: number,
    grows: boolean,
    done: Completion,
  ): void {
    const inode = this.inode(fd)
    const effects = this.byPage(position, length, (at, count) => {
      const end = grows ? at + count : Math.min(at + count, inode.size)
      if (end > at) inode.put(Buffer.alloc(end - at), at)
    })
    this.change(operation, done, 0, effects)
  }

  punch(fd: number, position: number, length: number, done: Completion): void {
    this.clear(fd, 'punch', position, length, false, done)
  }

  zero(fd: number, position: number, length: number, done: Completion): void {
    this.clear(fd, 'zero', position, length, true, done)
  }

  allocate(fd: number, position: number, length: number, done: Completion): void {
    const inode = this.inode(fd)
    this.change('allocate', done, 0, [() => inode.grow(position + length)])
  }

  sync(fd: number, done: Completion): void {
    const inode = this.inode(fd)
    const errno = this.failing('sync')
    this.calls.push('sync')
    const pages = [...inode.dirty].map((number) => [number, inode.pages.get(number)!] as const)
    const { size } = inode
    // Linux counts pages as clean after a failed write-back, though they are not on the disk.
    inode.dirty.clear()
    inode.sizeDirty = false
    const settle = (ok: boolean) => {
      for (const [number, page] of pages) if (ok) inode.durable.set(number, page)
      if (ok) inode.durableSize = Math.max(inode.durableSize, size)
      else for (const [number, page] of pages) if (inode.pages.get(number) === page) inode.lost.add(number)
      return ok ? 0 : -errno
    }
    this.start(
      {
        run: () => settle(errno === 0),
        partly: (keep) => {
          for (const [number, page] of pages) if (keep()) inode.durable.set(number, page)
          for (const [number] of pages) inode.dirty.add(number)
          inode.sizeDirty = true
        },
        done,
      },
      false,
    )
  }

  syncDirectory(path: string, done: Completion): void {
    const errno = this.failing('syncDirectory')
    this.calls.push(`syncDirectory ${path}`)
    // A rename is in both directories, and what came before it in either comes before it for good.
    const covered = this.pendingNames.filter((changes) => changes.some(([name]) => parentOf(name) === path))
    const run = () => {
      if (errno !== 0) return -errno
      for (const changes of covered) {
        for (const [name, inode] of changes) {
          inode === null ? this.durableNames.delete(name) : this.durableNames.set(name, inode)
        }
      }
      this.pendingNames = this.pendingNames.filter((change) => !covered.includes(change))
      return 0
    }
    this.start({ run, partly() {}, done }, false)
  }

  extents(fd: number, position: number, length: number): Extent[] {
    const inode = this.inode(fd)
    const found: Extent[] = []
    for (const number of [...inode.pages.keys()].sort((a, b) => a - b)) {
      const from = Math.max(number * PAGE, position)
      const to = Math.min((number + 1) * PAGE, position + length, inode.size)
      if (to > from) found.push({ offset: from, length: to - from })
    }
    return found
  }

  usedBytes(fd: number): number {
    return this.inode(fd).pages.size * PAGE
  }
}
