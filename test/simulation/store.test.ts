/**
 * lib/store alone on a simulated disk: random calls, a crash or a power loss at any of its system calls, and then what
 * types.ts promises: completed work survives a crash, synced work survives power loss, an object with writes that were
 * not synced is in the intent log, and the store opens whatever happened.
 */
import test from 'ava'
import { FileStore } from '../../lib/store/object-store.js'
import type { StoredObject } from '../../lib/store/types.js'
import { dataOid, type Oid, oidToHex, vidOf } from '../../lib/vdi/oid.js'
import { Lineage } from './checker.js'
import { Scheduler, SimClock } from './clock.js'
import { SimDisk } from './disk.js'
import { DiskView } from './disk-view.js'
import { Process } from './process.js'
import { SimRandom } from './random.js'
import { watchRejections } from './rejections.js'
import { fillCells } from './stamps.js'
import { Trace, Verdict } from './trace.js'

const CELL = 512
const CELLS = 64
const OIDS: Oid[] = [1, 2].flatMap((vid) => [0, 1, 2].map((index) => dataOid(vid, index)))

/** What the store may hold for one oid: the present content, and those that power loss may bring back. null: absent. */
class Slot {
  now: Lineage | null = null
  /** Durable first, then what came after it, up to `now` */
  past: (Lineage | null)[] = [null]
  busy = false
  intent = false
  /** A call is being made that turns one of these into the last; dying inside it leaves any of them */
  between: (Lineage | null)[] = []
  /** Created by a process that died before anything was written: nobody was told of it, nobody will sync it */
  orphan = false
  /** An orphan that was written since: the next sync covers it */
  adopted = false
  /** At the moment of power loss: what was there when nothing is lost */
  whole: Lineage | null = null

  set(content: Lineage | null): void {
    this.now = content
    this.intent = false
    this.orphan = false
    this.adopted = false
    this.past.push(content)
  }

  synced(content: Lineage | null): void {
    if (content === this.now) this.between = []
    const at = this.past.indexOf(content)
    if (at > 0) this.past.splice(0, at)
  }
}

class Rig {
  readonly trace = new Trace(true)
  readonly verdict = new Verdict()
  readonly scheduler = new Scheduler(this.trace)
  readonly random: SimRandom
  readonly disk: SimDisk
  readonly slots = new Map(OIDS.map((oid) => [oid, new Slot()]))
  process!: Process
  view!: DiskView
  store: FileStore | null = null
  #stamp = 0
  #flying: (() => void)[] = []

  constructor(readonly seed: number) {
    this.random = new SimRandom(seed, 2)
    this.disk = new SimDisk(this.scheduler, this.random.split(), {
      capacity: 256 << 20,
      latency: 0.1,
      syncLatency: 1,
      inline: this.random.pick([0, 0.5, 1]),
    })
  }

  log(text: string): void {
    this.trace.line(this.scheduler.now, text)
  }

  async open(): Promise<void> {
    this.process = new Process('n', this.scheduler, this.verdict, () => this.view.detach())
    this.view = new DiskView(this.disk, this.process)
    this.store = null
    const clock = new SimClock(this.scheduler, this.process, 1, 0)
    this.process.enter(() => {
      FileStore.open(this.view, { clock, log: (level, text) => this.log(`${level}: ${text}`) }).then(
        (store) => {
          this.store = store
        },
        (error: unknown) => this.process.threw(error),
      )
    })
    await this.scheduler.run(() => this.store !== null || this.#bad(), Number.POSITIVE_INFINITY, 100_000)
    if (!this.store) this.verdict.report('open', 'the store did not open')
  }

  #bad(): boolean {
    return this.verdict.violation !== null || !this.process.alive
  }

  /** One random call. `later`: what its completion means; lost when the process dies first. */
  act(): void {
    const { random } = this
    const oid = random.pick(OIDS)
    const slot = this.slots.get(oid)!
    this.process.enter(() => {
      const object = this.store!.get(oid)
      if (!slot.busy && (object === undefined) !== (slot.now === null)) {
        this.verdict.report('table', `${oidToHex(oid)} is ${object ? 'there' : 'gone'}`)
        return
      }
      const choice = random.float()
      if (choice < 0.15) this.#sync(random.pick([1, 2]))
      else if (slot.busy) return
      else if (!object) choice < 0.6 ? this.#create(oid, slot) : this.#stage(oid, slot)
      else if (choice < 0.2) this.#remove(object, slot)
      else if (choice < 0.25) this.#create(oid, slot)
      else if (choice < 0.3) this.#stage(oid, slot)
      else if (choice < 0.4) this.#syncObject(object, slot)
      else if (choice < 0.5) this.#dropIntent(object, slot)
      else if (choice < 0.6) this.#read(object, slot)
      else this.#write(object, slot)
    })
  }

  #create(oid: Oid, slot: Slot): void {
    this.log(`create ${oidToHex(oid)}`)
    const content = new Lineage(oidToHex(oid), CELL, CELLS, this.verdict)
    slot.between = [slot.now, null, content]
    slot.set(null)
    slot.set(content)
    this.store!.create(oid, 1)
    // Its header may still be on its way to the file; the first write waits for it.
    slot.between = [null]
  }

  #remove(object: StoredObject, slot: Slot): void {
    this.log(`remove ${oidToHex(object.oid)}`)
    slot.between = [slot.now, null]
    slot.set(null)
    this.store!.remove(object)
    slot.between = []
  }

  #write(object: StoredObject, slot: Slot): void {
    const { store, random } = this
    slot.busy = true
    const content = slot.now!
    const count = random.pick([1, 3, 8, 20, 64])
    const first = random.below(CELLS - count + 1)
    const stamp = random.chance(0.2) ? 0 : ++this.#stamp
    this.log(`write ${stamp} to ${oidToHex(object.oid)} cells ${first}+${count}`)
    const change = (): void => {
      const write = content.beginWrite(stamp, first, count)
      this.#flying.push(() => content.failWrite(write))
      const failed = this.#flying.at(-1)!
      const done = this.#done((result) => {
        slot.busy = false
        this.#flying.splice(this.#flying.indexOf(failed), 1)
        slot.between = []
        slot.adopted = slot.orphan
        if (result < 0) this.verdict.report('write', String(result))
        else content.endWrite(write)
      })
      const buffer = Buffer.alloc(count * CELL)
      if (stamp === 0) {
        if (random.chance(0.5)) store!.punch(object, first * CELL, count * CELL, done)
        else store!.zero(object, first * CELL, count * CELL, done)
      } else {
        fillCells(buffer, CELL, first, stamp)
        store!.write(object, buffer, 0, buffer.length, first * CELL, done)
      }
    }
    if (object.intent) change()
    else
      store!.addIntent(
        object,
        this.#done((result) => {
          if (result < 0) this.verdict.report('intent', String(result))
          slot.intent = true
          this.process.enter(change)
        }),
      )
  }

  #read(object: StoredObject, slot: Slot): void {
    slot.busy = true
    const read = slot.now!.beginRead(0, CELLS)
    const buffer = Buffer.alloc(CELLS * CELL, 0xaa)
    this.store!.read(
      object,
      buffer,
      0,
      buffer.length,
      0,
      this.#done((result) => {
        slot.busy = false
        if (result < 0) this.verdict.report('read', String(result))
        else slot.now!.endRead(read, buffer, 'read')
      }),
    )
  }

  #sync(vid: number): void {
    const slots = OIDS.filter((oid) => vidOf(oid) === vid).map((oid) => this.slots.get(oid)!)
    const covered = slots.map((slot) => ({
      slot,
      content: slot.now,
      flush: slot.now?.beginFlush(0),
      adopted: slot.adopted,
    }))
    this.log(`sync vdi ${vid}`)
    this.store!.syncVdi(
      vid,
      this.#done((result) => {
        this.log(`synced vdi ${vid}: ${result}`)
        if (result < 0) this.verdict.report('sync', String(result))
        for (const { slot, content, flush, adopted } of covered) {
          // What was replaced or removed meanwhile may come back by power loss as it was: whoever replaces has made sure
          // before that nobody reads it.
          if (slot.now !== content) continue
          if (flush) content!.endFlush(flush)
          if (adopted) slot.orphan = false
          slot.synced(content)
        }
      }),
    )
  }

  #syncObject(object: StoredObject, slot: Slot): void {
    const content = slot.now!
    const flush = content.beginFlush(0)
    const { adopted } = slot
    this.store!.syncObject(
      object,
      this.#done((result) => {
        if (result < 0) this.verdict.report('sync', String(result))
        if (slot.now !== content) return
        content.endFlush(flush)
        if (adopted) slot.orphan = false
        slot.synced(content)
      }),
    )
  }

  #dropIntent(object: StoredObject, slot: Slot): void {
    this.store!.dropIntents([object])
    if (!object.intent) slot.intent = false
  }

  #stage(oid: Oid, slot: Slot): void {
    slot.busy = true
    const content = new Lineage(oidToHex(oid), CELL, CELLS, this.verdict)
    const stamp = ++this.#stamp
    this.log(`stage ${stamp} for ${oidToHex(oid)}`)
    const staged = this.store!.stage(oid, true)
    const buffer = Buffer.alloc(8 * CELL)
    fillCells(buffer, CELL, 8, stamp)
    const write = content.beginWrite(stamp, 8, 8)
    const written = this.#done((result) => {
      if (result < 0) this.verdict.report('stage', String(result))
      content.endWrite(write)
      const flush = content.beginFlush(0)
      content.endFlush(flush)
      if (this.random.chance(0.2)) {
        slot.busy = false
        this.process.enter(() => staged.abort())
        return
      }
      // From here on it may be in place, durably or not.
      const before = slot.now
      slot.past.push(content)
      let aborted = false
      const placed = this.#done((result) => {
        slot.busy = false
        this.log(`staged ${stamp} for ${oidToHex(oid)}: ${result}`)
        if (result < 0) {
          if (!aborted) this.verdict.report('commit', String(result))
          slot.past.splice(slot.past.indexOf(content), 1)
          slot.now = before
        } else {
          slot.now = content
          slot.intent = false
          slot.orphan = false
          slot.synced(content)
        }
      })
      this.process.enter(() => {
        slot.busy = true
        staged.commit(1, 1, placed)
        if (this.random.chance(0.2)) {
          this.scheduler.after(this.random.float(), () =>
            this.process.enter(() => {
              aborted = true
              staged.abort()
            }),
          )
        }
      })
    })
    staged.write(buffer, 0, buffer.length, 8 * CELL, written)
  }

  /** The store's table changes when a staged object is placed, a little before it says so: actions wait for `busy`. */
  #done(then: (result: number) => void): { complete: (result: number) => void } {
    return {
      complete: (result) => {
        this.process.touch()
        then(result)
      },
    }
  }

  crash(power: boolean): void {
    this.log(power ? 'power loss' : 'crash')
    this.process.die()
    for (const failed of this.#flying.splice(0)) failed()
    for (const slot of this.slots.values()) {
      slot.busy = false
      slot.adopted = false
    }
    if (power) {
      this.disk.powerLoss()
      for (const slot of this.slots.values()) {
        slot.whole = slot.now?.copy('whole', new Verdict()) ?? null
        for (const content of slot.past) content?.powerLoss()
      }
    }
  }

  /** After a crash: each object must be one of those that may be there. */
  async judge(power: boolean): Promise<void> {
    for (const [oid, slot] of this.slots) {
      const object = this.store!.get(oid)
      // A staged copy may be in place though nobody was told.
      const survivors = power ? slot.past : slot.past.slice(slot.past.lastIndexOf(slot.now))
      const allowed = [...(slot.orphan ? [null] : []), ...slot.between, ...survivors]
      slot.orphan ||= slot.between.includes(null) && object !== undefined && !object.intent
      slot.between = []
      const bytes = object ? await this.#content(object) : null
      const match = allowed.findLast((content) => this.#matches(content, bytes))
      if (match === undefined) {
        const found = object ? 'is there, and not as it should be' : 'is gone'
        this.verdict.report('after a crash', `${oidToHex(oid)} ${found} (${power ? 'power loss' : 'crash'})`)
        this.#explain(allowed, bytes)
        return
      }
      if (bytes) match!.endRead(match!.beginRead(0, CELLS), bytes, 'judge')
      if (object && slot.intent && !object.intent) this.verdict.report('intent', `${oidToHex(oid)} lost its intent`)
      const lost = power && match === slot.now && !this.#matches(slot.whole, bytes)
      if (object && lost && !object.intent) {
        this.verdict.report('intent', `${oidToHex(oid)} lost unsynced writes and is no suspect`)
      }
      slot.intent = object?.intent ?? false
      slot.now = match
      slot.past = power ? [match] : [...new Set([...slot.past.slice(0, slot.past.indexOf(match)), match])]
    }
  }

  #matches(content: Lineage | null, bytes: Buffer | null): boolean {
    if (!content || !bytes) return !content && !bytes
    const verdict = new Verdict()
    const copy = content.copy('copy', verdict)
    copy.endRead(copy.beginRead(0, CELLS), bytes, '')
    return verdict.violation === null
  }

  #explain(allowed: readonly (Lineage | null)[], bytes: Buffer | null): void {
    for (const content of allowed) {
      if (!content || !bytes) {
        this.log(`allowed: ${content ? 'a content' : 'absent'}`)
        continue
      }
      const verdict = new Verdict()
      const copy = content.copy('copy', verdict)
      copy.endRead(copy.beginRead(0, CELLS), bytes, '')
      this.log(`allowed, but ${verdict.violation?.message}`)
    }
  }

  async #content(object: StoredObject): Promise<Buffer> {
    const buffer = Buffer.alloc(CELLS * CELL)
    let result: number | null = null
    this.process.enter(() =>
      this.store!.read(object, buffer, 0, buffer.length, 0, {
        complete: (length) => {
          result = length
        },
      }),
    )
    await this.scheduler.run(() => result !== null || this.#bad(), Number.POSITIVE_INFINITY, 10_000)
    return buffer
  }

  async run(rounds: number): Promise<void> {
    await this.open()
    for (let round = 0; round < rounds && !this.verdict.violation; round++) {
      const calls = this.random.chance(0.7) ? this.random.between(1, 120) : -1
      if (calls > 0) this.process.dieAfter(calls)
      for (let i = 0; i < 60 && !this.#bad(); i++) {
        this.act()
        const until = this.scheduler.now + this.random.exponential(0.5)
        await this.scheduler.run(() => this.#bad(), until, 10_000)
        if (this.scheduler.now < until && !this.#bad()) this.scheduler.after(until - this.scheduler.now, () => {}, true)
      }
      if (this.verdict.violation) return
      const power = this.random.chance(0.5)
      this.crash(power)
      await this.open()
      if (this.verdict.violation) return
      await this.judge(power)
    }
  }
}

test('the store keeps its promises through crashes and power losses', async (t) => {
  const seeds = Number(process.env.SEEDS ?? 150)
  for (let seed = Number(process.env.START ?? 0); seed < Number(process.env.START ?? 0) + seeds; seed++) {
    const rig = new Rig(seed)
    await watchRejections(rig.verdict, () => rig.run(6))
    if (!rig.verdict.violation) continue
    t.log(rig.trace.lines.slice(-60).join('\n'))
    t.fail(`seed ${seed}: ${rig.verdict.violation.stack}`)
    break
  }
  t.pass()
})
