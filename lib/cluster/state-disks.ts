/**
 * The cluster's state on all disks of a member, so that it survives the loss of any of them: each holds the whole (state-disk.ts).
 * What is written counts when it is on all of them that work. At the start the newest whole one counts, and the others are brought
 * up to it; so are those that come later, or that had no room.
 */
import { assert } from '../assert.js'
import { SheepError } from '../errors.js'
import { type Disk, DiskError, type Log } from '../host/interfaces.js'
import type { Entry } from './history.js'
import type { ClusterState } from './state.js'
import { StateDisk } from './state-disk.js'
import type { EpochRecord } from './types.js'

const ENOSPC = 28
const EIO = 5
/** A disk without room for the log is tried again after so many changes. */
const PATIENCE = 64

export interface LogDisks {
  /** Those that work now; `own`: it was this member's all the time */
  list(): readonly { disk: Disk; own: boolean }[]
  /** It did not do what it was asked for: it is not in the list any more when this returns, unless it is the last */
  failed(disk: Disk, what: string): void
}

/** A member with one disk. */
export function onlyDisk(disk: Disk): LogDisks {
  return { list: () => [{ disk, own: true }], failed: () => {} }
}

interface Mirror {
  disk: Disk
  state: StateDisk
  /** Holds less than the others, or nothing */
  behind: boolean
  /** Times that `compact` still passes by before it tries to bring it up to the others again */
  patience: number
}

interface Loaded {
  state: ClusterState
  effective: number
}

export class StateDisks {
  private mirrors: Mirror[] = []
  private writing = false
  private closed = false
  /** The newest epoch on the member's own disks, when it started */
  ownEpoch = 0

  constructor(
    private readonly disks: LogDisks,
    private readonly log: Log,
  ) {}

  /** As StateDisk.load. SheepError io when none of them is whole, and one is damaged; DiskError when the last one fails. */
  async load(): Promise<Loaded | null> {
    let best: Loaded | null = null
    let damage: SheepError | null = null
    const loaded = new Map<Mirror, Loaded | null>()
    for (const { disk, own } of this.disks.list()) {
      const mirror: Mirror = { disk, state: new StateDisk(disk), behind: true, patience: 0 }
      try {
        const found = await mirror.state.load()
        loaded.set(mirror, found)
        if (found === null) continue
        if (own) this.ownEpoch = Math.max(this.ownEpoch, found.state.history.epoch.number)
        if (best === null || isNewer(found.state, best.state)) best = found
      } catch (error) {
        mirror.state.close()
        if (error instanceof SheepError) {
          damage = error
          loaded.set(mirror, null)
        } else this.failed(mirror, error)
      }
    }
    this.mirrors = [...loaded.keys()].filter((mirror) => this.works(mirror))
    if (best === null) {
      if (damage !== null) throw damage
      return null
    }
    if (damage !== null) this.log('error', `${damage.message}: the copy on another disk takes its place`)
    for (const mirror of this.mirrors) {
      const found = loaded.get(mirror)
      mirror.behind = found?.state.history.digest !== best.state.history.digest || found.effective !== best.effective
    }
    // The newest is all on its disk; what took effect here may be newer elsewhere.
    const { state, effective } = best
    for (const mirror of this.mirrors) if (mirror.behind) this.bring(mirror, state, effective)
    return best
  }

  /** `effective`: epochs up to this number have taken effect */
  private bring(mirror: Mirror, state: ClusterState, effective: number): void {
    this.tried(mirror, () => {
      mirror.state.install(state, effective)
      mirror.behind = false
    })
  }

  /** Some disk that works is not up to date: `install` may help when an append has failed on all others. */
  get hasSpare(): boolean {
    this.meet()
    return this.working().some((mirror) => mirror.behind)
  }

  /** The whole state, whatever was there before: durable on return. `effective` as in `bring`. DiskError when no disk takes it. */
  install(state: ClusterState, effective = Number.POSITIVE_INFINITY): void {
    assert(!this.writing, 'a snapshot does not pass entries on their way to the log')
    this.meet()
    for (const mirror of this.working()) this.bring(mirror, state, effective)
    this.refuseNone('install')
  }

  /** `done` gets 0 when the entries are on all disks that are up to date, else a negative errno: on none. */
  append(entries: readonly Entry[], done: (result: number) => void): void {
    assert(!this.writing, 'one batch at a time')
    this.writing = true
    const current = this.working().filter((mirror) => !mirror.behind)
    let left = current.length + 1
    let failure = -EIO
    const ended = (): void => {
      if (--left > 0) return
      this.writing = false
      done(this.working().some((mirror) => !mirror.behind && current.includes(mirror)) ? 0 : failure)
    }
    for (const mirror of current) {
      mirror.state.append(entries, (result) => {
        if (result < 0) {
          failure = result
          mirror.behind = true
          if (result !== -ENOSPC)
            this.failed(mirror, new DiskError(-result, 'write', 'cluster/log', `errno ${-result}`), true)
          else this.log('warning', 'a disk has no room for the log of cluster changes; others have it')
        }
        ended()
      })
    }
    ended()
  }

  /** Only when all entries applied are on disk, and no other. `effective` as in `bring`. */
  compact(state: ClusterState, effective: number): void {
    if (this.writing) return
    this.meet()
    const none = this.working().every((mirror) => mirror.behind)
    for (const mirror of this.working()) {
      if (mirror.behind && (none || mirror.patience-- <= 0)) {
        mirror.patience = PATIENCE
        this.bring(mirror, state, effective)
      } else if (!mirror.behind) this.tried(mirror, () => mirror.state.compact(state))
    }
    this.refuseNone('compact')
  }

  /** As StateDisk.saveEpochs; `state` is what was applied with them. */
  saveEpochs(records: readonly EpochRecord[], state: ClusterState): void {
    for (const mirror of this.working()) if (!mirror.behind) this.tried(mirror, () => mirror.state.saveEpochs(records))
    if (this.working().every((mirror) => mirror.behind)) {
      this.meet()
      for (const mirror of this.working()) this.bring(mirror, state, Number.POSITIVE_INFINITY)
    }
    this.refuseNone('save epochs')
  }

  close(): void {
    this.closed = true
    for (const { state } of this.mirrors) state.close()
  }

  /** Disks that have come since. */
  private meet(): void {
    for (const { disk } of this.disks.list()) {
      if (this.mirrors.some((mirror) => mirror.disk === disk)) continue
      const mirror: Mirror = { disk, state: new StateDisk(disk), behind: true, patience: 0 }
      this.mirrors.push(mirror)
      this.tried(mirror, () => {
        disk.makeDirectory('cluster')
        disk.makeDirectory('epoch')
      })
    }
  }

  private working(): Mirror[] {
    const gone = this.mirrors.filter((mirror) => !this.works(mirror))
    for (const { state } of gone) state.close()
    this.mirrors = this.mirrors.filter((mirror) => !gone.includes(mirror))
    return [...this.mirrors]
  }

  private works(mirror: Mirror): boolean {
    return !this.closed && this.disks.list().some(({ disk }) => disk === mirror.disk)
  }

  private tried(mirror: Mirror, work: () => void): void {
    if (!this.works(mirror)) return
    try {
      work()
    } catch (error) {
      mirror.behind = true
      this.failed(mirror, error)
    }
  }

  private failed(mirror: Mirror, error: unknown, told = false): void {
    if (!(error instanceof DiskError)) throw error
    // The last one: it is its caller's to fail.
    if (this.disks.list().length === 1) {
      if (told) return
      throw error
    }
    if (error.errno === ENOSPC) return
    this.disks.failed(mirror.disk, error.message)
  }

  private refuseNone(operation: string): void {
    if (this.mirrors.some((mirror) => !mirror.behind && this.works(mirror))) return
    throw new DiskError(ENOSPC, operation, 'cluster/log', 'no disk has room for the cluster state')
  }
}

function isNewer(a: ClusterState, b: ClusterState): boolean {
  const [m, n] = [a.history.epoch.number, b.history.epoch.number]
  return m !== n ? m > n : a.history.seq > b.history.seq
}
