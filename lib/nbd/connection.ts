/** One client, from its greeting to its end: which phase it is in, and what it holds. */
import type { Log } from '../host/interfaces.js'
import type { Stream, StreamHandler } from '../host/stream.js'
import type { Exports, Lease } from './exports.js'
import { Handshake, type Session } from './handshake.js'
import { Transmission } from './transmission.js'

export interface ConnectionInfo {
  /** The client's address, or the Unix socket it came through */
  client: string
  /** '' while it negotiates */
  exportName: string
  readOnly: boolean
  encrypted: boolean
  requests: number
  inFlight: number
  bytesRead: number
  bytesWritten: number
}

/** How long a client may take to choose an export. Waiting for a volume to open counts. */
const HANDSHAKE_MS_MAX = 30_000

export class Connection {
  handler: StreamHandler
  readonly ended: Promise<void>
  private transmission: Transmission | null = null
  private lease: Lease | null = null
  private exportName = ''
  private resolveEnded: () => void = () => {}
  private readonly timer: NodeJS.Timeout
  private readonly client: string

  constructor(
    private readonly stream: Stream,
    /** Path of the Unix socket it came through; '' TCP */
    via: string,
    exports: Exports,
    startTls: ((stream: Stream) => void) | null,
    private readonly log: Log,
    /** Called once: its stream is closed, its requests have finished, its volume is released */
    private readonly gone: () => void,
  ) {
    this.client = via === '' ? stream.remote : via
    this.ended = new Promise((resolve) => {
      this.resolveEnded = resolve
    })
    this.timer = setTimeout(() => stream.close('the client chose no export in time'), HANDSHAKE_MS_MAX)
    this.handler = new Handshake(stream, {
      exports,
      holder: via === '' ? `NBD client ${stream.remote}` : `NBD client on ${via}`,
      startTls,
      established: (_stream, session) => this.established(session),
      closed: (reason) => this.finished(reason),
    })
  }

  info(): ConnectionInfo {
    const { transmission } = this
    return {
      client: this.client,
      exportName: this.exportName,
      readOnly: this.lease?.volume.readOnly ?? false,
      encrypted: this.stream.encrypted,
      requests: transmission?.requests ?? 0,
      inFlight: transmission?.inFlight ?? 0,
      bytesRead: transmission?.bytesRead ?? 0,
      bytesWritten: transmission?.bytesWritten ?? 0,
    }
  }

  /** Takes no more requests, answers those that run, and ends. */
  end(reason: string): void {
    if (this.transmission === null) this.stream.close(reason)
    else this.transmission.end(reason)
  }

  /** Ends at once, whatever runs. */
  cut(reason: string): void {
    this.stream.close(reason)
  }

  private established(session: Session): void {
    clearTimeout(this.timer)
    const { lease } = session
    this.lease = lease
    this.exportName = session.exportName
    // An answer could only be a failure, which a guest takes for a broken disk. A client that is cut off comes again, if it can,
    // and sends what was not answered to whoever serves the volume then.
    lease.onRevoked = () => this.cut('the volume was taken away')
    const { structured, blockStatus } = session
    this.transmission = new Transmission(this.stream, lease.volume, structured, blockStatus, {
      finished: (reason) => this.finished(reason),
    })
    this.stream.handler = this.transmission
    this.log('info', 'NBD client connected', { client: this.client, export: this.exportName })
    if (lease.revoked) lease.onRevoked()
  }

  private finished(reason: string): void {
    clearTimeout(this.timer)
    this.log('info', 'NBD client gone', { client: this.client, export: this.exportName, reason })
    this.lease?.release()
    this.gone()
    this.resolveEnded()
  }
}
