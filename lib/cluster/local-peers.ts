/**
 * Who of the members lives, and waking them. Each member listens on a Unix socket and holds a connection to every other's: the
 * kernel ends it when that process ends, however it ends, and takes it when that process hangs. That a process is gone is
 * believed only when a new connection is refused: then nobody has its socket open any more, so its last thread has left the
 * kernel and it writes no more. A byte on a connection means: look at the log.
 */
import fs from 'node:fs'
import net from 'node:net'
import path from 'node:path'

/** sun_path has 108 bytes (man 7 unix). */
const SOCKET_PATH_MAX = 107
const RETRY_MS = 50
const RETRY_MS_MAX = 1_000
const POKE = Buffer.of(1)

interface Watch {
  socket: net.Socket
  connected: boolean
}

export class LocalPeers {
  private readonly watches = new Map<string, Watch>()
  private readonly incoming = new Set<net.Socket>()
  private readonly server: net.Server
  private readonly directoryFd: number
  private closed = false

  /**
   * @param woken somebody wants this member to look at the log
   * @param died proven; called once for each watched member
   */
  constructor(
    readonly directory: string,
    readonly woken: () => void,
    readonly died: (member: string) => void,
  ) {
    this.directoryFd = fs.openSync(directory, fs.constants.O_RDONLY | fs.constants.O_DIRECTORY)
    this.server = net.createServer((socket) => {
      this.incoming.add(socket)
      socket.on('data', () => this.woken())
      socket.on('error', () => socket.destroy())
      socket.on('close', () => this.incoming.delete(socket))
      this.woken()
    })
  }

  /** A path to the file that a socket address can hold, however deep the directory is. */
  private address(file: string): string {
    const direct = path.join(this.directory, file)
    return Buffer.byteLength(direct) <= SOCKET_PATH_MAX ? direct : `/proc/self/fd/${this.directoryFd}/${file}`
  }

  /** Afterwards `member` can be reached by the others. The name appears when it already listens: refused means dead. */
  async listen(member: string): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.server.once('error', reject)
      this.server.listen(this.address(`${member}.new`), resolve)
    })
    // Out of descriptors, for instance: who could not connect tries again.
    this.server.on('error', () => undefined)
    fs.renameSync(path.join(this.directory, `${member}.new`), path.join(this.directory, `${member}.sock`))
  }

  watch(member: string): void {
    if (!this.closed && !this.watches.has(member)) this.connect(member, 0)
  }

  unwatch(member: string): void {
    const watch = this.watches.get(member)
    this.watches.delete(member)
    watch?.socket.destroy()
  }

  private connect(member: string, attempt: number): void {
    const socket = net.connect(this.address(`${member}.sock`))
    const watch: Watch = { socket, connected: false }
    this.watches.set(member, watch)
    let failure = ''
    socket.on('connect', () => {
      watch.connected = true
      // It may have read the log before what this member wrote, and not have been known here then.
      socket.write(POKE)
    })
    socket.on('data', () => undefined)
    socket.on('error', (error: NodeJS.ErrnoException) => {
      failure = error.code ?? ''
    })
    socket.on('close', () => {
      if (this.watches.get(member) !== watch) return
      if (!watch.connected && (failure === 'ECONNREFUSED' || failure === 'ENOENT')) {
        this.watches.delete(member)
        this.died(member)
        return
      }
      // Ended: find out why. Otherwise its queue or our descriptors are full: it lives, as far as one can tell.
      const next = watch.connected ? 0 : attempt + 1
      const retry = (): void => {
        if (this.watches.get(member) === watch) this.connect(member, next)
      }
      if (next === 0) setImmediate(retry)
      else setTimeout(retry, Math.min(RETRY_MS * next, RETRY_MS_MAX))
    })
  }

  /** Resolves with whether the member lives. */
  probe(member: string): Promise<boolean> {
    return new Promise((resolve) => {
      const socket = net.connect(this.address(`${member}.sock`))
      socket.on('connect', () => {
        socket.destroy()
        resolve(true)
      })
      socket.on('error', (error: NodeJS.ErrnoException) => {
        resolve(error.code !== 'ECONNREFUSED' && error.code !== 'ENOENT')
      })
    })
  }

  /** Wakes all others. One that has not read the last one yet needs no more. */
  poke(): void {
    for (const { socket, connected } of this.watches.values()) {
      if (connected && socket.writableLength === 0) socket.write(POKE)
    }
  }

  close(): void {
    this.closed = true
    for (const member of [...this.watches.keys()]) this.unwatch(member)
    for (const socket of this.incoming) socket.destroy()
    this.server.close()
    fs.closeSync(this.directoryFd)
  }
}
