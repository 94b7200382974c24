/**
 * The first phase of a connection: fixed newstyle negotiation, from the greeting until the client has chosen an export.
 * Every option is answered; what cannot be an option ends the connection.
 */
import { asSheepError, type SheepError } from '../errors.js'
import type { Slab } from '../host/slab.js'
import type { Stream, StreamHandler } from '../host/stream.js'
import type { VdiEntry } from '../vdi/types.js'
import * as nbd from './constants.js'
import { describe, type Exports, exportName, type Lease, transmissionFlags } from './exports.js'

/** Longest option data, bytes: far more than the longest name with every information request. */
export const OPTION_DATA_MAX = 64 << 10
/** Options a client may send before it must have chosen. */
export const OPTIONS_MAX = 1000

const OPTION_HEADER = 16
const CLIENT_FLAGS_LENGTH = 4
const EXPORT_NAME_PADDING = 124

/** What the client negotiated. */
export interface Session {
  lease: Lease
  exportName: string
  structured: boolean
  /** base:allocation was selected for this export */
  blockStatus: boolean
}

export interface HandshakeHost {
  readonly exports: Exports
  /** Who this client is, for people who find the volume locked. */
  readonly holder: string
  /** Present when TLS is offered, and then demanded. */
  readonly startTls: ((stream: Stream) => void) | null
  /** The negotiation is over: takes over the lease and the stream. */
  established(stream: Stream, session: Session): void
  /** The stream closed before that. */
  closed(reason: string): void
}

export class Handshake implements StreamHandler {
  private flagsKnown = false
  private noZeroes = false
  private structured = false
  /** Export that base:allocation was selected for; null none. */
  private blockStatusOf: string | null = null
  private options = 0
  private opening = false

  constructor(
    private readonly stream: Stream,
    private readonly host: HandshakeHost,
  ) {
    const greeting = Buffer.alloc(18)
    writeWords(greeting, 0, nbd.INIT_MAGIC)
    writeWords(greeting, 8, nbd.OPTION_MAGIC)
    greeting.writeUInt16BE(nbd.FLAG_FIXED_NEWSTYLE | nbd.FLAG_NO_ZEROES, 16)
    stream.send(greeting, 0, greeting.length)
  }

  messageLength(bytes: Buffer, start: number, end: number): number {
    if (!this.flagsKnown) return CLIENT_FLAGS_LENGTH
    if (end - start < OPTION_HEADER) return 0
    if (!isWords(bytes, start, nbd.OPTION_MAGIC)) return -1
    const length = bytes.readUInt32BE(start + 12)
    return length > OPTION_DATA_MAX ? -1 : OPTION_HEADER + length
  }

  message(slab: Slab, start: number, end: number): void {
    const { bytes } = slab
    if (!this.flagsKnown) {
      this.clientFlags(bytes.readUInt32BE(start))
      return
    }
    if (++this.options > OPTIONS_MAX) {
      this.stream.close(`more than ${OPTIONS_MAX} options`)
      return
    }
    // Options are rare and some wait: a copy of their own is simpler than holding the slab.
    this.option(bytes.readUInt32BE(start + 8), Buffer.from(bytes.subarray(start + OPTION_HEADER, end)))
    // A client that lists everything again and again without reading fills its own socket, not our memory.
    if (this.stream.backlog > OPTION_DATA_MAX) this.stream.pause()
  }

  drained(): void {
    if (!this.opening && this.stream.backlog === 0) this.stream.resume()
  }

  closed(reason: string): void {
    this.host.closed(reason)
  }

  private clientFlags(flags: number): void {
    this.flagsKnown = true
    const known = nbd.FLAG_FIXED_NEWSTYLE | nbd.FLAG_NO_ZEROES
    if ((flags & ~known) !== 0) this.stream.close('the client set flags that were not offered')
    this.noZeroes = (flags & nbd.FLAG_NO_ZEROES) !== 0
  }

  private option(option: number, data: Buffer): void {
    if (this.host.startTls !== null && !this.stream.encrypted && option !== nbd.OPT_STARTTLS) {
      if (option === nbd.OPT_ABORT) this.abort()
      else if (option === nbd.OPT_EXPORT_NAME) this.stream.close('the client did not start TLS')
      else this.refuse(option, nbd.REP_ERR_TLS_REQD, 'this server needs TLS')
      return
    }
    switch (option) {
      case nbd.OPT_EXPORT_NAME:
        this.open(option, data.toString())
        return
      case nbd.OPT_ABORT:
        this.abort()
        return
      case nbd.OPT_LIST:
        this.list(data)
        return
      case nbd.OPT_STARTTLS:
        this.startTls(data)
        return
      case nbd.OPT_INFO:
      case nbd.OPT_GO:
        this.infoOrGo(option, data)
        return
      case nbd.OPT_STRUCTURED_REPLY:
        if (data.length > 0) {
          this.refuse(option, nbd.REP_ERR_INVALID, 'this option has no data')
          return
        }
        this.structured = true
        this.acknowledge(option)
        return
      case nbd.OPT_LIST_META_CONTEXT:
      case nbd.OPT_SET_META_CONTEXT:
        this.metaContext(option, data)
        return
      default:
        this.refuse(option, nbd.REP_ERR_UNSUP, `option ${option} is not known here`)
    }
  }

  private abort(): void {
    this.acknowledge(nbd.OPT_ABORT)
    this.stream.end('the client ended the negotiation')
  }

  private list(data: Buffer): void {
    if (data.length > 0) {
      this.refuse(nbd.OPT_LIST, nbd.REP_ERR_INVALID, 'this option has no data')
      return
    }
    for (const entry of this.host.exports.list()) {
      const name = Buffer.from(exportName(entry))
      const length = Buffer.alloc(4)
      length.writeUInt32BE(name.length)
      this.reply(nbd.OPT_LIST, nbd.REP_SERVER, Buffer.concat([length, name, Buffer.from(describe(entry))]))
    }
    this.acknowledge(nbd.OPT_LIST)
  }

  private startTls(data: Buffer): void {
    const option = nbd.OPT_STARTTLS
    if (data.length > 0) this.refuse(option, nbd.REP_ERR_INVALID, 'this option has no data')
    else if (this.stream.encrypted) this.refuse(option, nbd.REP_ERR_INVALID, 'TLS has been started')
    else if (this.host.startTls === null) this.refuse(option, nbd.REP_ERR_POLICY, 'TLS is not set up on this address')
    else {
      this.acknowledge(option)
      // What was agreed on in the clear may have been forged.
      this.structured = false
      this.blockStatusOf = null
      this.host.startTls(this.stream)
    }
  }

  /** Data: length of the name, name, number of information requests, requests (16 bits each). */
  private infoOrGo(option: number, data: Buffer): void {
    const nameLength = data.length < 6 ? -1 : data.readUInt32BE(0)
    const at = 4 + nameLength
    if (nameLength < 0 || at + 2 > data.length || at + 2 + 2 * data.readUInt16BE(at) !== data.length) {
      this.refuse(option, nbd.REP_ERR_INVALID, 'the data of this option is malformed')
      return
    }
    const name = data.toString('utf8', 4, at)
    const wanted = new Set<number>()
    for (let i = at + 2; i < data.length; i += 2) wanted.add(data.readUInt16BE(i))
    if (option === nbd.OPT_GO) {
      this.open(option, name, wanted)
      return
    }
    try {
      const entry = this.host.exports.find(name)
      this.information(option, entry, entry.size, entry.snapshotTime !== 0, wanted)
      this.acknowledge(option)
    } catch (error) {
      this.refuseFor(option, asSheepError(error))
    }
  }

  private information(option: number, entry: VdiEntry, size: number, readOnly: boolean, wanted: Set<number>): void {
    const about = (type: number, payload: Buffer) => {
      const head = Buffer.alloc(2)
      head.writeUInt16BE(type)
      this.reply(option, nbd.REP_INFO, Buffer.concat([head, payload]))
    }
    const exported = Buffer.alloc(10)
    exported.writeBigUInt64BE(BigInt(size), 0)
    exported.writeUInt16BE(transmissionFlags(readOnly, this.structured), 8)
    about(nbd.INFO_EXPORT, exported)
    if (wanted.has(nbd.INFO_NAME)) about(nbd.INFO_NAME, Buffer.from(exportName(entry)))
    if (wanted.has(nbd.INFO_DESCRIPTION)) about(nbd.INFO_DESCRIPTION, Buffer.from(describe(entry)))
    if (wanted.has(nbd.INFO_BLOCK_SIZE)) {
      const sizes = Buffer.alloc(12)
      sizes.writeUInt32BE(nbd.BLOCK_SIZE_MIN, 0)
      sizes.writeUInt32BE(nbd.BLOCK_SIZE_PREFERRED, 4)
      sizes.writeUInt32BE(nbd.PAYLOAD_MAX, 8)
      about(nbd.INFO_BLOCK_SIZE, sizes)
    }
  }

  /** Data: length of the export's name, name, number of queries, and each query's length and text. */
  private metaContext(option: number, data: Buffer): void {
    const set = option === nbd.OPT_SET_META_CONTEXT
    if (set) this.blockStatusOf = null
    const request = this.structured ? parseMetaContext(data) : null
    if (request === null) {
      const why = this.structured ? 'the data of this option is malformed' : 'negotiate structured replies first'
      this.refuse(option, nbd.REP_ERR_INVALID, why)
      return
    }
    try {
      this.host.exports.find(request.name)
    } catch (error) {
      this.refuseFor(option, asSheepError(error))
      return
    }
    const { queries } = request
    // A list without queries, or for the bare namespace, asks for all there is; a selection names it exactly.
    const all = !set && (queries.length === 0 || queries.includes('base:'))
    if (all || queries.includes(nbd.META_CONTEXT)) {
      const payload = Buffer.from(`\0\0\0\0${nbd.META_CONTEXT}`)
      if (set) payload.writeUInt32BE(nbd.META_CONTEXT_ID, 0)
      this.reply(option, nbd.REP_META_CONTEXT, payload)
      if (set) this.blockStatusOf = request.name
    }
    this.acknowledge(option)
  }

  /** Nothing else is read until the volume is open or refused. */
  private open(option: number, name: string, wanted: Set<number> = new Set()): void {
    this.opening = true
    this.stream.pause()
    this.host.exports.open(name, this.host.holder).then(
      (lease) => {
        if (!this.stream.open) {
          lease.release()
          return
        }
        const { entry, size, readOnly } = lease.volume
        if (option === nbd.OPT_GO) {
          this.information(option, entry, size, readOnly, wanted)
          this.acknowledge(option)
        } else {
          this.exportNameReply(size, readOnly)
        }
        const blockStatus = this.blockStatusOf === name
        this.host.established(this.stream, { lease, exportName: name, structured: this.structured, blockStatus })
        this.stream.resume()
      },
      (error) => {
        this.opening = false
        if (option === nbd.OPT_EXPORT_NAME) {
          // This option has no way to say why.
          this.stream.close(`refused: ${asSheepError(error).message}`)
          return
        }
        this.refuseFor(option, asSheepError(error))
        this.stream.resume()
      },
    )
  }

  private exportNameReply(size: number, readOnly: boolean): void {
    const reply = Buffer.alloc(10 + (this.noZeroes ? 0 : EXPORT_NAME_PADDING))
    reply.writeBigUInt64BE(BigInt(size), 0)
    reply.writeUInt16BE(transmissionFlags(readOnly, this.structured), 8)
    this.stream.send(reply, 0, reply.length)
  }

  private refuseFor(option: number, error: SheepError): void {
    const text = error.hint === '' ? error.message : `${error.message}: ${error.hint}`
    this.refuse(option, replyFor(error), text)
  }

  private refuse(option: number, type: number, text: string): void {
    this.reply(option, type, Buffer.from(text))
  }

  private acknowledge(option: number): void {
    this.reply(option, nbd.REP_ACK, Buffer.alloc(0))
  }

  private reply(option: number, type: number, payload: Buffer): void {
    const header = Buffer.alloc(20)
    writeWords(header, 0, nbd.OPTION_REPLY_MAGIC)
    header.writeUInt32BE(option, 8)
    header.writeUInt32BE(type, 12)
    header.writeUInt32BE(payload.length, 16)
    this.stream.send(header, 0, header.length)
    this.stream.send(payload, 0, payload.length)
  }
}

/** Null when malformed. */
function parseMetaContext(data: Buffer): { name: string; queries: string[] } | null {
  let at = 0
  const word = (): number => {
    if (at + 4 > data.length) return -1
    at += 4
    return data.readUInt32BE(at - 4)
  }
  const text = (): string | null => {
    const length = word()
    if (length < 0 || at + length > data.length) return null
    at += length
    return data.toString('utf8', at - length, at)
  }
  const name = text()
  const count = word()
  if (name === null || count < 0) return null
  const queries: string[] = []
  for (let i = 0; i < count; i++) {
    const query = text()
    if (query === null) return null
    queries.push(query)
  }
  return at === data.length ? { name, queries } : null
}

function replyFor(error: SheepError): number {
  switch (error.code) {
    case 'not-found':
    case 'no-tag':
      return nbd.REP_ERR_UNKNOWN
    case 'invalid':
      return nbd.REP_ERR_INVALID
    case 'shutting-down':
      return nbd.REP_ERR_SHUTDOWN
    default:
      return nbd.REP_ERR_POLICY
  }
}

function writeWords(bytes: Buffer, at: number, words: readonly [number, number]): void {
  bytes.writeUInt32BE(words[0], at)
  bytes.writeUInt32BE(words[1], at + 4)
}

function isWords(bytes: Buffer, at: number, words: readonly [number, number]): boolean {
  return bytes.readUInt32BE(at) === words[0] && bytes.readUInt32BE(at + 4) === words[1]
}
