import test from 'ava'
import fc from 'fast-check'
import { Flusher, type Standing } from '../../../lib/gateway/flusher.js'
import { IndexTable } from '../../../lib/gateway/index-table.js'
import { FLAG_FUA } from '../../../lib/protocol/header.js'
import { EIO, LOST, NO_OBJECT, WRITE } from '../../../lib/replication/request.js'
import { dataOid, inodeOid, type Oid } from '../../../lib/vdi/oid.js'
import { PendingRouter } from './pending-router.js'

const VID = 7
const NODES = ['a', 'b', 'c', 'd']

function setup(placed: (oid: Oid) => readonly string[] = () => ['a', 'b']) {
  const router = new PendingRouter()
  const present = new Set(NODES)
  /** Changes go by them */
  const passing = new Set<string>()
  const standings = new Map<string, Partial<Standing>>()
  const lost: Oid[] = []
  const givenUp = new Set<Oid>()
  const tookAll: string[] = []
  const mayHaveDropped = new Set<string>()
  let time = 0
  const flusher = new Flusher({
    self: 'a',
    router: router.asVolumeRouter,
    clock: { now: () => ++time, wall: () => 0, after: () => ({ cancel: () => {} }) },
    storeNodes: () => [...present],
    replicasOf: placed,
    holdersOf: (oid) => placed(oid).filter((node) => !passing.has(node)),
    tookAll: () => tookAll,
    mayHaveDropped: (_oid, node) => mayHaveDropped.has(node),
    copiesOf: () => 2,
    standingOf: (node) => ({ boot: 'first', lost: 0, plugged: 0, ...standings.get(node) }),
    givenUp: (oid) => givenUp.has(oid),
    lost: (oid) => lost.push(oid),
  })
  const index = new IndexTable(router.asVolumeRouter, VID, 2, new Uint32Array(16))
  const results: number[] = []
  const flush = (vid = VID) => flusher.flush(vid, index, { complete: (result) => results.push(result) })
  const asked = () => router.flushes.map(({ node }) => node)
  const answer = (result = 0) => {
    for (const { done } of router.flushes.splice(0)) done.complete(result)
  }
  /** The first flush asks all: whoever had the volume before may have left something. */
  const settle = () => {
    flush()
    answer()
    results.length = 0
  }
  return {
    router,
    present,
    passing,
    standings,
    lost,
    givenUp,
    tookAll,
    mayHaveDropped,
    flusher,
    index,
    results,
    flush,
    asked,
    answer,
    settle,
  }
}

test('the first flush asks every node, the next only those that took writes', (t) => {
  const { flusher, flush, asked, answer, results } = setup((oid) => (oid === dataOid(VID, 1) ? ['b', 'd'] : ['a', 'c']))
  flush()
  t.deepEqual(asked(), NODES)
  answer()
  t.deepEqual(results, [0])
  flush()
  t.deepEqual(asked(), [])
  t.deepEqual(results, [0, 0])
  flusher.touched(dataOid(VID, 1))
  flush()
  t.deepEqual(asked(), ['b', 'd'])
})

test('an index entry is flushed where the inode object is', (t) => {
  const { router, index, flush, asked, settle } = setup((oid) => (oid === inodeOid(VID) ? ['c'] : ['a']))
  settle()
  router.inline = (_kind, bytes) => bytes.length
  index.set(3, VID, false, { complete: () => {} })
  flush()
  t.deepEqual(asked(), ['c'])
})

test('those who ask while one runs share the next', (t) => {
  const { flusher, flush, asked, answer, results, settle } = setup()
  settle()
  flusher.touched(dataOid(VID, 0))
  flush()
  flusher.touched(dataOid(VID, 0))
  flush()
  flush()
  t.is(asked().length, 2)
  answer()
  t.deepEqual(results, [0])
  t.is(asked().length, 2, 'the next one has begun')
  answer()
  t.deepEqual(results, [0, 0, 0])
})

test('a flush that waits for its turn when a snapshot is taken asks for the new vid', (t) => {
  const { router, flusher, flush, answer, settle } = setup()
  settle()
  flusher.touched(dataOid(VID, 0))
  flush(VID)
  flusher.touched(dataOid(8, 0))
  flush(8)
  t.true(router.flushes.every(({ oid }) => oid === inodeOid(VID)))
  answer()
  t.true(router.flushes.length > 0 && router.flushes.every(({ oid }) => oid === inodeOid(8)))
})

test('the index is clean only once the flush that covers it has ended', (t) => {
  const { index, flush, answer } = setup()
  flush()
  t.true(index.dirty)
  answer()
  t.false(index.dirty)
})

test('after a failure everything is asked again', (t) => {
  const { flusher, index, flush, asked, answer, results, settle } = setup()
  settle()
  index.changes++
  flusher.touched(dataOid(VID, 0))
  flush()
  answer(-28)
  t.deepEqual(results, [-28])
  t.true(index.dirty)
  flush()
  t.deepEqual(asked(), NODES)
})

test('after a change of epoch every node is asked, and one that stays is enough', (t) => {
  const { router, flusher, flush, asked, answer, results, settle } = setup()
  settle()
  flusher.touched(dataOid(VID, 0))
  flusher.epochChanged((node) => node !== 'a')
  flush()
  t.deepEqual(asked(), NODES)
  answer()
  t.deepEqual(router.submitted, [])
  t.deepEqual(results, [0])
})

test('when all who had a write have left, the flush waits until the object is there again, on disk', (t) => {
  const { router, flusher, flush, answer, results, settle } = setup()
  settle()
  flusher.touched(dataOid(VID, 3))
  flusher.epochChanged((node) => node !== 'a')
  flusher.epochChanged((node) => node !== 'b')
  flush()
  answer()
  t.deepEqual(results, [])
  const [write] = router.submitted
  t.deepEqual([write.kind, write.oid, write.bytes.length, write.flags], [WRITE, dataOid(VID, 3), 0, FLAG_FUA])
  write.done.complete(0)
  t.deepEqual(results, [0])
  flush()
  t.is(router.submitted.length, 1, 'once is enough')
})

test('when all who had a write have lost their power, flushes fail until the volume is opened anew', (t) => {
  const { router, standings, lost, flusher, flush, answer, results, settle } = setup()
  settle()
  flusher.touched(dataOid(VID, 3))
  flusher.epochChanged((node) => node !== 'a')
  flusher.epochChanged((node) => node !== 'b')
  standings.set('a', { boot: 'second' })
  flusher.epochChanged(() => true)
  t.deepEqual(lost, [], 'b has kept it')
  standings.set('b', { boot: 'second' })
  flusher.epochChanged(() => true)
  t.deepEqual(lost, [dataOid(VID, 3)])
  flush()
  answer()
  flusher.touched(dataOid(VID, 4))
  flush()
  answer()
  t.deepEqual(results, [EIO, EIO])
  t.is(router.submitted.length, 0)
})

test('one that lost its power is back first: it may have been believed before the other is there', (t) => {
  const { present, standings, lost, flusher, flush, results, answer, settle } = setup()
  settle()
  flusher.touched(dataOid(VID, 3))
  for (const node of ['a', 'b']) present.delete(node)
  flusher.epochChanged((node) => present.has(node))
  t.deepEqual(lost, [])
  flush()
  present.add('a')
  standings.set('a', { boot: 'second' })
  flusher.epochChanged((node) => node !== 'a')
  present.add('b')
  flusher.epochChanged((node) => node !== 'b')
  t.deepEqual(lost, [dataOid(VID, 3)])
  answer()
  t.deepEqual(results, [EIO])
})

test('the only one that had a write loses a disk: the replicas know whether it still has it, until a disk comes to it', (t) => {
  const { router, passing, standings, lost, flusher, flush, answer, results, settle } = setup()
  settle()
  passing.add('b')
  const only = dataOid(VID, 3)
  const losesDisk = (epoch: number) => {
    flusher.touched(only)
    standings.set('a', { ...standings.get('a'), lost: epoch })
    flusher.epochChanged((node) => node !== 'a')
    flush()
    answer()
  }
  losesDisk(5)
  router.submitted[0].done.complete(0)
  losesDisk(6)
  router.submitted[1].done.complete(LOST)
  t.deepEqual(results, [0, EIO])
  flusher.epochChanged(() => true)
  t.deepEqual(lost, [])
  standings.set('a', { lost: 6, plugged: 8 })
  flusher.epochChanged(() => true)
  t.deepEqual(lost, [only])
})

test('the only one that had a write starts anew, and had lost a disk before that write: it has lost nothing', (t) => {
  const { passing, standings, lost, flusher, settle } = setup()
  settle()
  passing.add('b')
  standings.set('a', { lost: 5, plugged: 6 })
  flusher.epochChanged(() => true)
  flusher.touched(dataOid(VID, 3))
  standings.delete('a')
  flusher.epochChanged((node) => node !== 'a')
  t.deepEqual(lost, [])
})

test('one that has lost a disk starts anew, or its host does: it may be believed though it lacks the write', (t) => {
  for (const restart of [{ lost: 0 }, { boot: 'second', lost: 5 }]) {
    const { passing, standings, lost, flusher, settle } = setup()
    settle()
    passing.add('b')
    flusher.touched(dataOid(VID, 3))
    standings.set('a', { lost: 5 })
    flusher.epochChanged((node) => node !== 'a')
    t.deepEqual(lost, [])
    standings.set('a', restart)
    flusher.epochChanged((node) => node !== 'a')
    t.deepEqual(lost, [dataOid(VID, 3)])
  }
})

test('none of those who had the write is here: whoever has taken it since has it, unless it was given up', (t) => {
  const { router, present, givenUp, lost, flusher, flush, results, answer, settle } = setup()
  settle()
  for (const oid of [dataOid(VID, 3), dataOid(VID, 4)]) flusher.touched(oid)
  for (const node of ['a', 'b']) present.delete(node)
  flusher.epochChanged((node) => present.has(node))
  flush()
  answer()
  router.submitted[0].done.complete(0)
  givenUp.add(dataOid(VID, 4))
  flusher.epochChanged(() => true)
  t.deepEqual(lost, [dataOid(VID, 4)])
  router.submitted[1].done.complete(0)
  t.deepEqual(results, [EIO])
})

test('whoever had taken all of its share has it too, also when those who did the write lose their power one after the other', (t) => {
  const { standings, lost, flusher, tookAll, flush, results, answer, settle } = setup()
  settle()
  flusher.touched(dataOid(VID, 3))
  flusher.epochChanged((node) => node !== 'a')
  tookAll.push('a')
  standings.set('a', { boot: 'second' })
  flusher.epochChanged(() => true)
  tookAll.length = 0
  flusher.epochChanged((node) => node !== 'b')
  standings.set('b', { boot: 'second' })
  flusher.epochChanged(() => true)
  t.deepEqual(lost, [])
  flush()
  answer()
  t.deepEqual(results, [0])
  // What is written now only they have who do it.
  flusher.touched(dataOid(VID, 3))
  flusher.epochChanged((node) => node !== 'a' && node !== 'b')
  for (const node of ['a', 'b']) standings.set(node, { boot: 'third' })
  flusher.epochChanged(() => true)
  t.deepEqual(lost, [dataOid(VID, 3)])
})

test('one that may have dropped its copy, since others have taken it, is no holder; until then it is', (t) => {
  for (const dropped of [true, false]) {
    let replicas = ['a', 'b']
    const { standings, lost, flusher, tookAll, mayHaveDropped, settle } = setup(() => replicas)
    settle()
    flusher.touched(dataOid(VID, 3))
    replicas = ['c', 'd']
    flusher.epochChanged(() => true)
    if (dropped) {
      tookAll.push('c', 'd')
      for (const node of ['a', 'b']) mayHaveDropped.add(node)
    }
    const stays = (node: string) => node !== 'c' && node !== 'd'
    flusher.epochChanged(stays)
    tookAll.length = 0
    for (const node of ['c', 'd']) standings.set(node, { boot: 'second' })
    flusher.epochChanged(() => true)
    t.deepEqual(lost, dropped ? [dataOid(VID, 3)] : [])
  }
})

test('one that is a replica no more is no holder beside one that is: that one is believed, though it has lost its power', (t) => {
  for (const boot of ['first', 'second']) {
    let replicas = ['a', 'b']
    const { standings, lost, flusher, settle } = setup(() => replicas)
    settle()
    flusher.touched(dataOid(VID, 3))
    replicas = ['b', 'c']
    flusher.epochChanged(() => true)
    flusher.epochChanged((node) => node !== 'b')
    t.true(flusher.isOrphan(dataOid(VID, 3)))
    standings.set('b', { boot })
    flusher.epochChanged(() => true)
    t.deepEqual(lost, boot === 'first' ? [] : [dataOid(VID, 3)])
  }
})

test('one left with its power before the other one was known to have lost a disk: it may be believed when it is back', (t) => {
  for (const boot of ['first', 'second']) {
    const { present, standings, lost, flusher, settle } = setup()
    settle()
    flusher.touched(dataOid(VID, 3))
    present.delete('b')
    flusher.epochChanged((node) => node !== 'b')
    standings.set('a', { lost: 5 })
    flusher.epochChanged((node) => node !== 'a')
    t.deepEqual(lost, [])
    present.add('b')
    standings.set('b', { boot })
    flusher.epochChanged(() => true)
    t.deepEqual(lost, boot === 'first' ? [] : [dataOid(VID, 3)])
  }
})

test('whoever has a write that no replica has yet is believed, though it is no replica itself', (t) => {
  let replicas = ['a', 'b']
  const { router, flusher, flush, results, answer, settle } = setup(() => replicas)
  settle()
  flusher.touched(dataOid(VID, 3))
  replicas = ['c', 'd']
  flusher.epochChanged(() => true)
  flusher.epochChanged((node) => node !== 'a')
  flush()
  answer()
  t.deepEqual(router.submitted, [])
  t.deepEqual(results, [0])
})

test('one by which the write went does not have it', (t) => {
  const { router, passing, flusher, flush, answer, results, settle } = setup()
  settle()
  passing.add('b')
  flusher.touched(dataOid(VID, 3))
  flusher.epochChanged((node) => node !== 'a')
  flush()
  answer()
  t.deepEqual(results, [])
  t.deepEqual(
    router.submitted.map(({ oid, flags }) => [oid, flags]),
    [[dataOid(VID, 3), FLAG_FUA]],
  )
  router.submitted[0].done.complete(0)
  t.deepEqual(results, [0])
})

test('one by which a change went is flushed all the same: its copy may be right since', (t) => {
  const { passing, flusher, flush, asked, settle } = setup()
  settle()
  passing.add('b')
  flusher.touched(dataOid(VID, 3))
  flush()
  t.deepEqual(asked(), ['a', 'b'])
})

test('when all who had index entries have left, the flush waits until these are written again', (t) => {
  const { router, flusher, index, flush, answer, results, settle } = setup()
  index.onWritten = () => flusher.touched(inodeOid(VID))
  settle()
  index.set(3, VID, false, { complete: () => {} })
  router.submitted[0].done.complete(4)
  flusher.epochChanged((node) => node !== 'a')
  t.false(flusher.isOrphan(inodeOid(VID)))
  flusher.epochChanged((node) => node !== 'b')
  t.true(flusher.isOrphan(inodeOid(VID)))
  flush()
  answer()
  t.deepEqual(results, [])
  const write = router.submitted[1]
  t.deepEqual([write.kind, write.oid, write.bytes.length, write.flags], [WRITE, inodeOid(VID), 4, FLAG_FUA])
  write.done.complete(4)
  t.deepEqual(results, [0])
})

test('they may leave while the flush runs', (t) => {
  const { router, flusher, flush, answer, results, settle } = setup()
  settle()
  flusher.touched(dataOid(VID, 3))
  flush()
  flusher.epochChanged((node) => node === 'c' || node === 'd')
  answer()
  t.deepEqual(results, [])
  router.submitted[0].done.complete(0)
  t.deepEqual(results, [0])
})

test('an object that is lost fails the flush, and each one after it', (t) => {
  const { router, flusher, flush, answer, results, settle } = setup()
  settle()
  flusher.touched(dataOid(VID, 3))
  flusher.epochChanged(() => false)
  for (let i = 0; i < 2; i++) {
    flush()
    answer()
    router.submitted[i].done.complete(NO_OBJECT)
  }
  t.deepEqual(results, [EIO, EIO])
})

test('one that was removed meanwhile needs nobody', (t) => {
  const { router, flusher, flush, answer, results, settle } = setup()
  settle()
  flusher.touched(dataOid(VID, 3))
  flusher.touched(dataOid(VID, 4))
  flusher.epochChanged(() => false)
  flusher.forgotten(dataOid(VID, 4))
  flush()
  answer()
  t.is(router.submitted.length, 1)
  flusher.forgotten(dataOid(VID, 3))
  router.submitted[0].done.complete(NO_OBJECT)
  t.deepEqual(results, [0])
})

/**
 * The promise: a write that completed before a flush began is, when it ends, synced on a node that did it. Nodes hold the
 * numbers of the writes; a sync covers what is there when it begins.
 */
test('whatever completes before a flush begins is durable when it ends', (t) => {
  const step = fc.record({
    what: fc.constantFrom('write', 'write', 'flush', 'sync', 'sync', 'secured', 'leave', 'back'),
    a: fc.nat(9),
  })
  const placed = (oid: Oid, present: Set<string>) => {
    const list = NODES.filter((node) => present.has(node))
    return [0, 1].slice(0, list.length).map((i) => list[(oid + i) % list.length])
  }
  fc.assert(
    fc.property(fc.array(step, { size: 'large', maxLength: 120 }), (steps) => {
      const world = setup((oid) => placed(oid, world.present))
      const { router, present, flusher, index } = world
      const oidAt = (a: number) => dataOid(VID, a % 4)
      const has = new Map(NODES.map((node) => [node, new Map<number, Oid>()]))
      const durable = new Map(NODES.map((node) => [node, new Set<number>()]))
      const completed = new Set<number>()
      let flushes = 0
      let ended = 0
      let number = 0
      const isDurable = (write: number) => NODES.some((node) => durable.get(node)?.has(write))
      const writesOf = (oid: Oid) => [...has.values()].flatMap((list) => [...list]).filter(([, of]) => of === oid)
      /** Present nodes with all writes of the object. */
      const complete = (oid: Oid) =>
        [...present].filter((node) => writesOf(oid).every(([write]) => has.get(node)?.has(write)))
      /** All its replicas have the object, on disk those who had to take it; false when nobody can give it. */
      const recover = (oid: Oid): boolean => {
        if (complete(oid).length === 0) return false
        for (const node of placed(oid, present)) {
          if (complete(oid).includes(node)) continue
          for (const [write] of writesOf(oid)) {
            has.get(node)?.set(write, oid)
            durable.get(node)?.add(write)
          }
        }
        return true
      }
      for (const { what, a } of steps) {
        if (what === 'write') {
          const oid = oidAt(a)
          if (!recover(oid)) continue
          number++
          for (const node of placed(oid, present)) has.get(node)?.set(number, oid)
          completed.add(number)
          flusher.touched(oid)
        } else if (what === 'flush') {
          const before = [...completed]
          flushes++
          flusher.flush(VID, index, {
            complete: (result) => {
              ended++
              if (result === 0) for (const write of before) t.true(isDurable(write), `write ${write}`)
            },
          })
        } else if (what === 'sync' && router.flushes.length > 0) {
          const [{ node, done }] = router.flushes.splice(a % router.flushes.length, 1)
          // One that is no member has nothing to say, and the router ends it well.
          if (present.has(node)) for (const write of has.get(node)?.keys() ?? []) durable.get(node)?.add(write)
          done.complete(0)
        } else if (what === 'secured' && router.submitted.length > 0) {
          const at = a % router.submitted.length
          const { oid, done } = router.submitted[at]
          if (!recover(oid)) continue
          router.submitted.splice(at, 1)
          for (const node of placed(oid, present)) for (const [write] of writesOf(oid)) durable.get(node)?.add(write)
          done.complete(0)
        } else if (what === 'leave' && present.size > 1) {
          const node = [...present][a % present.size]
          present.delete(node)
          flusher.epochChanged((one) => present.has(one))
        } else if (what === 'back' && present.size < NODES.length) {
          const node = NODES.filter((one) => !present.has(one))[a % (NODES.length - present.size)]
          const stayed = new Set(present)
          present.add(node)
          flusher.epochChanged((one) => stayed.has(one))
        }
      }
      t.true(ended <= flushes)
    }),
    { numRuns: 1_000 },
  )
})
