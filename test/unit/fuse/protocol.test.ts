import test from 'ava'
import fc from 'fast-check'
import * as fuse from '../../../lib/fuse/protocol.js'

test('numbers of 64 bits keep what fits, and what does not is beyond every file', (t) => {
  const bytes = Buffer.alloc(8)
  fc.assert(
    fc.property(fc.maxSafeInteger(), (value) => {
      const positive = Math.abs(value)
      fuse.putU64(bytes, 0, positive)
      return bytes.readBigUInt64LE() === BigInt(positive) && fuse.u64(bytes, 0) === positive
    }),
  )
  bytes.writeBigUInt64LE(0xffff_ffff_ffff_ffffn)
  t.is(fuse.u64(bytes, 0), Number.MAX_SAFE_INTEGER)
})

test('names end in NUL inside the message, and one that is no UTF-8 is nobody’s', (t) => {
  const bytes = Buffer.from('abc\0d\0tail')
  t.deepEqual(fuse.names(bytes, 0, bytes.length, 2), ['abc', 'd'])
  t.is(fuse.names(bytes, 0, bytes.length, 3), null)
  t.is(fuse.names(bytes, 0, 3, 1), null)
  t.deepEqual(fuse.names(Buffer.from([0xff, 0xfe, 0]), 0, 3, 1), [''])
})

test('INIT: what the kernel offers and what is asked for, in both words', (t) => {
  const bytes = Buffer.alloc(64)
  bytes.writeUInt32LE(7, 0)
  bytes.writeUInt32LE(41, 4)
  bytes.writeUInt32LE(131_072, 8)
  bytes.writeUInt32LE(((1 << fuse.INIT_INIT_EXT) | (1 << fuse.INIT_ASYNC_DIO)) >>> 0, 12)
  bytes.writeUInt32LE(1 << (fuse.INIT_HAS_RESEND - 32), 16)
  const init = fuse.decodeInit(bytes, 0, 64)
  t.is(init.major, 7)
  t.is(init.minor, 41)
  t.deepEqual([...init.flags].sort(), [fuse.INIT_ASYNC_DIO, fuse.INIT_INIT_EXT, fuse.INIT_HAS_RESEND].sort())
  t.false(fuse.decodeInit(bytes, 0, 16).flags.has(fuse.INIT_HAS_RESEND))
  const out = fuse.initOut(init, 64)
  t.is(out.length, 64)
  t.is(out.readUInt32LE(12), bytes.readUInt32LE(12))
  t.is(out.readUInt32LE(32), bytes.readUInt32LE(16))
  t.is(out.readUInt32LE(20), fuse.PAYLOAD_MAX)
  t.is(out.readUInt16LE(28) * 4096, fuse.PAYLOAD_MAX)
})

test('directory entries are aligned and as long as was said', (t) => {
  for (const name of ['a', 'volumes', 'x'.repeat(255)]) {
    const length = fuse.direntBytes(name.length, false)
    t.is(length % 8, 0)
    t.is(fuse.direntBytes(name.length, true), length + fuse.ENTRY_BYTES)
    const bytes = Buffer.alloc(length, 0xaa)
    fuse.putDirent(bytes, 0, 77, 5, Buffer.from(name), false)
    t.is(fuse.u64(bytes, 0), 77)
    t.is(fuse.u64(bytes, 8), 5)
    t.is(bytes.subarray(24, 24 + bytes.readUInt32LE(16)).toString(), name)
    t.true(bytes.subarray(24 + name.length).every((byte) => byte === 0))
  }
})

test('attributes are where linux/fuse.h has them', (t) => {
  const bytes = Buffer.alloc(fuse.ATTRIBUTES_BYTES)
  const mode = fuse.S_IFREG | 0o640
  fuse.putAttributes(bytes, 0, {
    node: 9,
    size: 1000,
    used: 4096,
    mtime: 1500.25,
    mode,
    uid: 7,
    gid: 8,
    blockSize: 1 << 20,
  })
  t.deepEqual(
    [0, 8, 16, 24, 32, 40].map((at) => fuse.u64(bytes, at)),
    [9, 1000, 8, 1, 1, 1],
  )
  t.deepEqual(
    [48, 52, 56, 60, 64, 68, 72, 80].map((at) => bytes.readUInt32LE(at)),
    [500_250_000, 500_250_000, 500_250_000, mode, 1, 7, 8, 1 << 20],
  )
})
