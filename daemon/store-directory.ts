/** The store directory: made when missing, and one daemon's at a time. */
import { mkdirSync, openSync } from 'node:fs'
import { join } from 'node:path'
import { SheepError } from '../lib/errors.js'
import { lockExclusive } from '../lib/host/native.js'

/** SheepError system */
export function makeStoreDirectory(store: string): void {
  try {
    mkdirSync(store, { recursive: true, mode: 0o750 })
  } catch (error) {
    throw new SheepError(
      'system',
      `cannot make the store directory ${store}: ${(error as NodeJS.ErrnoException).message}`,
      'choose a directory that this user may write, or run as root',
    )
  }
}

/** Held until the process ends, however it ends. SheepError busy, system */
export function lockStore(store: string): void {
  const path = join(store, 'lock')
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
    throw new SheepError(
      'busy',
      `another daemon uses the store ${store}`,
      `use another directory, or stop that daemon: dog --socket ${join(store, 'sock')} node list`,
    )
  }
}
