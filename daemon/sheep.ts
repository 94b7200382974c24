#!/usr/bin/env node
/** `sheep`, the daemon: from the command line to a running node, and in order to its end. */
import { rmSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { asSheepError, SheepError } from '../lib/errors.js'
import { isLoopback } from '../lib/host/address.js'
import { DiskError, type Log } from '../lib/host/interfaces.js'
import { journalLog, journalMark } from '../lib/host/log.js'
import { VERSION } from '../lib/host/version.js'
import { readConfig } from './config-file.js'
import { background, startInBackground } from './daemonize.js'
import { GROUP, giveToGroup } from './group.js'
import type { NodeHooks, RunningNode } from './hooks.js'
import { LogFile, RecentLines } from './log-file.js'
import { hostFacts, parseOptions, type SheepOptions } from './options.js'
import { reloaded } from './reload.js'
import { ServiceManager } from './service-manager.js'
import { attachStores, makeStoreDirectory } from './store-directory.js'
import { mountVolumes, unmountVolumes } from './volumes-mount.js'

type Disks = ReturnType<typeof attachStores>

/** For leaving, syncing and closing; who stops a daemon waits no longer. */
const STOP_MS = 30_000

async function main(): Promise<void> {
  const [first, ...others] = process.argv.slice(2)
  const forUnit = first === 'mount-volumes' || first === 'unmount-volumes'
  const words = forUnit ? others : process.argv.slice(2)
  const facts = hostFacts()
  const parse = () => parseOptions(words, VERSION, facts, readConfig)
  const options = parse()
  if ('text' in options) {
    process.stdout.write(options.text)
    return
  }
  if (forUnit) {
    await (first === 'mount-volumes' ? mountVolumes : unmountVolumes)(options)
    return
  }
  const starter = background()
  if (!options.foreground && starter === null) {
    makeStoreDirectory(options.stores[0])
    process.stdout.write(`${await startInBackground(fileURLToPath(import.meta.url), words, options.logFile)}\n`)
    return
  }
  try {
    const ready = await serve(options, starter !== null, parse)
    if (starter === null) say(ready)
    else starter.ready(ready)
  } catch (error) {
    const failure = asSheepError(error)
    if (starter !== null) await starter.failed(failure)
    throw failure
  }
}

/** A reader of stdout that has gone is no reason to stop. */
function say(text: string): void {
  process.stdout.on('error', () => {})
  process.stdout.write(`${text}\n`)
}

/** Resolves when it serves or waits, with what to tell the user. */
async function serve(
  options: SheepOptions,
  inBackground: boolean,
  parse: () => ReturnType<typeof parseOptions>,
): Promise<string> {
  const daemon = new Daemon(options, inBackground, parse)
  const disks = attachStores(options.stores, options.sync)
  for (const { path } of disks.attached) giveToGroup(path, hostFacts().groupId(GROUP))
  if (inBackground) process.chdir('/')
  if (!options.sync) daemon.log('warning', '-n: nothing is synced to disk, a power loss loses data')
  if (options.keyFile === '' && !isLoopback(options.listen.host)) {
    daemon.log(
      'warning',
      `no cluster key: whoever reaches ${options.listen.host}:${options.listen.port} may do anything`,
    )
  }
  if (options.pidFile !== '') writePidFile(options.pidFile)
  await daemon.start(disks)
  daemon.tellManager()
  return daemon.describe()
}

class Daemon {
  readonly log: Log
  private readonly recent = new RecentLines()
  private readonly file: LogFile | null
  private node: RunningNode | null = null
  private stopping = false
  private tellStopped = (): void => {}
  private readonly stopped = new Promise<void>((resolve) => {
    this.tellStopped = resolve
  })
  private starting: Promise<RunningNode> | null = null
  private readonly manager: ServiceManager | null

  constructor(
    private options: SheepOptions,
    inBackground: boolean,
    /** What the command line and the configuration say now. SheepError */
    private readonly parse: () => ReturnType<typeof parseOptions>,
  ) {
    const level = () => this.options.logLevel
    this.file = inBackground ? new LogFile(options.logFile) : null
    const main =
      this.file === null ? journalLog({ level }) : journalLog({ level, journal: false, write: this.file.write })
    const remembered = journalLog({ level, journal: true, write: this.recent.write })
    this.log = (...message) => {
      main(...message)
      remembered(...message)
    }
    this.manager = ServiceManager.of(process.env, this.log)
    this.handleSignals()
  }

  async start(disks: Disks): Promise<void> {
    this.log('notice', `sheep ${VERSION} starts`, { store: this.options.stores.join(), pid: process.pid })
    const hooks: NodeHooks = {
      log: this.log,
      recentLog: (lines) => this.recent.newest(lines),
      fatal: (error) => this.fatal(error),
      requestStop: (reason) => void this.stop(reason),
      stopped: this.stopped,
      opened: () => this.manager?.opened(),
      inherited: (name) => this.manager?.inherited(name) ?? null,
    }
    this.manager?.opening()
    try {
      // Loaded here, for what the unit runs before and after the daemon needs none of it, and open files wait meanwhile.
      const { createNode } = await import('./node.js')
      this.starting = createNode(this.options, disks, hooks, VERSION)
      this.node = await this.starting
    } catch (error) {
      if (error instanceof SheepError) throw error
      if (error instanceof DiskError) throw new SheepError('system', error.message, 'see its permissions, and dmesg')
      this.fatal(error)
    }
    this.log('notice', this.describe())
  }

  /** For whoever started it: where it is and what it does or waits for. */
  describe(): string {
    const { stores, listen } = this.options
    const { status, statusReason } = (this.node as RunningNode).cluster
    const what = status === 'running' ? 'serving' : statusReason || status
    return `sheep: ${stores.join()} on ${listen.host}:${listen.port}, process ${process.pid}: ${what}`
  }

  /** systemd, where it started this one: ready, and from now on how things stand. */
  tellManager(): void {
    if (!this.stopping) this.manager?.ready(() => this.describe())
  }

  private handleSignals(): void {
    process.on('SIGTERM', () => void this.stop('SIGTERM'))
    process.on('SIGINT', () => void this.stop('SIGINT'))
    process.on('SIGHUP', () => {
      this.reopenLog()
      this.reload()
    })
    // Also for promises that nobody handles. What state the program is in is unknown: nothing more is done in it.
    process.on('uncaughtException', (error) => this.fatal(error))
  }

  private fatal(error: unknown): never {
    this.log('error', 'the daemon stops at once: it met a condition that its code does not allow for')
    const stack = error instanceof Error ? (error.stack ?? error.message) : String(error)
    for (const line of stack.split('\n')) this.log('error', line)
    process.exit(1)
  }

  private async stop(reason: string): Promise<void> {
    if (this.stopping) return
    this.stopping = true
    this.log('notice', `stopping: ${reason}`)
    this.manager?.stopping(reason)
    const timer = setTimeout(() => {
      this.log('error', `it did not stop in order within ${STOP_MS / 1000} s; what was acknowledged is on disk`)
      process.exit(1)
    }, STOP_MS)
    this.tellStopped()
    await (this.node ?? (await this.starting?.catch(() => null)))?.stop()
    // What was answered goes out when its turn of the event loop ends (lib/host/stream.ts), the word to who told us to stop, too.
    for (let turns = 0; turns < 2; turns++) await new Promise(setImmediate)
    clearTimeout(timer)
    if (this.options.pidFile !== '') rmSync(this.options.pidFile, { force: true })
    this.log('notice', 'stopped')
    process.exit(0)
  }

  /** A mistake in the configuration changes nothing. */
  private reload(): void {
    const { configFile } = this.options
    if (configFile === '') return
    try {
      const fresh = this.parse()
      if ('text' in fresh) return
      const { options, changed, waiting } = reloaded(this.options, fresh)
      this.options = options
      this.node?.configure(options)
      for (const change of changed) this.log('notice', `${configFile}: ${change}`)
      if (changed.length === 0) this.log('notice', `${configFile} was read again: nothing changes now`)
      for (const name of waiting) this.log('warning', `${configFile}: ${name} changes at the next restart`)
    } catch (error) {
      this.log('error', `the configuration stays as it was: ${asSheepError(error).withHint}`)
    }
  }

  private reopenLog(): void {
    try {
      this.file?.reopen()
    } catch (error) {
      this.log('warning', asSheepError(error).message)
    }
  }
}

function writePidFile(path: string): void {
  try {
    writeFileSync(path, `${process.pid}\n`)
  } catch (error) {
    throw new SheepError(
      'system',
      `cannot write the pid file: ${(error as Error).message}`,
      'choose another place with -P',
    )
  }
}

try {
  await main()
} catch (error) {
  const { message, hint, exitCode } = asSheepError(error)
  const debug = !(error instanceof SheepError) && process.argv.some((word) => word.includes('level=debug'))
  const text = `sheep: ${message}\n${hint === '' ? '' : `  ${hint}\n`}${debug ? `${(error as Error).stack}\n` : ''}`
  process.stderr.write(text.replace(/^(?=.)/gm, journalMark('error')))
  process.exit(exitCode)
}
