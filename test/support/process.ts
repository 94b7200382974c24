/** Runs programs the way a person at a shell does: bounded in time, with what they said kept for the message. */
import { type ChildProcess, spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:net'

export interface Outcome {
  /** exit code; 128 + signal number's usual meaning is not imitated: a signal gives -1 */
  code: number
  stdout: string
  /** stdout as it came */
  bytes: Buffer
  stderr: string
  /** wall time, milliseconds */
  ms: number
}

export interface RunOptions {
  input?: string | Buffer
  /** milliseconds until SIGKILL */
  limit?: number
  env?: Record<string, string>
  cwd?: string
  /** Called with each piece of stdout as it arrives */
  onOutput?: (text: string) => void
  /** Sends SIGINT when aborted: the program ends as if its user had typed ^C */
  interrupt?: AbortSignal
}

const limitDefault = 120_000

export class ProcessError extends Error {
  override readonly name = 'ProcessError'
  constructor(
    readonly command: string,
    readonly outcome: Outcome,
  ) {
    super(`${command}: exit code ${outcome.code}\n${outcome.stderr}${outcome.stdout}`.trimEnd())
  }
}

/** Runs to the end whatever the exit code. Rejects only when the program cannot be started or outstays its limit. */
export function run(command: string, args: readonly string[], options: RunOptions = {}): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    const start = performance.now()
    const child = spawn(command, args, {
      stdio: ['pipe', 'pipe', 'pipe'],
      cwd: options.cwd,
      env: { ...process.env, ...options.env },
    })
    const stdout: Buffer[] = []
    const stderr: Buffer[] = []
    const limit = options.limit ?? limitDefault
    let late = false
    const timer = setTimeout(() => {
      late = true
      child.kill('SIGKILL')
    }, limit)
    options.interrupt?.addEventListener('abort', () => child.kill('SIGINT'))
    child.stdout.on('data', (piece: Buffer) => {
      stdout.push(piece)
      options.onOutput?.(piece.toString())
    })
    child.stderr.on('data', (piece: Buffer) => stderr.push(piece))
    // A program that ends without reading its input closes the pipe: its exit code tells, not this.
    child.stdin.on('error', () => {})
    child.stdin.end(options.input ?? '')
    child.on('error', (error) => {
      clearTimeout(timer)
      reject(error)
    })
    child.on('close', (code) => {
      clearTimeout(timer)
      const bytes = Buffer.concat(stdout)
      const outcome = {
        code: code ?? -1,
        stdout: bytes.toString(),
        bytes,
        stderr: Buffer.concat(stderr).toString(),
        ms: performance.now() - start,
      }
      const line = [command, ...args].join(' ')
      if (late) reject(new ProcessError(`${line}: not done within ${limit / 1000} s`, outcome))
      else resolve(outcome)
    })
  })
}

/** As `run`; a non-zero exit code rejects with ProcessError. */
export async function must(command: string, args: readonly string[], options: RunOptions = {}): Promise<Outcome> {
  const outcome = await run(command, args, options)
  if (outcome.code !== 0) throw new ProcessError([command, ...args].join(' '), outcome)
  return outcome
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}

/** Polls until `check` gives something truthy, and returns it. `what` completes "waited 10 s for ...". */
export async function until<T>(what: string, limit: number, check: () => T | Promise<T>): Promise<NonNullable<T>> {
  const end = performance.now() + limit
  for (;;) {
    const value = await check()
    if (value) return value as NonNullable<T>
    if (performance.now() > end) throw new Error(`waited ${limit / 1000} s for ${what}`)
    await sleep(50)
  }
}

export function hasEnded(child: ChildProcess): boolean {
  return child.exitCode !== null || child.signalCode !== null
}

/** Resolves when the child has ended, at once if it has. */
export function ended(child: ChildProcess): Promise<void> {
  if (hasEnded(child)) return Promise.resolve()
  return new Promise((resolve) => child.once('close', () => resolve()))
}

export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

const listening = (port: number) =>
  new Promise<boolean>((resolve) => {
    const server = createServer()
    server.once('error', () => resolve(false))
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)))
  })

/**
 * `count` TCP ports free at this moment, from `first` on. Below the ephemeral range (32768, ip_local_port_range), so
 * that no outgoing connection takes one meanwhile.
 */
export async function freePorts(count: number, first: number): Promise<number[]> {
  const ports: number[] = []
  for (let port = first; ports.length < count && port < 32768; port++) if (await listening(port)) ports.push(port)
  if (ports.length < count) throw new Error(`fewer than ${count} free TCP ports from ${first} on`)
  return ports
}

/** CPU time that the process has used, milliseconds: utime + stime of /proc/PID/stat (proc(5)), USER_HZ is 100. */
export function cpuMs(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1].split(' ')
  return (Number(fields[11]) + Number(fields[12])) * 10
}

/** Largest resident set so far, bytes (VmHWM of /proc/PID/status). */
export function peakMemory(pid: number): number {
  const match = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))
  if (!match) throw new Error(`/proc/${pid}/status has no VmHWM`)
  return Number(match[1]) * 1024
}
