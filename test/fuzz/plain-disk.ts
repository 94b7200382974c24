/** A Disk of whole files in memory, for parsers of what a disk holds: everything completes, syncs a little later. */
import {
  type Completion,
  type Disk,
  DiskError,
  type DiskSpace,
  type Extent,
  type OpenMode,
} from '../../lib/host/interfaces.js'

const BYTES_MAX = 64 << 20

export class PlainDisk implements Disk {
  readonly bootId = 'boot'
  readonly files = new Map<string, Buffer>()
  private readonly fds = new Map<number, string>()
  private next = 3

  makeDirectory(): void {}

  list(path: string): string[] {
    const prefix = `${path}/`
    const names = [...this.files.keys()].filter((name) => name.startsWith(prefix))
    return names.map((name) => name.slice(prefix.length)).filter((name) => !name.includes('/'))
  }

  exists(path: string): boolean {
    return this.files.has(path)
  }

  open(path: string, mode: OpenMode): number {
    if (!this.files.has(path)) {
      if (mode === 'read' || mode === 'write') throw new DiskError(2, 'open', path, 'missing')
      this.files.set(path, Buffer.alloc(0))
    } else if (mode === 'create-new') throw new DiskError(17, 'open', path, 'exists')
    this.fds.set(this.next, path)
    return this.next++
  }

  close(fd: number): void {
    if (!this.fds.delete(fd)) throw new Error(`file ${fd} is not open`)
  }

  size(fd: number): number {
    return this.bytes(fd).length
  }

  truncate(fd: number, size: number): void {
    this.files.set(this.fds.get(fd)!, this.bytes(fd).subarray(0, size))
  }

  unlink(path: string): void {
    if (!this.files.delete(path)) throw new DiskError(2, 'unlink', path, 'missing')
  }

  rename(from: string, to: string): void {
    this.files.set(to, this.files.get(from)!)
    this.files.delete(from)
  }

  readFile(path: string): Buffer | null {
    const bytes = this.files.get(path)
    return bytes === undefined ? null : Buffer.from(bytes)
  }

  writeFileAtomic(path: string, content: Buffer | string): void {
    this.files.set(path, Buffer.from(content as string))
  }

  space(): DiskSpace {
    return { total: 1 << 30, free: 1 << 30 }
  }

  read(fd: number, buffer: Uint8Array, start: number, length: number, position: number, done: Completion): void {
    const bytes = this.bytes(fd).subarray(position, position + length)
    buffer.set(bytes, start)
    done.complete(bytes.length)
  }

  writeBulk(fd: number, buffer: Uint8Array, start: number, length: number, position: number, done: Completion): void {
    this.write(fd, buffer, start, length, position, done)
  }

  write(fd: number, buffer: Uint8Array, start: number, length: number, position: number, done: Completion): void {
    const former = this.bytes(fd)
    const end = position + length
    if (end > BYTES_MAX) throw new Error(`a file of ${end} bytes`)
    const bytes = end > former.length ? Buffer.concat([former, Buffer.alloc(end - former.length)]) : former
    bytes.set(buffer.subarray(start, start + length), position)
    this.files.set(this.fds.get(fd)!, bytes)
    done.complete(length)
  }

  punch(_fd: number, _position: number, _length: number, done: Completion): void {
    done.complete(0)
  }

  zero(_fd: number, _position: number, _length: number, done: Completion): void {
    done.complete(0)
  }

  allocate(_fd: number, _position: number, _length: number, done: Completion): void {
    done.complete(0)
  }

  sync(_fd: number, done: Completion): void {
    queueMicrotask(() => done.complete(0))
  }

  syncDirectory(_path: string, done: Completion): void {
    queueMicrotask(() => done.complete(0))
  }

  extents(fd: number): Extent[] {
    return [{ offset: 0, length: this.size(fd) }]
  }

  usedBytes(fd: number): number {
    return this.size(fd)
  }

  private bytes(fd: number): Buffer {
    const path = this.fds.get(fd)
    if (path === undefined) throw new Error(`file ${fd} is not open`)
    return this.files.get(path) ?? Buffer.alloc(0)
  }
}
