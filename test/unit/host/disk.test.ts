import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { InvariantError } from '../../../lib/assert.js'
import { RealDisk } from '../../../lib/host/disk.js'
import { type Completion, DiskError } from '../../../lib/host/interfaces.js'

const MIB = 1 << 20

function directory(t: ExecutionContext, parent = os.tmpdir()): string {
  const root = fs.mkdtempSync(path.join(parent, 'sheep-disk-'))
  t.teardown(() => fs.rmSync(root, { recursive: true }))
  return root
}

const call = (start: (done: Completion) => void) => new Promise<number>((resolve) => start({ complete: resolve }))

function errnoOf(t: ExecutionContext, what: () => unknown): number {
  return t.throws(what, { instanceOf: DiskError })!.errno
}

/** The file systems at hand: that of the temporary directory, and a tmpfs, which lacks fallocate's zero mode and NOWAIT. */
for (const parent of [os.tmpdir(), '/dev/shm']) {
  test(`data on ${parent}`, async (t) => {
    const disk = new RealDisk(directory(t, parent))
    const fd = disk.open('file', 'create-new')
    const bytes = Buffer.from('....some bytes....')
    t.is(await call((done) => disk.write(fd, bytes, 4, 10, MIB, done)), 10)
    t.is(disk.size(fd), MIB + 10)
    const buffer = Buffer.alloc(20, 0xee)
    t.is(await call((done) => disk.read(fd, buffer, 3, 10, MIB, done)), 10)
    t.is(buffer.toString('latin1', 3, 13), 'some bytes')
    t.is(buffer[2], 0xee)
    t.is(buffer[13], 0xee)
    t.is(await call((done) => disk.read(fd, buffer, 0, 20, MIB + 5, done)), 5, 'the end of the file')
    t.is(await call((done) => disk.read(fd, buffer, 0, 20, 2 * MIB, done)), 0)
    const hole = Buffer.alloc(MIB, 0xee)
    t.is(await call((done) => disk.read(fd, hole, 0, MIB, 0, done)), MIB)
    t.true(hole.equals(Buffer.alloc(MIB)))
    t.deepEqual(disk.extents(fd, 0, 4 * MIB), [{ offset: MIB, length: 10 }])
    t.is(await call((done) => disk.sync(fd, done)), 0)
    t.is(await call((done) => disk.syncDirectory('', done)), 0)
    disk.close(fd)
  })

  test(`holes, zeros and reservations on ${parent}`, async (t) => {
    const disk = new RealDisk(directory(t, parent))
    const fd = disk.open('file', 'create')
    const bytes = Buffer.alloc(3 * MIB, 7)
    t.is(await call((done) => disk.write(fd, bytes, 0, bytes.length, 0, done)), bytes.length)
    await call((done) => disk.sync(fd, done))
    t.true(disk.usedBytes(fd) >= 3 * MIB)
    t.is(await call((done) => disk.punch(fd, MIB, MIB, done)), 0)
    t.deepEqual(disk.extents(fd, 0, 4 * MIB), [
      { offset: 0, length: MIB },
      { offset: 2 * MIB, length: MIB },
    ])
    t.true(disk.usedBytes(fd) < 2.5 * MIB)
    t.is(await call((done) => disk.zero(fd, 100, 1000, done)), 0)
    t.is(await call((done) => disk.zero(fd, 2 * MIB + MIB / 2, 2 * MIB, done)), 0)
    t.is(disk.size(fd), 4.5 * MIB, 'zeroing past the end grows the file')
    t.is(await call((done) => disk.allocate(fd, 0, 6 * MIB, done)), 0)
    t.is(disk.size(fd), 6 * MIB)
    t.true(disk.usedBytes(fd) >= 5 * MIB)
    const all = Buffer.alloc(6 * MIB, 0xee)
    t.is(await call((done) => disk.read(fd, all, 0, all.length, 0, done)), all.length)
    const expected = Buffer.alloc(6 * MIB)
    expected.fill(7, 0, MIB).fill(7, 2 * MIB, 2.5 * MIB)
    expected.fill(0, 100, 1100)
    t.true(all.equals(expected))
    disk.close(fd)
  })
}

test('what is not in the page cache is read without stopping the event loop', async (t) => {
  const root = directory(t)
  const disk = new RealDisk(root)
  // Holes have no pages until they are read: as cold as a file can be without emptying the cache of the whole machine.
  fs.writeFileSync(path.join(root, 'cold'), '')
  fs.truncateSync(path.join(root, 'cold'), MIB)
  const fd = disk.open('cold', 'read')
  const buffer = Buffer.alloc(4096, 0xee)
  let turns = 0
  const first = call((done) => disk.read(fd, buffer, 0, 4096, 65536, done)).then(() => turns)
  setImmediate(() => turns++)
  t.true((await first) >= 0)
  t.true(buffer.equals(Buffer.alloc(4096)))
  let result = -1
  disk.read(fd, buffer, 0, 4096, 65536, {
    complete: (value) => {
      result = value
    },
  })
  t.is(result, 4096, 'what is cached is read inline')
  disk.close(fd)
})

test('a buffer is not left: ranges outside it are a bug, not memory', (t) => {
  const disk = new RealDisk(directory(t))
  const fd = disk.open('file', 'create')
  const done = { complete() {} }
  const pool = Buffer.alloc(64).subarray(8, 24)
  for (const [offset, length] of [
    [0, 17],
    [16, 1],
    [-1, 4],
  ]) {
    t.throws(() => disk.read(fd, pool, offset, length, 0, done), { instanceOf: RangeError }, `${offset} ${length}`)
  }
  disk.close(fd)
})

test('errors are DiskErrors with their number, or negative results', async (t) => {
  const root = directory(t)
  const disk = new RealDisk(root)
  t.is(
    errnoOf(t, () => disk.open('missing', 'read')),
    2,
  )
  t.is(
    errnoOf(t, () => disk.open('missing/file', 'create')),
    2,
  )
  t.is(
    errnoOf(t, () => disk.unlink('missing')),
    2,
  )
  t.is(
    errnoOf(t, () => disk.rename('missing', 'other')),
    2,
  )
  fs.writeFileSync(path.join(root, 'file'), 'x')
  t.is(
    errnoOf(t, () => disk.open('file', 'create-new')),
    17,
  )
  t.is(
    errnoOf(t, () => disk.makeDirectory('file')),
    17,
  )
  t.is(
    errnoOf(t, () => disk.list('file')),
    20,
  )
  t.is(
    errnoOf(t, () => disk.close(99999)),
    9,
  )
  t.is(
    errnoOf(t, () => disk.size(99999)),
    9,
  )
  t.is(
    errnoOf(t, () => disk.extents(99999, 0, 10)),
    9,
  )
  const fd = disk.open('file', 'read')
  t.is(await call((done) => disk.write(fd, Buffer.alloc(4), 0, 4, 0, done)), -9)
  t.is(await call((done) => disk.read(99999, Buffer.alloc(4), 0, 4, 0, done)), -9)
  t.is(await call((done) => disk.punch(fd, 0, 4096, done)), -9)
  t.is(await call((done) => disk.sync(99999, done)), -9)
  t.is(await call((done) => disk.syncDirectory('missing', done)), -2)
  disk.close(fd)
  for (const name of ['/etc/passwd', '../file', 'a/../../b', 'a\0b']) {
    t.throws(() => disk.exists(name), { instanceOf: InvariantError })
  }
})

test('small files: absent, replaced whole', (t) => {
  const root = directory(t)
  const disk = new RealDisk(root)
  t.is(disk.readFile('config'), null)
  disk.writeFileAtomic('config', 'first, and long')
  disk.writeFileAtomic('config', 'second')
  t.is(disk.readFile('config')!.toString(), 'second')
  t.deepEqual(fs.readdirSync(root), ['config'])
  t.deepEqual(disk.list('none'), [])
  t.true(disk.exists('config'))
  t.false(disk.exists('none'))
  disk.makeDirectory('sub')
  disk.makeDirectory('sub')
  disk.rename('config', 'sub/config')
  t.deepEqual(disk.list('sub'), ['config'])
  const { total, free } = disk.space()
  t.true(free > 0 && free < total)
  t.is(
    errnoOf(t, () => disk.writeFileAtomic('none/config', '')),
    2,
  )
})

test('what the process may open, and which boot this is', (t) => {
  const disk = new RealDisk(directory(t))
  const shell = execFileSync('sh', ['-c', 'ulimit -n'], { encoding: 'utf8' }).trim()
  t.is(String(disk.openFilesMax ?? 'unlimited'), shell, 'inherited by the child')
  t.regex(disk.bootId, /^[0-9a-f-]{36}$/)
  t.is(new RealDisk(disk.root).bootId, disk.bootId)
})

test('calls of a slow disk go through the pool until it is quick again', async (t) => {
  const root = directory(t)
  const disk = new RealDisk(root)
  const fd = disk.open('file', 'create')
  const buffer = Buffer.alloc(4096, 1)
  const inline = (): boolean => {
    let ended = false
    disk.write(fd, buffer, 0, 4096, 0, {
      complete: () => {
        ended = true
      },
    })
    return ended
  }
  const patient = () => call((done) => disk.write(fd, buffer, 0, 4096, 0, done))
  for (let i = 0; i < 200 && !inline(); i++) await patient()
  t.true(inline(), 'inline while the disk is quick')
  // A write of this size takes longer than a client may wait.
  const huge = Buffer.alloc(64 * MIB)
  t.is(await call((done) => disk.write(fd, huge, 0, huge.length, 0, done)), huge.length)
  t.false(inline(), 'that was slow')
  let turns = 0
  for (; turns < 2000 && !inline(); turns++) await patient()
  t.true(turns > 5, 'not quick again at once')
  t.true(turns < 2000, 'quick again')
  disk.truncate(fd, 0)
  await new Promise((resolve) => setTimeout(resolve, 20))
  disk.close(fd)
})
