/** A preallocated raw file as a volume: what a front-end costs beyond the kernel's own work. For benchmarks. */
import { closeSync, fdatasync, fstatSync, openSync, readSync, writeSync } from 'node:fs'
import type { Volume, VolumeOpener } from '../../lib/gateway/types.js'
import type { Completion, Extent } from '../../lib/host/interfaces.js'
import type { VdiEntry } from '../../lib/vdi/types.js'

const EIO = 5
const ENOTSUP = 95

export class FileVolume implements Volume {
  readonly readOnly = false
  readonly objectSize = 4 << 20
  onChange: ((what: 'resized' | 'revoked') => void) | null = null
  private readonly fd: number

  constructor(
    readonly entry: VdiEntry,
    path: string,
  ) {
    this.fd = openSync(path, 'r+')
  }

  get size(): number {
    return this.entry.size
  }

  read(buffer: Uint8Array, bufferOffset: number, length: number, offset: number, done: Completion): void {
    done.complete(readSync(this.fd, buffer, bufferOffset, length, offset) === length ? length : -EIO)
  }

  write(buffer: Uint8Array, start: number, length: number, offset: number, fua: boolean, done: Completion): void {
    const written = writeSync(this.fd, buffer, start, length, offset)
    if (written !== length) done.complete(-EIO)
    else if (fua) this.flush(done)
    else done.complete(length)
  }

  zero(_length: number, _offset: number, _keepBlocks: boolean, _fua: boolean, done: Completion): void {
    done.complete(-ENOTSUP)
  }

  discard(_length: number, _offset: number, _fua: boolean, done: Completion): void {
    done.complete(-ENOTSUP)
  }

  flush(done: Completion): void {
    fdatasync(this.fd, (error) => done.complete(error === null ? 0 : -EIO))
  }

  async extents(length: number, offset: number): Promise<Extent[]> {
    return [{ offset, length }]
  }

  async close(): Promise<void> {
    closeSync(this.fd)
  }
}

/** One export, named `disk`. */
export function fileOpener(path: string): VolumeOpener {
  const fd = openSync(path, 'r')
  const { size } = fstatSync(fd)
  closeSync(fd)
  const entry: VdiEntry = {
    vid: 1,
    name: 'disk',
    tag: '',
    snapId: 1,
    parent: 0,
    size,
    copies: 1,
    blockSizeShift: 22,
    createTime: 0,
    snapshotTime: 0,
    state: 'live',
    creator: '',
    preallocated: true,
    epoch: 1,
  }
  return { open: async () => new FileVolume(entry, path), list: () => [entry], find: () => entry }
}
