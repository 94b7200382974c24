import test from 'ava'
import fc from 'fast-check'
import type { ClusterFacts, VolumeFacts } from '../../../lib/dbus/messages.js'
import { nodePath, snapshotPath, volumePath } from '../../../lib/dbus/names.js'
import { type BusObject, type Changes, Objects } from '../../../lib/dbus/objects.js'
import { fakeNode } from '../../support/fake-services.js'

const cluster: ClusterFacts = {
  ...{ version: '1', status: 'running', reason: '', self: fakeNode(0).id, clusterId: 'c', created: 1, copies: 2 },
  ...{ objectSize: 4 << 20, epoch: 1, epochTime: 2, nodes: [fakeNode(0), fakeNode(1)], recovered: [fakeNode(0).id] },
  ...{ recoveryHeld: false, recoveryLimit: 0, onNoQuorum: 0 },
}

function volume(vid: number, name: string, more: Partial<VolumeFacts> = {}): VolumeFacts {
  return {
    ...{ vid, name, tag: '', snapId: 1, size: 1 << 20, copies: 2, objectSize: 4 << 20, created: 1 },
    ...{ preallocated: false, snapshot: false, parent: 0, onNoQuorum: null, locks: [], ...more },
  }
}

const told = ({ added, changed, removed }: Changes): unknown => ({
  added: added.map(({ path }) => path).sort(),
  changed: Object.fromEntries(changed.map(({ object, values }) => [object.path, values])),
  removed: removed.map(({ path }) => path).sort(),
})

test('what came, what changed and what went is told, and nothing else', (t) => {
  const objects = new Objects()
  const { added } = objects.take(cluster, [volume(1, 'a')], [])
  t.is(added.length, 4)
  t.deepEqual(told(objects.take(cluster, [], [])), { added: [], changed: {}, removed: [] })
  t.deepEqual(told(objects.take(cluster, [volume(1, 'a')], [])), { added: [], changed: {}, removed: [] })
  const grown = objects.take(
    { ...cluster, recovered: [fakeNode(0).id, fakeNode(1).id] },
    [volume(1, 'a', { size: 7 })],
    [],
  )
  t.deepEqual(told(grown), {
    added: [],
    changed: {
      '/org/sheepdog/cluster': { Recovering: [] },
      [nodePath(fakeNode(1).id)]: { Recovered: true },
      [volumePath('a')]: { Size: 7 },
    },
    removed: [],
  })
  const smaller = objects.take({ ...cluster, nodes: [fakeNode(0)] }, [], [1])
  t.deepEqual((told(smaller) as { removed: unknown }).removed, [nodePath(fakeNode(1).id), volumePath('a')])
})

test('a snapshot takes the vid of its volume, and what is made of it shows where it came from', (t) => {
  const objects = new Objects()
  objects.take(cluster, [volume(1, 'a')], [])
  const snapshot = volume(1, 'a', { snapshot: true, tag: 'monday' })
  const changes = objects.take(cluster, [snapshot, volume(2, 'a', { parent: 1, snapId: 2 })], [])
  t.deepEqual(told(changes), {
    added: [snapshotPath('a', 1)],
    changed: { [volumePath('a')]: { Vid: 2, Parent: snapshotPath('a', 1) } },
    removed: [],
  })
  t.is(objects.snapshot('a', 'monday')?.path, snapshotPath('a', 1))
  t.is(objects.snapshot('a', '1')?.path, snapshotPath('a', 1))
  t.is(objects.snapshot('a', 'tuesday'), undefined)
  t.is(objects.snapshot('b', '1'), undefined)
  objects.take(cluster, [volume(3, 'clone', { parent: 1 })], [])
  t.is(objects.get(volumePath('clone'))?.values.Clone, true)
  // The volume goes, and its snapshot names none; renamed, it is named anew by the clone.
  const gone = told(objects.take(cluster, [], [2])) as { changed: unknown }
  t.deepEqual(gone.changed, { [snapshotPath('a', 1)]: { Volume: '/' } })
  const renamed = told(objects.take(cluster, [{ ...snapshot, name: 'b' }], [])) as { changed: unknown }
  t.deepEqual(renamed.changed, { [volumePath('clone')]: { Parent: snapshotPath('b', 1) } })
})

test('the tree: every object is found from the root, and nothing stays that leads nowhere', (t) => {
  const objects = new Objects()
  objects.take(cluster, [volume(1, 'a', { snapshot: true }), volume(2, 'a', { parent: 1 })], [])
  t.deepEqual([...objects.below('/')!], ['org'])
  t.deepEqual([...objects.below('/org/sheepdog')!].sort(), ['cluster', 'nodes', 'snapshots', 'volumes'])
  t.deepEqual([...objects.below('/org/sheepdog/snapshots/a')!], ['1'])
  t.deepEqual([...objects.below(volumePath('a'))!], [])
  t.is(objects.below('/org/sheepdog/volumes/b'), undefined)
  objects.take(cluster, [], [1, 2])
  t.deepEqual([...objects.below('/org/sheepdog')!].sort(), ['cluster', 'nodes'])
  t.is(objects.below('/org/sheepdog/snapshots'), undefined)
})

test('who follows the changes has what who asks anew gets', (t) => {
  const facts = fc.record({
    vid: fc.integer({ min: 1, max: 6 }),
    name: fc.constantFrom('a', 'b', 'c'),
    snapshot: fc.boolean(),
    parent: fc.integer({ min: 0, max: 6 }),
    size: fc.integer({ min: 1, max: 3 }),
  })
  const step = fc.record({
    changed: fc.array(facts, { maxLength: 3 }),
    removed: fc.array(fc.integer({ min: 1, max: 6 })),
  })
  fc.assert(
    fc.property(fc.array(step, { maxLength: 8 }), (steps) => {
      const objects = new Objects()
      const known = new Map<number, VolumeFacts>()
      const followed = new Map<string, Record<string, unknown>>()
      const follow = ({ added, changed, removed }: Changes): void => {
        for (const object of added) followed.set(object.path, { ...object.values })
        for (const { object, values } of changed) Object.assign(followed.get(object.path)!, values)
        for (const { path } of removed) followed.delete(path)
      }
      follow(objects.take(cluster, [], []))
      for (const { changed, removed } of steps) {
        const news = new Map<number, VolumeFacts>()
        for (const { vid, name, snapshot, parent, size } of changed) {
          news.set(vid, volume(vid, name, { snapshot, size, parent: parent === vid ? 0 : parent, snapId: vid }))
        }
        // A name has one volume at a time.
        const gone = new Set(removed.filter((vid) => !news.has(vid)))
        for (const [vid, { name, snapshot }] of [...known, ...news]) {
          const rival = [...news.values()].find((one) => one.name === name && !one.snapshot && one.vid !== vid)
          if (snapshot || rival === undefined || gone.has(rival.vid)) continue
          news.delete(vid)
          gone.add(vid)
        }
        for (const vid of gone) known.delete(vid)
        for (const one of news.values()) known.set(one.vid, one)
        follow(objects.take(cluster, [...news.values()], [...gone]))
      }
      const anew = new Objects()
      anew.take(cluster, [...known.values()], [])
      const byPath = (list: Iterable<BusObject>): unknown =>
        Object.fromEntries([...list].map((one) => [one.path, one.values]))
      t.deepEqual(Object.fromEntries(followed), byPath(anew.all()))
      t.deepEqual(byPath(objects.all()), byPath(anew.all()))
    }),
  )
})
