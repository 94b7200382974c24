import test from 'ava'
import fc from 'fast-check'
import {
  encodeRequest,
  encodeResponse,
  FLAG_WRITE,
  HEADER_LENGTH,
  MAX_PAYLOAD,
  OP,
  putU16,
  putU32,
  putU64,
  requestPayloadLength,
  u16,
  u32,
  u64,
} from '../../../lib/protocol/header.js'
import {
  dataOid,
  highWord,
  indexOf,
  inodeOid,
  KIND_ATTRIBUTE,
  KIND_DATA,
  KIND_INODE,
  KIND_VM_STATE,
  kindOf,
  lowWord,
  MAX_INDEX,
  MAX_VID,
  oidFromHex,
  oidFromWords,
  oidToHex,
  vidOf,
  vmStateOid,
} from '../../../lib/vdi/oid.js'

const word = fc.oneof(
  fc.nat(0xffffffff),
  fc.constantFrom(0, 1, 0x7f, 0x80, 0xff, 0x8000, 0x7fffffff, 0x80000000, 0xffffffff),
)
const vids = fc.oneof(fc.integer({ min: 1, max: MAX_VID }), fc.constantFrom(1, MAX_VID))
const indexes = fc.oneof(fc.nat(MAX_INDEX), fc.constantFrom(0, MAX_INDEX))

test('integers come back from where they were put, and touch nothing beside it', (t) => {
  fc.assert(
    fc.property(word, fc.nat(16), fc.nat(255), (value, at, fill) => {
      const put16 = new Uint8Array(32).fill(fill)
      putU16(put16, at, value)
      t.is(u16(put16, at), value & 0xffff)
      const put32 = new Uint8Array(32).fill(fill)
      putU32(put32, at, value)
      t.is(u32(put32, at), value)
      t.is(Buffer.from(put32).readUInt32LE(at), value)
      for (let i = 0; i < 32; i++) if (i < at || i >= at + 4) t.is(put32[i], fill)
    }),
  )
})

test('a 64-bit field holds every safe integer, and says -1 for what is none', (t) => {
  fc.assert(
    fc.property(fc.maxSafeNat(), fc.nat(8), (value, at) => {
      const bytes = Buffer.alloc(24)
      putU64(bytes, at, value)
      t.is(u64(bytes, at), value)
      t.is(bytes.readBigUInt64LE(at), BigInt(value))
    }),
  )
  fc.assert(
    fc.property(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), (value) => {
      const bytes = Buffer.alloc(8)
      bytes.writeBigUInt64LE(value)
      t.is(u64(bytes, 0), value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : -1)
    }),
  )
})

test('a request header has its fields where the protocol puts them, and zeros elsewhere', (t) => {
  fc.assert(
    fc.property(fc.nat(255), fc.nat(0xffff), word, word, word, (opcode, flags, epoch, id, length) => {
      const bytes = Buffer.alloc(HEADER_LENGTH + 8, 0xee)
      encodeRequest(bytes, 4, opcode, flags, epoch, id, length)
      t.is(bytes[4], 2)
      t.is(bytes[5], opcode)
      t.is(bytes.readUInt16LE(6), flags)
      t.is(bytes.readUInt32LE(8), epoch)
      t.is(bytes.readUInt32LE(12), id)
      t.is(bytes.readUInt32LE(16), length)
      t.true(bytes.subarray(20, 4 + HEADER_LENGTH).every((byte) => byte === 0))
      t.true(bytes.subarray(0, 4).every((byte) => byte === 0xee))
      t.true(bytes.subarray(4 + HEADER_LENGTH).every((byte) => byte === 0xee))
      t.is(requestPayloadLength(bytes, 4), (flags & FLAG_WRITE) !== 0 ? length : 0)
    }),
  )
})

test('a response carries its result at 16', (t) => {
  fc.assert(
    fc.property(word, word, word, (id, result, length) => {
      const bytes = Buffer.alloc(HEADER_LENGTH)
      encodeResponse(bytes, 0, OP.READ_OBJ, id, result, length)
      t.is(u32(bytes, 8), id)
      t.is(u32(bytes, 12), length)
      t.is(u32(bytes, 16), result)
    }),
  )
})

test("a payload length that a stranger writes is taken as it is: the limit is the reader's to check", (t) => {
  const bytes = Buffer.alloc(HEADER_LENGTH, 0xff)
  t.is(requestPayloadLength(bytes, 0), 0xffffffff)
  t.true(requestPayloadLength(bytes, 0) > MAX_PAYLOAD)
})

test('opcodes differ', (t) => {
  const codes = Object.values(OP)
  t.is(new Set(codes).size, codes.length)
})

test('oids name what they were made of, on the wire and in a file name', (t) => {
  fc.assert(
    fc.property(vids, indexes, (vid, index) => {
      for (const [oid, kind, flags] of [
        [dataOid(vid, index), KIND_DATA, 0],
        [inodeOid(vid), KIND_INODE, 0x80000000],
        [vmStateOid(vid, index), KIND_VM_STATE, 0x40000000],
      ]) {
        t.true(Number.isSafeInteger(oid))
        t.is(kindOf(oid), kind)
        t.is(vidOf(oid), vid)
        t.is(indexOf(oid), kind === KIND_INODE ? 0 : index)
        t.is(highWord(oid), (flags | vid) >>> 0)
        t.is(oidFromWords(highWord(oid), lowWord(oid)), oid)
        t.is(oidToHex(oid).length, 16)
        t.is(oidFromHex(oidToHex(oid)), oid)
      }
    }),
  )
})

test('words that are no oid are -1; those that are come back', (t) => {
  fc.assert(
    fc.property(word, word, (high, low) => {
      const oid = oidFromWords(high, low)
      const flags = high >>> 24
      const inodeWithIndex = flags === 0x80 && low !== 0
      const valid =
        [0, 0x80, 0x40, 0x20].includes(flags) && (high & 0xffffff) !== 0 && low <= MAX_INDEX && !inodeWithIndex
      t.is(oid >= 0, valid)
      if (valid) {
        t.is(highWord(oid), high)
        t.is(lowWord(oid), low)
        t.true(kindOf(oid) <= KIND_ATTRIBUTE)
      }
    }),
    { numRuns: 1000 },
  )
})

test('a file name is an oid only in its one form', (t) => {
  const name = oidToHex(dataOid(0xabcdef, 7))
  t.is(oidFromHex(name), dataOid(0xabcdef, 7))
  for (const other of [name.toUpperCase(), ` ${name}`, `${name}0`, name.slice(1), `0x${name.slice(2)}`, '']) {
    t.is(oidFromHex(other), -1, other)
  }
  fc.assert(
    fc.property(fc.string(), (text) => {
      const oid = oidFromHex(text)
      if (oid >= 0) t.is(oidToHex(oid), text)
    }),
  )
})
