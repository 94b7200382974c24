/**
 * `sheep mount-volumes` and `sheep unmount-volumes`, for systemd/sheepdog.service alone: they run before and after the daemon with all
 * rights and in the host's own mount namespace, which the daemon does not have. The descriptor of /dev/fuse goes to systemd's store.
 */
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { SheepError } from '../lib/errors.js'
import { mountAnew, remembered, unmountFor } from '../lib/fuse/kept-mount.js'
import { isMounted, unmount } from '../lib/fuse/mount.js'
import { journalLog } from '../lib/host/log.js'
import type { SheepOptions } from './options.js'
import { ServiceManager } from './service-manager.js'
import { makeStoreDirectory } from './store-directory.js'

export const VOLUMES_DESCRIPTOR = 'volumes'
const SYSTEMCTL_MS = 5_000
/** RestartPreventExitStatus= of the unit */
const NO_RESTART: ReadonlySet<string> = new Set(['2', '5'])

export function mountStateIn(store: string): string {
  return join(store, 'volumes-mount')
}

/** Before the daemon starts: its mount is there and systemd has the descriptor. SheepError. */
export async function mountVolumes({ volumes, stores, logLevel }: SheepOptions): Promise<void> {
  if (volumes === null) return
  const log = journalLog({ level: () => logLevel })
  const manager = ServiceManager.of(process.env, log)
  if (manager === null)
    throw new SheepError('invalid', 'mount-volumes is for sheepdog.service', 'sheep mounts by itself')
  const { place } = volumes
  const state = mountStateIn(stores[0])
  const kept = Number(systemctl(['show', unitOf(), '-P', 'NFileDescriptorStore'])) > 0
  if (kept && remembered(place, state) !== null) return
  if (kept) {
    log('warning', `the mount of ${place} that was kept is given up: files that are open there must be opened again`)
    manager.forget(VOLUMES_DESCRIPTOR)
    if (isMounted(place)) await unmount(place, true)
  }
  makeStoreDirectory(stores[0])
  manager.keep(VOLUMES_DESCRIPTOR, await mountAnew(place, state, log))
}

/** Before and after the daemon stops: unmounts, unless it is started again at once. SheepError. */
export async function unmountVolumes({ volumes, logLevel }: SheepOptions): Promise<void> {
  if (volumes === null || startsAgain(unitOf(), process.env)) return
  // systemd.exec(5): EXIT_CODE is there once the daemon is not.
  await unmountFor(volumes.place, journalLog({ level: () => logLevel }), process.env.EXIT_CODE === undefined)
}

function startsAgain(unit: string, { SERVICE_RESULT: result, EXIT_STATUS: status = '' }: NodeJS.ProcessEnv): boolean {
  const jobs = systemctl(['list-jobs', '--no-legend', '--plain']).split('\n')
  const job = jobs.map((line) => line.trim().split(/\s+/)).find(([, of]) => of === unit)
  if (job !== undefined) return job[2] !== 'stop'
  // Restart=on-failure makes its job later.
  return result !== undefined && result !== 'success' && !NO_RESTART.has(status)
}

function unitOf(): string {
  const unit = /([^/\n]+\.service)(?:\/|$)/m.exec(readFileSync('/proc/self/cgroup', 'utf8'))?.[1]
  if (unit === undefined)
    throw new SheepError('invalid', 'this is for sheepdog.service alone', 'sheep mounts by itself')
  return unit
}

function systemctl(words: readonly string[]): string {
  try {
    return execFileSync('systemctl', words, {
      timeout: SYSTEMCTL_MS,
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    })
  } catch (error) {
    throw new SheepError('system', `systemctl ${words.join(' ')}: ${(error as Error).message}`, 'see systemctl status')
  }
}
