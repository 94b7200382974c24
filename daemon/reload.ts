/** What a changed configuration changes in a running daemon (SIGHUP, `systemctl reload`), and what waits for a restart. */
import { formatSize } from '../lib/dog/size.js'
import type { SheepOptions } from './options.js'

type Key = keyof SheepOptions

/** Key of the configuration -> of the options, with how people read it. */
const AT_ONCE: [string, Key, (value: never) => string][] = [
  ['log-level', 'logLevel', String],
  ['scrub-rate', 'scrubRate', (bytes: number) => `${formatSize(bytes)}/s`],
  ['scrub-interval', 'scrubIntervalMs', (ms: number) => (ms === 0 ? 'never' : `${ms / 3_600_000} h`)],
  ['recovery-limit', 'recoveryLimit', (bytes: number) => (bytes === 0 ? 'none' : `${formatSize(bytes)}/s`)],
  ['encrypt', 'encrypt', (on: boolean) => (on ? 'yes, for connections made from now on' : 'no')],
]

const AT_RESTART: [string, Key][] = [
  ['store', 'stores'],
  ['cluster', 'cluster'],
  ['port or bind', 'listen'],
  ['myaddr', 'address'],
  ['zone', 'zone'],
  ['gateway', 'gatewayOnly'],
  ['nosync', 'sync'],
  ['nbd-socket, nbd-group, nbd-port, nbd-bind, tls, tls-any-client or allow-plain', 'nbd'],
  ['volumes', 'volumes'],
  ['dbus', 'dbus'],
  ['metrics', 'metrics'],
  ['register-pool', 'registerPool'],
  ['log-dir', 'logFile'],
  ['pidfile', 'pidFile'],
  ['key or no-key', 'keyFile'],
]

export interface Reloaded {
  /** The options that hold from now on */
  options: SheepOptions
  /** What changed, for people: `log-level is debug, was info` */
  changed: string[]
  /** Keys whose change waits for a restart */
  waiting: string[]
}

export function reloaded(running: SheepOptions, fresh: SheepOptions): Reloaded {
  const options: SheepOptions = { ...running }
  const differs = (key: Key): boolean => JSON.stringify(running[key]) !== JSON.stringify(fresh[key])
  const changed = AT_ONCE.filter(([, key]) => differs(key)).map(([name, key, text]) => {
    Object.assign(options, { [key]: fresh[key] })
    return `${name} is ${text(fresh[key] as never)}, was ${text(running[key] as never)}`
  })
  return { options, changed, waiting: AT_RESTART.filter(([, key]) => differs(key)).map(([name]) => name) }
}
