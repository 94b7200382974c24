import test, { type ExecutionContext } from 'ava'
import { Cluster } from '../../../lib/cluster/cluster.js'
import { onlyDisk } from '../../../lib/cluster/state-disks.js'
import type { ClusterCommand, ClusterListener, EpochRecord } from '../../../lib/cluster/types.js'
import { asSheepError, SheepError } from '../../../lib/errors.js'
import { Scheduler, SimClock } from '../../simulation/clock.js'
import { SimDisk } from '../../simulation/disk.js'
import { DiskView } from '../../simulation/disk-view.js'
import { EngineHub } from '../../simulation/engine.js'
import { Process } from '../../simulation/process.js'
import { SimRandom } from '../../simulation/random.js'
import { Trace, Verdict } from '../../simulation/trace.js'
import { nodeInfo } from './bus.js'

const format: ClusterCommand = {
  type: 'format',
  clusterId: '00000000000000c1',
  copies: 3,
  blockSizeShift: 22,
  force: false,
}

function create(name: string): ClusterCommand {
  const fields = { size: 1 << 30, copies: 3, blockSizeShift: 22, parent: 0, preallocated: false }
  return { type: 'vdi', command: { op: 'create', name, ...fields } }
}

/** A host with its disk; its daemon comes and goes. */
class Host implements ClusterListener {
  readonly disk: SimDisk
  readonly epochs: EpochRecord[] = []
  process: Process | null = null
  cluster: Cluster | null = null
  incarnation = 0
  failure: SheepError | null = null

  constructor(
    readonly world: World,
    readonly number: number,
  ) {
    const shape = { capacity: 64 << 20, latency: 0.1, syncLatency: 3, inline: 0.5 }
    this.disk = new SimDisk(world.scheduler, world.random.split(), shape)
  }

  get name(): string {
    return `h${this.number}`
  }

  start(): void {
    const { world } = this
    this.process = new Process(`${this.name}.${++this.incarnation}`, world.scheduler, world.verdict, () => undefined)
    const { process } = this
    process.enter(() => {
      this.cluster = new Cluster({
        engine: world.hub.attach(process, this.name),
        disks: onlyDisk(new DiskView(this.disk, process)),
        clock: new SimClock(world.scheduler, process, 1, 0),
        random: world.random.split(),
        log: () => undefined,
        self: nodeInfo(this.number),
        listener: this,
        proposalTimeoutMs: 20_000,
      })
      const { cluster } = this
      const started = cluster.load().then(() => cluster.start())
      started.catch((error: unknown) => {
        if (process.alive) this.failure = asSheepError(error)
      })
    })
  }

  crash(power: boolean): void {
    this.process?.die()
    this.process = null
    this.cluster = null
    if (power) this.disk.powerLoss()
    this.world.hub.processDied()
  }

  epochChanged(current: EpochRecord): void {
    this.epochs.push(current)
    this.world.epochBegan(this, current)
  }

  commandApplied(): void {}
  statusChanged(): void {}

  /** A request of a client; null when the daemon died before it answered. */
  ask<T>(call: (cluster: Cluster) => Promise<T>): Promise<T | SheepError | null> {
    const { process, cluster } = this
    return new Promise((resolve) => {
      if (process === null || cluster === null) {
        resolve(null)
        return
      }
      process.enter(() => {
        call(cluster).then(resolve, (error: unknown) => {
          if (process.alive) resolve(asSheepError(error))
        })
      })
    })
  }
}

class World {
  readonly scheduler = new Scheduler(new Trace(false))
  readonly verdict = new Verdict()
  readonly random: SimRandom
  readonly hub: EngineHub
  readonly hosts: Host[]
  onEpoch: (host: Host, current: EpochRecord) => void = () => undefined

  constructor(seed: number, count: number, hasQuorum: boolean) {
    this.random = new SimRandom(seed)
    const names = Array.from({ length: count }, (_, at) => `h${at}`)
    const shape = { hasQuorum, latency: 0.3, tokenTimeout: 100 }
    this.hub = new EngineHub(this.scheduler, this.random.split(), shape, names)
    this.hosts = names.map((_, at) => new Host(this, at))
  }

  epochBegan(host: Host, current: EpochRecord): void {
    this.onEpoch(host, current)
  }

  async pass(ms: number): Promise<void> {
    await this.scheduler.run(() => this.verdict.violation !== null, this.scheduler.now + ms, 2_000_000)
    if (this.verdict.violation !== null) throw this.verdict.violation
  }

  /** Simulated time goes on even when nothing happens. */
  async until(what: string, done: () => boolean): Promise<void> {
    const end = this.scheduler.now + 120_000
    while (!done()) {
      if (this.scheduler.now >= end) {
        const states = this.hosts.map(({ cluster }) => `${cluster?.status}: ${cluster?.statusReason}`)
        throw new Error(`${what}: not in time; ${states.join('; ')}`)
      }
      const before = this.scheduler.now
      await this.pass(50)
      if (this.scheduler.now === before) this.scheduler.now += 50
    }
  }

  allAre(status: string): boolean {
    return this.hosts.every(({ cluster }) => cluster?.status === status)
  }

  async formatted(): Promise<this> {
    for (const host of this.hosts) host.start()
    await this.until('waiting for format', () => this.allAre('waiting-for-format'))
    let answer: unknown
    void this.hosts[0]
      .ask((cluster) => cluster.propose(format, true))
      .then((value) => {
        answer = value
      })
    await this.until('format', () => answer !== undefined && this.allAre('running'))
    return this
  }
}

/** The result of a request, once there is one. */
async function answer<T>(
  world: World,
  host: Host,
  call: (cluster: Cluster) => Promise<T>,
): Promise<T | SheepError | null> {
  let result: { value: T | SheepError | null } | null = null
  void host.ask(call).then((value) => {
    result = { value }
  })
  await world.until('an answer', () => result !== null)
  return result!.value
}

test('proposals: each answered once, in order, with what the registry says', async (t) => {
  const world = await new World(1, 3, false).formatted()
  const [a, b] = world.hosts
  t.deepEqual(Object.keys((await answer(world, a, (cluster) => cluster.propose(create('one')))) as object), ['vid'])
  const twice = await answer(world, b, (cluster) =>
    Promise.allSettled([cluster.propose(create('two'), true), cluster.propose(create('two'))]),
  )
  const [first, second] = twice as PromiseSettledResult<unknown>[]
  t.is(first.status, 'fulfilled')
  t.is((second as PromiseRejectedResult).reason.code, 'exists')
  for (const { cluster } of world.hosts) t.is([...cluster!.registry.all()].length, 2)
})

test('before format proposals are refused at once, with what to do', async (t) => {
  const world = new World(2, 1, false)
  const [host] = world.hosts
  host.start()
  await world.until('waiting', () => world.allAre('waiting-for-format'))
  const refused = (await answer(world, host, (cluster) => cluster.propose(create('early')))) as SheepError
  t.is(refused.code, 'wait-for-format')
  t.regex(refused.hint, /dog cluster format/)
})

test('without quorum proposals wait, then end with halted; those in time go through', async (t) => {
  const world = await new World(3, 3, true).formatted()
  const [a] = world.hosts
  world.hub.partition((host) => (host === 'h0' ? 1 : 0))
  await world.until('halted', () => a.cluster!.status === 'halted')
  const late = (await answer(world, a, (cluster) => cluster.propose(create('late')))) as SheepError
  t.is(late.code, 'halted')
  let value: unknown = null
  void a
    .ask((cluster) => cluster.propose(create('in-time')))
    .then((one) => {
      value = one
    })
  await world.pass(5_000)
  t.is(value, null)
  world.hub.partition(() => 0)
  await world.until('the answer', () => value !== null)
  t.false(value instanceof SheepError)
  await world.until('one state', () => world.hosts.every(({ cluster }) => [...cluster!.registry.all()].length === 1))
})

test('stopping refuses what is under way', async (t) => {
  const world = await new World(4, 3, true).formatted()
  const [a] = world.hosts
  world.hub.partition((host) => (host === 'h0' ? 1 : 0))
  await world.until('halted', () => a.cluster!.status === 'halted')
  let value: unknown = null
  void a
    .ask((cluster) => cluster.propose(create('never')))
    .then((one) => {
      value = one
    })
  await world.pass(100)
  a.process!.enter(() => void a.cluster!.stop())
  await world.until('the answer', () => value !== null)
  t.is((value as SheepError).code, 'shutting-down')
  t.is(a.cluster!.status, 'stopped')
})

test('confirm: of a member that is in, and of one that was expelled without knowing', async (t) => {
  const world = await new World(5, 3, false).formatted()
  const [a, b] = world.hosts
  t.is(await answer(world, b, (cluster) => cluster.confirm()), undefined as never)
  b.process!.pause()
  const expel: ClusterCommand = {
    type: 'expel',
    node: b.cluster!.self.id,
    epoch: a.cluster!.epoch!.number,
    reason: 'hung',
  }
  await answer(world, a, (cluster) => cluster.propose(expel))
  const departed = () => a.cluster!.departed.map(({ node, epoch, reason, detail }) => [node.id, epoch, reason, detail])
  t.deepEqual(departed(), [[b.cluster!.self.id, a.cluster!.epoch!.number, 'expelled', 'hung']])
  let outcome: unknown = null
  b.process!.resume()
  void b
    .ask((cluster) => cluster.confirm())
    .then((value) => {
      outcome = value ?? 'confirmed'
    })
  await world.until('the outcome', () => outcome !== null)
  t.true(outcome instanceof SheepError, 'it was out when its message came')
  await world.until('all in again', () => world.allAre('running') && a.cluster!.epoch!.nodes.length === 3)
  t.deepEqual(departed(), [], 'it is back')
})

test('disks that go and come are in the epoch that begins with them', async (t) => {
  const world = await new World(6, 2, false).formatted()
  const [a, b] = world.hosts
  const { space } = b.cluster!.self
  const told = async (lost: boolean, plugged: boolean) => {
    await answer(world, b, (cluster) => cluster.propose({ type: 'disks', space, lost, plugged }))
    const { number, nodes } = a.cluster!.epoch!
    const node = nodes.find(({ id }) => id === b.cluster!.self.id)!
    return [node.lost, node.plugged].map((epoch) => (epoch === undefined ? null : epoch - number))
  }
  t.deepEqual(await told(false, false), [null, null])
  t.deepEqual(await told(true, false), [0, null])
  t.deepEqual(await told(false, true), [-1, 0])
  t.deepEqual(await told(true, true), [0, 0])
})

test('an epoch is announced when this disk would bring it back after a power cut', async (t) => {
  let checked = 0
  for (let seed = 0; seed < 12; seed++) {
    const world = await new World(100 + seed, 3, seed % 2 === 0).formatted()
    let victim: Host | null = null
    let number = 0
    world.onEpoch = (host, current) => {
      if (victim !== null || !world.random.chance(0.4)) return
      victim = host
      number = current.number
      host.process!.die()
      host.disk.powerLoss()
      world.hub.processDied()
    }
    const gone = world.hosts[seed % 3]
    gone.crash(false)
    await world.pass(3_000)
    gone.start()
    await world.pass(3_000)
    if (victim === null) continue
    checked++
    ;(victim as Host).start()
    await world.until('running again', () => world.allAre('running'))
    t.true((victim as Host).cluster!.history.some((record) => record.number === number))
    t.true((victim as Host).disk.content(`epoch/${String(number).padStart(8, '0')}`) !== null)
  }
  t.true(checked > 4)
})

test('of two nodes one stands still: what its own disk is enough to confirm is what the others have, too', async (t) => {
  for (let seed = 0; seed < 24; seed++) {
    const world = await new World(300 + seed, 3, true).formatted()
    const [a, b, c] = world.hosts
    /** Epoch -> what took effect under this number anywhere */
    const effective = new Map<number, string>()
    let isResumed = false
    world.onEpoch = (host, { number, nodes }) => {
      const line = nodes.map(({ id }) => id).join()
      t.is(effective.get(number) ?? line, line, `epoch ${number} at ${host.name}, seed ${seed}`)
      effective.set(number, line)
      if (!isResumed || host !== b) return
      t.true(a.cluster?.history.some((record) => record.number === number) ?? true, 'those who went on have it')
    }
    c.crash(false)
    await world.until('two nodes', () => [a, b].every(({ cluster }) => cluster!.epoch!.nodes.length === 2))
    const { number } = a.cluster!.epoch!
    // Before it can have said that it has the next one, or in the middle of that
    const early = seed % 4 < 2
    if (early) b.process!.pause()
    c.start()
    await world.pass(early ? 4000 : world.random.exponential(30))
    if (early) t.is(a.cluster!.epoch!.number, number, 'an epoch waits for all of the former one')
    else b.process!.pause()
    await world.pass(500)
    world.hub.partition((host) => (host === 'h1' ? 1 : 0))
    await world.until('they go on', () => [a, c].every(({ cluster }) => cluster!.status === 'running'))
    const went = a.cluster!.epoch!.number
    t.true(went > number)
    if (seed % 2 === 1) {
      for (const host of [a, c]) host.crash(true)
    }
    isResumed = true
    b.process!.resume()
    await world.pass(2000)
    t.not(b.cluster!.status, 'running', 'no quorum')
    isResumed = false
    if (seed % 2 === 1) {
      for (const host of [a, c]) host.start()
      await world.until('they start', () => [a, c].every(({ cluster }) => cluster?.status === 'running'))
      t.true(a.cluster!.epoch!.number > went)
    }
    world.hub.partition(() => 0)
    await world.until('one cluster', () => {
      return world.allAre('running') && world.hosts.every(({ cluster }) => cluster!.epoch!.nodes.length === 3)
    })
    for (const record of b.epochs) {
      const own = a.cluster!.history.find(({ number: one }) => one === record.number)
      t.deepEqual(own?.nodes, record.nodes, `epoch ${record.number} of the one that stood still`)
    }
  }
})

test('exclusive: never two at once, and nobody is left out, whoever dies inside', async (t) => {
  for (let seed = 0; seed < 8; seed++) {
    const world = await new World(200 + seed, 4, false).formatted()
    let inside: Host | null = null
    let runs = 0
    const operation = (host: Host) => async (): Promise<void> => {
      t.true(inside === null || !inside.process?.alive, 'one at a time')
      inside = host
      const { clock } = host.cluster!.options
      await new Promise<void>((resolve) => clock.after(world.random.exponential(20), resolve))
      t.is(inside, host)
      inside = null
      runs++
    }
    const loop = (host: Host): void => {
      const { cluster } = host
      void host
        .ask((one) => one.exclusive(operation(host)))
        .then((outcome) => {
          if (outcome instanceof SheepError) t.fail(outcome.message)
          if (cluster === host.cluster) loop(host)
        })
    }
    for (const host of world.hosts) loop(host)
    for (let round = 0; round < 6; round++) {
      await world.pass(200)
      const victim = round % 2 === 0 && inside !== null ? (inside as Host) : world.hosts[world.random.below(4)]
      victim.crash(false)
      await world.pass(100)
      victim.start()
      await world.until('all in again', () => world.allAre('running'))
      loop(victim)
    }
    t.true(runs > 10, `seed ${seed}: ${runs} operations`)
  }
})

/** Crashes, power cuts, partitions under load; then everybody must have one state with all that was acknowledged. */
async function storm(t: ExecutionContext, seed: number, hasQuorum: boolean): Promise<void> {
  const world = await new World(seed, hasQuorum ? 5 : 4, hasQuorum).formatted()
  const { random, hosts } = world
  const acknowledged = new Set<string>()
  let names = 0
  for (let step = 0; step < 60; step++) {
    const host = hosts[random.below(hosts.length)]
    const dice = random.below(20)
    if (dice < 2) {
      if (host.cluster === null) host.start()
      else host.crash(random.chance(0.5))
    } else if (dice < 3) {
      for (const one of hosts) if (random.chance(0.6)) one.crash(random.chance(0.7))
    } else if (dice < 5) {
      for (const one of hosts) if (one.cluster === null) one.start()
    } else if (dice < 6 && hasQuorum) {
      const sides = random.below(32)
      world.hub.partition((name) => (random.chance(0.3) ? 0 : (sides >> Number(name.slice(1))) & 1))
    } else if (dice < 7 && hasQuorum) {
      world.hub.partition(() => 0)
    } else {
      const name = `v${++names}`
      void host
        .ask((cluster) => cluster.propose(create(name), random.chance(0.5)))
        .then((outcome) => {
          if (outcome !== null && !(outcome instanceof SheepError)) acknowledged.add(name)
        })
    }
    await world.pass(random.exponential(60))
  }
  if (hasQuorum) world.hub.partition(() => 0)
  for (const host of hosts) if (host.cluster === null || host.cluster.status === 'stopped') host.crash(false)
  for (const host of hosts) if (host.cluster === null) host.start()
  const whole = (): boolean => hosts.every(({ cluster }) => cluster?.epoch?.nodes.length === hosts.length)
  await world.until('all run', () => world.allAre('running') && whole())
  await world.pass(25_000)
  const registries = new Set(hosts.map(({ cluster }) => JSON.stringify(cluster!.registry)))
  t.is(registries.size, 1, `seed ${seed}: one registry`)
  const present = new Set([...hosts[0].cluster!.registry.all()].map((entry) => entry.name))
  for (const name of acknowledged) t.true(present.has(name), `seed ${seed}: ${name} was acknowledged and is lost`)
  t.true(acknowledged.size > 0 || names === 0)
}

const seeds = Number(process.env.SHEEP_SEEDS ?? 20)

test('storms without partitions', async (t) => {
  for (let seed = 0; seed < seeds; seed++) await storm(t, 1000 + seed, false)
})

test('storms with partitions and quorum', async (t) => {
  for (let seed = 0; seed < seeds; seed++) await storm(t, 2000 + seed, true)
})
