import test from 'ava'
import { VERBS } from '../../../lib/control/verbs.js'
import { decode, encode, METHOD_CALL, METHOD_RETURN, variant } from '../../../lib/dbus/codec.js'
import { Facts } from '../../../lib/dbus/facts.js'
import { INTERFACES, introspection, STANDARD, signatureOf } from '../../../lib/dbus/interfaces.js'
import { managedObjects } from '../../../lib/dbus/managed.js'
import { lookUp, operationOf, options, toNumber } from '../../../lib/dbus/methods.js'
import { type BusObject, Objects } from '../../../lib/dbus/objects.js'
import { type ErrorCode, SheepError } from '../../../lib/errors.js'
import { FakeServices } from '../../support/fake-services.js'

function world(): { objects: Objects; of(face: string): BusObject } {
  const facts = new Facts(new FakeServices())
  const objects = new Objects()
  const { changed, removed } = facts.changes()
  objects.take(facts.cluster(), changed, removed)
  return { objects, of: (face) => [...objects.all()].find((object) => object.face === face)! }
}

const SAMPLES: Record<string, unknown> = {
  s: 'name',
  t: 4_096_000n,
  x: -1n,
  b: true,
  'a{sv}': {},
  o: `/org/sheepdog/nodes/${'1'.repeat(16)}`,
}

for (const [face, { methods }] of Object.entries(INTERFACES)) {
  for (const [member, { takes }] of Object.entries(methods)) {
    test(`${face}.${member} is a verb with the arguments that the verb wants`, (t) => {
      const { objects, of } = world()
      const args = takes.map(({ type }) => SAMPLES[type])
      if (member.startsWith('Find')) {
        t.is(t.throws(() => lookUp(objects, member, args), { instanceOf: SheepError })?.code, 'not-found')
        return
      }
      const operation = operationOf(of(face), member, args)!
      t.notThrows(() => VERBS[operation.verb].arguments(operation.arguments, 'arguments'))
      const reads = ['GetUsage', 'GetSpace', 'GetDisks'].includes(member)
      t.is(operation.action === '', reads, 'what changes something is asked of polkit')
    })
  }
}

test('every property of every object can be sent as the type that introspection says', (t) => {
  const { objects } = world()
  let properties = 0
  for (const { face, values } of objects.all()) {
    t.deepEqual(Object.keys(values).sort(), Object.keys(INTERFACES[face].properties).sort())
    for (const [name, value] of Object.entries(values)) {
      const body = [variant(INTERFACES[face].properties[name].type, value)]
      const bytes = encode(METHOD_CALL, { serial: 1, path: '/', member: 'M', signature: 'v', body })
      t.is(decode(bytes).unreadable, '', name)
      properties++
    }
  }
  t.true(properties > 40)
})

test('GetManagedObjects made of kept parts is what dbus-next makes of the whole', (t) => {
  const { objects } = world()
  const interfacesOf = ({ face, values }: BusObject): Record<string, unknown> => {
    const types = INTERFACES[face].properties
    return {
      [face]: Object.fromEntries(
        Object.entries(values).map(([name, value]) => [name, variant(types[name].type, value)]),
      ),
    }
  }
  const reply = { serial: 5, replySerial: 9, destination: ':1.7' }
  for (const count of [0, 1, 2, 100]) {
    const all = [...objects.all()].slice(0, count)
    const body = [Object.fromEntries(all.map((object) => [object.path, interfacesOf(object)]))]
    const whole = encode(METHOD_RETURN, { ...reply, signature: 'a{oa{sa{sv}}}', body })
    t.true(managedObjects(all, interfacesOf, reply).equals(whole), `${count} objects`)
    t.true(managedObjects(all, interfacesOf, reply).equals(whole), `${count} objects, kept`)
  }
})

test('what loses data is another action than what does not', (t) => {
  const { of } = world()
  const action = (face: string, member: string, ...args: unknown[]) => {
    return operationOf(of(`org.sheepdog.${face}`), member, args)?.action.replace('org.sheepdog.', '')
  }
  t.is(action('Volume', 'Resize', 4096n, false), 'manage-volumes')
  t.is(action('Volume', 'Resize', 4096n, true), 'delete-data')
  t.is(action('Volume', 'Delete'), 'delete-data')
  t.is(action('Snapshot', 'RollBack'), 'delete-data')
  t.is(action('Volume', 'BreakLock', '/n', 's'), 'break-locks')
  t.is(action('Cluster', 'Format', {}), 'manage-cluster')
  t.is(action('Cluster', 'Format', { Force: variant('b', true) }), 'delete-data')
})

test('how long requests wait without quorum: microseconds, of a volume as the cluster too', (t) => {
  const { of } = world()
  const set = (face: string, wait: bigint) => operationOf(of(`org.sheepdog.${face}`), 'SetOnNoQuorum', [wait])!
  t.like(set('Cluster', 0n), {
    verb: 'cluster.set',
    arguments: { onNoQuorum: 0 },
    action: 'org.sheepdog.manage-cluster',
  })
  t.like(set('Volume', 1_500_000n), { verb: 'vdi.set', arguments: { onNoQuorum: 1_500 } })
  t.like(set('Volume', -1n), { arguments: { onNoQuorum: null }, action: 'org.sheepdog.manage-volumes' })
  t.is(t.throws(() => set('Volume', 1_500n), { instanceOf: SheepError })?.code, 'invalid')
  const { verb, arguments: negative } = set('Volume', -2_000n)
  t.is(t.throws(() => VERBS[verb].arguments(negative, 'arguments'), { instanceOf: SheepError })?.code, 'invalid')
})

test('numbers beyond what JSON keeps are refused, not rounded', (t) => {
  t.is(toNumber(2n ** 53n - 1n, 'size'), Number.MAX_SAFE_INTEGER)
  for (const value of [2n ** 53n, 2n ** 64n - 1n]) {
    t.is(t.throws(() => toNumber(value, 'size'), { instanceOf: SheepError })?.code, 'too-big')
  }
})

test('options: known ones of the right type, ObjectSize a power of two', (t) => {
  const { of } = world()
  const create = (given: Record<string, unknown>) => {
    return operationOf(of('org.sheepdog.Cluster'), 'CreateVolume', ['a', 512n, given])!.arguments
  }
  t.deepEqual(
    create({ Copies: variant('u', 2), ObjectSize: variant('t', 1n << 21n), Preallocate: variant('b', true) }),
    {
      ...{ name: 'a', size: 512, copies: 2, blockSizeShift: 21, preallocate: true },
    },
  )
  const refused: [Record<string, unknown>, RegExp, ErrorCode][] = [
    [{ Colour: variant('s', 'red') }, /no option "Colour"/, 'invalid'],
    [{ Copies: variant('s', '2') }, /Copies is a number/, 'invalid'],
    [{ Preallocate: variant('u', 1) }, /Preallocate is a boolean/, 'invalid'],
    [{ ObjectSize: variant('t', 3n) }, /power of two/, 'invalid'],
    [{ ObjectSize: variant('t', 0n) }, /power of two/, 'invalid'],
    [{ Copies: variant('t', 2n ** 60n) }, /more than/, 'too-big'],
  ]
  for (const [given, pattern, code] of refused) {
    const error = t.throws(() => create(given), { instanceOf: SheepError })
    t.regex(error!.message, pattern)
    t.is(error!.code, code)
  }
  t.deepEqual(options({}, {}), {})
})

test('introspection names each member with its arguments, and the children', (t) => {
  const xml = introspection([...Object.keys(STANDARD), ...Object.keys(INTERFACES)], ['a_20b', '7'])
  for (const [name, { methods, properties, signals }] of Object.entries({ ...STANDARD, ...INTERFACES })) {
    t.true(xml.includes(`<interface name="${name}">`))
    for (const member of Object.keys(methods)) t.true(xml.includes(`<method name="${member}"`), member)
    for (const member of Object.keys(signals)) t.true(xml.includes(`<signal name="${member}"`), member)
    for (const [member, { type }] of Object.entries(properties)) {
      t.true(xml.includes(`<property name="${member}" type="${type}" access="read">`), member)
    }
  }
  t.regex(xml, /<node name="a_20b"\/>\n <node name="7"\/>/)
  t.is(signatureOf(INTERFACES['org.sheepdog.Cluster'].methods.CreateVolume.takes), 'sta{sv}')
})
