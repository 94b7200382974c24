/**
 * Who has which VDI open: the part of the registry's state machine (registry.ts) that is about locks.
 *
 *     nobody --lock--> write --migrate-begin--> write, announced --lock, by the target--> write beside target
 *                        ^                        |        ^                                 |   |
 *                        |     migrate-cancel     |        |        target's unlock          |   |
 *                        +------------------------+        +---------------------------------+   |
 *                        +--- migrate-finish, or the source's unlock, or its node has left: the target's now
 *
 * - A VDI has one writer, or any number of readers, and beside the writer at most one target, on another node than the writer's.
 * - No snapshot is begun while a target is there: it would have to follow the writer to another vid.
 * - A lock ends by unlock, by `break`, or with its node. What `break`, or a finish with `fence`, leaves under way on the wire is
 *   refused by the epoch that follows.
 */
import { SheepError } from '../errors.js'
import { MIGRATION_MS_MAX, SHRINK_SESSION } from './command.js'
import { quoted } from './name.js'
import { referenceOf, sessionKey, VdiTable } from './table.js'
import type { CommandContext, VdiCommand, VdiEntry, VdiLock, VdiMigration } from './types.js'

type Command<Op extends VdiCommand['op']> = Extract<VdiCommand, { op: Op }>

export interface BrokenLocks {
  locks: readonly VdiLock[]
  /** The epoch that follows the command: once a replica is in it, it takes nothing of theirs any more */
  epoch: number
}

/** Who cuts a VDI writes past every gateway: nobody can stop it, and nobody may have the VDI open beside it. */
function refuseShrinking({ name }: VdiEntry, { session, node }: VdiLock): void {
  if (!session.startsWith(SHRINK_SESSION)) return
  throw new SheepError('busy', `"${name}" is being shrunk by node ${node}`, 'it is free in a moment')
}

export class Locking extends VdiTable {
  protected lock(command: Command<'lock'>, context: CommandContext): VdiEntry {
    const { vid, session, mode, holder } = command
    const { sender, time } = context
    const entry = this.liveEntry(vid)
    if (this.sessions.has(sessionKey(sender, session))) {
      const own = this.lockOfSession(sender, session)
      if (own?.vid === vid && (own.mode === mode || own.mode === 'target')) return entry
      throw new SheepError('invalid', `session ${quoted(session)} holds another lock`)
    }
    if (mode === 'write' && entry.snapshotTime !== 0) {
      throw new SheepError(
        'read-only',
        `"${referenceOf(entry)}" is a snapshot`,
        'open it read-only, or clone it: dog vdi clone',
      )
    }
    const others = this.locksOf.get(vid) ?? []
    const target = mode === 'write' && this.mayBeTarget(command, others, context)
    if (others.length > 0 && !target && (mode === 'write' || others[0].mode === 'write')) this.refuseLocked(entry)
    if (entry.snapshotTime === 0) this.refusePending(entry.name)
    this.putLock({ vid, node: sender, session, mode: target ? 'target' : mode, since: time, holder })
    return entry
  }

  protected unlock({ vid, session }: Command<'unlock'>, context: CommandContext): null {
    const lock = this.lockOfSession(context.sender, session)
    if (lock === undefined) throw new SheepError('not-locked', `vid ${vid} is not locked by session ${quoted(session)}`)
    this.endLock(lock)
    return null
  }

  protected break({ vid, node, session }: Command<'break'>, context: CommandContext): BrokenLocks {
    const entry = this.liveEntry(vid)
    const locks = this.locksOf.get(vid) ?? []
    if (locks.length === 0) throw new SheepError('not-locked', `nobody has "${referenceOf(entry)}" open`)
    if (!locks.some((lock) => lock.node === node && lock.session === session)) {
      throw new SheepError(
        'busy',
        `"${referenceOf(entry)}" is open for another by now: ${locks[0].holder} on node ${locks[0].node}`,
        'look again: dog vdi lock list',
      )
    }
    refuseShrinking(entry, locks[0])
    for (const lock of locks) this.dropLock(lock)
    this.migrations.delete(vid)
    return { locks, epoch: context.epoch + 1 }
  }

  protected migrateBegin({ vid, to, until }: Command<'migrate-begin'>, context: CommandContext): VdiMigration {
    const entry = this.workingEntry(vid)
    const [source, target] = this.locksOf.get(vid) ?? []
    if (source?.mode !== 'write') {
      throw new SheepError(
        'not-locked',
        `nobody has "${entry.name}" open for writing`,
        'the target can open it as it is',
      )
    }
    refuseShrinking(entry, source)
    if (source.node === to) throw new SheepError('invalid', `node ${to} has "${entry.name}" open itself`)
    if (until <= context.time || until > context.time + MIGRATION_MS_MAX) {
      throw new SheepError(
        'invalid',
        `a migration waits for its target for at most ${MIGRATION_MS_MAX / 3_600_000} hours`,
      )
    }
    if (target !== undefined && to !== '' && target.node !== to) {
      throw new SheepError(
        'busy',
        `"${entry.name}" is open on node ${target.node} already, as a migration's target`,
        'cancel that migration first: dog vdi lock migrate --cancel',
      )
    }
    const migration = { vid, to, since: context.time, until }
    this.migrations.set(vid, migration)
    return migration
  }

  protected migrateCancel({ vid }: Command<'migrate-cancel'>): null {
    const entry = this.liveEntry(vid)
    const target = this.targetOf(vid)
    if (!this.migrations.has(vid) && target === undefined) {
      throw new SheepError('not-locked', `no migration of "${referenceOf(entry)}" is announced`)
    }
    this.migrations.delete(vid)
    if (target !== undefined) this.dropLock(target)
    return null
  }

  protected migrateFinish({ vid, session }: Command<'migrate-finish'>, context: CommandContext): VdiEntry {
    const entry = this.liveEntry(vid)
    const own = this.lockOfSession(context.sender, session)
    if (own?.vid !== vid || own.mode === 'read') {
      throw new SheepError(
        'not-locked',
        `node ${context.sender} is no target of a migration of "${referenceOf(entry)}"`,
      )
    }
    // The source has gone by itself, or this comes twice.
    const [source] = this.locksOf.get(vid) as VdiLock[]
    if (own.mode === 'target') this.endLock(source)
    return entry
  }

  /** The node is in the cluster no more. */
  protected locksLeft(node: string): void {
    for (const lock of this.locks()) if (lock.node === node) this.endLock(lock)
    for (const migration of [...this.migrations.values()]) {
      if (migration.to === node) this.migrations.delete(migration.vid)
    }
  }

  /** A snapshot was taken: who writes goes on with the child. */
  protected moveWriter(vid: number, child: number): void {
    const lock = this.lockOf(vid)
    if (lock?.mode !== 'write') return
    const migration = this.migrations.get(vid)
    this.dropLock(lock)
    this.putLock({ ...lock, vid: child })
    if (migration === undefined) return
    this.migrations.delete(vid)
    this.migrations.set(child, { ...migration, vid: child })
  }

  private endLock(lock: VdiLock): void {
    const { vid } = lock
    this.dropLock(lock)
    if (lock.mode !== 'write') return
    this.migrations.delete(vid)
    const target = this.targetOf(vid)
    if (target === undefined) return
    this.dropLock(target)
    this.putLock({ ...target, mode: 'write' })
  }

  private targetOf(vid: number): VdiLock | undefined {
    return this.locksOf.get(vid)?.find((lock) => lock.mode === 'target')
  }

  private mayBeTarget({ vid, session }: Command<'lock'>, others: readonly VdiLock[], context: CommandContext): boolean {
    const { sender, time } = context
    const migration = this.migrations.get(vid)
    if (migration === undefined || time >= migration.until || session.startsWith(SHRINK_SESSION)) return false
    if (migration.to !== '' && migration.to !== sender) return false
    return others.length === 1 && others[0].node !== sender
  }

  // ---- refusals

  protected liveEntry(vid: number): VdiEntry {
    const entry = this.entries.get(vid)
    if (entry === undefined)
      throw new SheepError('not-found', `no VDI with vid ${vid}`, 'dog vdi list shows what there is')
    if (entry.state !== 'live') {
      throw new SheepError('not-found', `"${referenceOf(entry)}" is ${entry.state}`, 'dog vdi list shows what there is')
    }
    return entry
  }

  protected workingEntry(vid: number): VdiEntry {
    const entry = this.liveEntry(vid)
    if (entry.snapshotTime === 0) return entry
    throw new SheepError('read-only', `"${referenceOf(entry)}" is a snapshot`, `the working VDI is "${entry.name}"`)
  }

  protected refusePending(name: string): void {
    const pending = this.pending(name)
    if (pending === undefined) return
    throw new SheepError(
      'busy',
      `node ${pending.creator} is changing VDI "${name}" (snapshot, rollback or creation)`,
      'try again in a moment',
    )
  }

  protected refuseMigrating(entry: VdiEntry): void {
    const target = this.targetOf(entry.vid)
    if (target === undefined) return
    throw new SheepError(
      'busy',
      `"${entry.name}" is being migrated to node ${target.node}`,
      'wait until it is there, or cancel it: dog vdi lock migrate --cancel',
    )
  }

  protected refuseLocked(entry: VdiEntry): void {
    const lock = this.lockOf(entry.vid)
    if (lock === undefined) return
    const how = lock.mode === 'write' ? 'open for writing' : 'open for reading'
    throw new SheepError(
      'locked',
      `"${referenceOf(entry)}" is ${how} on node ${lock.node}: ${lock.holder}`,
      'close it there first; dog vdi lock list shows all that are open',
    )
  }
}
