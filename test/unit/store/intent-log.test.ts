import test from 'ava'
import type { Completion } from '../../../lib/host/interfaces.js'
import { IntentLog } from '../../../lib/store/intent-log.js'
import { dataOid, type Oid } from '../../../lib/vdi/oid.js'
import { MemoryDisk } from './memory-disk.js'

const oid = (n: number): Oid => dataOid(1, n)

async function turns(disk: MemoryDisk | null): Promise<void> {
  for (let i = 0; i < 50; i++) {
    await Promise.resolve()
    if (disk !== null && disk.waiting.length > 0) disk.step(0)
  }
}

async function start(disk: MemoryDisk, oids: Oid[] = [], limit = 4096): Promise<IntentLog> {
  const log = new IntentLog(disk, limit, () => {})
  const started = log.start(new Map(oids.map((oid) => [oid, { epoch: 1, incomplete: false, lostIn: 0 }])))
  await turns(disk)
  await started
  disk.calls = []
  return log
}

function read(disk: MemoryDisk): number[] | null {
  const oids = new IntentLog(disk, 1, () => {}).read()
  return oids === null ? null : [...oids.keys()].sort((a, b) => a - b).map((value) => value - oid(0))
}

/** Those of the entries that may lack completed writes. */
function incomplete(disk: MemoryDisk): number[] {
  const oids = new IntentLog(disk, 1, () => {}).read()
  return [...(oids ?? [])].filter(([, intent]) => intent.incomplete).map(([value]) => value - oid(0))
}

async function added(disk: MemoryDisk, log: IntentLog, value: Oid): Promise<void> {
  const done = new Promise((resolve) => log.add(value, 1, { complete: resolve }))
  await turns(disk)
  await done
}

test('entries are incomplete from the next boot on, until they are dropped or added again', async (t) => {
  const disk = new MemoryDisk()
  const log = await start(disk)
  for (const n of [1, 2, 3]) await added(disk, log, oid(n))
  const killed = disk.crash(false, () => false)
  t.deepEqual(read(killed), [1, 2, 3])
  t.deepEqual(incomplete(killed), [], 'a killed daemon loses nothing')
  const booted = killed.crash(true, () => true)
  t.deepEqual(incomplete(booted), [1, 2, 3])

  const next = new IntentLog(booted, 4096, () => {})
  const started = next.start(next.read()!)
  await turns(booted)
  await started
  await added(booted, next, oid(4))
  await added(booted, next, oid(2))
  next.drop(oid(3))
  await turns(booted)
  const killedAgain = booted.crash(false, () => true)
  t.deepEqual(read(killedAgain), [1, 2, 4])
  t.deepEqual(incomplete(killedAgain), [1], 'one that was not checked is so after the next start, too')
})

test('an incomplete entry that cannot be added again is still there', async (t) => {
  const disk = new MemoryDisk()
  const log = new IntentLog(disk, 4096, () => {})
  const started = log.start(new Map([[oid(1), { epoch: 1, incomplete: true, lostIn: 4 }]]))
  await turns(disk)
  await started
  disk.failing = (operation) => (operation === 'sync' ? 5 : 0)
  let result = 0
  log.add(oid(1), 1, {
    complete: (value) => {
      result = value
    },
  })
  await turns(disk)
  t.is(result, -5)
  t.true(log.has(oid(1)))
  disk.failing = () => 0
  await added(disk, log, oid(2))
  t.deepEqual(read(disk), [1, 2], 'in the fresh file, too')
  t.deepEqual(incomplete(disk), [1])
  t.is(new IntentLog(disk, 1, () => {}).read()?.get(oid(1))?.lostIn, 4)
})

test('an entry says how new the object was: one of an older epoch does not do, a newer one does', async (t) => {
  const disk = new MemoryDisk()
  const log = await start(disk)
  const epochs = (of: MemoryDisk) => [...(new IntentLog(of, 1, () => {}).read() ?? [])].map(([, { epoch }]) => epoch)
  const ended: string[] = []
  const wait = (name: string) => ({ complete: (result: number) => ended.push(`${name} ${result}`) })
  log.add(oid(1), 5, wait('of 5'))
  log.add(oid(1), 4, wait('of 4'))
  await turns(disk)
  t.deepEqual(ended, ['of 5 0', 'of 4 0'])
  t.deepEqual(epochs(disk), [5])

  log.add(oid(1), 7, wait('of 7'))
  t.false(log.covers(oid(1), 7))
  t.false(log.has(oid(1)), 'not before it is durable')
  await turns(null)
  // The one of 7 is on its way: one that comes with 8 is a record more, and nobody hears before both are durable.
  log.add(oid(1), 8, wait('of 8'))
  await turns(null)
  t.is(ended.length, 2)
  await turns(disk)
  t.deepEqual(ended.slice(2), ['of 7 0', 'of 8 0'])
  t.true(log.covers(oid(1), 8))
  t.false(log.covers(oid(1), 9))
  t.deepEqual(epochs(disk.crash(true, () => false)), [8])

  disk.failing = (operation) => (operation === 'sync' ? 5 : 0)
  log.add(oid(1), 9, wait('of 9'))
  await turns(disk)
  t.is(ended.at(-1), 'of 9 -5')
  t.true(log.covers(oid(1), 8), 'the former entry is still there')
  disk.failing = () => 0
  await added(disk, log, oid(2))
  t.deepEqual(epochs(disk), [8, 1], 'in the fresh file, too')
})

const afterPowerLoss = (disk: MemoryDisk) => disk.crash(true, () => false)

test('entries of one turn share one sync, those that come while it runs share the next', async (t) => {
  const disk = new MemoryDisk()
  const log = await start(disk)
  const ended: number[] = []
  const wait = (n: number): Completion => ({
    complete: (result) => {
      t.is(result, 0)
      t.true(log.has(oid(n)))
      ended.push(n)
    },
  })
  for (const n of [1, 2, 3]) log.add(oid(n), 1, wait(n))
  await turns(null)
  t.deepEqual(disk.calls, ['write', 'sync'])
  for (const n of [4, 5]) log.add(oid(n), 1, wait(n))
  log.add(oid(2), 1, wait(2))
  await turns(null)
  t.deepEqual(ended, [], 'nothing is promised before the sync has ended')
  t.deepEqual(read(afterPowerLoss(disk)), [])
  await turns(disk)
  t.deepEqual(ended, [1, 2, 2, 3, 4, 5])
  t.deepEqual(disk.calls, ['write', 'sync', 'write', 'sync'])
  t.deepEqual(read(afterPowerLoss(disk)), [1, 2, 3, 4, 5])
  log.add(oid(1), 1, wait(1))
  t.is(ended.length, 7, 'it is there already')
})

test('a dropped entry is gone without a sync, and may come again', async (t) => {
  const disk = new MemoryDisk()
  const log = await start(disk, [oid(1), oid(2)])
  log.drop(oid(1))
  log.drop(oid(7))
  await turns(disk)
  t.deepEqual(disk.calls, ['write'])
  t.deepEqual(read(disk), [2])
  t.deepEqual(read(afterPowerLoss(disk)), [1, 2])
  let result = 1
  log.add(oid(1), 1, {
    complete: (value) => {
      result = value
    },
  })
  t.false(log.has(oid(1)))
  await turns(disk)
  t.is(result, 0)
  t.deepEqual(read(afterPowerLoss(disk)), [1, 2])
})

test('what is settled does not come back with a power loss', async (t) => {
  const disk = new MemoryDisk()
  const log = await start(disk, [oid(1), oid(2), oid(3)])
  let settled: number[] = []
  const settle = () => log.settle({ complete: (result) => settled.push(result) })
  settle()
  t.deepEqual(settled, [0], 'nothing was dropped')
  log.drop(oid(1))
  await turns(disk)
  disk.calls = []
  settled = []
  settle()
  log.drop(oid(2))
  t.deepEqual(settled, [])
  await turns(disk)
  t.deepEqual(settled, [0])
  t.deepEqual(disk.calls, ['write', 'sync'])
  t.deepEqual(read(afterPowerLoss(disk)), [3])
  settle()
  t.deepEqual(settled, [0, 0])
  log.drop(oid(3))
  await turns(disk)
  settle()
  await turns(disk)
  t.deepEqual(disk.calls, ['write', 'sync', 'write', 'sync'], 'what is written already is only synced')
  t.deepEqual(read(afterPowerLoss(disk)), [])
})

test('a log that is used up, or could not be written, goes on in a fresh file', async (t) => {
  const disk = new MemoryDisk()
  const log = await start(disk, [oid(0)])
  const done = { complete: () => {} }
  for (let round = 0; round < 20; round++) {
    for (let n = 1; n <= 1000; n++) log.add(oid(n), 1, done)
    await turns(disk)
    for (let n = 1; n <= 1000; n++) if (n % 500 !== 0 || round < 19) log.drop(oid(n))
    await turns(disk)
  }
  t.true(disk.calls.filter((call) => call === 'rename intent.new').length >= 1)
  t.deepEqual(read(disk), [0, 500, 1000])
  t.is(log.size, 3)

  const results: number[] = []
  for (const failing of ['sync', 'write', 'rename']) {
    disk.failing = (operation) => (operation === failing ? 28 : 0)
    log.add(oid(7), 1, { complete: (result) => results.push(result) })
    await turns(disk)
    t.false(log.has(oid(7)))
  }
  t.deepEqual(results, [-28, -28, -28])
  disk.failing = () => 0
  log.add(oid(8), 1, { complete: (result) => results.push(result) })
  await turns(disk)
  t.is(results[3], 0)
  t.deepEqual(read(afterPowerLoss(disk)), [0, 8, 500, 1000])
  t.is(disk.open_.size, 1, 'former files are closed')
})

test('a torn tail: what follows is believed when it adds, not when it drops', async (t) => {
  const disk = new MemoryDisk()
  const log = await start(disk, [oid(1)])
  const done = { complete: () => {} }
  for (const n of [2, 3]) log.add(oid(n), 1, done)
  await turns(disk)
  log.drop(oid(1))
  log.add(oid(4), 1, done)
  await turns(disk)
  t.deepEqual(read(disk), [2, 3, 4])
  const bytes = disk.readFile('intent')!
  bytes[4096 + 2 * 32 + 9] ^= 0x40
  disk.writeFileAtomic('intent', bytes)
  t.deepEqual(read(disk), [1, 2, 4])
})

test('a log that is missing, of another kind or truncated is no log', async (t) => {
  const disk = new MemoryDisk()
  t.is(read(disk), null)
  await start(disk, [oid(1)])
  const bytes = disk.readFile('intent')!
  disk.writeFileAtomic('intent', bytes.subarray(0, 100))
  t.is(read(disk), null)
  disk.writeFileAtomic('intent', Buffer.concat([Buffer.from('x'), bytes.subarray(1)]))
  t.is(read(disk), null)
})

test('pressure is told once, and again only after it has gone down', async (t) => {
  const disk = new MemoryDisk()
  const log = await start(disk, [], 8)
  let told = 0
  log.onPressure = () => told++
  const done = { complete: () => {} }
  for (let n = 0; n < 8; n++) log.add(oid(n), 1, done)
  t.is(told, 0)
  for (let n = 8; n < 20; n++) log.add(oid(n), 1, done)
  t.is(told, 1)
  await turns(disk)
  for (let n = 0; n < 15; n++) log.drop(oid(n))
  for (let n = 0; n < 15; n++) log.add(oid(n), 1, done)
  t.is(told, 2)
})
