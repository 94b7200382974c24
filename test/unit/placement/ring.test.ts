import test from 'ava'
import fc from 'fast-check'
import type { NodeInfo } from '../../../lib/cluster/types.js'
import { MAX_VNODES, position, Ring, TYPICAL_VNODES, vnodesForSpace } from '../../../lib/placement/ring.js'
import { dataOid, inodeOid, type Oid } from '../../../lib/vdi/oid.js'

function node(number: number, zone = `zone-${number}`, vnodes = TYPICAL_VNODES): NodeInfo {
  const id = (number * 0x9e3779b9 + 0x1234567).toString(16).padStart(16, '0')
  return { id, name: `n${number}`, host: '127.0.0.1', port: 7000 + number, zone, space: vnodes * 1e9, vnodes }
}

function nodes(count: number): NodeInfo[] {
  return Array.from({ length: count }, (_, i) => node(i))
}

function oids(count: number): Oid[] {
  return Array.from({ length: count }, (_, i) => dataOid(1 + (i % 7) * 1000003, Math.floor(i / 7)))
}

/** The definition, read aloud: every point of every node, sorted, walked from the object's position. */
function plainReplicas(list: readonly NodeInfo[], oid: Oid, copies: number): string[] {
  const points: { position: number; id: string; zone: string }[] = []
  for (const { id, zone, vnodes } of list) {
    let h = 0xcbf29ce484222325n
    for (const byte of Buffer.from(id)) h = ((h ^ BigInt(byte)) * 0x100000001b3n) % 2n ** 64n
    for (let k = 0; k < vnodes; k++) {
      points.push({ position: position(Number(h >> 32n), (Number(h % 2n ** 32n) + k) % 2 ** 32), id, zone })
    }
  }
  points.sort((a, b) => a.position - b.position || (a.id < b.id ? -1 : 1))
  const start = position(Math.floor(oid / 2 ** 32), oid % 2 ** 32)
  const clockwise = [...points.filter((p) => p.position >= start), ...points.filter((p) => p.position < start)]
  const chosen: { id: string; zone: string }[] = []
  for (const point of clockwise) if (!chosen.some((c) => c.zone === point.zone)) chosen.push(point)
  return chosen.slice(0, copies).map((c) => c.id)
}

const clusters = fc
  .array(fc.record({ zone: fc.integer({ min: 0, max: 4 }), vnodes: fc.integer({ min: 0, max: 40 }) }), { maxLength: 9 })
  .map((list) => list.map(({ zone, vnodes }, i) => node(i, `z${zone}`, vnodes)))
const anyOid = fc.oneof(
  fc.tuple(fc.integer({ min: 1, max: 0xffffff }), fc.integer({ min: 0, max: 0xfffff })).map(([v, i]) => dataOid(v, i)),
  fc.integer({ min: 1, max: 0xffffff }).map(inodeOid),
)

test('the hash is a fact of data at rest: these positions and placements never change', (t) => {
  const ones = 0xffffffff
  const positions = [position(0, 0), position(1, 0), position(0, 1), position(ones, ones)]
  t.deepEqual(positions, [320720712512, 62216083778, 569578480991, 222501054787])
  const ring = new Ring(nodes(5))
  const placed = [dataOid(1, 0), dataOid(1, 1), dataOid(0xabcdef, 77), inodeOid(1), inodeOid(0xffffff)].map((oid) =>
    ring
      .replicas(oid, 3)
      .map((n) => n.name)
      .join(' '),
  )
  t.deepEqual(placed, ['n2 n4 n1', 'n3 n1 n2', 'n1 n3 n2', 'n0 n2 n1', 'n2 n1 n4'])
})

test('replicas are what the definition says', (t) => {
  fc.assert(
    fc.property(clusters, anyOid, fc.integer({ min: 1, max: 6 }), (list, oid, copies) => {
      const actual = new Ring(list).replicas(oid, copies).map((n) => n.id)
      t.deepEqual(actual, plainReplicas(list, oid, copies))
    }),
    { numRuns: 500 },
  )
})

test('different zones, as many as there are, never a gateway-only node', (t) => {
  fc.assert(
    fc.property(clusters, anyOid, fc.integer({ min: 1, max: 31 }), (list, oid, copies) => {
      const replicas = new Ring(list).replicas(oid, copies)
      const zones = new Set(list.filter((n) => n.vnodes > 0).map((n) => n.zone))
      t.is(replicas.length, Math.min(copies, zones.size))
      t.is(new Set(replicas.map((n) => n.zone)).size, replicas.length)
      t.true(replicas.every((n) => n.vnodes > 0))
    }),
  )
})

test('who lists the nodes how does not matter, and fewer copies are a prefix of more', (t) => {
  fc.assert(
    fc.property(clusters, anyOid, fc.integer(), (list, oid, seed) => {
      const shuffled = list.map((n, i) => [Math.imul(seed, i + 1) >>> 7, n] as const).sort((a, b) => a[0] - b[0])
      const one = new Ring(list)
      const other = new Ring(shuffled.map(([, n]) => n))
      t.deepEqual(one.replicas(oid, 3), other.replicas(oid, 3))
      t.deepEqual(one.replicas(oid, 2), one.replicas(oid, 3).slice(0, 2))
    }),
  )
})

test('repeated lookups answer the same array', (t) => {
  const ring = new Ring(nodes(4))
  for (const oid of oids(50)) t.is(ring.replicas(oid, 3), ring.replicas(oid, 3))
})

test('data is spread by weight', (t) => {
  const list = [node(1, 'a', 256), node(2, 'b', 512), node(3, 'c', 1024), node(4, 'd', 512), node(5, 'e', 1024)]
  const ring = new Ring(list)
  const held = new Map<string, number>()
  const sample = oids(100_000)
  for (const oid of sample) {
    const { name } = ring.replicas(oid, 1)[0]
    held.set(name, (held.get(name) ?? 0) + 1)
  }
  for (const { name, vnodes } of list) {
    const fair = (sample.length * vnodes) / 3328
    const share = (held.get(name) ?? 0) / fair
    t.true(share > 0.85 && share < 1.15, `${name} holds ${share.toFixed(3)} of its fair share`)
  }
})

test('with 3 copies on 8 equal nodes none holds more than 12% above the average', (t) => {
  const ring = new Ring(nodes(8))
  const held = new Map<string, number>()
  for (const oid of oids(60_000))
    for (const { name } of ring.replicas(oid, 3)) held.set(name, (held.get(name) ?? 0) + 1)
  for (const [name, count] of held) t.true(count < 22_500 * 1.12, `${name}: ${count}`)
})

test('consecutive objects and consecutive vids are spread evenly (chi-squared)', (t) => {
  for (const make of [(i: number) => dataOid(5, i), (i: number) => inodeOid(1 + i), (i: number) => dataOid(1 + i, 0)]) {
    const buckets = new Array(256).fill(0)
    for (let i = 0; i < 25_600; i++) {
      const oid = make(i)
      buckets[Math.floor(position(Math.floor(oid / 2 ** 32), oid % 2 ** 32) / 2 ** 32)]++
    }
    const chi = buckets.reduce((sum, n) => sum + (n - 100) ** 2 / 100, 0)
    t.true(chi > 170 && chi < 350, `255 degrees of freedom: ${chi}`)
  }
})

test('a flipped bit of the input flips every bit of the position half of the time', (t) => {
  const flips = new Array(40).fill(0)
  let trials = 0
  for (let i = 0; i < 400; i++) {
    const high = Math.imul(i + 1, 0x2545f491) >>> 0
    const low = Math.imul(i + 7, 0x6c078965) >>> 0
    const base = position(high, low)
    for (let bit = 0; bit < 64; bit++) {
      const flipped =
        bit < 32 ? position(high, (low ^ (1 << bit)) >>> 0) : position((high ^ (1 << (bit - 32))) >>> 0, low)
      trials++
      for (let out = 0; out < 40; out++) {
        if (Math.floor(base / 2 ** out) % 2 !== Math.floor(flipped / 2 ** out) % 2) flips[out]++
      }
    }
  }
  for (const [bit, count] of flips.entries())
    t.true(Math.abs(count / trials - 0.5) < 0.02, `bit ${bit}: ${count / trials}`)
})

test('adding one node to n moves about 1/(n+1) of the data, all of it to the new node', (t) => {
  for (const n of [3, 8, 16]) {
    const before = new Ring(nodes(n))
    const after = new Ring(nodes(n + 1))
    let moved = 0
    const sample = oids(20_000)
    for (const oid of sample) {
      const from = before.replicas(oid, 1)[0]
      const to = after.replicas(oid, 1)[0]
      if (from.id === to.id) continue
      t.is(to.name, `n${n}`)
      moved++
    }
    const share = (moved / sample.length) * (n + 1)
    t.true(share > 0.85 && share < 1.15, `${n} nodes: moved ${share.toFixed(3)} of 1/(n+1)`)
  }
})

test('with copies, a node that leaves is replaced and the others keep what they have', (t) => {
  const before = new Ring(nodes(6))
  const after = new Ring(nodes(6).filter((n) => n.name !== 'n2'))
  for (const oid of oids(5000)) {
    const kept = before.replicas(oid, 3).filter((n) => n.name !== 'n2')
    const now = after.replicas(oid, 3)
    t.true(kept.every((n) => now.some((m) => m.id === n.id)))
    t.is(now.length, 3)
  }
})

test('no nodes, and gateway-only nodes: nobody holds anything', (t) => {
  t.deepEqual(new Ring([]).replicas(dataOid(1, 1), 3), [])
  t.deepEqual(new Ring([node(1, 'a', 0)]).replicas(dataOid(1, 1), 3), [])
})

test('two nodes of one id, too many points, no copies: broken invariants', (t) => {
  t.throws(() => new Ring([node(1), node(1)]), { message: /ids differ/ })
  t.throws(() => new Ring([node(1, 'a', MAX_VNODES + 1)]), { message: /vnodes/ })
  t.throws(() => new Ring(nodes(2)).replicas(dataOid(1, 1), 0), { message: /copies/ })
  t.throws(() => new Ring(nodes(2)).replicas(dataOid(1, 1), 32), { message: /copies/ })
})

test('vnodes follow the space that others offer', (t) => {
  t.is(vnodesForSpace(0, []), 0)
  t.is(vnodesForSpace(4e12, []), TYPICAL_VNODES)
  const present = [{ ...node(1), space: 1e12, vnodes: 512 }, { ...node(2), space: 3e12, vnodes: 1536 }, node(3, 'g', 0)]
  t.is(vnodesForSpace(2e12, present), 1024)
  t.is(vnodesForSpace(1, present), 1)
  t.is(vnodesForSpace(1e18, present), MAX_VNODES)
})

test('a million lookups a second for 32 nodes', (t) => {
  const ring = new Ring(nodes(32))
  const sample = oids(20_000)
  let seen = 0
  for (const oid of sample) seen += ring.replicas(oid, 3).length
  let best = 0
  // Many short rounds: on a busy machine some of them run undisturbed
  for (let round = 0; round < 50; round++) {
    const start = process.hrtime.bigint()
    for (const oid of sample) seen += ring.replicas(oid, 3).length
    best = Math.max(best, sample.length / (Number(process.hrtime.bigint() - start) / 1e9))
  }
  t.log(`${(best / 1e6).toFixed(1)} million lookups a second`)
  t.is(seen, 51 * 3 * sample.length)
  t.true(best > 1e6, `${best} lookups a second`)
})
