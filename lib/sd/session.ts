/**
 * One connection of a client that speaks the sheepdog protocol of old (QEMU's `sheepdog:` driver up to 6.0, and tools
 * built on it): wire-protocol.md. Such a client keeps the index itself; here the gateway does. So its data requests
 * become requests of the open volume, and what it writes into the inode's index is checked, not obeyed.
 */
import { InvariantError } from '../assert.js'
import type { ClusterView } from '../cluster/types.js'
import { asSheepError, ERRORS, SheepError } from '../errors.js'
import type { Volume, VolumeOpener } from '../gateway/types.js'
import type { Hold, Link, Log } from '../host/interfaces.js'
import { HEADER_LENGTH, OP, putU32, u16, u32, u64 } from '../protocol/header.js'
import { INDEX_OFFSET, INODE_BYTES } from '../vdi/inode.js'
import { textFromField } from '../vdi/name.js'
import type { ObjectIo } from '../vdi/object-io.js'
import { indexOf, KIND_DATA, KIND_INODE, KIND_VM_STATE, kindOf, type Oid, oidFromWords, vidOf } from '../vdi/oid.js'
import type { VdiEntry } from '../vdi/types.js'

const NAME_BYTES = 256
const TAG_OFFSET = 256
/** Largest read or write of one request */
const TRANSFER_MAX = 8 * 1024 * 1024
const REQUESTS_MAX = 1_024
/** Bytes to be written or read by the requests of one connection that are under way: beyond it, no more are taken */
const UNDER_WAY_MAX = 64 * 1024 * 1024
const BITMAP_BYTES = 2 ** 24 / 8

export interface SdServices {
  readonly cluster: ClusterView
  readonly volumes: VolumeOpener
  readonly io: ObjectIo
  readonly log: Log
  /** Entry of a vid in any state */
  entry(vid: number): VdiEntry | undefined
  usedVids(): Iterable<number>
  create(name: string, size: number, copies: number, blockSizeShift: number): Promise<VdiEntry>
  /** Clone of a snapshot's vid */
  clone(base: VdiEntry, name: string): Promise<VdiEntry>
  /** The new working VDI */
  snapshot(working: VdiEntry, tag: string): Promise<VdiEntry>
  remove(entry: VdiEntry): Promise<void>
}

/** Fields of a response header beyond result and length. */
interface Answer {
  payload?: Buffer
  vid?: number
  copies?: number
  blockSizeShift?: number
}

type Send = (header: Buffer, payload: Buffer | null) => void

export class SdSession {
  /** Open for writing by this connection, by name */
  private readonly open = new Map<string, Volume>()
  /** A snapshot's tag comes as a write into the inode, before the request that takes it */
  private readonly tags = new Map<number, string>()
  private running = 0
  private underWay = 0
  private waiting = false
  private closed = false

  constructor(
    private readonly services: SdServices,
    private readonly client: string,
    private readonly send: Send,
    /** Holds back and lets go what the client says */
    private readonly link: Pick<Link, 'pause' | 'resume'>,
  ) {}

  request(bytes: Buffer, at: number, payloadAt: number, payloadLength: number, _hold: Hold): void {
    const opcode = bytes[at + 1]
    const id = u32(bytes, at + 8)
    if (this.running >= REQUESTS_MAX) {
      this.answer(opcode, id, ERRORS.busy.result, {})
      return
    }
    // A request outlives the receive buffer; this front-end is for old clients, not for speed.
    const header = Buffer.from(bytes.subarray(at, at + HEADER_LENGTH))
    const payload = Buffer.from(bytes.subarray(payloadAt, payloadAt + payloadLength))
    const length = payload.length + wantedBytes(opcode, header)
    this.begin(length)
    this.run(opcode, header, payload)
      .then(
        (answer) => this.answer(opcode, id, 0, answer),
        (error: unknown) => {
          // A broken invariant stops the daemon: main hears of it as an unhandled rejection.
          if (error instanceof InvariantError) throw error
          if (!(error instanceof SheepError)) {
            this.services.log('error', `sheepdog protocol request ${opcode}: ${(error as Error).stack ?? error}`)
          }
          const { result, message } = asSheepError(error)
          this.services.log('debug', `sheepdog protocol request ${opcode}: ${message}`)
          this.answer(opcode, id, result, {})
        },
      )
      .finally(() => this.finish(length))
  }

  private begin(bytes: number): void {
    this.running++
    this.underWay += bytes
    if (this.waiting || this.underWay <= UNDER_WAY_MAX) return
    this.waiting = true
    this.link.pause?.()
  }

  private finish(bytes: number): void {
    this.running--
    this.underWay -= bytes
    if (!this.waiting || this.underWay > UNDER_WAY_MAX / 2) return
    this.waiting = false
    this.link.resume?.()
  }

  async end(): Promise<void> {
    this.closed = true
    const volumes = [...this.open.values()]
    this.open.clear()
    await Promise.all(volumes.map((volume) => volume.close()))
  }

  private answer(opcode: number, id: number, result: number, answer: Answer): void {
    if (this.closed) return
    const header = Buffer.alloc(HEADER_LENGTH)
    header[0] = 1
    header[1] = opcode
    putU32(header, 8, id)
    putU32(header, 12, answer.payload?.length ?? 0)
    putU32(header, 16, result)
    if (answer.vid !== undefined) {
      putU32(header, 24, answer.vid)
      header[32] = answer.copies ?? 0
      header[33] = answer.blockSizeShift ?? 0
    } else if (opcode === OP.GET_CLUSTER_DEFAULT) {
      header[20] = answer.copies ?? 0
      header[22] = answer.blockSizeShift ?? 0
    } else {
      header[20] = answer.copies ?? 0
    }
    this.send(header, answer.payload ?? null)
  }

  private async run(opcode: number, header: Buffer, payload: Buffer): Promise<Answer> {
    switch (opcode) {
      case OP.READ_OBJ:
        return this.read(header)
      case OP.WRITE_OBJ:
      case OP.CREATE_AND_WRITE_OBJ:
        return this.write(header, payload, opcode === OP.CREATE_AND_WRITE_OBJ)
      case OP.DISCARD_OBJ:
      case OP.REMOVE_OBJ:
        return this.discard(header)
      case OP.FLUSH_VDI:
        return this.flush(header)
      case OP.NEW_VDI:
        return this.newVdi(header, payload)
      case OP.LOCK_VDI:
        return this.lock(header, payload)
      case OP.GET_VDI_INFO:
        return this.info(header, payload)
      case OP.RELEASE_VDI:
        return this.release(header)
      case OP.DEL_VDI:
        return this.remove(header, payload)
      case OP.READ_VDIS:
        return this.bitmap()
      case OP.GET_CLUSTER_DEFAULT:
        return this.defaults()
      default:
        throw new SheepError('invalid', `no such request: ${opcode}`)
    }
  }

  // --- objects ----------------------------------------------------------------------------------------------------

  private async read(header: Buffer): Promise<Answer> {
    const { oid, offset } = objectIn(header)
    const wanted = u32(header, 12)
    if (wanted > TRANSFER_MAX) throw new SheepError('invalid', `a read of ${wanted} bytes`)
    const entry = this.entryOf(oid)
    const limit = kindOf(oid) === KIND_INODE ? INODE_BYTES : 2 ** entry.blockSizeShift
    const length = Math.max(0, Math.min(wanted, limit - offset))
    const volume = this.volumeOf(vidOf(oid))
    if (kindOf(oid) === KIND_DATA && volume !== undefined) {
      const payload = Buffer.alloc(length)
      const start = indexOf(oid) * volume.objectSize + offset
      const readable = Math.max(0, Math.min(length, volume.size - start))
      if (readable > 0) await until((done) => volume.read(payload, 0, readable, start, done))
      return { payload, copies: entry.copies }
    }
    // Past the object's end there is nothing; a peer would take such a position for a broken request.
    if (length === 0) return { payload: Buffer.alloc(0), copies: entry.copies }
    return { payload: await this.services.io.read(oid, offset, length), copies: entry.copies }
  }

  private async write(header: Buffer, payload: Buffer, create: boolean): Promise<Answer> {
    const { oid, offset } = objectIn(header)
    if (payload.length > TRANSFER_MAX) throw new SheepError('invalid', `a write of ${payload.length} bytes`)
    const entry = this.entryOf(oid)
    const volume = this.volumeOf(vidOf(oid))
    // Also when a snapshot was taken meanwhile: the client then looks the name up again.
    if (volume === undefined)
      throw new SheepError('read-only', `vid ${vidOf(oid).toString(16)} is not open for writing`)
    if (kindOf(oid) === KIND_INODE) return this.writeInode(entry, offset, payload)
    if (kindOf(oid) === KIND_VM_STATE) {
      if (offset + payload.length > 2 ** entry.blockSizeShift)
        throw new SheepError('invalid', 'past the end of an object')
      if (create) await this.services.io.create(oid, offset, payload)
      else await this.services.io.write(oid, offset, payload)
      return {}
    }
    const start = indexOf(oid) * volume.objectSize + offset
    // The last object may reach past the volume's end: clients write whole objects.
    const length = Math.min(payload.length, volume.size - start)
    if (offset + payload.length > volume.objectSize || length < 0) throw new SheepError('invalid', 'past the end')
    const fua = (u16(header, 2) & 0x08) !== 0
    if (length > 0) await until((done) => volume.write(payload, 0, length, start, fua, done))
    return { copies: entry.copies }
  }

  private async writeInode(entry: VdiEntry, offset: number, payload: Buffer): Promise<Answer> {
    if (offset < INDEX_OFFSET) {
      const end = offset + payload.length
      if (offset <= TAG_OFFSET && end >= TAG_OFFSET + NAME_BYTES) {
        this.tags.set(entry.vid, textFromField(payload.subarray(TAG_OFFSET - offset, TAG_OFFSET - offset + NAME_BYTES)))
      }
      return {}
    }
    // The gateway entered these when the object was written.
    return {}
  }

  private async discard(header: Buffer): Promise<Answer> {
    const { oid } = objectIn(header)
    const volume = this.volumeOf(vidOf(oid))
    if (volume === undefined) throw new SheepError('read-only', 'not open for writing')
    if (kindOf(oid) !== KIND_DATA) {
      await this.services.io.remove([oid])
      return {}
    }
    const start = indexOf(oid) * volume.objectSize
    const length = Math.min(volume.objectSize, volume.size - start)
    if (length > 0) await until((done) => volume.discard(length, start, false, done))
    return {}
  }

  private async flush(header: Buffer): Promise<Answer> {
    const { oid } = objectIn(header)
    const volume = this.volumeOf(vidOf(oid))
    if (volume === undefined) throw new SheepError('read-only', 'not open for writing')
    await until((done) => volume.flush(done))
    return {}
  }

  // --- VDIs -------------------------------------------------------------------------------------------------------

  private async newVdi(header: Buffer, payload: Buffer): Promise<Answer> {
    const { services } = this
    const name = nameIn(payload, 0)
    const base = u32(header, 24)
    if (base === 0) {
      const size = u64(header, 16)
      return answerOf(await services.create(name, size, header[28], header[31]))
    }
    const entry = services.entry(base)
    if (entry === undefined) throw new SheepError('not-found', `no vid ${base.toString(16)}`)
    if (u32(header, 32) === 0) return answerOf(await services.clone(entry, name))
    const tag = this.tags.get(base) ?? ''
    this.tags.delete(base)
    return answerOf(await services.snapshot(entry, tag))
  }

  private async lock(header: Buffer, payload: Buffer): Promise<Answer> {
    const entry = this.find(header, payload)
    if (entry.snapshotTime !== 0) return answerOf(entry)
    if (this.open.has(entry.name)) throw new SheepError('locked', `${entry.name} is open on this connection`)
    const volume = await this.services.volumes.open({
      name: entry.name,
      snapshot: '',
      readOnly: false,
      holder: this.client,
      shareable: false,
    })
    if (this.closed) await volume.close()
    else this.open.set(entry.name, volume)
    return answerOf(volume.entry)
  }

  private async info(header: Buffer, payload: Buffer): Promise<Answer> {
    return answerOf(this.find(header, payload))
  }

  private async release(header: Buffer): Promise<Answer> {
    const vid = u32(header, 24)
    const volume = this.volumeOf(vid)
    // A snapshot is not locked; releasing it is no error.
    if (volume === undefined) return {}
    this.open.delete(volume.entry.name)
    await volume.close()
    return {}
  }

  private async remove(header: Buffer, payload: Buffer): Promise<Answer> {
    await this.services.remove(this.find(header, payload))
    return {}
  }

  private async bitmap(): Promise<Answer> {
    const payload = Buffer.alloc(BITMAP_BYTES)
    for (const vid of this.services.usedVids()) payload[vid >> 3] |= 1 << (vid & 7)
    return { payload }
  }

  private async defaults(): Promise<Answer> {
    const { config } = this.services.cluster
    if (config === null) throw new SheepError('wait-for-format', 'the cluster is not formatted')
    return { copies: config.copies, blockSizeShift: config.blockSizeShift }
  }

  private find(header: Buffer, payload: Buffer): VdiEntry {
    const name = nameIn(payload, 0)
    const tag = payload.length >= 2 * NAME_BYTES ? nameIn(payload, NAME_BYTES) : ''
    const snapId = u32(header, 32)
    return this.services.volumes.find(name, tag !== '' ? tag : snapId !== 0 ? String(snapId) : '')
  }

  private entryOf(oid: Oid): VdiEntry {
    const entry = this.services.entry(vidOf(oid))
    if (entry === undefined) throw new SheepError('no-object', `no vid ${vidOf(oid).toString(16)}`)
    return entry
  }

  private volumeOf(vid: number): Volume | undefined {
    for (const volume of this.open.values()) if (volume.entry.vid === vid) return volume
    return undefined
  }
}

/** How long the answer may be. */
function wantedBytes(opcode: number, header: Buffer): number {
  if (opcode === OP.READ_VDIS) return BITMAP_BYTES
  return opcode === OP.READ_OBJ ? Math.min(u32(header, 12), TRANSFER_MAX) : 0
}

function objectIn(header: Buffer): { oid: Oid; offset: number } {
  const oid = oidFromWords(u32(header, 20), u32(header, 16))
  if (oid < 0) throw new SheepError('invalid', 'not an object id')
  return { oid, offset: u32(header, 40) }
}

function nameIn(payload: Buffer, at: number): string {
  if (payload.length < at + NAME_BYTES) throw new SheepError('invalid', 'the request carries no name')
  return textFromField(payload.subarray(at, at + NAME_BYTES))
}

function answerOf(entry: VdiEntry): Answer {
  return { vid: entry.vid, copies: entry.copies, blockSizeShift: entry.blockSizeShift }
}

async function until(start: (done: { complete(result: number): void }) => void): Promise<void> {
  const result = await new Promise<number>((resolve) => start({ complete: resolve }))
  if (result === -28) throw new SheepError('no-space', 'no space left')
  if (result === -108) throw new SheepError('read-only', 'the volume is no longer open here')
  if (result < 0) throw new SheepError('io', `errno ${-result}`)
}
