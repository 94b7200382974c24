import test from 'ava'
import fc from 'fast-check'
import { SheepError } from '../../../lib/errors.js'
import {
  checkShift,
  checkSize,
  decodeHeader,
  decodeIndex,
  encodeHeader,
  encodeIndex,
  entriesFor,
  entryPosition,
  INDEX_OFFSET,
  INODE_BYTES,
  type InodeHeader,
  MAX_ENTRIES,
  MAX_SIZE,
  putEntry,
  shiftForSize,
  usedEntries,
} from '../../../lib/vdi/inode.js'
import { checkName, checkTag } from '../../../lib/vdi/name.js'
import type { VdiEntry } from '../../../lib/vdi/types.js'

const header: InodeHeader = {
  name: 'vm-Ä',
  tag: 'before',
  createTime: 1_700_000_000_123,
  snapshotTime: 1_700_000_001_000,
  vmClock: 0x1122334455667788n,
  size: 10 * 2 ** 30,
  vmStateSize: 12345,
  copies: 3,
  blockSizeShift: 22,
  snapId: 7,
  vid: 0xabcdef,
  parent: 0x123456,
}

function valid(check: () => void): boolean {
  try {
    check()
    return true
  } catch {
    return false
  }
}

const name = fc.string({ unit: 'grapheme', minLength: 1, maxLength: 60 }).filter((s) => valid(() => checkName(s)))
const tag = fc.string({ unit: 'grapheme', maxLength: 60 }).filter((s) => s === '' || valid(() => checkTag(s)))
const time = fc.integer({ min: 0, max: 2 ** 32 * 1000 - 1 })
const headers: fc.Arbitrary<InodeHeader> = fc
  .record({
    name,
    tag,
    createTime: time,
    snapshotTime: time,
    vmClock: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    size: fc.integer({ min: 1, max: 2 ** 31 }).map((sectors) => sectors * 512),
    vmStateSize: fc.integer({ min: 0, max: 2 ** 40 }),
    copies: fc.integer({ min: 1, max: 31 }),
    blockSizeShift: fc.integer({ min: 20, max: 31 }),
    snapId: fc.integer({ min: 0, max: 0xffffffff }),
    vid: fc.integer({ min: 1, max: 0xffffff }),
    parent: fc.integer({ min: 0, max: 0xffffff }),
  })
  .filter((h) => h.parent !== h.vid)

test('the layout on disk, byte by byte', (t) => {
  const bytes = encodeHeader(header)
  t.is(bytes.length, 4664)
  t.is(bytes.toString('utf8', 0, 6), 'vm-Ä\0')
  t.is(bytes.toString('utf8', 256, 263), 'before\0')
  t.is(bytes.readUInt32LE(512), 123_000_000)
  t.is(bytes.readUInt32LE(516), 1_700_000_000)
  t.is(bytes.readUInt32LE(520), 0)
  t.is(bytes.readUInt32LE(524), 1_700_000_001)
  t.is(bytes.toString('hex', 528, 536), '8877665544332211')
  t.is(bytes.readBigUInt64LE(536), 10n * 2n ** 30n)
  t.is(bytes.readBigUInt64LE(544), 12345n)
  t.deepEqual([...bytes.subarray(552, 556)], [0, 0, 3, 22])
  t.is(bytes.readUInt32LE(556), 7)
  t.is(bytes.readUInt32LE(560), 0xabcdef)
  t.is(bytes.readUInt32LE(564), 0x123456)
  t.true(bytes.subarray(568).every((byte) => byte === 0))
  t.is(entryPosition(0), INDEX_OFFSET)
  t.is(entryPosition(MAX_ENTRIES), INODE_BYTES)
  t.is(INODE_BYTES, 4664 + 4 * 2 ** 20)
})

test('headers survive encoding', (t) => {
  fc.assert(fc.property(headers, (h) => t.deepEqual(decodeHeader(encodeHeader(h)), h)))
})

test("the registry's facts go over a header, the VM state's stay", (t) => {
  const bytes = encodeHeader(header)
  const entry = { ...header, name: 'new', tag: '', snapshotTime: 0, size: 4096 } as unknown as VdiEntry
  putEntry(bytes, entry)
  t.deepEqual(decodeHeader(bytes), { ...header, name: 'new', tag: '', snapshotTime: 0, size: 4096 })
})

test("a stranger's header is decoded or refused, whatever it is", (t) => {
  t.throws(() => decodeHeader(Buffer.alloc(4664)), { instanceOf: SheepError })
  t.throws(() => decodeHeader(encodeHeader(header).subarray(0, 567)), { instanceOf: SheepError })
  t.notThrows(() => decodeHeader(encodeHeader(header).subarray(0, 568)))
  const mutation = fc.array(fc.tuple(fc.integer({ min: 0, max: 567 }), fc.integer({ min: 0, max: 255 })), {
    maxLength: 8,
  })
  let refused = 0
  fc.assert(
    fc.property(headers, mutation, (h, mutations) => {
      const bytes = encodeHeader(h)
      for (const [at, value] of mutations) bytes[at] = value
      try {
        const decoded = decodeHeader(bytes)
        checkSize(decoded.size)
        checkShift(decoded.blockSizeShift)
        t.true(entriesFor(decoded.size, decoded.blockSizeShift) <= MAX_ENTRIES)
        t.true(decoded.vid > 0 && decoded.copies >= 1 && decoded.copies <= 31)
      } catch (error) {
        t.true(error instanceof SheepError && error.code !== 'system', String(error))
        refused++
      }
    }),
    { numRuns: 2000 },
  )
  t.true(refused > 100, `${refused} refused`)
})

const fields: [string, (bytes: Buffer) => void][] = [
  ['name', (b) => b.fill(0, 0, 256)],
  ['name with a slash', (b) => b.write('a/b\0')],
  ['unterminated name', (b) => b.fill('a', 0, 256)],
  ['tag that is a number', (b) => b.write('12\0', 256)],
  ['nanoseconds', (b) => b.writeUInt32LE(1e9, 512)],
  ['size 0', (b) => b.fill(0, 536, 544)],
  ['size that no object size fits', (b) => b.writeBigUInt64LE(2n ** 63n, 536)],
  ['size above the index', (b) => b.writeBigUInt64LE(2n ** 43n, 536)],
  ['size between sectors', (b) => b.writeBigUInt64LE(1000n, 536)],
  ['vm state size', (b) => b.writeBigUInt64LE(2n ** 63n, 544)],
  ['policy', (b) => b.writeUInt8(1, 552)],
  ['copies', (b) => b.writeUInt8(32, 554)],
  ['shift', (b) => b.writeUInt8(32, 555)],
  ['vid', (b) => b.writeUInt32LE(0, 560)],
  ['large vid', (b) => b.writeUInt32LE(0x1000000, 560)],
  ['itself as parent', (b) => b.writeUInt32LE(0xabcdef, 564)],
]
for (const [what, spoil] of fields) {
  test(`refused: ${what}`, (t) => {
    const bytes = encodeHeader(header)
    spoil(bytes)
    t.throws(() => decodeHeader(bytes), { instanceOf: SheepError })
  })
}

test('index slices survive encoding, at any alignment', (t) => {
  const slices = fc.uint32Array({ max: 0xffffff, maxLength: 200 })
  fc.assert(
    fc.property(slices, fc.integer({ min: 0, max: 3 }), (index, shift) => {
      const bytes = encodeIndex(index)
      if (index.length > 0) t.is(bytes.readUInt32LE(0), index[0])
      const moved = Buffer.alloc(bytes.length + shift)
      bytes.copy(moved, shift)
      t.deepEqual(decodeIndex(moved.subarray(shift)), index)
    }),
  )
})

test('an index entry that is no vid is damage', (t) => {
  const error = t.throws(() => decodeIndex(encodeIndex(Uint32Array.of(1, 2, 0x80000000))), { instanceOf: SheepError })
  t.regex(error.message, /entry 2/)
})

test('used entries', (t) => {
  t.is(usedEntries(new Uint32Array(10)), 0)
  t.is(usedEntries(Uint32Array.of(0, 5, 0, 0)), 2)
})

test('sizes and object sizes', (t) => {
  t.is(entriesFor(1, 22), 1)
  t.is(entriesFor(4 * 2 ** 20, 22), 1)
  t.is(entriesFor(4 * 2 ** 20 + 512, 22), 2)
  t.is(shiftForSize(512), 22)
  t.is(shiftForSize(4 * 2 ** 40), 22)
  t.is(shiftForSize(4 * 2 ** 40 + 512), 23)
  t.is(shiftForSize(16 * 2 ** 40), 24)
  t.is(shiftForSize(MAX_SIZE), 31)
  t.is(shiftForSize(2 ** 30, 20), 20)
  for (const size of [0, -512, 100, Number.NaN, Number.POSITIVE_INFINITY, '1', null, MAX_SIZE + 512]) {
    t.throws(() => checkSize(size), { instanceOf: SheepError }, String(size))
  }
  for (const shift of [11, 32, 22.5, '22', Number.NaN]) t.throws(() => checkShift(shift), { instanceOf: SheepError })
})
