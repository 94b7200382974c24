import test from 'ava'
import fc from 'fast-check'
import { type ErrorCode, SheepError } from '../../../lib/errors.js'
import { vidHash } from '../../../lib/vdi/name.js'
import { Registry } from '../../../lib/vdi/registry.js'
import { FREED_MAX } from '../../../lib/vdi/table.js'
import type { CommandContext, VdiCommand, VdiEntry } from '../../../lib/vdi/types.js'

const A: CommandContext = { sender: 'node-a', time: 1000, epoch: 1 }
const B: CommandContext = { sender: 'node-b', time: 2000, epoch: 1 }

function creation(name: string, parent = 0): VdiCommand {
  return { op: 'create', name, size: 2 ** 30, copies: 3, blockSizeShift: 22, parent, preallocated: false }
}

function vidOf(result: unknown): number {
  return (result as { vid: number }).vid
}

function create(registry: Registry, name: string, parent = 0): number {
  const vid = vidOf(registry.apply(creation(name, parent), A))
  registry.apply({ op: 'ready', vid }, A)
  return vid
}

/** Answers the new working VDI's vid; the given one is the snapshot. */
function snapshot(registry: Registry, vid: number, tag = ''): number {
  const child = vidOf(registry.apply({ op: 'snapshot-begin', vid, tag }, A))
  registry.apply({ op: 'snapshot-commit', vid, child, tag }, A)
  return child
}

function remove(registry: Registry, vid: number): void {
  registry.apply({ op: 'delete-begin', vid }, A)
  registry.apply({ op: 'delete-done', vid, epoch: 1 }, A)
}

function lock(vid: number, session = 's', mode: 'write' | 'read' = 'write'): VdiCommand {
  return { op: 'lock', vid, session, mode, holder: 'NBD client' }
}

test('what a VDI does without quorum is its own, goes on after snapshots and rollbacks, and can be taken back', (t) => {
  const registry = new Registry()
  const vid = vidOf(registry.apply({ ...creation('a'), onNoQuorum: 5000 } as VdiCommand, A))
  registry.apply({ op: 'ready', vid }, A)
  const child = snapshot(registry, vid, 'x')
  t.is(registry.get(child)?.onNoQuorum, 5000)
  registry.apply({ op: 'set-on-no-quorum', vid: child, ms: 0 }, A)
  t.is(registry.get(child)?.onNoQuorum, 0)
  t.is(registry.get(vid)?.onNoQuorum, 5000)
  refused(t, registry, { op: 'set-on-no-quorum', vid, ms: 1 }, A, 'read-only')
  const back = vidOf(registry.apply({ op: 'rollback-begin', snapshot: vid }, A))
  refused(t, registry, { op: 'set-on-no-quorum', vid: child, ms: null }, A, 'busy')
  registry.apply({ op: 'rollback-commit', child: back }, A)
  t.is(registry.get(back)?.onNoQuorum, 0)
  t.is(Registry.fromJSON(JSON.parse(JSON.stringify(registry))).get(back)?.onNoQuorum, 0)
  registry.apply({ op: 'set-on-no-quorum', vid: back, ms: null }, A)
  t.is(registry.get(back)?.onNoQuorum, undefined)
  for (const ms of [-1, 0.5, 86_400_001, '5' as unknown as number]) {
    refused(t, registry, { op: 'set-on-no-quorum', vid: back, ms }, A, 'invalid')
  }
})

type Check = {
  throws: (run: () => void, expected: { instanceOf: typeof SheepError }) => SheepError
  is: (a: unknown, b: unknown) => void
}

/** The command is refused with this code and changes nothing. */
function refused(
  t: Check & { deepEqual: (a: unknown, b: unknown) => void },
  registry: Registry,
  command: VdiCommand,
  context: CommandContext,
  code: ErrorCode,
): SheepError {
  const before = JSON.stringify(registry)
  const error = t.throws(() => registry.apply(command, context), { instanceOf: SheepError })
  t.is(error.code, code)
  t.is(JSON.stringify(registry), before)
  return error
}

test('create, ready, find', (t) => {
  const registry = new Registry()
  const vid = vidOf(registry.apply(creation('vm'), A))
  t.is(vid, vidHash('vm'))
  t.is(registry.get(vid)?.state, 'creating')
  t.is(registry.working('vm'), undefined)
  t.is(registry.pending('vm')?.vid, vid)
  t.is(t.throws(() => registry.find('vm', ''), { instanceOf: SheepError }).code, 'not-found')
  refused(t, registry, creation('vm'), B, 'exists')
  refused(t, registry, { op: 'ready', vid }, B, 'invalid')
  registry.apply({ op: 'ready', vid }, A)
  refused(t, registry, { op: 'ready', vid }, A, 'invalid')
  t.is(registry.find('vm', '').vid, vid)
  t.like(registry.get(vid), { state: 'live', creator: '', snapId: 1, snapshotTime: 0, createTime: 1000, parent: 0 })
  refused(t, registry, creation('vm'), B, 'exists')
})

test('vids: next free from the hash, wrapping, never 0, deleted ones still taken', (t) => {
  const registry = new Registry()
  const first = create(registry, 'vm')
  const second = snapshot(registry, first)
  const third = snapshot(registry, second)
  t.deepEqual([second, third], [first + 1, first + 2])
  remove(registry, second)
  t.is(registry.get(second)?.state, 'deleted')
  t.is(snapshot(registry, third), first + 3)

  const at = create(registry, 'x118739621')
  t.is(at, 0xffffff)
  t.is(snapshot(registry, at), 1, 'after the highest comes 1')
})

test('a vid that was freed is given again in a later epoch, and the entry tells which', (t) => {
  const registry = new Registry()
  const first = create(registry, 'vm')
  remove(registry, first)
  const again = vidOf(registry.apply(creation('vm'), A))
  t.is(again, first + 1, 'in the same epoch another')
  t.is(registry.get(again)?.epoch, 1)
  const copy = Registry.fromJSON(JSON.parse(JSON.stringify(registry)))
  copy.apply({ op: 'abort', vid: again }, A)
  copy.apply({ op: 'delete-done', vid: again, epoch: 1 }, A)
  t.is(vidOf(copy.apply(creation('vm'), B)), first + 2, 'also where the registry was read from disk')
  registry.apply({ op: 'abort', vid: again }, A)
  registry.apply({ op: 'delete-done', vid: again, epoch: 1 }, A)
  const later = vidOf(registry.apply(creation('vm'), { ...A, epoch: 2 }))
  t.is(later, first)
  t.is(registry.get(later)?.epoch, 2)
})

test('of the vids that were freed in an epoch the newest are remembered', (t) => {
  const registry = new Registry()
  const first = create(registry, 'vm0')
  remove(registry, first)
  for (let i = 1; i < FREED_MAX; i++) remove(registry, create(registry, `vm${i}`))
  t.not(create(registry, 'vm0'), first)
  remove(registry, create(registry, 'one-more'))
  t.is(registry.toJSON().freed.vids.length, FREED_MAX)
  registry.apply({ op: 'rename', name: 'vm0', newName: 'other' }, A)
  t.is(create(registry, 'vm0'), first, 'the oldest is free again')
})

test('snapshot: the working VDI freezes, the child goes on, the write lock with it', (t) => {
  const registry = new Registry()
  const vid = create(registry, 'vm')
  registry.apply(lock(vid, 'session-1'), B)
  const child = vidOf(registry.apply({ op: 'snapshot-begin', vid, tag: 'one' }, A))
  t.is(registry.working('vm')?.vid, vid)
  refused(t, registry, { op: 'snapshot-begin', vid, tag: 'two' }, B, 'busy')
  refused(t, registry, { op: 'ready', vid: child }, A, 'invalid')
  refused(t, registry, { op: 'snapshot-commit', vid, child, tag: 'one' }, B, 'invalid')
  refused(t, registry, { op: 'resize', vid, size: 2 ** 31 }, A, 'busy')
  refused(t, registry, { op: 'rename', name: 'vm', newName: 'other' }, A, 'busy')
  const held = registry.get(vid) as VdiEntry
  registry.apply({ op: 'snapshot-commit', vid, child, tag: 'one' }, A)
  t.is(held.snapshotTime, 0, 'who held the entry sees what was')
  t.is(registry.working('vm')?.vid, child)
  t.like(registry.find('vm', 'one'), { vid, snapId: 1, tag: 'one', snapshotTime: 1000 })
  t.is(registry.find('vm', '1').vid, vid)
  t.like(registry.get(child), { snapId: 2, parent: vid, preallocated: false })
  t.like(registry.lockOf(child), { node: 'node-b', session: 'session-1' })
  t.is(registry.lockOf(vid), undefined)
  refused(t, registry, { op: 'snapshot-begin', vid: child, tag: 'one' }, A, 'exists')
  refused(t, registry, { op: 'snapshot-begin', vid, tag: '' }, A, 'read-only')
  registry.apply({ op: 'unlock', vid, session: 'session-1' }, B)
  t.is(registry.lockOf(child), undefined, 'an unlock that crossed the snapshot finds its lock')
})

test('while a replacement is pending nobody new opens the working VDI', (t) => {
  const registry = new Registry()
  const vid = create(registry, 'vm')
  const child = vidOf(registry.apply({ op: 'snapshot-begin', vid, tag: '' }, A))
  refused(t, registry, lock(vid), B, 'busy')
  refused(t, registry, lock(vid, 's', 'read'), B, 'busy')
  registry.apply({ op: 'abort', vid: child }, A)
  t.notThrows(() => registry.apply(lock(vid), B))
  t.is(registry.get(child)?.state, 'deleting')
  registry.apply({ op: 'delete-done', vid: child, epoch: 1 }, A)
  t.is(registry.get(child), undefined)
})

test('a tag taken meanwhile refuses the commit', (t) => {
  const registry = new Registry()
  const vid = snapshot(registry, create(registry, 'vm'), 'old')
  const child = vidOf(registry.apply({ op: 'snapshot-begin', vid, tag: 'new' }, A))
  registry.apply({ op: 'set-tag', vid: registry.find('vm', 'old').vid, tag: 'new' }, B)
  refused(t, registry, { op: 'snapshot-commit', vid, child, tag: 'new' }, A, 'exists')
})

test('snapshot ids go on after rollback and never repeat among those that exist', (t) => {
  const registry = new Registry()
  const first = create(registry, 'vm')
  snapshot(registry, snapshot(registry, first, 'a'), 'b')
  const child = vidOf(registry.apply({ op: 'rollback-begin', snapshot: first }, A))
  const former = registry.working('vm')?.vid as number
  t.deepEqual(registry.apply({ op: 'rollback-commit', child }, A), { deleting: former })
  t.like(registry.get(former), { state: 'deleting', creator: 'node-a' })
  t.like(registry.working('vm'), { vid: child, parent: first, snapId: 4 })
  registry.apply({ op: 'delete-done', vid: former, epoch: 1 }, A)
  remove(registry, registry.find('vm', 'b').vid)
  t.is(registry.snapshots('vm').length, 1)
  snapshot(registry, child, 'c')
  t.is(registry.find('vm', 'c').snapId, 4)
})

test('rollback: refused while open, possible without a working VDI, keeps copies of the working VDI', (t) => {
  const registry = new Registry()
  const first = create(registry, 'vm')
  const working = snapshot(registry, first, 'a')
  registry.apply(lock(working), B)
  const error = refused(t, registry, { op: 'rollback-begin', snapshot: first }, A, 'locked')
  t.regex(error.message, /node-b: NBD client/)
  refused(t, registry, { op: 'rollback-begin', snapshot: working }, A, 'invalid')
  registry.apply({ op: 'unlock', vid: working, session: 's' }, B)
  remove(registry, working)
  t.is(t.throws(() => registry.find('vm', ''), { instanceOf: SheepError }).code, 'not-found')
  const child = vidOf(registry.apply({ op: 'rollback-begin', snapshot: first }, A))
  t.deepEqual(registry.apply({ op: 'rollback-commit', child }, A), { deleting: 0 })
  t.is(registry.working('vm')?.vid, child)
})

test('clone: of a live snapshot, in its object size, not smaller', (t) => {
  const registry = new Registry()
  const first = create(registry, 'vm')
  refused(t, registry, creation('clone', first), A, 'invalid')
  snapshot(registry, first, 'a')
  refused(t, registry, { ...creation('clone', first), blockSizeShift: 23 } as VdiCommand, A, 'invalid')
  refused(t, registry, { ...creation('clone', first), size: 2 ** 29 } as VdiCommand, A, 'invalid')
  refused(t, registry, creation('clone', 77), A, 'not-found')
  const clone = create(registry, 'clone', first)
  t.deepEqual(
    registry.children(first),
    [clone, first + 1].sort((a, b) => a - b),
  )
})

test('delete: not while open, not while copied, once, by the one in charge', (t) => {
  const registry = new Registry()
  const first = create(registry, 'vm')
  const working = snapshot(registry, first, 'a')
  registry.apply(lock(first, 'r1', 'read'), B)
  registry.apply(lock(first, 'r2', 'read'), A)
  refused(t, registry, { op: 'delete-begin', vid: first }, A, 'locked')
  registry.apply({ op: 'unlock', vid: first, session: 'r1' }, B)
  registry.apply({ op: 'unlock', vid: first, session: 'r2' }, A)
  const clone = vidOf(registry.apply(creation('clone', first), B))
  const busy = refused(t, registry, { op: 'delete-begin', vid: first }, A, 'busy')
  t.regex(busy.message, /copied to "clone" by node node-b/)
  registry.apply({ op: 'ready', vid: clone }, B)
  registry.apply({ op: 'delete-begin', vid: first }, A)
  t.is(t.throws(() => registry.find('vm', 'a'), { instanceOf: SheepError }).code, 'no-tag')
  refused(t, registry, { op: 'delete-begin', vid: first }, B, 'busy')
  refused(t, registry, { op: 'delete-done', vid: first, epoch: 1 }, B, 'invalid')
  refused(t, registry, lock(first, 'x', 'read'), B, 'not-found')
  t.notThrows(() => registry.apply({ op: 'delete-begin', vid: first }, A))
  t.is(registry.apply({ op: 'delete-done', vid: first, epoch: 2 }, A), null, 'all was removed in another epoch')
  t.deepEqual(registry.apply({ op: 'delete-done', vid: first, epoch: 1 }, A), [])
  t.is(registry.get(first)?.state, 'deleted')
  remove(registry, working)
  t.is(registry.get(first)?.state, 'deleted', 'the clone still needs its vid')
  registry.apply({ op: 'delete-begin', vid: clone }, A)
  t.deepEqual(registry.apply({ op: 'delete-done', vid: clone, epoch: 1 }, A), [clone, first], 'its last descendant')
  t.is(registry.size, 0)
})

test('a node leaves: its locks go, what it made is to be freed, what it freed is for others', (t) => {
  const registry = new Registry()
  const vm = create(registry, 'vm')
  const other = create(registry, 'other')
  registry.apply(lock(other), A)
  registry.apply(lock(vm), B)
  const child = vidOf(registry.apply({ op: 'snapshot-begin', vid: vm, tag: '' }, B))
  const going = create(registry, 'going')
  registry.apply({ op: 'delete-begin', vid: going }, B)
  registry.nodeLeft('node-b')
  t.is(registry.lockOf(vm), undefined)
  t.is(registry.lockOf(other)?.node, 'node-a')
  t.like(registry.get(child), { state: 'deleting', creator: '' })
  t.like(registry.get(going), { state: 'deleting', creator: '' })
  refused(t, registry, { op: 'snapshot-commit', vid: vm, child, tag: '' }, B, 'invalid')
  refused(t, registry, { op: 'delete-done', vid: going, epoch: 1 }, B, 'invalid')
  registry.apply({ op: 'delete-begin', vid: going }, A)
  registry.apply({ op: 'delete-done', vid: going, epoch: 1 }, A)
  t.is(registry.get(going), undefined)
  registry.nodeLeft('node-a')
  t.deepEqual(registry.locks(), [])
})

test('locks: one writer or many readers', (t) => {
  const registry = new Registry()
  const vid = create(registry, 'vm')
  t.is((registry.apply(lock(vid, 'w'), A) as VdiEntry).vid, vid)
  t.is((registry.apply(lock(vid, 'w'), A) as VdiEntry).vid, vid, 'again: the same')
  refused(t, registry, lock(vid, 'w', 'read'), A, 'invalid')
  refused(t, registry, lock(vid, 'x'), A, 'locked')
  refused(t, registry, lock(vid, 'x', 'read'), B, 'locked')
  refused(t, registry, { op: 'unlock', vid, session: 'w' }, B, 'not-locked')
  registry.apply({ op: 'unlock', vid, session: 'w' }, A)
  refused(t, registry, { op: 'unlock', vid, session: 'w' }, A, 'not-locked')
  registry.apply(lock(vid, 'r', 'read'), A)
  registry.apply(lock(vid, 'r', 'read'), B)
  const error = refused(t, registry, lock(vid, 'x'), B, 'locked')
  t.regex(error.message, /open for reading on node node-a/)
  t.is(registry.locks().length, 2)
  snapshot(registry, vid, 'frozen')
  t.is(registry.locks().filter((l) => l.vid === vid).length, 2, 'readers stay with what they read')
  refused(t, registry, lock(vid, 'y'), B, 'read-only')
})

test('rename takes all snapshots along and refuses a taken name', (t) => {
  const registry = new Registry()
  const first = create(registry, 'vm')
  const working = snapshot(registry, first, 'a')
  create(registry, 'other')
  registry.apply(lock(working), A)
  refused(t, registry, { op: 'rename', name: 'vm', newName: 'other' }, A, 'exists')
  refused(t, registry, { op: 'rename', name: 'vm', newName: 'vm' }, A, 'exists')
  refused(t, registry, { op: 'rename', name: 'nothing', newName: 'x' }, A, 'not-found')
  registry.apply({ op: 'rename', name: 'vm', newName: 'neu' }, A)
  t.is(registry.find('neu', 'a').vid, first)
  t.is(registry.find('neu', '').vid, working)
  t.is(t.throws(() => registry.find('vm', 'a'), { instanceOf: SheepError }).code, 'not-found')
  t.notThrows(() => create(registry, 'vm'))
})

test('resize and tags', (t) => {
  const registry = new Registry()
  const first = create(registry, 'vm')
  const working = snapshot(registry, first, 'a')
  registry.apply({ op: 'resize', vid: working, size: 2 ** 31 }, A)
  t.is(registry.get(working)?.size, 2 ** 31)
  refused(t, registry, { op: 'resize', vid: first, size: 2 ** 31 }, A, 'read-only')
  refused(t, registry, { op: 'resize', vid: working, size: 2 ** 43 }, A, 'too-big')
  refused(t, registry, { op: 'set-tag', vid: working, tag: 'x' }, A, 'invalid')
  const second = snapshot(registry, working, 'b')
  refused(t, registry, { op: 'set-tag', vid: working, tag: 'a' }, A, 'exists')
  registry.apply({ op: 'set-tag', vid: working, tag: 'b' }, A)
  registry.apply({ op: 'set-tag', vid: working, tag: '' }, A)
  t.is(t.throws(() => registry.find('vm', 'b'), { instanceOf: SheepError }).code, 'no-tag')
  t.is(registry.find('vm', '2').vid, working)
  t.is(registry.find('vm', '').vid, second)
})

test('fields of commands from the network are checked', (t) => {
  const registry = new Registry()
  const vid = create(registry, 'vm')
  const wrong: unknown[] = [
    null,
    7,
    'create',
    {},
    { op: 'unheard' },
    { op: '__proto__' },
    { ...creation('a'), name: 'a/b' },
    { ...creation('a'), size: -1 },
    { ...creation('a'), size: 2 ** 43 },
    { ...creation('a'), copies: 0 },
    { ...creation('a'), copies: 32 },
    { ...creation('a'), blockSizeShift: 10 },
    { ...creation('a'), parent: -1 },
    { ...creation('a'), preallocated: 1 },
    { op: 'ready', vid: 0 },
    { op: 'ready', vid: 0x1000000 },
    { op: 'delete-begin', vid: '1' },
    { op: 'snapshot-begin', vid, tag: '12' },
    { op: 'snapshot-begin', vid },
    { op: 'rename', name: 'vm', newName: '.' },
    { op: 'resize', vid, size: 1.5 },
    { op: 'lock', vid, session: '', mode: 'write', holder: '' },
    { op: 'lock', vid, session: 's', mode: 'exclusive', holder: '' },
    { op: 'lock', vid, session: 's', mode: 'write', holder: 'x'.repeat(1000) },
    { op: 'unlock', vid, session: 7 },
    { op: 'break', vid, node: '', session: 's' },
    { op: 'break', vid, node: 'node-a' },
    { op: 'break', vid: -1, node: 'node-a', session: 's' },
    { op: 'migrate-begin', vid, to: null, until: 5 },
    { op: 'migrate-begin', vid, to: 'x'.repeat(1000), until: 5 },
    { op: 'migrate-begin', vid, to: '', until: 'later' },
    { op: 'migrate-begin', vid, to: '', until: Number.NaN },
    { op: 'migrate-cancel', vid: '1' },
    { op: 'migrate-finish', vid, session: 's' },
    { op: 'migrate-finish', vid, session: 's', fence: 1 },
    { op: 'migrate-finish', vid, session: '', fence: true },
  ]
  for (const command of wrong) {
    const error = t.throws(
      () => registry.apply(command as VdiCommand, A),
      { instanceOf: SheepError },
      JSON.stringify(command),
    )
    t.true(['invalid', 'too-big'].includes(error.code))
  }
  t.throws(() => registry.apply(creation('b'), { sender: '', time: 1, epoch: 1 }), { instanceOf: SheepError })
  t.throws(() => registry.apply(creation('b'), { sender: 'a', time: -1, epoch: 1 }), { instanceOf: SheepError })
  t.is(registry.size, 1)
})

// ---- random histories

const NAMES = ['a', 'b', 'c']
const NODES = ['n1', 'n2', 'n3']
type Step = { kind: string; node: number; name: number; pick: number; text: number }
const steps: fc.Arbitrary<Step[]> = fc.array(
  fc.record({
    kind: fc.constantFrom(
      ...['create', 'clone', 'ready', 'abort', 'begin', 'commit', 'back', 'back-commit', 'delete', 'done', 'rename'],
      ...['resize', 'tag', 'lock', 'read', 'unlock', 'left', 'commit', 'ready', 'done'],
      ...['lock', 'lock', 'break', 'announce', 'announce', 'cancel', 'finish', 'finish'],
    ),
    node: fc.nat(2),
    name: fc.nat(2),
    pick: fc.nat(30),
    text: fc.nat(3),
  }),
  { minLength: 1, maxLength: 120, size: 'max' },
)

function commandOf(registry: Registry, step: Step, epoch: number): VdiCommand {
  const entries = Array.from(registry.all()).sort((a, b) => a.vid - b.vid)
  const choose = (list: VdiEntry[]) => list[step.pick % Math.max(1, list.length)]?.vid ?? 1
  const vid = choose(entries)
  // Mostly one of the right kind
  const frozen = step.text === 0 ? vid : choose(entries.filter((e) => e.state === 'live' && e.snapshotTime > 0))
  const working = step.text === 0 ? vid : choose(entries.filter((e) => e.state === 'live' && e.snapshotTime === 0))
  const tag = ['', 'x', 'y', 'z'][step.text]
  const creating = entries.filter((e) => e.state === 'creating')
  const pending = creating[step.pick % Math.max(1, creating.length)]
  const deleting = entries.filter((e) => e.state === 'deleting')
  switch (step.kind) {
    case 'create':
      return creation(NAMES[step.name])
    case 'clone':
      return creation(NAMES[step.name], frozen)
    case 'ready':
      return { op: 'ready', vid: pending?.vid ?? vid }
    case 'abort':
      return { op: 'abort', vid: pending?.vid ?? vid }
    case 'begin':
      return { op: 'snapshot-begin', vid: working, tag }
    case 'commit':
      return { op: 'snapshot-commit', vid: pending?.parent || vid, child: pending?.vid ?? vid, tag }
    case 'back':
      return { op: 'rollback-begin', snapshot: frozen }
    case 'back-commit':
      return { op: 'rollback-commit', child: pending?.vid ?? vid }
    case 'delete':
      return { op: 'delete-begin', vid }
    case 'done':
      return { op: 'delete-done', vid: deleting[step.pick % Math.max(1, deleting.length)]?.vid ?? vid, epoch }
    case 'rename':
      return { op: 'rename', name: NAMES[step.name], newName: NAMES[step.pick % 3] }
    case 'resize':
      return { op: 'resize', vid, size: 2 ** 30 * (1 + step.text) }
    case 'tag':
      return { op: 'set-tag', vid, tag }
    case 'lock':
      return lock(step.pick > 15 ? (registry.locks()[0]?.vid ?? vid) : vid, `s${step.text}`)
    case 'read':
      return lock(vid, `s${step.text}`, 'read')
    case 'break': {
      const { vid: open = vid, node = 'n1', session = 's1' } = registry.locks()[step.pick] ?? {}
      return { op: 'break', vid: open, node, session }
    }
    case 'announce':
      return { op: 'migrate-begin', vid: registry.locks()[0]?.vid ?? vid, to: ['', ...NODES][step.text], until: 60 }
    case 'cancel':
      return { op: 'migrate-cancel', vid: registry.locks()[0]?.vid ?? vid }
    case 'finish':
      return { op: 'migrate-finish', vid: registry.locks()[0]?.vid ?? vid, session: `s${step.text}`, fence: false }
    default:
      return { op: 'unlock', vid, session: `s${step.text}` }
  }
}

/** Applies one step; answers what the proposer would see, or the error's code. */
function play(registry: Registry, step: Step, time: number): unknown {
  const epoch = Math.ceil(time / 10)
  const command = commandOf(registry, step, epoch)
  const inCharge = registry.get('child' in command ? command.child : 'vid' in command ? command.vid : 0)?.creator
  // Mostly the one who may, for most others are refused
  const sender = step.text > 0 && inCharge ? inCharge : NODES[step.node]
  if (step.kind === 'left') {
    registry.nodeLeft(sender)
    return 'left'
  }
  try {
    return registry.apply(command, { sender, time, epoch })
  } catch (error) {
    if (error instanceof SheepError) return `${error.code}: ${error.message}`
    throw error
  }
}

function checkInvariants(t: { true: (ok: boolean, what: string) => void }, registry: Registry): void {
  const entries = Array.from(registry.all())
  const live = entries.filter((e) => e.state === 'live')
  const working = live.filter((e) => e.snapshotTime === 0)
  const unique = (keys: string[], what: string) => t.true(new Set(keys).size === keys.length, what)
  unique(
    working.map((e) => e.name),
    'one working VDI a name',
  )
  unique(
    entries.filter((e) => e.state === 'creating').map((e) => e.name),
    'one pending VDI a name',
  )
  unique(
    live.filter((e) => e.snapshotTime > 0).map((e) => `${e.name}@${e.snapId}`),
    'snapshot ids differ',
  )
  unique(
    live.filter((e) => e.tag !== '').map((e) => `${e.name}@${e.tag}`),
    'tags differ',
  )
  for (const e of entries) {
    t.true(e.parent === 0 || registry.get(e.parent) !== undefined, `vid ${e.vid} has its parent`)
    t.true(e.state !== 'deleted' || registry.children(e.vid).length > 0, `deleted vid ${e.vid} has descendants`)
    const parent = registry.get(e.parent)
    if (e.state === 'creating') t.true(parent === undefined || parent.state === 'live', 'what is copied is live')
    if (e.state === 'live' && parent?.state === 'live')
      t.true(parent.snapshotTime > 0, 'only a snapshot has live children')
    t.true(registry.children(e.parent).includes(e.vid) || e.parent === 0, 'children know their parent and back')
  }
  for (const e of working) t.true(registry.working(e.name) === e && registry.find(e.name, '') === e, 'found by name')
  for (const e of live) if (e.snapshotTime > 0) t.true(registry.find(e.name, String(e.snapId)) === e, 'found by id')
  for (const e of live) if (e.tag !== '') t.true(registry.find(e.name, e.tag) === e, 'found by tag')
  const locks = registry.locks()
  for (const l of locks) {
    t.true(registry.get(l.vid)?.state === 'live', 'only what lives is locked')
    const others = locks.filter((o) => o !== l && o.vid === l.vid)
    const target = l.mode === 'target' || others[0]?.mode === 'target'
    const beside = target
      ? others.length === 1 && others[0].node !== l.node && (l.mode === 'write' || others[0].mode === 'write')
      : others.length === 0 || (l.mode === 'read' && others.every((o) => o.mode === 'read'))
    t.true(beside, 'a writer is alone, but for the target of its migration on another node')
    t.true(l.mode !== 'write' || registry.lockOf(l.vid) === l, 'the writer is named first')
    t.true(registry.lockOfSession(l.node, l.session) === l, 'found by session')
    t.true(l.mode === 'read' || registry.get(l.vid)?.snapshotTime === 0, 'nobody writes to a snapshot')
  }
}

/** One that meets everything that the test expects to be met: most of it is too rare to be left to chance. */
const eventful: Step[] = (
  [
    ['create', 0, 0, 0, 0],
    ['ready', 0, 0, 0, 1],
    ['begin', 0, 0, 0, 1],
    ['begin', 0, 0, 0, 2],
    ['commit', 0, 0, 0, 1],
    ['clone', 0, 1, 0, 1],
    ['ready', 0, 0, 0, 1],
    ['back', 0, 0, 0, 1],
    ['back-commit', 0, 0, 0, 1],
    ['rename', 0, 1, 2, 0],
    ['create', 0, 0, 0, 0],
    ['rename', 0, 1, 0, 0],
    ['lock', 0, 0, 0, 1],
    ['lock', 0, 0, 2, 1],
    ['lock', 1, 0, 2, 0],
    ['announce', 0, 0, 0, 2],
    ['cancel', 0, 0, 0, 0],
    ['announce', 0, 0, 0, 2],
    ['lock', 1, 0, 2, 0],
    ['finish', 1, 0, 0, 0],
    ['break', 0, 0, 0, 0],
    ['unlock', 0, 0, 2, 1],
    ['begin', 0, 0, 0, 1],
    ['delete', 0, 0, 0, 0],
    ['abort', 0, 0, 0, 1],
    ['delete', 0, 0, 2, 0],
    ['done', 0, 0, 0, 1],
    ['resize', 0, 0, 0, 0],
  ] as const
).map(([kind, node, name, pick, text]) => ({ kind, node, name, pick, text }))

test('random histories keep the invariants, and a copy through JSON has the same future', (t) => {
  const seen = new Set<string>()
  fc.assert(
    fc.property(steps, fc.nat(100), (history, cutAt) => {
      const registry = new Registry()
      let copy: Registry | null = null
      for (const [i, step] of history.entries()) {
        if (i === cutAt % history.length) copy = Registry.fromJSON(JSON.parse(JSON.stringify(registry)))
        const result = play(registry, step, i)
        seen.add(typeof result === 'string' ? result.slice(0, result.indexOf(':') + 1) : step.kind)
        if (copy !== null) {
          t.deepEqual(play(copy, step, i), result)
          t.is(JSON.stringify(copy), JSON.stringify(registry))
        }
        checkInvariants(t, registry)
      }
    }),
    { numRuns: 200, examples: [[eventful, 3]] },
  )
  const codes = ['exists:', 'not-found:', 'busy:', 'locked:', 'invalid:', 'read-only:', 'not-locked:']
  const changes = ['commit', 'back-commit', 'done', 'clone', 'rename', 'break', 'announce', 'cancel', 'finish']
  for (const wanted of [...changes, ...codes]) t.true(seen.has(wanted), wanted)
})

test('a registry that is none is refused, never half taken', (t) => {
  const registry = new Registry()
  const vid = create(registry, 'vm')
  snapshot(registry, vid, 'a')
  registry.apply(lock(vid + 1), A)
  const good = JSON.parse(JSON.stringify(registry))
  t.notThrows(() => Registry.fromJSON(good))
  for (const bad of [null, 7, [], {}, { entries: [] }, { entries: [null], locks: [] }, { entries: {}, locks: [] }]) {
    t.throws(() => Registry.fromJSON(bad), { instanceOf: SheepError })
  }
  const spoilt: [string, (json: typeof good) => void][] = [
    ['twice', (j) => j.entries.push(j.entries[0])],
    ['two working', (j) => j.entries.push({ ...j.entries[1], vid: 5, parent: 0 })],
    ['same tag', (j) => j.entries.push({ ...j.entries[0], vid: 5, parent: 0, snapId: 9 })],
    ['parent missing', (j) => (j.entries[0].parent = 12345)],
    ['cycle', (j) => (j.entries[0].parent = vid + 1)],
    ['child of a working VDI', (j) => Object.assign(j.entries[0], { snapshotTime: 0, name: 'w', tag: '' })],
    ['state', (j) => (j.entries[0].state = 'dead')],
    ['creator', (j) => (j.entries[0].creator = 'x')],
    ['name', (j) => (j.entries[0].name = '')],
    ['size', (j) => (j.entries[0].size = 3)],
    ['lock of nothing', (j) => (j.locks[0].vid = 99)],
    ['write lock on a snapshot', (j) => (j.locks[0].vid = vid)],
    ['two writers', (j) => j.locks.push({ ...j.locks[0], session: 'z' })],
    ['mode', (j) => (j.locks[0].mode = 'x')],
    ['a target alone', (j) => (j.locks[0].mode = 'target')],
    ['a target on the same node', (j) => j.locks.push({ ...j.locks[0], session: 'z', mode: 'target' })],
    ['a migration of nothing', (j) => j.migrations.push({ vid: 99, to: '', since: 1, until: 2 })],
    ['a migration of what is not open', (j) => j.migrations.push({ vid, to: '', since: 1, until: 2 })],
    ['a migration without an end', (j) => j.migrations.push({ vid: vid + 1, to: '', since: 1 })],
    ['migrations', (j) => (j.migrations = { vid })],
  ]
  for (const [what, spoil] of spoilt) {
    const json = structuredClone(good)
    spoil(json)
    t.throws(() => Registry.fromJSON(json), { instanceOf: SheepError }, what)
  }
  fc.assert(
    fc.property(fc.json(), (text) => {
      t.throws(() => Registry.fromJSON(JSON.parse(text)), { instanceOf: SheepError })
    }),
  )
})

test('ten thousand VDIs: creating and finding take microseconds, the JSON tens of milliseconds', (t) => {
  const registry = new Registry()
  const time = (run: () => void) => {
    const start = process.hrtime.bigint()
    run()
    return Number(process.hrtime.bigint() - start) / 1e6
  }
  const created = time(() => {
    for (let i = 0; i < 10_000; i++) create(registry, `vm-${i}`)
  })
  const found = time(() => {
    for (let i = 0; i < 10_000; i++) registry.find(`vm-${i}`, '')
  })
  let text = ''
  const written = time(() => {
    text = JSON.stringify(registry)
  })
  const read = time(() => {
    t.is(Registry.fromJSON(JSON.parse(text)).size, 10_000)
  })
  const listed = time(() => t.is(registry.live().length, 10_000))
  const ms = [created, found, written, read, listed].map((n) => n.toFixed(0)).join(', ')
  t.log(`create, find, to JSON, from JSON, list: ${ms} ms`)
  t.true(created < 2000 && found < 500 && written < 500 && read < 1000 && listed < 500, ms)
})
