/** The corosync engine on a corosync that does all that the real one may: order, views and quorum as engine.ts wants them. */
import anyTest, { type TestFn } from 'ava'
import sinon from 'sinon'
import { CorosyncEngine } from '../../../lib/cluster/corosync.js'
import {
  controlFrame,
  decodeFrame,
  HEADER,
  Joiner,
  MESSAGE_BYTES_MAX,
  PART_BYTES,
  partsOf,
  payloadFrame,
} from '../../../lib/cluster/corosync-frames.js'
import type { EngineView, MemberId } from '../../../lib/cluster/engine.js'
import { FakeCorosync, type FakeNode } from './fake-corosync.js'

const test = anyTest as TestFn<{ clock: sinon.SinonFakeTimers }>

test.beforeEach((t) => {
  t.context.clock = sinon.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'setImmediate', 'performance'] })
})
test.afterEach.always((t) => t.context.clock.restore())

type Seen = { view: EngineView } | { quorum: boolean } | { from: MemberId; text: string }

/** A daemon as far as the engine goes. */
class Daemon {
  readonly engine: CorosyncEngine
  readonly seen: Seen[] = []
  told: boolean | null = null
  members: readonly MemberId[] = []
  failed = ''
  unfounded = ''
  ended = false
  said = 0

  constructor(
    readonly corosync: FakeCorosync,
    readonly node: FakeNode,
  ) {
    const connectHere = corosync.connectAt(node)
    const dead = { multicast: () => 2, taken: () => undefined, stop: () => undefined }
    const connect: typeof connectHere = (group, on) => (this.ended ? dead : connectHere(group, on))
    this.engine = new CorosyncEngine({ group: 'test', log: () => undefined, connect })
    this.engine
      .join({
        view: (view) => {
          this.members = view.members
          this.seen.push({ view })
          const { client } = node
          if (this.told === true && client !== null && corosync.quorateRings.get(client.ring) === false) {
            this.unfounded = `a view with a quorum that ring ${client.ring} does not have: ${view.members}`
          }
        },
        message: (from, payload) => void this.seen.push({ from, text: payload.toString('latin1', 0, 40) }),
        quorum: (quorum) => {
          this.told = quorum
          this.seen.push({ quorum })
        },
        failed: (reason) => {
          this.failed = reason
        },
      })
      .catch(() => {
        this.ended = true
      })
  }

  get self(): MemberId {
    return this.engine.self
  }

  /** As a daemon does: not before its first view. */
  say(bytes = 0): boolean {
    if (this.members.length === 0 || this.ended) return false
    this.engine.broadcast(Buffer.from(`${this.self} says ${++this.said} `.padEnd(bytes, '.')))
    return true
  }

  get views(): EngineView[] {
    return this.seen.flatMap((one) => ('view' in one ? [one.view] : []))
  }

  get heard(): string[] {
    return this.seen.flatMap((one) => ('text' in one ? [one.text] : []))
  }
}

function generator(seed: number): (below: number) => number {
  let state = (seed * 2_654_435_761 + 1) >>> 0
  return (below) => {
    state ^= state << 13
    state >>>= 0
    state ^= state >>> 17
    state ^= state << 5
    state >>>= 0
    return state % below
  }
}

class World {
  readonly corosync: FakeCorosync
  readonly daemons: Daemon[] = []

  constructor(
    readonly clock: sinon.SinonFakeTimers,
    hosts: number,
    readonly random: (below: number) => number = () => 0,
  ) {
    this.corosync = new FakeCorosync(hosts, random)
  }

  get live(): Daemon[] {
    return this.daemons.filter(({ ended }) => !ended)
  }

  start(host: number): Daemon {
    const daemon = new Daemon(this.corosync, this.corosync.nodes[host])
    this.daemons.push(daemon)
    return daemon
  }

  kill(daemon: Daemon): void {
    daemon.ended = true
    const { client } = daemon.node
    if (client !== null) this.corosync.disconnect(client)
    daemon.node.pids += this.random(2)
  }

  async tick(ms = 0): Promise<void> {
    await this.clock.tickAsync(ms)
  }

  /** Until nothing is on its way. */
  async settle(): Promise<void> {
    for (let quiet = 0; quiet < 3; ) {
      await this.tick(5)
      quiet++
      while (this.corosync.order() || this.corosync.deliver()) {
        quiet = 0
        await this.tick()
      }
    }
  }

  /** All are in one view with quorum, and hear each other in one order. */
  async checkTogether(): Promise<string[]> {
    const problems: string[] = []
    const ids = this.live.map(({ self }) => self).sort()
    for (const daemon of this.live) {
      if (daemon.members.join() !== ids.join()) problems.push(`${daemon.self} sees ${daemon.members}, not ${ids}`)
      if (daemon.told !== true) problems.push(`${daemon.self} is not quorate`)
    }
    const from = this.live.map(({ seen }) => seen.length)
    for (const daemon of this.live) daemon.say()
    await this.settle()
    const heard = this.live.map(({ seen }, at) => JSON.stringify(seen.slice(from[at])))
    if (new Set(heard).size > 1) problems.push(`not the same: ${heard.join('\n')}`)
    if (!this.live.every((daemon, at) => daemon.seen.length - from[at] === this.live.length)) {
      problems.push(`not all were heard: ${heard.join('\n')}`)
    }
    return problems
  }
}

/** No view has a quorum that its ring lacks; and of two in one ring that have heard all there is, and were told that they are quorate, each is in the other's view. */
function falseQuorum(daemons: readonly Daemon[]): string[] {
  const quiet = daemons.filter(({ told, ended, node: { client } }) => {
    return !ended && told === true && client !== null && client.inbox.length + client.quorumInbox.length === 0
  })
  const unfounded = daemons.flatMap((one) => (one.unfounded === '' ? [] : [one.unfounded]))
  const apart = quiet.flatMap((one) => {
    return quiet
      .filter((other) => other.node.ring === one.node.ring && !other.members.includes(one.self))
      .map((other) => `${one.self} and ${other.self} are both quorate, apart`)
  })
  return [...unfounded, ...apart]
}

/** Between two views that two daemons have had both, one after the other, they saw the same; and nobody heard a thing twice. */
function differences(daemons: readonly Daemon[]): string[] {
  const problems: string[] = []
  const stretches = new Map<string, { of: string; what: string }>()
  for (const { self, seen } of daemons) {
    let view = ''
    let what: Seen[] = []
    const texts = new Set<string>()
    for (const one of seen) {
      if ('text' in one) {
        if (texts.has(one.text)) problems.push(`${self} heard twice: ${one.text}`)
        texts.add(one.text)
        what.push(one)
      } else if ('view' in one) {
        if (!one.view.members.includes(self)) problems.push(`${self} is not in its own view`)
        const next = one.view.members.join()
        const said = JSON.stringify(what.flatMap((each) => ('text' in each ? [each.text] : [])))
        const stays = view.split(',').filter((id) => one.view.members.includes(id) && !one.view.joined.includes(id))
        // Those who go from this view to the next together. The same views may come again: by what was said first.
        const first = what.find((each) => 'text' in each)
        if (stays.length > 1 && first !== undefined && 'text' in first) {
          const key = `${view} -> ${next} by ${stays} from ${first.text}`
          const other = stretches.get(key)
          if (other === undefined) stretches.set(key, { of: self, what: said })
          else if (other.what !== said) problems.push(`${key}\n${other.of}: ${other.what}\n${self}: ${said}`)
        }
        view = next
        what = []
      }
    }
  }
  return problems
}

test('frames: a message of any length comes back whole', (t) => {
  const joiner = new Joiner()
  for (const length of [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES, 5 * PART_BYTES + 7]) {
    const payload = Buffer.alloc(length, 'the quick brown fox ')
    const whole: Buffer[] = []
    for (let part = 0; part < partsOf(length); part++) {
      const bytes = payloadFrame('00112233aabbccdd', 7, payload, part)
      t.true(bytes.length <= HEADER + PART_BYTES)
      const frame = decodeFrame(bytes)!
      t.is(frame.stamp, '00112233aabbccdd')
      const joined = joiner.add('1:1', frame)
      if (joined !== null) whole.push(joined)
    }
    t.is(whole.length, 1)
    t.true(whole[0].equals(payload))
  }
})

test('frames: parts without their beginning, of two senders, of what was cut off', (t) => {
  const joiner = new Joiner()
  const payload = Buffer.alloc(3 * PART_BYTES, 'x')
  const part = (number: number, at: number) => decodeFrame(payloadFrame('0'.repeat(16), number, payload, at))!
  t.is(joiner.add('1:1', part(1, 1)), null)
  t.is(joiner.add('1:1', part(1, 2)), null, 'no beginning')
  t.is(joiner.add('1:1', part(2, 0)), null)
  t.is(joiner.add('2:1', part(2, 0)), null)
  t.is(joiner.add('1:1', part(2, 1)), null)
  t.is(joiner.add('2:1', part(2, 1)), null)
  t.true(joiner.add('1:1', part(2, 2))!.equals(payload))
  joiner.clear()
  t.is(joiner.add('2:1', part(2, 2)), null, 'what was sent before a change counts no more')
})

test('frames: what is none is refused', (t) => {
  const good = payloadFrame('0'.repeat(16), 1, Buffer.alloc(10), 0)
  t.truthy(decodeFrame(good))
  t.truthy(decodeFrame(controlFrame('{}')))
  const bad = (change: (bytes: Buffer) => void): void => {
    const bytes = Buffer.from(good)
    change(bytes)
    t.is(decodeFrame(bytes), null)
  }
  bad((bytes) => bytes.write('SHC2'))
  bad((bytes) => bytes.writeUInt8(9, 4))
  bad((bytes) => bytes.writeUInt32LE(1, 20))
  bad((bytes) => bytes.writeUInt32LE(2, 24))
  bad((bytes) => bytes.writeUInt32LE(11, 28))
  bad((bytes) => bytes.writeUInt32LE(MESSAGE_BYTES_MAX + 1, 28))
  for (let length = 0; length < HEADER; length++) t.is(decodeFrame(good.subarray(0, length)), null)
  const random = generator(4711)
  for (let round = 0; round < 20_000; round++) {
    const bytes = Buffer.from(good)
    bytes[random(bytes.length)] = random(256)
    t.notThrows(() => decodeFrame(bytes))
  }
})

test.serial('three hosts meet, hear each other in one order, and see one leave in order', async (t) => {
  const world = new World(t.context.clock, 3, generator(1))
  for (const host of [0, 1, 2]) world.start(host)
  await world.settle()
  t.deepEqual(await world.checkTogether(), [])
  const [first, second, third] = world.daemons
  first.say(5 * PART_BYTES)
  await world.settle()
  t.is(second.heard.at(-1), third.heard.at(-1))
  const left = third.engine.leave()
  third.ended = true
  await world.settle()
  await left
  t.deepEqual(first.views.at(-1)!.left, [third.self])
  t.deepEqual(await world.checkTogether(), [])
  t.deepEqual(differences(world.daemons), [])
})

test.serial(
  'a minority is told before the view that shows it; healed, both see the others join under their ids',
  async (t) => {
    const world = new World(t.context.clock, 3, generator(2))
    for (const host of [0, 1, 2]) world.start(host)
    await world.settle()
    const [first, second, third] = world.daemons
    world.corosync.nodes[2].side = 1
    world.corosync.form()
    await world.settle()
    const lost = new Map([first, second].map(({ self }) => [self, 'lost' as const]))
    t.deepEqual(third.seen.slice(-2), [
      { quorum: false },
      { view: { members: [third.self], joined: [], left: [first.self, second.self].sort(), reasons: lost } },
    ] as Seen[])
    t.is(first.told, true)
    t.deepEqual(first.members, [first.self, second.self].sort())
    world.corosync.nodes[2].side = 0
    world.corosync.form()
    await world.settle()
    const all = [first.self, second.self, third.self].sort()
    t.deepEqual(third.seen.slice(-2), [
      { view: { members: all, joined: [first.self, second.self].sort(), left: [] } },
      { quorum: true },
    ] as Seen[])
    t.deepEqual(first.views.at(-1), { members: all, joined: [third.self], left: [] })
    t.deepEqual(await world.checkTogether(), [])
  },
)

test.serial('a view says why members left: in order, or since their process died', async (t) => {
  const world = new World(t.context.clock, 3, generator(4))
  for (const host of [0, 1, 2]) world.start(host)
  await world.settle()
  const [first, second, third] = world.daemons
  world.kill(second)
  await world.settle()
  t.deepEqual(first.views.at(-1)!.reasons, new Map([[second.self, 'died']]))
  third.ended = true
  const leaving = third.engine.leave()
  await world.settle()
  await leaving
  t.deepEqual(first.views.at(-1)!.reasons, new Map([[third.self, 'left']]))
})

test.serial(
  'who left and came back in one change: nobody keeps a quorum that the others may have used meanwhile',
  async (t) => {
    const world = new World(t.context.clock, 3, generator(3))
    for (const host of [0, 1, 2]) world.start(host)
    await world.settle()
    const [first, second, third] = world.daemons
    const nodes = world.corosync.nodes
    // Host 3 forms a ring of its own and is back before the others have missed it.
    nodes[2].ring = { id: '3.1000', nodes: [nodes[2]], unsent: [] }
    world.corosync.form()
    await world.settle()
    for (const daemon of [first, second]) {
      const from = daemon.seen.findLastIndex((one) => 'quorum' in one && !one.quorum)
      t.deepEqual(
        daemon.seen.slice(from).map((one) => ('view' in one ? `view of ${one.view.members.length}` : one)),
        [{ quorum: false }, 'view of 2', 'view of 3', { quorum: true }] as unknown[],
      )
    }
    t.deepEqual(third.views.at(-1)!.joined.length, 2)
    t.deepEqual(await world.checkTogether(), [])
  },
)

test.serial(
  'corosync ends under a daemon: alone without quorum, it hears itself, connects again and joins',
  async (t) => {
    const world = new World(t.context.clock, 3, generator(4))
    for (const host of [0, 1, 2]) world.start(host)
    await world.settle()
    const [first, , third] = world.daemons
    const node = world.corosync.nodes[2]
    third.say()
    world.corosync.stop(node)
    await world.tick(1)
    t.deepEqual([third.told, third.members], [false, [third.self]])
    third.say()
    await world.tick(1)
    t.deepEqual(third.heard.length, 2, 'its own words come back without corosync')
    world.corosync.form()
    await world.settle()
    t.is(first.members.length, 2)
    await world.tick(5_000)
    world.corosync.start(node)
    world.corosync.form()
    await world.tick(2_000)
    await world.settle()
    t.deepEqual(await world.checkTogether(), [])
    t.deepEqual(differences(world.daemons), [])
  },
)

test.serial('without corosync a start is refused, with what to do', async (t) => {
  const corosync = new FakeCorosync(1, () => 0)
  corosync.nodes[0].up = false
  const engine = new CorosyncEngine({
    group: 'test',
    log: () => undefined,
    connect: corosync.connectAt(corosync.nodes[0]),
  })
  const none = () => undefined
  const error = await t.throwsAsync(engine.join({ view: none, message: none, quorum: none, failed: none }))
  t.regex(`${error.message}; ${(error as { hint?: string }).hint}`, /corosync: not running; systemctl start corosync/)
})

test.serial('corosync takes nothing for a while: all is sent in order later', async (t) => {
  const world = new World(t.context.clock, 2, generator(5))
  for (const host of [0, 1]) world.start(host)
  await world.settle()
  const [first, second] = world.daemons
  world.corosync.busy = true
  for (let number = 0; number < 50; number++) first.say(number % 10 === 0 ? 3 * PART_BYTES : 0)
  await world.tick(500)
  t.is(second.heard.length, 0)
  world.corosync.busy = false
  await world.settle()
  const numbers = second.heard.map((text) => Number(text.split(' ')[2]))
  t.deepEqual(
    numbers,
    [...Array(50).keys()].map((at) => at + 1),
  )
})

test.serial(
  'storms: whatever corosync does, those who stay together see the same, and all meet at the end',
  async (t) => {
    for (let seed = 1; seed <= 150; seed++) {
      const random = generator(seed)
      const hosts = 2 + random(4)
      const world = new World(t.context.clock, hosts, random)
      world.corosync.slowQuorum = seed % 2 === 0
      for (let host = 0; host < hosts; host++) world.start(host)
      for (let step = 0; step < 400; step++) {
        const what = random(100)
        const host = random(hosts)
        const node = world.corosync.nodes[host]
        const daemon = world.live.find((one) => one.node === node)
        if (what < 2) {
          for (const one of world.corosync.nodes) one.side = random(2)
          world.corosync.form()
        } else if (what < 3) {
          for (const one of world.corosync.nodes) one.side = 0
          world.corosync.form()
        } else if (what < 4 && daemon !== undefined && node.client !== null) {
          world.kill(daemon)
        } else if (what < 6 && daemon === undefined && node.up) {
          world.start(host)
        } else if (what < 7 && node.up) {
          world.corosync.stop(node)
        } else if (what < 9 && !node.up) {
          world.corosync.start(node)
          world.corosync.form()
          await world.tick(1_000)
        } else if (what < 11) {
          world.corosync.busy = random(2) === 0
        } else if (what < 30) {
          daemon?.say(random(8) === 0 ? 2 * PART_BYTES : 0)
        } else if (what < 60) {
          world.corosync.order()
        } else {
          world.corosync.deliver()
        }
        await world.tick(random(3))
        const double = falseQuorum(world.daemons)
        if (double.length > 0) t.fail(`seed ${seed} step ${step}: ${double}`)
      }
      world.corosync.busy = false
      for (const node of world.corosync.nodes) {
        node.side = 0
        if (!node.up) world.corosync.start(node)
      }
      world.corosync.form()
      await world.tick(2_000)
      await world.settle()
      for (const [host, node] of world.corosync.nodes.entries()) {
        if (!world.live.some((daemon) => daemon.node === node && daemon.failed === '')) world.start(host)
      }
      await world.tick(2_000)
      await world.settle()
      const problems = [...(await world.checkTogether()), ...differences(world.daemons)]
      t.deepEqual(problems, [], `seed ${seed}`)
      if (problems.length > 0) return
    }
  },
)
