/** What programs have open: handles that outlive the process, errors of the volume behind, what is refused before it. */
import test from 'ava'
import { SheepError } from '../../../lib/errors.js'
import { Files } from '../../../lib/fuse/files.js'
import { Handles } from '../../../lib/fuse/handles.js'
import { nodeOf } from '../../../lib/fuse/nodes.js'
import type { OpenFile } from '../../../lib/fuse/open-file.js'
import type { FilesParts } from '../../../lib/fuse/parts.js'
import * as fuse from '../../../lib/fuse/protocol.js'
import { FuseError } from '../../../lib/fuse/session.js'
import type { FileVolume, OpenRequest } from '../../../lib/gateway/types.js'
import type { Completion } from '../../../lib/host/interfaces.js'
import { completed } from '../../../lib/store/completed.js'
import type { Registry } from '../../../lib/vdi/registry.js'
import type { VdiEntry } from '../../../lib/vdi/types.js'
import { FakeClock } from '../vdi/world.js'

const file = { length: 5000, growing: false, mode: 0o644, uid: 0, gid: 0, mtime: 1, xattrs: {} }
const common = { name: 'disk', state: 'live', size: 8192, blockSizeShift: 22, createTime: 1, epoch: 1, parent: 0, file }
const DISK = { ...common, vid: 7, snapshotTime: 0, snapId: 2, tag: '' } as unknown as VdiEntry
const SNAPSHOT = { ...common, vid: 5, snapshotTime: 9, snapId: 1, tag: 'one' } as unknown as VdiEntry
const NODE = nodeOf(DISK)

/** A volume and its snapshot behind a gateway whose volumes end each transfer with what `results` says: the count by default. */
function world(handleBytes: Buffer = Buffer.alloc(0)) {
  const results: number[] = []
  const opened: string[] = []
  const refusals: SheepError[] = []
  let closed = 0
  const transfer = (length: number, done: Completion): void => done.complete(results.shift() ?? length)
  const open = async ({ snapshot, readOnly }: OpenRequest): Promise<FileVolume> => {
    const refusal = refusals.shift()
    if (refusal !== undefined) throw refusal
    opened.push(`${snapshot === '' ? 'disk' : 'snapshot'} ${readOnly ? 'r' : 'w'}`)
    return {
      entry: snapshot === '' ? DISK : SNAPSHOT,
      size: 8192,
      objectSize: 1 << 22,
      readOnly,
      onChange: null,
      read: (_bytes: Uint8Array, _at: number, length: number, _offset: number, done: Completion) =>
        transfer(length, done),
      write: (_bytes: Uint8Array, _at: number, length: number, _offset: number, _fua: boolean, done: Completion) =>
        transfer(length, done),
      flush: (done: Completion) => transfer(0, done),
      close: () => {
        closed++
        return Promise.resolve()
      },
    } as unknown as FileVolume
  }
  const entries = [DISK, SNAPSHOT]
  const refuse = (code: 'no-space' | 'busy') => () => Promise.reject(new SheepError(code, 'a refusal'))
  const clock = new FakeClock()
  const parts: FilesParts = {
    cluster: { status: 'running', propose: () => Promise.resolve(null) },
    registry: () =>
      ({
        size: 2,
        get: (vid: number) => entries.find((entry) => entry.vid === vid),
        all: () => entries,
        live: () => entries,
        find: (name: string, snapshot: string) =>
          entries.find((entry) => entry.name === name && entry.tag === snapshot),
      }) as unknown as Registry,
    volumes: { open },
    operations: {
      create: refuse('no-space'),
      snapshot: refuse('no-space'),
      delete: refuse('busy'),
      rename: refuse('busy'),
      setTag: refuse('busy'),
    },
    io: {} as FilesParts['io'],
    usage: (asked) => Promise.resolve(asked.map(() => 512)),
    space: () => Promise.resolve({ total: 1e9, free: 1e8 }),
    clock,
    log: () => {},
  }
  const stored = { bytes: handleBytes }
  const handleFile = {
    read: () => stored.bytes,
    write: (position: number, bytes: Buffer) => {
      const end = position + bytes.length
      if (end > stored.bytes.length) stored.bytes = Buffer.concat([stored.bytes, Buffer.alloc(end)]).subarray(0, end)
      bytes.copy(stored.bytes, position)
    },
  }
  const files = new Files(parts, handleFile, () => {})
  const ask = async (opcode: number, node: number, bytes: Buffer, again = false, unique = '0:1'): Promise<Buffer> => {
    const caller = { uid: 0, gid: 0, pid: 1 }
    return files.call({ opcode, node, bytes, at: 0, end: bytes.length, caller, unique, again })
  }
  const errnoOf = async (opcode: number, node: number, bytes: Buffer): Promise<number> => {
    try {
      await ask(opcode, node, bytes)
      return 0
    } catch (error) {
      if (error instanceof FuseError || error instanceof SheepError) return error.errno
      throw error
    }
  }
  return { files, ask, errnoOf, results, opened, refusals, stored, closed: () => closed }
}

function flagsOf(flags: number): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeUInt32LE(flags, 0)
  return bytes
}

function handleOf(number: number, length = 24): Buffer {
  const bytes = Buffer.alloc(length)
  fuse.putU64(bytes, 0, number)
  return bytes
}

const name = (text: string, before = 0) => Buffer.concat([Buffer.alloc(before), Buffer.from(`${text}\0`)])
const RDWR = 2

function transfer(open: OpenFile, writes: boolean, length = 512): Promise<number> {
  const bytes = Buffer.alloc(length)
  return completed((done) => (writes ? open.write(bytes, 0, length, 0, done) : open.read(bytes, 0, length, 0, done)))
}

test('what a volume answers is what the program is told: EIO, ENOSPC', async (t) => {
  const { files, ask, results, errnoOf, closed } = world()
  const handle = fuse.u64(await ask(fuse.OPEN, NODE, flagsOf(RDWR)), 0)
  const open = files.file(handle, NODE, true) as OpenFile
  results.push(-fuse.EIO, -fuse.ENOSPC, 512, -fuse.EIO)
  t.is(await transfer(open, false), -fuse.EIO)
  t.is(await transfer(open, true), -fuse.ENOSPC)
  t.is(await transfer(open, true), 512)
  t.is(await errnoOf(fuse.FSYNC, NODE, handleOf(handle)), fuse.EIO)
  t.is(await errnoOf(fuse.FSYNC, NODE, handleOf(handle)), 0)
  await ask(fuse.RELEASE, NODE, handleOf(handle))
  t.is(closed(), 1)
  t.is(files.file(handle, NODE, false), null)
  t.is(await errnoOf(fuse.FSYNC, NODE, handleOf(handle)), fuse.EBADF)
})

test('a reader writes nothing; a snapshot is opened by no writer, and read without a lock until then', async (t) => {
  const { files, ask, errnoOf, opened } = world()
  const handle = fuse.u64(await ask(fuse.OPEN, NODE, flagsOf(0)), 0)
  t.deepEqual(opened, [])
  t.is(files.file(handle, NODE, true), null)
  t.is(files.file(handle, nodeOf(SNAPSHOT), false), null)
  t.is(await errnoOf(fuse.OPEN, nodeOf(SNAPSHOT), flagsOf(RDWR)), fuse.EROFS)
  const of = fuse.u64(await ask(fuse.OPEN, nodeOf(SNAPSHOT), flagsOf(0)), 0)
  const open = files.file(of, nodeOf(SNAPSHOT), false) as OpenFile
  t.is(await transfer(open, false), -fuse.ESHUTDOWN)
  t.is(await open.prepare(false), 0)
  t.is(await transfer(open, false), 512)
  t.deepEqual(opened, ['snapshot r'])
})

test('creating, renaming and deleting that the cluster refuses', async (t) => {
  const { errnoOf } = world()
  t.is(await errnoOf(fuse.MKNOD, fuse.ROOT, name('new', 16)), fuse.ENOSPC)
  t.is(await errnoOf(fuse.MKNOD, fuse.ROOT, name('disk@two', 16)), fuse.ENOSPC)
  t.is(await errnoOf(fuse.UNLINK, fuse.ROOT, name('disk')), fuse.EBUSY)
  const rename = (from: string, to: string) => Buffer.concat([handleOf(fuse.ROOT, 8), name(from), name(to)])
  t.is(await errnoOf(fuse.RENAME, fuse.ROOT, rename('disk', 'other')), fuse.EBUSY)
  t.is(await errnoOf(fuse.RENAME, fuse.ROOT, rename('none', 'other')), fuse.ENOENT)
  t.is(await errnoOf(fuse.RENAME, fuse.ROOT, rename('disk@one', 'other')), fuse.EINVAL)
  t.is(await errnoOf(fuse.RENAME, fuse.ROOT, rename('disk', 'n'.repeat(256))), fuse.ENAMETOOLONG)
})

test('the next process: handles stay, the first request opens the volume again, a repeated open makes no second one', async (t) => {
  const before = world()
  const handle = fuse.u64(await before.ask(fuse.OPEN, NODE, flagsOf(RDWR), false, '0:41'), 0)
  const next = world(before.stored.bytes)
  const open = next.files.file(handle, NODE, true) as OpenFile
  t.is(await transfer(open, true), -fuse.ESHUTDOWN)
  t.is(await open.prepare(true), 0)
  t.deepEqual(next.opened, ['disk w'])
  t.is(await transfer(open, true), 512)
  t.is(fuse.u64(await next.ask(fuse.OPEN, NODE, flagsOf(RDWR), true, '0:41'), 0), handle)
  await next.ask(fuse.RELEASE, NODE, handleOf(handle))
  t.is(next.closed(), 1)
  t.deepEqual(new Handles({ read: () => next.stored.bytes, write: () => {} }).all(), [])
})

test('a volume that another host has taken meanwhile is EIO for who had it open', async (t) => {
  const before = world()
  const handle = fuse.u64(await before.ask(fuse.OPEN, NODE, flagsOf(RDWR)), 0)
  const next = world(before.stored.bytes)
  next.refusals.push(new SheepError('locked', 'another host writes it'))
  const open = next.files.file(handle, NODE, true) as OpenFile
  t.is(await open.prepare(true), fuse.EIO)
})
