/**
 * Copies of snapshots that programs make by reading and writing (libvirt's vol-clone, qemu-img convert, dd): what they have copied is
 * shared again, object by object, behind their backs.
 *
 * Snapshots that were read here lately may be what a file that is being written is a copy of. An object of the file is compared with the
 * snapshots' when UNDER_WAY others were written since, and at the last close of a writer. One that is equal, byte for byte, while
 * nobody else touches it (lib/gateway/share.ts), becomes the snapshot's; the first such makes the volume a clone of the snapshot. So what a
 * program wrote is stored until something else is proven to be the same, and what was not compared because of a crash just stays.
 * It is a copy in which order, pieces and holes ever: what is compared is what is there.
 *
 * A file that is no copy costs little: after MISSES_MAX objects in a row that differ nothing more of it is compared with that snapshot until
 * it is opened anew. A program that copies faster than its objects are compared waits, so that a copy never takes much more space than it
 * will have in the end. The snapshot is open, and so cannot be deleted, only while something is compared with it, and HOLD_MS on.
 */
import { SheepError } from '../errors.js'
import type { FileVolume } from '../gateway/types.js'
import type { Clock, Timer } from '../host/interfaces.js'
import type { FilesParts } from './parts.js'
import { shareEqual } from './sharing.js'

const READ_LATELY_MS = 60_000
/** Objects that one program may be writing at the same time */
export const UNDER_WAY = 8
/** Objects that wait to be compared */
const WAITING_MAX = 16
const SOURCES_MAX = 4
export const MISSES_MAX = 8
const HOLD_MS = 1_000

/** A snapshot, open until it is let go. */
export interface HeldSnapshot {
  volume: FileVolume
  letGo(): Promise<void>
}

/** The snapshots that programs on this host read. */
export class SnapshotReads {
  /** Node -> Clock.now() of the last read, the latest last */
  private readonly at = new Map<number, number>()

  constructor(
    private readonly clock: Clock,
    /** null: it cannot be had now */
    readonly hold: (node: number) => Promise<HeldSnapshot | null>,
  ) {}

  get any(): boolean {
    return this.at.size > 0
  }

  note(node: number): void {
    this.at.delete(node)
    this.at.set(node, this.clock.now())
  }

  /** Those of the last minute, the latest first. */
  lately(): number[] {
    const since = this.clock.now() - READ_LATELY_MS
    for (const [node, at] of this.at) if (at < since) this.at.delete(node)
    return [...this.at.keys()].reverse()
  }
}

/** What one open file's writes may be a copy of. */
export class CopyWatch {
  /** Objects written and not compared since, the latest last */
  private readonly written = new Set<number>()
  private latest = -1
  private complete: number[] = []
  private comparing: Promise<void> | null = null
  private waiters: (() => void)[] = []
  /** Node -> objects in a row that differ */
  private readonly misses = new Map<number, number>()
  /** What the last equal object was shared with */
  private found: { node: number; held: HeldSnapshot } | null = null
  /** Until that is let go */
  private idle: Timer | null = null

  constructor(
    private readonly parts: FilesParts,
    private readonly reads: SnapshotReads,
    /** null: it is not open for writing now */
    private readonly target: () => FileVolume | null,
  ) {}

  /** These bytes are being written. False: `room` must be waited for first. */
  wrote(offset: number, length: number, objectSize: number): boolean {
    const last = Math.floor((offset + length - 1) / objectSize)
    for (let index = Math.floor(offset / objectSize); index <= last; index++) {
      if (index === this.latest) continue
      this.written.delete(index)
      this.written.add(index)
      this.latest = index
    }
    if (this.written.size > UNDER_WAY) {
      for (const index of this.written) {
        if (this.written.size <= UNDER_WAY) break
        this.written.delete(index)
        this.complete.push(index)
      }
      this.begin()
    }
    return this.complete.length < WAITING_MAX
  }

  room(): Promise<void> {
    return new Promise((resolve) => this.waiters.push(resolve))
  }

  /** Nothing more is written: resolves when all is compared, and nothing is held. */
  async end(): Promise<void> {
    if (this.reads.any) this.complete.push(...this.written)
    this.written.clear()
    this.latest = -1
    this.begin()
    while (this.comparing !== null) await this.comparing
    this.misses.clear()
    await this.letGo()
  }

  /** Nothing more is compared. */
  abandon(): void {
    this.complete = []
    this.written.clear()
  }

  private begin(): void {
    if (this.complete.length === 0 || this.comparing !== null) return
    this.idle?.cancel()
    this.comparing = this.run().then(() => {
      this.comparing = null
      // Named after the last was taken
      if (this.complete.length > 0) {
        this.begin()
        return
      }
      this.idle = this.parts.clock.after(HOLD_MS, () => {
        if (this.comparing === null) void this.letGo()
      })
    })
  }

  private async letGo(): Promise<void> {
    const { found } = this
    this.found = null
    this.idle?.cancel()
    await found?.held.letGo()
  }

  private async run(): Promise<void> {
    for (let index = this.complete.shift(); index !== undefined; index = this.complete.shift()) {
      for (const node of this.candidates()) if (await this.compare(index, node)) break
      if (this.complete.length < WAITING_MAX) for (const resolve of this.waiters.splice(0)) resolve()
    }
  }

  private candidates(): number[] {
    if (this.found !== null) return [this.found.node]
    return this.reads
      .lately()
      .filter((node) => (this.misses.get(node) ?? 0) < MISSES_MAX)
      .slice(0, SOURCES_MAX)
  }

  /** True: it was equal, and is shared. */
  private async compare(index: number, node: number): Promise<boolean> {
    const held = this.found?.held ?? (await this.reads.hold(node))
    const equal = held !== null && (await this.isShared(held.volume, index))
    const misses = equal ? 0 : held === null ? MISSES_MAX : (this.misses.get(node) ?? 0) + 1
    this.misses.set(node, misses)
    if (held !== null && (equal || (this.found !== null && misses < MISSES_MAX))) {
      this.found = { node, held }
      return equal
    }
    this.found = null
    await held?.letGo()
    return false
  }

  private async isShared(snapshot: FileVolume, index: number): Promise<boolean> {
    const volume = this.target()
    if (volume === null) return false
    try {
      return (await shareEqual(this.parts, volume, snapshot, index)) === 0
    } catch (error) {
      // It stays a copy.
      if (!(error instanceof SheepError)) throw error
      this.parts.log('debug', `sharing what was copied: ${error.message}`)
      return false
    }
  }
}
