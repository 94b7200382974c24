/** An NBD client that says exactly what a test tells it to, right or wrong. */
import { connect, type Socket } from 'node:net'
import * as nbd from '../../lib/nbd/constants.js'

/** How long to wait for the server before the test has failed. */
const ANSWER_MS_MAX = 60_000

export interface OptionReply {
  option: number
  type: number
  data: Buffer
}

export interface Reply {
  cookie: number
  error: number
  /** Structured: the chunk's type; simple: -1 */
  chunk: number
  data: Buffer
}

export class NbdClient {
  private readonly chunks: Buffer[] = []
  private have = 0
  private wake: () => void = () => {}
  private over = false
  structured = false
  /** Lengths of the reads under way by cookie: a simple reply does not tell. */
  private readonly reads = new Map<number, number>()

  private constructor(readonly socket: Socket) {
    socket.on('data', (chunk: Buffer) => {
      this.chunks.push(chunk)
      this.have += chunk.length
      this.wake()
    })
    socket.on('error', () => {})
    socket.on('close', () => {
      this.over = true
      this.wake()
    })
  }

  /** Connected, greeting read and answered with `clientFlags`; null sends nothing. */
  static async connect(
    path: string,
    clientFlags: number | null = nbd.FLAG_FIXED_NEWSTYLE | nbd.FLAG_NO_ZEROES,
  ): Promise<NbdClient> {
    const client = new NbdClient(connect(path))
    await client.read(18)
    if (clientFlags !== null) client.write(words(clientFlags))
    return client
  }

  /** Negotiated as far as transmission of `name`. */
  static async open(
    path: string,
    name: string,
    how: { structured?: boolean; context?: boolean } = {},
  ): Promise<NbdClient> {
    const client = await NbdClient.connect(path)
    if (how.structured === true) await client.structuredReplies()
    if (how.context === true) {
      client.option(nbd.OPT_SET_META_CONTEXT, metaContext(name, [nbd.META_CONTEXT]))
      await client.optionReplies()
    }
    client.option(nbd.OPT_GO, infoRequest(name))
    const last = (await client.optionReplies()).at(-1) as OptionReply
    if (last.type !== nbd.REP_ACK) throw new Error(`${name}: ${last.data}`)
    return client
  }

  async structuredReplies(): Promise<void> {
    this.option(nbd.OPT_STRUCTURED_REPLY)
    await this.optionReplies()
    this.structured = true
  }

  write(...parts: Buffer[]): void {
    this.socket.write(Buffer.concat(parts))
  }

  option(option: number, data: Buffer = Buffer.alloc(0)): void {
    this.write(words(...nbd.OPTION_MAGIC, option, data.length), data)
  }

  async optionReply(): Promise<OptionReply> {
    const header = await this.read(20)
    if (header.readUInt32BE(0) !== nbd.OPTION_REPLY_MAGIC[0]) throw new Error('no option reply')
    const data = await this.read(header.readUInt32BE(16))
    return { option: header.readUInt32BE(8), type: header.readUInt32BE(12), data }
  }

  /** Up to and with the one that ends an option: acknowledgement or error. */
  async optionReplies(): Promise<OptionReply[]> {
    const replies: OptionReply[] = []
    for (;;) {
      const reply = await this.optionReply()
      replies.push(reply)
      if (reply.type === nbd.REP_ACK || reply.type >= 0x80000000) return replies
    }
  }

  request(
    type: number,
    cookie: number,
    offset: number,
    length: number,
    flags = 0,
    payload: Buffer = Buffer.alloc(0),
  ): void {
    if (type === nbd.CMD_READ) this.reads.set(cookie, length)
    const header = Buffer.alloc(nbd.REQUEST_LENGTH)
    header.writeUInt32BE(nbd.REQUEST_MAGIC, 0)
    header.writeUInt16BE(flags, 4)
    header.writeUInt16BE(type, 6)
    header.writeUInt32BE(0xc0ffee00, 8)
    header.writeUInt32BE(cookie, 12)
    header.writeBigUInt64BE(BigInt(offset), 16)
    header.writeUInt32BE(length, 24)
    this.write(header, payload)
  }

  async reply(): Promise<Reply> {
    const magic = (await this.read(4)).readUInt32BE(0)
    if (magic === nbd.SIMPLE_REPLY_MAGIC) {
      const header = await this.read(12)
      const cookie = header.readUInt32BE(8)
      const error = header.readUInt32BE(0)
      const length = this.reads.get(cookie) ?? 0
      if (length > 0 && this.structured) throw new Error('a simple reply to a read, though structured was negotiated')
      this.reads.delete(cookie)
      return { cookie, error, chunk: -1, data: await this.read(error === 0 ? length : 0) }
    }
    if (magic !== nbd.STRUCTURED_REPLY_MAGIC || !this.structured) throw new Error(`no reply: ${magic.toString(16)}`)
    const header = await this.read(16)
    if (header.readUInt16BE(0) !== nbd.REPLY_FLAG_DONE) throw new Error('more than one chunk')
    if (header.readUInt32BE(4) !== 0xc0ffee00) throw new Error('another cookie')
    const chunk = header.readUInt16BE(2)
    const data = await this.read(header.readUInt32BE(12))
    const error = chunk === nbd.REPLY_TYPE_ERROR ? data.readUInt32BE(0) : 0
    const cookie = header.readUInt32BE(8)
    this.reads.delete(cookie)
    return { cookie, error, chunk, data: chunk === nbd.REPLY_TYPE_OFFSET_DATA ? data.subarray(8) : data }
  }

  /** One request and its reply, with nothing else under way. */
  async call(
    type: number,
    offset: number,
    length: number,
    flags = 0,
    payload: Buffer = Buffer.alloc(0),
  ): Promise<Reply> {
    this.request(type, 77, offset, length, flags, payload)
    return this.reply()
  }

  /** Exactly `length` bytes. Throws when the server closes before, or is silent for too long. */
  async read(length: number): Promise<Buffer> {
    while (this.have < length && !this.over) await this.change(`${length} bytes`)
    if (this.have < length) throw new Error(`closed with ${this.have} of ${length} bytes`)
    const all = this.chunks.length === 1 ? this.chunks[0] : Buffer.concat(this.chunks)
    this.chunks.length = 0
    if (all.length > length) this.chunks.push(all.subarray(length))
    this.have -= length
    return all.subarray(0, length)
  }

  /** Waits for the server to close; what it sent before. */
  async closed(): Promise<Buffer> {
    while (!this.over) await this.change('the end')
    return Buffer.concat(this.chunks)
  }

  destroy(): void {
    this.socket.destroy()
  }

  private change(what: string): Promise<void> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`the server is silent: waited for ${what}`)), ANSWER_MS_MAX)
      this.wake = () => {
        clearTimeout(timer)
        resolve()
      }
    })
  }
}

export function words(...values: number[]): Buffer {
  const bytes = Buffer.alloc(4 * values.length)
  for (const [i, value] of values.entries()) bytes.writeUInt32BE(value, 4 * i)
  return bytes
}

/** Data of INFO and GO. */
export function infoRequest(name: string, kinds: readonly number[] = []): Buffer {
  const bytes = Buffer.from(name)
  const rest = Buffer.alloc(2 + 2 * kinds.length)
  rest.writeUInt16BE(kinds.length)
  for (const [i, kind] of kinds.entries()) rest.writeUInt16BE(kind, 2 + 2 * i)
  return Buffer.concat([words(bytes.length), bytes, rest])
}

/** Data of LIST_META_CONTEXT and SET_META_CONTEXT. */
export function metaContext(name: string, queries: readonly string[]): Buffer {
  const text = (value: string) => Buffer.concat([words(Buffer.byteLength(value)), Buffer.from(value)])
  return Buffer.concat([text(name), words(queries.length), ...queries.map(text)])
}
