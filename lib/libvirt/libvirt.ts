/** libvirt for whoever must not wait for it: every call is asked of a process of its own (helper.ts), and has a bound. */
import { type ChildProcess, fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { SheepError } from '../errors.js'
import type { Answer, Call, LibvirtCalls, Request } from './messages.js'

const CALL_MS = 30_000
const LIMITS: Partial<Record<Call, number>> = {
  open: 20_000,
  // Looks into every volume.
  poolRefresh: 120_000,
  poolStart: 120_000,
  quiesce: 60_000,
  release: 60_000,
}
const STDERR_CHARS = 2_000

interface Waiting {
  resolve(value: unknown): void
  reject(error: SheepError): void
  timer: NodeJS.Timeout
}

export class Libvirt {
  private readonly helper: ChildProcess
  private readonly waiting = new Map<number, Waiting>()
  private next = 1
  private ended: SheepError | null = null
  private said = ''
  private quiescent = false
  /** What opened */
  uri = ''

  private constructor() {
    const program = fileURLToPath(new URL('./helper.js', import.meta.url))
    // A session of its own: ^C at a terminal is not for it.
    this.helper = fork(program, [], { detached: true, stdio: ['ignore', 'ignore', 'pipe', 'ipc'], execArgv: [] })
    this.helper.stderr?.on('data', (text: Buffer) => {
      this.said = (this.said + text.toString()).slice(-STDERR_CHARS)
    })
    this.helper.on('message', (answer: Answer) => this.answered(answer))
    this.helper.on('error', (error) => this.end(lost(error.message)))
    this.helper.on('exit', (code, signal) => {
      const words = this.said.trim().split('\n').at(-1) ?? ''
      this.end(lost(`its process ended (${signal ?? `exit code ${code}`}) ${words}`.trimEnd()))
    })
  }

  /** With the first of these URIs that opens. SheepError: unsupported, there is no libvirt; unreachable */
  static async open(uris: readonly string[]): Promise<Libvirt> {
    const libvirt = new Libvirt()
    try {
      libvirt.uri = await libvirt.call('open', [...uris])
      return libvirt
    } catch (error) {
      libvirt.close()
      throw error
    }
  }

  get closed(): boolean {
    return this.ended !== null
  }

  /** SheepError: what libvirt says; timeout; unreachable, its daemon or the helper has gone: open another */
  call<C extends Call>(call: C, ...given: Parameters<LibvirtCalls[C]>): Promise<ReturnType<LibvirtCalls[C]>> {
    const { ended } = this
    if (ended !== null) return Promise.reject(ended)
    if (call === 'quiesce') this.quiescent = true
    const id = this.next++
    const ms = LIMITS[call] ?? CALL_MS
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.end(new SheepError('timeout', `libvirt did not answer within ${ms / 1000} s (${call})`, 'see its journal'))
        this.close()
      }, ms)
      this.waiting.set(id, { resolve: resolve as Waiting['resolve'], reject, timer })
      const request: Request = { id, call, arguments: given }
      this.helper.send(request, (error) => {
        if (error) this.end(lost(error.message))
      })
    })
  }

  /** What is under way fails. A machine that stands still goes on first. */
  close(): void {
    this.end(new SheepError('unreachable', 'libvirt: the connection was closed here'))
    if (this.helper.connected) this.helper.disconnect()
    // One that holds a machine sees to that, then ends by itself.
    if (!this.quiescent) this.helper.kill('SIGKILL')
    this.helper.stderr?.destroy()
    this.helper.unref()
  }

  private answered({ id, value, error }: Answer): void {
    const waiting = this.waiting.get(id)
    if (waiting === undefined) return
    this.waiting.delete(id)
    clearTimeout(waiting.timer)
    if (error === null) waiting.resolve(value)
    else waiting.reject(new SheepError(error.code, error.message, error.hint))
  }

  private end(error: SheepError): void {
    if (this.ended !== null) return
    this.ended = error
    for (const { reject, timer } of this.waiting.values()) {
      clearTimeout(timer)
      reject(error)
    }
    this.waiting.clear()
  }
}

function lost(reason: string): SheepError {
  return new SheepError('unreachable', `libvirt: ${reason}`, 'try again; the journal of libvirt says more')
}
