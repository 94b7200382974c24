import test from 'ava'
import type { Link, LinkHandler, Network } from '../../lib/host/interfaces.js'
import { Scheduler } from './clock.js'
import { SimNetwork } from './network.js'
import { Process } from './process.js'
import { SimRandom } from './random.js'
import { Trace, Verdict } from './trace.js'

interface Peer {
  process: Process
  network: Network
  received: number[]
  closed: string[]
  links: Link[]
  handler: LinkHandler
}

function rig(seed: number) {
  const scheduler = new Scheduler(new Trace(false))
  const verdict = new Verdict()
  const network = new SimNetwork(scheduler, new SimRandom(seed), verdict, {
    latency: 0.2,
    spikeChance: 0.1,
    spike: 20,
    timeout: 5000,
  })
  const peer = (name: string): Peer => {
    const process = new Process(name, scheduler, verdict, () => {})
    const made: Peer = {
      process,
      network: network.attach(process, name),
      received: [],
      closed: [],
      links: [],
      handler: {
        message: (_link, bytes, _header, payloadOffset, length) => {
          made.received.push(length === 4 ? bytes.readUInt32LE(payloadOffset) : -1)
        },
        closed: (_link, reason) => made.closed.push(reason),
      },
    }
    return made
  }
  const a = peer('a')
  const b = peer('b')
  const header = Buffer.alloc(48)
  const send = (link: Link, number: number) => {
    const payload = Buffer.alloc(4)
    payload.writeUInt32LE(number)
    link.send(header, payload, 0, 4)
    payload.fill(0xff) // the bytes were taken over
  }
  const run = (ms: number) => scheduler.run(() => false, scheduler.now + ms, 1_000_000)
  const listen = () =>
    b.network.listen({ host: 'b', port: 7000 }, (link) => {
      b.links.push(link)
      return b.handler
    })
  return { scheduler, verdict, network, a, b, send, run, listen }
}

const numbers = (count: number) => Array.from({ length: count }, (_, i) => i)

test('a link is ordered, also for what was sent before it stood', async (t) => {
  for (let seed = 0; seed < 30; seed++) {
    const r = rig(seed)
    await r.listen()
    const link = r.a.network.connect({ host: 'b', port: 7000 }, r.a.handler)
    for (let i = 0; i < 100; i++) r.send(link, i)
    t.is(link.backlog, 100 * 52)
    await r.run(1000)
    t.deepEqual(r.b.received, numbers(100))
    t.is(link.backlog, 0)
    for (let i = 0; i < 10; i++) r.send(r.b.links[0], i)
    link.close()
    await r.run(1000)
    t.deepEqual(r.a.received, [], 'nothing after its own close')
    t.deepEqual(r.a.closed, ['closed'])
    t.deepEqual(r.b.closed, ['closed by peer'])
  }
})

test('different links do not wait for each other', async (t) => {
  let overtook = false
  for (let seed = 0; seed < 30 && !overtook; seed++) {
    const r = rig(seed)
    await r.listen()
    const first = r.a.network.connect({ host: 'b', port: 7000 }, r.a.handler)
    const second = r.a.network.connect({ host: 'b', port: 7000 }, r.a.handler)
    await r.run(100)
    r.send(first, 1)
    r.send(second, 2)
    await r.run(100)
    overtook = r.b.received[0] === 2
  }
  t.true(overtook)
})

test('nobody listens: refused', async (t) => {
  const r = rig(1)
  r.a.network.connect({ host: 'b', port: 7000 }, r.a.handler)
  await r.run(1000)
  t.deepEqual(r.a.closed, ['connection refused'])
})

test('a one-way cut stalls that direction only, and heals in order', async (t) => {
  for (let seed = 0; seed < 20; seed++) {
    const r = rig(seed)
    await r.listen()
    const link = r.a.network.connect({ host: 'b', port: 7000 }, r.a.handler)
    await r.run(100)
    r.network.cut('a', 'b')
    for (let i = 0; i < 20; i++) r.send(link, i)
    r.send(r.b.links[0], 99)
    await r.run(1000)
    t.deepEqual(r.b.received, [])
    t.deepEqual(r.a.received, [99])
    r.network.heal('a', 'b')
    await r.run(1000)
    t.deepEqual(r.b.received, numbers(20))
    await r.run(60_000)
    t.deepEqual(r.a.closed, [])
  }
})

test('a cut that lasts times out at both ends', async (t) => {
  const r = rig(5)
  await r.listen()
  r.a.network.connect({ host: 'b', port: 7000 }, r.a.handler)
  await r.run(100)
  r.network.cut('a', 'b')
  await r.run(60_000)
  t.deepEqual(r.a.closed, ['connection timed out'])
  t.deepEqual(r.b.closed, ['connection timed out'])
})

test('of what was under way when its sender died a prefix arrives', async (t) => {
  const counts = new Set<number>()
  for (let seed = 0; seed < 60; seed++) {
    const r = rig(seed)
    await r.listen()
    const link = r.a.network.connect({ host: 'b', port: 7000 }, r.a.handler)
    await r.run(100)
    for (let i = 0; i < 5; i++) r.send(link, i)
    r.a.process.die()
    r.network.processDied(r.a.process)
    await r.run(1000)
    t.deepEqual(r.b.received, numbers(r.b.received.length))
    t.is(r.b.closed.length, 1)
    counts.add(r.b.received.length)
  }
  t.is(counts.size, 6)
})

test('a stopped process takes nothing, then everything in order', async (t) => {
  const r = rig(9)
  await r.listen()
  const link = r.a.network.connect({ host: 'b', port: 7000 }, r.a.handler)
  await r.run(100)
  r.b.process.pause()
  for (let i = 0; i < 50; i++) r.send(link, i)
  await r.run(10_000)
  t.deepEqual(r.b.received, [])
  r.b.process.resume()
  r.send(link, 50)
  await r.run(1000)
  t.deepEqual(r.b.received, numbers(51))
})

test('a receive buffer is no longer there after the call, unless it was retained', async (t) => {
  const r = rig(2)
  const looks: Buffer[] = []
  const releases: (() => void)[] = []
  await r.b.network.listen({ host: 'b', port: 7000 }, () => ({
    message: (_link, bytes, _header, offset, length, hold) => {
      looks.push(bytes.subarray(offset, offset + length))
      if (looks.length === 2) {
        hold.retain()
        releases.push(() => hold.release())
      }
    },
    closed: () => {},
  }))
  const link = r.a.network.connect({ host: 'b', port: 7000 }, r.a.handler)
  r.send(link, 1)
  r.send(link, 2)
  await r.run(1000)
  t.is(looks[0].readUInt32LE(0), 0xdbdbdbdb)
  t.is(looks[1].readUInt32LE(0), 2)
  releases[0]()
  t.is(looks[1].readUInt32LE(0), 0xdbdbdbdb)
  releases[0]()
  t.is(r.verdict.violation?.kind, 'hold')
})
