/** What a world is like: drawn from the seed once, printed at the top of a trace. */
import type { DiskShape } from './disk.js'
import type { EngineShape } from './engine.js'
import type { NetworkShape } from './network.js'
import type { SimRandom } from './random.js'

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

/** Faults that a `local` engine cannot meet: its daemons share a kernel. */
const ACROSS_HOSTS: readonly FaultKind[] = ['isolate', 'partition', 'one-way', 'power', 'bury']

export function shapeOf(random: SimRandom): Shape {
  const hasQuorum = random.chance(0.75)
  const hosts = random.pick([3, 3, 4, 4, 5, 6])
  const zones = random.chance(0.8) ? hosts : random.between(3, hosts)
  const allowed = FAULTS.filter((kind) => hasQuorum || !ACROSS_HOSTS.includes(kind))
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
