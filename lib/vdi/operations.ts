/**
 * What an administrator does to VDIs, as steps that leave the cluster whole wherever the node that runs them stops: how VDIs are made
 * is in `making.ts`, how objects are freed in `reclaim.ts`, how a VDI is cut in `shrink.ts`.
 *
 * A snapshot of an open VDI: after the reservation nobody new can open it, then its gateway is held: no write in flight, and none starts
 * before the commit is delivered to it. What was written before is flushed while it is held, for the guest's next flush will speak of the child.
 *
 * Short operations run under the cluster's exclusive right, so that two on one name wait for each other instead of failing with `busy`; the
 * registry keeps them safe without it. Preallocating, cutting and freeing are long and run outside it.
 */
import type { ClusterView } from '../cluster/types.js'
import { asSheepError, SheepError } from '../errors.js'
import type { Clock, Log } from '../host/interfaces.js'
import { SHRINK_SESSION } from './command.js'
import { checkSize, entriesFor, shiftForSize } from './inode.js'
import { createInode, readIndex, readLength, spread } from './inode-io.js'
import { Making } from './making.js'
import type { ObjectIo } from './object-io.js'
import { dataOid } from './oid.js'
import { type Progress, Reclaim } from './reclaim.js'
import { type Registry, referenceOf } from './registry.js'
import { shrink } from './shrink.js'
import type { VdiCommand, VdiEntry, VdiFile, VdiLock } from './types.js'

/** Waiting for a gateway to finish the writes it has in flight. */
export const HOLD_MS_MAX = 30_000

/** Writing an inode while others wait for the exclusive right: some milliseconds, unless a replica is away or recovers. */
export const BUILD_MS_MAX = 60_000

/** Preallocating goes at the disks' speed; its progress is shown. */
const ALLOCATE_MS_MAX = 7 * 24 * 3600 * 1000

/** Objects preallocated at once. */
const ALLOCATIONS_AT_ONCE = 8

/** Interrupted operations ended at once: one that waits for an absent replica does not stop the others. */
const RESUMES_AT_ONCE = 16

/** Implemented by the gateway layer. */
export interface Quiesce {
  /**
   * Holds the volume that has `vid` open for writing, on whichever node that is: resolves when no write of it (nor a Reclaim.release) is in
   * flight and none will start. The hold ends at the gateway when the commit or the abort of the VDI's pending child is delivered to it,
   * or when this node leaves the cluster; never by time, else writes could go on before the commit. The returned function
   * ends it too and is for a hold that came too late to be used. Rejects when the lock is gone or its node does not answer.
   */
  hold(vid: number): Promise<() => void>
  /**
   * Of the data objects with these indexes, those that the volume which is open under this lock refers to or is just making: it
   * is the only one that can. null when nobody can tell now: it is being opened or closed, or its node does not answer.
   */
  referred(lock: VdiLock, indexes: readonly number[]): Promise<ReadonlySet<number> | null>
}

export interface VdiOperationsParts {
  cluster: ClusterView
  registry: () => Registry
  io: ObjectIo
  log: Log
  clock: Clock
  quiesce: Quiesce
}

export interface CreateRequest {
  name: string
  /** bytes */
  size: number
  /** Default: the cluster's */
  copies?: number
  /** Default: the cluster's, or larger when `size` needs it */
  blockSizeShift?: number
  /** Reserve all blocks now */
  preallocated?: boolean
  file?: VdiFile
  /** ms; 0: requests wait for the quorum for ever. Default: as the cluster says */
  onNoQuorum?: number
}

export class VdiOperations {
  readonly reclaim: Reclaim
  private readonly making: Making
  private readonly ending = new Set<number>()
  private shrinks = 0

  constructor(private readonly parts: VdiOperationsParts) {
    const { registry, io, log, clock, cluster } = parts
    const self = () => cluster.self.id
    const propose = (command: VdiCommand, everywhere = false) => cluster.propose({ type: 'vdi', command }, everywhere)
    this.reclaim = new Reclaim({ self, registry, io, log, propose, writers: parts.quiesce })
    this.making = new Making({ self, registry, propose, reclaim: this.reclaim, clock, log })
  }

  /** A new working VDI, all zeros. Progress in bytes reserved. SheepError exists, invalid, too-big, no-space, table-full. */
  async create(request: CreateRequest, progress: Progress = () => {}): Promise<VdiEntry> {
    const config = this.parts.cluster.config
    if (config === null) throw new SheepError('wait-for-format', 'the cluster is not formatted', 'dog cluster format')
    const { name, size, copies = config.copies, preallocated = false, onNoQuorum } = request
    checkSize(size)
    const blockSizeShift = request.blockSizeShift ?? shiftForSize(size, config.blockSizeShift)
    return this.making.make(
      {
        ...{ op: 'create', name, size, copies, blockSizeShift, parent: 0, preallocated },
        ...fileIn(request),
        ...(onNoQuorum === undefined ? {} : { onNoQuorum }),
      },
      preallocated ? ALLOCATE_MS_MAX : BUILD_MS_MAX,
      async (entry) => {
        // Names all its objects before the first one exists, so that they are found if this stops half-way
        const entries = preallocated ? entriesFor(size, blockSizeShift) : 0
        await createInode(this.parts.io, entry, new Uint32Array(entries).fill(entry.vid))
        if (preallocated) await this.allocate(entry, progress)
      },
      readyCommand,
    )
  }

  /** The working VDI freezes as a snapshot and goes on as its child. Answers the snapshot. `tag` '' for none. */
  async snapshot(name: string, tag: string): Promise<VdiEntry> {
    return this.parts.cluster.exclusive(async () => {
      const { vid } = this.registry.find(name, '')
      await this.making.make(
        { op: 'snapshot-begin', vid, tag },
        BUILD_MS_MAX,
        async (child) => {
          // The bulk of it while writes still go on
          await this.parts.io.flush(vid)
          await this.hold(vid)
          this.making.mustBuild(child)
          await this.parts.io.flush(vid)
          await this.copyIndex(vid, child)
        },
        (child) => ({ op: 'snapshot-commit', vid, child, tag }),
      )
      return this.entry(vid)
    })
  }

  /** A new working VDI that starts with a snapshot's content. Copies default to the snapshot's. */
  async clone(name: string, snapshot: string, newName: string, copies?: number): Promise<VdiEntry> {
    return this.parts.cluster.exclusive(async () => {
      const source = this.registry.find(name, snapshot)
      const { size, blockSizeShift, vid: parent } = source
      return this.making.make(
        {
          op: 'create',
          name: newName,
          size,
          copies: copies ?? source.copies,
          blockSizeShift,
          parent,
          preallocated: false,
        },
        BUILD_MS_MAX,
        (entry) => this.copyIndex(parent, entry),
        readyCommand,
      )
    })
  }

  /** The working VDI's content becomes the snapshot's; what it was since is freed. Answers the new working VDI. */
  async rollback(name: string, snapshot: string, progress?: Progress): Promise<VdiEntry> {
    let former = 0
    const made = await this.parts.cluster.exclusive(async () => {
      const source = this.registry.find(name, snapshot)
      if (source.snapshotTime === 0) {
        throw new SheepError('invalid', `"${name}" is no snapshot`, 'say to which: dog vdi rollback -s TAG NAME')
      }
      former = this.registry.working(name)?.vid ?? 0
      return this.making.make(
        { op: 'rollback-begin', snapshot: source.vid },
        BUILD_MS_MAX,
        (entry) => this.copyIndex(source.vid, entry),
        (child) => ({ op: 'rollback-commit', child }),
      )
    })
    if (former === 0) return made
    try {
      await this.reclaim.free(former, progress)
    } catch (error) {
      const { message } = asSheepError(error)
      this.parts.log('warning', 'rolled back; freeing what was there will be tried again', { name, error: message })
    }
    return made
  }

  /** Gone from sight at once; resolves when its space is given back. Its snapshots and clones stay. SheepError locked. */
  async delete(name: string, snapshot: string, progress?: Progress): Promise<void> {
    const vid = await this.parts.cluster.exclusive(async () => {
      const entry = this.registry.find(name, snapshot)
      await this.propose({ op: 'delete-begin', vid: entry.vid }, true)
      return entry.vid
    })
    try {
      await this.reclaim.free(vid, progress)
    } catch (thrown) {
      const { code, message } = asSheepError(thrown)
      const what = `"${name}" is deleted, but not all its space is free: ${message}`
      throw new SheepError(code, what, 'the rest follows by itself; dog node list: is a node in trouble?')
    }
  }

  /** Grows (also an open VDI), or with `shrinking` cuts a closed one. What is added reads as zeros and is thin. */
  async resize(name: string, size: number, shrinking: boolean): Promise<VdiEntry> {
    checkSize(size)
    const smaller = await this.parts.cluster.exclusive(async () => {
      const { vid, size: former } = this.registry.find(name, '')
      if (size < former) return true
      await this.propose({ op: 'resize', vid, size })
      return false
    })
    const entry = this.registry.find(name, '')
    if (!smaller) return entry
    if (!shrinking) {
      throw new SheepError(
        'invalid',
        `VDI "${name}" has ${entry.size} bytes: ${size} would cut off its end`,
        'first shrink what is in it; then say so with --shrink',
      )
    }
    const { io, log } = this.parts
    const propose = (command: VdiCommand) => this.propose(command)
    await shrink({ io, log, propose, reclaim: this.reclaim }, entry, size, ++this.shrinks)
    return this.entry(entry.vid)
  }

  /** The working VDI and all its snapshots. Open ones stay open. SheepError exists, not-found. */
  async rename(name: string, newName: string): Promise<void> {
    await this.parts.cluster.exclusive(() => this.propose({ op: 'rename', name, newName }))
  }

  /** What the working VDI does without quorum: ms, 0: its requests wait for ever; null: as the cluster says. SheepError not-found, busy. */
  async setOnNoQuorum(name: string, ms: number | null): Promise<VdiEntry> {
    const { vid } = this.registry.find(name, '')
    await this.propose({ op: 'set-on-no-quorum', vid, ms })
    return this.entry(vid)
  }

  /** `tag` '' takes the tag away. SheepError exists. */
  async setTag(name: string, snapshot: string, tag: string): Promise<VdiEntry> {
    const { vid } = this.registry.find(name, snapshot)
    await this.propose({ op: 'set-tag', vid, tag })
    return this.entry(vid)
  }

  /**
   * Ends what was begun and not ended: by this process, or, when this node is the lowest present, by nodes that have left. To be called after
   * each epoch change and every few seconds, on every node. Never rejects; what fails is logged and tried at the next call.
   */
  async resumeInterrupted(): Promise<void> {
    const vids = Array.from(this.registry.all(), (entry) => entry.vid).filter((vid) => this.isToBeEnded(vid))
    await spread(vids.length, RESUMES_AT_ONCE, async (i) => {
      const vid = vids[i]
      if (this.parts.cluster.status !== 'running' || !this.isToBeEnded(vid)) return
      this.ending.add(vid)
      try {
        if (this.making.isInterrupted(vid)) await this.propose({ op: 'abort', vid })
        await this.propose({ op: 'delete-begin', vid }, true)
        await this.reclaim.free(vid)
      } catch (error) {
        const { message } = asSheepError(error)
        this.parts.log('warning', 'ending an interrupted VDI operation failed; it will be tried again', {
          vid,
          error: message,
        })
      } finally {
        this.ending.delete(vid)
      }
    })
  }

  private isToBeEnded(vid: number): boolean {
    const { cluster } = this.parts
    if (this.ending.has(vid) || this.making.isBuilding(vid) || this.reclaim.isFreeing(vid)) return false
    if (this.making.isInterrupted(vid)) return true
    const entry = this.registry.get(vid)
    if (entry?.state !== 'deleting') return false
    const lowest = cluster.epoch?.nodes[0]?.id === cluster.self.id
    return entry.creator === cluster.self.id || (entry.creator === '' && lowest)
  }

  private get registry(): Registry {
    return this.parts.registry()
  }

  private entry(vid: number): VdiEntry {
    const entry = this.registry.get(vid)
    if (entry === undefined) throw new SheepError('not-found', `vid ${vid} has been deleted meanwhile`)
    return entry
  }

  private propose(command: VdiCommand, everywhere = false): Promise<unknown> {
    return this.parts.cluster.propose({ type: 'vdi', command }, everywhere)
  }

  /** Makes `target`'s inode with the index of `source`, which does not change meanwhile. */
  private async copyIndex(source: number, target: VdiEntry): Promise<void> {
    const { size, blockSizeShift } = this.entry(source)
    const index = await readIndex(this.parts.io, source, 0, entriesFor(size, blockSizeShift))
    const growing = target.file?.growing === true
    await createInode(this.parts.io, target, index, growing ? await readLength(this.parts.io, source) : undefined)
  }

  private async allocate(entry: VdiEntry, progress: Progress): Promise<void> {
    const { vid, size, blockSizeShift } = entry
    const objectSize = 2 ** blockSizeShift
    let done = 0
    await spread(entriesFor(size, blockSizeShift), ALLOCATIONS_AT_ONCE, async (i) => {
      const length = Math.min(objectSize, size - i * objectSize)
      await this.parts.io.allocate(dataOid(vid, i), length)
      done += length
      progress(done, size)
    })
    await this.parts.io.flush(vid)
  }

  /** Holds the volume's gateway if it is open for writing. While a child is pending no new lock appears, so this ends. */
  private async hold(vid: number): Promise<void> {
    for (;;) {
      const lock = this.registry.lockOf(vid)
      if (lock?.mode !== 'write') return
      if (lock.session.startsWith(SHRINK_SESSION)) {
        throw new SheepError(
          'busy',
          `"${referenceOf(this.entry(vid))}" is being shrunk by node ${lock.node}`,
          'try again in a moment',
        )
      }
      try {
        return await this.holdWithin(vid, `${lock.holder} on node ${lock.node}`)
      } catch (error) {
        if (this.registry.lockOf(vid) === lock) throw error
      }
    }
  }

  private holdWithin(vid: number, holder: string): Promise<void> {
    return new Promise((resolve, reject) => {
      let late = false
      const timer = this.parts.clock.after(HOLD_MS_MAX, () => {
        late = true
        const what = `writes of ${holder} did not pause within ${HOLD_MS_MAX / 1000} s`
        reject(new SheepError('timeout', what, 'dog node list: is a node in trouble?'))
      })
      this.parts.quiesce.hold(vid).then(
        (release) => {
          timer.cancel()
          if (late) release()
          else resolve()
        },
        (error) => {
          timer.cancel()
          reject(error)
        },
      )
    })
  }
}

function fileIn({ file }: CreateRequest): { file?: VdiFile } {
  return file === undefined ? {} : { file }
}

function readyCommand(vid: number): VdiCommand {
  return { op: 'ready', vid }
}
