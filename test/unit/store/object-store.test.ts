import test, { type ExecutionContext } from 'ava'
import { InvariantError } from '../../../lib/assert.js'
import type { Clock, Completion } from '../../../lib/host/interfaces.js'
import { DiskError } from '../../../lib/host/interfaces.js'
import { decodeHeader, encodeHeader } from '../../../lib/store/header.js'
import { FileStore, type StoreOptions } from '../../../lib/store/object-store.js'
import type { StagedObject, StoredObject } from '../../../lib/store/types.js'
import { dataOid, inodeOid, type Oid, oidToHex } from '../../../lib/vdi/oid.js'
import { MemoryDisk } from './memory-disk.js'

const A = dataOid(1, 0)
const A_PATH = `obj/00/${oidToHex(A)}`
const PAGE = 4096

interface Opened {
  store: FileStore
  disk: MemoryDisk
  log: string[]
}

/** Time passes between looks. */
let time = 0
const clock: Clock = { now: () => (time += 2000), wall: () => 0, after: () => ({ cancel() {} }) }

async function drain<T>(disk: MemoryDisk, work: Promise<T>): Promise<T> {
  let ended = false
  const end = () => {
    ended = true
  }
  work.then(end, end)
  for (let i = 0; i < 1000 && !ended; i++) {
    for (let turn = 0; turn < 20; turn++) await Promise.resolve()
    while (disk.waiting.length > 0) disk.step(0)
  }
  return work
}

async function open(disk = new MemoryDisk(), options: Partial<StoreOptions> = {}): Promise<Opened> {
  const log: string[] = []
  const store = await drain(
    disk,
    FileStore.open(disk, { clock, log: (level, text) => log.push(`${level}: ${text}`), reserve: 0, ...options }),
  )
  disk.calls = []
  return { store, disk, log }
}

/** How often a store says as it opens that something of it is spoiled. */
function counting() {
  const said = { times: 0, spoiled: () => void said.times++ }
  return said
}

function call(disk: MemoryDisk, start: (done: Completion) => void): Promise<number> {
  return drain(disk, new Promise<number>((resolve) => start({ complete: resolve })))
}

/** One that has completed inline. */
function inline(t: ExecutionContext, start: (done: Completion) => void): number {
  let result: number | null = null
  start({
    complete: (value) => {
      result = value
    },
  })
  t.not(result, null, 'completed inline')
  return result as unknown as number
}

function write(t: ExecutionContext, store: FileStore, object: StoredObject, position: number, bytes: Buffer): number {
  return inline(t, (done) => store.write(object, bytes, 0, bytes.length, position, done))
}

function read(t: ExecutionContext, store: FileStore, object: StoredObject, position: number, length: number): Buffer {
  const buffer = Buffer.alloc(length + 8, 0xee)
  t.is(
    inline(t, (done) => store.read(object, buffer, 4, length, position, done)),
    length,
  )
  t.is(buffer.readUInt32LE(0), 0xeeeeeeee)
  t.is(buffer.readUInt32LE(length + 4), 0xeeeeeeee)
  return buffer.subarray(4, length + 4)
}

test('a file is a header, then the bytes; what was never written reads as zeros', async (t) => {
  const { store, disk } = await open()
  const object = store.create(A, 7)
  t.is(write(t, store, object, 8192, Buffer.from('hello')), 5)
  t.deepEqual(read(t, store, object, 8190, 9), Buffer.from('\0\0hello\0\0'))
  t.deepEqual(read(t, store, object, 1 << 20, 16), Buffer.alloc(16))
  const bytes = disk.readFile(A_PATH)!
  t.is(bytes.toString('latin1', 0, 8), 'SHEEPOBJ')
  t.deepEqual(decodeHeader(bytes), { oid: A, writeEpoch: 7, checkEpoch: 0, shift: 0 })
  t.is(bytes.toString('latin1', 4096 + 8192), 'hello')
  t.is(
    inline(t, (done) => store.punch(object, 8192, 2, done)),
    2,
  )
  t.deepEqual(read(t, store, object, 8192, 5), Buffer.from('\0\0llo'))
  t.is(
    inline(t, (done) => store.zero(object, 8194, 1, done)),
    1,
  )
  t.deepEqual(read(t, store, object, 8192, 5), Buffer.from('\0\0\0lo'))
  t.deepEqual(store.extents(object, 0, 1 << 20), [{ offset: 8192, length: 5 }])
})

test('epochs and content are there after closing and opening', async (t) => {
  const { store, disk } = await open()
  const object = store.create(A, 1)
  store.create(inodeOid(5), 2)
  store.setWriteEpoch(object, 3)
  store.setCheckEpoch(object, 9)
  write(t, store, object, 0, Buffer.from('kept'))
  await drain(disk, store.close())
  t.is(disk.open_.size, 0, 'all files are closed')
  const again = await open(disk.crash(true, () => false))
  t.is(again.store.count, 2)
  const found = again.store.get(A)!
  t.deepEqual([found.writeEpoch, found.checkEpoch, found.intent, found.dirty], [3, 9, false, false])
  t.is(read(t, again.store, found, 0, 4).toString(), 'kept')
  t.deepEqual(
    again.store.ofVdi(5).map((object) => object.oid),
    [inodeOid(5)],
  )
})

test('a former object that comes back because the creation of a new one was lost with the power is not it', async (t) => {
  const { store, disk } = await open()
  const former = store.create(A, 7)
  write(t, store, former, 0, Buffer.from('former'))
  t.is(await call(disk, (done) => store.addIntent(former, done)), 0)
  t.is(await call(disk, (done) => store.syncObject(former, done)), 0)
  store.dropIntents([former])
  const object = store.create(A, 14)
  t.false(object.intent)
  t.is(await call(disk, (done) => store.addIntent(object, done)), 0)
  write(t, store, object, 0, Buffer.from('new one'))
  const killed = await open(disk.crash(false, () => true))
  t.is(killed.store.get(A)?.writeEpoch, 14, 'a killed daemon loses nothing')
  const after = await open(
    disk.crash(true, () => false),
    { lastEpoch: 20 },
  )
  t.is(after.store.get(A), undefined)
  t.deepEqual(
    [...after.store.intentsAtOpen],
    [[A, { epoch: 14, incomplete: true, lostIn: 14 }]],
    'of the epochs since it was created, up to the 20th, it says nothing',
  )
  const twice = await open(
    after.disk.crash(true, () => true),
    { lastEpoch: 25 },
  )
  t.is(twice.store.intentsAtOpen.get(A)?.lostIn, 14, 'the loss that counts is the first since it was checked')
})

test('a former object of the same epoch does not come back in place of a new one', async (t) => {
  const { store, disk } = await open()
  const former = store.create(A, 7)
  write(t, store, former, 0, Buffer.from('former'))
  t.is(await call(disk, (done) => store.addIntent(former, done)), 0)
  t.is(await call(disk, (done) => store.syncObject(former, done)), 0)
  store.remove(former)
  const object = store.create(A, 7)
  t.false(object.intent)
  t.is(await call(disk, (done) => store.addIntent(object, done)), 0)
  t.true(object.intent)
  write(t, store, object, 0, Buffer.from('newer!'))
  // What was not synced is lost, but for names: of these the disk keeps what it was told to.
  const after = await open(disk.crash(true, () => false))
  const found = after.store.get(A)
  t.true(after.store.intentsAtOpen.has(A))
  t.not(found && read(t, after.store, found, 0, 6).toString(), 'former')
})

test('what was removed is no loss after a crash, and once settled none after a power loss', async (t) => {
  const removed = async () => {
    const { store, disk } = await open()
    const object = store.create(A, 7)
    t.is(await call(disk, (done) => store.addIntent(object, done)), 0)
    t.is(await call(disk, (done) => store.syncObject(object, done)), 0)
    store.remove(object)
    return { store, disk }
  }
  const killed = await open((await removed()).disk.crash(false, () => true))
  t.deepEqual([...killed.store.intentsAtOpen], [])
  t.is(killed.store.intentCount, 0)
  const { store, disk } = await removed()
  const unsettled = await open(disk.crash(true, () => false))
  t.deepEqual([...unsettled.store.intentsAtOpen.keys()], [A])
  t.is(await call(disk, (done) => store.settleRemovals(done)), 0)
  const settled = await open(disk.crash(true, () => false))
  t.deepEqual([settled.store.count, settled.store.intentsAtOpen.size], [0, 0])
  t.is(
    inline(t, (done) => store.settleRemovals(done)),
    0,
    'nothing to do',
  )
})

test('an object whose file the disk has spoiled is lost, and not made anew', async (t) => {
  const { store, disk } = await open()
  const object = store.create(A, 7)
  t.is(await call(disk, (done) => store.addIntent(object, done)), 0)
  disk.writeFileAtomic(A_PATH, 'something else')
  const said = counting()
  const killed = await open(
    disk.crash(false, () => true),
    said,
  )
  t.is(killed.store.get(A), undefined)
  t.deepEqual([...killed.store.intentsAtOpen.keys()], [])
  t.is(said.times, 1)
  await open(killed.disk, said)
  t.is(said.times, 1, 'it is said once')
})

test('an intent log that cannot be read may have named an object that the power took: it counts as lost', async (t) => {
  for (const created of [true, false]) {
    const { store, disk } = await open()
    if (created) store.create(A, 7)
    disk.writeFileAtomic('intent', 'something else')
    const said = counting()
    const killed = await open(
      disk.crash(false, () => true),
      said,
    )
    const lostIn = killed.store.intentsAtOpen.get(A)?.lostIn ?? 0
    t.deepEqual([...killed.store.intentsAtOpen], created ? [[A, { epoch: 7, incomplete: true, lostIn }]] : [])
    t.is(said.times, 1)
    await open(killed.disk, said)
    t.is(said.times, 1, 'it is said once')
  }
  const said = counting()
  await open(new MemoryDisk(), said)
  t.is(said.times, 0, 'a new disk has none')
})

test('what cannot be read is as rotten; a disk with such parts in more than ten objects within ten minutes is given up', async (t) => {
  const failures: string[] = []
  const found: StoredObject[] = []
  let now = 0
  const options = {
    clock: { ...clock, now: () => now },
    failed: (errno: number, what: string) => failures.push(`${errno} ${what}`),
    trustMs: 0,
  }
  const { store, disk } = await open(new MemoryDisk(), options)
  store.onRot = (object) => found.push(object)
  const object = store.create(A, 7)
  const bytes = Buffer.alloc(PAGE, 1)
  write(t, store, object, 0, bytes)
  const get = () => call(disk, (done) => store.read(object, Buffer.alloc(PAGE), 0, PAGE, 0, done))
  disk.failing = (operation) => (operation === 'read' ? 5 : 0)
  t.is(await get(), -74)
  t.true(object.unreadable)
  t.deepEqual(found, [object])
  // Its checksums cannot be taken, nor its intent go.
  t.false(
    await drain(
      disk,
      store.seal(object, PAGE, () => true),
    ),
  )
  t.is(found.length, 2)
  disk.failing = () => 0
  t.is(await get(), PAGE)
  t.true(
    await drain(
      disk,
      store.seal(object, PAGE, () => true),
    ),
  )
  // With a checksum, the bytes of another replica are known to be right, and being written the sector can be read again.
  disk.failing = (operation) => (operation === 'read' && found.length === 2 ? 5 : 0)
  t.is(
    await drain(
      disk,
      store.verify(object, () => Promise.resolve()),
    ),
    'header',
  )
  let reads = 0
  disk.failing = (operation) => (operation === 'read' && ++reads === 2 ? 5 : 0)
  t.is(
    await drain(
      disk,
      store.verify(object, () => Promise.resolve()),
    ),
    'compared',
  )
  t.deepEqual((await drain(disk, store.damage(object)))?.chunks, [0])
  t.is(await drain(disk, store.mend(object, 0, bytes)), 0)
  t.is(await drain(disk, store.damage(object)), null)
  t.deepEqual(failures, [])
  now = 600_001
  disk.failing = (operation) => (operation === 'read' ? 5 : 0)
  const readOf = (one: StoredObject) => call(disk, (done) => store.readAsIs(one, bytes, 0, PAGE, 0, done))
  for (let i = 0; i < 20; i++) t.is(await readOf(object), -74, 'one sector may be tried often')
  for (let i = 1; i < 10; i++) await readOf(store.create(dataOid(1, i), 7))
  t.deepEqual(failures, [])
  await readOf(store.create(dataOid(1, 10), 7))
  t.deepEqual(failures, ['5 parts of 11 objects cannot be read'])
  // A write that fails is not tried twice.
  disk.failing = (operation) => (operation === 'write' ? 5 : 0)
  t.is(await call(disk, (done) => store.write(object, bytes, 0, PAGE, 0, done)), -5)
  t.deepEqual(failures.slice(1), ['5 write'])
})

test('an object that is gone, and the past, are not for use', async (t) => {
  const { store } = await open()
  const object = store.create(A, 2)
  t.throws(() => store.setWriteEpoch(object, 1), { instanceOf: InvariantError })
  store.remove(object)
  const done = { complete() {} }
  for (const use of [
    () => store.remove(object),
    () => store.write(object, Buffer.alloc(1), 0, 1, 0, done),
    () => store.read(object, Buffer.alloc(1), 0, 1, 0, done),
    () => store.syncObject(object, done),
    () => store.addIntent(object, done),
    () => store.setWriteEpoch(object, 5),
  ]) {
    t.throws(use, { instanceOf: InvariantError })
  }
})

test('what is no object of ours is moved aside, said, and never deleted', async (t) => {
  const disk = new MemoryDisk()
  const { store } = await open(disk)
  store.create(A, 1)
  await drain(disk, store.close())
  const put = (path: string, bytes: Buffer) => disk.writeFileAtomic(path, bytes)
  const header = (oid: Oid) => {
    const bytes = Buffer.alloc(PAGE)
    encodeHeader(bytes, oid, 1, 1)
    return bytes
  }
  const flipped = header(dataOid(1, 1))
  flipped[24] ^= 1
  put(`obj/01/${oidToHex(dataOid(1, 1))}`, flipped)
  put(`obj/02/${oidToHex(dataOid(1, 2))}`, header(dataOid(9, 2)))
  put(`obj/03/${oidToHex(dataOid(1, 4))}`, header(dataOid(1, 4)))
  put('obj/03/letter.txt', Buffer.from('dear administrator'))
  put('obj/letter.txt', Buffer.from('dear administrator'))
  put(`obj/05/${oidToHex(dataOid(1, 5))}`, Buffer.concat([Buffer.alloc(PAGE), Buffer.from('data')]))
  put(`obj/06/${oidToHex(dataOid(1, 6))}`, Buffer.alloc(0))
  put(`obj/07/${oidToHex(dataOid(1, 7))}`, header(dataOid(1, 7)).subarray(0, 100))
  put('stage/0000000100000009', header(dataOid(1, 9)))
  const again = await open(disk)
  t.is(again.store.count, 1)
  t.deepEqual(disk.list('bad'), [
    oidToHex(dataOid(1, 1)),
    oidToHex(dataOid(1, 2)),
    oidToHex(dataOid(1, 4)),
    oidToHex(dataOid(1, 5)),
    oidToHex(dataOid(1, 7)),
    'letter.txt',
    'letter.txt.1',
  ])
  t.is(disk.readFile('bad/letter.txt')!.toString(), 'dear administrator')
  t.is(again.log.filter((line) => line.startsWith('error: obj/')).length, 7)
  t.is(again.log.filter((line) => line.startsWith('info: removing obj/06/')).length, 1)
  t.deepEqual(disk.list('stage'), [])
})

test('a store of a newer version is not touched', async (t) => {
  const disk = new MemoryDisk()
  await open(disk)
  const { crc32 } = await import('node:zlib')
  const bytes = Buffer.alloc(PAGE)
  encodeHeader(bytes, A, 1, 1)
  bytes.writeUInt32LE(3, 8)
  bytes.writeUInt32LE(crc32(bytes.subarray(0, 508)), 508)
  disk.writeFileAtomic(A_PATH, bytes)
  await t.throwsAsync(open(disk), { message: /newer sheep/ })
  t.deepEqual(disk.readFile(A_PATH), bytes)
})

test('a flush costs what is dirty, and those who ask while one runs share the next', async (t) => {
  const { store, disk } = await open()
  const objects = Array.from({ length: 20 }, (_, i) => store.create(dataOid(1, i), 1))
  store.create(dataOid(2, 0), 1)
  await call(disk, (done) => store.syncVdi(1, done))
  disk.calls = []
  t.is(
    inline(t, (done) => store.syncVdi(1, done)),
    0,
  )
  t.deepEqual(disk.calls, [], 'nothing is dirty')

  write(t, store, objects[3], 0, Buffer.alloc(10))
  t.true(objects[3].dirty)
  const ended: string[] = []
  const wait = (name: string): Completion => ({ complete: (result) => ended.push(`${name} ${result}`) })
  disk.calls = []
  store.syncVdi(1, wait('first'))
  store.syncObject(objects[3], wait('same'))
  t.deepEqual(disk.calls, ['sync'])
  write(t, store, objects[3], 0, Buffer.alloc(10))
  store.syncVdi(1, wait('second'))
  store.syncObject(objects[3], wait('third'))
  disk.step(0)
  t.deepEqual(ended, ['first 0', 'same 0'], 'they were covered by the running one')
  t.true(objects[3].dirty, 'the later write was not')
  disk.step(0)
  t.deepEqual(ended, ['first 0', 'same 0', 'second 0', 'third 0'])
  t.deepEqual(disk.calls, ['sync', 'write', 'sync'])
  t.false(objects[3].dirty)
})

test('syncs of many files run a few at a time', async (t) => {
  const { store, disk } = await open(new MemoryDisk(), { parallelSyncs: 3 })
  for (let i = 0; i < 100; i++) store.create(dataOid(1, i), 1)
  let result = 1
  store.syncVdi(1, {
    complete: (value) => {
      result = value
    },
  })
  let most = 0
  for (; disk.waiting.length > 0; disk.step(1)) most = Math.max(most, disk.waiting.length)
  t.is(result, 0)
  t.is(most, 3)
})

test('a failed sync is not forgotten, until a received copy takes the place', async (t) => {
  const { store, disk, log } = await open()
  const object = store.create(A, 1)
  await call(disk, (done) => store.syncVdi(1, done))
  write(t, store, object, 0, Buffer.from('lost'))
  disk.failing = (operation) => (operation === 'sync' ? 5 : 0)
  t.is(await call(disk, (done) => store.syncVdi(1, done)), -5)
  disk.failing = () => 0
  t.is(await call(disk, (done) => store.syncVdi(1, done)), -5)
  t.is(await call(disk, (done) => store.syncObject(object, done)), -5)
  t.true(object.dirty)
  t.true(log.some((line) => line.includes(oidToHex(A))))
  const staged = store.stage(A, true)
  t.is(
    inline(t, (done) => staged.write(Buffer.from('good'), 0, 4, 0, done)),
    4,
  )
  t.is(await call(disk, (done) => staged.commit(1, 2, done)), 0)
  t.is(await call(disk, (done) => store.syncVdi(1, done)), 0)
  t.is(read(t, store, store.get(A)!, 0, 4).toString(), 'good')
})

/** A sync of A failed: 'former' is on the disk, 'newest' in the page cache */
async function failedSync(t: ExecutionContext): Promise<MemoryDisk> {
  const { store, disk } = await open()
  const object = store.create(A, 1)
  t.is(await call(disk, (done) => store.addIntent(object, done)), 0)
  write(t, store, object, 0, Buffer.from('former'))
  t.is(await call(disk, (done) => store.syncVdi(1, done)), 0)
  write(t, store, object, 0, Buffer.from('newest'))
  disk.failing = (operation) => (operation === 'sync' ? 5 : 0)
  t.is(await call(disk, (done) => store.syncVdi(1, done)), -5)
  return disk
}

test('what a failed sync covered is doubted by the next process, and its next sync covers it', async (t) => {
  const disk = await failedSync(t)
  const again = await open(
    disk.crash(false, () => true),
    { lastEpoch: 3 },
  )
  const found = again.store.get(A)!
  t.is(read(t, again.store, found, 0, 6).toString(), 'newest', 'the page cache has it')
  t.deepEqual([found.incomplete, found.lostIn], [true, 3])
  t.is(await call(again.disk, (done) => again.store.syncVdi(1, done)), 0)
  const third = await open(again.disk.crash(false, () => false))
  t.deepEqual(third.log, [], 'once is enough')
  const after = await open(third.disk.crash(true, () => false))
  t.is(read(t, after.store, after.store.get(A)!, 0, 6).toString(), 'newest')
})

test('what a failed sync covered may be gone with the page cache: that is as after a power loss', async (t) => {
  const disk = await failedSync(t)
  const { store } = await open(disk.crash(false, () => false))
  const found = store.get(A)!
  t.is(read(t, store, found, 0, 6).toString(), 'former')
  t.true(found.incomplete)
})

test('an object without an entry in the intent log whose sync failed is written again', async (t) => {
  const { store, disk } = await open()
  store.create(A, 1)
  disk.failing = (operation) => (operation === 'sync' ? 5 : 0)
  t.is(await call(disk, (done) => store.syncVdi(1, done)), -5)
  const again = await open(disk.crash(false, () => true))
  t.is(await call(again.disk, (done) => again.store.syncVdi(1, done)), 0)
  const after = await open(again.disk.crash(true, () => false))
  t.is(after.store.get(A)?.writeEpoch, 1)
})

test('a received copy is invisible until it is whole, then it is the object', async (t) => {
  const { store, disk } = await open()
  const former = store.create(A, 1)
  write(t, store, former, 0, Buffer.from('former'))
  const staged = store.stage(A, true)
  inline(t, (done) => staged.write(Buffer.from('newer!'), 0, 6, 0, done))
  t.is(store.get(A), former)
  t.is(await call(disk, (done) => staged.commit(4, 5, done)), 0)
  const object = store.get(A)!
  t.true(former.removed)
  t.deepEqual([object.writeEpoch, object.checkEpoch, object.dirty, object.intent], [4, 5, false, false])
  const after = await open(disk.crash(true, () => false))
  const there = Buffer.alloc(6)
  t.is(await call(after.disk, (done) => after.store.read(after.store.get(A)!, there, 0, 6, 0, done)), 6)
  t.is(there.toString(), 'newer!')
  t.deepEqual(after.disk.list('stage'), [])
})

test('an abort during a commit leaves the former object, and another copy may be received at once', async (t) => {
  const { store, disk } = await open()
  const former = store.create(A, 1)
  const staged: StagedObject = store.stage(A, true)
  t.throws(() => store.stage(A, true), { instanceOf: InvariantError })
  const result = call(disk, (done) => staged.commit(4, 5, done))
  staged.abort()
  const second = store.stage(A, true)
  t.is(await result, -125)
  t.is(store.get(A), former)
  second.abort()
  second.abort()
  t.deepEqual(disk.list('stage'), [])
  t.is(disk.open_.size, 2, 'the object and the intent log')
})

test('a write to an object that a copy replaced meanwhile is no success', async (t) => {
  const { store, disk } = await open()
  const former = store.create(A, 1)
  const staged = store.stage(A, true)
  disk.inline = () => false
  let result = 0
  store.write(former, Buffer.alloc(8), 0, 8, 0, {
    complete: (value) => {
      result = value
    },
  })
  const [slow] = disk.waiting.splice(0)
  t.is(await call(disk, (done) => staged.commit(4, 5, done)), 0)
  slow.done.complete(slow.run())
  t.is(result, -116)
  t.is(disk.open_.size, 2, 'the former file was closed by its last request')
})

test('files that are kept open have a limit', async (t) => {
  const { store, disk } = await open(new MemoryDisk(), { handles: 4 })
  const objects = Array.from({ length: 20 }, (_, i) => store.create(dataOid(1, i), 1))
  for (const object of objects) write(t, store, object, 0, Buffer.from('x'))
  t.true(disk.open_.size <= 9, `dirty files stay, up to twice the limit: ${disk.open_.size}`)
  await call(disk, (done) => store.syncVdi(1, done))
  for (const object of objects) t.is(read(t, store, object, 0, 1).toString(), 'x')
  t.true(disk.open_.size <= 9)
  for (let round = 0; round < 3; round++) for (const object of objects.slice(0, 3)) read(t, store, object, 0, 1)
  disk.calls = []
  for (let round = 0; round < 3; round++) for (const object of objects.slice(0, 3)) read(t, store, object, 0, 1)
  t.deepEqual(disk.calls, [], 'those in use stay open')
})

test('out of descriptors: others are closed', async (t) => {
  const { store, disk } = await open()
  const objects = Array.from({ length: 4 }, (_, i) => store.create(dataOid(1, i), 1))
  disk.failing = (operation) => (operation === 'open' && disk.open_.size >= 5 ? 24 : 0)
  const more = store.create(dataOid(1, 9), 1)
  t.is(write(t, store, more, 0, Buffer.from('x')), 1)
  for (const object of objects) t.is(write(t, store, object, 0, Buffer.from('y')), 1)
})

test('a full disk takes no new objects, and overwrites go on', async (t) => {
  const { store, disk } = await open(new MemoryDisk(), { reserve: 1 << 20 })
  const object = store.create(A, 1)
  disk.total = 1 << 20
  const full = { instanceOf: DiskError, message: /no space/ }
  t.throws(() => store.create(dataOid(1, 1), 1), full)
  t.throws(() => store.stage(dataOid(1, 1), true), full)
  t.is(store.get(dataOid(1, 1)), undefined)
  t.is(store.create(dataOid(1, 2), 1, true).oid, dataOid(1, 2), 'that it was here, and is lost, is a fact to keep')
  t.is(write(t, store, object, 0, Buffer.from('x')), 1)
  disk.failing = (operation) => (operation === 'write' ? 28 : 0)
  t.is(write(t, store, object, 0, Buffer.from('y')), -28)
  disk.failing = () => 0
  t.is(write(t, store, object, 0, Buffer.from('z')), 1)
})

test('a creation that fails leaves nothing', async (t) => {
  const { store, disk } = await open()
  disk.failing = (operation) => (operation === 'write' ? 28 : 0)
  t.throws(() => store.create(A, 1), { instanceOf: DiskError, message: /errno 28/ })
  disk.failing = () => 0
  t.is(store.get(A), undefined)
  t.false(disk.exists(A_PATH))
  t.is(disk.open_.size, 1)
  store.create(A, 1)
  t.is(store.count, 1)
})

test('data waits for a header that could not be written', async (t) => {
  const { store, disk } = await open()
  const object = store.create(A, 1)
  disk.failing = (operation) => (operation === 'write' ? 5 : 0)
  store.setWriteEpoch(object, 2)
  t.is(write(t, store, object, 0, Buffer.from('x')), -5)
  disk.failing = () => 0
  t.is(write(t, store, object, 0, Buffer.from('x')), 1)
  t.deepEqual(decodeHeader(disk.readFile(A_PATH)!), { oid: A, writeEpoch: 2, checkEpoch: 0, shift: 0 })
})
