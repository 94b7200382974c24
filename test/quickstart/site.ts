/** The quickstart's directory: three stores, short commands, and the daemons that run there. */
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmSync,
  statfsSync,
  writeFileSync,
} from 'node:fs'
import { homedir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { isAlive, until } from '../support/process.js'

/** Written first, so that only what the quickstart made is ever removed by it. */
const marker = '.sheepdog-quickstart'
/** The image, and three times what is written of it and to the clone; with room for both in recovery. */
const spaceNeeded = 3 * 2 ** 30
const root = join(import.meta.dirname, '..', '..', '..')
export const stores = ['a', 'b', 'c'] as const
export type StoreName = (typeof stores)[number]

export const defaultDirectory = join(homedir(), 'sheepdog-quickstart')

function script(program: string, settings = ''): string {
  return `#!/bin/sh\n${settings}exec '${process.execPath}' '${program}' "$@"\n`
}

/** '' for a link that has gone meanwhile. */
function targetOf(link: string): string {
  try {
    return readlinkSync(link)
  } catch {
    return ''
  }
}

function existingParent(path: string): string {
  return existsSync(path) ? path : existingParent(dirname(path))
}

export class Site {
  readonly directory: string

  constructor(directory: string) {
    const path = resolve(directory)
    // Without links, as /proc shows it.
    this.directory = existsSync(path) ? realpathSync(path) : path
  }

  path(...parts: string[]): string {
    return join(this.directory, ...parts)
  }

  /** @returns '' or why the directory cannot be used. */
  obstacle(): string {
    if (existsSync(this.directory) && !this.isOurs && readdirSync(this.directory).length > 0)
      return `${this.directory} exists, is not empty, and no quickstart made it.`
    const { bavail, bsize } = statfsSync(existingParent(this.directory))
    if (bavail * bsize < spaceNeeded) return `The quickstart needs ${spaceNeeded / 2 ** 30} GiB of free disk space.`
    return ''
  }

  get isOurs(): boolean {
    return existsSync(this.path(marker))
  }

  /** With `bin/sheep` and `bin/dog`, as a package would put them on PATH; `port` is the one that `dog` asks. */
  create(port: number): void {
    mkdirSync(this.path('bin'), { recursive: true })
    writeFileSync(this.path(marker), 'Made by `npm run quickstart`, which removes this directory when it runs again.\n')
    const sheep = script(join(root, 'dist', 'daemon', 'sheep.js'))
    const dog = script(
      join(root, 'dist', 'lib', 'dog', 'main.js'),
      `export SHEEPDOG_PORT="\${SHEEPDOG_PORT:-${port}}"\n`,
    )
    writeFileSync(this.path('bin', 'sheep'), sheep, { mode: 0o755 })
    writeFileSync(this.path('bin', 'dog'), dog, { mode: 0o755 })
  }

  remove(): void {
    rmSync(this.directory, { recursive: true, force: true })
  }

  pidFile(store: StoreName): string {
    return this.path(`${store}.pid`)
  }

  /** Process ids of the daemons that run on our stores. */
  running(): number[] {
    return stores.flatMap((store) => {
      if (!existsSync(this.pidFile(store))) return []
      const pid = Number(readFileSync(this.pidFile(store), 'utf8').trim())
      return Number.isInteger(pid) && pid > 1 && this.holds(pid, store) ? [pid] : []
    })
  }

  /** A pid file may name a stranger by now: ours has the store's lock file open (proc(5), /proc/PID/fd). */
  private holds(pid: number, store: StoreName): boolean {
    const folder = `/proc/${pid}/fd`
    try {
      return readdirSync(folder).some((fd) => targetOf(join(folder, fd)) === this.path(store, 'lock'))
    } catch {
      return false
    }
  }

  /** Ends our daemons: SIGTERM is an orderly stop, SIGKILL after 15 s. @returns how many there were */
  async stop(): Promise<number> {
    const pids = this.running()
    for (const pid of pids) process.kill(pid, 'SIGTERM')
    const gone = () => pids.every((pid) => !isAlive(pid))
    try {
      await until('the daemons to stop', 15_000, gone)
    } catch {
      for (const pid of pids.filter(isAlive)) process.kill(pid, 'SIGKILL')
      await until('the killed daemons to vanish', 5_000, gone)
    }
    return pids.length
  }

  /** The end of each daemon's log, for the reason of a failure. */
  logs(): string {
    return stores
      .map((store) => this.path(store, 'sheep.log'))
      .filter(existsSync)
      .map((path) => `${path}:\n${readFileSync(path, 'utf8').trimEnd().split('\n').slice(-5).join('\n')}`)
      .join('\n')
  }
}
