import test from 'ava'
import type { Clock, Completion } from '../../../lib/host/interfaces.js'
import { CHUNKS, shiftFor, sumOf } from '../../../lib/store/checksums.js'
import { decodeChecksums, decodeHeader, encodeHeader } from '../../../lib/store/header.js'
import { FileStore } from '../../../lib/store/object-store.js'
import type { StoredObject } from '../../../lib/store/types.js'
import { dataOid, oidToHex } from '../../../lib/vdi/oid.js'
import { MemoryDisk } from './memory-disk.js'

const A = dataOid(1, 0)
const A_PATH = `obj/00/${oidToHex(A)}`
const PAGE = 4096
/** Of one page's chunks */
const BYTES = CHUNKS * PAGE
const EBADMSG = -74

const clock: Clock = {
  now: () => 0,
  wall: () => 0,
  after: (ms, fn) => {
    if (ms === 0) queueMicrotask(fn)
    return { cancel() {} }
  },
}

async function drain<T>(disk: MemoryDisk, work: Promise<T>): Promise<T> {
  let ended = false
  const end = () => {
    ended = true
  }
  work.then(end, end)
  for (let i = 0; i < 10_000 && !ended; i++) {
    for (let turn = 0; turn < 5; turn++) await Promise.resolve()
    disk.step(0)
  }
  return work
}

function open(disk: MemoryDisk): Promise<FileStore> {
  return drain(disk, FileStore.open(disk, { clock, log() {}, reserve: 0 }))
}

function call(disk: MemoryDisk, start: (done: Completion) => void): Promise<number> {
  return drain(disk, new Promise<number>((resolve) => start({ complete: resolve })))
}

async function write(disk: MemoryDisk, store: FileStore, page: number, value: number): Promise<StoredObject> {
  const object = store.get(A) ?? store.create(A, 1)
  await call(disk, (done) => store.addIntent(object, done))
  await call(disk, (done) => store.write(object, Buffer.alloc(PAGE, value), 0, PAGE, page * PAGE, done))
  return object
}

const seal = (disk: MemoryDisk, store: FileStore, object: StoredObject, quiet = () => true) =>
  drain(disk, store.seal(object, BYTES, quiet))

async function read(disk: MemoryDisk, store: FileStore, page: number): Promise<number> {
  const buffer = Buffer.alloc(PAGE)
  const result = await call(disk, (done) => store.read(store.get(A)!, buffer, 0, PAGE, page * PAGE, done))
  return result < 0 ? result : buffer[0]
}

async function rotten(disk: MemoryDisk, store: FileStore): Promise<number[]> {
  await drain(
    disk,
    store.verify(store.get(A)!, async () => {}),
  )
  return (await drain(disk, store.damage(store.get(A)!)))?.chunks ?? []
}

/** Written, quiet, and opened anew. */
async function atRest(pages: readonly number[]): Promise<{ disk: MemoryDisk; store: FileStore }> {
  const disk = new MemoryDisk()
  const former = await open(disk)
  for (const page of pages) await write(disk, former, page, page + 1)
  await seal(disk, former, former.get(A)!)
  await drain(disk, former.close())
  return { disk, store: await open(disk) }
}

test('chunks are as large as 64 of them need; zeros have the sum 0, however they are stored', (t) => {
  t.is(shiftFor(4 << 20), 16)
  t.is(shiftFor((4 << 20) + 1), 17)
  t.is(shiftFor(2 ** 31), 25)
  t.is(shiftFor(0), 12)
  t.is(sumOf(Buffer.alloc(65_536)), 0)
  t.not(sumOf(Buffer.alloc(65_536, 1)), 0)
  t.not(sumOf(Buffer.alloc(65_536, 1)), sumOf(Buffer.alloc(65_536, 2)))
})

test('a header of version 1 has no checksums, and is read', async (t) => {
  const { crc32 } = await import('node:zlib')
  const bytes = Buffer.alloc(PAGE)
  encodeHeader(bytes, A, 3, 4)
  bytes.writeUInt32LE(1, 8)
  bytes.writeUInt32LE(crc32(bytes.subarray(0, 508)), 508)
  t.deepEqual(decodeHeader(bytes), { oid: A, writeEpoch: 3, checkEpoch: 4, shift: 0 })
  t.is(decodeChecksums(bytes, A), null)
})

test('what rots at rest is not read, the rest of the object is; the right bytes mend it, others do not', async (t) => {
  const { disk, store } = await atRest([0, 1, 2])
  t.false(store.get(A)!.intent)
  disk.flip(A_PATH, PAGE + PAGE + 5)
  t.is(await read(disk, store, 0), 1)
  t.is(await read(disk, store, 1), EBADMSG)
  t.deepEqual(await rotten(disk, store), [1])
  t.is(await drain(disk, store.mend(store.get(A)!, 1, Buffer.alloc(PAGE, 9))), -125)
  t.is(await drain(disk, store.mend(store.get(A)!, 1, Buffer.alloc(PAGE, 2))), 0)
  t.is(await read(disk, store, 1), 2)
  t.deepEqual(await rotten(disk, store), [])
})

test('a chunk that rots is not made true by a write to another one, nor by the epochs of its header', async (t) => {
  const { disk, store } = await atRest([0, 1, 2])
  disk.flip(A_PATH, PAGE + PAGE)
  const object = await write(disk, store, 2, 77)
  store.setWriteEpoch(object, 5)
  store.setCheckEpoch(object, 6)
  t.true(await seal(disk, store, object))
  t.false(object.intent)
  t.deepEqual(await rotten(disk, store), [1])
  const again = await open(disk.crash(true, () => true))
  t.deepEqual(await rotten(again.disk as MemoryDisk, again), [1])
})

test('what is known to be rotten stays so when it is written in part, and ends when all of it is written', async (t) => {
  const { disk, store } = await atRest([0])
  disk.flip(A_PATH, PAGE)
  t.deepEqual(await rotten(disk, store), [0])
  const object = store.get(A)!
  await call(disk, (done) => store.addIntent(object, done))
  await call(disk, (done) => store.write(object, Buffer.alloc(512, 8), 0, 512, 0, done))
  t.is(await read(disk, store, 0), EBADMSG)
  t.true(await seal(disk, store, object))
  t.is(await read(disk, store, 0), EBADMSG)
  await write(disk, store, 0, 9)
  t.is(await read(disk, store, 0), 9)
  t.true(await seal(disk, store, object))
  t.deepEqual(await rotten(disk, store), [])
})

test('a write while checksums are taken keeps the intent; they are right for all other chunks', async (t) => {
  const disk = new MemoryDisk()
  const store = await open(disk)
  const object = await write(disk, store, 0, 1)
  await write(disk, store, 1, 1)
  disk.inline = () => false
  const sealing = store.seal(object, BYTES, () => true)
  await write(disk, store, 1, 2)
  t.false(await drain(disk, sealing))
  t.true(object.intent)
  t.deepEqual(await rotten(disk, store), [])
  t.true(await seal(disk, store, object))
  t.false(await seal(disk, store, await write(disk, store, 1, 3), () => false), 'who asked has changed his mind')
  t.true(object.intent)
})

test('power that goes at any step of going quiet leaves the intent, or checksums that are true', async (t) => {
  let lost = 0
  for (const keep of [true, false]) {
    for (let steps = 0; steps < 40; steps++) {
      const disk = new MemoryDisk()
      const store = await open(disk)
      const object = await write(disk, store, 0, 1)
      await seal(disk, store, object)
      await write(disk, store, 1, 2)
      await call(disk, (done) => store.syncObject(object, done))
      disk.inline = () => false
      void store.seal(object, BYTES, () => true)
      for (let step = 0; step < steps; step++) {
        for (let turn = 0; turn < 5; turn++) await Promise.resolve()
        disk.step(0)
      }
      const after = disk.crash(true, () => keep)
      const again = await open(after)
      if (again.get(A)!.intent) lost++
      else t.is(decodeChecksums(after.readFile(A_PATH)!, A)?.sums[1], sumOf(Buffer.alloc(PAGE, 2)))
      t.deepEqual(await rotten(after, again), [], `${steps} steps`)
      t.is(await read(after, again, 1), 2)
    }
  }
  t.true(lost > 2 && lost < 70, `${lost} of 80 were hot`)
})

test('a received copy is compared from the start; what its source knew to be rotten stays known', async (t) => {
  const disk = new MemoryDisk()
  const store = await open(disk)
  const staged = store.stage(A, false)
  for (const page of [0, 1]) {
    await call(disk, (done) => staged.write(Buffer.alloc(PAGE, page + 1), 0, PAGE, page * PAGE, done))
  }
  const damage = { shift: 12, chunks: [1], sums: [sumOf(Buffer.alloc(PAGE, 44))] }
  t.is(await call(disk, (done) => staged.commit(1, 1, done, { bytes: BYTES, damage })), 0)
  t.is(await read(disk, store, 0), 1)
  t.is(await read(disk, store, 1), EBADMSG)
  const again = await open(disk.crash(true, () => false))
  const after = again.disk as MemoryDisk
  t.deepEqual(await rotten(after, again), [1])
  t.is(await drain(after, again.mend(again.get(A)!, 1, Buffer.alloc(PAGE, 44))), 0)
  t.is(await read(after, again, 1), 44)
})

test('the last part of a received copy was rotten at its source, and is not in the file: it stays rotten until it is mended', async (t) => {
  const disk = new MemoryDisk()
  const store = await open(disk)
  const staged = store.stage(A, false)
  await call(disk, (done) => staged.write(Buffer.alloc(PAGE, 1), 0, PAGE, 0, done))
  const right = Buffer.concat([Buffer.alloc(PAGE / 2, 44), Buffer.alloc(PAGE / 2)])
  const damage = { shift: 12, chunks: [1], sums: [sumOf(right)] }
  t.is(await call(disk, (done) => staged.commit(1, 1, done, { bytes: BYTES, damage })), 0)
  const again = await open(disk.crash(true, () => false))
  const after = again.disk as MemoryDisk
  // Nobody has looked yet, and what is before it is written.
  await seal(after, again, await write(after, again, 0, 5))
  t.deepEqual(await rotten(after, again), [1])
  t.is(await drain(after, again.mend(again.get(A)!, 1, right)), 0)
  t.is(await read(after, again, 1), 44)
  t.deepEqual(await rotten(after, again), [])
  t.is(after.readFile(A_PATH)!.length, PAGE + PAGE + PAGE / 2)
})
