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
import { mountAnew, type Remembered, remember, remembered, unmountFor } from './kept-mount.js'
import { isMounted } from './mount.js'
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
  /** From the service manager, which mounts and unmounts then; null none */
  descriptor: number | null
}

export interface FuseServer {
  readonly place: string
  counts(): { requests: number; inFlight: number; bytesRead: number; bytesWritten: number; open: number }
  /** A mount that is the service manager's stays, for the next process of this daemon. */
  close(): Promise<void>
}

/** SheepError: busy (another daemon serves the place), system (also: what was handed over is of no use), invalid, unsupported. */
export async function startFuse(options: FuseOptions, parts: FilesParts): Promise<FuseServer> {
  fuse.checkEndianness()
  const { place, state, descriptor: handed } = options
  const { log } = parts
  const descriptor = handed ?? (await mountAnew(place, state, log))
  const before = remembered(place, state)
  if (before === null) {
    fs.closeSync(descriptor)
    throw new SheepError('system', `the mount of ${place} that was kept cannot be gone on with`, 'start sheepdog again')
  }
  let memory: Remembered = before
  const change = (what: Partial<Remembered>): void => {
    memory = { ...memory, ...what }
    remember(state, memory)
  }
  const files = new Files(parts, handleFile(`${state}.open`), ({ flags }) =>
    change({ resend: flags.has(fuse.INIT_HAS_RESEND) }),
  )
  change({ clean: false })
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
  // A mount that nobody has served yet has nothing to ask again.
  if (memory.resend) {
    const bytes = fuse.notification(fuse.NOTIFY_RESEND, Buffer.alloc(0))
    const result = device.send(bytes, 0, bytes.length)
    if (result < 0) log('error', `the kernel does not ask again for what was not answered: errno ${-result}`)
  }
  const what = handed === null ? 'volumes are files in' : 'took over the volumes directory'
  log('notice', `${what} ${place}`, { open: files.handles.all().length })
  return {
    place,
    counts: () => {
      const { requests, inFlight, bytesRead, bytesWritten } = session
      return { requests, inFlight, bytesRead, bytesWritten, open: files.handles.all().length }
    },
    close: async () => {
      if (handed === null) {
        const wasMounted = isMounted(place)
        await unmountFor(place, log, true)
        if (wasMounted) await Promise.race([ended, after(ENDED_MS_MAX)])
      }
      device.close()
      await Promise.race([session.idle(), after(IDLE_MS_MAX)])
      if (session.inFlight === 0) change({ clean: true })
      session.stop()
      await files.stop()
      fs.closeSync(descriptor)
    },
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
