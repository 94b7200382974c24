/**
 * What systemd is told of this process (sd_notify(3)): that it is ready, how things stand (`systemctl status`), that it is alive
 * (WatchdogSec=), that it stops. Silent when systemd did not start it.
 */
import type { Log } from '../lib/host/interfaces.js'
import { sendDatagram } from '../lib/host/native.js'

const STATUS_MS = 1_000

export class ServiceManager {
  private timer: NodeJS.Timeout | null = null
  private said = ''
  private alive = 0
  private failed = false

  private constructor(
    private readonly socket: string,
    /** How often it wants to hear that this one is alive, ms; 0 never */
    private readonly watchdogMs: number,
    private readonly log: Log,
  ) {}

  /** null: no manager waits for a word of this process. Children are not to speak for it. */
  static of(environment: NodeJS.ProcessEnv, log: Log): ServiceManager | null {
    const { NOTIFY_SOCKET: socket, WATCHDOG_USEC: usec = '', WATCHDOG_PID: pid } = environment
    for (const name of ['NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID']) delete environment[name]
    if (socket === undefined || !/^[/@]./.test(socket)) return null
    const ours = pid === undefined || Number(pid) === process.pid
    return new ServiceManager(socket, ours && /^\d+$/.test(usec) ? Number(usec) / 1_000 : 0, log)
  }

  /** @param status one line: what the process does or waits for */
  ready(status: () => string): void {
    this.said = status()
    this.tell(`READY=1\nSTATUS=${this.said}`)
    const period = this.watchdogMs > 0 ? Math.min(STATUS_MS, this.watchdogMs / 3) : STATUS_MS
    this.timer = setInterval(() => this.tick(status()), period)
    this.timer.unref()
  }

  stopping(reason: string): void {
    if (this.timer !== null) clearInterval(this.timer)
    this.tell(`STOPPING=1\nSTATUS=stopping: ${reason}`)
  }

  private tick(status: string): void {
    const now = performance.now()
    if (status !== this.said) {
      this.said = status
      this.tell(`STATUS=${status}`)
    }
    if (this.watchdogMs > 0 && now - this.alive >= this.watchdogMs / 3) {
      this.alive = now
      this.tell('WATCHDOG=1')
    }
  }

  private tell(text: string): void {
    const result = sendDatagram(this.socket, text)
    if (result === 0 || this.failed) return
    this.failed = true
    this.log('warning', `the service manager at ${this.socket} cannot be told: errno ${-result}`)
  }
}
