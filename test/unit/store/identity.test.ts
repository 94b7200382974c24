import test from 'ava'
import { SheepError } from '../../../lib/errors.js'
import { type Clock, DiskError, type Random } from '../../../lib/host/interfaces.js'
import { readConfig, readState, writeState } from '../../../lib/store/identity.js'
import { type AttachedDisk, findDisk, findDisks, type NodeDisks } from '../../../lib/store/node-disks.js'
import { MemoryDisk } from './memory-disk.js'

const clock: Clock = { now: () => 0, wall: () => 86_400_000, after: () => ({ cancel() {} }) }
let made = 0
const random: Random = { u32: () => 0, hex: (bytes) => (++made).toString(16).padStart(2 * bytes, '0') }
const said: string[] = []
const parts = { clock, random, log: (_: string, text: string) => said.push(text) }

function at(path: string, disk: MemoryDisk): AttachedDisk {
  return { path, disk, close() {} }
}

function find(...disks: AttachedDisk[]): NodeDisks {
  return findDisks(disks, [], parts)
}

test('a new node gets an id, and each of its disks one; they stay', (t) => {
  const [a, b] = [new MemoryDisk(), new MemoryDisk()]
  a.writeFileAtomic('lock', '')
  const first = find(at('/a', a), at('/b', b))
  t.regex(first.id, /^[0-9a-f]{16}$/)
  t.is(readConfig(a)!.created, '1970-01-02T00:00:00.000Z')
  t.is(new Set([first.id, ...first.disks.map(({ id }) => id)]).size, 3)
  t.deepEqual(
    first.state.disks.map(({ path, joined }) => [path, joined]),
    [
      ['/a', 0],
      ['/b', 0],
    ],
  )
  const state = {
    ...first.state,
    generation: 2,
    clusterId: '00000000000000aa',
    recoveredEpoch: 12,
    recoveredBefore: [7, 10],
    passedEpochs: [8, 9],
    lostEpoch: 3,
  }
  for (const disk of [a, b]) writeState(disk, state)
  const again = find(
    at(
      '/b',
      b.crash(true, () => false),
    ),
    at(
      '/a',
      a.crash(true, () => false),
    ),
  )
  t.is(again.id, first.id)
  t.deepEqual(again.state, state)
  t.true(again.disks.every(({ own }) => own))
  t.not(find(at('/a', new MemoryDisk())).id, first.id)
})

test('the store of a version that knew one disk only is one', (t) => {
  const disk = new MemoryDisk()
  disk.writeFileAtomic('config', '{"magic":"sheepdog-store","version":1,"id":"00000000000000a1","created":"x"}')
  disk.writeFileAtomic('state', '{"clusterId":"00000000000000aa","recoveredEpoch":7}')
  const found = find(at('/a', disk))
  t.is(found.id, '00000000000000a1')
  t.deepEqual(found.state.disks, [{ id: '00000000000000a1', path: '/a', joined: 0 }])
  t.is(found.state.recoveredEpoch, 7)
  t.true(found.disks[0].own)
})

test('the newest state counts, and says which disks are missing or strange', (t) => {
  const [a, b, c] = [new MemoryDisk(), new MemoryDisk(), new MemoryDisk()]
  const { state } = find(at('/a', a), at('/b', b), at('/c', c))
  // b failed, the others know it; c has not heard of it yet.
  const newer = { ...state, generation: 5, lostEpoch: 4, disks: state.disks.filter(({ path }) => path !== '/b') }
  writeState(a, newer)
  const all = find(at('/c', c), at('/b', b), at('/a', a))
  t.deepEqual(all.state, newer)
  t.deepEqual(
    all.disks.map(({ attached, own }) => [attached.path, own]),
    [
      ['/c', true],
      ['/b', false],
      ['/a', true],
    ],
  )
  const without = find(at('/a', a))
  t.deepEqual(
    without.unusable.map(({ path, state }) => [path, state]),
    [['/c', 'missing']],
  )
  t.regex(said.at(-1)!, /\/c is missing.*starts without it/)
  const alone = t.throws(() => find(at('/x', new MemoryDisk()), at('/b', readOld(b, newer))), {
    instanceOf: SheepError,
  })!
  t.regex(alone.message, /none of this node's disks is here: \/a, \/c are missing/)
})

/** The disk that was taken out, after it has heard of it. */
function readOld(disk: MemoryDisk, state: Parameters<typeof writeState>[1]): MemoryDisk {
  writeState(disk, state)
  return disk
}

test('an empty directory where a disk was is a place that is not mounted; another one is a new disk', (t) => {
  const [a, b] = [new MemoryDisk(), new MemoryDisk()]
  find(at('/a', a), at('/b', b))
  const hole = new MemoryDisk()
  const found = find(at('/a', a), at('/b', hole), at('/new', new MemoryDisk()))
  t.deepEqual(hole.paths(), [])
  t.deepEqual(
    found.unusable.map(({ path, state }) => [path, state]),
    [['/b', 'missing']],
  )
  t.deepEqual(
    found.disks.map(({ attached, own }) => [attached.path, own]),
    [
      ['/a', true],
      ['/new', false],
    ],
  )
})

test('disks of other nodes and clusters, and copies, are refused by name', (t) => {
  const [a, b, c] = [new MemoryDisk(), new MemoryDisk(), new MemoryDisk()]
  const { state, id } = find(at('/a', a), at('/c', c))
  find(at('/b', b))
  const refusal = (...disks: AttachedDisk[]) => t.throws(() => find(...disks), { instanceOf: SheepError })!.message
  t.regex(refusal(at('/a', a), at('/b', b)), /\/a is a disk of node .* and \/b of node/)
  t.regex(
    refusal(
      at('/a', a),
      at(
        '/copy',
        a.crash(true, () => false),
      ),
    ),
    /\/a and \/copy are the same disk/,
  )
  const ours = { ...state, generation: 9, clusterId: '00000000000000aa' }
  writeState(a, ours)
  writeState(c, { ...state, generation: 4, clusterId: '00000000000000bb' })
  t.regex(refusal(at('/a', a), at('/c', c)), /\/c is of cluster 00000000000000bb, this node of 00000000000000aa/)
  const plug = (disk: MemoryDisk) => () => findDisk(at('/x', disk), id, ours, parts)
  t.throws(plug(b), { instanceOf: SheepError, message: /\/x is a disk of node/ })
  t.throws(plug(c), { instanceOf: SheepError, message: /\/x is of cluster/ })
  t.regex(plug(new MemoryDisk())(), /^[0-9a-f]{16}$/)
})

test('a disk that gives errors is left out as long as there is another', (t) => {
  const [a, b] = [new MemoryDisk(), new MemoryDisk()]
  find(at('/a', a), at('/b', b))
  b.readFile = (path) => {
    throw new DiskError(5, 'read', path, 'input/output error')
  }
  const found = find(at('/a', a), at('/b', b))
  t.deepEqual(
    found.unusable.map(({ path, state }) => [path, state]),
    [['/b', 'failed']],
  )
})

test("a directory with somebody else's files is refused and stays as it is", (t) => {
  const disk = new MemoryDisk()
  disk.writeFileAtomic('holiday.jpg', 'x')
  const error = t.throws(() => find(at('/a', disk)), { instanceOf: SheepError })!
  t.regex(error.message, /^\/a: not a sheepdog store.*holiday\.jpg/)
  t.regex(error.hint, /choose an empty directory/)
  t.deepEqual(disk.paths(), ['holiday.jpg'])
})

for (const [what, content, message] of [
  ['of something else', '{"magic":"other","version":1}', /not a sheepdog store/],
  ['no JSON', 'hello', /not a sheepdog store/],
  ['JSON, but no object', 'null', /not a sheepdog store/],
  ['without an id', '{"magic":"sheepdog-store","version":1}', /damaged/],
  ['with a bad id', '{"magic":"sheepdog-store","version":1,"id":"x","created":""}', /damaged/],
  ['of a newer version', '{"magic":"sheepdog-store","version":2,"id":"0000000000000001","created":""}', /version 2/],
] as const) {
  test(`a config that is ${what} is refused`, (t) => {
    const disk = new MemoryDisk()
    disk.writeFileAtomic('config', content)
    t.throws(() => find(at('/a', disk)), { instanceOf: SheepError, message })
    t.is(disk.readFile('config')!.toString(), content)
  })
}

test('a store that does not know its cluster does not guess', (t) => {
  for (const state of [
    '',
    '{}',
    '{"clusterId":"x","recoveredEpoch":0}',
    '{"clusterId":"","recoveredEpoch":-1}',
    '{"clusterId":"","recoveredEpoch":1,"disks":[{"id":"x"}]}',
    'null',
  ]) {
    const disk = new MemoryDisk()
    find(at('/a', disk))
    disk.writeFileAtomic('state', state)
    t.is(readState(disk, readConfig(disk)!, '/a'), null)
    const error = t.throws(() => find(at('/a', disk)), { instanceOf: SheepError })!
    t.regex(error.message, /missing or damaged/)
    disk.unlink('state')
    t.throws(() => find(at('/a', disk)), { instanceOf: SheepError })
  }
})
