/** The directory of volumes: what is refused, and how. One volume is there, `disk`, which another host writes. */
import test from 'ava'
import { Files } from '../../../lib/fuse/files.js'
import * as fuse from '../../../lib/fuse/protocol.js'
import { FuseError } from '../../../lib/fuse/session.js'
import { NODE, parts } from '../../fuzz/fuse.js'
import type { FakeClock } from '../vdi/world.js'

function ask(opcode: number, node: number, bytes: Buffer) {
  const given = parts()
  const files = new Files(given, null, () => {})
  const caller = { uid: 0, gid: 0, pid: 1 }
  const call = { opcode, node, bytes, at: 0, end: bytes.length, caller, unique: '0:1', again: false }
  return { clock: given.clock as FakeClock, answer: files.call(call) }
}

async function errnoOf(opcode: number, node: number, bytes: Buffer): Promise<number> {
  const { answer, clock } = ask(opcode, node, bytes)
  let ended = false
  const result = answer.then(
    () => 0,
    (error: unknown) => {
      if (error instanceof FuseError) return error.errno
      throw error
    },
  )
  result.then(
    () => {
      ended = true
    },
    () => {
      ended = true
    },
  )
  for (let turns = 0; !ended && turns < 1_000; turns++) {
    await new Promise((resolve) => setImmediate(resolve))
    clock.advance(100)
  }
  return result
}

const name = (text: string, before = 0) => Buffer.concat([Buffer.alloc(before), Buffer.from(`${text}\0`)])

test('names: who is there, who is not, who cannot be', async (t) => {
  t.is(await errnoOf(fuse.LOOKUP, fuse.ROOT, name('disk')), 0)
  t.is(await errnoOf(fuse.LOOKUP, fuse.ROOT, name('other')), fuse.ENOENT)
  t.is(await errnoOf(fuse.LOOKUP, fuse.ROOT, name('n'.repeat(256))), fuse.ENAMETOOLONG)
  t.is(await errnoOf(fuse.LOOKUP, fuse.ROOT, Buffer.from('no end')), fuse.EINVAL)
  t.is(await errnoOf(fuse.LOOKUP, NODE, name('disk')), fuse.ENOTDIR)
  t.is(await errnoOf(fuse.MKNOD, fuse.ROOT, name('disk', 16)), fuse.EEXIST)
  t.is(await errnoOf(fuse.MKNOD, fuse.ROOT, name('disk@', 16)), fuse.EINVAL)
  t.is(await errnoOf(fuse.MKDIR, fuse.ROOT, name('d', 8)), fuse.EPERM)
})

test('what another host writes is busy for a writer, and is opened to be read', async (t) => {
  const open = (flags: number) => {
    const bytes = Buffer.alloc(8)
    bytes.writeUInt32LE(flags, 0)
    return bytes
  }
  t.is(await errnoOf(fuse.OPEN, NODE, open(2)), fuse.EBUSY)
  t.is(await errnoOf(fuse.OPEN, NODE, open(0)), 0)
  t.is(await errnoOf(fuse.OPEN, NODE + 1, open(0)), fuse.ENOENT)
})

test('extended attributes: names that every object has are not there', async (t) => {
  for (const text of ['constructor', '__proto__', 'user.y']) {
    t.is(await errnoOf(fuse.GETXATTR, NODE, name(text, 8)), fuse.ENODATA)
  }
  t.is(await errnoOf(fuse.GETXATTR, NODE, name('user.x', 8)), 0)
})
