/** What a world is like: drawn from the seed once, printed at the top of a trace. */
import type { DiskShape } from './disk.js'
import type { EngineShape } from './engine.js'
import type { NetworkShape } from './network.js'
import { SimRandom } from './random.js'

export interface Shape {
  hosts: number
  zones: number
  copies: number
  blockSizeShift: number
  /** Hosts, the last ones, that offer no disk: gateways only */
  gateways: number
  volumes: number
  /** Chance, at each step of a volume's client, that its lock is broken or migrates */
  takeovers: number
  /** Simulated ms of work under faults */
  duration: number
  /** Simulated ms between the last recovery and the look at the disks: deletions end, intents are dropped */
  settle: number
  /** Mean between two faults, ms */
  faultEvery: number
  /** Kinds of faults that this world has */
  faults: FaultKind[]
  /** Disks may become full */
  tight: boolean
  engine: EngineShape
  network: NetworkShape
  disk: DiskShape
  /** ms that requests wait without quorum before they fail; 0: for ever. Each second volume waits for ever in any case */
  onNoQuorum: number
  /** Of each host */
  disks: number
  /** All that hold some object may go at once, for good; '' not */
  disasters: '' | 'hosts' | 'disks'
  /** Clients copy by reading and writing, and what is equal comes to be shared */
  copying: boolean
}

export const FAULTS = [
  'kill',
  'stop',
  'power',
  'power-all',
  'pause',
  'isolate',
  'partition',
  'one-way',
  'break-link',
  'slow-disk',
  'bury',
] as const

/** Of worlds whose hosts have several disks */
export const DISK_FAULTS = ['disk-dies', 'disk-error', 'disk-away', 'disk-crowded', 'unplug'] as const

export type FaultKind = (typeof FAULTS)[number] | (typeof DISK_FAULTS)[number] | 'drain'

/** Faults that a `local` engine cannot meet: its daemons share a kernel. Were they parted, both sides would go on. */
const ACROSS_HOSTS: readonly FaultKind[] = ['isolate', 'partition', 'one-way', 'power', 'bury']

/** Those that can happen where the engine has quorum, or has none. */
function possible<T extends FaultKind>(faults: readonly T[], hasQuorum: boolean): T[] {
  return faults.filter((kind) => hasQuorum || !ACROSS_HOSTS.includes(kind))
}

/** '', or why there can be no such world. */
export function impossible({ engine, faults }: Shape): string {
  const across = faults.filter((kind) => !engine.hasQuorum && ACROSS_HOSTS.includes(kind))
  return across.length > 0 ? `daemons of one host cannot meet ${across.join(', ')}` : ''
}

/** What a seed's world is like unless something is forced. */
export function seedsShape(seed: number): Shape {
  return shapeOf(new SimRandom(seed, 0x5eed).split())
}

export function shapeOf(random: SimRandom): Shape {
  const hasQuorum = random.chance(0.75)
  const hosts = random.pick([3, 3, 4, 4, 5, 6])
  const zones = random.chance(0.8) ? hosts : random.between(3, hosts)
  const allowed = possible(FAULTS, hasQuorum)
  // Some worlds know one kind of trouble only, so that it meets the others' absence, too.
  const faults = random.chance(0.3) ? [random.pick(allowed)] : allowed.filter(() => random.chance(0.6))
  const shape: Shape = {
    hosts,
    zones,
    copies: random.pick([1, 2, 2, 3, 3, 3]),
    blockSizeShift: 16,
    volumes: random.between(1, 2),
    takeovers: 0.04,
    duration: random.between(10_000, 40_000),
    settle: 30_000,
    faultEvery: random.pick([1000, 3000, 6000]),
    faults,
    tight: false,
    engine: { hasQuorum, latency: random.pick([0.1, 0.5]), tokenTimeout: random.pick([200, 1000]) },
    network: {
      latency: random.pick([0.05, 0.3]),
      spikeChance: random.pick([0, 0.01, 0.05]),
      spike: random.pick([5, 50]),
      timeout: random.pick([3000, 8000]),
    },
    disk: {
      capacity: 256 << 20,
      latency: random.pick([0.05, 0.5]),
      syncLatency: random.pick([0.5, 5]),
      inline: random.pick([0, 0.5, 0.95]),
    },
    gateways: hosts >= 4 && random.chance(0.25) ? 1 : 0,
    disks: 1,
    onNoQuorum: 0,
    copying: false,
    disasters: '',
  }
  // Drawn last, so that the other worlds are what they were before there were several disks.
  if (random.chance(0.3)) {
    shape.disks = random.pick([2, 2, 3])
    shape.faults = [...shape.faults, ...DISK_FAULTS.filter(() => random.chance(0.6))]
  }
  // After all others, for the same reason.
  if (hosts - shape.gateways > shape.copies && random.chance(0.15)) shape.faults = [...shape.faults, 'drain']
  if (hasQuorum && random.chance(0.3)) shape.onNoQuorum = random.pick([20, 200, 2000])
  shape.copying = random.chance(0.3)
  return shape
}

/** A zone for each host, and all have disks. */
const APART = { zones: 9, gateways: 0 }

/**
 * Worlds that the ordinary ones seldom come near: few copies and few kinds of faults, which then meet again and again; many hosts; much
 * that is only a gateway.
 */
const HARD: readonly ((random: SimRandom) => Partial<Shape> & Pick<Shape, 'faults'>)[] = [
  (random) => ({
    ...{ copies: 2, disks: random.between(2, 3) },
    faults: ['disk-dies', 'disk-dies', 'kill', 'isolate'],
  }),
  (random) => ({
    ...{ copies: 2, disks: random.between(2, 3), faultEvery: random.pick([300, 1000, 3000]) },
    faults: ['disk-dies', 'disk-error', 'disk-away', 'unplug', 'kill', 'pause', 'power', 'stop'],
  }),
  (random) => ({ copies: 2, faultEvery: random.pick([300, 1000]), faults: ['partition', 'isolate', 'kill', 'power'] }),
  (random) => ({ copies: 2, faultEvery: random.pick([300, 1000]), faults: ['power', 'kill', 'one-way', 'break-link'] }),
  (random) => ({ copies: 1, faultEvery: random.pick([300, 1000]), faults: ['kill', 'isolate', 'pause', 'power-all'] }),
  (random) => ({
    ...{ copies: 3, disks: random.between(2, 3) },
    faults: ['disk-dies', 'disk-dies', 'disk-error', 'kill', 'isolate', 'power'],
  }),
  // Each object is everywhere
  (random) => ({
    ...{ ...APART, hosts: 3, copies: 3, disks: 2, faultEvery: random.pick([1000, 3000]) },
    faults: ['disk-dies', 'disk-away', 'disk-error', 'kill', 'power-all', 'power', 'pause'],
  }),
  (random) => ({
    ...{ ...APART, hosts: 6, gateways: 3, copies: random.pick([1, 2, 3]), disks: 2 },
    faults: ['disk-dies', 'kill', 'isolate', 'pause', 'power', 'partition'],
  }),
  (random) => ({
    ...{ ...APART, hosts: random.between(7, 9), copies: random.pick([2, 3]), volumes: 3 },
    faults: ['kill', 'isolate', 'partition', 'power', 'pause', 'stop', 'bury', 'drain'],
  }),
  (random) => ({
    ...{ copies: 2, disks: 2, takeovers: 0.3, copying: true },
    faults: random.shuffle(['disk-dies', 'kill', 'pause', 'isolate', 'power']).slice(0, 2) as FaultKind[],
  }),
]

function hardShape(seed: number): Partial<Shape> {
  const random = new SimRandom(seed, 0x4a4d)
  const { engine } = seedsShape(seed)
  const forced = random.pick(HARD)(random)
  return { ...forced, faults: possible(forced.faults, engine.hasQuorum) }
}

/** So many hosts that the rest still has quorum when all that hold an object are gone. */
function lossyShape(seed: number): Partial<Shape> {
  const random = new SimRandom(seed, 0x1055e)
  const { engine, faults } = seedsShape(seed)
  const copies = random.pick([1, 1, 2, 2, 2, 3])
  return {
    ...{ disasters: 'hosts', copies, hosts: 2 * copies + random.between(1, 2), zones: 9, gateways: 0, disks: 1 },
    engine: { ...engine, hasQuorum: true },
    faults: random.chance(0.3) ? [] : faults.filter((kind) => kind !== 'bury'),
  }
}

/** All disks that hold an object are gone at once, and their hosts go on with the others. */
function spoiltShape(seed: number): Partial<Shape> {
  const random = new SimRandom(seed, 0xd15c)
  const { engine, faults } = seedsShape(seed)
  const copies = random.pick([1, 2, 2, 2, 3])
  return {
    ...{ disasters: 'disks', copies, hosts: random.between(copies, copies + 3), zones: 9, gateways: 0 },
    ...{ disks: random.pick([2, 2, 3]), engine },
    faults: random.chance(0.3) ? [] : faults.filter((kind) => kind !== 'bury'),
  }
}

/** Hosts lose their power while those of their clients do not, and few have what was written. */
function powerShape(seed: number): Partial<Shape> {
  const random = new SimRandom(seed, 0x90e4)
  const { engine } = seedsShape(seed)
  const copies = random.pick([1, 1, 2])
  return {
    ...{ copies, hosts: random.between(4, 6), zones: 9, gateways: random.between(1, 2), disks: 1 },
    engine: { ...engine, hasQuorum: true },
    ...{
      faultEvery: random.pick([300, 1000, 3000]),
      faults: random.pick([['power'], ['power', 'power', 'kill', 'isolate']]),
    },
  }
}

/** Disks of hosts that go on are taken out and plugged in again, with what they held when they went. */
function pluggedShape(seed: number): Partial<Shape> {
  const random = new SimRandom(seed, 0x9106)
  const { engine } = seedsShape(seed)
  const faults: FaultKind[] = random.pick([
    ['unplug'],
    ['unplug', 'disk-away'],
    ['unplug', 'unplug', 'kill', 'pause'],
    ['unplug', 'disk-dies', 'disk-error', 'stop'],
    ['unplug', 'disk-away', 'power-all', 'isolate', 'drain'],
  ])
  return {
    ...{ copies: random.pick([2, 2, 3]), hosts: random.between(3, 5), ...APART, disks: random.pick([2, 2, 3]), engine },
    faultEvery: random.pick([300, 1000, 3000]),
    faults: possible(faults, engine.hasQuorum),
  }
}

/** What is forced upon each seed's own shape. */
export const WORLDS = {
  ordinary: (_seed: number): Partial<Shape> => ({}),
  hard: hardShape,
  lossy: lossyShape,
  spoilt: spoiltShape,
  power: powerShape,
  plugged: pluggedShape,
}

export type Worlds = keyof typeof WORLDS
