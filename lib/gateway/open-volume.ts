/** A volume that this daemon has open, and its clients. */
import { assert } from '../assert.js'
import type { Completion, Extent } from '../host/interfaces.js'
import type { VdiEntry } from '../vdi/types.js'
import type { FileVolume } from './types.js'
import type { GatewayVolume } from './volume.js'

export interface OpenVolume {
  volume: GatewayVolume
  session: string
  shareable: boolean
  readonly clients: Set<SharedVolume>
  /** Set once the last client has gone */
  closing: Promise<void> | null
  holder: string
  /** Node that holds back its writes, for a snapshot or a hand-over; '' none */
  heldBy: string
  /** Held for a migration's target, `heldBy`: until that one writes or gives up, nothing is answered here */
  handedOver: boolean
  /** Its lock has become its own, and its index is being read */
  arriving: boolean
  /** Objects of deleted ancestors that are being freed */
  readonly releasing: Set<Promise<void>>
  /** Freeing one of them failed: that is for each node to do, once this volume is closed */
  leftovers: boolean
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
    this.volume.read(buffer, bufferOffset, length, offset, done)
  }

  write(
    buffer: Uint8Array,
    bufferOffset: number,
    length: number,
    offset: number,
    fua: boolean,
    done: Completion,
  ): void {
    this.volume.write(buffer, bufferOffset, length, offset, fua, done)
  }

  zero(length: number, offset: number, keepBlocks: boolean, fua: boolean, done: Completion): void {
    this.volume.zero(length, offset, keepBlocks, fua, done)
  }

  discard(length: number, offset: number, fua: boolean, done: Completion): void {
    this.volume.discard(length, offset, fua, done)
  }

  writeGrowing(buffer: Uint8Array, bufferOffset: number, length: number, offset: number, done: Completion): void {
    this.volume.writeGrowing(buffer, bufferOffset, length, offset, done)
  }

  recordLength(length: number): Promise<number> {
    return this.volume.recordLength(length)
  }

  allocate(length: number, offset: number, done: Completion): void {
    this.volume.allocate(length, offset, done)
  }

  share(index: number, source: FileVolume, onlyEqual: boolean): Promise<number> {
    assert(source instanceof SharedVolume, 'the source is a volume of this gateway')
    return this.volume.share(index, source.volume, onlyEqual)
  }

  flush(done: Completion): void {
    this.volume.flush(done)
  }

  extents(length: number, offset: number): Promise<Extent[]> {
    return this.volume.extents(length, offset)
  }

  close(): Promise<void> {
    this.open.clients.delete(this)
    this.closing ??= this.leave()
    return this.closing
  }
}
