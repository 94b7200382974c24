import test from 'ava'
import { type Disk, DiskError } from '../../lib/host/interfaces.js'
import { Scheduler } from './clock.js'
import { type DiskShape, PAGE, SimDisk } from './disk.js'
import { DiskView } from './disk-view.js'
import { Process } from './process.js'
import { SimRandom } from './random.js'
import { Trace, Verdict } from './trace.js'

const SHAPE: DiskShape = { capacity: 1 << 20, latency: 0.1, syncLatency: 1, inline: 0.5 }

interface Rig {
  scheduler: Scheduler
  disk: SimDisk
  view: Disk
  process: Process
  settle: () => Promise<unknown>
  reboot: (power: boolean) => Disk
}

function rig(seed: number, shape: Partial<DiskShape> = {}): Rig {
  const scheduler = new Scheduler(new Trace(false))
  const verdict = new Verdict()
  const disk = new SimDisk(scheduler, new SimRandom(seed), { ...SHAPE, ...shape })
  const start = () => new Process('n1', scheduler, verdict, () => {})
  const process = start()
  const made: Rig = {
    scheduler,
    disk,
    process,
    view: new DiskView(disk, process),
    settle: () => scheduler.run(() => false, Number.POSITIVE_INFINITY, 100_000),
    reboot: (power) => {
      made.process.die()
      ;(made.view as DiskView).detach()
      if (power) disk.powerLoss()
      made.process = start()
      made.view = new DiskView(disk, made.process)
      return made.view
    },
  }
  return made
}

function write(view: Disk, fd: number, byte: number, pages: number, position: number): { result: number | null } {
  const done = { result: null as number | null, complete: (result: number) => (done.result = result) }
  view.write(fd, Buffer.alloc(pages * PAGE, byte), 0, pages * PAGE, position, done)
  return done
}

function sync(view: Disk, fd: number): { result: number | null } {
  const done = { result: null as number | null, complete: (result: number) => (done.result = result) }
  view.sync(fd, done)
  return done
}

function bytesOf(disk: SimDisk, path: string): number[] {
  const content = disk.content(path)
  if (!content) return []
  const found: number[] = []
  for (let at = 0; at < content.length; at += PAGE) {
    found.push(content.subarray(at, at + PAGE).every((byte) => byte === content[at]) ? content[at] : -1)
  }
  return found
}

test('a process crash keeps every completed write and name', async (t) => {
  for (let seed = 0; seed < 50; seed++) {
    const r = rig(seed)
    r.view.makeDirectory('a')
    const fd = r.view.open('a/x', 'create-new')
    write(r.view, fd, 7, 4, 0)
    await r.settle()
    r.view.rename('a/x', 'a/y')
    r.reboot(false)
    t.deepEqual(bytesOf(r.disk, 'a/y'), [7, 7, 7, 7])
    t.false(r.view.exists('a/x'))
  }
})

test('a write in flight at a crash ends in any subset of its pages', async (t) => {
  const outcomes = new Set<string>()
  for (let seed = 0; seed < 200; seed++) {
    const r = rig(seed, { inline: 0 })
    const fd = r.view.open('x', 'create')
    write(r.view, fd, 1, 3, 0)
    await r.settle()
    write(r.view, fd, 2, 3, 0)
    r.reboot(false)
    const bytes = bytesOf(r.disk, 'x')
    t.true(bytes.every((byte) => byte === 1 || byte === 2))
    outcomes.add(bytes.join())
  }
  t.is(outcomes.size, 8)
})

test('power loss keeps what was synced, and of the rest any subset of pages', async (t) => {
  const outcomes = new Set<string>()
  for (let seed = 0; seed < 400; seed++) {
    const r = rig(seed)
    const fd = r.view.open('x', 'create')
    write(r.view, fd, 1, 3, 0)
    await r.settle()
    sync(r.view, fd)
    r.view.syncDirectory('', { complete: () => {} })
    await r.settle()
    write(r.view, fd, 2, 2, 0)
    await r.settle()
    write(r.view, fd, 3, 1, 0)
    await r.settle()
    r.reboot(true)
    const bytes = bytesOf(r.disk, 'x')
    t.is(bytes.length, 3)
    t.is(bytes[2], 1)
    outcomes.add(bytes.slice(0, 2).join())
    t.deepEqual(bytesOf(r.disk, 'x'), bytes)
    r.reboot(true)
    t.deepEqual(bytesOf(r.disk, 'x'), bytes, 'what survived is durable')
  }
  t.deepEqual([...outcomes].sort(), ['1,1', '1,2', '2,1', '2,2', '3,1', '3,2'])
})

test('a sync covers what was complete when it began, not what came while it ran', async (t) => {
  let lost = 0
  for (let seed = 0; seed < 100; seed++) {
    const r = rig(seed, { inline: 1 })
    const fd = r.view.open('x', 'create')
    r.view.syncDirectory('', { complete: () => {} })
    await r.settle()
    write(r.view, fd, 1, 1, 0)
    const done = sync(r.view, fd)
    t.is(done.result, null, 'never inline')
    write(r.view, fd, 2, 1, PAGE)
    await r.settle()
    t.is(done.result, 0)
    r.reboot(true)
    const bytes = bytesOf(r.disk, 'x')
    t.is(bytes[0], 1)
    if (bytes[1] !== 2) lost++
  }
  t.true(lost > 10 && lost < 100)
})

test('names survive power loss after syncDirectory; before, any of them may be lost, renames whole', async (t) => {
  const outcomes = new Set<string>()
  for (let seed = 0; seed < 400; seed++) {
    const r = rig(seed, { inline: 1 })
    r.view.makeDirectory('obj')
    r.view.makeDirectory('stage')
    r.view.close(r.view.open('obj/kept', 'create-new'))
    r.view.syncDirectory('obj', { complete: () => {} })
    await r.settle()
    r.view.close(r.view.open('stage/new', 'create-new'))
    r.view.rename('stage/new', 'obj/new')
    r.view.unlink('obj/kept')
    r.reboot(true)
    outcomes.add(r.disk.paths().join())
  }
  t.deepEqual([...outcomes].sort(), ['', 'obj/kept', 'obj/kept,obj/new', 'obj/kept,stage/new', 'obj/new', 'stage/new'])
})

test('writeFileAtomic leaves the old or the new content, durable at once', (t) => {
  for (let seed = 0; seed < 50; seed++) {
    const r = rig(seed)
    r.view.makeDirectory('epoch')
    r.view.writeFileAtomic('epoch/1', 'old')
    r.view.writeFileAtomic('epoch/1', 'new')
    t.is(r.reboot(true).readFile('epoch/1')?.toString(), 'new')
  }
})

test('errors: full, dead, missing, existing, bad pages', async (t) => {
  const r = rig(1, { capacity: 4 * PAGE, inline: 1 })
  const fd = r.view.open('x', 'create')
  t.is(write(r.view, fd, 1, 4, 0).result, 4 * PAGE)
  t.is(write(r.view, fd, 1, 1, 4 * PAGE).result, -28)
  t.is(write(r.view, fd, 2, 4, 0).result, 4 * PAGE, 'overwriting goes on')
  t.deepEqual(r.view.space(), { total: 4 * PAGE, free: 0 })
  r.view.punch(fd, 0, 2 * PAGE, { complete: () => {} })
  t.is(r.view.space().free, 2 * PAGE)
  t.deepEqual(r.view.extents(fd, 0, 4 * PAGE), [{ offset: 2 * PAGE, length: 2 * PAGE }])
  t.throws(() => r.view.open('nothing', 'read'), { instanceOf: DiskError })
  t.throws(() => r.view.open('x', 'create-new'), { instanceOf: DiskError })
  r.disk.file('x')!.bad.add(3)
  let result = 0
  r.view.read(fd, Buffer.alloc(PAGE), 0, PAGE, 3 * PAGE, { complete: (n) => (result = n) })
  t.is(result, -5)
  t.is(write(r.view, fd, 4, 1, 3 * PAGE).result, PAGE)
  r.view.read(fd, Buffer.alloc(PAGE), 0, PAGE, 3 * PAGE, { complete: (n) => (result = n) })
  t.is(result, PAGE, 'what is written anew can be read')
  r.disk.dead = true
  t.throws(() => r.view.unlink('x'), { instanceOf: DiskError })
})

test('a process told to die at its nth system call does nothing after it', (t) => {
  const r = rig(3, { inline: 1 })
  r.process.dieAfter(2)
  const seen: string[] = []
  r.process.enter(() => {
    r.view.makeDirectory('a')
    seen.push('a')
    r.view.makeDirectory('b')
    seen.push('b')
    r.view.makeDirectory('c')
    seen.push('c')
  })
  t.deepEqual(seen, ['a', 'b'])
  t.false(r.process.alive)
  t.falsy(r.disk.directory('c'))
})
