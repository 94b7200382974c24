/** A volume that this daemon has open, and its clients. */
import { assert } from '../assert.js'
import { SheepError } from '../errors.js'
import type { Completion, Extent } from '../host/interfaces.js'
import type { VdiEntry } from '../vdi/types.js'
import type { Hold } from './holds.js'
import type { QuorumWait } from './quorum-wait.js'
import type { FileVolume, ShareMode } from './types.js'
import type { GatewayVolume } from './volume.js'

export interface OpenVolume {
  volume: GatewayVolume
  session: string
  shareable: boolean
  readonly clients: Set<SharedVolume>
  /** Set once the last client has gone */
  closing: Promise<void> | null
  holder: string
  /** Its writes are held back: null they are not */
  hold: Hold | null
  /** Its lock has become its own, and its index is being read */
  arriving: boolean
  /** Objects of deleted ancestors that are being freed */
  readonly releasing: Set<Promise<void>>
  /** How long its clients wait without quorum */
  readonly quorum: QuorumWait
}

/** One client's hold on a volume that several may share. */
export class SharedVolume implements FileVolume {
  onChange: ((what: 'resized' | 'revoked') => void) | null = null
  private readonly volume: GatewayVolume
  private closing: Promise<void> | null = null

  constructor(
    private readonly open: OpenVolume,
    private readonly leave: () => Promise<void>,
  ) {
    this.volume = open.volume
    open.clients.add(this)
  }

  get entry(): VdiEntry {
    return this.volume.entry
  }
  get size(): number {
    return this.volume.size
  }
  get readOnly(): boolean {
    return this.volume.readOnly
  }
  get objectSize(): number {
    return this.volume.objectSize
  }

  read(buffer: Uint8Array, bufferOffset: number, length: number, offset: number, done: Completion): void {
    const { volume, quorum } = this
    if (quorum.waitsForEver) volume.read(buffer, bufferOffset, length, offset, done)
    else
      quorum.run(buffer, bufferOffset, length, true, done, (bytes, ended) =>
        volume.read(bytes, 0, length, offset, ended),
      )
  }

  write(
    buffer: Uint8Array,
    bufferOffset: number,
    length: number,
    offset: number,
    fua: boolean,
    done: Completion,
  ): void {
    const { volume, quorum } = this
    if (quorum.waitsForEver) volume.write(buffer, bufferOffset, length, offset, fua, done)
    else
      quorum.run(buffer, bufferOffset, length, false, done, (bytes, ended) =>
        volume.write(bytes, 0, length, offset, fua, ended),
      )
  }

  zero(length: number, offset: number, keepBlocks: boolean, fua: boolean, done: Completion): void {
    this.bounded(done, (ended) => this.volume.zero(length, offset, keepBlocks, fua, ended))
  }

  discard(length: number, offset: number, fua: boolean, done: Completion): void {
    this.bounded(done, (ended) => this.volume.discard(length, offset, fua, ended))
  }

  writeGrowing(buffer: Uint8Array, bufferOffset: number, length: number, offset: number, done: Completion): void {
    const { volume, quorum } = this
    if (quorum.waitsForEver) volume.writeGrowing(buffer, bufferOffset, length, offset, done)
    else
      quorum.run(buffer, bufferOffset, length, false, done, (bytes, ended) =>
        volume.writeGrowing(bytes, 0, length, offset, ended),
      )
  }

  recordLength(length: number): Promise<number> {
    return this.alone(() => this.volume.recordLength(length))
  }

  allocate(length: number, offset: number, done: Completion): void {
    this.bounded(done, (ended) => this.volume.allocate(length, offset, ended))
  }

  share(index: number, source: FileVolume, mode: ShareMode): Promise<number> {
    assert(source instanceof SharedVolume, 'the source is a volume of this gateway')
    return this.alone(() => this.volume.share(index, source.volume, mode))
  }

  flush(done: Completion): void {
    this.bounded(done, (ended) => this.volume.flush(ended))
  }

  extents(length: number, offset: number): Promise<Extent[]> {
    const { volume, quorum } = this
    if (quorum.waitsForEver) return volume.extents(length, offset)
    return quorum.ask(
      () => volume.extents(length, offset),
      () => {
        throw new SheepError('io', 'this host is without quorum', 'dog cluster info says why')
      },
    )
  }

  close(): Promise<void> {
    this.open.clients.delete(this)
    this.closing ??= this.leave()
    return this.closing
  }

  private get quorum(): QuorumWait {
    return this.open.quorum
  }

  private bounded(done: Completion, submit: (done: Completion) => void): void {
    if (this.quorum.waitsForEver) submit(done)
    else this.quorum.run(EMPTY, 0, 0, false, done, (_bytes, ended) => submit(ended))
  }

  private alone(work: () => Promise<number>): Promise<number> {
    return this.quorum.waitsForEver ? work() : this.quorum.alone(work)
  }
}

const EMPTY = new Uint8Array(0)
