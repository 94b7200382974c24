/** The NBD front-end: listens, carries each connection from handshake to transmission, and shuts down in order. */
import { asSheepError, SheepError } from '../errors.js'
import type { VolumeOpener } from '../gateway/types.js'
import { isLoopback } from '../host/address.js'
import type { Log } from '../host/interfaces.js'
import type { Stream } from '../host/stream.js'
import { listenStream, type StreamListener } from '../host/stream-socket.js'
import { Connection, type ConnectionInfo } from './connection.js'
import { Exports } from './exports.js'
import { type TlsSettings, tlsServer } from './tls.js'

export interface NbdOptions {
  /** Path of a Unix socket */
  unixSocket?: string
  /** Permission bits and owning group (gid) of the socket file; else only the daemon's user may connect */
  mode?: number
  group?: number
  tcp?: { host: string; port: number }
  /** For TCP; demanded of clients where given */
  tls?: TlsSettings
  /** TCP off loopback without TLS: anyone on that network reads and writes every volume */
  allowPlain?: boolean
}

export interface NbdServer {
  /** TCP port listened on; 0 none */
  readonly port: number
  connections(): ConnectionInfo[]
  /** Takes no more requests, lets those that run finish for a bounded time, ends all connections, closes the volumes. */
  close(): Promise<void>
}

/** How long requests in flight may take to finish when the server closes. */
const CLOSE_MS_MAX = 5000
/** Memory of one connection is bounded (transmission.ts); so is their number. */
const CONNECTIONS_MAX = 1024

/** SheepError: invalid (options, certificates), busy (address in use), system. */
export async function startNbdServer(options: NbdOptions, opener: VolumeOpener, log: Log): Promise<NbdServer> {
  const { unixSocket, tcp, tls } = options
  if (tcp !== undefined && tls === undefined && !isLoopback(tcp.host) && options.allowPlain !== true) {
    throw new SheepError(
      'invalid',
      `NBD on ${tcp.host === '' ? 'all addresses' : tcp.host} without TLS would give every volume to that network`,
      'set up TLS, listen on 127.0.0.1, or allow plain connections explicitly',
    )
  }
  // Now rather than at the first client.
  if (tls !== undefined) tlsServer(tls).close()
  const exports = new Exports(opener, log)
  const connections = new Set<Connection>()
  const accept = (via: string, startTls: ((stream: Stream) => void) | null) => (stream: Stream) => {
    const connection = new Connection(stream, via, exports, startTls, log, () => connections.delete(connection))
    connections.add(connection)
    if (connections.size > CONNECTIONS_MAX) stream.close(`more than ${CONNECTIONS_MAX} connections`)
    return connection.handler
  }
  const listeners: StreamListener[] = []
  try {
    if (unixSocket !== undefined) {
      const address = { path: unixSocket, mode: options.mode, group: options.group }
      listeners.push(await listenStream(address, accept(unixSocket, null), log))
    }
    if (tcp !== undefined) {
      const startTls = tls === undefined ? null : (stream: Stream) => startTlsOn(stream, tls, log)
      listeners.push(await listenStream(tcp, accept('', startTls), log))
    }
  } catch (error) {
    for (const listener of listeners) listener.close()
    throw error
  }
  return {
    port: Math.max(0, ...listeners.map((listener) => listener.port)),
    connections: () => [...connections].map((connection) => connection.info()),
    close: async () => {
      for (const listener of listeners) listener.close()
      for (const connection of connections) connection.end('the daemon is shutting down')
      const ended = Promise.all([...connections].map((connection) => connection.ended))
      if (!(await within(CLOSE_MS_MAX, ended))) {
        for (const connection of connections) connection.cut('the daemon is shutting down')
        if (!(await within(CLOSE_MS_MAX, ended))) {
          log('warning', 'NBD requests that did not finish are abandoned', { connections: connections.size })
        }
      }
      await within(CLOSE_MS_MAX, exports.idle())
    },
  }
}

function startTlsOn(stream: Stream, tls: TlsSettings, log: Log): void {
  try {
    stream.startTls(tlsServer(tls))
  } catch (error) {
    const { message } = asSheepError(error)
    log('error', 'TLS cannot be started', { reason: message })
    stream.close(message)
  }
}

/** Whether `promise` settled within `ms`. */
async function within(ms: number, promise: Promise<unknown>): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<false>((resolve) => {
    timer = setTimeout(() => resolve(false), ms)
  })
  const settled = await Promise.race([promise.then(() => true), late])
  clearTimeout(timer)
  return settled
}
