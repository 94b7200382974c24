import fs from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import fc from 'fast-check'
import {
  encodeHead,
  encodeRecord,
  KIND_MESSAGE,
  type LogHead,
  LogReader,
  type LogRecord,
  readHead,
} from '../../../lib/cluster/local-log.js'

const nonce = Buffer.from('a1b2c3d4e5f60718', 'hex')

function withFile<T>(use: (fd: number) => T): T {
  const directory = fs.mkdtempSync(join(tmpdir(), 'sheep-log-'))
  const fd = fs.openSync(join(directory, 'log'), 'a+')
  try {
    return use(fd)
  } finally {
    fs.closeSync(fd)
    fs.rmSync(directory, { recursive: true })
  }
}

function record(number: number, payload: Buffer): LogRecord {
  return { kind: KIND_MESSAGE, sender: '0123456789abcdef', number, payload }
}

function all(reader: LogReader): LogRecord[] {
  const found: LogRecord[] = []
  for (let next = reader.next(); next !== null; next = reader.next()) found.push(next)
  return found
}

test('a head is read back; half a one is none', (t) => {
  const head: LogHead = { boot: 'b', generation: 7, nonce: nonce.toString('hex'), members: [['0123456789abcdef', 4]] }
  const bytes = encodeHead(head)
  withFile((fd) => {
    fs.writeSync(fd, bytes, 0, bytes.length - 1)
    t.is(readHead(fd), null)
    fs.writeSync(fd, bytes, bytes.length - 1)
    t.deepEqual(readHead(fd), { head, length: bytes.length })
  })
  withFile((fd) => {
    bytes[12] ^= 1
    fs.writeSync(fd, bytes)
    t.is(readHead(fd), null)
  })
})

test('a large record that was torn does not hold up the small ones behind it', (t) => {
  withFile((fd) => {
    const reader = new LogReader(fd, nonce, 0)
    const large = encodeRecord(nonce, record(1, Buffer.alloc(3_000_000, 1)))
    fs.writeSync(fd, large, 0, 100_000)
    t.deepEqual(all(reader), [], 'it may still be under way')
    fs.writeSync(fd, encodeRecord(nonce, record(2, Buffer.from('small'))))
    t.deepEqual(
      all(reader).map(({ number }) => number),
      [2],
    )
    fs.writeSync(fd, encodeRecord(nonce, record(3, Buffer.alloc(0))))
    t.deepEqual(
      all(reader).map(({ number }) => number),
      [3],
    )
  })
})

/** A record, a part of one, or noise. */
type Piece = { whole: Buffer } | { part: Buffer; keep: number } | { noise: Buffer }

const payload = fc.oneof(
  fc.uint8Array({ maxLength: 60 }),
  fc.uint8Array({ minLength: 1, maxLength: 40 }).map((bytes) => Buffer.concat(Array(4000).fill(Buffer.from(bytes)))),
)
const piece: fc.Arbitrary<Piece> = fc.oneof(
  { weight: 4, arbitrary: payload.map((bytes) => ({ whole: Buffer.from(bytes) })) },
  {
    weight: 2,
    arbitrary: fc.tuple(payload, fc.double({ min: 0, max: 0.999, noNaN: true })).map(([bytes, share]) => {
      const part = Buffer.from(bytes)
      return { part, keep: Math.floor((part.length + 40) * share) }
    }),
  },
  { weight: 1, arbitrary: fc.uint8Array({ maxLength: 50 }).map((bytes) => ({ noise: Buffer.from(bytes) })) },
)

test('whatever was torn between them, every reader finds the same whole records, whenever it looks', (t) => {
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 25 }), fc.array(fc.nat(200_000), { maxLength: 12 }), (pieces, cuts) => {
      const written: number[] = []
      const bytes = Buffer.concat(
        pieces.map((one, at) => {
          if ('noise' in one) return one.noise
          if ('part' in one) return encodeRecord(nonce, record(1000 + at, one.part)).subarray(0, one.keep)
          written.push(at)
          return encodeRecord(nonce, record(at, one.whole))
        }),
      )
      withFile((fd) => {
        const early = new LogReader(fd, nonce, 0)
        const seen: number[] = []
        let position = 0
        for (const cut of cuts.sort((a, b) => a - b)) {
          const end = Math.min(cut, bytes.length)
          fs.writeSync(fd, bytes, position, end - position)
          position = end
          seen.push(...all(early).map(({ number }) => number))
        }
        fs.writeSync(fd, bytes, position)
        seen.push(...all(early).map(({ number }) => number))
        const late = all(new LogReader(fd, nonce, 0))
        t.deepEqual(seen, written)
        t.deepEqual(
          late.map(({ number }) => number),
          written,
        )
        for (const { number, payload: read } of late) {
          t.true(read.equals((pieces[number] as { whole: Buffer }).whole))
        }
      })
    }),
    { numRuns: 300, seed: 7 },
  )
})
