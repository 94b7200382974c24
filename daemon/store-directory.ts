/** The store directory: made when missing, ours or empty, and one daemon's at a time. */
import { closeSync, ftruncateSync, mkdirSync, openSync, readdirSync, readFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { asSheepError, SheepError } from '../lib/errors.js'
import { RealDisk } from '../lib/host/disk.js'
import { lockExclusive } from '../lib/host/native.js'
import type { AttachedDisk, UnusableDisk } from '../lib/store/node-disks.js'

/** Made first in a new store: it marks the directory as one. */
const LOCK = 'lock'
/** What an empty directory may have: of a file system of its own, our log, what volumes-mount.ts made before the first start. */
const NOTHING = new Set(['lost+found', 'sheep.log', 'volumes', 'volumes-mount.json'])

/** SheepError system, invalid: the directory is somebody else's. Leaves such a directory untouched. */
export function makeStoreDirectory(store: string): void {
  let names: string[]
  try {
    mkdirSync(store, { recursive: true, mode: 0o750 })
    names = readdirSync(store)
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    if (code === 'EEXIST' || code === 'ENOTDIR') {
      throw new SheepError('invalid', `${store} is not a directory, so it cannot be a store`, 'give a directory')
    }
    throw new SheepError(
      'system',
      `cannot make the store directory ${store}: ${message}`,
      'choose a directory that this user may write, or run as root',
    )
  }
  if (!names.includes(LOCK) && names.some((name) => !NOTHING.has(name))) {
    throw new SheepError(
      'invalid',
      `${store} is not empty and is not a store: it has ${names.slice(0, 3).join(', ')}`,
      'give an empty directory, or one that sheep has made',
    )
  }
}

/**
 * A directory for this daemon alone: it is made when missing, and locked until it is closed or the process ends, however it ends.
 * SheepError as of makeStoreDirectory; busy.
 */
export function attachStore(path: string, sync: boolean): AttachedDisk {
  makeStoreDirectory(path)
  const lock = lockStore(path)
  return { path, disk: new RealDisk(path, { sync }), close: () => closeSync(lock) }
}

/** All of them. One that cannot be used as it is now is told of, and left out, as long as there is another. SheepError */
export function attachStores(
  paths: readonly string[],
  sync: boolean,
): { attached: AttachedDisk[]; unusable: UnusableDisk[] } {
  const attached: AttachedDisk[] = []
  const unusable: UnusableDisk[] = []
  for (const path of paths) {
    try {
      attached.push(attachStore(path, sync))
    } catch (error) {
      const failure = asSheepError(error)
      if (failure.code !== 'system' || paths.length === 1) throw error
      unusable.push({ id: '', path, state: 'failed', reason: failure.message })
    }
  }
  if (attached.length > 0) return { attached, unusable }
  throw new SheepError('system', unusable.map(({ reason }) => reason).join('; '), 'mount the disks, or replace them')
}

/** Its descriptor holds the lock. SheepError busy, system */
function lockStore(store: string): number {
  const path = join(store, LOCK)
  let fd: number
  try {
    fd = openSync(path, 'a', 0o640)
  } catch (error) {
    throw new SheepError(
      'system',
      `cannot write in the store directory ${store}: ${(error as NodeJS.ErrnoException).message}`,
      'see whose it is (ls -ld) and whether its file system is full or read-only',
    )
  }
  if (lockExclusive(fd) !== 0) {
    closeSync(fd)
    const owner = readFileSync(path, 'utf8').trim()
    if (owner === String(process.pid))
      throw new SheepError('exists', `the store ${store} is in use by this daemon already`)
    throw new SheepError(
      'busy',
      `the store ${store} is in use by another daemon${/^[0-9]+$/.test(owner) ? `, process ${owner}` : ''}`,
      'give another directory, or stop that daemon first',
    )
  }
  try {
    ftruncateSync(fd)
    writeSync(fd, `${process.pid}\n`)
  } catch (error) {
    closeSync(fd)
    throw new SheepError(
      'system',
      `cannot write in the store directory ${store}: ${(error as NodeJS.ErrnoException).message}`,
      'see dmesg, and whether its file system is read-only',
    )
  }
  return fd
}
