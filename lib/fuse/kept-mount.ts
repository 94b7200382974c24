/**
 * A mount whose descriptor the service manager keeps, and what the next process must know of it. The manager's own privileged command
 * mounts (daemon/volumes-mount.ts), so that the daemon needs no right to: one that is new looks like one that was left in order.
 */
import fs from 'node:fs'
import { SheepError } from '../errors.js'
import type { Log } from '../host/interfaces.js'
import { isMounted, mountAt, mountState, unmount } from './mount.js'

export interface Remembered {
  place: string
  /** The kernel asks again for what was not answered */
  resend: boolean
  /** The process before stopped in order */
  clean: boolean
}

/** @param state path of the files that say what is open, without their endings */
export function remember(state: string, memory: Remembered): void {
  fs.writeFileSync(`${state}.json`, JSON.stringify(memory))
}

/** What the process before left there; null: a kept descriptor cannot be gone on with. */
export function remembered(place: string, state: string): Remembered | null {
  const memory = readMemory(`${state}.json`)
  return memory?.place === place && isMounted(place) && (memory.resend || memory.clean) ? memory : null
}

/** An opened /dev/fuse, mounted there: nothing is open. SheepError busy, system, invalid. */
export async function mountAnew(place: string, state: string, log: Log): Promise<number> {
  await clear(place, log)
  fs.rmSync(`${state}.open`, { force: true })
  const fd = await mountAt(place)
  remember(state, { place, resend: false, clean: true })
  return fd
}

/** Files that are open there fail from now on. @param served by somebody who still answers: umount(8) waits for him */
export async function unmountFor(place: string, log: Log, served: boolean): Promise<void> {
  if (!isMounted(place) || (served && (await unmount(place, false)))) return
  if (served) log('warning', `files in ${place} are open: they fail from now on`)
  await unmount(place, true)
}

async function clear(place: string, log: Log): Promise<void> {
  const found = await mountState(place)
  if (found === 'alive') {
    throw new SheepError('busy', `another daemon serves ${place}`, 'give this one another place with --volumes')
  }
  if (found === 'none') return
  log('notice', `a former daemon's mount of ${place} is removed`)
  if (!(await unmount(place, true)))
    throw new SheepError('system', `${place} cannot be unmounted`, `umount -l ${place}`)
}

function readMemory(path: string): Remembered | null {
  try {
    const { place, resend, clean } = JSON.parse(fs.readFileSync(path, 'utf8')) as Partial<Remembered>
    return { place: String(place), resend: resend === true, clean: clean === true }
  } catch {
    // Not there, or cut off: then there is nothing to go on with.
    return null
  }
}
