/**
 * What the command line of `sheep` says, checked once and made explicit: everything after this file works with values
 * that are complete and valid.
 */
import { readFileSync } from 'node:fs'
import { hostname as osHostname } from 'node:os'
import { join, resolve } from 'node:path'
import { Command, CommanderError } from 'commander'
import { busSocket, SYSTEM_BUS } from '../lib/dbus/address.js'
import { parseSize } from '../lib/dog/size.js'
import { SheepError } from '../lib/errors.js'
import { isLoopback } from '../lib/host/address.js'
import { CLUSTER_KEY_PATH } from '../lib/host/cluster-key.js'
import type { LogLevel } from '../lib/host/interfaces.js'
import { LOG_LEVELS } from '../lib/host/log.js'
import { POOL_PATH } from '../lib/libvirt/domain-xml.js'
import type { MetricsPlace } from '../lib/metrics/server.js'
import { SCRUB_DEFAULT } from '../lib/node/scrub.js'
import { type Label, type RawOptions, rawFromFile } from './config-file.js'
import { GROUP } from './group.js'

export const DEFAULT_PORT = 7000
/** The process group of corosync in which daemons find each other */
export const DEFAULT_GROUP = 'sheepdog'
export const DEFAULT_STORE = '/var/lib/sheepdog'
export const DISKS_MAX = 64
/** QEMU's user is in it wherever libvirt is installed (Debian: libvirt-qemu, Fedora: qemu) */
const QEMU_GROUP = 'kvm'

/** sockaddr_un.sun_path is 108 bytes with its final NUL (unix(7)). */
const SOCKET_PATH_BYTES_MAX = 107

export interface TcpAddress {
  /** An IP address or host name, without brackets */
  host: string
  port: number
}

export type ClusterChoice =
  /** Daemons on one host that find each other in `directory` (absolute) */
  { engine: 'local'; directory: string } | { engine: 'corosync'; group: string }

export interface NbdOptions {
  /** Absolute path */
  socket: string
  /** Group id: its members may connect to `socket`; null the daemon's user alone */
  group: number | null
  /** null: no TCP */
  tcp: TcpAddress | null
  /** Directory with server-cert.pem, server-key.pem, ca-cert.pem; null: no TLS */
  tls: string | null
  /** With TLS, clients need no certificate signed by ca-cert.pem: it hides what passes, and lets anyone in */
  anyClient: boolean
  /** TCP beyond loopback may be used without TLS */
  allowPlain: boolean
}

export interface DbusOptions {
  /** Socket of the bus; an abstract one begins with a NUL */
  socket: string
  /** For people: system, session or its address */
  bus: string
}

export interface SheepOptions {
  /** A directory for each disk, absolute. Created when missing. The first holds the sockets and the log by default */
  stores: string[]
  cluster: ClusterChoice
  /** Control, peers and legacy clients over TCP */
  listen: TcpAddress
  /** The same listener on a Unix socket, absolute path */
  socket: string
  /** What other members connect to; host '': this host's address in corosync.conf */
  address: TcpAddress
  /** For people: this host's name */
  name: string
  /** Failure domain; '' is the engine's default (the host; local engine: the node) */
  zone: string
  /** Offers no disk space */
  gatewayOnly: boolean
  /** The host's one daemon, as sheepdog.service starts it. With the local engine and a new store it makes a cluster of itself */
  service: boolean
  /** False: nothing is synced to disk, power loss loses data */
  sync: boolean
  nbd: NbdOptions
  /** D-Bus on which the daemon serves org.sheepdog; null: none */
  dbus: DbusOptions | null
  /** Where Prometheus may read; null: nowhere, and nothing is measured for it */
  metrics: MetricsPlace | null
  /** Keeps the volumes' directory a storage pool of libvirt, where that is installed */
  registerPool: boolean
  /** Directory in which volumes are files, absolute; null none. `asked`: without it the daemon shall not start */
  volumes: { place: string; asked: boolean } | null
  foreground: boolean
  logLevel: LogLevel
  /** Where the log goes when not in the foreground, absolute */
  logFile: string
  /** '' none */
  pidFile: string
  /** The cluster's key; '': whoever can connect may */
  keyFile: string
  /** Connections to daemons of other hosts */
  encrypt: boolean
  /** Bytes a second that the scrub reads at most */
  scrubRate: number
  /** From the beginning of one pass to the next; 0: none begins by itself */
  scrubIntervalMs: number
  /** Bytes a second that this node recovers at most; 0 none. The cluster may set a lower one */
  recoveryLimit: number
  /** Where else options came from; '' nowhere */
  configFile: string
}

/** What of the host decides a default. */
export interface HostFacts {
  hostname: string
  /** Where sockets of running programs belong */
  runtimeDirectory: string
  directory: string
  /** Where the environment says that D-Bus listens */
  systemBus: string
  sessionBus: string
  root: boolean
  /** null: there is no such group */
  groupId(name: string): number | null
}

export function hostFacts(): HostFacts {
  const user = process.getuid?.() ?? 0
  const runtimeDirectory =
    user === 0 ? '/run/sheepdog' : join(process.env.XDG_RUNTIME_DIR ?? `/tmp/sheepdog-${user}`, 'sheepdog')
  const { DBUS_SYSTEM_BUS_ADDRESS, DBUS_SESSION_BUS_ADDRESS, XDG_RUNTIME_DIR = `/run/user/${user}` } = process.env
  return {
    ...{ hostname: osHostname(), runtimeDirectory, directory: process.cwd() },
    systemBus: DBUS_SYSTEM_BUS_ADDRESS || SYSTEM_BUS,
    sessionBus: DBUS_SESSION_BUS_ADDRESS || `unix:path=${XDG_RUNTIME_DIR}/bus`,
    root: user === 0,
    groupId,
  }
}

/** group(5). Groups of packages are there, whatever else the host asks for names. */
function groupId(name: string): number | null {
  const line = readFileSync('/etc/group', 'utf8')
    .split('\n')
    .find((one) => one.startsWith(`${name}:`))
  return line === undefined ? null : Number(line.split(':')[2])
}

/** `--help` and `--version`: text for stdout, and nothing else to do. */
export interface OptionsText {
  text: string
}

/**
 * @param words the command line without the program's name
 * @param read the text of a configuration file; throws SheepError
 * @throws SheepError invalid, unsupported
 */
export function parseOptions(
  words: string[],
  version: string,
  facts: HostFacts,
  read: (path: string) => string = () => '',
): SheepOptions | OptionsText {
  let text = ''
  const command = sheepCommand(version)
    .exitOverride()
    .configureOutput({
      writeOut: (part) => {
        text += part
      },
      writeErr: () => {},
    })
  try {
    command.parse(words, { from: 'user' })
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error
    if (error.exitCode === 0) return { text }
    throw invalid(error.message.replace(/^error: /, ''))
  }
  const given = command.opts<RawOptions & { config?: string }>()
  const typed: RawOptions = { ...given, store: command.args[0] }
  if (given.config === undefined) return checked(typed, (_key, option) => option, facts, '')
  const path = pathOf(given.config, '--config', facts)
  const file = rawFromFile(read(path), path)
  const isTyped = (key: keyof RawOptions): boolean => typed[key] !== undefined
  const raw = { ...file.raw, ...Object.fromEntries(Object.entries(typed).filter(([, value]) => value !== undefined)) }
  return checked(raw, (key, option) => (isTyped(key) ? option : (file.labels.get(key) ?? option)), facts, path)
}

export function sheepCommand(version: string): Command {
  return new Command('sheep')
    .description(
      'Serve store directories of this host, one for each disk, as part of a Sheepdog cluster.\n' +
        'Without -f it goes to the background and returns once it serves, or says what it waits for.',
    )
    .usage('[options] [DIR[,DIR...]]')
    .argument('[DIRS]', `this host's disks: directories, made when missing (default: ${DEFAULT_STORE})`)
    .allowExcessArguments(false)
    .option('--config <FILE>', 'more options, one KEY = VALUE a line (usual: /etc/sheepdog/sheepdog.conf)')
    .option('-c, --cluster <ENGINE>', 'local[:DIR] or corosync[:GROUP] (default: local)')
    .option('-p, --port <PORT>', `TCP port for dog, peers and clients (default: ${DEFAULT_PORT})`)
    .option('-b, --bind <ADDRESS>', 'listen on this address (default: 127.0.0.1 with local, else all)')
    .option('-y, --myaddr <ADDRESS>', 'address that other members use to reach this one')
    .option('-z, --zone <ZONE>', 'failure domain: copies go to different zones (default: this host)')
    .option('-g, --gateway', 'keep no objects here, only serve clients')
    .option('-f, --foreground', 'stay in the foreground, log to stderr')
    .option(
      '--service',
      "this host's own daemon, as sheepdog.service starts it: what is the default with corosync is so with local, " +
        'and a new store becomes a cluster of this host alone, with 1 copy',
    )
    .option('-l, --log <SETTINGS>', 'level=error|warning|notice|info|debug, dir=DIR, separated by commas')
    .option('-P, --pidfile <FILE>', "write the daemon's process id there")
    .option('-n, --nosync', 'never sync to disk: faster, and a power loss loses data')
    .option('--key <FILE>', `the cluster's key, which peers prove (default: none with local, else ${CLUSTER_KEY_PATH})`)
    .option('--no-key', 'let anyone in who can reach the port')
    .option('--encrypt', 'encrypt what goes to daemons of other hosts')
    .option('--nbd-socket <PATH>', 'Unix socket of the NBD server (default: DIR/nbd.sock)')
    .option('--nbd-group <GROUP>', `group that may connect to it (default: ${QEMU_GROUP}, which QEMU is in)`)
    .option('--nbd-port <PORT>', 'serve NBD over TCP too, on this port (usual: 10809)')
    .option('--nbd-bind <ADDRESS>', 'address for NBD over TCP (default: 127.0.0.1)')
    .option(
      '--volumes <DIR>',
      `mount the volumes there as files, or none (default with corosync or --service: ${POOL_PATH})`,
    )
    .option('--tls <DIR>', 'TLS for NBD over TCP: DIR has server-cert.pem, server-key.pem, ca-cert.pem')
    .option('--tls-any-client', 'let TLS clients in that show no certificate signed by ca-cert.pem')
    .option('--allow-plain', 'let NBD over TCP leave this host without TLS')
    .option(
      '--dbus <BUS>',
      'D-Bus: system, session, none or its address (default: system with corosync or --service, else none)',
    )
    .option(
      '--register-pool',
      "make the volumes a storage pool of this host's libvirt (default with corosync or --service)",
    )
    .option(
      '--metrics <WHERE>',
      'for Prometheus: a port of 127.0.0.1, ADDRESS:PORT of loopback, or a socket (usual: 9646)',
    )
    .option('--no-register-pool', 'leave libvirt alone')
    .option('--scrub-rate <RATE>', 'bytes a second that the scrub reads at most (default: 32M)')
    .option('--scrub-interval <TIME>', 'how often all is scrubbed: 12h, 7d, 4w, or never (default: 7d)')
    .option('--recovery-limit <RATE>', 'bytes a second that this node recovers at most (default: none)')
    .version(version, '-v, --version', 'print the version')
    .helpOption('-h, --help', 'print this help')
    .addHelpText('after', EXAMPLES)
}

const EXAMPLES = `
Examples:
  sheep /srv/sheepdog                              one daemon on this host
  sheep /srv/disk1,/srv/disk2                      two disks; when one fails the daemon goes on with the other
  sheep -p 7001 /srv/sheepdog1                     a second one beside it; they find each other
  sheep -z rack1 -l level=debug /srv/sheepdog      name the failure domain, log more
  sheep --nbd-port 10809 /srv/sheepdog             NBD over TCP for clients of this host
  sheep --volumes /mnt/volumes /srv/sheepdog       each volume a file, each snapshot a read-only file NAME@TAG

Each disk needs a file system of its own. Sockets and log are in the first DIR (--nbd-socket, -l dir=DIR move them).
dog node md info shows the disks, dog node md plug and unplug add and remove some while the daemon runs.

Then: dog cluster format -c 1    (once), dog vdi create NAME SIZE, dog node list
`

function checked(raw: RawOptions, label: Label, facts: HostFacts, configFile: string): SheepOptions {
  const stores = storesOf(raw.store ?? DEFAULT_STORE, label('store', 'DIR'), facts)
  const [store] = stores
  const cluster = clusterOf(raw.cluster ?? 'local', label('cluster', '-c'), facts)
  const port = raw.port === undefined ? DEFAULT_PORT : portOf(raw.port, label('port', '-p'))
  const bind = addressOf(raw.bind ?? (cluster.engine === 'local' ? '127.0.0.1' : '0.0.0.0'), label('bind', '-b'))
  const log = logOf(raw, label, store, facts)
  const address = { host: reachableAddress(raw.myaddr, label('myaddr', '-y'), bind, cluster), port }
  const keyFile = keyFileOf(raw, cluster, bind, label('key', '--key'), facts)
  const encrypt = raw.encrypt === true
  const ofHost = cluster.engine === 'corosync' || raw.service === true
  if (encrypt && keyFile === '') {
    throw invalid(`${label('encrypt', '--encrypt')} needs the cluster's key`, 'add --key FILE')
  }
  return {
    stores,
    cluster,
    listen: { host: bind, port },
    socket: socketOf(join(store, 'sock'), 'the store directory'),
    address,
    name: facts.hostname,
    zone: zoneOf(raw.zone, label('zone', '-z')),
    gatewayOnly: raw.gateway === true,
    service: raw.service === true,
    sync: raw.nosync !== true,
    nbd: nbdOf(raw, label, store, port, facts),
    dbus: dbusOf(raw.dbus ?? (ofHost ? 'system' : 'none'), label('dbus', '--dbus'), facts),
    metrics:
      raw.metrics === undefined || raw.metrics === 'none'
        ? null
        : metricsOf(raw.metrics, label('metrics', '--metrics'), facts),
    registerPool: raw.registerPool ?? ofHost,
    volumes: volumesOf(raw, label, ofHost, facts),
    foreground: raw.foreground === true,
    logLevel: log.level,
    logFile: log.file,
    pidFile: raw.pidfile === undefined ? '' : pathOf(raw.pidfile, label('pidfile', '-P'), facts),
    keyFile,
    encrypt,
    scrubRate:
      raw.scrubRate === undefined ? SCRUB_DEFAULT.rate : rateOf(raw.scrubRate, label('scrubRate', '--scrub-rate'), 1),
    scrubIntervalMs: intervalOf(raw.scrubInterval ?? '7d', label('scrubInterval', '--scrub-interval')),
    recoveryLimit: limitOf(raw.recoveryLimit ?? 'none', label('recoveryLimit', '--recovery-limit')),
    configFile,
  }
}

function dbusOf(text: string, label: string, facts: HostFacts): DbusOptions | null {
  if (text === 'none') return null
  const address = text === 'system' ? facts.systemBus : text === 'session' ? facts.sessionBus : text
  return { socket: socketOf(busSocket(address), label), bus: text }
}

/** Nobody proves who he is there: nothing but this host. */
function metricsOf(text: string, label: string, facts: HostFacts): MetricsPlace {
  if (text.startsWith('/')) return { socket: socketOf(text, label), group: facts.root ? facts.groupId(GROUP) : null }
  const [, host = '127.0.0.1', port = ''] = /^(?:(.+):)?([^:]+)$/.exec(text) ?? []
  const address = addressOf(host.replace(/^\[(.*)\]$/, '$1'), label)
  if (!isLoopback(address)) {
    throw invalid(
      `${label} ${quoted(text)}: anyone on that network could read them`,
      'use a port, which is of 127.0.0.1, or a socket; a proxy with TLS and passwords may serve them to others',
    )
  }
  return { host: address, port: portOf(port, label) }
}

function groupOfSocket(given: string | undefined, label: string, facts: HostFacts): number | null {
  // Only root may give a file to a group that it is not in.
  if (given === undefined) return facts.root ? facts.groupId(QEMU_GROUP) : null
  const id = facts.groupId(given)
  if (id === null) throw invalid(`${label} ${quoted(given)}: there is no such group`, 'getent group lists them')
  return id
}

function volumesOf(raw: RawOptions, label: Label, ofHost: boolean, facts: HostFacts): SheepOptions['volumes'] {
  if (raw.volumes === 'none') return null
  if (raw.volumes !== undefined)
    return { place: pathOf(raw.volumes, label('volumes', '--volumes'), facts), asked: true }
  return ofHost ? { place: POOL_PATH, asked: false } : null
}

function nbdOf(raw: RawOptions, label: Label, store: string, port: number, facts: HostFacts): NbdOptions {
  const bindLabel = label('nbdBind', '--nbd-bind')
  if (raw.nbdBind !== undefined && raw.nbdPort === undefined) {
    throw invalid(`${bindLabel} says where, but --nbd-port is missing`, 'add --nbd-port 10809')
  }
  const portLabel = label('nbdPort', '--nbd-port')
  const tcp =
    raw.nbdPort === undefined
      ? null
      : { host: addressOf(raw.nbdBind ?? '127.0.0.1', bindLabel), port: portOf(raw.nbdPort, portLabel) }
  const tls = raw.tls === undefined ? null : pathOf(raw.tls, label('tls', '--tls'), facts)
  if (raw.tlsAnyClient && tls === null) {
    const anyLabel = label('tlsAnyClient', '--tls-any-client')
    throw invalid(`${anyLabel} says who may use TLS, but --tls is missing`, 'add --tls DIR')
  }
  if (tcp && tcp.port === port) {
    throw invalid(`${label('port', '-p')} and ${portLabel} are both ${port}`, 'give NBD another port')
  }
  if (tcp && tls === null && !raw.allowPlain && !isLoopback(tcp.host)) {
    throw invalid(
      `NBD on ${tcp.host} without TLS lets anyone on that network read and write every volume`,
      'add --tls DIR, or --allow-plain if that network is yours alone',
    )
  }
  const socketLabel = label('nbdSocket', '--nbd-socket')
  const socket = raw.nbdSocket === undefined ? join(store, 'nbd.sock') : pathOf(raw.nbdSocket, socketLabel, facts)
  return {
    socket: socketOf(socket, socketLabel),
    group: groupOfSocket(raw.nbdGroup, label('nbdGroup', '--nbd-group'), facts),
    tcp,
    tls,
    anyClient: raw.tlsAnyClient === true,
    allowPlain: raw.allowPlain === true,
  }
}

/** One host by itself needs no key while nobody else can reach it. */
function keyFileOf(raw: RawOptions, cluster: ClusterChoice, bind: string, label: string, facts: HostFacts): string {
  if (raw.key === false) return ''
  if (raw.key !== undefined) return pathOf(raw.key, label, facts)
  if (cluster.engine === 'corosync') return CLUSTER_KEY_PATH
  if (isLoopback(bind)) return ''
  throw invalid(
    `on ${bind} without a key anyone on that network may do everything here`,
    'add --key FILE (docs/cluster-key.md), or --no-key if that network is yours alone',
  )
}

function rateOf(text: string, label: string, min: number): number {
  const bytes = sizeOrNot(text)
  if (bytes < min) throw invalid(`${label} ${quoted(text)} is no rate`, 'use bytes a second, like 32M')
  return bytes
}

function sizeOrNot(text: string): number {
  try {
    return parseSize(text)
  } catch (error) {
    if (error instanceof SheepError) return -1
    throw error
  }
}

function limitOf(text: string, label: string): number {
  if (text === 'none') return 0
  const bytes = sizeOrNot(text)
  if (bytes < 1) throw invalid(`${label} ${quoted(text)} is no limit`, 'use bytes a second, like 50M, or none')
  return bytes
}

const UNIT_MS: Record<string, number> = { h: 3_600_000, d: 86_400_000, w: 7 * 86_400_000 }

function intervalOf(text: string, label: string): number {
  if (text === 'never') return 0
  const match = /^([0-9]{1,4})([hdw])$/.exec(text)
  const ms = match === null ? 0 : Number(match[1]) * UNIT_MS[match[2]]
  if (ms === 0)
    throw invalid(`${label} ${quoted(text)} is no interval`, 'use hours, days or weeks: 12h, 7d, 4w; or never')
  return ms
}

function storesOf(word: string, label: string, facts: HostFacts): string[] {
  const stores = word.split(',').map((part) => pathOf(part.trim(), label, facts))
  const twice = stores.find((store, i) => stores.indexOf(store) !== i)
  if (twice !== undefined) throw invalid(`${twice} is given twice`, 'give each directory once')
  if (stores.length > DISKS_MAX) throw invalid(`${stores.length} directories were given, at most ${DISKS_MAX} are used`)
  return stores
}

function clusterOf(text: string, label: string, facts: HostFacts): ClusterChoice {
  if (text === 'local') return { engine: 'local', directory: join(facts.runtimeDirectory, 'local') }
  if (text.startsWith('local:')) {
    return { engine: 'local', directory: pathOf(text.slice('local:'.length), `${label} local:DIR`, facts) }
  }
  if (text === 'corosync') return { engine: 'corosync', group: DEFAULT_GROUP }
  if (text.startsWith('corosync:')) return { engine: 'corosync', group: groupOf(text.slice('corosync:'.length), label) }
  throw invalid(`${label} ${quoted(text)} is no cluster engine`, 'use local[:DIR] or corosync[:GROUP]')
}

/** CPG_MAX_NAME_LENGTH of corosync/cpg.h is 128. */
function groupOf(text: string, label: string): string {
  if (!/^[0-9A-Za-z._-]{1,127}$/.test(text)) {
    throw invalid(
      `${label} corosync:${text}: no group name`,
      'use 1 to 127 letters, digits and . _ -, e.g. -c corosync:fast',
    )
  }
  return text
}

function reachableAddress(given: string | undefined, label: string, bind: string, cluster: ClusterChoice): string {
  if (given !== undefined) {
    const address = addressOf(given, label)
    if (isWildcard(address)) throw invalid(`${label} ${address} is no address that others can connect to`)
    return address
  }
  if (!isWildcard(bind)) return bind
  return cluster.engine === 'local' ? '127.0.0.1' : ''
}

function logOf(raw: RawOptions, label: Label, store: string, facts: HostFacts): { level: LogLevel; file: string } {
  let level = raw.logLevel === undefined ? 'info' : levelOf(raw.logLevel, `${label('logLevel', '-l level')} `)
  let directory = raw.logDir === undefined ? store : pathOf(raw.logDir, label('logDir', '-l dir'), facts)
  const text = raw.log ?? ''
  for (const setting of text === '' ? [] : text.split(',')) {
    const at = setting.indexOf('=')
    const key = at < 0 ? 'level' : setting.slice(0, at)
    const value = setting.slice(at + 1)
    if (key === 'level') level = levelOf(value, '')
    else if (key === 'dir') directory = pathOf(value, '-l dir', facts)
    else
      throw invalid(`-l knows no setting ${quoted(key)}`, 'use -l level=debug or -l level=info,dir=/var/log/sheepdog')
  }
  return { level, file: join(directory, 'sheep.log') }
}

function levelOf(text: string, label: string): LogLevel {
  const level = LOG_LEVELS.find((known) => known === text)
  if (level === undefined)
    throw invalid(`${label}${quoted(text)} is no log level`, `use one of ${LOG_LEVELS.join(', ')}`)
  return level
}

function portOf(text: string, option: string): number {
  const port = /^[0-9]{1,5}$/.test(text) ? Number(text) : 0
  if (port < 1 || port > 65535)
    throw invalid(`${option} ${quoted(text)} is no TCP port`, 'use a number from 1 to 65535')
  return port
}

function addressOf(text: string, option: string): string {
  const address = /^\[.*\]$/.test(text) ? text.slice(1, -1) : text
  if (!/^[0-9A-Za-z.:_%-]+$/.test(address)) {
    throw invalid(`${option} ${quoted(text)} is no address`, 'use an IP address or a host name, without a port')
  }
  return address
}

/** Zones appear in tables and messages of every member. */
function zoneOf(text: string | undefined, label: string): string {
  if (text === undefined) return ''
  if (text === '' || Buffer.byteLength(text) > 64 || /[\s\p{Cc}]/u.test(text)) {
    throw invalid(`${label} ${quoted(text)} is no zone name`, 'use 1 to 64 bytes without spaces, e.g. -z rack1')
  }
  return text
}

function pathOf(text: string, option: string, facts: HostFacts): string {
  if (text === '' || text.includes('\0')) throw invalid(`${option} needs a path`)
  return resolve(facts.directory, text)
}

function socketOf(path: string, source: string): string {
  if (Buffer.byteLength(path) > SOCKET_PATH_BYTES_MAX) {
    throw invalid(
      `${path} is too long for a Unix socket (${Buffer.byteLength(path)} bytes, at most ${SOCKET_PATH_BYTES_MAX})`,
      `choose a shorter path for ${source}`,
    )
  }
  return path
}

export function isWildcard(host: string): boolean {
  return host === '0.0.0.0' || host === '::'
}

function quoted(text: string): string {
  return JSON.stringify(text.length > 80 ? `${text.slice(0, 80)}...` : text)
}

function invalid(message: string, hint = 'sheep --help lists the options'): SheepError {
  return new SheepError('invalid', message, hint)
}
