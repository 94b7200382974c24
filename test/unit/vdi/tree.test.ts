import test from 'ava'
import fc from 'fast-check'
import { dataOid, type Oid } from '../../../lib/vdi/oid.js'
import { Registry } from '../../../lib/vdi/registry.js'
import {
  FreePlan,
  fateOf,
  liveParent,
  nearestLive,
  nearestLiveBelow,
  rangeOf,
  referencesOf,
} from '../../../lib/vdi/tree.js'
import type { VdiCommand } from '../../../lib/vdi/types.js'

const ENTRIES = 5

/** VDIs with indexes and objects in memory, freeing what the plan says. */
class World {
  readonly registry = new Registry()
  readonly indexes = new Map<number, Uint32Array>()
  readonly objects = new Set<Oid>()
  private time = 0

  apply(command: VdiCommand): unknown {
    return this.registry.apply(command, { sender: 'n', time: ++this.time, epoch: 1 })
  }

  private reserve(command: VdiCommand, source: number): number {
    const { vid } = this.apply(command) as { vid: number }
    this.indexes.set(vid, this.indexes.get(source)?.slice() ?? new Uint32Array(ENTRIES))
    return vid
  }

  create(name: string, parent = 0): number {
    const size = ENTRIES * 2 ** 22
    const vid = this.reserve(
      { op: 'create', name, size, copies: 1, blockSizeShift: 22, parent, preallocated: false },
      parent,
    )
    this.apply({ op: 'ready', vid })
    return vid
  }

  beginSnapshot(vid: number): number {
    return this.reserve({ op: 'snapshot-begin', vid, tag: '' }, vid)
  }

  snapshot(vid: number): number {
    const child = this.beginSnapshot(vid)
    this.apply({ op: 'snapshot-commit', vid, child, tag: '' })
    return child
  }

  rollback(snapshot: number): void {
    const child = this.reserve({ op: 'rollback-begin', snapshot }, snapshot)
    this.apply({ op: 'rollback-commit', child })
  }

  write(vid: number, i: number): void {
    const index = this.indexes.get(vid) as Uint32Array
    const former = index[i]
    if (former === vid) return
    this.objects.add(dataOid(vid, i))
    index[i] = vid
    if (former !== 0) this.release(vid, dataOid(former, i))
  }

  discard(vid: number, i: number): void {
    const index = this.indexes.get(vid) as Uint32Array
    const former = index[i]
    index[i] = 0
    if (former !== 0) this.release(vid, dataOid(former, i))
  }

  private release(vid: number, oid: Oid): void {
    this.carryOut(vid, [oid])
  }

  /** delete-begin has been applied. */
  finishDelete(vid: number): void {
    this.carryOut(vid, referencesOf(this.indexes.get(vid) as Uint32Array))
    this.indexes.delete(vid)
    this.apply({ op: 'delete-done', vid, epoch: 1 })
  }

  private carryOut(vid: number, references: Iterable<Oid>): void {
    const plan = new FreePlan(this.registry, vid, references)
    for (const relative of nearestLive(this.registry, vid)) {
      if (plan.settled) break
      const { first, end } = plan.range
      plan.strike((this.indexes.get(relative.vid) as Uint32Array).slice(first, end), first)
    }
    for (const oid of plan.oids()) this.objects.delete(oid)
  }

  /** The dumb model: all objects that the index of any live VDI names. */
  needed(): Set<Oid> {
    const needed = new Set<Oid>()
    for (const entry of this.registry.live()) {
      for (const oid of referencesOf(this.indexes.get(entry.vid) as Uint32Array)) needed.add(oid)
    }
    return needed
  }
}

type Step = { kind: string; pick: number; index: number; name: number }
const steps: fc.Arbitrary<Step[]> = fc.array(
  fc.record({
    kind: fc.constantFrom(
      ...['create', 'snapshot', 'snapshot', 'clone', 'rollback', 'write', 'write', 'write', 'write', 'discard'],
      ...['delete', 'delete', 'begin', 'begin', 'finish', 'finish', 'abandon'],
    ),
    pick: fc.nat(1000),
    index: fc.nat(ENTRIES - 1),
    name: fc.nat(3),
  }),
  { minLength: 10, maxLength: 80, size: 'max' },
)

function play(world: World, step: Step): boolean {
  const { registry } = world
  const live = registry.live()
  const working = live.filter((entry) => entry.snapshotTime === 0)
  const snapshots = live.filter((entry) => entry.snapshotTime > 0)
  const deleting = Array.from(registry.all()).filter((entry) => entry.state === 'deleting')
  const name = ['a', 'b', 'c', 'd'][step.name]
  const pick = <T>(list: T[]): T | undefined => list[step.pick % Math.max(1, list.length)]
  const one = pick(working)?.vid
  const frozen = pick(snapshots)?.vid
  switch (step.kind) {
    case 'create':
      if (registry.working(name) !== undefined) return false
      world.create(name)
      return true
    case 'clone':
      if (frozen === undefined || registry.working(name) !== undefined) return false
      world.create(name, frozen)
      return true
    case 'rollback':
      if (frozen === undefined) return false
      world.rollback(frozen)
      return true
    case 'begin':
    case 'delete': {
      const vid = pick(live)?.vid
      if (vid === undefined) return false
      world.apply({ op: 'delete-begin', vid })
      if (step.kind === 'delete') world.finishDelete(vid)
      return true
    }
    case 'finish': {
      const vid = pick(deleting)?.vid
      if (vid === undefined) return false
      world.finishDelete(vid)
      return true
    }
  }
  if (one === undefined) return false
  if (step.kind === 'snapshot') world.snapshot(one)
  else if (step.kind === 'abandon') world.apply({ op: 'abort', vid: world.beginSnapshot(one) })
  else if (step.kind === 'write') world.write(one, step.index)
  else world.discard(one, step.index)
  return true
}

test('random trees: what the dumb model needs is there at every step, and nothing else once deletions have ended', (t) => {
  const done = new Map<string, number>()
  let shared = 0
  fc.assert(
    fc.property(steps, (history) => {
      const world = new World()
      for (const step of history) {
        if (play(world, step)) done.set(step.kind, (done.get(step.kind) ?? 0) + 1)
        const needed = world.needed()
        for (const oid of needed) if (!world.objects.has(oid)) throw new Error(`object ${oid} is lost by ${step.kind}`)
        const entries = Array.from(world.registry.all())
        if (entries.some((entry) => entry.state === 'deleting')) continue
        if (world.objects.size !== needed.size) throw new Error(`objects are left behind by ${step.kind}`)
        if (entries.some((entry) => entry.state === 'deleted')) shared++
      }
      for (const { vid, state } of Array.from(world.registry.all())) if (state === 'deleting') world.finishDelete(vid)
      t.deepEqual([...world.objects].sort(), [...world.needed()].sort())
      for (const { vid } of world.registry.live()) {
        world.apply({ op: 'delete-begin', vid })
        world.finishDelete(vid)
      }
      t.is(world.objects.size, 0)
      t.is(world.registry.size, 0)
    }),
    { numRuns: 2000 },
  )
  for (const kind of ['snapshot', 'clone', 'rollback', 'write', 'discard', 'delete', 'finish', 'abandon']) {
    t.true((done.get(kind) ?? 0) > 300, `${kind} happened ${done.get(kind)} times`)
  }
  t.true(shared > 500, `trees with deleted members were looked at: ${shared}`)
})

test('nearest live relatives are found through deleted VDIs, up first, and not behind live ones', (t) => {
  const world = new World()
  const root = world.create('a')
  const second = world.snapshot(root)
  const third = world.snapshot(second)
  const clone = world.create('b', second)
  const fourth = world.snapshot(third)
  const vids = (entries: { vid: number }[]) => entries.map((entry) => entry.vid)
  t.deepEqual(vids(nearestLive(world.registry, fourth)), [third])
  for (const vid of [second, third]) {
    world.apply({ op: 'delete-begin', vid })
    world.finishDelete(vid)
  }
  t.deepEqual(vids(nearestLive(world.registry, fourth)), [root, clone])
  t.deepEqual(vids(nearestLive(world.registry, root)).sort(), [fourth, clone].sort())
  t.deepEqual(vids(nearestLiveBelow(world.registry, second)).sort(), [fourth, clone].sort())
  t.deepEqual(vids(nearestLiveBelow(world.registry, clone)), [])
  t.is(fateOf(world.registry, fourth, root), 'keep')
  t.is(fateOf(world.registry, fourth, third), 'ask')
  t.is(fateOf(world.registry, fourth, fourth), 'free')
  t.is(fateOf(world.registry, root, root), 'keep', 'a live snapshot needs what is its own')
})

test('on the word of an index that names a stranger nothing is freed', (t) => {
  const world = new World()
  const victim = world.create('victim')
  world.write(victim, 0)
  const evil = world.create('evil')
  for (const vid of [victim, 0xabcdef]) {
    t.is(fateOf(world.registry, evil, vid), 'keep')
    ;(world.indexes.get(evil) as Uint32Array)[0] = vid
    world.discard(evil, 0)
    ;(world.indexes.get(evil) as Uint32Array)[0] = vid
  }
  world.apply({ op: 'delete-begin', vid: evil })
  world.finishDelete(evil)
  t.true(world.objects.has(dataOid(victim, 0)))
})

test('an abandoned snapshot frees nothing of its parent, which may write the same object anew', (t) => {
  const world = new World()
  const vid = world.create('a')
  world.write(vid, 0)
  const child = world.beginSnapshot(vid)
  world.apply({ op: 'abort', vid: child })
  world.discard(vid, 0)
  const plan = new FreePlan(world.registry, child, referencesOf(world.indexes.get(child) as Uint32Array))
  // The parent's index is read while the entry is a hole; then the parent writes there, then the plan is carried out
  for (const relative of nearestLive(world.registry, child))
    plan.strike(world.indexes.get(relative.vid) as Uint32Array, 0)
  world.write(vid, 0)
  t.deepEqual(plan.oids(), [])
})

test('a walk of ten thousand deleted VDIs does not overflow', (t) => {
  const world = new World()
  const root = world.create('a')
  let vid = root
  for (let i = 0; i < 10_000; i++) {
    const next = world.snapshot(vid)
    if (vid !== root) {
      world.apply({ op: 'delete-begin', vid })
      world.apply({ op: 'delete-done', vid, epoch: 1 })
    }
    vid = next
  }
  t.deepEqual(
    nearestLive(world.registry, vid).map((entry) => entry.vid),
    [root],
  )
  t.is(fateOf(world.registry, vid, root), 'keep')
})

test('ranges and references', (t) => {
  t.deepEqual(rangeOf([]), { first: 0, end: 0 })
  t.deepEqual(rangeOf([dataOid(1, 7), dataOid(2, 3)]), { first: 3, end: 8 })
  t.deepEqual([...referencesOf(Uint32Array.of(0, 5, 0, 6), 10)], [dataOid(5, 11), dataOid(6, 13)])
})

test('to people a VDI descends from its nearest live ancestor', (t) => {
  const world = new World()
  const root = world.create('a')
  const second = world.snapshot(root)
  const third = world.snapshot(second)
  const clone = world.create('b', second)
  const parents = () => [root, second, third, clone].map((vid) => liveParent(world.registry, vid))
  t.deepEqual(parents(), [0, root, second, second])
  world.apply({ op: 'delete-begin', vid: second })
  world.finishDelete(second)
  t.deepEqual(parents(), [0, root, root, root])
  world.apply({ op: 'delete-begin', vid: root })
  world.finishDelete(root)
  t.deepEqual(parents(), [0, 0, 0, 0])
})
