/**
 * The store on file systems that are really full. Each is made for the test: a tmpfs, and an ext4 in a file, which promises
 * blocks at the write and finds them later.
 */
import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { RealClock } from '../../lib/host/clock.js'
import { RealDisk } from '../../lib/host/disk.js'
import { type Completion, DiskError } from '../../lib/host/interfaces.js'
import { FileStore } from '../../lib/store/object-store.js'
import type { StoredObject } from '../../lib/store/types.js'
import { dataOid } from '../../lib/vdi/oid.js'

const MIB = 1 << 20
const ENOSPC = -28
const DISK = 96 * MIB
const RESERVE = 24 * MIB

const call = (start: (done: Completion) => void) => new Promise<number>((resolve) => start({ complete: resolve }))

function mount(t: ExecutionContext, kind: string): string {
  const base = fs.mkdtempSync(path.join(os.tmpdir(), 'sheep-full-'))
  const root = path.join(base, 'mounted')
  fs.mkdirSync(root)
  t.teardown(() => fs.rmSync(base, { recursive: true }))
  if (kind === 'tmpfs') {
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${DISK}`, 'tmpfs', root])
  } else {
    const image = path.join(base, 'image')
    fs.writeFileSync(image, '')
    fs.truncateSync(image, DISK)
    execFileSync('mkfs.ext4', ['-q', '-F', '-m', '0', image])
    execFileSync('mount', ['-o', 'loop', image, root])
  }
  // Lazily: a test that failed has not closed its store.
  t.teardown(() => execFileSync('umount', ['-l', root]))
  return root
}

const open = (root: string) =>
  FileStore.open(new RealDisk(root), { clock: new RealClock(), log: () => {}, reserve: RESERVE })

function stamped(index: number, round: number): Buffer {
  const buffer = Buffer.alloc(MIB)
  for (let at = 0; at < MIB; at += 8) buffer.writeUInt32LE(index * 1000 + round, at)
  return buffer
}

async function holds(t: ExecutionContext, store: FileStore, object: StoredObject, expected: Buffer): Promise<void> {
  const buffer = Buffer.alloc(expected.length, 0xee)
  t.is(await call((done) => store.read(object, buffer, 0, buffer.length, 0, done)), buffer.length)
  t.true(buffer.equals(expected), `object ${object.oid} holds what was written last`)
}

for (const kind of ['tmpfs', 'ext4']) {
  test.serial(`a full disk: ${kind}`, async (t) => {
    t.is(process.getuid?.(), 0, 'mounting a small file system needs root: run the tests as root')
    const root = mount(t, kind)
    const store = await open(root)
    const objects: StoredObject[] = []
    // New objects until the store refuses
    for (;;) {
      try {
        objects.push(store.create(dataOid(1, objects.length), 1))
      } catch (error) {
        t.true(error instanceof DiskError && error.errno === 28)
        t.regex((error as Error).message, /held in reserve/)
        break
      }
      const index = objects.length - 1
      t.is(await call((done) => store.write(objects[index], stamped(index, 0), 0, MIB, 0, done)), MIB)
    }
    t.true(objects.length > 30 && objects.length < 80, `${objects.length} objects of 1 MiB on ${DISK / MIB} MiB`)
    t.is(store.count, objects.length)
    t.throws(() => store.stage(dataOid(2, 0), true), { instanceOf: DiskError })
    // Overwrites go on, and so do intents and flushes
    for (const [index, object] of objects.entries()) {
      t.is(await call((done) => store.addIntent(object, done)), 0)
      t.is(await call((done) => store.write(object, stamped(index, 1), 0, MIB, 0, done)), MIB)
    }
    t.is(await call((done) => store.syncVdi(1, done)), 0)
    // Writes into the reserve until there is nothing left at all
    let result = 0
    for (let round = 1; result >= 0 && round < 200; round++) {
      result = await call((done) => store.write(objects[0], stamped(0, 2), 0, MIB, round * MIB, done))
    }
    t.is(result, ENOSPC)
    t.is(await call((done) => store.allocate(objects[1], 64 * MIB, done)), ENOSPC)
    // The others are whole and writable
    for (const [index, object] of objects.entries()) await holds(t, store, object, stamped(index, 1))
    t.is(await call((done) => store.write(objects[5], stamped(5, 3), 0, MIB, 0, done)), MIB)
    t.is(await call((done) => store.syncVdi(1, done)), 0)
    // Space that is given back can be used at once
    store.remove(objects[0])
    store.remove(objects[1])
    await store.close()
    const again = await open(root)
    t.is(again.count, objects.length - 2)
    for (const object of again.all()) {
      const index = object.oid - dataOid(1, 0)
      await holds(t, again, object, stamped(index, index === 5 ? 3 : 1))
    }
    t.true(again.space().free > RESERVE)
    again.create(dataOid(3, 0), 1)
    await again.close()
  })
}
