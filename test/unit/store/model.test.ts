/**
 * Random calls, random failures, crashes and power losses, against what lib/store/types.ts promises. The model keeps for
 * each part of each object the values that it may have now, and those that power loss may bring back.
 */
import test from 'ava'
import fc from 'fast-check'
import type { Clock, Completion } from '../../../lib/host/interfaces.js'
import { DiskError } from '../../../lib/host/interfaces.js'
import { objectPath } from '../../../lib/store/object-file.js'
import { FileStore } from '../../../lib/store/object-store.js'
import type { StoredObject } from '../../../lib/store/types.js'
import { dataOid, type Oid, vidOf } from '../../../lib/vdi/oid.js'
import { MemoryDisk } from './memory-disk.js'

const PAGE = 4096
const PAGES = 3
/** Parts of an object: its pages, whether it exists, writeEpoch, checkEpoch. */
const PRESENT = PAGES
const WRITE_EPOCH = PAGES + 1
const CHECK_EPOCH = PAGES + 2
const PARTS = PAGES + 3

/** Two share a directory. */
const OIDS: Oid[] = [dataOid(1, 0), dataOid(1, 1), dataOid(1, 256), dataOid(2, 0)]

const EIO = 5
const ENOSPC = 28

/** Values that one part may have: now, and after power loss with the version at which each became possible. */
class Part {
  now = new Set<number>([0])
  may = new Map<number, number>([[0, 0]])
}

class Item {
  parts = Array.from({ length: PARTS }, () => new Part())
  object: StoredObject | null = null
  intent = false
  busy = 0
  /** Untouched since a crash and in no log: a sync does not know what the page cache may hold of it */
  untouched = false

  possible(part: number, version: number, ...values: number[]): void {
    for (const value of values) {
      this.parts[part].now.add(value)
      this.parts[part].may.set(value, version)
    }
  }

  certain(part: number, value: number): void {
    this.parts[part].now = new Set([value])
  }
}

type Action = { kind: number; item: number; page: number; count: number; value: number }

class Rig {
  disk = new MemoryDisk()
  store!: FileStore
  readonly items = OIDS.map(() => new Item())
  version = 0
  epoch = 1
  stamp = 0
  pending = 0
  problems: string[] = []
  sealed = 0
  /** Failures to come, by call count */
  failAt = -1
  /** '' any */
  failing = ''
  errno = EIO

  constructor(readonly choose: () => number) {}

  async open(): Promise<void> {
    const { disk } = this
    disk.inline = () => this.choose() % 2 === 0
    disk.failing = () => 0
    let now = 0
    const after: Clock['after'] = (ms, fn) => {
      if (ms === 0) queueMicrotask(fn)
      return { cancel() {} }
    }
    const clock: Clock = { now: () => now++, wall: () => 0, after }
    const opening = FileStore.open(disk, { clock, log() {}, reserve: 0, handles: 2, intents: 2 })
    let ended = false
    opening.then(
      () => {
        ended = true
      },
      () => {
        ended = true
      },
    )
    for (let i = 0; !ended; i++) {
      if (i > 10_000) throw new Error('the store does not open')
      while (disk.waiting.length > 0) disk.step(this.choose())
      await this.turn()
    }
    this.store = await opening
    disk.failing = (operation) => {
      if (this.failAt < 0 || (this.failing !== '' && operation !== this.failing) || --this.failAt >= 0) return 0
      return operation === 'write' || operation === 'open' ? this.errno : EIO
    }
  }

  async turn(): Promise<void> {
    for (let i = 0; i < 20; i++) await Promise.resolve()
  }

  done(then: (result: number) => void): Completion {
    this.pending++
    let completed = false
    return {
      complete: (result) => {
        if (completed) this.problems.push('completed twice')
        completed = true
        this.pending--
        then(result)
      },
    }
  }

  act({ kind, item: number, page, count, value }: Action): void {
    const item = this.items[number]
    const oid = OIDS[number]
    item.object = this.store.get(oid) ?? null
    if (kind === 0) this.syncVdi(vidOf(oid))
    else if (kind === 1) this.fail(value)
    else if (item.busy > 0) return
    else if (kind === 2 || (item.object === null && kind < 8)) this.create(item, oid)
    else if (kind === 3 || item.object === null) this.stage(item, oid, page, value)
    else if (kind === 4) this.remove(item)
    else if (kind === 5) this.syncObject(item)
    else if (kind === 6 && value % 4 === 0) this.drop(item)
    else if (kind === 6) this.seal(item)
    else if (kind === 7) this.check(item)
    else this.write(item, kind, page % PAGES, Math.min(count, PAGES - (page % PAGES)))
  }

  private fail(value: number): void {
    this.failing = ['', '', 'sync', 'write'][value % 4]
    this.failAt = this.failing === '' ? value % 11 : value % 3
  }

  private catching(what: () => void): boolean {
    try {
      what()
      return true
    } catch (error) {
      if (!(error instanceof DiskError)) throw error
      return false
    }
  }

  create(item: Item, oid: Oid): void {
    item.untouched = false
    const version = ++this.version
    // A former object goes first: until the header is there it may end in neither.
    item.possible(PRESENT, version, 0, 1)
    for (let part = 0; part < PAGES; part++) item.possible(part, version, 0)
    item.possible(WRITE_EPOCH, version, this.epoch)
    item.possible(CHECK_EPOCH, version, 0)
    const ok = this.catching(() => {
      item.object = this.store.create(oid, this.epoch)
    })
    if (ok) {
      for (let part = 0; part < PAGES; part++) item.certain(part, 0)
      item.certain(WRITE_EPOCH, this.epoch)
      item.certain(CHECK_EPOCH, 0)
      item.intent = (item.object as StoredObject).intent
    } else if (this.store.get(oid) === undefined) {
      item.certain(PRESENT, 0)
      item.intent = false
    }
  }

  remove(item: Item): void {
    item.untouched = false
    item.possible(PRESENT, ++this.version, 0)
    if (this.catching(() => this.store.remove(item.object!))) {
      item.certain(PRESENT, 0)
      item.intent = false
    }
  }

  drop(item: Item): void {
    const had = item.object!.intent
    this.store.dropIntents([item.object!])
    const path = objectPath(item.object!.oid)
    if (had && !item.object!.intent && !this.disk.isDurable(path, 1))
      this.problems.push('an intent went before its writes were durable')
    item.intent = item.object!.intent
  }

  /** Writes may come while it runs. */
  seal(item: Item): void {
    const object = item.object!
    if (object.removed) return
    this.pending++
    this.store
      .seal(object, 0, () => true)
      .then(
        (sealed) => {
          const path = objectPath(object.oid)
          if (sealed && !object.intent && !this.disk.isDurable(path, 1))
            this.problems.push('an intent went before its writes were durable')
          if (sealed && !object.removed) this.sealed++
          if (this.store.get(object.oid) === object) item.intent = object.intent
        },
        (error: unknown) => {
          if (!(error instanceof DiskError)) throw error
        },
      )
      .finally(() => {
        this.pending--
      })
  }

  check(item: Item): void {
    item.untouched = false
    this.epoch++
    item.possible(CHECK_EPOCH, ++this.version, this.epoch)
    this.store.setCheckEpoch(item.object!, this.epoch)
  }

  write(item: Item, kind: number, page: number, count: number): void {
    const object = item.object!
    item.busy++
    const change = () => {
      if (object.removed) {
        item.busy--
        return
      }
      item.untouched = false
      const version = ++this.version
      const stamp = kind >= 12 ? 0 : ++this.stamp
      if (kind % 2 === 0) this.epoch++
      item.possible(WRITE_EPOCH, version, this.epoch)
      this.store.setWriteEpoch(object, this.epoch)
      for (let part = page; part < page + count; part++) item.possible(part, version, stamp)
      const done = this.done((result) => {
        item.busy--
        if (result < 0) return
        if (result !== count * PAGE) this.problems.push(`a write of ${count} pages gave ${result}`)
        for (let part = page; part < page + count; part++) item.certain(part, stamp)
        item.certain(WRITE_EPOCH, object.writeEpoch)
        item.certain(CHECK_EPOCH, object.checkEpoch)
        item.certain(PRESENT, 1)
      })
      const buffer = Buffer.alloc(count * PAGE)
      for (let at = 0; at < buffer.length; at += 4) buffer.writeUInt32LE(stamp, at)
      if (kind === 12) this.store.punch(object, page * PAGE, count * PAGE, done)
      else if (kind === 13) this.store.zero(object, page * PAGE, count * PAGE, done)
      else this.store.write(object, buffer, 0, buffer.length, page * PAGE, done)
    }
    if (object.intent) {
      change()
      return
    }
    const logged = this.done((result) => {
      if (result < 0) {
        item.busy--
        return
      }
      if (!object.intent) this.problems.push('an intent was logged and does not show')
      item.intent = true
      change()
    })
    this.store.addIntent(object, logged)
  }

  private snapshot(items: Item[]): () => void {
    const version = this.version
    const taken = items
      .filter((item) => !item.untouched)
      .map((item) => ({ item, values: item.parts.map((part) => [...part.now]) }))
    return () => {
      for (const { item, values } of taken) {
        item.parts.forEach((part, index) => {
          const kept = new Map([...part.may].filter(([, since]) => since > version))
          for (const value of values[index]) kept.set(value, Math.max(kept.get(value) ?? 0, version))
          part.may = kept
        })
      }
    }
  }

  syncVdi(vid: number): void {
    const settle = this.snapshot(this.items.filter((_, i) => vidOf(OIDS[i]) === vid))
    this.store.syncVdi(
      vid,
      this.done((result) => {
        if (result === 0) settle()
      }),
    )
  }

  syncObject(item: Item): void {
    const settle = this.snapshot([item])
    this.store.syncObject(
      item.object!,
      this.done((result) => {
        if (result === 0) settle()
      }),
    )
  }

  stage(item: Item, oid: Oid, page: number, value: number): void {
    const stamp = ++this.stamp
    this.epoch++
    const epoch = this.epoch
    let staged: ReturnType<FileStore['stage']> | null = null
    if (!this.catching(() => (staged = this.store.stage(oid, true)))) return
    const copy = staged!
    item.busy++
    const buffer = Buffer.alloc(PAGE)
    for (let at = 0; at < PAGE; at += 4) buffer.writeUInt32LE(stamp, at)
    const target = page % PAGES
    const content = (part: number) => (part === target ? stamp : 0)
    const written = this.done((result) => {
      if (result < 0 || value % 4 === 0) {
        copy.abort()
        item.busy--
        return
      }
      const version = ++this.version
      const before = item.parts.map((part) => ({ now: part.now, may: part.may }))
      for (const part of item.parts) Object.assign(part, { now: new Set(part.now), may: new Map(part.may) })
      for (let part = 0; part < PAGES; part++) item.possible(part, version, content(part))
      item.possible(PRESENT, version, 1)
      item.possible(WRITE_EPOCH, version, epoch)
      item.possible(CHECK_EPOCH, version, epoch)
      const former = item.object
      const placed = this.done((result) => {
        item.busy--
        const now = this.store.get(oid)
        if (result === 0) {
          item.untouched = false
          for (let part = 0; part < PAGES; part++) item.certain(part, content(part))
          item.certain(PRESENT, 1)
          item.certain(WRITE_EPOCH, epoch)
          item.certain(CHECK_EPOCH, epoch)
          this.snapshot([item])()
          if (former?.removed === false) this.problems.push('a replaced object is not marked')
        } else if (result === -125) {
          // Taken back in time: as if nothing had been.
          for (const [i, part] of item.parts.entries()) Object.assign(part, before[i])
          if (now !== (former ?? undefined)) this.problems.push('an aborted copy is in place')
        }
        item.intent = now?.intent ?? false
      })
      copy.commit(epoch, epoch, placed)
      if (value % 4 === 1) copy.abort()
    })
    copy.write(buffer, 0, PAGE, target * PAGE, written)
  }

  /** Ends what is under way. */
  async settle(): Promise<void> {
    for (let i = 0; i < 10_000; i++) {
      await this.turn()
      if (this.disk.waiting.length === 0) break
      this.disk.step(this.choose())
    }
    await this.turn()
    if (this.pending !== 0) this.problems.push(`${this.pending} requests never completed`)
  }

  async crash(power: boolean): Promise<void> {
    await this.turn()
    const lost = OIDS.map((oid) => this.disk.lost(objectPath(oid)))
    this.disk = this.disk.crash(power, () => this.choose() % 2 === 0)
    this.pending = 0
    this.failAt = -1
    await this.open()
    for (const [i, item] of this.items.entries()) {
      const object = this.store.get(OIDS[i])
      const found = await this.observe(object)
      const uncertain = item.parts.some((part, index) => index < PAGES && part.may.size > 1)
      for (const [index, value] of found.entries()) {
        if (object === undefined && index !== PRESENT) continue
        const part = item.parts[index]
        const allowed = power || lost[i] ? [...part.may.keys()] : [...part.now]
        // Header and creation of a request cut short: the older value is as good.
        if (!allowed.includes(value) && !(item.busy > 0 && part.may.has(value))) {
          this.problems.push(
            `oid ${i} part ${index} is ${value}, may be ${allowed} after ${power ? 'power loss' : 'a crash'}`,
          )
        }
      }
      if (object !== undefined && item.intent && !(object.intent && this.store.intentsAtOpen.has(OIDS[i]))) {
        this.problems.push(`oid ${i} lost its intent${uncertain ? ', and may have lost writes' : ''}`)
      }
      item.busy = 0
      item.intent = object?.intent ?? false
      item.untouched = !power && !item.intent
      for (const [index, part] of item.parts.entries()) {
        part.now = new Set([found[index]])
        if (power) part.may = new Map([[found[index], this.version]])
        else part.may.set(found[index], this.version)
        if (object === undefined && index !== PRESENT && power) part.may = new Map([[0, this.version]])
      }
      if (object?.dirty === false && object.intent) this.problems.push('a suspect does not count as dirty')
    }
  }

  private async observe(object: StoredObject | undefined): Promise<number[]> {
    const found = new Array<number>(PARTS).fill(0)
    if (object === undefined) return found
    const compared = await this.ended(this.store.verify(object, async () => {}))
    if (compared === 'header') this.problems.push('checksums are gone from a header')
    const damage = await this.ended(this.store.damage(object))
    if (damage !== null) this.problems.push(`oid ${object.oid} counts as rotten: chunks ${damage.chunks}`)
    found[PRESENT] = 1
    found[WRITE_EPOCH] = object.writeEpoch
    found[CHECK_EPOCH] = object.checkEpoch
    const buffer = Buffer.alloc(PAGES * PAGE, 0xee)
    const result = await this.wait((done) => this.store.readAsIs(object, buffer, 0, buffer.length, 0, done))
    if (result !== buffer.length) this.problems.push(`a read gave ${result}`)
    for (let page = 0; page < PAGES; page++) {
      found[page] = buffer.readUInt32LE(page * PAGE)
      for (let at = 0; at < PAGE; at += 4) {
        if (buffer.readUInt32LE(page * PAGE + at) !== found[page]) found[page] = -1
      }
    }
    return found
  }

  private async ended<T>(work: Promise<T>): Promise<T> {
    let over = false
    const end = () => {
      over = true
    }
    work.then(end, end)
    for (let i = 0; !over; i++) {
      if (i > 10_000) throw new Error('what was begun does not end')
      this.disk.step(this.choose())
      await this.turn()
    }
    return work
  }

  async wait(start: (done: Completion) => void): Promise<number> {
    let result: number | null = null
    start({
      complete: (value) => {
        result = value
      },
    })
    for (let i = 0; result === null; i++) {
      if (i > 10_000) throw new Error('a request does not complete')
      this.disk.step(this.choose())
      await this.turn()
    }
    return result
  }

  /** What is in memory and what the store says agree, without any crash. */
  async audit(): Promise<void> {
    for (const [i, item] of this.items.entries()) {
      const found = await this.observe(this.store.get(OIDS[i]))
      for (const [index, value] of found.entries()) {
        if (found[PRESENT] === 0 && index !== PRESENT) continue
        if (!item.parts[index].now.has(value)) {
          this.problems.push(`oid ${i} part ${index} is ${value}, must be ${[...item.parts[index].now]}`)
        }
      }
    }
  }
}

const action = fc.record({
  kind: fc.integer({ min: 0, max: 13 }),
  item: fc.integer({ min: 0, max: OIDS.length - 1 }),
  page: fc.integer({ min: 0, max: PAGES - 1 }),
  count: fc.integer({ min: 1, max: PAGES }),
  value: fc.nat(1000),
})
const round = fc.record({
  actions: fc.array(fc.tuple(action, fc.nat(3)), { maxLength: 40 }),
  end: fc.constantFrom('power', 'crash', 'settle'),
  errno: fc.constantFrom(EIO, ENOSPC),
})

/** Numbers from a seed: the small choices of which there are too many to shrink. */
function chooser(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state >>> 8
  }
}

test('random calls, failures, crashes and power losses', async (t) => {
  t.timeout(120_000)
  let crashes = 0
  let sealed = 0
  await fc.assert(
    fc.asyncProperty(fc.array(round, { minLength: 1, maxLength: 5 }), fc.nat(), async (rounds, seed) => {
      const rig = new Rig(chooser(seed))
      await rig.open()
      for (const { actions, end, errno } of rounds) {
        rig.errno = errno
        for (const [what, steps] of actions) {
          rig.act(what)
          await rig.turn()
          for (let i = 0; i < steps; i++) rig.disk.step(rig.choose())
          await rig.turn()
        }
        if (end === 'settle') {
          await rig.settle()
          rig.failAt = -1
          await rig.audit()
        } else {
          crashes++
          await rig.crash(end === 'power')
        }
        sealed += rig.sealed
        rig.sealed = 0
        if (rig.problems.length > 0) throw new Error(rig.problems.join('\n'))
      }
    }),
    {
      includeErrorInReport: true,
      numRuns: Number(process.env.RUNS ?? 400),
      ...(process.env.SEED ? { seed: Number(process.env.SEED) } : {}),
    },
  )
  t.true(crashes > 50, 'the test crashes what it tests')
  t.true(sealed > 20, 'objects go quiet')
})
