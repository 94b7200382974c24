/** The store directory: made when missing, ours or empty, and one daemon's at a time. */
import { ftruncateSync, mkdirSync, openSync, readdirSync, readFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { SheepError } from '../lib/errors.js'
import { lockExclusive } from '../lib/host/native.js'

/** Made first in a new store: it marks the directory as one. */
const LOCK = 'lock'
/** What an empty directory may have: of a file system of its own, and our log. */
const NOTHING = new Set(['lost+found', 'sheep.log'])

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

/** Held until the process ends, however it ends. SheepError busy, system */
export function lockStore(store: string): void {
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
    const owner = readFileSync(path, 'utf8').trim()
    throw new SheepError(
      'busy',
      `the store ${store} is in use by another daemon${/^[0-9]+$/.test(owner) ? `, process ${owner}` : ''}`,
      'give another directory, or stop that daemon first',
    )
  }
  ftruncateSync(fd)
  writeSync(fd, `${process.pid}\n`)
}
