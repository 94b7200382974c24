/**
 * The FUSE front-end: mounts the volumes directory, serves it, lets go of it in order; or takes it over from the process before.
 *
 * Taking over. The service manager keeps the descriptor of /dev/fuse while the daemon restarts; the kernel keeps its requests meanwhile.
 * What is open is in a file beside the store. What the former process had taken and not answered is asked for again (FUSE_NOTIFY_RESEND,
 * Linux 6.9). On an older kernel nobody asks again: a process that stopped in order left nothing, and one that did not has its mount
 * given up; its clients' files fail with ENOTCONN and must be opened again.
 */
import fs from 'node:fs'
import { SheepError } from '../errors.js'
import { FuseDevice, UNMOUNTED } from './device.js'
import { Files } from './files.js'
import type { HandleFile } from './handles.js'
import { isMounted, mountAt, mountState, unmount } from './mount.js'
import type { FilesParts } from './parts.js'
import * as fuse from './protocol.js'
import { Session } from './session.js'

/** For requests in flight, when the daemon stops */
const IDLE_MS_MAX = 5_000
const ENDED_MS_MAX = 2_000

export interface FuseOptions {
  /** Absolute path of the directory */
  place: string
  /** Path of the files that say what is open, without their endings */
  state: string
  /** From the service manager; null none */
  descriptor: number | null
  /** Gives the descriptor to the service manager; null: there is none */
  keep: ((fd: number) => void) | null
}

export interface FuseServer {
  readonly place: string
  counts(): { requests: number; inFlight: number; bytesRead: number; bytesWritten: number; open: number }
  /** `handOver`: the mount stays, for the next process of this daemon */
  close(handOver: boolean): Promise<void>
}

interface Remembered {
  place: string
  /** The kernel asks again for what was not answered */
  resend: boolean
  /** The process before stopped in order */
  clean: boolean
}

/** SheepError: busy (another daemon serves the place), system, invalid, unsupported. */
export async function startFuse(options: FuseOptions, parts: FilesParts): Promise<FuseServer> {
  fuse.checkEndianness()
  const { place, state, keep } = options
  const { log } = parts
  const takenOver = options.descriptor === null ? null : takeOver(options, options.descriptor, parts)
  let memory: Remembered = takenOver ?? { place, resend: false, clean: false }
  const remember = (change: Partial<Remembered>): void => {
    memory = { ...memory, ...change }
    fs.writeFileSync(`${state}.json`, JSON.stringify(memory))
  }
  let fd = options.descriptor
  if (takenOver === null) {
    await clear(place, parts)
    fs.rmSync(`${state}.open`, { force: true })
    fd = await mountAt(place)
  }
  const descriptor = fd as number
  const files = new Files(parts, handleFile(`${state}.open`), ({ flags }) =>
    remember({ resend: flags.has(fuse.INIT_HAS_RESEND) }),
  )
  remember({ clean: false })
  const session = new Session(files, parts.clock, log)
  let over: (() => void) | null = null
  const ended = new Promise<void>((resolve) => {
    over = resolve
  })
  const device = new FuseDevice(descriptor, {
    get ready() {
      return session.ready
    },
    message: (slab, start, length) => session.message(slab, start, length),
    ended: (errno) => {
      if (errno !== UNMOUNTED) log('error', `the kernel ended the FUSE connection: errno ${errno}`)
      over?.()
    },
  })
  session.channel = device
  if (takenOver === null) keep?.(descriptor)
  else if (memory.resend) {
    const bytes = fuse.notification(fuse.NOTIFY_RESEND, Buffer.alloc(0))
    const result = device.send(bytes, 0, bytes.length)
    if (result < 0) log('error', `the kernel does not ask again for what was not answered: errno ${-result}`)
  }
  const what = takenOver === null ? 'volumes are files in' : 'took over the volumes directory'
  log('notice', `${what} ${place}`, { open: files.handles.all().length })
  return {
    place,
    counts: () => {
      const { requests, inFlight, bytesRead, bytesWritten } = session
      return { requests, inFlight, bytesRead, bytesWritten, open: files.handles.all().length }
    },
    close: async (handOver) => {
      if (!handOver && isMounted(place) && !(await unmount(place, false))) {
        log('warning', `files in ${place} are open: they fail from now on`, { open: files.handles.all().length })
        await unmount(place, true)
      } else if (!handOver) {
        await Promise.race([ended, after(ENDED_MS_MAX)])
      }
      device.close()
      await Promise.race([session.idle(), after(IDLE_MS_MAX)])
      if (session.inFlight === 0) remember({ clean: true })
      session.stop()
      await files.stop()
      fs.closeSync(descriptor)
    },
  }
}

/** null: what the former process left cannot be gone on with. */
function takeOver({ place, state }: FuseOptions, fd: number, { log }: FilesParts): Remembered | null {
  const memory = readMemory(`${state}.json`)
  if (memory !== null && memory.place === place && isMounted(place) && (memory.resend || memory.clean)) return memory
  log('warning', `the mount of ${place} that was kept is given up: files that are open there must be opened again`, {
    resend: memory?.resend ?? false,
    clean: memory?.clean ?? false,
  })
  fs.closeSync(fd)
  return null
}

async function clear(place: string, { log }: FilesParts): Promise<void> {
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

function handleFile(path: string): HandleFile {
  const fd = fs.openSync(path, fs.constants.O_RDWR | fs.constants.O_CREAT, 0o600)
  return {
    read: () => fs.readFileSync(fd),
    write: (position, bytes) => {
      fs.writeSync(fd, bytes, 0, bytes.length, position)
    },
  }
}

function after(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms).unref()
  })
}
