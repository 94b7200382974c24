import test from 'ava'
import fc from 'fast-check'
import { IndexTable } from '../../../lib/gateway/index-table.js'
import { FLAG_FUA } from '../../../lib/protocol/header.js'
import { READ, WRITE } from '../../../lib/replication/request.js'
import { INDEX_OFFSET } from '../../../lib/vdi/inode.js'
import { inodeOid } from '../../../lib/vdi/oid.js'
import { PendingRouter } from './pending-router.js'

const VID = 0xabc
const ENOSPC = -28

function table(length = 16): { router: PendingRouter; index: IndexTable; outcomes: string[]; set: Setter } {
  const router = new PendingRouter()
  const index = new IndexTable(router.asVolumeRouter, VID, 3, new Uint32Array(length))
  const outcomes: string[] = []
  const set = (at: number, vid: number, durable = false) =>
    index.set(at, vid, durable, { complete: (result) => outcomes.push(`${at}=${result}`) })
  return { router, index, outcomes, set }
}

type Setter = (at: number, vid: number, durable?: boolean) => void

test('a change counts once the inode object has it', (t) => {
  const { router, index, outcomes, set } = table()
  set(5, VID)
  const [write] = router.submitted
  t.is(write.kind, WRITE)
  t.is(write.oid, inodeOid(VID))
  t.is(write.copies, 3)
  t.is(write.position, INDEX_OFFSET + 20)
  t.is(Buffer.from(write.bytes).readUInt32LE(0), VID)
  t.is(write.flags, 0)
  t.is(index.get(5), 0)
  write.done.complete(4)
  t.is(index.get(5), VID)
  t.deepEqual(outcomes, ['5=0'])
})

test('changes that come meanwhile go together, neighbours in one write', (t) => {
  const { router, outcomes, set } = table()
  set(0, VID)
  for (const at of [9, 4, 8, 3, 12]) set(at, VID)
  t.is(router.submitted.length, 1)
  router.submitted[0].done.complete(4)
  const runs = router.submitted.slice(1)
  t.deepEqual(
    runs.map((run) => [(run.position - INDEX_OFFSET) / 4, run.bytes.length / 4]),
    [
      [3, 2],
      [8, 2],
      [12, 1],
    ],
  )
  for (const run of runs) run.done.complete(run.bytes.length)
  t.deepEqual(outcomes, ['0=0', '3=0', '4=0', '8=0', '9=0', '12=0'])
})

test('one that must be durable makes its write durable', (t) => {
  const { router, set } = table()
  set(1, 0, true)
  t.is(router.submitted[0].flags, FLAG_FUA)
})

test('one write fails, its neighbours in time do not', (t) => {
  const { router, index, outcomes, set } = table()
  set(0, VID)
  set(4, VID)
  set(8, VID)
  router.submitted[0].done.complete(4)
  router.submitted[1].done.complete(ENOSPC)
  router.submitted[2].done.complete(4)
  t.is(index.get(8), VID)
  const look = router.submitted[3]
  t.is(look.kind, READ)
  Buffer.from(look.bytes.buffer, look.bytes.byteOffset, 4).writeUInt32LE(0)
  look.done.complete(4)
  t.is(index.get(4), 0)
  t.deepEqual(outcomes, ['0=0', '8=0', '4=-28'])
})

test('a failed clearing that reached the inode object all the same is seen: later writes must not trust the entry', (t) => {
  const { router, index, outcomes, set } = table()
  set(4, VID)
  router.submitted[0].done.complete(4)
  set(4, 0, true)
  router.submitted[1].done.complete(ENOSPC)
  Buffer.from(router.submitted[2].bytes.buffer, router.submitted[2].bytes.byteOffset, 4).writeUInt32LE(0)
  router.submitted[2].done.complete(4)
  t.is(index.get(4), 0)
  t.deepEqual(outcomes, ['4=0', '4=-28'])
})

test('what cannot be looked at keeps the former entry', (t) => {
  const { router, index, outcomes, set } = table()
  set(4, VID)
  router.submitted[0].done.complete(-108)
  router.submitted[1].done.complete(-108)
  t.is(index.get(4), 0)
  t.deepEqual(outcomes, ['4=-108'])
})

test('dirty until a flush that began after the last change has ended', (t) => {
  const { router, index, set } = table()
  t.true(index.dirty, 'whoever had it open before may not have flushed')
  index.durable = index.changes
  t.false(index.dirty)
  set(1, VID)
  t.true(index.dirty)
  const began = index.changes
  router.submitted[0].done.complete(4)
  index.durable = began
  t.true(index.dirty, 'it was under way when the flush began')
  index.durable = index.changes
  t.false(index.dirty)
})

test('the table grows with the volume, new entries are holes', (t) => {
  const { index } = table(2)
  index.replace(Uint32Array.of(7, 8))
  index.resize(4)
  index.resize(1)
  t.deepEqual([index.length, index.get(1), index.get(3)], [4, 8, 0])
})

test('memory says what the inode object says, whatever fails and whenever', (t) => {
  const step = fc.oneof(
    { weight: 3, arbitrary: fc.record({ what: fc.constant('set' as const), at: fc.nat(15), vid: fc.nat(3) }) },
    {
      weight: 3,
      arbitrary: fc.record({ what: fc.constantFrom('ok' as const, 'full' as const), at: fc.nat(9), vid: fc.nat(64) }),
    },
  )
  fc.assert(
    fc.property(fc.array(step, { size: 'large' }), (steps) => {
      const router = new PendingRouter()
      const index = new IndexTable(router.asVolumeRouter, VID, 1, new Uint32Array(16))
      const inode = Buffer.alloc(64)
      const busy = new Set<number>()
      let asked = 0
      let told = 0
      const end = (which: number, fails: boolean, part: number) => {
        const [write] = router.submitted.splice(which % router.submitted.length, 1)
        const at = write.position - INDEX_OFFSET
        if (write.kind === READ) {
          write.bytes.set(inode.subarray(at, at + write.bytes.length))
          write.done.complete(write.bytes.length)
          return
        }
        // A failed write may have put any part of it.
        const put = fails ? 4 * (part % (write.bytes.length / 4 + 1)) : write.bytes.length
        inode.set(write.bytes.subarray(0, put), at)
        write.done.complete(fails ? ENOSPC : write.bytes.length)
      }
      for (const { what, at, vid } of steps) {
        // As the volume does: one change of an entry at a time.
        if (what === 'set' && !busy.has(at)) {
          asked++
          busy.add(at)
          index.set(at, vid, false, {
            complete: (result) => {
              told++
              busy.delete(at)
              if (result >= 0) t.is(index.get(at), vid)
              t.is(index.get(at), inode.readUInt32LE(at * 4))
            },
          })
        } else if (what !== 'set' && router.submitted.length > 0) {
          end(at, what === 'full', vid)
        }
      }
      while (router.submitted.length > 0) end(0, false, 0)
      t.is(told, asked)
      for (let at = 0; at < 16; at++) t.is(index.get(at), inode.readUInt32LE(at * 4))
    }),
    { numRuns: 300 },
  )
})

test('changes that end inline, one after another', (t) => {
  const { router, index, outcomes, set } = table()
  router.inline = (_kind, bytes) => bytes.length
  for (let at = 0; at < 16; at++) set(at, VID)
  t.is(outcomes.length, 16)
  t.is(index.get(15), VID)
})

test('entries that no flush covers can be written again, as they are then, and durably', (t) => {
  const { router, index, outcomes, set } = table()
  const end = () => {
    for (const one of router.submitted.splice(0)) one.done.complete(one.bytes.length)
  }
  set(1, VID)
  end()
  index.flushBegins()
  set(3, VID)
  set(4, VID, true)
  end()
  end()
  index.flushEnded(false)
  // 4 is durable; 3 is about to change, which must not be passed by what it was.
  set(3, 0)
  const again: number[] = []
  index.rewrite({ complete: (result) => again.push(result) })
  t.is(router.submitted.length, 1)
  end()
  const runs = router.submitted.map((run) => [
    (run.position - INDEX_OFFSET) / 4,
    Buffer.from(run.bytes).readUInt32LE(0),
    run.flags,
  ])
  t.deepEqual(runs, [
    [1, VID, FLAG_FUA],
    [3, 0, FLAG_FUA],
  ])
  t.deepEqual(again, [])
  end()
  t.deepEqual(again, [0])
  t.deepEqual(outcomes, ['1=0', '3=0', '4=0', '3=0'])
  index.rewrite({ complete: (result) => again.push(result) })
  t.deepEqual(again, [0, 0], 'nothing is left to write')
})

test('two changes of one entry are written one after the other', (t) => {
  const { router, index, set } = table()
  set(0, VID)
  set(7, VID)
  set(7, 0)
  router.submitted[0].done.complete(4)
  t.is(router.submitted.length, 2)
  router.submitted[1].done.complete(4)
  t.is(index.get(7), VID)
  router.submitted[2].done.complete(4)
  t.is(index.get(7), 0)
})
