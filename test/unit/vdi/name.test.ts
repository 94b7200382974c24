import test from 'ava'
import fc from 'fast-check'
import { SheepError } from '../../../lib/errors.js'
import { checkName, checkTag, parseReference, quoted, snapIdOf, textFromField, vidHash } from '../../../lib/vdi/name.js'

const good = ['a', 'vm-1.root', 'Größe', '磁盘', 'a b', '...', '-x', 'x'.repeat(255), 'é'.repeat(127), '🐑'.repeat(63)]
const bad = [
  '',
  '.',
  '..',
  'a/b',
  'a@b',
  'a\0',
  'a\nb',
  '\t',
  '\x7f',
  '\x85',
  '\u2028',
  '\ud800',
  'x'.repeat(256),
  'é'.repeat(128),
]

test('names: what is allowed and what is not', (t) => {
  for (const name of good) t.notThrows(() => checkName(name), name)
  for (const name of [...bad, null, 7, {}, undefined]) {
    const error = t.throws(() => checkName(name), { instanceOf: SheepError }, quoted(name))
    t.is(error.code, 'invalid')
    t.regex(error.hint, /1 to 255 bytes of UTF-8/)
    t.notRegex(error.message, /[\n\0]/)
  }
})

test('tags: as names, but no numbers', (t) => {
  for (const tag of [...good, '1a', 'v1', '-1', '1.0']) t.notThrows(() => checkTag(tag))
  for (const tag of [...bad, '1', '007', '99999999999999'])
    t.throws(() => checkTag(tag), { instanceOf: SheepError }, quoted(tag))
})

test('NAME, NAME@TAG, NAME@ID', (t) => {
  t.deepEqual(parseReference('vm'), { name: 'vm', snapshot: '' })
  t.deepEqual(parseReference('vm@before upgrade'), { name: 'vm', snapshot: 'before upgrade' })
  t.deepEqual(parseReference('vm@17'), { name: 'vm', snapshot: '17' })
  for (const text of ['', '@', 'vm@', '@tag', 'vm@a@b', 'vm@0', 'vm@4294967296', 'vm@/', 'a/b@c']) {
    t.throws(() => parseReference(text), { instanceOf: SheepError }, quoted(text))
  }
  t.deepEqual([snapIdOf('4294967295'), snapIdOf('4294967296'), snapIdOf('x'), snapIdOf('')], [4294967295, 0, 0, 0])
})

test('any valid name and tag come back from their reference', (t) => {
  const text = fc.string({ unit: 'grapheme', minLength: 1, maxLength: 20 })
  fc.assert(
    fc.property(text, text, (name, tag) => {
      try {
        checkName(name)
        checkTag(tag)
      } catch {
        return
      }
      t.deepEqual(parseReference(`${name}@${tag}`), { name, snapshot: tag })
      const field = Buffer.alloc(256)
      field.write(name)
      t.is(textFromField(field), name)
    }),
  )
})

test('a name field from a stranger is text or an error', (t) => {
  t.is(textFromField(Buffer.from('abc\0junk')), 'abc')
  t.is(textFromField(Buffer.alloc(256)), '')
  t.throws(() => textFromField(Buffer.alloc(256, 'a')), { instanceOf: SheepError })
  t.throws(() => textFromField(Buffer.from([0xff, 0xfe, 0])), { instanceOf: SheepError })
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
      try {
        t.is(typeof textFromField(bytes), 'string')
      } catch (error) {
        t.true(error instanceof SheepError)
      }
    }),
  )
})

test('the vid hash is the lower 24 bits of 64-bit FNV-1a', (t) => {
  const plain = (name: string) => {
    let h = 0xcbf29ce484222325n
    for (const byte of Buffer.from(name)) h = ((h ^ BigInt(byte)) * 0x100000001b3n) & 0xffffffffffffffffn
    return Number(h & 0xffffffn)
  }
  // 64-bit FNV-1a of "foobar" is 85944171f73967e8 (Fowler, Noll, Vo: test vectors)
  t.is(vidHash('foobar'), 0x3967e8)
  fc.assert(fc.property(fc.string({ unit: 'binary', maxLength: 80 }), (name) => t.is(vidHash(name), plain(name))))
})
