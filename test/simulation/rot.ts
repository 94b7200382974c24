/**
 * Bits that turn over at rest, and sectors that cannot be read any more, when all is calm: in objects that their hosts hold for quiet, on any hosts, but never in one
 * chunk on all of its replicas. Then perhaps a host is away for a while, so that recovery copies from what has rotted. Afterwards
 * every read must be right, and once all nodes have scrubbed, every disk.
 */
import { CHUNKS, sumOf } from '../../lib/store/checksums.js'
import { decodeChecksums } from '../../lib/store/header.js'
import { type Oid, oidFromHex, oidToHex } from '../../lib/vdi/oid.js'
import { FILE_HEADER } from './audit.js'
import type { Host } from './host.js'
import type { SimRandom } from './random.js'
import type { World } from './world.js'

const FLIPS_MAX = 20

export class Rot {
  flips = 0

  constructor(
    readonly world: World,
    readonly random: SimRandom,
  ) {}

  private get living(): Host[] {
    return this.world.hosts.filter((host) => !host.buried)
  }

  /** Turns bits over; how many. */
  flip(): number {
    const { random, world } = this
    const oids = [...this.resting()]
    for (let i = random.between(1, FLIPS_MAX); i > 0 && oids.length > 0; i--) {
      const [oid, holders] = random.pick(oids)
      if (holders.length < 2) continue
      const whole = holders.filter((host) => this.wholeChunks(host, oid).length > 0)
      if (whole.length < 2) continue
      const chunks = this.wholeChunks(whole[0], oid).filter((chunk) =>
        whole.every((host) => this.wholeChunks(host, oid).includes(chunk)),
      )
      if (chunks.length === 0) continue
      const chunk = random.pick(chunks)
      const spared = random.pick(whole)
      for (const host of whole) {
        if (host === spared || random.chance(0.4)) continue
        const disk = host.diskWith(pathOf(oid))
        const file = disk?.file(pathOf(oid)) ?? null
        const { shift } = this.sumsOf(host, oid) as { shift: number }
        const byte = chunk * 2 ** shift + random.below(2 ** shift)
        if (disk === null || file === null) continue
        if (random.chance(0.3)) {
          if (!disk.spoil(file, FILE_HEADER + byte)) continue
          world.log(`${host.name}: byte ${byte} of ${oidToHex(oid)} cannot be read any more`)
        } else {
          if (!disk.flipBit(file, FILE_HEADER + byte, random.below(8))) continue
          world.log(`${host.name}: a bit of ${oidToHex(oid)} turns over in byte ${byte}`)
        }
        this.flips++
      }
    }
    return this.flips
  }

  /** A host that dies and returns; 'nothing' as often. */
  trouble(): void {
    const { random, world } = this
    if (random.chance(0.5)) return
    const host = random.pick(this.living)
    if (random.chance(0.5)) host.kill(0)
    else host.cutPower()
    world.scheduler.after(random.exponential(3000), () => host.start())
  }

  startScrubs(): void {
    for (const host of this.living) host.process?.enter(() => host.sheep?.startScrub())
  }

  get scrubbing(): boolean {
    return this.living.some((host) => host.sheep === null || host.sheep.scrubbing())
  }

  /** Objects that are quiet wherever they are. */
  private resting(): Map<Oid, Host[]> {
    const found = new Map<Oid, Host[]>()
    const restless = new Set<Oid>()
    for (const host of this.living) {
      for (const path of host.usedDisks.flatMap((disk) => disk.paths())) {
        const name = /^obj\/[0-9a-f]{2}\/([0-9a-f]{16})$/.exec(path)?.[1]
        if (name === undefined) continue
        const oid = oidFromHex(name)
        if (host.sheep?.resting(oid) !== true || this.sumsOf(host, oid) === null) restless.add(oid)
        const holders = found.get(oid)
        if (holders) holders.push(host)
        else found.set(oid, [host])
      }
    }
    for (const oid of restless) found.delete(oid)
    return found
  }

  private sumsOf(host: Host, oid: Oid): ReturnType<typeof decodeChecksums> {
    const content = host.diskWith(pathOf(oid))?.content(pathOf(oid)) ?? null
    return content === null ? null : decodeChecksums(content.subarray(0, 512), oid)
  }

  /** Chunks that are in the file and match their checksums. */
  private wholeChunks(host: Host, oid: Oid): number[] {
    const content = host.diskWith(pathOf(oid))?.content(pathOf(oid)) ?? null
    const sums = this.sumsOf(host, oid)
    if (content === null || sums === null) return []
    const found: number[] = []
    const size = 2 ** sums.shift
    for (let chunk = 0; chunk < CHUNKS; chunk++) {
      const bytes = content.subarray(FILE_HEADER + chunk * size, FILE_HEADER + (chunk + 1) * size)
      if (bytes.length === size && sums.sums[chunk] !== 0 && sumOf(bytes) === sums.sums[chunk]) found.push(chunk)
    }
    return found
  }
}

/** On the disk that has it. */
export function pathOf(oid: Oid): string {
  const name = oidToHex(oid)
  return `obj/${name.slice(-2)}/${name}`
}
