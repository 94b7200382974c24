/**
 * Keeps the directory of volumes a storage pool of this host's libvirt: defines and starts it when libvirt is there, whichever of both
 * starts first, and has it look again when volumes change. Nothing waits for it: what libvirt does or fails to do is only logged.
 */
import type { ClusterCommand, ClusterListener } from '../cluster/types.js'
import { asSheepError, hintField } from '../errors.js'
import type { Clock, Log, Timer } from '../host/interfaces.js'
import { directoryOfPool, POOL_NAME, poolXml } from './domain-xml.js'
import type { Libvirt } from './libvirt.js'

/** How often it looks whether the daemon of libvirt, or the mount, is there now */
const LOOK_MS = 3_000
const RECONNECT_MS = 200
const RETRY_MS = 3_000
const RETRY_MS_MAX = 60_000
/** Changes come in bunches; each look of libvirt's opens every volume. */
const REFRESH_SOON_MS = 300
const REFRESH_MS = 3_000
/** libvirt's daemons end by themselves when nobody is connected. */
const IDLE_MS = 10_000

export type PoolCalls = Pick<Libvirt, 'call' | 'close' | 'closed' | 'uri'>

export interface RegistrarParts {
  /** Absolute */
  directory: string
  clock: Clock
  log: Log
  /** Changes with each start of libvirt's daemon; '' it is not there */
  libvirtSeen(): string
  /** The directory is mounted, and who opens it is told what is there: libvirt does so at once */
  served(): boolean
  /** SheepError */
  connect(): Promise<PoolCalls>
}

export class PoolRegistrar implements ClusterListener {
  private libvirt: PoolCalls | null = null
  /** What libvirtSeen said when the pool was seen to; '' not yet */
  private registeredWith = ''
  /** What it said when libvirt could not be used at all */
  private uselessWith = ''
  private ours = false
  /** The connection is one of an earlier time */
  private reused = false
  private dirty = false
  private working: Promise<void> | null = null
  private retryMs = RETRY_MS
  private nextTry = 0
  private refreshed = Number.NEGATIVE_INFINITY
  private complaint = ''
  private stopped = false
  private readonly timers = new Map<string, Timer>()

  /** The first look has ended, however it did: libvirt has the pool, is not there, or could not be used */
  readonly looked: Promise<void>

  constructor(private readonly parts: RegistrarParts) {
    this.look()
    this.looked = this.working ?? Promise.resolve()
  }

  /** What is under way is given up: a daemon's end does not wait for libvirt. */
  stop(): void {
    this.stopped = true
    for (const timer of this.timers.values()) timer.cancel()
    this.libvirt?.close()
  }

  epochChanged(): void {}

  statusChanged(): void {
    this.work()
  }

  commandApplied(command: ClusterCommand): void {
    if (command.type !== 'vdi' || !LISTED.has(command.command.op)) return
    this.dirty = true
    const wait = this.refreshed + REFRESH_MS - this.parts.clock.now()
    this.later('refresh', Math.max(REFRESH_SOON_MS, wait), () => this.work())
  }

  private look(): void {
    this.work()
    this.later('look', LOOK_MS, () => this.look())
  }

  private later(name: string, ms: number, run: () => void): void {
    if (this.stopped || this.timers.has(name)) return
    const timer = this.parts.clock.after(ms, () => {
      this.timers.delete(name)
      run()
    })
    this.timers.set(name, timer)
  }

  private work(): void {
    if (this.working !== null || this.stopped) return
    const { clock } = this.parts
    const seen = this.parts.libvirtSeen()
    if (seen === '' || seen === this.uselessWith || !this.parts.served()) return
    const register = seen !== this.registeredWith
    const refresh = this.ours && this.dirty && clock.now() >= this.refreshed + REFRESH_MS
    if ((!register && !refresh) || clock.now() < this.nextTry) return
    this.working = this.see(register, seen)
      .catch((error: unknown) => this.failed(error, seen))
      .finally(() => {
        this.working = null
        if (this.dirty && this.ours) this.later('refresh', REFRESH_MS, () => this.work())
      })
  }

  private async see(register: boolean, seen: string): Promise<void> {
    const libvirt = await this.connected()
    if (register) {
      this.ours = await this.register(libvirt)
      this.registeredWith = seen
    }
    if (this.ours) {
      this.dirty = false
      const active = await libvirt.call('poolRefresh', POOL_NAME).catch((error: unknown) => {
        this.dirty = true
        throw error
      })
      this.refreshed = this.parts.clock.now()
      this.parts.log('debug', `libvirt: pool ${POOL_NAME} ${active ? 'has looked again' : 'is not active'}`)
    }
    this.retryMs = RETRY_MS
    this.complaint = ''
    this.timers.get('idle')?.cancel()
    this.timers.delete('idle')
    this.later('idle', IDLE_MS, () => this.disconnect())
  }

  /** False: the pool of this name is none of ours. */
  private async register(libvirt: PoolCalls): Promise<boolean> {
    const { directory, log } = this.parts
    const there = await libvirt.call('poolInfo', POOL_NAME)
    if (there !== null && directoryOfPool(there.xml) !== directory) {
      log('warning', `libvirt: its pool ${POOL_NAME} is not of ${directory}: it is left alone`, {
        hint: `virsh pool-dumpxml ${POOL_NAME} shows it; undefine it, then restart sheep, to have one of the volumes`,
      })
      return false
    }
    if (there === null) {
      await libvirt.call('poolDefine', poolXml(POOL_NAME, directory))
      await libvirt.call('poolAutostart', POOL_NAME)
    }
    // One that exists and does not start by itself is somebody's wish.
    const start = there === null || (!there.active && there.autostart)
    if (start) await libvirt.call('poolStart', POOL_NAME)
    const done =
      there === null ? 'is defined and started' : start ? 'is started' : there.active ? 'is active' : 'is off'
    log('notice', `libvirt: pool ${POOL_NAME} of ${directory} ${done} (${libvirt.uri})`)
    return true
  }

  private async connected(): Promise<PoolCalls> {
    this.reused = this.libvirt !== null && !this.libvirt.closed
    if (this.libvirt !== null && this.reused) return this.libvirt
    const libvirt = await this.parts.connect()
    if (this.stopped) libvirt.close()
    this.libvirt = libvirt
    return libvirt
  }

  private disconnect(): void {
    if (this.working !== null) return
    this.libvirt?.close()
    this.libvirt = null
  }

  private failed(error: unknown, seen: string): void {
    if (this.stopped) return
    const failure = asSheepError(error)
    const { code, message } = failure
    if (code === 'busy') {
      // It copies a volume, say, which may take an hour: the look that waits for it is no failure.
      this.parts.log('debug', `${message}; it is asked again`)
      this.refreshed = this.parts.clock.now()
      return
    }
    this.libvirt?.close()
    this.libvirt = null
    if (code === 'unsupported') this.uselessWith = seen
    if (this.reused && code === 'unreachable') {
      // libvirt's daemon has been restarted since: that is no failure of the new one.
      this.reused = false
      this.later('again', RECONNECT_MS, () => this.work())
      return
    }
    this.nextTry = this.parts.clock.now() + this.retryMs
    this.retryMs = Math.min(this.retryMs * 2, RETRY_MS_MAX)
    if (message !== this.complaint) this.parts.log('notice', `${message}; volumes do not need it`, hintField(failure))
    this.complaint = message
  }
}

/** What changes names, sizes or how many there are. */
const LISTED: ReadonlySet<string> = new Set([
  'ready',
  'abort',
  'snapshot-commit',
  'rollback-commit',
  'delete-begin',
  'rename',
  'resize',
  'set-tag',
])
