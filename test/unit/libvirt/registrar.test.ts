/** The pool's registrar over a libvirt of the test's own: who starts first, who is left alone, how often it looks again. */
import test from 'ava'
import { SheepError } from '../../../lib/errors.js'
import type { Clock } from '../../../lib/host/interfaces.js'
import { poolXml } from '../../../lib/libvirt/domain-xml.js'
import type { PoolInfo } from '../../../lib/libvirt/messages.js'
import { type PoolCalls, PoolRegistrar } from '../../../lib/libvirt/registrar.js'

/** A change is seen by then */
const REFRESH_LIMIT_MS = 4_000
const directory = '/var/lib/sheepdog/volumes'

class ManualClock implements Clock {
  time = 0
  private timers: { at: number; run: () => void }[] = []
  now = () => this.time
  wall = () => this.time
  after(ms: number, run: () => void) {
    const timer = { at: this.time + ms, run }
    this.timers.push(timer)
    return {
      cancel: () => {
        this.timers = this.timers.filter((one) => one !== timer)
      },
    }
  }

  async pass(ms: number): Promise<void> {
    const end = this.time + ms
    for (;;) {
      for (let turn = 0; turn < 20; turn++) await null
      this.timers.sort((a, b) => a.at - b.at)
      const [first] = this.timers
      if (first === undefined || first.at > end) break
      this.timers.shift()
      this.time = first.at
      first.run()
    }
    this.time = end
  }
}

class World {
  readonly clock = new ManualClock()
  readonly calls: string[] = []
  readonly logged: string[] = []
  readonly fields: unknown[] = []
  seen = 'socket 1'
  served = true
  pool: PoolInfo | null = null
  /** What the next calls fail with */
  failure: SheepError | null = null
  /** libvirt is at work in the pool */
  busy = false
  connects = 0
  open = 0
  registrar!: PoolRegistrar

  start(): this {
    this.registrar = new PoolRegistrar({
      directory,
      clock: this.clock,
      log: (level, message, fields) => {
        this.logged.push(`${level}: ${message}`)
        this.fields.push(fields)
      },
      libvirtSeen: () => this.seen,
      served: () => this.served,
      connect: async () => this.connect(),
    })
    return this
  }

  change(op: string): void {
    this.registrar.commandApplied({ type: 'vdi', command: { op } as never })
  }

  count(call: string): number {
    return this.calls.filter((one) => one === call).length
  }

  /** Told of at debug */
  looks(): number {
    return this.logged.filter((line) => line.startsWith('debug')).length
  }

  private connect(): PoolCalls {
    this.connects++
    if (this.failure !== null) throw this.failure
    this.open++
    const world = this
    const calls = {
      uri: 'storage:///system',
      closed: false,
      close() {
        if (!this.closed) world.open--
        this.closed = true
      },
      async call(name: string, ...given: string[]) {
        world.calls.push(name)
        if (world.failure !== null) throw world.failure
        if (world.busy && name === 'poolRefresh') throw new SheepError('busy', 'it has asynchronous jobs running')
        if (name === 'poolInfo') return world.pool
        if (name === 'poolDefine') world.pool = { xml: given[0], active: false, autostart: false, persistent: true }
        if (world.pool === null) return false
        if (name === 'poolStart') world.pool.active = true
        if (name === 'poolAutostart') world.pool.autostart = true
        return name === 'poolRefresh' ? world.pool.active : null
      },
    }
    return calls as unknown as PoolCalls
  }
}

test('libvirt is there first: the pool is defined, starts, and starts by itself from then on', async (t) => {
  const world = new World().start()
  await world.clock.pass(100)
  t.deepEqual(world.calls, ['poolInfo', 'poolDefine', 'poolAutostart', 'poolStart', 'poolRefresh'])
  t.like(world.pool, { active: true, autostart: true })
  t.regex(world.logged[0], /^notice: libvirt: pool sheepdog .* is defined and started/)
  await world.clock.pass(60_000)
  t.is(world.calls.length, 5, 'and that was all')
  t.is(world.open, 0, 'libvirt may end when nobody needs it')
})

test('libvirt comes later, and again; and the mount later than both', async (t) => {
  const world = new World()
  world.seen = ''
  world.served = false
  world.start()
  await world.clock.pass(60_000)
  t.is(world.connects, 0)
  world.seen = 'socket 1'
  await world.clock.pass(10_000)
  t.is(world.connects, 0, 'a directory that is no mount has no volumes')
  world.served = true
  await world.clock.pass(10_000)
  t.true(world.pool?.active)
  world.pool = null
  world.seen = 'socket 2'
  await world.clock.pass(10_000)
  t.is(world.count('poolDefine'), 2, 'a libvirt that forgot it is told again')
})

test('while the cluster waits, libvirt is told nothing; as soon as it runs, it is', async (t) => {
  const world = new World()
  world.served = false
  world.start()
  await world.registrar.looked
  await world.clock.pass(600_000)
  t.deepEqual([world.connects, world.logged], [0, []])
  world.served = true
  world.registrar.statusChanged()
  await world.clock.pass(0)
  t.true(world.pool?.active)
})

test('a pool in which libvirt is at work is asked again, every few seconds, without a word', async (t) => {
  const world = new World().start()
  await world.clock.pass(20_000)
  const [before, said] = [world.count('poolRefresh'), world.logged.length]
  world.busy = true
  world.change('ready')
  await world.clock.pass(600_000)
  const during = world.count('poolRefresh') - before
  t.true(during >= 150 && during <= 250, `${during} looks in 10 minutes`)
  t.true(world.logged.slice(said).every((line) => line.startsWith('debug: ')))
  world.busy = false
  await world.clock.pass(REFRESH_LIMIT_MS)
  t.is(world.count('poolRefresh') - before, during + 1, 'soon after libvirt is done')
  await world.clock.pass(60_000)
  t.is(world.open, 0)
})

test('a pool of ours that is there: started where it starts by itself, left off where somebody wants it off', async (t) => {
  const xml = poolXml('sheepdog', directory)
  for (const autostart of [true, false]) {
    const world = new World()
    world.pool = { xml, active: false, autostart, persistent: true }
    world.start()
    await world.clock.pass(100)
    t.is(world.count('poolDefine'), 0)
    t.is(world.pool.active, autostart)
  }
})

test('a pool of this name that is none of ours is left alone, and told of', async (t) => {
  for (const xml of [
    poolXml('sheepdog', '/srv/other'),
    poolXml('sheepdog', directory).replace('type="dir"', 'type="fs"'),
  ]) {
    const world = new World()
    world.pool = { xml, active: false, autostart: true, persistent: true }
    world.start()
    await world.clock.pass(10_000)
    world.change('ready')
    await world.clock.pass(60_000)
    t.deepEqual(world.calls, ['poolInfo'])
    t.is(world.logged.filter((line) => /^warning: .*left alone/.test(line)).length, 1)
  }
})

test('libvirt looks again when volumes change, once for many', async (t) => {
  const world = new World().start()
  await world.clock.pass(20_000)
  const before = world.count('poolRefresh')
  for (let at = 0; at < 100; at++) world.change('ready')
  for (const op of ['lock', 'unlock', 'create', 'migrate-begin']) world.change(op)
  await world.clock.pass(1_000)
  t.is(world.count('poolRefresh'), before + 1, 'soon')
  for (let at = 0; at < 100; at++) {
    world.change('rename')
    await world.clock.pass(100)
  }
  await world.clock.pass(10_000)
  const during = world.count('poolRefresh') - before
  t.true(during >= 3 && during <= 6, `${during} looks in 10 s of changes`)
  const after = world.count('poolRefresh')
  for (const op of ['lock', 'unlock', 'migrate-begin']) world.change(op)
  await world.clock.pass(60_000)
  t.is(world.count('poolRefresh'), after, 'who has them open is no change')
})

test('what fails is tried again ever more seldom, said once, and ends when it works', async (t) => {
  const world = new World()
  world.failure = new SheepError('unreachable', 'libvirt: refused')
  world.start()
  await world.clock.pass(600_000)
  t.true(world.connects >= 8 && world.connects <= 20, `${world.connects} tries in 10 minutes`)
  t.deepEqual([world.logged.length, world.fields[0]], [1, undefined], 'no field for a hint that there is none of')
  world.failure = null
  await world.clock.pass(60_000)
  t.true(world.pool?.active)
  world.failure = new SheepError('system', 'libvirt: refreshing pool sheepdog: cannot open its directory')
  world.change('ready')
  await world.clock.pass(5_000)
  world.failure = null
  const before = world.count('poolRefresh')
  await world.clock.pass(20_000)
  t.is(world.count('poolRefresh'), before + 1, 'a look that failed is not forgotten')
})

test('where there is no library of libvirt nothing is tried again until its daemon is another', async (t) => {
  const world = new World()
  world.failure = new SheepError('unsupported', 'libvirt.so.0 does not load')
  world.start()
  await world.clock.pass(3_600_000)
  t.is(world.connects, 1)
  world.failure = null
  world.seen = 'socket 2'
  await world.clock.pass(10_000)
  t.true(world.pool?.active)
  world.registrar.stop()
  world.change('ready')
  world.seen = 'socket 3'
  const { connects } = world
  await world.clock.pass(60_000)
  t.is(world.connects, connects, 'nothing happens after its end')
})

test('a connection that libvirt has ended meanwhile is made anew at once', async (t) => {
  const world = new World().start()
  await world.clock.pass(3_000)
  world.failure = new SheepError('unreachable', 'libvirt: the connection is lost')
  world.change('ready')
  await world.clock.pass(400)
  world.failure = null
  const before = world.connects
  await world.clock.pass(300)
  t.is(world.connects, before + 1)
  await world.clock.pass(REFRESH_LIMIT_MS)
  t.is(world.calls.at(-1), 'poolRefresh')
  t.is(world.logged.length, 1 + world.looks(), 'nothing to complain of')
})
