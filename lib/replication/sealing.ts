/**
 * Objects that went quiet, on their way out of the intent log: one after another their checksums are taken (store.seal), with
 * pauses, so that clients feel nothing of it. An object that is written meanwhile, or doubted, stays hot.
 */
import type { Clock, Log } from '../host/interfaces.js'
import { DiskError } from '../host/interfaces.js'
import type { ObjectStore, StoredObject } from '../store/types.js'
import { type Oid, oidToHex } from '../vdi/oid.js'
import { sleep } from './sleep.js'

/** Rests for this many times as long as the former object took: a fifth of a disk's time at most */
const REST = 4
const REST_MS_MIN = 1
const REST_MS_MAX = 1_000

export interface SealingOptions {
  store: ObjectStore
  clock: Clock
  log: Log
  /** Full size of an object, bytes; 0 unknown */
  bytesOf: (oid: Oid) => number
  /** It has no intent any more, or is gone */
  ended: (object: StoredObject) => void
}

export class Sealing {
  /** -> Clock.now() of the last write that was known when it went quiet */
  private readonly queue = new Map<StoredObject, number>()
  private running: Promise<void> | null = null
  private hurried = false

  constructor(private readonly options: SealingOptions) {}

  /** Objects that wait */
  get waiting(): number {
    return this.queue.size
  }

  add(object: StoredObject): void {
    this.queue.set(object, object.lastWrite)
    this.start()
  }

  /** Without pauses, for at most `ms`: what is not done then stays in the log, and is checked at the next start. */
  async drain(ms: number): Promise<void> {
    const { clock, log } = this.options
    this.hurried = true
    const timer = clock.after(ms, () => {
      log('notice', `${this.queue.size} objects stay in the intent log`)
      this.queue.clear()
    })
    await this.running
    timer.cancel()
  }

  private start(): void {
    this.running ??= this.run().finally(() => {
      this.running = null
      if (this.queue.size > 0) this.start()
    })
  }

  private async run(): Promise<void> {
    // In the next turn: those who add an object may have more to do with it in this one.
    await Promise.resolve()
    for (const [object, lastWrite] of this.queue) {
      this.queue.delete(object)
      const began = this.options.clock.now()
      if (!object.removed) await this.seal(object, lastWrite)
      if (!object.intent || object.removed) this.options.ended(object)
      if (!this.hurried) await this.rest(this.options.clock.now() - began)
    }
  }

  private async seal(object: StoredObject, lastWrite: number): Promise<void> {
    const { store, bytesOf, log } = this.options
    const quiet = () => !object.suspect && object.lastWrite === lastWrite
    if (!object.intent || !quiet()) return
    try {
      await store.seal(object, bytesOf(object.oid), quiet)
    } catch (error) {
      if (!(error instanceof DiskError)) throw error
      log('error', `taking checksums of ${oidToHex(object.oid)}: ${error.message}`)
    }
  }

  private rest(took: number): Promise<void> {
    const ms = Math.min(Math.max(took * REST, REST_MS_MIN), REST_MS_MAX)
    return sleep(this.options.clock, ms)
  }
}
