/** VDIs as files: what the registry keeps of them, and how it goes from one vid to the next. */
import test, { type ExecutionContext } from 'ava'
import { SheepError } from '../../../lib/errors.js'
import { FILE_XATTRS_MAX } from '../../../lib/vdi/file.js'
import { Registry } from '../../../lib/vdi/registry.js'
import type { CommandContext, VdiCommand, VdiFile } from '../../../lib/vdi/types.js'

const A: CommandContext = { sender: 'node-a', time: 1000, epoch: 1 }
const FILE: VdiFile = { length: 0, growing: false, mode: 0o640, uid: 1, gid: 2, mtime: 5, xattrs: {} }

function made(registry: Registry, name: string, more: Partial<Extract<VdiCommand, { op: 'create' }>> = {}): number {
  const { vid } = registry.apply(
    { op: 'create', name, size: 4096, copies: 1, blockSizeShift: 22, parent: 0, preallocated: false, ...more },
    A,
  ) as { vid: number }
  registry.apply({ op: 'ready', vid }, A)
  return vid
}

function snapshot(registry: Registry, vid: number, tag: string): number {
  const { vid: child } = registry.apply({ op: 'snapshot-begin', vid, tag }, A) as { vid: number }
  registry.apply({ op: 'snapshot-commit', vid, child, tag }, A)
  return child
}

function code(t: ExecutionContext, run: () => unknown): string {
  return (t.throws(run, { instanceOf: SheepError }) as SheepError).code
}

test('length: of the file, else the size; growing until somebody says how long it is', (t) => {
  const registry = new Registry()
  const vid = made(registry, 'a', { file: FILE })
  t.is(registry.get(vid)?.file?.length, 0)
  registry.apply({ op: 'resize', vid, size: 1 << 20, length: 100, growing: true }, A)
  t.like(registry.get(vid), { size: 1 << 20, file: { length: 100, growing: true, mode: 0o640 } })
  registry.apply({ op: 'resize', vid, size: 1024, length: 1000 }, A)
  t.like(registry.get(vid), { size: 1024, file: { length: 1000, growing: false } })
  registry.apply({ op: 'resize', vid, size: 8192 }, A)
  t.like(registry.get(vid)?.file, { length: null, growing: false, uid: 1 })
  t.is(
    code(t, () => registry.apply({ op: 'resize', vid, size: 512, length: 513 }, A)),
    'invalid',
  )
  const plain = made(registry, 'plain')
  registry.apply({ op: 'resize', vid: plain, size: 8192 }, A)
  t.is(registry.get(plain)?.file, undefined)
})

test('a snapshot leaves the file what it is, by another vid, and keeps what it was', (t) => {
  const registry = new Registry()
  const vid = made(registry, 'a', { file: FILE })
  registry.apply({ op: 'resize', vid, size: 4096, length: 700 }, A)
  const child = snapshot(registry, vid, 'one')
  const grandchild = snapshot(registry, child, 'two')
  t.is(registry.get(vid)?.origin, undefined)
  t.is(registry.get(child)?.origin, undefined)
  t.like(registry.get(grandchild), { origin: vid, file: { length: 700, mode: 0o640 } })
  t.is(registry.get(vid)?.file?.length, 700)
  const { vid: back } = registry.apply({ op: 'rollback-begin', snapshot: vid }, A) as { vid: number }
  registry.apply({ op: 'rollback-commit', child: back }, A)
  t.is(registry.get(back)?.origin, undefined)
  t.like(registry.get(back)?.file, { length: 700, mode: 0o640 })
  const clone = made(registry, 'clone', { parent: vid })
  t.like(registry.get(clone)?.file, { length: 700, mode: 0o600 })
  t.deepEqual(Registry.fromJSON(JSON.parse(JSON.stringify(registry))).toJSON(), registry.toJSON())
})

test('owner, mode and attributes: some change, the rest stays; more than is allowed is refused', (t) => {
  const registry = new Registry()
  const vid = made(registry, 'a')
  const set = (change: object) => registry.apply({ op: 'set-file', vid, change } as VdiCommand, A)
  set({ uid: 107 })
  set({ mode: 0o644, xattrs: { 'security.selinux': 'YQ==', 'user.x': 'YWI=' } })
  set({ xattrs: { 'user.x': null, __proto__x: 'YQ==' } })
  t.like(registry.get(vid)?.file, { uid: 107, mode: 0o644, length: null })
  t.deepEqual(registry.get(vid)?.file?.xattrs, { 'security.selinux': 'YQ==', __proto__x: 'YQ==' })
  const before = JSON.stringify(registry)
  for (const bad of [{ mode: 0o4755 }, { uid: -1 }, { gid: 2 ** 32 }, { mtime: 0.5 }, { xattrs: { '': 'YQ==' } }])
    t.is(
      code(t, () => set(bad)),
      'invalid',
      JSON.stringify(bad),
    )
  t.is(
    code(t, () => set({ xattrs: { 'user.x': '!' } })),
    'invalid',
  )
  t.is(
    code(t, () => set({ xattrs: { 'user.big': 'A'.repeat(FILE_XATTRS_MAX) } })),
    'too-big',
  )
  t.is(JSON.stringify(registry), before)
})

test('a VDI without a parent that its writer fills becomes a clone, and nothing else does', (t) => {
  const registry = new Registry()
  const source = made(registry, 'source')
  const working = snapshot(registry, source, 'one')
  const vid = made(registry, 'copy')
  const adopt = (parent: number, sender = 'node-a') => registry.apply({ op: 'adopt', vid, parent }, { ...A, sender })
  t.is(
    code(t, () => adopt(source)),
    'not-locked',
  )
  registry.apply({ op: 'lock', vid, session: 's', mode: 'write', holder: 'x' }, A)
  t.is(
    code(t, () => adopt(source, 'node-b')),
    'not-locked',
  )
  t.is(
    code(t, () => adopt(working)),
    'invalid',
  )
  t.is(
    code(t, () => adopt(vid)),
    'invalid',
  )
  adopt(source)
  adopt(source)
  t.is(registry.get(vid)?.parent, source)
  t.deepEqual(
    registry.children(source),
    [working, vid].sort((a, b) => a - b),
  )
  t.is(
    code(t, () => registry.apply({ op: 'adopt', vid: source, parent: source }, A)),
    'read-only',
  )
  const other = made(registry, 'other', { blockSizeShift: 23 })
  registry.apply({ op: 'lock', vid: other, session: 't', mode: 'write', holder: 'x' }, A)
  t.is(
    code(t, () => registry.apply({ op: 'adopt', vid: other, parent: source }, A)),
    'invalid',
  )
})
