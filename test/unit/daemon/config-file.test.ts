/** sheepdog.conf: what it says, what goes before it, how its mistakes are told, and what a reload does with its changes. */
import test from 'ava'
import fc from 'fast-check'
import { CONFIG_KEYS } from '../../../daemon/config-file.js'
import { type HostFacts, parseOptions, type SheepOptions } from '../../../daemon/options.js'
import { reloaded } from '../../../daemon/reload.js'
import { SheepError } from '../../../lib/errors.js'

const facts: HostFacts = {
  hostname: 'host1',
  runtimeDirectory: '/run/sheepdog',
  directory: '/',
  systemBus: 'unix:path=/run/bus',
  sessionBus: 'unix:path=/run/user/bus',
  root: false,
  groupId: (name) => (name === 'disk' ? 6 : null),
}
const PATH = '/etc/sheepdog/sheepdog.conf'

function parse(text: string, words: readonly string[] = []): SheepOptions {
  const options = parseOptions(['--config', PATH, ...words], '1', facts, (path) => {
    if (path !== PATH) throw new Error(`another file was read: ${path}`)
    return text
  })
  if ('text' in options) throw new Error('help instead of options')
  return options
}

function refusal(text: string, words: readonly string[] = []): string {
  try {
    parse(text, words)
  } catch (error) {
    if (error instanceof SheepError) return `${error.message}; ${error.hint}`
    throw error
  }
  return ''
}

const EVERYTHING = `
# All keys.
store = /srv/a, /srv/b
cluster=corosync:fast
port = 7010
  bind = 10.0.0.5
myaddr = 10.1.0.5
zone = rack#1
gateway = no
nosync = yes
log-level = debug
log-dir = /var/log/sheep
pidfile = /run/sheep.pid
key = /etc/k
`

test('every option has a key', (t) => {
  const text = EVERYTHING
  const more = [
    ...['encrypt = yes', 'nbd-socket = /run/nbd', 'nbd-port = 10809', 'nbd-bind = 10.0.0.5', 'tls = /etc/tls'],
    ...[
      'tls-any-client = yes',
      'allow-plain = no',
      'corosync-bound = no',
      'dbus = none',
      'metrics = 9646',
      'volumes = none',
      'nbd-group = disk',
      'register-pool = no',
      'scrub-rate = 8M',
      'scrub-interval = 12h',
      'recovery-limit = 50M',
    ],
  ]
  t.deepEqual(parse(text + more.join('\n')), {
    stores: ['/srv/a', '/srv/b'],
    cluster: { engine: 'corosync', group: 'fast' },
    listen: { host: '10.0.0.5', port: 7010 },
    socket: '/srv/a/sock',
    address: { host: '10.1.0.5', port: 7010 },
    name: 'host1',
    zone: 'rack#1',
    gatewayOnly: false,
    sync: false,
    nbd: {
      socket: '/run/nbd',
      group: 6,
      tcp: { host: '10.0.0.5', port: 10809 },
      tls: '/etc/tls',
      anyClient: true,
      allowPlain: false,
    },
    service: false,
    dbus: null,
    volumes: null,
    metrics: { host: '127.0.0.1', port: 9646 },
    registerPool: false,
    foreground: false,
    logLevel: 'debug',
    logFile: '/var/log/sheep/sheep.log',
    pidFile: '/run/sheep.pid',
    keyFile: '/etc/k',
    encrypt: true,
    scrubRate: 8 << 20,
    scrubIntervalMs: 12 * 3_600_000,
    recoveryLimit: 50 << 20,
    configFile: PATH,
  })
  const said = new Set((text + more.join('\n')).split('\n').map((line) => line.split('=')[0].trim()))
  t.deepEqual(
    CONFIG_KEYS.filter((key) => !said.has(key)),
    ['no-key'],
  )
  t.is(parse('cluster = corosync\nno-key = yes').keyFile, '')
})

test('an empty file is as none', (t) => {
  const bare = parseOptions([], '1', facts)
  t.deepEqual(parse('# nothing\n\n'), { ...(bare as SheepOptions), configFile: PATH })
})

test('the command line goes before the file', (t) => {
  const text = 'store = /srv/a\nport = 7010\ncluster = corosync\nlog-level = debug'
  const options = parse(text, ['-p', '7020', '-l', 'warning', '-f', '/srv/b'])
  t.deepEqual(options.stores, ['/srv/b'])
  t.is(options.listen.port, 7020)
  t.is(options.logLevel, 'warning')
  t.is(options.cluster.engine, 'corosync')
  t.true(options.foreground)
  t.is(parse('cluster = corosync', ['--no-key']).keyFile, '')
})

const REFUSED: [string, RegExp][] = [
  ['port', /sheepdog.conf, line 1: "port" is no key = value; write one key = value a line/],
  ['\n# x\nprot = 7000', /sheepdog.conf, line 3: there is no key "prot"; keys are allow-plain, bind, cluster/],
  ['port = 7000\nport = 7001', /line 2: port is set in line 1 already/],
  ['key = /k\nno-key = yes', /line 2: no-key is set in line 1 already/],
  ['port =', /line 1: port has no value/],
  ['port = 70000', /line 1: port "70000" is no TCP port; use a number from 1 to 65535/],
  ['gateway = true', /line 1: gateway "true" is neither yes nor no; write yes or no/],
  ['cluster = etcd', /line 1: cluster "etcd" is no cluster engine; use local/],
  ['cluster = corosync:a/b', /line 1: cluster corosync:a\/b: no group name/],
  ['bind = 1.2.3.4/8', /line 1: bind .* is no address/],
  ['cluster = corosync\nmyaddr = 0.0.0.0', /line 2: myaddr 0.0.0.0 is no address that others can connect to/],
  ['zone = a b', /line 1: zone "a b" is no zone name/],
  ['log-level = loud', /line 1: log-level "loud" is no log level; use one of error/],
  ['scrub-rate = fast', /line 1: scrub-rate "fast" is no rate/],
  ['scrub-interval = often', /line 1: scrub-interval "often" is no interval/],
  ['recovery-limit = 1X', /line 1: recovery-limit "1X" is no limit/],
  ['nbd-bind = 10.0.0.5', /line 1: nbd-bind says where/],
  ['nbd-port = 7000', /line 1: nbd-port are both 7000/],
  ['tls-any-client = yes\nnbd-port = 10809', /line 1: tls-any-client says who may use TLS/],
  ['encrypt = yes', /line 1: encrypt needs the cluster's key/],
  ['store = /a,/a', /\/a is given twice/],
  ['metrics = :', /metrics "" is no TCP port/],
  ['[sheep]', /line 1: "\[sheep\]" is no key = value/],
  ['foreground = yes', /there is no key "foreground"/],
  ['corosync-bound = maybe', /line 1: corosync-bound "maybe" is neither yes nor no/],
  ['__proto__ = x', /there is no key "__proto__"/],
]
for (const [text, pattern] of REFUSED) {
  test(`refused: ${JSON.stringify(text)}`, (t) => {
    t.regex(refusal(text), pattern)
  })
}

test('a mistake on the command line is told as one', (t) => {
  t.regex(refusal('port = 7000', ['-p', '0']), /^-p "0" is no TCP port/)
})

test('any text is options or a SheepError', (t) => {
  const key = fc.oneof(fc.constantFrom(...CONFIG_KEYS), fc.string({ maxLength: 12 }))
  const value = fc.oneof(fc.constantFrom('yes', 'no', '7d', '8M', 'local', '/srv'), fc.nat().map(String), fc.string())
  const line = fc.oneof(
    fc.tuple(key, value).map(([name, said]) => `${name} = ${said}`),
    fc.string({ unit: 'binary' }),
  )
  fc.assert(
    fc.property(fc.array(line, { maxLength: 6 }), (lines) => {
      const said = refusal(lines.join('\n'))
      return said === '' || said.includes('; ')
    }),
    { numRuns: 2000 },
  )
  t.pass()
})

test('a reload: what changes, what waits, what stays', (t) => {
  const running = parse('log-level = info\nport = 7000\ncluster = corosync')
  const fresh = parse(
    'log-level = debug\nport = 7001\ncluster = corosync\nscrub-rate = 1M\nscrub-interval = never\n' +
      'recovery-limit = 5M\nencrypt = yes\nzone = r',
  )
  const { options, changed, waiting } = reloaded(running, fresh)
  t.deepEqual(changed, [
    'log-level is debug, was info',
    'scrub-rate is 1 MiB/s, was 32 MiB/s',
    'scrub-interval is never, was 168 h',
    'recovery-limit is 5 MiB/s, was none',
    'encrypt is yes, for connections made from now on, was no',
  ])
  t.deepEqual(waiting, ['port or bind', 'myaddr', 'zone'])
  t.is(options.logLevel, 'debug')
  t.is(options.listen.port, 7000)
  t.deepEqual(reloaded(running, running), { options: running, changed: [], waiting: [] })
})

test('every option changes at once or waits for a restart', (t) => {
  const running = parse('cluster = corosync')
  const dull = new Set(['name', 'foreground', 'configFile', 'socket', 'service'])
  for (const key of Object.keys(running) as (keyof SheepOptions)[]) {
    if (dull.has(key)) continue
    const value = running[key]
    const other = typeof value === 'boolean' ? !value : typeof value === 'number' ? value + 1 : 'else'
    const { changed, waiting } = reloaded(running, { ...running, [key]: other } as SheepOptions)
    t.is(changed.length + waiting.length, 1, key)
  }
})
