/** The quickstart's directory: three stores, short commands, and the daemons that run there. */
import { existsSync, mkdirSync, readdirSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join, resolve } from 'node:path'
import { isAlive, until } from '../support/process.js'

/** Written first, so that only what the quickstart made is ever removed by it. */
const marker = '.sheepdog-quickstart'
const root = join(import.meta.dirname, '..', '..', '..')
export const stores = ['a', 'b', 'c'] as const
export type StoreName = (typeof stores)[number]

export const defaultDirectory = join(homedir(), 'sheepdog-quickstart')

function script(program: string): string {
  return `#!/bin/sh\nexec '${process.execPath}' '${program}' "$@"\n`
}

export class Site {
  readonly directory: string

  constructor(directory: string) {
    this.directory = resolve(directory)
  }

  path(...parts: string[]): string {
    return join(this.directory, ...parts)
  }

  /** @returns '' or why the directory cannot be used. */
  obstacle(): string {
    if (!existsSync(this.directory) || this.isOurs || readdirSync(this.directory).length === 0) return ''
    return `${this.directory} exists, is not empty, and no quickstart made it.`
  }

  get isOurs(): boolean {
    return existsSync(this.path(marker))
  }

  /** With `bin/sheep` and `bin/dog`, as a package would put them on PATH. */
  create(): void {
    mkdirSync(this.path('bin'), { recursive: true })
    writeFileSync(this.path(marker), 'Made by `npm run quickstart`, which removes this directory when it runs again.\n')
    const programs = {
      sheep: join(root, 'dist', 'daemon', 'sheep.js'),
      dog: join(root, 'dist', 'lib', 'dog', 'main.js'),
    }
    for (const [name, program] of Object.entries(programs))
      writeFileSync(this.path('bin', name), script(program), { mode: 0o755 })
  }

  remove(): void {
    rmSync(this.directory, { recursive: true, force: true })
  }

  pidFile(store: StoreName): string {
    return this.path(`${store}.pid`)
  }

  /** Process ids of daemons that run on our stores: a pid file alone may name a stranger by now. */
  running(): number[] {
    return stores.flatMap((store) => {
      if (!existsSync(this.pidFile(store))) return []
      const pid = Number(readFileSync(this.pidFile(store), 'utf8').trim())
      return Number.isInteger(pid) && pid > 1 && isAlive(pid) && this.isDaemon(pid) ? [pid] : []
    })
  }

  private isDaemon(pid: number): boolean {
    try {
      const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')
      return words.some((word) => word.endsWith('/sheep.js')) && realpathSync(`/proc/${pid}/cwd`) !== ''
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
