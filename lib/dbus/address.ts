/** Which bus, and where it listens (D-Bus specification, "Server Addresses"). */
import { SheepError } from '../errors.js'

export const SYSTEM_BUS = 'unix:path=/run/dbus/system_bus_socket'

/**
 * The socket's path as node:net takes it, an abstract one with a NUL in front: of the first address of the list that is a Unix
 * socket. SheepError invalid: there is none.
 */
export function busSocket(addresses: string): string {
  for (const address of addresses.split(';')) {
    const [, transport, list] = /^([a-z]+):(.*)$/.exec(address) ?? []
    if (transport !== 'unix') continue
    const pairs = new Map(
      list.split(',').map((pair) => [pair.split('=', 1)[0], unescaped(pair.slice(pair.indexOf('=') + 1))]),
    )
    const path = pairs.get('path')
    if (path?.startsWith('/')) return path
    const abstract = pairs.get('abstract')
    if (abstract) return `\0${abstract}`
  }
  throw new SheepError(
    'invalid',
    `${JSON.stringify(addresses.slice(0, 200))} is no address of a D-Bus that can be used`,
    'give system, session, none or unix:path=/SOCKET',
  )
}

function unescaped(value: string): string {
  return Buffer.from(
    value.replace(/%([0-9A-Fa-f]{2})/g, (_, hex) => String.fromCharCode(Number.parseInt(hex, 16))),
    'latin1',
  ).toString('utf8')
}
