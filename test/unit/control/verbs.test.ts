/** What the verbs' argument checks let through, and what not: whatever JSON a stranger sends. */
import test from 'ava'
import fc from 'fast-check'
import { isVerb, VERBS, type Verb, volumeOpenRequest } from '../../../lib/control/verbs.js'
import { SheepError } from '../../../lib/errors.js'

const verbs = Object.keys(VERBS) as Verb[]

/** The checked arguments, or the error; anything but a SheepError escapes. */
function check(verb: Verb, given: unknown): object | SheepError {
  try {
    return VERBS[verb].arguments(given, verb)
  } catch (error) {
    if (error instanceof SheepError) return error
    throw error
  }
}

function refused(verb: Verb, given: unknown): string {
  const result = check(verb, given)
  return result instanceof SheepError ? `${result.code}: ${result.message} (${result.hint})` : ''
}

test('any JSON is refused with a usage error or becomes arguments of exactly the declared fields', (t) => {
  const names = [...new Set(verbs.flatMap((verb) => Object.keys(check(verb, example(verb)))))]
  const value = fc.oneof(fc.jsonValue(), fc.string({ unit: 'binary' }), fc.double(), fc.constant('disk'), fc.integer())
  const given = fc.oneof(fc.jsonValue(), fc.dictionary(fc.oneof(fc.constantFrom(...names), fc.string()), value))
  let accepted = 0
  fc.assert(
    fc.property(fc.constantFrom(...verbs), given, (verb, json) => {
      const result = check(verb, json)
      if (result instanceof SheepError) return ['invalid', 'too-big'].includes(result.code) && result.message !== ''
      accepted++
      const fields = Object.keys(check(verb, example(verb))).sort()
      return JSON.stringify(Object.keys(result).sort()) === JSON.stringify(fields)
    }),
    { numRuns: 5000 },
  )
  t.true(accepted > 50, `some of it must be valid for the test to mean anything: ${accepted}`)
})

/** Valid arguments of each verb, with nothing left out that is required. */
function example(verb: Verb): Record<string, unknown> {
  const given: Partial<Record<Verb, Record<string, unknown>>> = {
    'vdi.create': { name: 'disk', size: 1024 ** 3 },
    'vdi.snapshot': { name: 'disk', tag: 'monday' },
    'vdi.clone': { source: 'disk', snapshot: '3', name: 'copy' },
    'vdi.rollback': { name: 'disk', snapshot: 'monday' },
    'vdi.delete': { name: 'disk' },
    'vdi.resize': { name: 'disk', size: 512 },
    'vdi.rename': { name: 'disk', newName: 'other' },
    'vdi.check': { name: 'disk' },
    'vdi.locate': { name: 'disk' },
    'lock.break': { name: 'disk', holder: { node: '1'.repeat(16), session: 's' } },
    'lock.migrate': { name: 'disk', to: 'host2', seconds: 60 },
    'lock.cancel': { name: 'disk' },
    'lock.finish': { name: 'disk' },
    'cluster.acceptLost': { objects: ['00ab12ce00000003'] },
    'cluster.set': { onNoQuorum: 0 },
    'vdi.set': { name: 'disk', onNoQuorum: 5000 },
    'node.kill': { node: '1' },
    'node.drain': { node: '1' },
    'node.plug': { node: '', path: '/srv/disk3' },
    'node.unplug': { node: '1', disk: '/srv/disk3', force: false },
  }
  return given[verb] ?? {}
}

for (const verb of verbs) {
  test(`${verb} takes its example, and not with a field more`, (t) => {
    t.false(check(verb, example(verb)) instanceof SheepError, refused(verb, example(verb)))
    t.regex(refused(verb, { ...example(verb), surprise: 1 }), /^invalid: .*has no field "surprise"/)
    t.regex(refused(verb, []), /must be an object/)
  })
}

test('defaults stand for what is left out', (t) => {
  t.deepEqual(check('vdi.create', { name: 'a', size: 512 }), {
    ...{ name: 'a', size: 512, copies: 0, blockSizeShift: 0, preallocate: false, onNoQuorum: null },
  })
  t.deepEqual(check('vdi.locate', { name: 'a' }), { name: 'a', snapshot: '', index: -1 })
})

test('names: what a file name, NAME@TAG and the wire cannot carry is refused', (t) => {
  const bad = ['', '.', '..', 'a/b', 'a@b', 'a\0b', 'a\nb', '\ud800', 'ü'.repeat(128), 7, null, {}, ['a']]
  for (const name of bad) t.regex(refused('vdi.create', { name, size: 512 }), /^invalid/, JSON.stringify(name))
  for (const name of ['a', '...', ' ', '-r', '東京', 'ü'.repeat(127)]) {
    t.is(refused('vdi.create', { name, size: 512 }), '', name)
  }
})

test('sizes are whole sectors of a size that an inode can hold', (t) => {
  for (const size of [0, -512, 1, 513, 0.5, Number.NaN, Infinity, 2 ** 60, '1G', null]) {
    t.regex(refused('vdi.create', { name: 'a', size }), /^(invalid|too-big)/, String(size))
  }
})

test('a new tag is no number, since numbers are ids; a snapshot to look up may be', (t) => {
  t.regex(refused('vdi.snapshot', { name: 'a', tag: '12' }), /^invalid/)
  t.is(refused('vdi.rollback', { name: 'a', snapshot: '12' }), '')
  t.regex(refused('vdi.rollback', { name: 'a', snapshot: '' }), /^invalid/)
  t.is(refused('vdi.delete', { name: 'a', snapshot: '' }), '')
})

test('prototype tricks are fields like any other, and unknown', (t) => {
  for (const text of ['{"__proto__":{"name":"a"}}', '{"constructor":1}', '{"toString":1}']) {
    t.regex(refused('node.list', JSON.parse(text)), /has no field/, text)
  }
  for (const name of ['__proto__', 'constructor', 'toString', '', 3, null]) t.false(isVerb(name))
})

test('opening a volume', (t) => {
  t.deepEqual(volumeOpenRequest({ name: 'a' }, 'volume.open'), { name: 'a', snapshot: '', readOnly: false })
  t.throws(() => volumeOpenRequest({ name: 'a', readOnly: 1 }, 'volume.open'), { instanceOf: SheepError })
})
