import test, { type ExecutionContext } from 'ava'
import fc from 'fast-check'
import type { ClusterCommand } from '../../../lib/cluster/types.js'
import { Bus, type Host } from './bus.js'

const CLUSTER = '00000000000000c1'
const format: ClusterCommand = {
  type: 'format',
  clusterId: CLUSTER,
  copies: 3,
  blockSizeShift: 22,
  force: false,
}

function create(name: string): ClusterCommand {
  const fields = { size: 1 << 30, copies: 3, blockSizeShift: 22, parent: 0, preallocated: false }
  return { type: 'vdi', command: { op: 'create', name, ...fields } }
}

function formatted(count: number, hasQuorum = false): Bus {
  const bus = new Bus(hasQuorum, count)
  for (const host of bus.hosts) bus.start(host)
  bus.settle()
  bus.hosts[0].member!.propose(format)
  bus.settle()
  return bus
}

function sameEverywhere(t: ExecutionContext, bus: Bus, nodes = bus.members.length): void {
  const states = bus.members.map((member) => JSON.stringify(timeless(member.state!.toJSON())))
  for (const member of bus.members) t.is(member.standing.status, 'running', `${member.id}: ${member.standing.reason}`)
  t.is(new Set(states).size, 1, 'all have the same state')
  t.is(bus.members[0].state!.history.epoch.nodes.length, nodes)
}

/** An epoch's time is each member's own. */
function timeless(value: unknown): unknown {
  return JSON.parse(JSON.stringify(value, (key, field) => (key === 'time' ? 0 : field)))
}

test('nobody formatted: all wait, then format makes epoch 1 of everybody', (t) => {
  const bus = new Bus(false, 3)
  for (const host of bus.hosts) bus.start(host)
  bus.settle()
  for (const member of bus.members) t.is(member.standing.status, 'waiting-for-format')
  const proposal = bus.hosts[1].member!.propose(format)
  bus.settle()
  t.is(proposal.state, 'done')
  t.is(proposal.error, null)
  sameEverywhere(t, bus, 3)
  t.is(bus.members[0].state!.history.epoch.number, 1)
})

test('format twice is refused, with force it starts anew with a higher epoch', (t) => {
  const bus = formatted(2)
  const again = bus.hosts[1].member!.propose(format)
  bus.settle()
  t.is(again.error?.code, 'exists')
  const forced = bus.hosts[1].member!.propose({ ...format, clusterId: '00000000000000c2', force: true })
  bus.settle()
  t.is(forced.error, null)
  sameEverywhere(t, bus, 2)
  const { history } = bus.members[0].state!
  t.is(history.config.clusterId, '00000000000000c2')
  t.is(history.epoch.number, 2)
})

test('vnodes follow the space, whatever the order of joining; a gateway has none', (t) => {
  const bus = new Bus(false, 4)
  const [small, large, later, gateway] = bus.hosts
  large.info.space = 2000
  gateway.info.space = 0
  bus.start(small)
  bus.settle()
  small.member!.propose(format)
  bus.settle()
  for (const host of [large, gateway, later]) {
    bus.start(host)
    bus.settle()
  }
  sameEverywhere(t, bus, 4)
  const vnodes = bus.members[0].state!.history.epoch.nodes.map((node) => node.vnodes)
  t.deepEqual(vnodes, [128, 256, 128, 0])
})

test('vnodes stay as they were at the first join', (t) => {
  const bus = formatted(2)
  bus.crash(bus.hosts[1])
  bus.settle()
  bus.hosts[1].info.space *= 10
  bus.start(bus.hosts[1])
  bus.settle()
  sameEverywhere(t, bus, 2)
  t.deepEqual(
    bus.members[0].state!.history.epoch.nodes.map((node) => node.vnodes),
    [128, 128],
  )
})

test('a cold start waits for all nodes of the newest epoch and says for whom', (t) => {
  const bus = formatted(3)
  for (const host of bus.hosts) bus.crash(host)
  bus.start(bus.hosts[0])
  bus.start(bus.hosts[2])
  bus.settle()
  for (const { standing } of bus.members) {
    t.is(standing.status, 'waiting-for-nodes')
    t.regex(standing.reason, /n1 \(h1:7000/)
    t.deepEqual(
      standing.missing.map((node) => node.name),
      ['n1'],
    )
  }
  bus.start(bus.hosts[1])
  bus.settle()
  sameEverywhere(t, bus, 3)
  t.is(bus.members[0].state!.history.epoch.number, 2)
})

test('with quorum a cold start waits for more than half of the newest epoch', (t) => {
  const bus = formatted(3, true)
  for (const host of bus.hosts) bus.crash(host)
  bus.start(bus.hosts[0])
  bus.settle()
  t.is(bus.members[0].standing.status, 'waiting-for-nodes')
  bus.start(bus.hosts[1])
  bus.settle()
  sameEverywhere(t, bus, 2)
})

test('force-start goes on without the missing nodes', (t) => {
  const bus = formatted(3)
  for (const host of bus.hosts) bus.crash(host)
  bus.start(bus.hosts[0])
  bus.settle()
  const forced = bus.hosts[0].member!.propose({ type: 'force-start' })
  bus.settle()
  t.is(forced.state, 'done')
  sameEverywhere(t, bus, 1)
})

test('a node that went on while the cluster was started without it is refused, with what to do', (t) => {
  const bus = formatted(2)
  bus.crash(bus.hosts[1])
  bus.settle()
  bus.crash(bus.hosts[0])
  bus.start(bus.hosts[1])
  bus.settle()
  t.is(bus.hosts[1].member!.standing.status, 'waiting-for-nodes')
  bus.forced = true
  bus.hosts[1].member!.propose({ type: 'force-start' })
  bus.settle()
  t.is(bus.hosts[1].member!.standing.status, 'running')
  bus.start(bus.hosts[0])
  bus.settle()
  t.is(bus.hosts[0].refused?.code, 'join-failed')
  t.regex(bus.hosts[0].refused!.hint, /dog cluster recover/)
  sameEverywhere(t, bus, 1)
})

test('the newest state wins a cold start', (t) => {
  const bus = formatted(3)
  bus.crash(bus.hosts[0])
  bus.settle()
  bus.hosts[1].member!.propose(create('late'))
  bus.settle()
  for (const host of bus.hosts) if (host.member) bus.crash(host)
  for (const host of bus.hosts) bus.start(host)
  bus.settle()
  sameEverywhere(t, bus, 3)
  t.truthy(bus.members[0].state!.registry.pending('late') ?? [...bus.members[0].state!.registry.all()][0])
})

test('a store of another cluster is refused', (t) => {
  const bus = formatted(2)
  const other = new Bus(false, 1)
  other.start(other.hosts[0])
  other.settle()
  other.members[0].propose({ ...format, clusterId: '00000000000000c2' })
  other.settle()
  bus.crash(bus.hosts[1])
  bus.hosts[1].disk = other.hosts[0].disk
  bus.start(bus.hosts[1])
  bus.settle()
  t.is(bus.hosts[1].refused?.code, 'join-failed')
  t.regex(bus.hosts[1].refused!.message, /belongs to cluster 00000000000000c2/)
  sameEverywhere(t, bus, 1)
})

test('two daemons with one node id: the second is refused, the first goes on', (t) => {
  const bus = formatted(3)
  bus.crash(bus.hosts[2])
  bus.settle()
  bus.hosts[2].info.id = bus.hosts[1].info.id
  bus.start(bus.hosts[2])
  bus.settle()
  t.regex(bus.hosts[2].refused!.message, /in use by another running daemon/)
  sameEverywhere(t, bus, 2)
})

test('two unformatted daemons with one node id: one of them is refused', (t) => {
  const bus = new Bus(false, 2)
  bus.hosts[1].info.id = bus.hosts[0].info.id
  for (const host of bus.hosts) bus.start(host)
  bus.settle()
  t.is(bus.members.length, 1)
  t.is(bus.hosts[1].refused?.code, 'join-failed')
})

test('an expelled member comes back by itself, with the locks of its former life gone', (t) => {
  const bus = formatted(3)
  const [a, , c] = bus.members
  c.propose({ type: 'exclusive-enter', token: 'held' })
  bus.settle()
  t.is(a.state!.exclusive[0]?.token, 'held')
  const { number } = a.state!.history.epoch
  a.propose({ type: 'expel', node: c.host.info.id, epoch: number, reason: 'it does not answer' })
  const stale = a.propose({ type: 'expel', node: c.host.info.id, epoch: number, reason: 'again' })
  const statuses: string[] = []
  for (let at = 0; at < 50; at++) {
    for (const member of bus.members) {
      bus.order(member)
      member.deliver()
      member.work()
    }
    statuses.push(c.standing.status)
  }
  t.true(statuses.includes('expelled'))
  bus.settle()
  t.is(stale.error?.code, 'not-found')
  sameEverywhere(t, bus, 3)
  t.is(a.state!.history.epoch.number, number + 2)
  t.deepEqual(a.state!.exclusive, [])
})

test('the only node cannot be expelled, nor can an accusation of an old epoch', (t) => {
  const bus = formatted(2)
  const [a, b] = bus.members
  const old = a.propose({ type: 'expel', node: b.host.info.id, epoch: 7, reason: 'test' })
  bus.settle()
  t.is(old.error?.code, 'busy')
  bus.crash(b.host)
  bus.settle()
  const { number } = a.state!.history.epoch
  const self = a.propose({ type: 'expel', node: a.host.info.id, epoch: number, reason: 'test' })
  bus.settle()
  t.is(self.error?.code, 'invalid')
})

test('shutdown: the epoch keeps all nodes, so the next start waits for all', (t) => {
  const bus = formatted(3)
  bus.members[0].propose({ type: 'shutdown' })
  bus.settle()
  for (const host of bus.hosts) {
    bus.crash(host)
    if (bus.members.length > 0) bus.settle()
  }
  bus.start(bus.hosts[0])
  bus.settle()
  t.is(bus.members[0].standing.missing.length, 2)
})

test('a minority halts, applies nothing, and comes back to what the majority did', (t) => {
  const bus = formatted(5, true)
  bus.part((host) => (host.number < 2 ? 1 : 0))
  bus.settle()
  const [a, , c] = bus.members
  t.is(a.standing.status, 'halted')
  t.is(c.standing.status, 'running')
  const waits = a.propose(create('minority'))
  const done = c.propose(create('majority'))
  bus.settle()
  t.is(waits.state, 'waiting')
  t.is(done.state, 'done')
  t.is(a.state!.history.epoch.number, 1)
  bus.part(() => 0)
  bus.settle()
  t.is(waits.state, 'done', 'what waited goes on')
  sameEverywhere(t, bus, 5)
  t.is([...c.state!.registry.all()].length, 2)
})

test('nobody has a majority: all go on where they were when they meet again, with their claims', (t) => {
  const bus = formatted(4, true)
  const [a] = bus.members
  a.propose({ type: 'exclusive-enter', token: 'kept' })
  bus.settle()
  bus.part((host) => host.number % 2)
  bus.settle()
  for (const member of bus.members) t.is(member.standing.status, 'halted')
  bus.part(() => 0)
  bus.settle()
  sameEverywhere(t, bus, 4)
  t.is(a.state!.history.epoch.number, 1, 'nobody left, so there is no new epoch')
  t.is(a.state!.exclusive[0]?.token, 'kept')
})

test('a hung member hinders no newcomer', (t) => {
  const bus = formatted(3)
  const hung = bus.hosts[0].member!
  hung.deliver = () => false
  hung.work = () => undefined
  bus.crash(bus.hosts[2])
  bus.start(bus.hosts[2])
  bus.settle()
  t.is(bus.hosts[2].member!.standing.status, 'running')
})

// Random schedules

type Step = [kind: number, who: number, what: number]

/** `kind` in thousandths: mostly ordering, delivering and writing; sometimes something happens. */
function happens(bus: Bus, [kind, who, what]: Step, names: Set<string>): void {
  const host: Host = bus.hosts[who % bus.hosts.length]
  const { member } = host
  bus.steps++
  if (kind < 45) {
    if (member === null) bus.start(host)
  } else if (kind < 52) {
    if (member !== null) bus.crash(host)
  } else if (kind < 56) {
    for (const one of bus.hosts) if (one.member !== null && (what % 3 === 0 || (what >> one.number) & 1)) bus.crash(one)
  } else if (kind < 80 && bus.hasQuorum) {
    bus.part((one) => (what % 4 === 0 ? 0 : (what >> one.number) & 1))
  } else if (member === null) {
    return
  } else if (kind < 110) {
    const { state } = member
    const target = bus.hosts[what % bus.hosts.length].info.id
    if (state) member.propose({ type: 'expel', node: target, epoch: state.history.epoch.number, reason: 'random' })
  } else if (kind < 170) {
    const name = `v${names.size}`
    names.add(name)
    member.propose(create(name), bus.hasQuorum || what % 2 === 0)
  } else if (kind < 190) {
    member.propose({ type: what % 2 === 0 ? 'exclusive-enter' : 'exclusive-leave', token: `t${what % 5}` })
  } else if (kind < 220) {
    for (const name of ['again', 'sponsor'] as const) member.fire(name)
  } else if (kind < 480) {
    for (let more = (what % 4) + 1; more > 0; more--) bus.order(member)
  } else if (kind < 840) {
    for (let more = (what % 6) + 1; more > 0 && member.alive; more--) member.deliver()
  } else if (kind < 900) {
    member.write()
  } else {
    member.work()
  }
}

/** mulberry32: a whole schedule from one number, so that a failure is one number too. */
function dice(seed: number): (below: number) => number {
  let state = seed
  return (below) => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below
  }
}

function property(hasQuorum: boolean, hosts: number) {
  return fc.property(fc.nat(), fc.integer({ min: 50, max: 1200 }), (seed, length) => {
    const roll = dice(seed)
    const bus = new Bus(hasQuorum, hosts, () => hasQuorum && roll(2) === 0)
    const names = new Set<string>()
    for (const host of bus.hosts) if (host.number !== 1) bus.start(host)
    bus.settle()
    bus.members[0].propose(format)
    bus.settle()
    for (let at = 0; at < length; at++) {
      happens(bus, [roll(1000), roll(64), roll(256)], names)
      bus.check()
    }
    heal(bus)
    const registry = bus.members[0].state!.registry
    const present = new Set([...registry.all()].map((entry) => entry.name))
    for (const one of bus.acknowledged) {
      if (one.type !== 'vdi' || one.command.op !== 'create' || present.has(one.command.name)) continue
      throw new Error(`${one.command.name} was acknowledged and is lost`)
    }
  })
}

/** Everybody starts and meets: all must come to run with one state. */
function heal(bus: Bus): void {
  if (bus.hasQuorum) bus.part(() => 0)
  for (const host of bus.hosts) if (host.member === null) bus.start(host)
  bus.settle()
  const states = new Set<string>()
  for (const host of bus.hosts) {
    const { member } = host
    if (member === null) throw new Error(`node ${host.number} was refused: ${host.refused?.message}`)
    if (member.standing.status !== 'running') {
      throw new Error(`${member.id} is ${member.standing.status}: ${member.standing.reason}`)
    }
    states.add(JSON.stringify(timeless(member.state!.toJSON())))
  }
  if (states.size !== 1) throw new Error('they differ')
  const nodes = bus.members[0].state!.history.epoch.nodes.length
  if (nodes !== bus.hosts.length) throw new Error(`only ${nodes} nodes are in the epoch`)
}

/** More: SHEEP_RUNS=5000 SHEEP_SEED=1 npx ava dist/test/unit/cluster/membership.test.js --match='any*' */
const runs = Number(process.env.SHEEP_RUNS ?? 150)
const seed = Number(process.env.SHEEP_SEED ?? 20_261_122)

function holds(t: ExecutionContext, schedule: ReturnType<typeof property>): void {
  const { failed, counterexample, errorInstance } = fc.check(schedule, { numRuns: runs, seed })
  const reason = errorInstance instanceof Error ? errorInstance.stack : String(errorInstance)
  t.false(failed, `schedule ${counterexample?.join(' of length ')}: ${reason}`)
}

test('any schedule without partitions: one state, one line of epochs, nothing acknowledged is lost', (t) => {
  holds(t, property(false, 4))
})

test('any schedule with partitions and quorum: the same', (t) => {
  holds(t, property(true, 5))
})
