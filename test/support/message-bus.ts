/** A D-Bus of a test's own: dbus-daemon with a configuration that lets everybody do everything, so that only we refuse. */
import { type ChildProcess, spawn } from 'node:child_process'
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ended, hasEnded, type Outcome, ProcessError, type RunOptions, run, until } from './process.js'

const startLimit = 10_000

function configuration(socket: string): string {
  return `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path=${socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*" eavesdrop="true"/>
    <allow receive_sender="*" eavesdrop="true"/>
  </policy>
</busconfig>
`
}

const live = new Set<MessageBus>()
process.on('exit', () => {
  for (const bus of live) bus.destroy()
})

export class MessageBus {
  private readonly directory = mkdtempSync(join(tmpdir(), 'bus-'))
  private child: ChildProcess | null = null

  private constructor() {
    live.add(this)
    // Other users connect, too.
    chmodSync(this.directory, 0o755)
    writeFileSync(join(this.directory, 'config'), configuration(this.socket))
  }

  /** Not running yet */
  static make(): MessageBus {
    return new MessageBus()
  }

  static async start(): Promise<MessageBus> {
    const bus = new MessageBus()
    await bus.start()
    return bus
  }

  get socket(): string {
    return join(this.directory, 'socket')
  }

  get address(): string {
    return `unix:path=${this.socket}`
  }

  /** With it busctl, and gdbus --system, use this bus. */
  get env(): Record<string, string> {
    return { DBUS_SYSTEM_BUS_ADDRESS: this.address, LC_ALL: 'C.UTF-8', SYSTEMD_COLORS: '0', SYSTEMD_PAGER: '' }
  }

  async start(): Promise<void> {
    rmSync(this.socket, { force: true })
    const args = [`--config-file=${join(this.directory, 'config')}`, '--nofork', '--nopidfile', '--print-address']
    const child = spawn('dbus-daemon', args, { stdio: ['ignore', 'pipe', 'pipe'] })
    this.child = child
    let said = ''
    child.stdout.on('data', (text) => {
      said += text
    })
    let complaints = ''
    child.stderr.on('data', (text) => {
      complaints = `${complaints}${text}`.slice(-2_000)
    })
    await until('dbus-daemon', startLimit, () => said.includes('\n') || hasEnded(child))
    if (hasEnded(child)) throw new Error(`dbus-daemon ended with ${child.exitCode ?? child.signalCode}: ${complaints}`)
  }

  async kill(): Promise<void> {
    const { child } = this
    if (child === null) return
    child.kill('SIGKILL')
    await ended(child)
    this.child = null
  }

  /** It stands still, or goes on */
  signal(signal: 'SIGSTOP' | 'SIGCONT'): void {
    this.child?.kill(signal)
  }

  /** busctl's words; rejects with what it said when its exit code is not 0. */
  async busctl(...args: string[]): Promise<string> {
    const outcome = await this.tryBusctl(...args)
    if (outcome.code !== 0) throw new ProcessError(`busctl ${args.join(' ')}`, outcome)
    return outcome.stdout
  }

  tryBusctl(...args: string[]): Promise<Outcome> {
    return run('busctl', args, { env: this.env, limit: 60_000 })
  }

  /** A line as people type it. */
  shell(line: string, options: RunOptions = {}): Promise<Outcome> {
    return run('sh', ['-c', line], { limit: 60_000, ...options, env: { ...this.env, ...options.env } })
  }

  destroy(): void {
    live.delete(this)
    this.child?.kill('SIGKILL')
    rmSync(this.directory, { recursive: true, force: true })
  }
}

/** A program that listens, such as `gdbus monitor`: what it has said so far. */
export class Listener {
  text = ''
  private readonly child: ChildProcess

  constructor(bus: MessageBus, command: string, args: readonly string[]) {
    this.child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...bus.env } })
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream?.on('data', (text: Buffer) => {
        this.text += text.toString()
      })
    }
  }

  /** Resolves with the match once it has said that. */
  async heard(pattern: RegExp, limit = 20_000): Promise<RegExpExecArray> {
    try {
      return await until(String(pattern), limit, () => pattern.exec(this.text))
    } catch (error) {
      throw new Error(`${(error as Error).message} in\n${this.text.slice(-3_000)}`)
    }
  }

  count(pattern: RegExp): number {
    return this.text.match(new RegExp(pattern, 'g'))?.length ?? 0
  }

  async end(): Promise<void> {
    this.child.kill('SIGKILL')
    await ended(this.child)
  }
}
