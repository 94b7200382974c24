/** The bytes of a recovery: objects, or the grains of one that differ, read from another node and put on the disk here. */
import { SheepError } from '../errors.js'
import { type Clock, type Completion, DiskError } from '../host/interfaces.js'
import { takeSlab } from '../host/slab.js'
import { FLAG_AS_IS, FLAG_RECOVERY } from '../protocol/header.js'
import { completed } from '../store/completed.js'
import type { ObjectStore, StoredObject } from '../store/types.js'
import { type Oid, oidToHex } from '../vdi/oid.js'
import type { Filling } from './filling.js'
import { decodeGrains, differingGrains, GRAIN, grainsOf } from './grains.js'
import { Pacer, RateMeter } from './pacer.js'
import type { Peers } from './peers.js'
import type { Replica } from './replica.js'
import { ObjectRequest, READ } from './request.js'
import { sleep } from './sleep.js'

const PIECE = 256 * 1024
const PIECES_IN_FLIGHT = 2

export interface CopierOptions {
  clock: Clock
  pacer: Pacer
  store: ObjectStore
  peers: Peers
  replica: Replica
}

export class Copier {
  /** Read from other nodes, ever */
  bytesTaken = 0
  readonly meter: RateMeter

  constructor(private readonly options: CopierOptions) {
    this.meter = new RateMeter(options.clock)
  }

  /**
   * Fills it with what `from` holds; `asIs`: also what is rotten there; `hurried` says whether somebody waits for it.
   * SheepError unreachable, no-space, io.
   */
  async copyExtents(
    filling: Filling,
    from: string,
    epoch: number,
    oid: Oid,
    extents: readonly [number, number][],
    sourceBusy: boolean,
    asIs: boolean,
    hurried: () => boolean,
  ): Promise<void> {
    const { clock, pacer } = this.options
    const pieces: [number, number][] = []
    for (const [offset, length] of extents) {
      for (let at = offset; at < offset + length; at += PIECE) pieces.push([at, Math.min(PIECE, offset + length - at)])
    }
    let next = 0
    const worker = async () => {
      const slab = takeSlab(PIECE)
      try {
        while (next < pieces.length) {
          const [position, length] = pieces[next++]
          const delay = hurried() ? 0 : pacer.delay(length)
          if (delay > 0) await sleep(clock, delay)
          const began = clock.now()
          await this.fetch(slab.bytes, from, epoch, oid, position, length, asIs ? FLAG_AS_IS : 0)
          const put = await filling.put(slab.bytes, length, position)
          if (put < 0) throw diskTrouble(put)
          const rest = Pacer.rest(clock.now() - began, length)
          if (rest > 0 && (sourceBusy || pacer.busy) && !hurried()) await sleep(clock, rest)
        }
      } finally {
        slab.release()
      }
    }
    await Promise.all(Array.from({ length: PIECES_IN_FLIGHT }, worker))
  }

  /** Makes `object` equal to the copy of `from`, in place. False: that is gone, or `usable` said no. SheepError as above. */
  async equalize(object: StoredObject, from: string, epoch: number, usable: () => boolean): Promise<boolean> {
    const { store, peers, replica } = this.options
    const { oid } = object
    // Counted as requests are: a new epoch begins here only when nothing of the old one is on its way to this copy.
    const put = async (start: (done: Completion) => void): Promise<void> => {
      replica.began()
      const result = await completed((done) =>
        start({
          complete: (result) => {
            replica.ended()
            done.complete(result)
          },
        }),
      )
      if (result < 0) throw diskTrouble(result)
    }
    const answer = await peers.call(from, 'grains', { epoch, oid })
    if ((answer.json as { present?: unknown }).present !== true) return false
    const own = await grainsOf(store, object)
    const { fetch, clear } = differingGrains(own.hashes, decodeGrains(answer.body))
    const data = Buffer.allocUnsafe(GRAIN)
    for (const grain of fetch) {
      await this.fetch(data, from, epoch, oid, grain * GRAIN, GRAIN)
      if (!usable()) return false
      await put((done) => store.write(object, data, 0, GRAIN, grain * GRAIN, done))
    }
    for (const grain of clear) {
      if (!usable()) return false
      await put((done) => store.punch(object, grain * GRAIN, GRAIN, done))
    }
    return usable()
  }

  /** Into the beginning of `buffer`. */
  private async fetch(
    buffer: Buffer,
    from: string,
    epoch: number,
    oid: Oid,
    position: number,
    length: number,
    flags = 0,
  ): Promise<void> {
    const got = await new Promise<number>((resolve) => {
      this.options.peers.submit(from, new RecoveryRead(epoch, oid, position, length, buffer, resolve, flags))
    })
    if (got < 0) throw new SheepError('unreachable', `reading ${oidToHex(oid)} from ${from} failed (${got})`)
    this.bytesTaken += length
    this.meter.add(length)
  }
}

export class RecoveryRead extends ObjectRequest {
  constructor(
    epoch: number,
    oid: Oid,
    position: number,
    length: number,
    buffer: Buffer,
    private readonly resolve: (result: number) => void,
    flags: number,
  ) {
    super()
    this.kind = READ
    this.epoch = epoch
    this.oid = oid
    this.position = position
    this.length = length
    this.buffer = buffer
    this.flags = FLAG_RECOVERY | flags
  }

  complete(result: number): void {
    this.resolve(result)
  }
}

export function diskTrouble(result: number, what = ''): SheepError {
  return new SheepError(result === -28 ? 'no-space' : 'io', `${what}errno ${-result}`)
}

export function isNoSpace(error: unknown): boolean {
  return error instanceof DiskError ? error.errno === 28 : error instanceof SheepError && error.code === 'no-space'
}
