import test from 'ava'
import fc from 'fast-check'
import { busSocket } from '../../../lib/dbus/address.js'
import { errorName, pathElement, snapshotPath, volumePath } from '../../../lib/dbus/names.js'
import { ERRORS, type ErrorCode, SheepError } from '../../../lib/errors.js'

test('any text is an element of an object path, and no two texts are the same', (t) => {
  const text = fc.oneof(
    fc.string({ unit: 'binary' }),
    fc.string(),
    fc.constantFrom('', '_', '_5f', '1', '_31', 'a/b', '.'),
  )
  fc.assert(
    fc.property(text, text, (a, b) => {
      t.regex(pathElement(a), /^[A-Za-z0-9_]+$/)
      const equal = Buffer.from(a).equals(Buffer.from(b))
      return (pathElement(a) === pathElement(b)) === equal
    }),
  )
})

test('elements are those of sd_bus_path_encode', (t) => {
  t.is(pathElement(''), '_')
  t.is(pathElement('web1'), 'web1')
  t.is(pathElement('1web'), '_31web')
  t.is(pathElement('foo.bar-baz_x'), 'foo_2ebar_2dbaz_5fx')
  t.is(volumePath('büro'), '/org/sheepdog/volumes/b_c3_bcro')
  t.is(snapshotPath('büro', 3), '/org/sheepdog/snapshots/b_c3_bcro/3')
})

test('each error has a name of its own that D-Bus allows', (t) => {
  const names = Object.keys(ERRORS).map((code) => errorName(code as ErrorCode))
  t.is(new Set(names).size, names.length)
  for (const name of names) t.regex(name, /^org\.sheepdog\.Error\.[A-Z][A-Za-z]*$/)
  t.is(errorName('not-found'), 'org.sheepdog.Error.NotFound')
})

test('addresses of a bus: the first that is a Unix socket', (t) => {
  t.is(busSocket('unix:path=/run/bus'), '/run/bus')
  t.is(busSocket('unix:abstract=/tmp/x,guid=0123'), '\0/tmp/x')
  t.is(busSocket('tcp:host=a,port=1;unix:path=/run/b%20us;unix:path=/other'), '/run/b us')
  for (const bad of ['', 'unix', 'unix:', 'unix:path=bus', 'unix:tmpdir=/tmp', 'tcp:host=a,port=1', '/run/bus']) {
    t.is(t.throws(() => busSocket(bad), { instanceOf: SheepError })?.code, 'invalid', bad)
  }
  fc.assert(
    fc.property(fc.string(), (text) => {
      try {
        return busSocket(text).length > 0
      } catch (error) {
        return error instanceof SheepError
      }
    }),
  )
})
