/** Streams from the outside: listening and connecting on TCP and Unix sockets. */
import { chmodSync, chownSync, lstatSync, unlinkSync } from 'node:fs'
import { createServer, type Server, Socket, type SocketConstructorOpts } from 'node:net'
import { SheepError } from '../errors.js'
import type { Log } from './interfaces.js'
import { Stream, type StreamHandler } from './stream.js'

/** `host` '' listens on all addresses; `port` 0 takes a free one. `mode` and `group` (gid) are for a socket file. */
export type StreamAddress = { path: string; mode?: number; group?: number } | { host: string; port: number }

export interface StreamListener {
  /** The TCP port, 0 for a Unix socket. */
  readonly port: number
  /** No more connections are accepted. Those that are open stay. */
  close(): void
}

/** Beyond it new connections are closed at once, by node:net. */
const CONNECTIONS_MAX = 4096
const BACKLOG = 511
const PROBE_MS_MAX = 2000
/** A TCP peer that is silent this long is asked; when its host is gone the connection ends some 10 s later (libuv's probes). */
const KEEP_ALIVE_MS = 30_000

/** net.Socket options that @types/node lacks: `onread` is documented for the constructor, `handle` is not. */
interface SocketOptions extends SocketConstructorOpts {
  handle?: unknown
  onread: { buffer: () => Uint8Array; callback: (length: number) => boolean }
}

function onread(stream: Stream): SocketOptions['onread'] {
  return { buffer: stream.receiveBuffer, callback: stream.received }
}

/**
 * The connection of `accepted`, read through the stream's slabs. The onread option exists only at construction, so the
 * handle moves to a new Socket, and the former one, left without a handle, only tells its server that it is gone.
 */
function adopt(stream: Stream, accepted: Socket): Socket {
  const former = accepted as unknown as { _handle: unknown }
  const handle = former._handle
  former._handle = null
  accepted.destroy()
  const options: SocketOptions = { handle, onread: onread(stream), allowHalfOpen: true, readable: true, writable: true }
  const socket = new Socket(options)
  socket.setNoDelay(true)
  socket.setKeepAlive(true, KEEP_ALIVE_MS)
  return socket
}

/** Returns at once: what is sent before the connection stands is queued. `handler.closed` is called when it fails. */
export function connectStream(address: StreamAddress, handler: StreamHandler): Stream {
  return new Stream(handler, (stream) => {
    const options: SocketOptions = { onread: onread(stream), allowHalfOpen: true }
    const socket = new Socket(options)
    socket.setNoDelay(true)
    socket.setKeepAlive(true, KEEP_ALIVE_MS)
    if ('path' in address) socket.connect({ path: address.path })
    else socket.connect({ host: address.host, port: address.port })
    return socket
  })
}

/**
 * Listens; `accept` is called for each connection, with the stream, and returns its handler. A socket file that nobody
 * listens on any more is replaced. SheepError: busy (address in use), system.
 */
export async function listenStream(
  address: StreamAddress,
  accept: (stream: Stream) => StreamHandler,
  log: Log,
): Promise<StreamListener> {
  if ('path' in address) await removeStale(address.path)
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true })
  server.maxConnections = CONNECTIONS_MAX
  server.on('connection', (accepted) => {
    const stream = new Stream(notYet, (stream) => adopt(stream, accepted))
    stream.handler = accept(stream)
  })
  await listening(server, address)
  server.on('error', (error) => log('warning', 'a connection could not be accepted', { reason: error.message }))
  const bound = server.address()
  return {
    port: bound !== null && typeof bound === 'object' ? bound.port : 0,
    close: () => server.close(),
  }
}

const notYet: StreamHandler = {
  messageLength: () => 0,
  message: () => {},
  closed: () => {},
}

function listening(server: Server, address: StreamAddress): Promise<void> {
  return new Promise((resolve, reject) => {
    const failed = (error: NodeJS.ErrnoException) => {
      const where = 'path' in address ? address.path : `${address.host}:${address.port}`
      if (error.code === 'EADDRINUSE') {
        reject(new SheepError('busy', `${where} is in use by another process`, 'stop it, or choose another address'))
      } else {
        reject(new SheepError('system', `cannot listen on ${where}: ${error.message}`))
      }
    }
    server.once('error', failed)
    const done = () => {
      server.off('error', failed)
      resolve()
    }
    if ('path' in address) {
      // bind happens within this call, so no other file meets the mask; nobody can connect before the mode is right.
      const mask = process.umask(0o177)
      server.listen({ path: address.path, backlog: BACKLOG }, () => {
        try {
          if (address.group !== undefined) chownSync(address.path, -1, address.group)
          if (address.mode !== undefined) chmodSync(address.path, address.mode)
        } catch (error) {
          server.close()
          failed(error as NodeJS.ErrnoException)
          return
        }
        done()
      })
      process.umask(mask)
    } else {
      server.listen(
        { host: address.host === '' ? undefined : address.host, port: address.port, backlog: BACKLOG },
        done,
      )
    }
  })
}

/** Removes a socket file that a dead process left; one that answers is left alone, and then bind says so. */
async function removeStale(path: string): Promise<void> {
  const found = lstatSync(path, { throwIfNoEntry: false })
  if (found === undefined) return
  if (!found.isSocket())
    throw new SheepError('busy', `${path} exists and is not a socket`, 'remove it, or choose another path')
  const refused = await new Promise<boolean>((resolve) => {
    const probe = new Socket()
    probe.setTimeout(PROBE_MS_MAX, () => probe.destroy(new Error('no answer')))
    probe.once('connect', () => {
      probe.destroy()
      resolve(false)
    })
    probe.once('error', (error: NodeJS.ErrnoException) => resolve(error.code === 'ECONNREFUSED'))
    probe.connect(path)
  })
  if (refused) unlinkSync(path)
}
