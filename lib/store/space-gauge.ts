import type { Clock, Disk, DiskSpace } from '../host/interfaces.js'

const MIB = 1 << 20
const AGE_MS_MAX = 1000

/**
 * Free space, asked of the disk at most once a second unless so much was written meanwhile that the answer could matter.
 * Below `reserve` no object is created, so that overwrites of what exists, logs and repair still have room.
 */
export class SpaceGauge {
  private known: DiskSpace
  private at: number
  private written = 0
  readonly reserve: number
  /** What recovery leaves free: it must not take the room that clients' new objects need */
  readonly recoveryReserve: number

  /** @param reserve bytes; -1: 2% of the disk, within 64 MiB and 1 GiB, but never over a quarter of it */
  constructor(
    private readonly disk: Disk,
    private readonly clock: Clock,
    reserve: number,
  ) {
    this.known = disk.space()
    this.at = clock.now()
    const { total } = this.known
    this.reserve = reserve >= 0 ? reserve : Math.min(total / 4, Math.max(64 * MIB, Math.min(1024 * MIB, total * 0.02)))
    this.recoveryReserve = Math.min(this.reserve * 2, Math.max(this.reserve, total * 0.4))
  }

  /** What the copy of an object that is received leaves free */
  least(urgent: boolean): number {
    return urgent ? this.reserve : this.recoveryReserve
  }

  /** At most this many more bytes are in use than when last asked. */
  wrote(bytes: number): void {
    this.written += bytes
  }

  space(): DiskSpace {
    if (this.clock.now() - this.at > AGE_MS_MAX) this.refresh()
    return this.known
  }

  /** Without asking the disk */
  estimate(): DiskSpace {
    return { total: this.known.total, free: this.known.free - this.written }
  }

  belowReserve(reserve = this.reserve): boolean {
    if (this.clock.now() - this.at > AGE_MS_MAX || this.known.free - this.written < reserve) this.refresh()
    return this.known.free < reserve
  }

  private refresh(): void {
    this.known = this.disk.space()
    this.at = this.clock.now()
    this.written = 0
  }
}
