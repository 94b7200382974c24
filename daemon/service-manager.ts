/**
 * What systemd is told of this process (sd_notify(3)): that its start takes long, that it is ready, how things stand (`systemctl status`), that it is alive
 * (WatchdogSec=), that it stops. Silent when systemd did not start it.
 */
import type { Log } from '../lib/host/interfaces.js'
import { closeOnExec, sendDatagram } from '../lib/host/native.js'

const STATUS_MS = 1_000
/** Without a word for so long, a start that goes on counts as stuck: the unit's own TimeoutStartSec */
const OPENING_MS = 180_000
/** sd_listen_fds(3): the first descriptor that is handed over */
const LISTEN_FDS_START = 3
const DESCRIPTORS_MAX = 64

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
    private readonly handed: Map<string, number>,
  ) {}

  /** null: no manager waits for a word of this process. Children are not to speak for it. */
  static of(environment: NodeJS.ProcessEnv, log: Log): ServiceManager | null {
    const { NOTIFY_SOCKET: socket, WATCHDOG_USEC: usec = '', WATCHDOG_PID: pid } = environment
    const handed = descriptorsIn(environment)
    for (const name of ['NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID']) delete environment[name]
    if (socket === undefined || !/^[/@]./.test(socket)) return null
    const ours = pid === undefined || Number(pid) === process.pid
    return new ServiceManager(socket, ours && /^\d+$/.test(usec) ? Number(usec) / 1_000 : 0, log, handed)
  }

  /**
   * The store is being opened, and that takes as long as there are objects whose headers must be read: until `opened` the start may take
   * longer than TimeoutStartSec says (EXTEND_TIMEOUT_USEC).
   */
  opening(): void {
    const more = () => this.tell(`EXTEND_TIMEOUT_USEC=${OPENING_MS * 1000}\nSTATUS=reading the store`)
    more()
    this.timer = setInterval(more, OPENING_MS / 12)
    this.timer.unref()
  }

  /** What follows is to be ready within OPENING_MS, but for the last pause between two such words. */
  opened(): void {
    if (this.timer !== null) clearInterval(this.timer)
    this.timer = null
  }

  /** @param status one line: what the process does or waits for */
  ready(status: () => string): void {
    this.opened()
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

  /** A descriptor that is kept there; null none. */
  inherited(name: string): number | null {
    const fd = this.handed.get(name) ?? null
    this.handed.delete(name)
    return fd
  }

  /** Until this unit is stopped, also while it restarts. It is not looked at: its end is told to nobody. */
  keep(name: string, fd: number): void {
    this.tell(`FDSTORE=1\nFDNAME=${name}\nFDPOLL=0`, fd)
  }

  forget(name: string): void {
    this.tell(`FDSTOREREMOVE=1\nFDNAME=${name}`)
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

  private tell(text: string, fd?: number): void {
    const result = sendDatagram(this.socket, text, fd)
    if (result === 0 || this.failed) return
    this.failed = true
    this.log('warning', `the service manager at ${this.socket} cannot be told: errno ${-result}`)
  }
}

/** sd_listen_fds(3). They are not for children. */
function descriptorsIn(environment: NodeJS.ProcessEnv): Map<string, number> {
  const { LISTEN_PID: pid, LISTEN_FDS: count = '', LISTEN_FDNAMES: names = '' } = environment
  for (const name of ['LISTEN_PID', 'LISTEN_FDS', 'LISTEN_FDNAMES']) delete environment[name]
  const found = new Map<string, number>()
  if (Number(pid) !== process.pid || !/^\d+$/.test(count)) return found
  const named = names.split(':')
  for (let i = 0; i < Math.min(Number(count), DESCRIPTORS_MAX); i++) {
    closeOnExec(LISTEN_FDS_START + i)
    found.set(named[i] ?? '', LISTEN_FDS_START + i)
  }
  return found
}
