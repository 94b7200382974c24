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
 * Faults: dead disk, pages that cannot be read until they are written as a whole, full, slow, flipped bits. A failed sync drops what it
 * covered, as Linux does.
 * `SimDisk` outlives processes; a `DiskView` (disk-view.ts) is what one process sees of it.
 */
import type { Scheduler } from './clock.js'
import type { SimRandom } from './random.js'

export const PAGE = 4096
const ZERO_PAGE = new Uint8Array(PAGE)
const ZEROS = Buffer.from(ZERO_PAGE.buffer)

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

export class Directory {
  readonly entries = new Map<string, File | Directory>()
  constructor(readonly path: string) {}
}

/** A request that a process waits for. `cut`: its process is gone, it ends in any subset of its pages. */
export interface InFlight {
  readonly owner: unknown
  cut(random: SimRandom): void
}

/** One change of names that is not yet on the platter: `removes` and `binds` happen together. */
export interface NameChange {
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

export function parentOf(path: string): string {
  const slash = path.lastIndexOf('/')
  return slash < 0 ? '' : path.slice(0, slash)
}

function baseOf(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1)
}

/** `a/b`, `./a//b/` and `a/./b` name one thing. */
export function normal(path: string): string {
  if (!/\/\/|\/$|^\/|\.\//.test(path) && path !== '.') return path
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
  powerLosses = 0
  /** Every request fails with EIO. */
  dead = false
  /** So many of the next data requests and syncs fail with EIO. */
  errors = 0
  /** Says that nothing is free, though there is some. */
  crowded = false
  /** Times slower than usual. */
  slowness = 1
  readonly inFlight = new Set<InFlight>()

  constructor(
    readonly scheduler: Scheduler,
    readonly random: SimRandom,
    readonly shape: DiskShape,
  ) {}

  get capacityPages(): number {
    return Math.floor(this.shape.capacity / PAGE)
  }

  /** Whether a request that starts now fails. */
  fails(): boolean {
    if (this.dead) return true
    if (this.errors === 0 || !this.random.chance(0.3)) return false
    this.errors--
    return true
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
      const number = Math.floor(at / PAGE)
      const part = source.subarray(from + done, from + done + count)
      if (count === PAGE) file.bad.delete(number)
      // Logs are written as pages of zeros first: those share one.
      if (count === PAGE && part[0] === 0 && ZEROS.equals(part)) this.#setPage(file, number, ZERO_PAGE)
      else this.#writable(file, number, count === PAGE).set(part, at % PAGE)
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
    file.bad.delete(number)
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
  cutShort(owner: unknown): void {
    for (const request of [...this.inFlight]) {
      if (owner !== null && request.owner !== owner) continue
      this.inFlight.delete(request)
      request.cut(this.random)
    }
  }

  /** The machine lost power. Nobody may be attached any more. */
  powerLoss(): void {
    const { random } = this
    this.powerLosses++
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

  /** A page of a file at rest cannot be read any more, until all of it is written. */
  spoil(file: File, byte: number): boolean {
    return this.flipBit(file, byte, 0) && file.bad.add(Math.floor(byte / PAGE)) !== null
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
