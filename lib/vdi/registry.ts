/**
 * The registry of VDIs: what exists, who descends from whom, who has it open. A pure state machine that every member runs over the
 * same commands in the same order; so its answers depend on nothing but its state and the command, never on the order in which
 * entries were inserted (a member that joined got them sorted).
 *
 *                create              ready
 *      (nothing) -------> creating ---------> live --+-- delete-begin ---> deleting --delete-done--> deleted --> (nothing)
 *          snapshot-begin    |   snapshot-commit     |                        ^                (last descendant gone)
 *          rollback-begin    |   rollback-commit     +-- rollback-commit -----+
 *                            +-- abort, creator left -------------------------+
 *
 * - One name has at most one working VDI and at most one entry in `creating` (the *pending* one). While there is a pending one
 *   its working VDI takes no new lock, so nobody starts to write into what is being copied.
 * - A live VDI whose child is `creating` is not deleted: the child's index is a copy of its own, so objects that a pending child
 *   needs are kept by its parent.
 * - `creating` and `deleting` have one node in charge (`creator`); only that node ends the state. When it leaves, `creating` becomes
 *   `deleting`, and a `deleting` one waits for a node that claims it with delete-begin. A node that left and came back can therefore
 *   never end what another has taken over, and a vid is not free before its one deleter says so.
 * - `deleted` entries stay while a descendant exists: objects are named by them.
 * - A vid is given again in a later epoch than the one it was freed in. So the epoch of an entry tells its own objects from those
 *   of a former VDI, which a node that was away may still have.
 */
import { assert } from '../assert.js'
import { SheepError } from '../errors.js'
import { checkContext, checkVdiCommand } from './command.js'
import { changedFile, lengthOf, withLength } from './file.js'
import { checkFits } from './inode.js'
import { Locking } from './locking.js'
import { quoted, vidHash } from './name.js'
import { KIND_INODE, kindOf, MAX_VID, type Oid, vidOf } from './oid.js'
import { referenceOf } from './table.js'
import type { CommandContext, VdiCommand, VdiEntry } from './types.js'

export { referenceOf }

type Command<Op extends VdiCommand['op']> = Extract<VdiCommand, { op: Op }>

export class Registry extends Locking {
  /** SheepError invalid when `json`, a peer's or a disk's, is no registry. */
  static fromJSON(json: unknown): Registry {
    const registry = new Registry()
    registry.restore(json)
    return registry
  }

  /** SheepError when refused: then nothing has changed. The result is plain JSON. */
  apply(untrusted: VdiCommand, context: CommandContext): unknown {
    const command = checkVdiCommand(untrusted)
    checkContext(context)
    switch (command.op) {
      case 'create':
        return this.create(command, context)
      case 'ready':
        return this.ready(command, context)
      case 'abort':
        return this.abort(command, context)
      case 'snapshot-begin':
        return this.snapshotBegin(command, context)
      case 'snapshot-commit':
        return this.snapshotCommit(command, context)
      case 'rollback-begin':
        return this.rollbackBegin(command, context)
      case 'rollback-commit':
        return this.rollbackCommit(command, context)
      case 'delete-begin':
        return this.deleteBegin(command, context)
      case 'delete-done':
        return this.deleteDone(command, context)
      case 'rename':
        return this.rename(command)
      case 'resize':
        return this.resize(command)
      case 'set-tag':
        return this.setTag(command)
      case 'set-on-no-quorum':
        return this.setOnNoQuorum(command)
      case 'set-file':
        return this.setFile(command)
      case 'adopt':
        return this.adopt(command, context)
      case 'lock':
        return this.lock(command, context)
      case 'unlock':
        return this.unlock(command, context)
      case 'break':
        return this.break(command, context)
      case 'migrate-begin':
        return this.migrateBegin(command, context)
      case 'migrate-cancel':
        return this.migrateCancel(command)
      case 'migrate-finish':
        return this.migrateFinish(command, context)
    }
  }

  /** The node is in the cluster no more: its locks go, what it was creating is to be freed, what it was freeing waits for another. */
  nodeLeft(node: string): void {
    this.locksLeft(node)
    for (const entry of this.entries.values()) {
      if (entry.creator === node) this.put({ ...entry, state: 'deleting', creator: '' })
    }
  }

  /** An administrator gave up what was lost of these objects. */
  giveUp(oids: readonly Oid[]): void {
    for (const oid of oids) {
      const entry = kindOf(oid) === KIND_INODE ? this.entries.get(vidOf(oid)) : undefined
      if (entry !== undefined) this.put({ ...entry, givenUp: true })
    }
  }

  private create(command: Command<'create'>, context: CommandContext): { vid: number } {
    const { name, size, copies, blockSizeShift, parent, preallocated, onNoQuorum } = command
    let { file } = command
    this.refuseTaken(name)
    if (parent !== 0) {
      const source = this.liveEntry(parent)
      if (source.snapshotTime === 0) {
        throw new SheepError(
          'invalid',
          `"${source.name}" is no snapshot`,
          `take one first: dog vdi snapshot -s TAG ${source.name}`,
        )
      }
      if (blockSizeShift !== source.blockSizeShift) {
        throw new SheepError('invalid', `a clone has its parent's object size, ${2 ** source.blockSizeShift} bytes`)
      }
      if (size < source.size) {
        throw new SheepError(
          'invalid',
          `a clone of ${source.size} bytes cannot have ${size}`,
          'clone it, then resize the clone',
        )
      }
      // Of a larger clone the file is as long as the clone.
      if (size === source.size) file = withLength(file, lengthOf(source.file))
    }
    const vid = this.freeVid(name, context.epoch)
    this.put({
      vid,
      name,
      tag: '',
      snapId: this.nextSnapId(name),
      parent,
      size,
      copies,
      blockSizeShift,
      createTime: context.time,
      snapshotTime: 0,
      state: 'creating',
      creator: context.sender,
      preallocated,
      epoch: context.epoch,
      ...(file === undefined ? {} : { file }),
      ...(onNoQuorum === undefined ? {} : { onNoQuorum }),
    })
    return { vid }
  }

  private ready({ vid }: Command<'ready'>, context: CommandContext): null {
    const entry = this.inCharge(vid, 'creating', context)
    if (this.names.get(entry.name)?.working !== 0) {
      throw new SheepError('invalid', `vid ${vid} is to replace the working VDI "${entry.name}", not to be another`)
    }
    this.put({ ...entry, state: 'live', creator: '' })
    return null
  }

  private abort({ vid }: Command<'abort'>, context: CommandContext): null {
    const entry = this.inCharge(vid, 'creating', context)
    this.put({ ...entry, state: 'deleting' })
    return null
  }

  private snapshotBegin({ vid, tag }: Command<'snapshot-begin'>, context: CommandContext): { vid: number } {
    const entry = this.workingEntry(vid)
    this.refusePending(entry.name)
    this.refuseMigrating(entry)
    this.refuseTag(entry.name, tag, 0)
    return { vid: this.reserveChild(entry, entry, context) }
  }

  private snapshotCommit({ vid, child, tag }: Command<'snapshot-commit'>, context: CommandContext): null {
    const next = this.inCharge(child, 'creating', context)
    if (next.parent !== vid) throw new SheepError('invalid', `vid ${child} is no child of ${vid}`)
    const entry = this.workingEntry(vid)
    this.refuseTag(entry.name, tag, 0)
    // 0 means "working", and a simulated clock may start there
    const { origin: _, ...frozen } = entry
    this.put({ ...frozen, tag, snapshotTime: Math.max(1, context.time) })
    const { file, origin = vid } = entry
    this.put({ ...next, state: 'live', creator: '', origin, ...(file === undefined ? {} : { file }) })
    this.moveWriter(vid, child)
    return null
  }

  private rollbackBegin({ snapshot }: Command<'rollback-begin'>, context: CommandContext): { vid: number } {
    const source = this.liveEntry(snapshot)
    if (source.snapshotTime === 0) throw new SheepError('invalid', `"${source.name}" is no snapshot`)
    this.refusePending(source.name)
    const working = this.working(source.name)
    if (working !== undefined) this.refuseLocked(working)
    return { vid: this.reserveChild(source, working ?? source, context) }
  }

  private rollbackCommit({ child }: Command<'rollback-commit'>, context: CommandContext): { deleting: number } {
    const next = this.inCharge(child, 'creating', context)
    const source = this.entries.get(next.parent)
    if (source === undefined || source.snapshotTime === 0 || source.name !== next.name) {
      throw new SheepError('invalid', `vid ${child} is no rollback of "${next.name}"`)
    }
    const former = this.working(next.name)
    if (former !== undefined) {
      assert(!this.locksOf.has(former.vid), 'a working VDI with a pending replacement takes no lock')
      this.put({ ...former, state: 'deleting', creator: context.sender })
    }
    this.put({ ...next, state: 'live', creator: '' })
    return { deleting: former?.vid ?? 0 }
  }

  private deleteBegin({ vid }: Command<'delete-begin'>, context: CommandContext): VdiEntry {
    const entry = this.entries.get(vid)
    if (entry?.state === 'deleting') {
      if (entry.creator !== '' && entry.creator !== context.sender) {
        throw new SheepError(
          'busy',
          `node ${entry.creator} is deleting "${referenceOf(entry)}"`,
          'it will be gone in a moment',
        )
      }
      return this.put({ ...entry, creator: context.sender })
    }
    const live = this.liveEntry(vid)
    this.refuseLocked(live)
    if (live.snapshotTime === 0) this.refusePending(live.name)
    for (const child of this.childrenOf.get(vid) ?? []) {
      const pending = this.must(child)
      if (pending.state !== 'creating') continue
      throw new SheepError(
        'busy',
        `"${referenceOf(live)}" is being copied to "${pending.name}" by node ${pending.creator}`,
        'try again in a moment',
      )
    }
    return this.put({ ...live, state: 'deleting', creator: context.sender })
  }

  private deleteDone({ vid, epoch }: Command<'delete-done'>, context: CommandContext): number[] | null {
    const entry = this.inCharge(vid, 'deleting', context)
    if (epoch !== context.epoch) return null
    const gone: number[] = []
    this.put({ ...entry, state: 'deleted', creator: '' })
    let last: VdiEntry | undefined = this.must(vid)
    while (last?.state === 'deleted' && !this.childrenOf.has(last.vid)) {
      const parent: VdiEntry | undefined = this.entries.get(last.parent)
      this.drop(last, context.epoch)
      gone.push(last.vid)
      last = parent
    }
    return gone
  }

  private rename({ name, newName }: Command<'rename'>): null {
    const record = this.names.get(name)
    if (record === undefined || (record.working === 0 && record.snapshots.size === 0)) {
      throw new SheepError('not-found', `no VDI ${quoted(name)}`, 'dog vdi list shows what there is')
    }
    this.refusePending(name)
    if (this.names.has(newName)) {
      throw new SheepError(
        'exists',
        `there is already something named ${quoted(newName)}`,
        'choose another name, or delete it first',
      )
    }
    const vids = record.working === 0 ? [] : [record.working]
    for (const vid of [...vids, ...record.snapshots.values()]) this.put({ ...this.must(vid), name: newName })
    return null
  }

  private resize({ vid, size, length = size, growing = false }: Command<'resize'>): null {
    const entry = this.workingEntry(vid)
    checkFits(size, entry.blockSizeShift)
    this.refusePending(entry.name)
    const file = withLength(entry.file, { length: length === size ? null : length, growing })
    this.put({ ...entry, size, ...(file === undefined ? {} : { file }) })
    return null
  }

  private setFile({ vid, change }: Command<'set-file'>): null {
    const entry = this.liveEntry(vid)
    this.put({ ...entry, file: changedFile(entry.file, change) })
    return null
  }

  private adopt({ vid, parent }: Command<'adopt'>, { sender }: CommandContext): null {
    const entry = this.workingEntry(vid)
    const source = this.liveEntry(parent)
    if (entry.parent === parent) return null
    if (source.snapshotTime === 0) throw new SheepError('invalid', `"${source.name}" is no snapshot`)
    if (entry.parent !== 0 || this.childrenOf.has(vid) || source.blockSizeShift !== entry.blockSizeShift) {
      throw new SheepError('invalid', `"${entry.name}" cannot become a clone of "${referenceOf(source)}"`)
    }
    const lock = this.lockOf(vid)
    if (lock?.mode !== 'write' || lock.node !== sender) {
      throw new SheepError('not-locked', `node ${sender} does not have "${entry.name}" open for writing`)
    }
    this.put({ ...entry, parent })
    return null
  }

  private setOnNoQuorum({ vid, ms }: Command<'set-on-no-quorum'>): null {
    const entry = this.workingEntry(vid)
    this.refusePending(entry.name)
    const { onNoQuorum: _, ...rest } = entry
    this.put(ms === null ? rest : { ...rest, onNoQuorum: ms })
    return null
  }

  private setTag({ vid, tag }: Command<'set-tag'>): null {
    const entry = this.liveEntry(vid)
    if (entry.snapshotTime === 0) throw new SheepError('invalid', `"${entry.name}" is no snapshot and has no tag`)
    this.refuseTag(entry.name, tag, vid)
    this.put({ ...entry, tag })
    return null
  }

  // ---- refusals

  private inCharge(vid: number, state: 'creating' | 'deleting', context: CommandContext): VdiEntry {
    const entry = this.entries.get(vid)
    if (entry === undefined || entry.state !== state || entry.creator !== context.sender) {
      throw new SheepError(
        'invalid',
        `vid ${vid} is not ${state} by node ${context.sender}: it is ${entry?.state ?? 'gone'}`,
      )
    }
    return entry
  }

  private refuseTaken(name: string): void {
    const record = this.names.get(name)
    if (record === undefined || (record.working === 0 && record.pending === 0)) return
    const pending = this.pending(name)
    throw new SheepError(
      'exists',
      pending === undefined ? `VDI "${name}" exists` : `VDI "${name}" is being created by node ${pending.creator}`,
      'choose another name, or delete it first',
    )
  }

  private refuseTag(name: string, tag: string, self: number): void {
    if (tag === '') return
    const taken = this.names.get(name)?.tags.get(tag)
    if (taken === undefined || taken === self) return
    throw new SheepError(
      'exists',
      `VDI "${name}" has a snapshot "${tag}"`,
      'choose another tag, or delete that snapshot first',
    )
  }

  // ---- state

  private reserveChild(parent: VdiEntry, like: VdiEntry, context: CommandContext): number {
    const vid = this.freeVid(parent.name, context.epoch)
    const file = withLength(like.file, lengthOf(parent.file))
    // A rollback begins another file: its origin must stay a vid that its own descendants keep.
    const { origin: _origin, file: _file, ...rest } = like
    this.put({
      ...rest,
      ...(file === undefined ? {} : { file }),
      vid,
      tag: '',
      snapId: this.nextSnapId(parent.name),
      parent: parent.vid,
      size: parent.size,
      blockSizeShift: parent.blockSizeShift,
      createTime: context.time,
      snapshotTime: 0,
      state: 'creating',
      creator: context.sender,
      preallocated: false,
      epoch: context.epoch,
    })
    return vid
  }

  /** The first free vid from the name's hash on, wrapping (wire-protocol.md, "vid"). One freed in this epoch is not free yet. */
  private freeVid(name: string, epoch: number): number {
    const freed = this.freedIn(epoch)
    if (this.entries.size + freed.size >= MAX_VID) {
      throw new SheepError('table-full', `all ${MAX_VID} VDI ids are taken`, 'delete VDIs or snapshots')
    }
    let vid = vidHash(name)
    while (vid === 0 || this.entries.has(vid) || freed.has(vid)) vid = (vid + 1) & MAX_VID
    return vid
  }

  private nextSnapId(name: string): number {
    const record = this.names.get(name)
    if (record === undefined) return 1
    let highest = 0
    for (const id of record.snapshots.keys()) highest = Math.max(highest, id)
    for (const vid of [record.working, record.pending]) highest = Math.max(highest, this.entries.get(vid)?.snapId ?? 0)
    return highest + 1
  }
}
