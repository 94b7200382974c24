/**
 * Whatever a stranger sends, the daemon goes on: the connection is answered or ended, nothing is thrown, and no buffer,
 * request or volume is left behind. SHEEP_FUZZ_RUNS=1000000 does what a release wants; the default takes seconds.
 */
import { EventEmitter } from 'node:events'
import type { Socket } from 'node:net'
import test from 'ava'
import fc from 'fast-check'
import { slabBytes } from '../../../lib/host/slab.js'
import { Stream, type StreamHandler } from '../../../lib/host/stream.js'
import { Connection } from '../../../lib/nbd/connection.js'
import * as nbd from '../../../lib/nbd/constants.js'
import { Exports } from '../../../lib/nbd/exports.js'
import { MemoryOpener } from '../../support/memory-volume.js'
import { infoRequest, metaContext, words } from '../../support/nbd-client.js'

const runs = Number(process.env.SHEEP_FUZZ_RUNS ?? 3000)
const SIZE = 1 << 20

/** A socket without a kernel: everything that is written is taken at once. */
class FakeSocket extends EventEmitter {
  readonly connecting = false
  readonly _handle = {}
  sent = 0

  write(bytes: Buffer, taken: () => void): void {
    this.sent += bytes.length
    taken()
  }

  end(): void {
    setImmediate(() => this.emit('end'))
  }

  destroy(): void {
    process.nextTick(() => this.emit('close'))
  }

  setTimeout(): void {}
  pause(): void {}
  resume(): void {}
}

class Conversation {
  private readonly socket = new FakeSocket()
  private readonly stream: Stream
  private readonly connection: Connection
  gone = false

  constructor(exports: Exports) {
    const nobody: StreamHandler = { messageLength: () => 0, message: () => {}, closed: () => {} }
    this.stream = new Stream(nobody, () => this.socket as unknown as Socket)
    this.connection = new Connection(
      this.stream,
      '/fuzz',
      exports,
      null,
      () => {},
      () => {
        this.gone = true
      },
    )
    this.stream.handler = this.connection.handler
  }

  get sent(): number {
    return this.socket.sent
  }

  async say(bytes: Buffer): Promise<void> {
    for (let at = 0; at < bytes.length && this.stream.open; ) {
      const room = this.stream.receiveBuffer()
      const length = Math.min(room.length, bytes.length - at)
      room.set(bytes.subarray(at, at + length))
      this.stream.received(length)
      at += length
      // Opening takes a turn, and then the connection reads on.
      await new Promise((resolve) => setImmediate(resolve))
    }
  }

  async hangUp(): Promise<void> {
    this.socket.emit('end')
    for (let turn = 0; turn < 1000 && !this.gone; turn++) await new Promise((resolve) => setImmediate(resolve))
  }
}

const small = fc.integer({ min: 0, max: 40 })
const u32 = fc.oneof(
  fc.integer({ min: 0, max: 0xffffffff }),
  small,
  fc.constantFrom(0xffffffff, 0x80000000, 0x7fffffff),
)
const name = fc.oneof(fc.constantFrom('disk', 'disk@before', '', '@', 'disk@', 'nothing'), fc.string({ maxLength: 30 }))

const optionData = fc.oneof(
  fc.constant(Buffer.alloc(0)),
  fc.uint8Array({ maxLength: 60 }).map((bytes) => Buffer.from(bytes)),
  fc.tuple(name, fc.array(small, { maxLength: 5 })).map(([name, kinds]) => infoRequest(name, kinds)),
  fc
    .tuple(name, fc.array(fc.oneof(fc.constant(nbd.META_CONTEXT), fc.string({ maxLength: 20 })), { maxLength: 4 }))
    .map(([name, queries]) => metaContext(name, queries)),
)

const option = fc
  .tuple(fc.oneof(fc.integer({ min: 0, max: 12 }), u32), optionData)
  .map(([option, data]) => Buffer.concat([words(...nbd.OPTION_MAGIC, option, data.length), data]))

const request = fc
  .record({
    flags: fc.oneof(fc.constantFrom(0, 0, 0, 1, 2, 4, 8, 16, 18), fc.integer({ min: 0, max: 0xffff })),
    type: fc.oneof(fc.integer({ min: 0, max: 8 }), fc.integer({ min: 0, max: 0xffff })),
    high: fc.oneof(fc.constant(0), fc.constant(0), u32),
    low: fc.oneof(fc.integer({ min: 0, max: SIZE }), u32),
    length: fc.oneof(fc.integer({ min: 0, max: 9000 }), fc.integer({ min: 0, max: 300_000 }), u32),
    payload: fc.integer({ min: 0, max: 3000 }),
  })
  .map(({ flags, type, high, low, length, payload }) => {
    // Of writes half have the payload that they announce.
    const bytes = Buffer.alloc(type === nbd.CMD_WRITE && length < 400_000 && flags % 2 === 0 ? length : payload % 40)
    return Buffer.concat([words(nbd.REQUEST_MAGIC, flags * 65_536 + type, 1, 2, high, low, length), bytes])
  })

const entrance = fc.constantFrom(
  ...['disk', 'disk@before'].flatMap((name) => [
    Buffer.concat([words(3, ...nbd.OPTION_MAGIC, nbd.OPT_EXPORT_NAME, name.length), Buffer.from(name)]),
    Buffer.concat([
      words(1, ...nbd.OPTION_MAGIC, nbd.OPT_STRUCTURED_REPLY, 0),
      words(...nbd.OPTION_MAGIC, nbd.OPT_SET_META_CONTEXT, metaContext(name, [nbd.META_CONTEXT]).length),
      metaContext(name, [nbd.META_CONTEXT]),
      words(...nbd.OPTION_MAGIC, nbd.OPT_GO, infoRequest(name).length),
      infoRequest(name),
    ]),
  ]),
)

const conversation = fc.oneof(
  { weight: 1, arbitrary: fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes)) },
  {
    weight: 3,
    arbitrary: fc
      .tuple(fc.oneof(fc.constantFrom(0, 1, 2, 3), u32), fc.array(option, { maxLength: 8 }))
      .map(([flags, options]) => Buffer.concat([words(flags), ...options])),
  },
  {
    weight: 5,
    arbitrary: fc
      .tuple(entrance, fc.array(request, { maxLength: 12 }))
      .map(([entrance, requests]) => Buffer.concat([entrance, ...requests])),
  },
)

/** Bytes changed, cut out or repeated anywhere. */
const damage = fc.array(
  fc.record({ at: fc.nat(), how: fc.constantFrom('set', 'cut', 'repeat'), value: fc.integer({ min: 0, max: 255 }) }),
  { maxLength: 3 },
)

function damaged(bytes: Buffer, hits: readonly { at: number; how: string; value: number }[]): Buffer {
  let result = Buffer.from(bytes)
  for (const { at, how, value } of hits) {
    if (result.length === 0) break
    const place = at % result.length
    if (how === 'set') result[place] = value
    else if (how === 'cut') result = Buffer.concat([result.subarray(0, place), result.subarray(place + value)])
    else result = Buffer.concat([result.subarray(0, place + value), result.subarray(place)])
  }
  return result
}

for (const timing of ['inline', 'mixed'] as const) {
  test.serial(`${timing}: garbage ends a connection or is answered, and leaves nothing behind`, async (t) => {
    let established = 0
    const before = slabBytes().taken
    await fc.assert(
      fc.asyncProperty(conversation, damage, async (bytes, hits) => {
        const opener = new MemoryOpener({ timing })
        opener.add('disk', SIZE)
        opener.add('disk', SIZE / 2, { tag: 'before', snapshotTime: 1 })
        const exports = new Exports(opener, () => {})
        const talk = new Conversation(exports)
        const said = damaged(bytes, hits)
        await talk.say(said)
        await talk.hangUp()
        await exports.idle()
        if (!talk.gone) throw new Error('the connection is still there')
        for (const volume of opener.volumes) if (!volume.closed) throw new Error('a volume was left open')
        if (slabBytes().taken !== before)
          throw new Error(`${slabBytes().taken - before} bytes of buffers are still held`)
        established += opener.volumes.length
      }),
      { numRuns: runs, includeErrorInReport: true },
    )
    t.true(established > runs / 5, `only ${established} conversations got as far as requests`)
  })
}
