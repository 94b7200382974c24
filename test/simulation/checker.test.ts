import test from 'ava'
import { Lineage } from './checker.js'
import { fillCells } from './stamps.js'
import { Verdict } from './trace.js'

const CELL = 512

function rig(cells = 8) {
  const verdict = new Verdict()
  const lineage = new Lineage('v', CELL, cells, verdict)
  const bytes = (...stamps: number[]) => {
    const buffer = Buffer.alloc(stamps.length * CELL)
    stamps.forEach((stamp, cell) => {
      if (stamp !== 0) fillCells(buffer.subarray(cell * CELL, (cell + 1) * CELL), CELL, cell, stamp)
    })
    return buffer
  }
  const write = (stamp: number, first: number, count: number, durable = false) =>
    lineage.endWrite(lineage.beginWrite(stamp, first, count, durable))
  const reads = (...stamps: number[]) => {
    lineage.endRead(lineage.beginRead(0, stamps.length), bytes(...stamps), 'test')
    const wrong = verdict.violation !== null
    verdict.violation = null
    return !wrong
  }
  return { verdict, lineage, bytes, write, reads }
}

test('canary: a wrong value is found', (t) => {
  const { write, reads } = rig()
  t.true(reads(0, 0))
  write(1, 0, 2)
  t.true(reads(1, 1))
  t.false(reads(1, 0), 'lost')
  write(2, 0, 1)
  t.true(reads(2, 1))
  t.false(reads(1, 1), 'stale')
  t.false(reads(3, 1), 'never written')
})

test('canary: torn, shifted and foreign cells are found', (t) => {
  const { lineage, verdict, bytes, write } = rig()
  write(1, 0, 2)
  const corrupt = (change: (buffer: Buffer) => void) => {
    const buffer = bytes(1, 1)
    change(buffer)
    lineage.endRead(lineage.beginRead(0, 2), buffer, 'test')
    const found = verdict.violation?.message ?? ''
    verdict.violation = null
    return found
  }
  t.is(
    corrupt(() => {}),
    '',
  )
  t.regex(
    corrupt((buffer) => (buffer[1000] ^= 1)),
    /cell 1 \(byte 512\) holds/,
  )
  t.regex(
    corrupt((buffer) => buffer.fill(0, 256, 512)),
    /cell 0/,
  )
  t.regex(
    corrupt((buffer) => buffer.copyWithin(0, 512, 1024)),
    /cell 0.*of cell 1/,
  )
})

test('a read sees the last overlapping write that was issued before it', (t) => {
  const { lineage, verdict, bytes } = rig()
  const first = lineage.beginWrite(1, 0, 1)
  const second = lineage.beginWrite(2, 0, 1)
  const read = lineage.beginRead(0, 1)
  const third = lineage.beginWrite(3, 0, 1)
  lineage.endWrite(first)
  lineage.endWrite(second)
  lineage.endRead(read, bytes(2), 'test')
  t.is(verdict.violation, null)
  lineage.endWrite(third)
  const late = lineage.beginRead(0, 1)
  lineage.endRead(late, bytes(2), 'test')
  t.is(verdict.violation?.kind, 'wrong read')
})

test('after a crash: old or new, then never back', (t) => {
  for (const seen of [1, 2, 3]) {
    const { lineage, write, reads } = rig()
    write(1, 0, 1)
    const second = lineage.beginWrite(2, 0, 1)
    const third = lineage.beginWrite(3, 0, 1)
    lineage.failWrite(second)
    lineage.failWrite(third)
    t.true(reads(seen))
    for (const other of [1, 2, 3]) t.is(reads(other), other === seen)
  }
})

test('a write that was issued before an acknowledged one cannot come back', (t) => {
  const { lineage, reads } = rig()
  const first = lineage.beginWrite(1, 0, 1)
  const second = lineage.beginWrite(2, 0, 1)
  lineage.endWrite(second)
  lineage.failWrite(first)
  t.true(reads(2))
  t.false(reads(1))
})

test('power loss: the last flushed, or any written since', (t) => {
  const build = () => {
    const r = rig()
    r.write(1, 0, 3)
    r.lineage.endFlush(r.lineage.beginFlush(0))
    r.write(2, 0, 1)
    const flush = r.lineage.beginFlush(0)
    r.write(3, 0, 1) // not covered
    r.write(4, 1, 1, true) // FUA
    r.lineage.endFlush(flush)
    r.write(5, 0, 1)
    r.lineage.powerLoss()
    return r
  }
  for (const stamp of [2, 3, 5]) t.true(build().reads(stamp, 4, 1))
  t.false(build().reads(1, 4, 1))
  t.false(build().reads(2, 1, 1))
  t.false(build().reads(2, 4, 0))
  const r = build()
  t.true(r.reads(3, 4, 1))
  t.false(r.reads(5, 4, 1), 'a first read decides')
})

test('after two power losses a flush says that what was read is there, or what failed between them', (t) => {
  for (const seen of [1, 2, 3]) {
    const { lineage, write, reads } = rig()
    write(3, 0, 1)
    lineage.endFlush(lineage.beginFlush(0))
    write(1, 0, 1)
    const { time } = lineage
    lineage.powerLoss()
    lineage.failWrite(lineage.beginWrite(2, 0, 1))
    lineage.powerLoss()
    lineage.endFlush(lineage.beginFlush(time - 2))
    t.is(reads(seen), seen !== 3)
  }
})

test('a flush makes durable what was read before it, though its writer died', (t) => {
  const { lineage, write, reads } = rig()
  write(1, 0, 1)
  lineage.failWrite(lineage.beginWrite(2, 0, 1))
  t.true(reads(2))
  lineage.endFlush(lineage.beginFlush(0))
  lineage.powerLoss()
  t.false(reads(1))
  t.true(reads(2))
  t.is(lineage.openCells, 0)
})

test('a snapshot holds what was complete before it and may hold what ran meanwhile', (t) => {
  const { lineage, verdict, write, bytes } = rig()
  write(1, 0, 4)
  const flying = lineage.beginWrite(2, 1, 1)
  const snapshot = lineage.beginSnapshot('s')
  write(3, 2, 1)
  lineage.endWrite(flying)
  lineage.endSnapshot(snapshot)
  write(4, 3, 1)
  const sees = (...stamps: number[]) => {
    const copy = snapshot.copy('copy')
    copy.endRead(copy.beginRead(0, 4), bytes(...stamps), 'test')
    const wrong = verdict.violation !== null
    verdict.violation = null
    return !wrong
  }
  t.true(sees(1, 1, 1, 1))
  t.true(sees(1, 2, 3, 1))
  t.false(sees(1, 2, 3, 4))
  t.false(sees(0, 2, 3, 1))
})

test('resize: new cells are zeros, also where there was something before', (t) => {
  const { lineage, write, reads } = rig(4)
  write(1, 0, 4)
  lineage.endFlush(lineage.beginFlush(0))
  lineage.resize(2)
  lineage.resize(4)
  t.true(reads(1, 1, 0, 0))
  t.false(reads(1, 1, 1, 0))
})
