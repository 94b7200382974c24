import test from 'ava'
import { SheepError } from '../../../lib/errors.js'
import { type Clock, type Completion, DiskError, type Random } from '../../../lib/host/interfaces.js'
import { DiskSet } from '../../../lib/store/disk-set.js'
import { readConfig, readState } from '../../../lib/store/identity.js'
import { type AttachedDisk, findDisk, findDisks } from '../../../lib/store/node-disks.js'
import { FileStore } from '../../../lib/store/object-store.js'
import { dataOid } from '../../../lib/vdi/oid.js'
import { MemoryDisk } from './memory-disk.js'

let time = 0
const clock: Clock = { now: () => (time += 2000), wall: () => 0, after: () => ({ cancel() {} }) }
let made = 0
const random: Random = { u32: () => 0, hex: (bytes) => (++made).toString(16).padStart(2 * bytes, '0') }

async function drain<T>(disks: readonly MemoryDisk[], work: Promise<T>): Promise<T> {
  let ended = false
  const end = () => {
    ended = true
  }
  work.then(end, end)
  for (let i = 0; i < 1000 && !ended; i++) {
    for (let turn = 0; turn < 20; turn++) await Promise.resolve()
    for (const disk of disks) while (disk.waiting.length > 0) disk.step(0)
  }
  return work
}

class Rig {
  readonly lost: string[] = []
  epoch = 5
  reserve = 0
  set!: DiskSet

  constructor(readonly disks: MemoryDisk[]) {}

  at(number: number): AttachedDisk {
    return { path: `/d${number}`, disk: this.disks[number], close() {} }
  }

  async open(...numbers: number[]): Promise<DiskSet> {
    const found = findDisks(
      numbers.map((number) => this.at(number)),
      [],
      { clock, random, log: () => {} },
    )
    const options = {
      ...{ clock, log: () => {}, reserve: this.reserve, epoch: () => this.epoch },
      lost: (path: string) => void this.lost.push(path),
      allLost: () => void this.lost.push('all'),
    }
    this.set = await drain(this.disks, DiskSet.open(found, options))
    return this.set
  }

  call(start: (done: Completion) => void): Promise<number> {
    return drain(this.disks, new Promise<number>((resolve) => start({ complete: resolve })))
  }

  objectsOn(number: number): number {
    return this.set.report().find(({ path }) => path === `/d${number}`)?.objects ?? -1
  }
}

const oids = Array.from({ length: 8 }, (_, i) => dataOid(1, i))

test('new objects go to all disks; one that fails takes its own with it, and the state says so on the others', async (t) => {
  const rig = new Rig([new MemoryDisk(), new MemoryDisk()])
  const set = await rig.open(0, 1)
  for (const oid of oids) set.create(oid, 3)
  t.deepEqual([rig.objectsOn(0), rig.objectsOn(1)], [4, 4])
  t.is(await rig.call((done) => set.syncVdi(1, done)), 0)
  const objects = oids.map((oid) => set.get(oid)!)
  rig.disks[1].failing = () => 5
  const results = []
  for (const object of objects) {
    results.push(await rig.call((done) => set.write(object, Buffer.alloc(512), 0, 512, 0, done)))
  }
  t.is(results.filter((result) => result === 512).length, 4)
  t.deepEqual(rig.lost, ['/d1'])
  t.is(set.count, 4)
  t.is(objects.filter((object) => object.removed).length, 4)
  t.throws(() => set.extents(objects.find((object) => object.removed)!, 0, 512), { instanceOf: DiskError })
  t.is(set.report()[1].state, 'failed')
  const state = readState(rig.disks[0], readConfig(rig.disks[0])!, '/d0')!
  t.is(state.lostEpoch, 5)
  t.deepEqual(
    state.disks.map(({ path }) => path),
    ['/d0'],
  )
  // What comes now goes to the disk that is left.
  set.create(dataOid(2, 0), 6)
  t.is(rig.objectsOn(0), 5)
  rig.disks[0].failing = () => 5
  await rig.call((done) => set.syncVdi(2, done))
  t.deepEqual(rig.lost, ['/d1', 'all'])
})

test('of two copies the older loses, and what is on a disk that was away inherits nothing from before', async (t) => {
  const rig = new Rig([new MemoryDisk(), new MemoryDisk()])
  const set = await rig.open(0, 1)
  for (const oid of oids) set.create(oid, 3)
  await rig.call((done) => set.syncVdi(1, done))
  const away = oids.filter((oid) => !set.objectsOn('/d0').some((object) => object.oid === oid))
  t.is(away.length, 4)
  for (const oid of [away[0], away[2]]) await rig.call((done) => set.addIntent(set.get(oid)!, done))
  t.is(await drain(rig.disks, set.unplug('/d1')), '/d1')
  set.epochBegins(6)
  t.is(set.state.lostEpoch, 5)
  // Two of them are rebuilt meanwhile.
  for (const oid of away.slice(0, 2)) set.create(oid, 6)
  const attached = rig.at(1)
  const id = findDisk(attached, readConfig(rig.disks[0])!.id, set.state, { clock, random })
  await drain(rig.disks, set.plug(id, attached))
  t.is(set.count, 8)
  t.deepEqual(
    away.map((oid) => set.get(oid)!.writeEpoch),
    [6, 6, 3, 3],
  )
  t.deepEqual(
    away.map((oid) => set.get(oid)!.suspect),
    [false, false, true, false],
    'its intents speak of its own copies',
  )
  t.is(rig.objectsOn(1), 2)
  t.is(set.get(away[2])!.joinedEpoch, Number.POSITIVE_INFINITY)
  set.epochBegins(7)
  t.is(set.get(away[2])!.joinedEpoch, 7)
  t.is(set.get(away[0])!.joinedEpoch, 0)
  // And so after a restart; without the disk it counts as lost from the next epoch on.
  await drain(rig.disks, set.close())
  const again = await rig.open(1, 0)
  t.is(again.get(away[3])!.joinedEpoch, 7)
  await drain(rig.disks, again.close())
  const alone = await rig.open(0)
  alone.epochBegins(9)
  t.is(alone.state.lostEpoch, 8)
  t.is(alone.count, 6)
  alone.epochBegins(10)
  t.is(alone.state.lostEpoch, 8)
  alone.countLoss()
  alone.epochBegins(11)
  t.is(alone.state.lostEpoch, 10, 'an object that cannot be made anew counts as a lost disk')
  t.throws(() => findDisk({ ...attached, disk: rig.disks[1] }, 'ffffffffffffffff', alone.state, { clock, random }))
  await t.throwsAsync(alone.unplug('/d0'), { message: /the only disk/ })
})

test('a disk that comes back says what its node had when it left, and no more', async (t) => {
  const rig = new Rig([new MemoryDisk(), new MemoryDisk()])
  const set = await rig.open(0, 1)
  for (const oid of oids) set.create(oid, 3)
  await rig.call((done) => set.syncVdi(1, done))
  const [away] = set.objectsOn('/d1').map(({ oid }) => oid)
  t.is(set.get(away)?.keptEpoch, 0, 'it was here all the time')
  await drain(rig.disks, set.unplug('/d1'))
  set.epochBegins(6)
  await drain(rig.disks, set.close())

  // As a node starts with it, and again.
  const both = await rig.open(0, 1)
  t.is(both.get(away)?.keptEpoch, 5)
  both.started(8)
  both.epochBegins(9)
  t.is(both.get(away)?.joinedEpoch, 9)
  t.is(both.get(away)?.keptEpoch, 5)
  await drain(rig.disks, both.close())
  const again = await rig.open(0, 1)
  t.is(again.get(away)?.keptEpoch, 5)
  again.started(9)
  again.epochBegins(10)

  // It leaves before anybody has compared its objects: then it says no more than before; afterwards it does.
  for (const [epoch, recovered, kept] of [
    [10, 8, 5],
    [12, 12, 12],
  ]) {
    rig.epoch = epoch
    again.save({ recoveredEpoch: recovered })
    await drain(rig.disks, again.unplug('/d1'))
    again.epochBegins(epoch + 1)
    const attached = rig.at(1)
    const id = findDisk(attached, readConfig(rig.disks[0])!.id, again.state, { clock, random })
    await drain(rig.disks, again.plug(id, attached))
    t.is(again.get(away)?.keptEpoch, kept)
    again.epochBegins(epoch + 2)
  }
  await drain(rig.disks, again.close())
})

test('a node knows whether it may have served without the disks that it starts with', async (t) => {
  const rig = new Rig([new MemoryDisk(), new MemoryDisk()])
  const set = await rig.open(0, 1)
  const [first, second] = set.diskIds
  await drain(rig.disks, set.unplug('/d1'))
  set.epochBegins(6)
  await drain(rig.disks, set.close())
  // The second is back, and does not count yet.
  const both = await rig.open(0, 1)
  t.is(both.base, null)
  both.started(8)
  t.is(both.base, 8)
  t.deepEqual(
    [[first], [second], [first, second], undefined].map((disks) => both.servedWithout(disks)),
    [false, true, false, true],
  )
  t.deepEqual(both.diskIds, [first, second])
  await drain(rig.disks, both.close())
  // The first alone: it lists nobody else, and still may have been elsewhere while the node served.
  const alone = await rig.open(0)
  alone.started(9)
  t.is(alone.base, 8, 'the first start that led to nothing counts')
  t.deepEqual(
    [[first], [second], undefined].map((disks) => alone.servedWithout(disks)),
    [false, true, false],
  )
  alone.epochBegins(10)
  t.is(alone.base, null)
  t.is(alone.state.lostEpoch, 5, 'nothing was lost but the disk that was unplugged')

  // A disk that is listed and missing may have gone on by itself, whoever joined.
  const pair = new Rig([new MemoryDisk(), new MemoryDisk()])
  await drain(pair.disks, (await pair.open(0, 1)).close())
  const half = await pair.open(1)
  half.started(5)
  t.true(half.servedWithout(half.diskIds))
})

test('a disk that does not count yet does not serve alone', async (t) => {
  const rig = new Rig([new MemoryDisk(), new MemoryDisk()])
  await drain(rig.disks, (await rig.open(0)).close())
  const set = await rig.open(0, 1)
  set.started(4)
  await t.throwsAsync(set.unplug('/d0'), { message: /the only disk of this node until/ })
  set.create(oids[0], 5)
  set.create(oids[1], 5)
  rig.disks[0].failing = () => 5
  await rig.call((done) => set.syncVdi(1, done))
  t.deepEqual(rig.lost, ['all'])
})

test('a disk fails, and the node stands still for some epochs: it has not served in those', async (t) => {
  const rig = new Rig([new MemoryDisk(), new MemoryDisk()])
  const set = await rig.open(0, 1)
  set.started(4)
  set.epochBegins(5)
  await drain(rig.disks, set.unplug('/d1'))
  set.epochBegins(9)
  t.is(set.state.lostEpoch, 5)
})

test('a disk that fails as the node starts is named; one that fails before it serves counts as lost', async (t) => {
  const rig = new Rig([new MemoryDisk(), new MemoryDisk()])
  rig.epoch = 0
  await drain(rig.disks, (await rig.open(0, 1)).close())
  // An object on one disk, and what says that it is doubted on the other: it is to be written beside it.
  const [first, second] = rig.disks
  const one = await drain(rig.disks, FileStore.open(first, { clock, log: () => {} }))
  t.is(await rig.call((done) => one.addIntent(one.create(oids[0], 3), done)), 0)
  await drain(rig.disks, one.close())
  first.unlink(one.pathOf(oids[0]))
  first.bootId = 'boot 2'
  const other = await drain(rig.disks, FileStore.open(second, { clock, log: () => {} }))
  other.create(oids[0], 3)
  await drain(rig.disks, other.close())
  let writes = 0
  // The first write makes its own log anew.
  second.failing = (operation) => (operation === 'write' && ++writes > 1 ? 5 : 0)
  const set = await rig.open(0, 1)
  t.is(writes, 2)
  t.deepEqual(rig.lost, ['/d1'])
  t.is(set.count, 0)
  set.started(8)
  set.epochBegins(9)
  t.is(set.state.lostEpoch, 8)
  await drain(rig.disks, set.close())

  second.failing = () => 0
  first.failing = (operation) => (operation === 'sync' ? 5 : 0)
  const error = await t.throwsAsync(rig.open(0), { instanceOf: SheepError })
  t.like(error, { code: 'io' })
  t.regex(error.message, /disk \/d0 fails: /)
})

test('an object whose file was spoiled counts as lost with a disk, and so does what this node could have said of it', async (t) => {
  const rig = new Rig([new MemoryDisk()])
  const set = await rig.open(0)
  set.create(oids[0], 3)
  await drain(rig.disks, set.close())
  rig.disks[0].writeFileAtomic(set.pathOf(oids[0]), 'something else')
  const again = await rig.open(0)
  t.is(again.count, 0)
  again.started(7)
  again.epochBegins(8)
  t.is(again.state.lostEpoch, 7)
})

test('what was spoiled is not forgotten by a daemon that dies before the next epoch, wherever that is', async (t) => {
  for (const what of ['object', 'intent log']) {
    let isOpen = false
    for (let steps = 0; !isOpen; steps++) {
      const rig = new Rig([new MemoryDisk()])
      const set = await rig.open(0)
      set.create(oids[0], 3)
      await drain(rig.disks, set.close())
      rig.disks[0].writeFileAtomic(what === 'object' ? set.pathOf(oids[0]) : 'intent', 'something else')
      let done = 0
      rig.disks[0].failing = () => (done++ < steps ? 0 : 5)
      isOpen = await rig.open(0).then(
        () => done <= steps,
        () => false,
      )
      if (steps > 2000) return t.fail('it never opens')
      rig.disks[0] = rig.disks[0].crash(steps % 2 === 0, () => steps % 3 === 0)
      const again = await rig.open(0)
      again.started(7)
      again.epochBegins(8)
      t.is(again.state.lostEpoch, 7, `${what}, after ${steps} steps`)
      again.epochBegins(9)
      await drain(rig.disks, again.close())
      const last = await rig.open(0)
      last.started(9)
      last.epochBegins(10)
      t.is(last.state.lostEpoch, 7, 'it is said once')
    }
  }
})

test('a sector that cannot be mended takes its disk out, and only that', async (t) => {
  const rig = new Rig([new MemoryDisk(), new MemoryDisk()])
  const set = await rig.open(0, 1)
  for (const oid of oids) {
    set.create(oid, 3)
    t.is(await rig.call((done) => set.write(set.get(oid)!, Buffer.alloc(4096, 1), 0, 4096, 0, done)), 4096)
    t.true(
      await drain(
        rig.disks,
        set.seal(set.get(oid)!, 4096, () => true),
      ),
    )
  }
  const victim = set.objectsOn('/d1')[0]
  const mend = () => drain(rig.disks, set.mend(victim, 0, Buffer.alloc(4096, 1)))
  t.is(await mend(), 0)
  rig.disks[1].failing = (operation) => (operation === 'write' ? 28 : 0)
  t.is(await mend(), -28, 'for want of room')
  t.deepEqual(rig.lost, [])
  rig.disks[1].failing = (operation) => (operation === 'write' ? 5 : 0)
  t.is(await mend(), -125)
  t.deepEqual(rig.lost, ['/d1'])
  t.is(set.count, 4)
})

test('what was removed from one disk does not come back in place of what was made since on another', async (t) => {
  for (const lost of ['with the power', 'with its disk']) {
    const rig = new Rig([new MemoryDisk(), new MemoryDisk()])
    rig.reserve = 1
    const set = await rig.open(0, 1)
    const former = set.create(oids[0], 2)
    const first = rig.objectsOn(0) === 1 ? 0 : 1
    const second = 1 - first
    t.is(await rig.call((done) => set.write(former, Buffer.alloc(512, 7), 0, 512, 0, done)), 512)
    t.is(await rig.call((done) => set.syncVdi(1, done)), 0)
    set.remove(former)
    rig.disks[first].total = 4096
    const object = set.create(oids[0], 4)
    t.is(rig.objectsOn(second), 1, 'the first one is full')
    t.is(await rig.call((done) => set.addIntent(object, done)), 0)
    t.true(object.intent)
    if (lost === 'with its disk') {
      rig.disks[second].failing = () => 5
      t.true((await rig.call((done) => set.write(object, Buffer.alloc(512, 9), 0, 512, 0, done))) < 0)
    }
    // Whatever no sync covered is gone, or back.
    for (const number of [first, second]) {
      rig.disks[number] = rig.disks[number].crash(true, () => false)
      rig.disks[number].total = 1 << 30
    }
    const again = lost === 'with its disk' ? await rig.open(first) : await rig.open(0, 1)
    t.is(again.get(oids[0]), undefined, lost)
  }
})

test('nor does its entry in the intent log of that disk, which would say that there is something', async (t) => {
  const rig = new Rig([new MemoryDisk(), new MemoryDisk()])
  rig.reserve = 1
  const set = await rig.open(0, 1)
  const former = set.create(oids[0], 4)
  const first = rig.objectsOn(0) === 1 ? 0 : 1
  const second = 1 - first
  t.is(await rig.call((done) => set.addIntent(former, done)), 0)
  t.is(await rig.call((done) => set.write(former, Buffer.alloc(512, 7), 0, 512, 0, done)), 512)
  t.is(await rig.call((done) => set.syncVdi(1, done)), 0)
  set.remove(former)
  // The file is gone for good, and its entry dropped, but that is not on disk.
  t.is(await rig.call((done) => set.syncVdi(1, done)), 0)
  const beside = set.create(oids[0], 4)
  t.is(rig.objectsOn(first), 1, 'where that entry was')
  set.remove(beside)
  rig.disks[first].total = 4096
  const object = set.create(oids[0], 4)
  t.is(rig.objectsOn(second), 1, 'the first one is full')
  t.is(await rig.call((done) => set.addIntent(object, done)), 0)
  rig.disks[first] = rig.disks[first].crash(true, () => false)
  rig.disks[first].total = 1 << 30
  const again = await rig.open(first)
  t.false(again.intentsAtOpen.has(oids[0]))
  t.is(again.get(oids[0]), undefined)
})
