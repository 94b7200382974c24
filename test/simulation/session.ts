/**
 * One open volume as a client sees it: requests go to the daemon over some wire, answers come back, and every one of
 * them is put to the checker. It ends by close, by the daemon's death, or when the client gives up on the daemon.
 */

import type { Volume } from '../../lib/gateway/types.js'
import type { Completion } from '../../lib/host/interfaces.js'
import type { Flush, Lineage, Read, Write } from './checker.js'
import type { Host } from './host.js'
import type { Process } from './process.js'
import type { SimRandom } from './random.js'
import { fillCells } from './stamps.js'
import type { World } from './world.js'

const ENOSPC = -28
const EIO = -5
const ESHUTDOWN = -108

export class Session {
  /** Resolves when nothing more can come of it */
  readonly over: Promise<void>
  ended = false
  revoked = false
  /** Beside the writer, as the target of a migration */
  beside = false
  /** Asks for nothing any more; what is on its way to the daemon gets lost */
  quiet = false
  /** Its lock is gone for certain: nothing may be answered, and nothing of what it asks for may be done */
  #fenced = false
  /** Writes that were answered, and not with an error */
  acknowledged = 0
  readonly #writes = new Set<Write>()
  #end!: () => void
  readonly #process: Process

  constructor(
    readonly world: World,
    readonly host: Host,
    readonly volume: Volume,
    readonly lineage: Lineage,
  ) {
    this.#process = host.process!
    this.#powerLosses = world.workload.powerLosses
    this.#doubtfulReturns = world.planner.doubtfulReturns
    this.#since = lineage.time
    this.over = new Promise((resolve) => {
      this.#end = resolve
    })
    host.onDeath.add(this.#died)
    volume.onChange = (what) => {
      if (what === 'revoked') this.revoked = true
    }
  }

  readonly #powerLosses: number
  readonly #doubtfulReturns: number
  readonly #since: number

  readonly #died = (): void => this.#finish()

  /** All that had a write of it may have lost that, before it was flushed. */
  #writesMayBeLost(): boolean {
    const { workload, planner, shape } = this.world
    return (
      workload.powerLosses > this.#powerLosses ||
      planner.doubtfulReturns > this.#doubtfulReturns ||
      shape.disasters !== '' ||
      shape.faults.some((kind) => kind.startsWith('disk-') || kind === 'unplug')
    )
  }

  /** What is in flight may have happened or not. */
  #finish(): void {
    if (this.ended) return
    this.ended = true
    this.host.onDeath.delete(this.#died)
    for (const write of this.#writes) this.lineage.failWrite(write)
    this.#writes.clear()
    this.#end()
  }

  get isFenced(): boolean {
    return this.#fenced
  }

  /** Whoever took its lock has been told that this client is shut out. What was in flight may have happened or not. */
  fence(): void {
    if (this.ended) return
    this.world.log(`client of ${this.lineage.name} at ${this.#process.name} is shut out`)
    this.#fenced = true
    this.quiet = false
    for (const write of this.#writes) this.lineage.failWrite(write)
    this.#writes.clear()
  }

  /** Asks once more for this and that, in vain. */
  async knock(random: SimRandom): Promise<void> {
    const { cells } = this.lineage
    for (let i = random.between(1, 6); i > 0 && !this.ended; i--) {
      const count = Math.min(cells, random.between(1, 8))
      const first = random.below(cells - count + 1)
      const asked = random.chance(0.6)
        ? this.write(first, count, this.world.workload.nextStamp(), false)
        : this.read(first, count)
      await Promise.race([asked, this.world.sleep(random.exponential(2000))])
    }
    // What a daemon that stands still has not looked at yet counts most.
    while (this.host.paused && !this.ended) await this.world.sleep(500)
    await this.world.sleep(2000)
    this.abandon()
  }

  /** The client is gone (its machine was fenced, it lost patience): the daemon sees its connection close. */
  abandon(): void {
    if (this.ended) return
    this.world.log(`client of ${this.lineage.name} at ${this.#process.name} gives up`)
    this.#finish()
    const { volume } = this
    this.world.scheduler.after(0, () =>
      this.#process.enter(() => {
        volume.close().catch(() => {})
      }),
    )
  }

  /** True when it was closed, and so flushed, in order. */
  async close(): Promise<boolean> {
    const flush = this.#beginFlush()
    const closing = this.host.request(`close ${this.lineage.name}`, () => this.volume.close())
    const outcome = await Promise.race([closing, this.over.then(() => ({ state: 'gone' as const }))])
    // Who closes is not told that the flush failed.
    if (outcome.state === 'done' && !this.ended && flush && !this.#writesMayBeLost()) this.lineage.endFlush(flush)
    if (outcome.state === 'failed' && !this.revoked && !this.ended && !this.world.loss.isOpen) {
      this.world.unexpected(`close of ${this.lineage.name}`, outcome.error)
    }
    this.#finish()
    return outcome.state === 'done'
  }

  /** Resolves when it is answered, or the session is over. */
  write(first: number, count: number, stamp: number, fua: boolean): Promise<void> {
    const { cellSize } = this.lineage
    const buffer = Buffer.allocUnsafe(count * cellSize)
    fillCells(buffer, cellSize, first, stamp)
    return this.#change('write', first, count, stamp, fua, (done) =>
      this.volume.write(buffer, 0, buffer.length, first * cellSize, fua, {
        complete: (result) => {
          buffer.fill(0xee)
          done.complete(result === buffer.length ? 0 : result < 0 ? result : -1)
        },
      }),
    )
  }

  zero(first: number, count: number, keepBlocks: boolean, fua: boolean): Promise<void> {
    const { cellSize } = this.lineage
    return this.#change('zero', first, count, 0, fua, (done) =>
      this.volume.zero(count * cellSize, first * cellSize, keepBlocks, fua, done),
    )
  }

  discard(first: number, count: number, fua: boolean): Promise<void> {
    const { cellSize } = this.lineage
    return this.#change('discard', first, count, 0, fua, (done) =>
      this.volume.discard(count * cellSize, first * cellSize, fua, done),
    )
  }

  #change(
    what: string,
    first: number,
    count: number,
    stamp: number,
    fua: boolean,
    call: (done: Completion) => void,
  ): Promise<void> {
    let write: Write | null = null
    return this.#request(
      `${what} ${stamp} of cells ${first}+${count}${fua ? ' fua' : ''}`,
      (done) => {
        if (!this.#fenced) {
          write = this.lineage.beginWrite(stamp, first, count, fua)
          this.#writes.add(write)
        }
        call(done)
      },
      (result) => {
        if (write === null || !this.#writes.delete(write)) return
        if (result < 0) {
          this.lineage.failWrite(write)
          return
        }
        this.acknowledged++
        this.lineage.endWrite(write)
      },
      [first, count],
    )
  }

  read(first: number, count: number): Promise<void> {
    const { cellSize } = this.lineage
    const buffer = Buffer.alloc(count * cellSize, 0xaa)
    let read: Read | null = null
    return this.#request(
      `read cells ${first}+${count}`,
      (done) => {
        read = this.lineage.beginRead(first, count, this.beside)
        this.volume.read(buffer, 0, buffer.length, first * cellSize, done)
      },
      (result) => {
        if (result >= 0) this.lineage.endRead(read!, buffer, `at ${this.#process.name}`)
        else this.lineage.dropRead(read!)
      },
      [first, count],
    )
  }

  flush(): Promise<void> {
    let flush: Flush | null = null
    return this.#request(
      'flush',
      (done) => {
        flush = this.#beginFlush()
        this.volume.flush(done)
      },
      (result) => {
        if (result >= 0 && flush) this.lineage.endFlush(flush)
      },
    )
  }

  /** Null when it promises nothing: it does not wait for objects that no host has who is there, nor for what another client wrote. */
  #beginFlush(): Flush | null {
    return this.beside || this.world.planner.allCopiesMayBeAway() ? null : this.lineage.beginFlush(this.#since)
  }

  /** `cells`: that it is about, first and count; null all */
  #request(
    what: string,
    call: (done: Completion) => void,
    answered: (result: number) => void,
    cells: readonly [number, number] | null = null,
  ): Promise<void> {
    if (this.ended) return Promise.resolve()
    const { world } = this
    const text = `${what} of ${this.lineage.name}`
    world.workload.requests++
    let completed = false
    let forbidden = false
    let mayBeLost = false
    const request = this.host.requestRaw<number>(text, (_sheep, done) => {
      // The client gave up while the request was on its way.
      if (this.ended || this.quiet) return done({ state: 'gone' })
      forbidden = this.#fenced && what !== 'flush'
      if (world.trace.on) world.log(`${text} at ${this.#process.name}`)
      // A discard beside it may clear what the volume's index says now.
      mayBeLost = this.#mayBeLost(cells)
      call({
        complete: (result) => {
          if (completed) world.verdict.report('answered twice', text)
          completed = true
          done({ state: 'done', value: result })
        },
      })
    })
    const answer = request.then((outcome) => {
      if (this.ended || outcome.state === 'gone') return
      const result = outcome.state === 'done' ? outcome.value : 0
      if (world.trace.on) world.log(`${text}: ${result}`)
      if (forbidden && result >= 0) world.verdict.report('served after its lock was gone', `${text}: ${result}`)
      // The answer may have been on its way when the lock went; nobody waits for it any more.
      if (this.#fenced) return
      answered(result)
      if (result < 0) this.#refused(text, result, mayBeLost || this.#mayBeLost(cells))
    })
    return Promise.race([answer, this.over])
  }

  /** Its volume waits for the quorum for a time only, and this host is without it, or was when it answered. */
  #mayFail(): boolean {
    const { onNoQuorum = this.world.shape.onNoQuorum } = this.volume.entry
    return onNoQuorum > 0
  }

  #mayBeLost(cells: readonly [number, number] | null): boolean {
    const { loss } = this.world
    if (cells === null) return loss.isOpen
    const { cellSize } = this.lineage
    return loss.mayFail(this.volume.entry, cells[0] * cellSize, cells[1] * cellSize)
  }

  /** Requests wait for what is missing; they fail for few reasons. */
  #refused(text: string, result: number, mayBeLost: boolean): void {
    if (result === ENOSPC && this.world.shape.tight) return
    if (result === EIO && this.#mayFail()) {
      this.world.workload.failedWithoutQuorum++
      return
    }
    if (result === EIO && mayBeLost) return
    if (result === EIO && /^flush| fua /.test(text) && this.#writesMayBeLost()) {
      this.world.workload.flushesFailed++
      this.abandon()
      return
    }
    if (this.revoked || result === ESHUTDOWN) {
      this.abandon()
      return
    }
    this.world.verdict.report('request failed', `${text}: ${result}`)
  }
}
