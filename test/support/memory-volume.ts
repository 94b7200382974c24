/** Volumes in memory behind the gateway's interface, for testing front-ends without a cluster. */
import { SheepError } from '../../lib/errors.js'
import type { OpenRequest, Volume, VolumeOpener } from '../../lib/gateway/types.js'
import type { Completion, Extent } from '../../lib/host/interfaces.js'
import type { VdiEntry } from '../../lib/vdi/types.js'

const BLOCK = 4096

type Timing = 'inline' | 'later' | 'mixed' | 'soon'

export interface MemoryVolumeOptions {
  /** When a request completes: inline (default), or in a later turn, in another order than issued; 'soon': the next turn, or inline */
  timing?: Timing
}

/** What a VDI holds, whichever volume opens it. */
interface Content {
  bytes: Buffer
  /** A byte per 4 KiB block: 1 data, 0 hole */
  written: Uint8Array
}

export class MemoryVolume implements Volume {
  readonly objectSize = 4 << 20
  readonly bytes: Buffer
  onChange: ((what: 'resized' | 'revoked') => void) | null = null
  flushes = 0
  closed = false
  /** What was asked for, in order: "write 4096 at 0 fua" */
  readonly calls: string[] = []
  /** Result of every request from now on, instead of doing it; 0 none */
  failWith = 0
  /** While true, requests complete only when `unfreeze` is called */
  private frozen: (() => void)[] | null = null
  private readonly written: Uint8Array
  private turn = 0

  constructor(
    readonly entry: VdiEntry,
    readonly readOnly: boolean,
    private readonly timing: Timing,
    content: Content,
  ) {
    this.bytes = content.bytes
    this.written = content.written
  }

  /** Its bytes do not grow with its entry. */
  get size(): number {
    return Math.min(this.entry.size, this.bytes.length)
  }

  freeze(): void {
    this.frozen ??= []
  }

  unfreeze(): void {
    const waiting = this.frozen ?? []
    this.frozen = null
    for (const run of waiting) run()
  }

  read(buffer: Uint8Array, bufferOffset: number, length: number, offset: number, done: Completion): void {
    this.run(`read ${length} at ${offset}`, done, () => {
      this.bytes.copy(buffer, bufferOffset, offset, offset + length)
      return length
    })
  }

  write(buffer: Uint8Array, start: number, length: number, offset: number, fua: boolean, done: Completion): void {
    this.run(`write ${length} at ${offset}${fua ? ' fua' : ''}`, done, () => {
      this.bytes.set(buffer.subarray(start, start + length), offset)
      this.written.fill(1, Math.floor(offset / BLOCK), Math.ceil((offset + length) / BLOCK))
      return length
    })
  }

  zero(length: number, offset: number, keepBlocks: boolean, fua: boolean, done: Completion): void {
    this.run(`zero ${length} at ${offset}${keepBlocks ? ' keep' : ''}${fua ? ' fua' : ''}`, done, () => {
      this.bytes.fill(0, offset, offset + length)
      this.written.fill(keepBlocks ? 1 : 0, Math.ceil(offset / BLOCK), Math.floor((offset + length) / BLOCK))
      return length
    })
  }

  discard(length: number, offset: number, fua: boolean, done: Completion): void {
    this.run(`discard ${length} at ${offset}${fua ? ' fua' : ''}`, done, () => {
      this.bytes.fill(0, offset, offset + length)
      this.written.fill(0, Math.ceil(offset / BLOCK), Math.floor((offset + length) / BLOCK))
      return length
    })
  }

  flush(done: Completion): void {
    this.run('flush', done, () => {
      this.flushes++
      return 0
    })
  }

  async extents(length: number, offset: number): Promise<Extent[]> {
    if (this.failWith !== 0) throw new SheepError('io', 'a fault was injected')
    const found: Extent[] = []
    for (let at = offset; at < offset + length; ) {
      const end = Math.min((Math.floor(at / BLOCK) + 1) * BLOCK, offset + length)
      if (this.written[Math.floor(at / BLOCK)] === 1) found.push({ offset: at, length: end - at })
      at = end
    }
    return found
  }

  async close(): Promise<void> {
    this.closed = true
  }

  private run(call: string, done: Completion, work: () => number): void {
    this.calls.push(call)
    const finish = () => done.complete(this.failWith === 0 ? work() : this.failWith)
    if (this.frozen !== null) {
      this.frozen.push(finish)
      return
    }
    // Every third turn waits longer than the next: a fixed pattern, so that a failure repeats.
    const turn = this.turn++
    if (this.timing === 'inline' || (this.timing !== 'later' && turn % 2 === 0)) finish()
    else if (this.timing !== 'soon' && turn % 3 === 0) setTimeout(finish, 1)
    else setImmediate(finish)
  }
}

export class MemoryOpener implements VolumeOpener {
  readonly entries: VdiEntry[] = []
  readonly volumes: MemoryVolume[] = []
  private readonly contents = new Map<VdiEntry, Content>()
  readonly requests: OpenRequest[] = []
  /** Thrown by open */
  refusal: SheepError | null = null
  /** open waits for it */
  gate: Promise<void> = Promise.resolve()

  constructor(private readonly options: MemoryVolumeOptions = {}) {}

  add(name: string, size: number, more: Partial<VdiEntry> = {}): VdiEntry {
    const entry: VdiEntry = {
      vid: this.entries.length + 1,
      name,
      tag: '',
      snapId: 1,
      parent: 0,
      size,
      copies: 3,
      blockSizeShift: 22,
      createTime: 0,
      snapshotTime: 0,
      state: 'live',
      creator: '',
      preallocated: false,
      epoch: 1,
      ...more,
    }
    this.entries.push(entry)
    return entry
  }

  async open(request: OpenRequest): Promise<Volume> {
    this.requests.push(request)
    await this.gate
    if (this.refusal !== null) throw this.refusal
    const entry = this.find(request.name, request.snapshot)
    const former = this.volumes.findLast((volume) => volume.entry === entry)
    if (former !== undefined && !former.closed && !request.readOnly) {
      throw new SheepError('locked', `${request.name} is open on this node`)
    }
    const content = this.contents.get(entry) ?? {
      bytes: Buffer.alloc(entry.size),
      written: new Uint8Array(Math.ceil(entry.size / BLOCK)),
    }
    this.contents.set(entry, content)
    const volume = new MemoryVolume(entry, request.readOnly, this.options.timing ?? 'inline', content)
    this.volumes.push(volume)
    return volume
  }

  list(): VdiEntry[] {
    return this.entries
  }

  find(name: string, snapshot: string): VdiEntry {
    const named = this.entries.filter((entry) => entry.name === name)
    if (named.length === 0)
      throw new SheepError('not-found', `no VDI named ${name}`, 'dog vdi list shows what there is')
    const entry = named.find((entry) => {
      if (snapshot === '') return entry.snapshotTime === 0
      return entry.snapshotTime !== 0 && (entry.tag === snapshot || String(entry.snapId) === snapshot)
    })
    if (entry === undefined) throw new SheepError('no-tag', `${name} has no snapshot ${snapshot}`)
    return entry
  }
}
