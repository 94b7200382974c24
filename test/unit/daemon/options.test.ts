/** The command line of sheep, as values and as refusals. */
import test from 'ava'
import fc from 'fast-check'
import { type HostFacts, parseOptions, type SheepOptions } from '../../../daemon/options.js'
import { SheepError } from '../../../lib/errors.js'

const facts: HostFacts = {
  hostname: 'host1',
  runtimeDirectory: '/run/sheepdog',
  systemBus: 'unix:path=/run/dbus/system_bus_socket',
  sessionBus: 'unix:abstract=/tmp/dbus-x,guid=12',
  directory: '/here',
  root: true,
  groupId: (name) => ({ kvm: 107, disk: 6 })[name] ?? null,
}

function parse(line: string): SheepOptions {
  const options = parseOptions(
    line.split(' ').filter((word) => word !== ''),
    '1.2.3',
    facts,
  )
  if ('text' in options) throw new Error(`help instead of options: ${line}`)
  return options
}

function refusal(line: string): string {
  try {
    parse(line)
  } catch (error) {
    if (error instanceof SheepError) return `${error.exitCode} ${error.message}; ${error.hint}`
    throw error
  }
  return ''
}

test('one host, nothing said', (t) => {
  t.deepEqual(parse('store'), {
    stores: ['/here/store'],
    cluster: { engine: 'local', directory: '/run/sheepdog/local' },
    listen: { host: '127.0.0.1', port: 7000 },
    socket: '/here/store/sock',
    address: { host: '127.0.0.1', port: 7000 },
    name: 'host1',
    zone: '',
    gatewayOnly: false,
    service: false,
    sync: true,
    nbd: { socket: '/here/store/nbd.sock', group: 107, tcp: null, tls: null, anyClient: false, allowPlain: false },
    dbus: null,
    metrics: null,
    registerPool: false,
    volumes: null,
    foreground: false,
    logLevel: 'info',
    logFile: '/here/store/sheep.log',
    pidFile: '',
    keyFile: '',
    encrypt: false,
    scrubRate: 32 << 20,
    scrubIntervalMs: 7 * 86_400_000,
    recoveryLimit: 0,
    configFile: '',
  })
  t.deepEqual(parse('').stores, ['/var/lib/sheepdog'])
})

test('everything said', (t) => {
  const line =
    '-c local:engine -p 7010 -b 10.0.0.5 -y 10.1.0.5 -z rack1 -g -f -l level=debug,dir=/var/log/sheep -P run/pid -n ' +
    '--nbd-socket /run/nbd --nbd-port 10809 --nbd-bind 10.0.0.5 --tls certs --tls-any-client --allow-plain ' +
    '--dbus session --nbd-group disk --register-pool --key secret --encrypt --scrub-rate 8M --scrub-interval 12h ' +
    '--recovery-limit 50M /srv/store'
  t.deepEqual(parse(line), {
    stores: ['/srv/store'],
    cluster: { engine: 'local', directory: '/here/engine' },
    listen: { host: '10.0.0.5', port: 7010 },
    socket: '/srv/store/sock',
    address: { host: '10.1.0.5', port: 7010 },
    name: 'host1',
    zone: 'rack1',
    gatewayOnly: true,
    service: false,
    sync: false,
    volumes: null,
    nbd: {
      socket: '/run/nbd',
      group: 6,
      tcp: { host: '10.0.0.5', port: 10809 },
      tls: '/here/certs',
      anyClient: true,
      allowPlain: true,
    },
    dbus: { socket: '\0/tmp/dbus-x', bus: 'session' },
    metrics: null,
    registerPool: true,
    foreground: true,
    logLevel: 'debug',
    logFile: '/var/log/sheep/sheep.log',
    pidFile: '/here/run/pid',
    keyFile: '/here/secret',
    encrypt: true,
    scrubRate: 8 << 20,
    scrubIntervalMs: 12 * 3_600_000,
    recoveryLimit: 50 << 20,
    configFile: '',
  })
})

test('addresses: what others are told can be reached', (t) => {
  t.is(parse('-c corosync s').listen.host, '0.0.0.0')
  t.is(parse('-c corosync s').address.host, '', "corosync's is asked for when the node starts")
  t.is(parse('-c corosync -b 10.0.0.5 s').address.host, '10.0.0.5')
  t.is(parse('-b 10.0.0.5 --no-key s').address.host, '10.0.0.5')
  t.is(parse('-b :: -y [2001:db8::7] --no-key s').address.host, '2001:db8::7')
  t.is(parse('-b 0.0.0.0 --no-key s').address.host, '127.0.0.1', 'local members are on this host')
  t.regex(refusal('-y 0.0.0.0 s'), /^2 .*others can connect to/)
})

test('engines', (t) => {
  t.deepEqual(parse('s').cluster, { engine: 'local', directory: '/run/sheepdog/local' })
  t.deepEqual(parse('-c local:d s').cluster, { engine: 'local', directory: '/here/d' })
  t.deepEqual(parse('-c corosync s').cluster, { engine: 'corosync', group: 'sheepdog' })
  t.deepEqual(parse('-c corosync:fast s').cluster, { engine: 'corosync', group: 'fast' })
})

test('metrics: a port of loopback, an address of it, a socket', (t) => {
  const place = (text: string) => parse(`--metrics ${text}`).metrics
  t.deepEqual(place('9646'), { host: '127.0.0.1', port: 9646 })
  t.deepEqual(place('[::1]:9646'), { host: '::1', port: 9646 })
  t.deepEqual(place('/run/metrics.sock'), { socket: '/run/metrics.sock', group: null })
  t.is(place('none'), null)
})

test('as the service of its host: with local what is the default with corosync', (t) => {
  const { volumes, registerPool, dbus, listen, cluster } = parse('--service')
  t.deepEqual(
    [volumes, registerPool, dbus?.bus],
    [{ place: '/var/lib/sheepdog/volumes', asked: false }, true, 'system'],
  )
  t.deepEqual([cluster.engine, listen.host], ['local', '127.0.0.1'])
  t.is(parse('--service --volumes none').volumes, null)
})

test('D-Bus: the system bus with corosync, none with the local engine, any that is said', (t) => {
  const system = { socket: '/run/dbus/system_bus_socket', bus: 'system' }
  t.deepEqual(parse('-c corosync s').dbus, system)
  t.is(parse('-c corosync --dbus none s').dbus, null)
  t.is(parse('s').dbus, null)
  t.deepEqual(parse('--dbus system s').dbus, system)
  const bus = 'tcp:host=h,port=1;unix:path=/tmp/a%2cb,guid=12'
  t.deepEqual(parse(`--dbus ${bus} s`).dbus, { socket: '/tmp/a,b', bus })
})

test('who has a key: with corosync all, on one host who says so, unless it can be reached from elsewhere', (t) => {
  t.is(parse('s').keyFile, '')
  t.is(parse('--key k s').keyFile, '/here/k')
  t.is(parse('-b 10.0.0.5 --key k s').keyFile, '/here/k')
  t.is(parse('-c corosync s').keyFile, '/etc/sheepdog/cluster.key')
  t.is(parse('-c corosync --key k s').keyFile, '/here/k')
  t.is(parse('-c corosync --no-key s').keyFile, '')
  t.true(parse('-c corosync --encrypt s').encrypt)
})

const REFUSED: [string, RegExp][] = [
  ['--frobnicate s', /unknown option '--frobnicate'.*--help/],
  ['a b', /too many arguments/],
  ['-c zookeeper s', /"zookeeper" is no cluster engine; use local/],
  ['-c local: s', /needs a path/],
  ['-c corosync: s', /no group name/],
  ['-c corosync:a/b s', /no group name/],
  ['--dbus tcp:host=h,port=1 s', /no address of a D-Bus.*system, session, none/],
  ['--dbus unix:path=relative s', /no address of a D-Bus/],
  ['--metrics 10.0.0.5:9646 s', /anyone on that network could read them/],
  ['--metrics 0.0.0.0:9646 s', /anyone on that network/],
  ['--metrics many s', /--metrics/],
  [`--dbus unix:path=/${'x'.repeat(110)} s`, /too long for a Unix socket.*--dbus/],
  ['-p 0 s', /-p "0" is no TCP port/],
  ['-p 65536 s', /-p "65536"/],
  ['-p 7e3 s', /-p "7e3"/],
  ['-p', /argument missing/],
  ['-b 1.2.3.4/8 s', /is no address/],
  ['-b 1.2.3.4,5 s', /is no address/],
  ['-l loud s', /"loud" is no log level; use one of error, warning/],
  ['-l format=json s', /no setting "format"/],
  ['-l level= s', /"" is no log level/],
  [`-z ${'z'.repeat(65)} s`, /no zone name/],
  ['-b 10.0.0.5 s', /on 10.0.0.5 without a key anyone.*--no-key/],
  ['--encrypt s', /--encrypt needs the cluster's key/],
  ['-c corosync --no-key --encrypt s', /--encrypt needs the cluster's key/],
  ['--scrub-rate 0 s', /--scrub-rate "0" is no rate/],
  ['--scrub-rate fast s', /--scrub-rate "fast" is no rate; .*32M/],
  ['--scrub-interval 7 s', /--scrub-interval "7" is no interval.*never/],
  ['--scrub-interval 0d s', /--scrub-interval "0d" is no interval/],
  ['--recovery-limit 0 s', /--recovery-limit "0" is no limit.*none/],
  ['--nbd-bind 127.0.0.1 s', /--nbd-port is missing/],
  ['--nbd-port 7000 s', /both 7000/],
  ['--nbd-port 10809 --nbd-bind 0.0.0.0 s', /without TLS.*--tls DIR/],
  ['--nbd-port 10809 --tls-any-client s', /--tls is missing/],
  [`s/${'x'.repeat(100)}`, /too long for a Unix socket.*shorter path for the store/],
  [`--nbd-socket ${'x'.repeat(110)} s`, /too long for a Unix socket.*--nbd-socket/],
]
for (const [line, pattern] of REFUSED) {
  test(`refused: sheep ${line.length > 60 ? `${line.slice(0, 60)}...` : line}`, (t) => {
    t.regex(refusal(line), /^2 /)
    t.regex(refusal(line), pattern)
  })
}

test('a directory for each disk, and no directory twice', (t) => {
  const options = parse('a,/b,c/')
  t.deepEqual(options.stores, ['/here/a', '/b', '/here/c'])
  t.is(options.socket, '/here/a/sock')
  t.is(options.logFile, '/here/a/sheep.log')
  t.regex(refusal('a,b,/here/a'), /\/here\/a is given twice/)
  t.regex(refusal('a,,b'), /DIR needs a path/)
  t.regex(refusal(Array.from({ length: 65 }, (_, i) => `d${i}`).join()), /65 directories were given, at most 64/)
})

test('NBD over TCP: loopback needs nothing, elsewhere TLS or a word', (t) => {
  t.deepEqual(parse('--nbd-port 10809 s').nbd.tcp, { host: '127.0.0.1', port: 10809 })
  for (const host of ['localhost', '127.8.0.1', '[::1]']) t.is(refusal(`--nbd-port 1 --nbd-bind ${host} s`), '', host)
  for (const host of ['10.0.0.1', '::', '127.0.0.1.example.org', '2001:db8::1']) {
    t.regex(refusal(`--nbd-port 1 --nbd-bind ${host} s`), /without TLS/, host)
    t.is(refusal(`--nbd-port 1 --nbd-bind ${host} --allow-plain s`), '', host)
    t.is(refusal(`--nbd-port 1 --nbd-bind ${host} --tls d s`), '', host)
  }
})

test('help and version are text', (t) => {
  const help = parseOptions(['--help'], '1.2.3', facts)
  t.true('text' in help && /Usage: sheep.*DIR/.test(help.text) && /Examples:/.test(help.text))
  t.deepEqual(parseOptions(['-v'], '1.2.3', facts), { text: '1.2.3\n' })
})

test('any words are options or a SheepError', (t) => {
  const known = fc.constantFrom(
    '-p',
    '-c',
    '-l',
    '-z',
    '-b',
    '-y',
    '--nbd-port',
    '--tls',
    '--tls-any-client',
    '-f',
    '-n',
    '-P',
    '--',
    'local:',
  )
  const word = fc.oneof(known, fc.string(), fc.string({ unit: 'binary' }), fc.nat().map(String))
  let parsed = 0
  fc.assert(
    fc.property(fc.array(word, { maxLength: 8 }), (words) => {
      try {
        const options = parseOptions(words, '1', facts)
        if (!('text' in options)) {
          parsed++
          if (!options.stores.every((store) => store.startsWith('/')) || !Number.isInteger(options.listen.port))
            return false
        }
        return true
      } catch (error) {
        return error instanceof SheepError && error.message !== '' && error.hint !== ''
      }
    }),
    { numRuns: 2000 },
  )
  t.true(parsed > 20, `${parsed} parsed`)
})

test('who may connect to the NBD socket, and whether libvirt is told of the volumes', (t) => {
  const user = { ...facts, root: false }
  const parsed = parseOptions(['store'], '1.2.3', user)
  t.is('text' in parsed ? 0 : parsed.nbd.group, null, 'who is not root gives files to no group of others')
  t.regex(refusal('--nbd-group nobody-has-it store'), /^2 .*no such group/)
  t.true(parse('-c corosync store').registerPool)
  t.false(parse('-c corosync --no-register-pool store').registerPool)
})
