/** Who may have a VDI open, when locks are broken and machines migrate: lib/vdi/locking.ts as the registry has it. */
import test, { type ExecutionContext } from 'ava'
import { type ErrorCode, SheepError } from '../../../lib/errors.js'
import { fencedBy, MIGRATION_MS_MAX } from '../../../lib/vdi/command.js'
import { Registry } from '../../../lib/vdi/registry.js'
import type { CommandContext, VdiCommand } from '../../../lib/vdi/types.js'

const by = (sender: string, time = 1000): CommandContext => ({ sender, time, epoch: 7 })

/** One VDI, open for writing on node `a` in session `s`. */
function opened(): {
  registry: Registry
  vid: number
  apply: (command: VdiCommand, context: CommandContext) => unknown
} {
  const registry = new Registry()
  const create = { op: 'create', name: 'vm', size: 2 ** 30, copies: 3, blockSizeShift: 22 } as const
  const { vid } = registry.apply({ ...create, parent: 0, preallocated: false }, by('a')) as { vid: number }
  registry.apply({ op: 'ready', vid }, by('a'))
  registry.apply(lock(vid), by('a'))
  return { registry, vid, apply: (command, context) => registry.apply(command, context) }
}

function lock(vid: number, session = 's', mode: 'write' | 'read' = 'write'): VdiCommand {
  return { op: 'lock', vid, session, mode, holder: 'NBD client' }
}

function refused(
  t: ExecutionContext,
  registry: Registry,
  command: VdiCommand,
  who: CommandContext,
  code: ErrorCode,
): void {
  const before = JSON.stringify(registry)
  const error = t.throws(() => registry.apply(command, who), { instanceOf: SheepError })
  t.is(error.code, code, error.message)
  t.is(JSON.stringify(registry), before, 'a refusal changes nothing')
}

function modes(registry: Registry, vid: number): string[] {
  return registry
    .locks()
    .filter((one) => one.vid === vid)
    .map((one) => `${one.node} ${one.mode}`)
}

test('break takes the lock that is meant, and no other', (t) => {
  const { registry, vid, apply } = opened()
  refused(t, registry, { op: 'break', vid, node: 'b', session: 's' }, by('b'), 'busy')
  refused(t, registry, { op: 'break', vid, node: 'a', session: 'older' }, by('b'), 'busy')
  t.like(apply({ op: 'break', vid, node: 'a', session: 's' }, by('b')), { epoch: 8, locks: [{ node: 'a' }] })
  t.deepEqual(registry.locks(), [])
  refused(t, registry, { op: 'break', vid, node: 'a', session: 's' }, by('b'), 'not-locked')
  refused(t, registry, { op: 'unlock', vid, session: 's' }, by('a'), 'not-locked')
  t.notThrows(() => apply(lock(vid, 'other'), by('b')))
})

test('break ends a migration with both its ends, and takes readers from a snapshot', (t) => {
  const { registry, vid, apply } = opened()
  apply({ op: 'migrate-begin', vid, to: 'b', until: 2000 }, by('c'))
  apply(lock(vid, 't'), by('b'))
  t.like(apply({ op: 'break', vid, node: 'b', session: 't' }, by('c')), { locks: [{ node: 'a' }, { node: 'b' }] })
  t.is(registry.migrationOf(vid), undefined)
  const { vid: child } = apply({ op: 'snapshot-begin', vid, tag: '' }, by('a')) as { vid: number }
  apply({ op: 'snapshot-commit', vid, child, tag: '' }, by('a'))
  apply(lock(vid, 'r', 'read'), by('a'))
  apply(lock(vid, 'r', 'read'), by('b'))
  apply({ op: 'break', vid, node: 'b', session: 'r' }, by('c'))
  t.deepEqual(registry.locks(), [])
})

test('a VDI that is being shrunk is not broken into: nobody could stop the one that cuts it', (t) => {
  const { registry, vid, apply } = opened()
  apply({ op: 'unlock', vid, session: 's' }, by('a'))
  apply(lock(vid, 'shrink-1'), by('a'))
  refused(t, registry, { op: 'break', vid, node: 'a', session: 'shrink-1' }, by('b'), 'busy')
})

test('who shrinks is neither the target of a migration nor its source', (t) => {
  const { registry, vid, apply } = opened()
  apply({ op: 'migrate-begin', vid, to: '', until: 2000 }, by('c'))
  refused(t, registry, lock(vid, 'shrink-1'), by('b'), 'locked')
  t.is(registry.locks().length, 1)
  apply({ op: 'unlock', vid, session: 's' }, by('a'))
  apply(lock(vid, 'shrink-2'), by('b'))
  refused(t, registry, { op: 'migrate-begin', vid, to: '', until: 2000 }, by('c'), 'busy')
})

test('which commands shut a writer out', (t) => {
  t.is(fencedBy({ op: 'break', vid: 5, node: 'a', session: 's' }), 5)
  t.is(fencedBy({ op: 'migrate-finish', vid: 5, session: 's', fence: true }), 5)
  t.is(fencedBy({ op: 'migrate-finish', vid: 5, session: 's', fence: false }), 0)
  for (const other of [null, undefined, 7, 'break', {}, { op: 'unlock', vid: 5 }, { op: 'break', vid: '5' }]) {
    t.is(fencedBy(other), 0)
  }
})

test('a migration: announced, open at the target, moved with its first write', (t) => {
  const { registry, vid, apply } = opened()
  refused(t, registry, lock(vid, 't'), by('b'), 'locked')
  apply({ op: 'migrate-begin', vid, to: 'b', until: 2000 }, by('c'))
  refused(t, registry, lock(vid, 't'), by('c'), 'locked')
  refused(t, registry, lock(vid, 'second'), by('a'), 'locked')
  refused(t, registry, lock(vid, 'r', 'read'), by('b'), 'locked')
  refused(t, registry, lock(vid, 't'), by('b', 2000), 'locked')
  apply(lock(vid, 't'), by('b', 1999))
  t.deepEqual(modes(registry, vid), ['a write', 'b target'])
  t.notThrows(() => apply(lock(vid, 't'), by('b', 5000)), 'the same again: the same result')
  refused(t, registry, lock(vid, 'third'), by('b'), 'locked')
  t.deepEqual(Registry.fromJSON(JSON.parse(JSON.stringify(registry))).toJSON(), registry.toJSON())
  refused(t, registry, { op: 'migrate-finish', vid, session: 's', fence: false }, by('b'), 'not-locked')
  apply({ op: 'migrate-finish', vid, session: 't', fence: false }, by('b', 9000))
  t.deepEqual(modes(registry, vid), ['b write'])
  t.is(registry.migrationOf(vid), undefined)
  t.notThrows(() => apply({ op: 'migrate-finish', vid, session: 't', fence: true }, by('b')), 'twice is once')
  refused(t, registry, { op: 'unlock', vid, session: 's' }, by('a'), 'not-locked')
  refused(t, registry, lock(vid), by('a'), 'locked')
})

test('a migration that fails leaves the source as it was; one whose source goes is complete', (t) => {
  for (const end of ['target closes', 'target leaves', 'cancelled', 'source closes', 'source leaves'] as const) {
    const { registry, vid, apply } = opened()
    apply({ op: 'migrate-begin', vid, to: 'b', until: 2000 }, by('c'))
    apply(lock(vid, 't'), by('b'))
    if (end === 'target closes') apply({ op: 'unlock', vid, session: 't' }, by('b'))
    else if (end === 'target leaves') registry.nodeLeft('b')
    else if (end === 'cancelled') apply({ op: 'migrate-cancel', vid }, by('c'))
    else if (end === 'source closes') apply({ op: 'unlock', vid, session: 's' }, by('a'))
    else registry.nodeLeft('a')
    t.deepEqual(modes(registry, vid), end.startsWith('source') ? ['b write'] : ['a write'], end)
    // The target may come again while its time lasts, unless somebody said that it is over.
    t.is(registry.migrationOf(vid) !== undefined, end === 'target closes', end)
    if (end === 'target closes') t.notThrows(() => apply(lock(vid, 'again'), by('b')))
  }
  const { registry, vid, apply } = opened()
  apply({ op: 'migrate-begin', vid, to: '', until: 2000 }, by('c'))
  apply(lock(vid, 't'), by('b'))
  for (const node of ['a', 'b']) registry.nodeLeft(node)
  t.deepEqual(registry.locks(), [], 'both gone: nobody has it')
})

test('what can be announced', (t) => {
  const { registry, vid, apply } = opened()
  const begin = (to: string, until: number): VdiCommand => ({ op: 'migrate-begin', vid, to, until })
  refused(t, registry, begin('a', 2000), by('c'), 'invalid')
  refused(t, registry, begin('b', 1000), by('c'), 'invalid')
  refused(t, registry, begin('b', 1001 + MIGRATION_MS_MAX), by('c'), 'invalid')
  refused(t, registry, { op: 'migrate-cancel', vid }, by('c'), 'not-locked')
  refused(t, registry, { op: 'migrate-finish', vid, session: 's', fence: true }, by('b'), 'not-locked')
  apply(begin('b', 2000), by('c'))
  apply(begin('', 3000), by('c'))
  t.like(registry.migrationOf(vid), { to: '', until: 3000 })
  apply(lock(vid, 't'), by('b'))
  refused(t, registry, begin('d', 2000), by('c'), 'busy')
  t.notThrows(() => apply(begin('b', 4000), by('c')), 'more time for the same')
  apply({ op: 'migrate-cancel', vid }, by('c'))
  apply({ op: 'unlock', vid, session: 's' }, by('a'))
  refused(t, registry, begin('b', 2000), by('c'), 'not-locked')
  apply(lock(vid, 't'), by('b'))
  t.deepEqual(modes(registry, vid), ['b write'], 'nobody has it: the target opens it as anybody would')
})

test('a snapshot takes an announced migration along, and is not begun beside an open target', (t) => {
  const { registry, vid, apply } = opened()
  apply({ op: 'migrate-begin', vid, to: 'b', until: 2000 }, by('c'))
  const { vid: child } = apply({ op: 'snapshot-begin', vid, tag: 'x' }, by('c')) as { vid: number }
  refused(t, registry, lock(vid, 't'), by('b'), 'busy')
  apply({ op: 'snapshot-commit', vid, child, tag: 'x' }, by('c'))
  t.is(registry.migrationOf(vid), undefined)
  apply(lock(child, 't'), by('b'))
  t.deepEqual(modes(registry, child), ['a write', 'b target'])
  refused(t, registry, { op: 'snapshot-begin', vid: child, tag: 'y' }, by('c'), 'busy')
})
