/**
 * Which nodes hold an object: consistent hashing. Every node has `vnodes` points on a circle of 2^40 positions; an object goes to
 * the first `copies` nodes clockwise of its own position that lie in different zones. A pure function of the node list and the oid.
 *
 * The two hashes below are facts of data at rest: changing either moves every object of every cluster.
 * test/unit/placement pins them.
 *
 * - position(high, low): a four-round Feistel network over two 32-bit halves, whose round function is MurmurHash3's 32-bit finaliser
 *   (github.com/aappleby/smhasher, MurmurHash3.cpp, fmix32). It is a bijection of 64 bits; the position is its upper 40.
 * - an object: high and low are the halves of the in-memory oid (kind * 2^48 + vid * 2^24 + index).
 * - point k of a node: high and low + k are the halves of the 64-bit FNV-1a hash of the node id's UTF-8 bytes.
 *
 * Points are kept sorted as position * 2^13 + rank in one Float64Array (53 bits: exact), rank being the node's place by id, so that
 * equal positions have an order that does not depend on who lists the nodes how. A table over the position's upper bits replaces
 * most of the binary search, and each point's replica list is made once: a lookup allocates nothing.
 */
import { assert } from '../assert.js'
import type { NodeInfo } from '../cluster/types.js'
import type { Oid } from '../vdi/oid.js'

/** Highest number of copies of an object. */
export const MAX_COPIES = 31

/** Nodes that a ring can tell apart: the rank's 13 bits. */
export const MAX_NODES = 8192

/** Points of one node. Its share of the data strays from its weight by about 1 / sqrt(vnodes). */
export const MAX_VNODES = 16384

/** Points of a node of average size: a share within some 4% of the fair one, and 16,384 points in a cluster of 32. */
export const TYPICAL_VNODES = 512

const RANK_SPAN = MAX_NODES

/** Two 32-bit halves of a position: the upper one whole, the next 8 bits. Module state, so that a lookup allocates nothing. */
let upper = 0
let next8 = 0

function finalise(h: number): number {
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b)
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35)
  return h ^ (h >>> 16)
}

/** Sets `upper` and `next8`. */
function hash(high: number, low: number): void {
  low ^= finalise(high + 0x9e3779b9)
  high ^= finalise(low + 0x3c6ef372)
  low ^= finalise(high + 0xdaa66d2b)
  high ^= finalise(low + 0x78dde6e4)
  upper = high >>> 0
  next8 = low >>> 24
}

/** 40-bit position of two 32-bit halves: for tests and for those who want to check a placement by hand. */
export function position(high: number, low: number): number {
  hash(high, low)
  return upper * 256 + next8
}

/** 64-bit FNV-1a of the id's UTF-8 bytes as [high, low]. Offset basis and prime: wire-protocol.md, "vid". */
function hashOfNode(id: string): [number, number] {
  let h = 0xcbf29ce484222325n
  for (const byte of Buffer.from(id, 'utf8')) h = ((h ^ BigInt(byte)) * 0x100000001b3n) & 0xffffffffffffffffn
  return [Number(h >> 32n), Number(h & 0xffffffffn)]
}

/**
 * Points for a node that offers `space` bytes and joins `present`, so that points per byte are the same everywhere; 0 for a
 * gateway-only node. The first node gets TYPICAL_VNODES.
 */
export function vnodesForSpace(space: number, present: readonly NodeInfo[]): number {
  if (space <= 0) return 0
  let points = 0
  let bytes = 0
  for (const node of present) {
    if (node.vnodes === 0 || node.space <= 0) continue
    points += node.vnodes
    bytes += node.space
  }
  const wanted = bytes === 0 ? TYPICAL_VNODES : Math.round((space * points) / bytes)
  return Math.min(Math.max(wanted, 1), MAX_VNODES)
}

export class Ring {
  /** Nodes with vnodes, by id. */
  readonly nodes: readonly NodeInfo[]
  /** Different zones among them: no object has more replicas than this. */
  readonly zones: number
  private readonly points: Float64Array
  /** firstPoint[b]: the first point whose upper 32 bits, shifted, are b or more. */
  private readonly firstPoint: Uint32Array
  private readonly shift: number
  private readonly zoneOf: Uint32Array
  /** lists[copies][point], made when first asked for */
  private readonly lists: (readonly NodeInfo[] | undefined)[][] = []
  private readonly none: readonly NodeInfo[] = []

  /** `nodes` in any order; ids must differ. */
  constructor(nodes: readonly NodeInfo[]) {
    this.nodes = nodes.filter((node) => node.vnodes > 0).sort((a, b) => (a.id < b.id ? -1 : a.id > b.id ? 1 : 0))
    assert(this.nodes.length <= MAX_NODES, `a ring holds at most ${MAX_NODES} nodes`)
    const zoneNumbers = new Map<string, number>()
    let total = 0
    for (const [rank, node] of this.nodes.entries()) {
      assert(rank === 0 || this.nodes[rank - 1].id !== node.id, `node ids differ: ${node.id}`)
      assert(Number.isInteger(node.vnodes) && node.vnodes <= MAX_VNODES, `vnodes of ${node.id} within limits`)
      if (!zoneNumbers.has(node.zone)) zoneNumbers.set(node.zone, zoneNumbers.size)
      total += node.vnodes
    }
    this.zones = zoneNumbers.size
    this.zoneOf = Uint32Array.from(this.nodes, (node) => zoneNumbers.get(node.zone) as number)

    this.points = new Float64Array(total)
    let at = 0
    for (const [rank, node] of this.nodes.entries()) {
      const [high, low] = hashOfNode(node.id)
      for (let k = 0; k < node.vnodes; k++) this.points[at++] = position(high, (low + k) >>> 0) * RANK_SPAN + rank
    }
    this.points.sort()

    let bits = 1
    while (2 ** bits < total && bits < 20) bits++
    this.shift = 32 - bits
    this.firstPoint = new Uint32Array(2 ** bits)
    const bucketSpan = 2 ** (this.shift + 8) * RANK_SPAN
    let point = 0
    for (let bucket = 0; bucket < this.firstPoint.length; bucket++) {
      while (point < total && this.points[point] < bucket * bucketSpan) point++
      this.firstPoint[bucket] = point
    }
  }

  /**
   * Nodes that hold `oid`, in ring order: the first is preferred where one must be chosen. `copies` of them, or one for each zone
   * when there are fewer zones. Answers of one place on the
   * ring are one array, so that callers may key a cache by it; they must not change it.
   */
  replicas(oid: Oid, copies: number): readonly NodeInfo[] {
    if (this.points.length === 0) return this.none
    hash((oid / 0x100000000) >>> 0, oid >>> 0)
    const wanted = (upper * 256 + next8) * RANK_SPAN
    let point = this.firstPoint[upper >>> this.shift]
    while (point < this.points.length && this.points[point] < wanted) point++
    if (point === this.points.length) point = 0
    return this.lists[copies]?.[point] ?? this.listAt(point, copies)
  }

  private listAt(point: number, copies: number): readonly NodeInfo[] {
    assert(Number.isInteger(copies) && copies >= 1 && copies <= MAX_COPIES, `1 to ${MAX_COPIES} copies, not ${copies}`)
    const wanted = Math.min(copies, this.zones)
    const list: NodeInfo[] = []
    const zones: number[] = []
    for (let step = 0; list.length < wanted; step++) {
      assert(step < this.points.length, 'every zone has a point on the ring')
      const rank = this.points[(point + step) % this.points.length] % RANK_SPAN
      if (zones.includes(this.zoneOf[rank])) continue
      zones.push(this.zoneOf[rank])
      list.push(this.nodes[rank])
    }
    this.lists[copies] ??= new Array(this.points.length)
    this.lists[copies][point] = list
    return list
  }
}
