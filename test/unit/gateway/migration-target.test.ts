/** What waits before a volume that is between two nodes, and what is answered there. */
import test from 'ava'
import { Gate, MigrationTarget } from '../../../lib/gateway/migration-target.js'
import { RealClock } from '../../../lib/host/clock.js'

const clock = new RealClock()

interface Asked {
  offset: number
  length: number
}

/** A target whose source answers with bytes of 7, or not at all while `away`. */
function target(): { gate: MigrationTarget; asked: Asked[]; source: { away: boolean }; takeOvers: () => number } {
  const asked: Asked[] = []
  const source = { away: false }
  let takeOvers = 0
  const gate = new MigrationTarget({
    clock: { now: () => clock.now(), wall: () => clock.wall(), after: (_ms, run) => clock.after(1, run) },
    log: () => {},
    readAtSource: async (offset, length) => {
      asked.push({ offset, length })
      if (source.away) throw new Error('away')
      return Buffer.alloc(length, 7)
    },
    takeOver: () => takeOvers++,
  })
  return { gate, asked, source, takeOvers: () => takeOvers }
}

function read(gate: Gate, buffer: Buffer, offset: number, again: () => void = () => {}): Promise<number> {
  return new Promise((resolve) => {
    gate.read(buffer, 0, buffer.length, offset, { complete: resolve }, () => {
      again()
      resolve(-1)
    })
  })
}

test('a gate keeps everything, in order, until it is opened', (t) => {
  const gate = new Gate()
  const order: string[] = []
  const done = { complete: () => t.fail('nothing is answered behind a gate') }
  gate.change(() => order.push('write'))
  gate.read(Buffer.alloc(1), 0, 1, 0, done, () => order.push('read'))
  gate.flush(done, () => order.push('flush'))
  t.deepEqual(order, [])
  gate.open()
  t.deepEqual(order, ['write', 'read', 'flush'])
  gate.open()
  t.is(order.length, 3, 'once')
})

test('a target reads at its source, in pieces, and flushes nothing', async (t) => {
  const { gate, asked, takeOvers } = target()
  const buffer = Buffer.alloc(2.5 * 1024 * 1024)
  t.is(await read(gate, buffer, 4096), buffer.length)
  t.true(buffer.every((byte) => byte === 7))
  t.deepEqual(
    asked.map(({ offset, length }) => [offset - 4096, length]),
    [
      [0, 1048576],
      [1048576, 1048576],
      [2097152, 524288],
    ],
  )
  let flushed = -1
  gate.flush({ complete: (result) => (flushed = result) }, () => t.fail('a flush waits for nothing'))
  t.is(flushed, 0)
  t.is(takeOvers(), 0, 'reading takes nothing over')
})

test('a source that cannot be asked is asked again; when the volume has come, the read begins anew', async (t) => {
  const { gate, asked, source } = target()
  source.away = true
  let again = 0
  const first = read(gate, Buffer.alloc(512), 0, () => again++)
  const second = read(gate, Buffer.alloc(512), 512)
  while (asked.length < 6) await new Promise((resolve) => setTimeout(resolve, 1))
  source.away = false
  t.deepEqual(await Promise.all([first, second]), [512, 512])
  source.away = true
  const late = read(gate, Buffer.alloc(512), 0, () => again++)
  gate.open()
  t.is(await late, -1)
  t.is(again, 1)
})

test('the first change asks for the lock, once; what follows waits behind it', async (t) => {
  const { gate, asked, takeOvers } = target()
  const order: string[] = []
  gate.change(() => order.push('first'))
  gate.change(() => order.push('second'))
  const done = { complete: () => t.fail('the source knows nothing of what waits here') }
  gate.read(Buffer.alloc(1), 0, 1, 0, done, () => order.push('read'))
  gate.flush(done, () => order.push('flush'))
  t.is(takeOvers(), 1)
  t.deepEqual(asked, [])
  gate.open()
  t.deepEqual(order, ['first', 'second', 'read', 'flush'])
})

test("what the source has not answered begins anew before the changes that wait, and its late answer is nobody's", async (t) => {
  const answers: ((bytes: Buffer) => void)[] = []
  const gate = new MigrationTarget({
    clock,
    log: () => {},
    readAtSource: () => new Promise((resolve) => answers.push(resolve)),
    takeOver: () => {},
  })
  const order: string[] = []
  const buffer = Buffer.alloc(512, 1)
  const done = { complete: () => order.push('answered by the source') }
  gate.read(buffer, 0, 512, 0, done, () => order.push('first read'))
  gate.read(buffer, 0, 512, 0, done, () => order.push('second read'))
  gate.change(() => order.push('write'))
  gate.open()
  t.deepEqual(order, ['first read', 'second read', 'write'])
  for (const answer of answers) answer(Buffer.alloc(512, 7))
  await new Promise((resolve) => setImmediate(resolve))
  t.is(order.length, 3)
  t.true(
    buffer.every((byte) => byte === 1),
    "the buffer is another request's by now",
  )
})
