/** One process's view of a simulated disk: implements lib/host's Disk, completes inline or later, dies with the process. */
import {
  type Completion,
  type Disk,
  DiskError,
  type DiskSpace,
  type Extent,
  type OpenMode,
} from '../../lib/host/interfaces.js'
import { Directory, File, type InFlight, normal, PAGE, parentOf, type SimDisk } from './disk.js'
import type { Process } from './process.js'
import type { SimRandom } from './random.js'

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

/** A data request between its call and its completion. */
class Request implements InFlight {
  #applied = false

  constructor(
    readonly owner: DiskView,
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

export class DiskView implements Disk {
  readonly #files = new Map<number, { file: File; path: string }>()
  #nextFd = 3

  constructor(
    readonly disk: SimDisk,
    readonly process: Process,
  ) {}

  get bootId(): string {
    return `boot-${this.disk.powerLosses}`
  }

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
    this.#look('statfs', '')
    const { disk } = this
    const free = disk.crowded ? 0 : Math.max(0, disk.capacityPages - disk.usedPages)
    return { total: disk.capacityPages * PAGE, free: free * PAGE }
  }

  read(fd: number, buffer: Uint8Array, bufferOffset: number, length: number, position: number, done: Completion): void {
    const { file } = this.#open(fd, 'read')
    if (this.#refused(file, position, length, 0, done, 'read')) return
    let result = 0
    this.#start(
      done,
      () => result,
      () => {
        result = this.disk.copyOut(file, buffer, bufferOffset, length, position)
      },
    )
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
    const { file } = this.#open(fd, 'write')
    if (bufferOffset + length > buffer.length) throw new Error('write beyond the end of its buffer')
    this.process.systemCall()
    const { disk } = this
    if (this.#refused(file, position, length, disk.missing(file, position, length), done)) return
    this.#start(
      done,
      () => length,
      (some) => {
        if (!some) disk.put(file, buffer, bufferOffset, length, position)
        else
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
    const needed = keep ? disk.missing(file, position, length) : 0
    if (this.#refused(file, position, length, needed, done)) return
    this.#start(
      done,
      () => 0,
      (some) => {
        if (!some) disk.clear(file, position, length, keep)
        else this.#byPage(position, length, some, (at, count) => disk.clear(file, at, count, keep))
      },
    )
  }

  allocate(fd: number, position: number, length: number, done: Completion): void {
    const { file } = this.#open(fd, 'allocate')
    this.process.systemCall()
    const { disk } = this
    if (this.#refused(file, position, length, disk.missing(file, position, length), done)) return
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

  /** Ends a data request that cannot be done: the disk or a page of it is bad, or `needed` pages are not there. */
  #refused(
    file: File,
    position: number,
    length: number,
    needed: number,
    done: Completion,
    kind: 'read' | 'change' = 'change',
  ): boolean {
    const { disk } = this
    if (this.#failed(file, position, length, kind)) this.#finish(-EIO, done)
    else if (needed > 0 && disk.usedPages + needed > disk.capacityPages) this.#finish(-ENOSPC, done)
    else return false
    return true
  }

  #failed(file: File, position: number, length: number, kind: 'read' | 'change'): boolean {
    if (this.disk.fails()) return true
    if (file.bad.size === 0) return false
    const end = position + length
    for (let i = Math.floor(position / PAGE); i * PAGE < end; i++) {
      // A part of a page is written into what was read of it.
      const isRead = kind === 'read' || i * PAGE < position || (i + 1) * PAGE > end
      if (isRead && file.bad.has(i)) return true
    }
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
      const failed = disk.fails()
      if (!failed) request.apply()
      else if (file) disk.forgetDirty(file)
      this.process.enter(() => done.complete(failed ? -EIO : 0))
    })
  }
}
