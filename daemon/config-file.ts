/**
 * /etc/sheepdog/sheepdog.conf (docs/configuration.md): `key = value` lines that become options as if they had been typed. Each
 * mistake is told with its file, line, key and what is allowed.
 */
import { readFileSync } from 'node:fs'
import { SheepError } from '../lib/errors.js'

/** Options as they are written, on the command line or in a file, before they are checked. */
export interface RawOptions {
  store?: string
  cluster?: string
  port?: string
  bind?: string
  myaddr?: string
  zone?: string
  gateway?: boolean
  /** Of the command line */
  service?: boolean
  foreground?: boolean
  /** Of the command line: level=...,dir=... */
  log?: string
  logLevel?: string
  logDir?: string
  pidfile?: string
  nosync?: boolean
  /** false: --no-key */
  key?: string | false
  encrypt?: boolean
  nbdSocket?: string
  volumes?: string
  nbdPort?: string
  nbdBind?: string
  tls?: string
  tlsAnyClient?: boolean
  allowPlain?: boolean
  dbus?: string
  metrics?: string
  nbdGroup?: string
  registerPool?: boolean
  scrubRate?: string
  scrubInterval?: string
  recoveryLimit?: string
}

/** What messages call an option: `-p`, or the line of a file that sets it. */
export type Label = (key: keyof RawOptions, option: string) => string

/** Beyond it this is not a configuration. */
const FILE_BYTES_MAX = 64 << 10
const LINE_MAX = 4_096

const TEXT: Record<string, keyof RawOptions> = {
  store: 'store',
  cluster: 'cluster',
  port: 'port',
  bind: 'bind',
  myaddr: 'myaddr',
  zone: 'zone',
  'log-level': 'logLevel',
  'log-dir': 'logDir',
  pidfile: 'pidfile',
  key: 'key',
  'nbd-socket': 'nbdSocket',
  'nbd-group': 'nbdGroup',
  'nbd-port': 'nbdPort',
  'nbd-bind': 'nbdBind',
  tls: 'tls',
  volumes: 'volumes',
  dbus: 'dbus',
  metrics: 'metrics',
  'scrub-rate': 'scrubRate',
  'scrub-interval': 'scrubInterval',
  'recovery-limit': 'recoveryLimit',
}

const FLAGS: Record<string, keyof RawOptions> = {
  gateway: 'gateway',
  nosync: 'nosync',
  'no-key': 'key',
  encrypt: 'encrypt',
  'tls-any-client': 'tlsAnyClient',
  'allow-plain': 'allowPlain',
  'register-pool': 'registerPool',
}

/** For systemd/sheepdog-generator */
const OTHERS: readonly string[] = ['corosync-bound']

export const CONFIG_KEYS: readonly string[] = [...Object.keys(TEXT), ...Object.keys(FLAGS), ...OTHERS]

/** SheepError not-found, system */
export function readConfig(path: string): string {
  try {
    const bytes = readFileSync(path)
    if (bytes.length <= FILE_BYTES_MAX) return bytes.toString('utf8')
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    if (code === 'ENOENT') {
      throw new SheepError('not-found', `there is no configuration at ${path}`, 'an empty file will do')
    }
    throw new SheepError('system', `cannot read the configuration: ${message}`, 'see whose it is (ls -l)')
  }
  throw new SheepError('invalid', `${path} is no configuration: it is larger than ${FILE_BYTES_MAX} bytes`, SYNTAX)
}

const SYNTAX = 'write one key = value a line; lines that begin with # are comments'

/** @param path for messages. SheepError invalid */
export function rawFromFile(text: string, path: string): { raw: RawOptions; labels: Map<keyof RawOptions, string> } {
  const raw: Record<string, string | boolean> = {}
  const labels = new Map<keyof RawOptions, string>()
  const lines = new Map<string, number>()
  for (const [index, whole] of text.split('\n').entries()) {
    const line = whole.trim()
    if (line === '' || line.startsWith('#')) continue
    const where = `${path}, line ${index + 1}`
    const at = line.indexOf('=')
    if (at < 0 || line.length > LINE_MAX) throw invalid(`${where}: ${shown(line)} is no key = value`, SYNTAX)
    const key = line.slice(0, at).trim()
    const value = line.slice(at + 1).trim()
    const name = nameOf(key, where)
    const before = lines.get(name)
    if (before !== undefined) throw invalid(`${where}: ${key} is set in line ${before} already`, 'remove one of them')
    lines.set(name, index + 1)
    labels.set(name as keyof RawOptions, `${where}: ${key}`)
    if (OTHERS.includes(key)) {
      flagOf(value, `${where}: ${key}`)
    } else if (Object.hasOwn(FLAGS, key)) {
      const on = flagOf(value, `${where}: ${key}`)
      if (key !== 'no-key') raw[name] = on
      else if (on) raw.key = false
    } else {
      if (value === '') throw invalid(`${where}: ${key} has no value`, `give it one, or put a # before the line`)
      raw[name] = value
    }
  }
  return { raw: raw as RawOptions, labels }
}

function nameOf(key: string, where: string): string {
  if (OTHERS.includes(key)) return key
  if (Object.hasOwn(TEXT, key)) return TEXT[key]
  if (Object.hasOwn(FLAGS, key)) return FLAGS[key]
  throw invalid(`${where}: there is no key ${shown(key)}`, `keys are ${[...CONFIG_KEYS].sort().join(', ')}`)
}

function flagOf(value: string, where: string): boolean {
  if (value === 'yes') return true
  if (value === 'no') return false
  throw invalid(`${where} ${shown(value)} is neither yes nor no`, 'write yes or no')
}

function shown(text: string): string {
  return JSON.stringify(text.length > 80 ? `${text.slice(0, 80)}...` : text)
}

function invalid(message: string, hint: string): SheepError {
  return new SheepError('invalid', message, hint)
}
