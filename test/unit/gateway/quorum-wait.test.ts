import test from 'ava'
import { QuorumWait } from '../../../lib/gateway/quorum-wait.js'
import type { Clock, Completion } from '../../../lib/host/interfaces.js'
import { EIO } from '../../../lib/replication/request.js'

class Bench {
  now = 0
  limit = 5000
  lostAt: number | null = null
  ended = false
  readonly results: string[] = []
  readonly begun: { bytes: Uint8Array; done: Completion }[] = []
  private timers: { at: number; fn: () => void }[] = []
  readonly clock: Clock = {
    now: () => this.now,
    wall: () => this.now,
    after: (ms, fn) => {
      const timer = { at: this.now + ms, fn }
      this.timers.push(timer)
      return { cancel: () => this.drop(timer) }
    },
  }
  readonly wait = new QuorumWait({
    clock: this.clock,
    limit: () => this.limit,
    lostAt: () => this.lostAt,
    ended: () => this.ended,
  })

  get timerCount(): number {
    return this.timers.length
  }

  run(name: string, buffer: Uint8Array, fills: boolean): void {
    const done = { complete: (result: number) => this.results.push(`${name}: ${result}`) }
    this.wait.run(buffer, 0, buffer.length, fills, done, (bytes, ended) => this.begun.push({ bytes, done: ended }))
  }

  lose(): void {
    this.lostAt = this.now
    this.wait.lost()
  }

  regain(): void {
    this.lostAt = null
    this.wait.regained()
  }

  pass(ms: number): void {
    const until = this.now + ms
    for (;;) {
      const next = this.timers.filter((timer) => timer.at <= until).sort((a, b) => a.at - b.at)[0]
      if (next === undefined) break
      this.drop(next)
      this.now = next.at
      next.fn()
    }
    this.now = until
  }

  private drop(timer: { at: number; fn: () => void }): void {
    this.timers = this.timers.filter((one) => one !== timer)
  }
}

const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

test('with quorum requests end as they end, and a read arrives in the buffer of its client', (t) => {
  const bench = new Bench()
  const read = Buffer.from('....')
  bench.run('read', read, true)
  bench.pass(60_000)
  bench.begun[0].bytes.set(Buffer.from('data'))
  t.is(read.toString(), '....')
  bench.begun[0].done.complete(4)
  t.is(read.toString(), 'data')
  bench.run('write', Buffer.from('data'), false)
  bench.begun[1].done.complete(-28)
  t.deepEqual(bench.results, ['read: 4', 'write: -28'])
  t.is(bench.timerCount, 0)
})

test('when the time is up those that wait fail, and what they write stays what it was', (t) => {
  const bench = new Bench()
  const written = Buffer.from('data')
  const read = Buffer.from('....')
  bench.run('before', written, false)
  bench.lose()
  bench.pass(3000)
  bench.run('between', read, true)
  bench.pass(1999)
  t.deepEqual(bench.results, [])
  bench.pass(1)
  t.deepEqual(bench.results, [`before: ${EIO}`, `between: ${EIO}`])
  written.fill('x')
  t.is(Buffer.from(bench.begun[0].bytes).toString(), 'data')
  bench.run('after', written, false)
  t.is(bench.begun.length, 2, 'a new one is answered at once')
  t.is(bench.results[2], `after: ${EIO}`)
  bench.regain()
  bench.begun[1].bytes.fill(0x79)
  for (const { done } of bench.begun) done.complete(4)
  t.is(read.toString(), '....', 'nobody waits for it any more')
  t.is(bench.results.length, 3)
  bench.run('again', written, false)
  bench.begun[2].done.complete(4)
  t.is(bench.results[3], 'again: 4')
})

test('a quorum that is back in time lets all go on; the next loss counts anew', (t) => {
  const bench = new Bench()
  bench.run('write', Buffer.from('data'), false)
  bench.lose()
  bench.pass(4999)
  bench.regain()
  bench.pass(60_000)
  t.deepEqual(bench.results, [])
  bench.lose()
  bench.pass(4999)
  t.deepEqual(bench.results, [])
  bench.pass(1)
  t.deepEqual(bench.results, [`write: ${EIO}`])
})

test('each waits for as long as its volume waited when it began', (t) => {
  const bench = new Bench()
  bench.run('five', Buffer.alloc(1), false)
  bench.limit = 1000
  bench.run('one', Buffer.alloc(1), false)
  bench.lose()
  bench.pass(1000)
  t.deepEqual(bench.results, [`one: ${EIO}`])
  bench.pass(4000)
  t.deepEqual(bench.results, [`one: ${EIO}`, `five: ${EIO}`])
})

test('what must be alone waits for requests that failed and are under way still', async (t) => {
  const bench = new Bench()
  bench.run('grow', Buffer.alloc(1), false)
  bench.lose()
  bench.pass(5000)
  let begun = 0
  const work = async (): Promise<number> => {
    begun++
    return 0
  }
  t.is(await bench.wait.alone(work), EIO)
  bench.regain()
  const alone = bench.wait.alone(work)
  await settled()
  t.is(begun, 0)
  bench.begun[0].done.complete(1)
  t.is(await alone, 0)
  t.is(begun, 1)
})

test('a question has its own answer when the time is up; a volume that has ended says so itself', async (t) => {
  const bench = new Bench()
  bench.lose()
  const asked = bench.wait.ask(
    () => new Promise<string>(() => {}),
    () => 'late',
  )
  bench.pass(5000)
  t.is(await asked, 'late')
  await t.throwsAsync(
    bench.wait.ask(
      () => Promise.resolve(''),
      () => {
        throw new Error('late')
      },
    ),
    { message: 'late' },
  )
  bench.ended = true
  bench.run('revoked', Buffer.alloc(1), false)
  bench.begun.at(-1)?.done.complete(-108)
  t.deepEqual(bench.results, ['revoked: -108'])
})
