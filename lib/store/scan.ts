/**
 * Startup: what is in obj/. Each file's header is read; what is no object of ours is moved into bad/, never deleted, except
 * for files without any content, which a crash leaves of objects that were never synced.
 *
 * It costs one open, one read and one close a file. The disk is told of the next WINDOW files before they are read, so that a
 * cold cache costs the device's throughput and not its latency for each.
 */
import { SheepError } from '../errors.js'
import { type Disk, DiskError, type Log } from '../host/interfaces.js'
import { type Oid, oidFromHex } from '../vdi/oid.js'
import { completed } from './completed.js'
import { decodeHeader, HEADER_BYTES, HEADER_USED_BYTES, type Header } from './header.js'
import { DIRECTORIES, directoryPath, objectPath } from './object-file.js'

const WINDOW = 128
const EIO = 5

/** Creates the directories that are missing. Throws DiskError. */
export async function makeDirectories(disk: Disk): Promise<void> {
  let made = false
  for (const name of ['obj', 'stage']) {
    if (disk.exists(name)) continue
    disk.makeDirectory(name)
    made = true
  }
  if (made) await syncDirectory(disk, '')
  made = false
  const present = new Set(disk.list('obj'))
  for (let index = 0; index < DIRECTORIES; index++) {
    const path = directoryPath(index)
    if (present.has(path.slice('obj/'.length))) continue
    disk.makeDirectory(path)
    made = true
  }
  if (made) await syncDirectory(disk, 'obj')
}

async function syncDirectory(disk: Disk, path: string): Promise<void> {
  const result = await completed((done) => disk.syncDirectory(path, done))
  if (result < 0) throw new DiskError(-result, 'sync', path === '' ? '.' : path, `errno ${-result}`)
}

/** Removes what was being received when the daemon stopped. */
export function clearStage(disk: Disk): void {
  for (const name of disk.list('stage')) disk.unlink(`stage/${name}`)
}

/** Objects of which a file was here that is no use */
export interface MovedAside {
  /** It was never synced, and the power loss that took its header has left some data */
  unfinished: ReadonlySet<Oid>
  /** The disk's fault: it may have been the newest copy of all */
  spoiled: ReadonlySet<Oid>
}

/** `spoils`: called before a file is moved aside that the disk has spoiled */
export async function scanObjects(
  disk: Disk,
  log: Log,
  found: (header: Header) => void,
  spoils?: () => void,
): Promise<MovedAside> {
  const scan = new Scan(disk, log, found, spoils)
  for (const name of disk.list('obj')) {
    if (!/^[0-9a-f]{2}$/.test(name)) scan.moveAside(`obj/${name}`, 'not a directory of objects')
  }
  await scan.run()
  return scan
}

interface Candidate {
  path: string
  oid: Oid
  fd: number
}

class Scan implements MovedAside {
  readonly unfinished = new Set<Oid>()
  readonly spoiled = new Set<Oid>()
  private readonly buffer = Buffer.alloc(HEADER_USED_BYTES)
  private directory = -1
  private names: string[] = []

  constructor(
    private readonly disk: Disk,
    private readonly log: Log,
    private readonly found: (header: Header) => void,
    private readonly spoils: (() => void) | undefined,
  ) {}

  async run(): Promise<void> {
    const window: Candidate[] = []
    try {
      for (;;) {
        while (window.length < WINDOW && this.fill(window));
        const candidate = window.shift()
        if (candidate === undefined) return
        await this.read(candidate)
      }
    } finally {
      for (const { fd } of window) this.disk.close(fd)
    }
  }

  /** Opens one more file; false when there is none. */
  private fill(window: Candidate[]): boolean {
    const path = this.next()
    if (path === null) return false
    const oid = oidFromHex(path.slice(path.lastIndexOf('/') + 1))
    if (oid < 0 || objectPath(oid) !== path) {
      this.moveAside(path, 'its name is no object id that belongs in this directory')
      return true
    }
    const fd = this.disk.open(path, 'read')
    this.disk.willNeed?.(fd, 0, HEADER_BYTES)
    window.push({ path, oid, fd })
    return true
  }

  private async read({ path, oid, fd }: Candidate): Promise<void> {
    try {
      const length = await completed((done) => this.disk.read(fd, this.buffer, 0, HEADER_USED_BYTES, 0, done))
      if (length >= 0) this.judge(path, oid, fd, this.buffer.subarray(0, length))
      else if (length === -EIO) this.moveAside(path, 'its header cannot be read: input/output error')
      else throw new DiskError(-length, 'read', path, `errno ${-length}`)
    } finally {
      this.disk.close(fd)
    }
  }

  private next(): string | null {
    while (this.names.length === 0) {
      if (++this.directory >= DIRECTORIES) return null
      // In the order in which they were most likely created: that of their inodes and blocks on the disk.
      this.names = this.disk.list(directoryPath(this.directory)).sort().reverse()
    }
    return `${directoryPath(this.directory)}/${this.names.pop()}`
  }

  private judge(path: string, oid: Oid, fd: number, bytes: Buffer): void {
    const header = decodeHeader(bytes)
    if (header === 'newer') {
      throw new SheepError('version', `${path} was written by a newer sheep`, 'start the newer version on this store')
    }
    if (header === 'empty') {
      const size = this.disk.size(fd)
      const content = Math.max(0, size - HEADER_BYTES)
      if (content > 0 && this.disk.extents(fd, HEADER_BYTES, content).length > 0) {
        this.moveAside(path, 'it has data and no header', this.unfinished)
        return
      }
      this.log('info', `removing ${path}: it was being created when this node stopped, and has no content`)
      this.disk.unlink(path)
    } else if (typeof header === 'string') {
      this.moveAside(path, header)
    } else if (header.oid !== oid) {
      this.moveAside(path, 'its header is that of another object')
    } else {
      this.found(header)
    }
  }

  moveAside(path: string, why: string, kind = this.spoiled): void {
    const oid = oidFromHex(path.slice(path.lastIndexOf('/') + 1))
    if (oid >= 0) {
      kind.add(oid)
      if (kind === this.spoiled) this.spoils?.()
    }
    this.disk.makeDirectory('bad')
    const name = `bad/${path.slice(path.lastIndexOf('/') + 1)}`
    let target = name
    for (let n = 1; this.disk.exists(target); n++) target = `${name}.${n}`
    this.disk.rename(path, target)
    this.log('error', `${path} is not served and was moved to ${target}: ${why}`)
  }
}
