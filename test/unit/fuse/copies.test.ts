/** What is compared with which snapshot, when, and what is held meanwhile; the comparison itself is the gateway's. */
import test from 'ava'
import { SheepError } from '../../../lib/errors.js'
import { CopyWatch, type HeldSnapshot, MISSES_MAX, SnapshotReads, UNDER_WAY } from '../../../lib/fuse/copies.js'
import type { FilesParts } from '../../../lib/fuse/parts.js'
import type { FileVolume, ShareMode } from '../../../lib/gateway/types.js'
import { FakeClock } from '../vdi/world.js'

const MIB = 1 << 20
const OBJECT = 4 * MIB
const DIFFERENT = -18

/**
 * A file of which object i equals that of snapshot `n` where `equal` says so, and the snapshots; `log` has what was asked of them: "compare 3 of
 * 1", "adopt 1", "equal 3 of 1", "hold 1", "let go 1".
 */
function world(equal: (index: number, node: number) => boolean, size = 400 * MIB) {
  const clock = new FakeClock()
  const log: string[] = []
  const state = { parent: 0, adoption: null as SheepError | null, slow: null as Promise<void> | null, open: true }
  const snapshot = (node: number): FileVolume =>
    ({
      objectSize: OBJECT,
      size,
      entry: { vid: node, snapshotTime: 1 },
      extents: (length: number, offset: number) => Promise.resolve(offset / OBJECT === 99 ? [] : [{ offset, length }]),
    }) as unknown as FileVolume
  const file = {
    objectSize: OBJECT,
    size,
    get entry() {
      return { vid: 77, parent: state.parent, preallocated: false }
    },
    share: async (index: number, source: FileVolume, mode: ShareMode) => {
      log.push(`${mode} ${index} of ${source.entry.vid}`)
      await state.slow
      return equal(index, source.entry.vid) ? 0 : DIFFERENT
    },
  } as unknown as FileVolume
  const parts = {
    clock,
    log: () => {},
    cluster: {
      status: 'running',
      propose: ({ command }: { command: { op: string; parent: number } }) => {
        log.push(`${command.op} ${command.parent}`)
        if (state.adoption !== null) return Promise.reject(state.adoption)
        state.parent = command.parent
        return Promise.resolve(null)
      },
    },
  } as unknown as FilesParts
  const gone = new Set<number>()
  const reads = new SnapshotReads(clock, (node): Promise<HeldSnapshot | null> => {
    if (gone.has(node)) return Promise.resolve(null)
    log.push(`hold ${node}`)
    const letGo = () => {
      log.push(`let go ${node}`)
      return Promise.resolve()
    }
    return Promise.resolve({ volume: snapshot(node), letGo })
  })
  const watch = new CopyWatch(parts, reads, () => (state.open ? file : null))
  const write = (index: number, length = OBJECT) => watch.wrote(index * OBJECT, length, OBJECT)
  const asked = () => log.filter((line) => /^(compare|equal)/.test(line))
  return { clock, log, state, gone, reads, watch, write, asked }
}

const turns = async (count = 50) => {
  for (let i = 0; i < count; i++) await new Promise((resolve) => setImmediate(resolve))
}

test('the first equal object makes it a clone, the others are shared as they come, the last at the close', async (t) => {
  const { log, reads, watch, write } = world(() => true)
  reads.note(5)
  for (let index = 0; index < UNDER_WAY + 2; index++) {
    for (let at = 0; at < 4; at++) t.true(watch.wrote(index * OBJECT + at * MIB, MIB, OBJECT))
  }
  await turns()
  t.deepEqual(log, ['hold 5', 'compare 0 of 5', 'adopt 5', 'equal 0 of 5', 'equal 1 of 5'])
  log.length = 0
  await watch.end()
  t.deepEqual(log, [...Array.from({ length: UNDER_WAY }, (_, i) => `equal ${i + 2} of 5`), 'let go 5'])
  log.length = 0
  write(3)
  await watch.end()
  t.deepEqual(log, ['hold 5', 'equal 3 of 5', 'let go 5'])
})

test('nothing was read: nothing is compared; what was read a minute ago does not count', async (t) => {
  const { log, reads, watch, write, clock } = world(() => true)
  for (let index = 0; index < 30; index++) write(index)
  await watch.end()
  t.deepEqual(log, [])
  reads.note(5)
  clock.advance(60_001)
  for (let index = 0; index < 30; index++) write(index)
  await watch.end()
  t.deepEqual(log, [])
  t.false(reads.any)
})

test('an object that is written again is compared only when it is left alone', async (t) => {
  const { reads, watch, write, asked } = world(() => true)
  reads.note(5)
  for (let index = 0; index < UNDER_WAY * 2; index++) {
    write(1000)
    write(index)
  }
  await turns()
  t.false(asked().some((line) => line.includes('1000')))
  await watch.end()
  t.is(asked().at(-1), 'equal 15 of 5')
  t.true(asked().includes('equal 1000 of 5'))
})

test('of several snapshots the one that it is a copy of is found, and the others are left alone', async (t) => {
  const { reads, watch, write, asked, log } = world((_, node) => node === 2)
  for (const node of [1, 2, 3]) reads.note(node)
  for (let index = 0; index < UNDER_WAY + 3; index++) write(index)
  await turns()
  t.deepEqual(asked(), ['compare 0 of 3', 'compare 0 of 2', 'equal 0 of 2', 'equal 1 of 2', 'equal 2 of 2'])
  await watch.end()
  t.is(log.filter((line) => line.startsWith('hold')).length, log.filter((line) => line.startsWith('let go')).length)
})

test('what is no copy is soon left alone, until it is opened anew', async (t) => {
  const { reads, watch, write, asked, state } = world(() => false)
  reads.note(5)
  for (let index = 0; index < 60; index++) {
    write(index)
    await turns(3)
  }
  t.is(asked().length, MISSES_MAX)
  await watch.end()
  write(1)
  await watch.end()
  t.is(asked().length, MISSES_MAX + 1)
  t.is(state.parent, 0)
})

test('a copy in which something was changed goes on being shared', async (t) => {
  const { reads, watch, write, asked } = world((index) => index % 5 === 0)
  reads.note(5)
  for (let index = 0; index < 60; index++) {
    write(index)
    await turns(3)
  }
  await watch.end()
  t.true(asked().includes('equal 55 of 5') && asked().includes('equal 59 of 5'))
})

test('the snapshot is let go soon after the last comparison', async (t) => {
  const { reads, watch, write, log, clock } = world(() => true)
  reads.note(5)
  for (let index = 0; index < UNDER_WAY + 1; index++) write(index)
  await turns()
  t.false(log.includes('let go 5'))
  clock.advance(1_001)
  await turns()
  t.is(log.at(-1), 'let go 5')
  write(50)
  await turns()
  t.deepEqual(log.slice(-2), ['hold 5', 'equal 1 of 5'])
  await watch.end()
  t.is(log.at(-1), 'let go 5')
  t.is(clock.pending, 0)
})

test('a program that is faster than the comparison waits, and goes on', async (t) => {
  const { reads, watch, write, state } = world(() => true)
  let go = (): void => {}
  state.slow = new Promise((resolve) => {
    go = resolve
  })
  reads.note(5)
  let index = 0
  while (write(index) && index < 1000) index++
  t.true(index < 40)
  let hasRoom = false
  const room = watch.room().then(() => {
    hasRoom = true
  })
  await turns()
  t.false(hasRoom)
  go()
  await room
  t.true(write(index))
  await watch.end()
})

test('the snapshot or the lock is gone, or the volume may be no clone: it stays a copy', async (t) => {
  const gone = world(() => true)
  gone.gone.add(5)
  gone.reads.note(5)
  for (let index = 0; index < 20; index++) gone.write(index)
  await gone.watch.end()
  t.deepEqual(gone.log, [])

  const revoked = world(() => true)
  revoked.reads.note(5)
  for (let index = 0; index < 20; index++) revoked.write(index)
  revoked.state.open = false
  await revoked.watch.end()
  t.deepEqual(revoked.asked(), [])
  t.is(revoked.log.at(-1), 'let go 5')

  const refused = world(() => true)
  refused.state.adoption = new SheepError('invalid', 'it has snapshots')
  refused.reads.note(5)
  for (let index = 0; index < 40; index++) refused.write(index)
  await refused.watch.end()
  t.is(refused.asked().length, MISSES_MAX)
  t.true(refused.asked().every((line) => line.startsWith('compare')))
})

test('zeros where the snapshot has a hole become one, whatever else it is', async (t) => {
  const { reads, watch, write, log } = world(() => true)
  reads.note(5)
  write(99)
  await watch.end()
  t.deepEqual(log, ['hold 5', 'equal 99 of 5', 'let go 5'])
})

test('a stop compares nothing more', async (t) => {
  const { reads, watch, write, asked } = world(() => true)
  reads.note(5)
  for (let index = 0; index < UNDER_WAY; index++) write(index)
  watch.abandon()
  await watch.end()
  t.deepEqual(asked(), [])
})

test('what is written or closed just as the last comparison ends is compared, too', async (t) => {
  for (let delay = 0; delay < 60; delay++) {
    const { reads, watch, write, asked, clock } = world(() => true)
    reads.note(5)
    for (let index = 0; index <= UNDER_WAY; index++) write(index)
    for (let i = 0; i < delay; i++) await Promise.resolve()
    await watch.end()
    t.is(asked().at(-1), `equal ${UNDER_WAY} of 5`, `after ${delay} turns`)
    t.is(clock.pending, 0)
  }
})
