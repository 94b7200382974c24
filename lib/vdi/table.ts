/**
 * What the registry holds, with the indexes that keep it fast for ten thousand VDIs: entries by vid, vids by name, children by
 * parent, locks by vid and by session. Questions about it, and its form at rest. What may change and when is `registry.ts`.
 *
 * Entries and locks are replaced, never changed: a holder of one has what was true.
 */
import { assert } from '../assert.js'
import { SheepError } from '../errors.js'
import {
  checkCopies,
  checkEpoch,
  checkFlag,
  checkNode,
  checkOnNoQuorum,
  checkText,
  checkTime,
  checkVid,
  HOLDER_MAX,
  SESSION_MAX,
} from './command.js'
import { checkFile } from './file.js'
import { checkFits, checkShift, checkSize } from './inode.js'
import { checkName, checkTag, formatReference, quoted, snapIdOf } from './name.js'
import type { VdiCommand, VdiEntry, VdiFile, VdiLock, VdiMigration } from './types.js'

export interface RegistryJson {
  /** by vid */
  entries: VdiEntry[]
  /** by vid, the writer first, node, session */
  locks: VdiLock[]
  /** vids freed in this epoch, in this order; the newest FREED_MAX of them */
  freed: { epoch: number; vids: number[] }
  /** by vid */
  migrations: VdiMigration[]
}

/** What lives under one name. */
interface NameRecord {
  /** vid; 0 none */
  working: number
  /** vid of the entry in `creating`; 0 none */
  pending: number
  /** by snapId */
  snapshots: Map<number, number>
  tags: Map<string, number>
}

/** A VDI or snapshot as people write it. */
export function referenceOf(entry: VdiEntry): string {
  return entry.snapshotTime === 0
    ? entry.name
    : formatReference(entry.name, entry.tag === '' ? entry.snapId : entry.tag)
}

export function sessionKey(node: string, session: string): string {
  return `${node}\n${session}`
}

/** The writer before its migration's target. */
function byRank(a: VdiLock, b: VdiLock): number {
  if (a.mode !== b.mode) return a.mode === 'write' ? -1 : 1
  return sessionKey(a.node, a.session) < sessionKey(b.node, b.session) ? -1 : 1
}

export class VdiTable {
  protected readonly entries = new Map<number, VdiEntry>()
  protected readonly names = new Map<string, NameRecord>()
  protected readonly childrenOf = new Map<number, Set<number>>()
  protected readonly locksOf = new Map<number, VdiLock[]>()
  /** sessionKey -> vid that it holds */
  protected readonly sessions = new Map<string, number>()
  private freed = { epoch: 0, vids: new Set<number>() }
  /** by vid; only of VDIs that somebody has open for writing */
  protected readonly migrations = new Map<number, VdiMigration>()

  // ---- queries

  /** Entries in any state: used vids. */
  get size(): number {
    return this.entries.size
  }

  get(vid: number): VdiEntry | undefined {
    return this.entries.get(vid)
  }

  /** Live working VDI. */
  working(name: string): VdiEntry | undefined {
    return this.entries.get(this.names.get(name)?.working ?? 0)
  }

  /** Entry in `creating` under this name: a new VDI, or one that is to replace the working VDI. */
  pending(name: string): VdiEntry | undefined {
    return this.entries.get(this.names.get(name)?.pending ?? 0)
  }

  /** What this command, just applied, has begun to create. */
  begunBy(command: VdiCommand): VdiEntry | undefined {
    switch (command.op) {
      case 'create':
        return this.pending(command.name)
      case 'snapshot-begin':
        return this.pending(this.entries.get(command.vid)?.name ?? '')
      case 'rollback-begin':
        return this.pending(this.entries.get(command.snapshot)?.name ?? '')
      default:
        return undefined
    }
  }

  /** Live snapshots of a name, oldest first. */
  snapshots(name: string): VdiEntry[] {
    const record = this.names.get(name)
    if (record === undefined) return []
    return Array.from(record.snapshots.values(), (vid) => this.must(vid)).sort((a, b) => a.snapId - b.snapId)
  }

  /** `snapshot`: tag or decimal snapshot id; '' is the working VDI. SheepError not-found, no-tag. */
  find(name: string, snapshot: string): VdiEntry {
    const record = this.names.get(name)
    if (snapshot === '') {
      const working = this.working(name)
      if (working !== undefined) return working
      const pending = this.pending(name)
      if (pending !== undefined) {
        throw new SheepError(
          'not-found',
          `VDI "${name}" is being created by node ${pending.creator}`,
          'try again when it is ready',
        )
      }
      if (record !== undefined) {
        throw new SheepError(
          'not-found',
          `VDI "${name}" has snapshots but no working VDI`,
          `dog vdi rollback, or dog vdi list ${name}`,
        )
      }
    }
    if (record === undefined || (record.working === 0 && record.snapshots.size === 0)) {
      throw new SheepError('not-found', `no VDI ${quoted(name)}`, 'dog vdi list shows what there is')
    }
    const vid = record.tags.get(snapshot) ?? record.snapshots.get(snapIdOf(snapshot))
    if (vid === undefined) {
      throw new SheepError(
        'no-tag',
        `VDI "${name}" has no snapshot ${quoted(snapshot)}`,
        `dog vdi list ${name} shows its snapshots`,
      )
    }
    return this.must(vid)
  }

  /** All live VDIs and snapshots, by name, then age. */
  live(): VdiEntry[] {
    const live: VdiEntry[] = []
    for (const entry of this.entries.values()) if (entry.state === 'live') live.push(entry)
    return live.sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : a.snapId - b.snapId))
  }

  /** Every entry, in no particular order. */
  all(): IterableIterator<VdiEntry> {
    return this.entries.values()
  }

  /** Direct descendants in any state, by vid. */
  children(vid: number): number[] {
    const children = this.childrenOf.get(vid)
    return children === undefined ? [] : Array.from(children).sort((a, b) => a - b)
  }

  /** By vid, node, session. */
  locks(): VdiLock[] {
    return Array.from(this.locksOf.values())
      .flat()
      .sort((a, b) => a.vid - b.vid || byRank(a, b))
  }

  /** The write lock, or one of the read locks. */
  lockOf(vid: number): VdiLock | undefined {
    return this.locksOf.get(vid)?.[0]
  }

  /** The lock that this session of this node holds, on whatever VDI. */
  lockOfSession(node: string, session: string): VdiLock | undefined {
    const vid = this.sessions.get(sessionKey(node, session))
    return this.locksOf.get(vid ?? 0)?.find((lock) => lock.node === node && lock.session === session)
  }

  /** A live migration that was announced and not ended yet; its time may be over. */
  migrationOf(vid: number): VdiMigration | undefined {
    return this.migrations.get(vid)
  }

  // ---- for the registry

  protected must(vid: number): VdiEntry {
    const entry = this.entries.get(vid)
    assert(entry !== undefined, `vid ${vid} has an entry`)
    return entry
  }

  /** Sets or replaces the entry of `entry.vid` and keeps the indexes. */
  protected put(entry: VdiEntry): VdiEntry {
    const former = this.entries.get(entry.vid)
    if (former !== undefined) this.unindex(former)
    this.entries.set(entry.vid, entry)
    if (entry.parent !== 0) {
      const siblings = this.childrenOf.get(entry.parent)
      if (siblings === undefined) this.childrenOf.set(entry.parent, new Set([entry.vid]))
      else siblings.add(entry.vid)
    }
    if (entry.state !== 'live' && entry.state !== 'creating') return entry
    let record = this.names.get(entry.name)
    if (record === undefined) {
      record = { working: 0, pending: 0, snapshots: new Map(), tags: new Map() }
      this.names.set(entry.name, record)
    }
    if (entry.state === 'creating') {
      assert(record.pending === 0, `one pending VDI named ${entry.name}`)
      record.pending = entry.vid
    } else if (entry.snapshotTime === 0) {
      assert(record.working === 0, `one working VDI named ${entry.name}`)
      record.working = entry.vid
    } else {
      assert(!record.snapshots.has(entry.snapId), `one snapshot ${entry.snapId} of ${entry.name}`)
      record.snapshots.set(entry.snapId, entry.vid)
      if (entry.tag !== '') {
        assert(!record.tags.has(entry.tag), `one snapshot ${entry.tag} of ${entry.name}`)
        record.tags.set(entry.tag, entry.vid)
      }
    }
    return entry
  }

  /** vids that are not to be given again in `epoch` */
  protected freedIn(epoch: number): ReadonlySet<number> {
    return this.freed.epoch === epoch ? this.freed.vids : NONE
  }

  protected drop(entry: VdiEntry, epoch: number): void {
    if (this.freed.epoch !== epoch) this.freed = { epoch, vids: new Set() }
    const { vids } = this.freed
    vids.add(entry.vid)
    if (vids.size > FREED_MAX) for (const oldest of vids) if (vids.delete(oldest)) break
    assert(
      !this.childrenOf.has(entry.vid) && !this.locksOf.has(entry.vid),
      'a VDI that goes has neither children nor locks',
    )
    this.unindex(entry)
    this.entries.delete(entry.vid)
    const siblings = this.childrenOf.get(entry.parent)
    siblings?.delete(entry.vid)
    if (siblings?.size === 0) this.childrenOf.delete(entry.parent)
  }

  private unindex(entry: VdiEntry): void {
    const record = this.names.get(entry.name)
    if (record === undefined) return
    if (record.working === entry.vid) record.working = 0
    if (record.pending === entry.vid) record.pending = 0
    if (record.snapshots.get(entry.snapId) === entry.vid) record.snapshots.delete(entry.snapId)
    if (record.tags.get(entry.tag) === entry.vid) record.tags.delete(entry.tag)
    if (record.working === 0 && record.pending === 0 && record.snapshots.size === 0) this.names.delete(entry.name)
  }

  protected putLock(lock: VdiLock): void {
    // Sorted, so that every member names the same holder to whom it refuses
    this.locksOf.set(lock.vid, [...(this.locksOf.get(lock.vid) ?? []), lock].sort(byRank))
    this.sessions.set(sessionKey(lock.node, lock.session), lock.vid)
  }

  protected dropLock(lock: VdiLock): void {
    const rest = (this.locksOf.get(lock.vid) ?? []).filter((one) => one !== lock)
    if (rest.length === 0) this.locksOf.delete(lock.vid)
    else this.locksOf.set(lock.vid, rest)
    this.sessions.delete(sessionKey(lock.node, lock.session))
  }

  // ---- at rest and on the wire

  toJSON(): RegistryJson {
    const { epoch, vids } = this.freed
    const byVid = (a: { vid: number }, b: { vid: number }) => a.vid - b.vid
    return {
      entries: Array.from(this.entries.values()).sort(byVid),
      locks: this.locks(),
      migrations: Array.from(this.migrations.values()).sort(byVid),
      freed: { epoch, vids: Array.from(vids) },
    }
  }

  /** Into an empty table. SheepError invalid when `json` is no registry: from a peer or a disk, it is checked like a stranger's. */
  protected restore(json: unknown): void {
    const { entries, locks, migrations = [] } = (json ?? {}) as Partial<RegistryJson>
    if (!Array.isArray(entries) || !Array.isArray(locks) || !Array.isArray(migrations)) {
      throw new SheepError('invalid', 'a registry has entries, locks and migrations')
    }
    for (const untrusted of entries) {
      const entry = checkEntry(untrusted)
      this.refuseDouble(entry)
      this.put(entry)
    }
    this.checkParents()
    for (const untrusted of locks) this.restoreLock(checkLock(untrusted))
    const { epoch, vids } = ((json as Partial<RegistryJson>).freed ?? {}) as Partial<RegistryJson['freed']>
    checkEpoch(epoch, 'registry: vids freed')
    if (!Array.isArray(vids)) throw new SheepError('invalid', 'registry: vids freed')
    for (const vid of vids) checkVid(vid, 'registry: vids freed')
    this.freed = { epoch, vids: new Set(vids) }
    for (const untrusted of migrations) {
      const migration = checkMigration(untrusted)
      if (this.lockOf(migration.vid)?.mode !== 'write' || this.migrations.has(migration.vid)) {
        throw new SheepError('invalid', `registry: migration of vid ${migration.vid} cannot be`)
      }
      this.migrations.set(migration.vid, migration)
    }
  }

  private refuseDouble(entry: VdiEntry): void {
    const record = this.names.get(entry.name)
    const live = entry.state === 'live'
    const taken =
      (live && entry.snapshotTime === 0 && record?.working) ||
      (live && entry.snapshotTime !== 0 && (record?.snapshots.has(entry.snapId) || record?.tags.has(entry.tag))) ||
      (entry.state === 'creating' && record?.pending)
    if (this.entries.has(entry.vid) || taken) {
      throw new SheepError('invalid', `registry: vid ${entry.vid} ("${referenceOf(entry)}") is there twice`)
    }
  }

  private checkParents(): void {
    const rooted = new Set<number>([0])
    for (const start of this.entries.values()) {
      const path = new Set<number>()
      for (let vid = start.vid; !rooted.has(vid); vid = this.must(vid).parent) {
        if (!this.entries.has(vid) || path.has(vid)) {
          throw new SheepError('invalid', `registry: vid ${start.vid} has no root`)
        }
        path.add(vid)
      }
      for (const vid of path) rooted.add(vid)
      const parent = this.entries.get(start.parent)
      const copying = start.state === 'creating' || start.state === 'deleting'
      if (
        parent !== undefined &&
        ((start.state === 'creating' && parent.state !== 'live') ||
          parent.state === 'creating' ||
          (parent.state === 'live' && parent.snapshotTime === 0 && !copying))
      ) {
        throw new SheepError('invalid', `registry: vid ${start.vid} cannot descend from vid ${parent.vid}`)
      }
    }
  }

  private restoreLock(lock: VdiLock): void {
    const entry = this.entries.get(lock.vid)
    const others = this.locksOf.get(lock.vid) ?? []
    // The writer comes before its target, as `locks` has them.
    const beside =
      lock.mode === 'target'
        ? others.length === 1 && others[0].mode === 'write' && others[0].node !== lock.node
        : others.length === 0 || (lock.mode === 'read' && others[0].mode === 'read')
    if (
      entry?.state !== 'live' ||
      (lock.mode !== 'read' && entry.snapshotTime !== 0) ||
      !beside ||
      this.sessions.has(sessionKey(lock.node, lock.session))
    ) {
      throw new SheepError('invalid', `registry: lock of vid ${lock.vid} by node ${lock.node} cannot be`)
    }
    this.putLock(lock)
  }
}

/** By then the removal of the oldest one's objects is on every member's disk. */
export const FREED_MAX = 16_384
const NONE: ReadonlySet<number> = new Set()
const STATES: readonly string[] = ['creating', 'live', 'deleting', 'deleted']

function checkEntry(value: unknown): VdiEntry {
  const entry = (value ?? {}) as VdiEntry
  checkVid(entry.vid, 'registry entry')
  const what = `registry entry of vid ${entry.vid}`
  checkName(entry.name)
  if (entry.tag !== '') checkTag(entry.tag)
  if (entry.parent !== 0) checkVid(entry.parent, `${what}: parent`)
  checkSize(entry.size)
  checkShift(entry.blockSizeShift)
  checkFits(entry.size, entry.blockSizeShift)
  checkCopies(entry.copies)
  checkTime(entry.createTime, `${what}: creation time`)
  checkTime(entry.snapshotTime, `${what}: snapshot time`)
  checkFlag(entry.preallocated, `${what}: preallocated`)
  checkEpoch(entry.epoch, `${what}: epoch`)
  if (entry.origin !== undefined) checkVid(entry.origin, `${what}: origin`)
  if (entry.file !== undefined) checkFile(entry.file, entry.size, what)
  if (entry.onNoQuorum !== undefined) checkOnNoQuorum(entry.onNoQuorum, what)
  if (entry.givenUp !== undefined) checkFlag(entry.givenUp, `${what}: given up`)
  if (!Number.isInteger(entry.snapId) || entry.snapId < 1 || entry.snapId > 0xffffffff) {
    throw new SheepError('invalid', `${what}: snapshot id ${quoted(entry.snapId)}`)
  }
  checkText(entry.creator, `${what}: creator`, SESSION_MAX)
  const busy = entry.state === 'creating' || entry.state === 'deleting'
  if (
    !STATES.includes(entry.state) ||
    (!busy && entry.creator !== '') ||
    (entry.state === 'creating' && entry.creator === '')
  ) {
    throw new SheepError('invalid', `${what}: state ${quoted(entry.state)} by ${quoted(entry.creator)}`)
  }
  const { vid, name, tag, snapId, parent, size, copies, blockSizeShift } = entry
  const { createTime, snapshotTime, state, creator, preallocated, epoch } = entry
  return {
    vid,
    name,
    tag,
    snapId,
    parent,
    size,
    copies,
    blockSizeShift,
    createTime,
    snapshotTime,
    state,
    creator,
    preallocated,
    epoch,
    ...(entry.origin === undefined ? {} : { origin: entry.origin }),
    ...(entry.file === undefined ? {} : { file: fileOf(entry.file) }),
    ...(entry.onNoQuorum === undefined ? {} : { onNoQuorum: entry.onNoQuorum }),
    ...(entry.givenUp === true ? { givenUp: true } : {}),
  }
}

function fileOf({ length, growing, mode, uid, gid, mtime, xattrs }: VdiFile): VdiFile {
  return { length, growing, mode, uid, gid, mtime, xattrs: { ...xattrs } }
}

function checkLock(value: unknown): VdiLock {
  const lock = (value ?? {}) as VdiLock
  checkVid(lock.vid, 'registry lock')
  const what = `registry lock of vid ${lock.vid}`
  checkNode(lock.node, what)
  checkNode(lock.session, what)
  checkText(lock.holder, what, HOLDER_MAX)
  checkTime(lock.since, what)
  if (lock.mode !== 'write' && lock.mode !== 'read' && lock.mode !== 'target')
    throw new SheepError('invalid', `${what}: mode ${quoted(lock.mode)}`)
  const { vid, node, session, mode, since, holder } = lock
  return { vid, node, session, mode, since, holder }
}

function checkMigration(value: unknown): VdiMigration {
  const migration = (value ?? {}) as VdiMigration
  checkVid(migration.vid, 'registry migration')
  const what = `registry migration of vid ${migration.vid}`
  checkText(migration.to, what, SESSION_MAX)
  checkTime(migration.since, what)
  checkTime(migration.until, what)
  const { vid, to, since, until } = migration
  return { vid, to, since, until }
}
