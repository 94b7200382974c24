/** ControlSession on its own: every request is answered once, limits hold, and nothing that a client sends gets through. */
import test from 'ava'
import fc from 'fast-check'
import { ControlSession, HEARTBEAT_MS, TRANSFER_MAX } from '../../../lib/control/session.js'
import type { Clock, Hold } from '../../../lib/host/interfaces.js'
import { encodeRequest, HEADER_LENGTH, OP, putU64, RESULT_PROGRESS } from '../../../lib/protocol/header.js'
import { FakeServices } from '../../support/fake-services.js'

interface Answer {
  id: number
  result: number
  payload: Buffer
}

class CountingHold implements Hold {
  held = 0
  retain(): void {
    this.held++
  }
  release(): void {
    this.held--
  }
}

class ManualClock implements Clock {
  time = 0
  private timers: { at: number; fn: () => void }[] = []
  now = () => this.time
  wall = () => this.time
  after(ms: number, fn: () => void) {
    const timer = { at: this.time + ms, fn }
    this.timers.push(timer)
    return {
      cancel: () => {
        this.timers = this.timers.filter((other) => other !== timer)
      },
    }
  }
  advance(ms: number): void {
    this.time += ms
    const due = this.timers.filter((timer) => timer.at <= this.time)
    this.timers = this.timers.filter((timer) => timer.at > this.time)
    for (const { fn } of due) fn()
  }
}

class Client {
  readonly services = new FakeServices()
  readonly answers: Answer[] = []
  readonly hold = new CountingHold()
  readonly session: ControlSession

  constructor(clock?: Clock) {
    if (clock !== undefined) this.services.clock = clock
    this.session = new ControlSession(this.services, 'a test', (id, result, payload) => {
      this.answers.push({ id, result, payload: Buffer.from(payload ?? []) })
    })
  }

  send(opcode: number, id: number, fields: { offset?: number; handle?: number; length?: number }, payload = ''): void {
    const body = Buffer.from(payload)
    const bytes = Buffer.alloc(HEADER_LENGTH + body.length)
    encodeRequest(bytes, 0, opcode, payload === '' ? 0 : 1, 0, id, fields.length ?? body.length)
    putU64(bytes, 16, fields.offset ?? 0)
    putU64(bytes, 24, fields.handle ?? 0)
    body.copy(bytes, HEADER_LENGTH)
    this.session.request(bytes, 0, HEADER_LENGTH, body.length, this.hold)
  }

  verb(id: number, verb: string, given: unknown = {}): void {
    this.send(OP.CONTROL, id, {}, JSON.stringify({ verb, arguments: given }))
  }

  async final(id: number): Promise<Answer> {
    for (let turn = 0; turn < 100; turn++) {
      const answer = this.answers.find((each) => each.id === id && each.result !== RESULT_PROGRESS)
      if (answer !== undefined) return answer
      await new Promise((resolve) => setImmediate(resolve))
    }
    throw new Error(`request ${id} was not answered`)
  }

  async error(id: number): Promise<string> {
    const { result, payload } = await this.final(id)
    return `${result} ${JSON.parse(payload.toString()).code}`
  }

  async open(id: number, request: object): Promise<number> {
    this.send(OP.VOLUME_OPEN, id, {}, JSON.stringify(request))
    return JSON.parse((await this.final(id)).payload.toString()).handle
  }
}

const VALID = ['{"verb":"node.list"}', '{"verb":"vdi.list"}', '{"name":"disk"}', '{"name":"disk","readOnly":true}']

test('whatever bytes come: one final answer for each id, no exception, no buffer kept', async (t) => {
  const clock = new ManualClock()
  const json = fc.oneof(
    fc.json(),
    fc.string({ unit: 'binary' }),
    fc.record({ verb: fc.string(), arguments: fc.jsonValue() }).map((value) => JSON.stringify(value)),
    // Often: what is refused is soon tried.
    ...[...VALID, ...VALID, ...VALID].map((text) => fc.constant(text)),
  )
  const number = fc.oneof(fc.nat(), fc.constantFrom(0, 1, 2, 4096, 2 ** 31, 2 ** 32, Number.MAX_SAFE_INTEGER))
  const request = fc.tuple(fc.integer({ min: 0xbf, max: 0xc6 }), number, number, fc.nat(TRANSFER_MAX + 1), json)
  let succeeded = 0
  await fc.assert(
    fc.asyncProperty(fc.array(request, { maxLength: 30 }), async (requests) => {
      const client = new Client(clock)
      requests.forEach(([opcode, offset, handle, length, payload], id) => {
        const reads = opcode === OP.VOLUME_READ
        client.send(opcode, id, { offset, handle, length: reads ? length : undefined }, reads ? '' : payload)
      })
      for (let id = 0; id < requests.length; id++) if ((await client.final(id)).result === 0) succeeded++
      client.session.closed()
      return client.answers.length === requests.length && client.hold.held === 0 && client.services.logged.length === 0
    }),
    { numRuns: 300 },
  )
  t.true(succeeded > 20, `${succeeded} requests succeeded`)
})

test('a volume is opened, written, read, flushed and closed', async (t) => {
  const client = new Client()
  const handle = await client.open(1, { name: 'disk' })
  client.send(OP.VOLUME_WRITE, 2, { handle, offset: 8191 }, 'hello')
  client.send(OP.VOLUME_READ, 3, { handle, offset: 8190, length: 7 })
  client.send(OP.VOLUME_FLUSH, 4, { handle })
  t.is((await client.final(2)).result, 0)
  t.is((await client.final(3)).payload.toString(), '\0hello\0')
  t.is((await client.final(4)).result, 0)
  t.is(client.services.volumes.requests[0].holder, 'a test')
  client.send(OP.VOLUME_CLOSE, 5, { handle })
  t.is((await client.final(5)).result, 0)
  t.true(client.services.volumes.volumes[0].closed)
  client.send(OP.VOLUME_READ, 6, { handle, length: 1 })
  t.is(await client.error(6), '5 invalid')
})

test('transfers stay inside the volume, within the limit, and out of snapshots', async (t) => {
  const client = new Client()
  const handle = await client.open(1, { name: 'web 東京' })
  const size = 64 * 2 ** 20
  client.send(OP.VOLUME_READ, 2, { handle, offset: size - 1, length: 2 })
  t.is(await client.error(2), '5 invalid')
  client.send(OP.VOLUME_READ, 3, { handle, offset: 0, length: TRANSFER_MAX + 1 })
  t.is(await client.error(3), '5 invalid')
  client.send(OP.VOLUME_READ, 4, { handle, offset: 2 ** 52, length: 1 })
  t.is(await client.error(4), '5 invalid')
  const snapshot = await client.open(5, { name: 'disk', snapshot: 'monday', readOnly: true })
  client.send(OP.VOLUME_WRITE, 6, { handle: snapshot }, 'x')
  t.is(await client.error(6), '26 read-only')
})

test('errors of the volume become errors of the protocol', async (t) => {
  const client = new Client()
  const handle = await client.open(1, { name: 'disk' })
  const [volume] = client.services.volumes.volumes
  const cases: [number, string][] = [
    [-28, '21 no-space'],
    [-5, '3 io'],
    [-108, '3 io'],
  ]
  for (const [i, [errno, expected]] of cases.entries()) {
    volume.failWith = errno
    client.send(OP.VOLUME_WRITE, 10 + i, { handle }, 'x')
    t.is(await client.error(10 + i), expected)
  }
})

test('what is under way is limited in number and in bytes', async (t) => {
  const client = new Client()
  const handle = await client.open(0, { name: 'disk' })
  const [volume] = client.services.volumes.volumes
  volume.freeze()
  for (let id = 1; id <= 17; id++) client.send(OP.VOLUME_READ, id, { handle, length: TRANSFER_MAX })
  t.is(await client.error(17), '6 busy', '16 of 4 MiB are 64 MiB')
  for (let id = 18; id <= 66; id++) client.send(OP.VOLUME_FLUSH, id, { handle })
  t.is(await client.error(66), '6 busy', '64 requests')
  client.send(OP.VOLUME_FLUSH, 1, { handle })
  t.is(await client.error(1), '5 invalid', 'an id that is in use')
  volume.unfreeze()
  t.is((await client.final(16)).result, 0)
  client.send(OP.VOLUME_READ, 100, { handle, length: TRANSFER_MAX })
  t.is((await client.final(100)).result, 0, 'and it goes on afterwards')
})

test('volumes of a connection are limited and closed with it, also one that opens meanwhile', async (t) => {
  const client = new Client()
  const readOnly = { name: 'disk', snapshot: 'monday', readOnly: true }
  for (let id = 1; id <= 7; id++) await client.open(id, readOnly)
  let open = () => {}
  client.services.volumes.gate = new Promise((resolve) => {
    open = resolve
  })
  client.send(OP.VOLUME_OPEN, 8, {}, JSON.stringify(readOnly))
  client.send(OP.VOLUME_OPEN, 9, {}, JSON.stringify(readOnly))
  t.is(await client.error(9), '6 busy')
  client.session.closed()
  open()
  await new Promise((resolve) => setTimeout(resolve, 10))
  t.is(client.services.volumes.volumes.length, 8)
  t.true(client.services.volumes.volumes.every((volume) => volume.closed))
  t.is(client.answers.length, 8, 'nobody is told after the end')
})

test('while a request takes long, its client hears from us, and why', async (t) => {
  const clock = new ManualClock()
  const client = new Client(clock)
  const handle = await client.open(1, { name: 'disk' })
  client.services.volumes.volumes[0].freeze()
  client.send(OP.VOLUME_READ, 2, { handle, length: 512 })
  client.services.cluster.status = 'halted'
  client.services.cluster.statusReason = 'no quorum'
  const before = client.answers.length
  clock.advance(HEARTBEAT_MS - 1)
  t.is(client.answers.length, before)
  clock.advance(1)
  t.is(client.answers.length, before + 1)
  clock.advance(HEARTBEAT_MS)
  const beats = client.answers.slice(before)
  t.is(beats.length, 2)
  t.true(beats.every(({ id, result }) => id === 2 && result === RESULT_PROGRESS))
  t.is(JSON.parse(beats[0].payload.toString()).text, 'waiting: no quorum')
  client.services.volumes.volumes[0].unfreeze()
  clock.advance(HEARTBEAT_MS)
  clock.advance(HEARTBEAT_MS)
  t.is(client.answers.length, before + 3, 'silence when nothing is under way')
})

test('progress is passed on, not more often than people can see', async (t) => {
  const clock = new ManualClock()
  const client = new Client(clock)
  let cancelled: unknown = null
  client.services.vdis.delete = async (_name, _snapshot, progress) => {
    for (let done = 0; done < 1000; done++) {
      clock.advance(1)
      progress.report(done, 1000, 'freeing')
    }
    client.session.closed()
    cancelled = progress.cancelled
  }
  client.verb(1, 'vdi.delete', { name: 'web 東京' })
  await new Promise((resolve) => setTimeout(resolve, 10))
  const texts = client.answers.map(({ payload }) => JSON.parse(payload.toString()))
  t.true(texts.length >= 9 && texts.length <= 12, `${texts.length} reports in a second`)
  t.deepEqual(texts[0], { done: 0, total: 1000, text: 'freeing' })
  t.is(cancelled, true)
})

test('verbs: unknown ones, wrong arguments, errors with their hints, and a cluster that is not ready', async (t) => {
  const client = new Client()
  client.verb(1, 'vdi.explode')
  t.is(await client.error(1), '5 unsupported')
  client.verb(2, 'vdi.create', { name: 'x' })
  t.is(await client.error(2), '5 invalid')
  client.verb(3, 'vdi.create', { name: 'disk', size: 512 })
  t.deepEqual(JSON.parse((await client.final(3)).payload.toString()), {
    ...{ code: 'exists', message: 'VDI "disk" exists', hint: 'choose another name' },
  })
  client.services.cluster.status = 'waiting-for-format'
  client.verb(4, 'vdi.list')
  t.is(await client.error(4), '22 wait-for-format')
  client.verb(5, 'node.list')
  t.is((await client.final(5)).result, 0)
})

test('a bug in a verb is answered and logged with its stack, and the session goes on', async (t) => {
  const client = new Client()
  client.services.vdis.rename = async () => {
    throw new TypeError('undefined is not a function')
  }
  client.verb(1, 'vdi.rename', { name: 'disk', newName: 'x' })
  t.is(await client.error(1), '6 system')
  t.regex(client.services.logged[0], /^error: .*TypeError/)
  t.regex(client.services.logged[1], /^error: .*\s+at /)
  client.verb(2, 'node.list')
  t.is((await client.final(2)).result, 0)
})
