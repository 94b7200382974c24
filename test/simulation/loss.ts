/**
 * Disasters: all that hold some object are gone at once, hosts or disks of hosts that go on, and an administrator gives up what was lost (`dog cluster lost
 * --accept`). Until then nobody may read anything else in its place; afterwards what is left of it counts, or zeros, the same for all, and
 * stays so when some of what was gone returns. What was not lost must be as if nothing had happened.
 *
 * All this is drawn from a stream of its own, in worlds that have disasters.
 */
import type { LostObject } from '../../lib/control/services.js'
import { SheepError } from '../../lib/errors.js'
import { Ring } from '../../lib/placement/ring.js'
import { dataOid, inodeOid, KIND_DATA, KIND_INODE, kindOf, type Oid, oidFromHex } from '../../lib/vdi/oid.js'
import type { VdiEntry } from '../../lib/vdi/types.js'
import { FILE_HEADER, INODE_INDEX } from './audit.js'
import type { Lineage } from './checker.js'
import { diskPath, type Host } from './host.js'
import { SimRandom } from './random.js'
import { pathOf } from './rot.js'
import { stampOf } from './stamps.js'
import type { Actor } from './workload.js'
import type { World } from './world.js'

/** A list that is as long may leave out some (lib/node/lost.ts). */
const NAMES_MAX = 4

/** What a disaster takes: a disk, or with `disk` null the whole host. */
interface Part {
  host: Host
  disk: number | null
}

/** Which objects have all their copies where something went, or where they may not have been. */
interface Disaster {
  ring: Ring
  /** Ids of nodes */
  gone: ReadonlySet<string>
  /** Of which a copy is left that nobody doubts, unless unflushed writes are lost as well */
  safe: ReadonlySet<Oid>
  powerLosses: number
}

export class Loss {
  readonly random: SimRandom
  /** Objects that were given up */
  given = 0
  readonly #disasters: Disaster[] = []
  /** Taken by a disaster */
  #gone: Part[] = []
  #strikes: number
  #administration: Promise<void> = Promise.resolve()
  /** Something may be lost that nobody has given up yet */
  #open = false

  constructor(readonly world: World) {
    this.random = new SimRandom(world.seed, 0x1055)
    this.#strikes = world.shape.disasters !== '' ? this.random.between(1, 2) : 0
  }

  /** Asked by the planner at each of its steps. */
  step(): void {
    const { random, world } = this
    if (this.#strikes === 0 || this.#open || !random.chance(0.2)) return
    // Now and then amid other trouble: then whoever is in trouble may not have had the others' writes yet. Not where disks go: the only
    // copy left of an index may be such a host's.
    if (!world.planner.calm() && (world.shape.disasters === 'disks' || !random.chance(0.1))) return
    const holders = this.#someHolders()
    if (holders === null) return
    this.#strikes--
    this.#open = true
    this.#strike(holders)
    this.#administration = this.#administer()
  }

  /** Everything that was lost has been given up, or is back. */
  settled(): Promise<void> {
    return this.#administration
  }

  get isOpen(): boolean {
    return this.#open
  }

  /** A request for these bytes of a volume may fail: what it needs may be lost. */
  mayFail(entry: VdiEntry, position: number, length: number): boolean {
    if (!this.#open) return false
    const size = 2 ** entry.blockSizeShift
    for (let i = Math.floor(position / size); i * size < position + length; i++) {
      const owners = [entry.vid, ...this.#ownersOf(entry.vid, i)]
      if (owners.some((vid) => this.#mayBeLost(dataOid(vid, i)))) return true
    }
    return false
  }

  #mayBeLost(oid: Oid): boolean {
    const { copies } = this.world.shape
    return this.#disasters.some(({ ring, gone, safe, powerLosses }) => {
      if (safe.has(oid) && this.world.workload.powerLosses === powerLosses) return false
      return ring.replicas(oid, copies).every(({ id }) => gone.has(id))
    })
  }

  /** As any copy of the VDI's index says, wherever it is. */
  #ownersOf(vid: number, index: number): number[] {
    const path = pathOf(inodeOid(vid))
    const found: number[] = []
    for (const disk of this.world.hosts.flatMap((host) => host.disks)) {
      const at = FILE_HEADER + INODE_INDEX + index * 4
      const inode = disk.content(path)
      if (inode !== null && inode.length >= at + 4) found.push(inode.readUInt32LE(at))
    }
    return found.filter((owner) => owner !== 0)
  }

  /** Who or what holds some object of the data, and can go: the others still have quorum, and all VDIs' indexes. Null: there is none. */
  #someHolders(): Part[] | null {
    const { hosts, shape } = this.world
    const living = hosts.filter((host) => !host.buried && host.serving)
    const holders = this.#holders(living)
    const oids = [...holders.keys()].sort((a, b) => a - b)
    const members = new Set(living[0]?.sheep?.cluster.epoch?.nodes.map(({ name }) => name))
    // Enough for quorum, and to start without the others.
    const enough = (without: readonly Part[]) => {
      if (shape.disasters === 'disks') return without.every(isSpare)
      const left = hosts.filter((host) => !host.buried && !without.some((part) => part.host === host))
      // Who does not serve may be about to be left out.
      const sure = left.filter((host) => host.serving && members.has(host.name))
      return left.length * 2 > hosts.length && sure.length * 2 > members.size
    }
    const candidates = oids
      .filter((oid) => kindOf(oid) === KIND_DATA)
      .map((oid) => holders.get(oid) as Part[])
      .filter((gone) => gone.length === shape.copies && enough(gone) && indexesAreLeft(holders, gone))
    return candidates.length === 0 ? null : this.random.pick(candidates)
  }

  /** Where each object is. */
  #holders(living: readonly Host[]): Map<Oid, Part[]> {
    const whole = this.world.shape.disasters === 'hosts'
    const holders = new Map<Oid, Part[]>()
    for (const host of living) {
      for (const disk of host.usedDisks) {
        const part = { host, disk: whole ? null : host.disks.indexOf(disk) }
        for (const path of disk.paths()) {
          const name = /^obj\/[0-9a-f]{2}\/([0-9a-f]{16})$/.exec(path)?.[1]
          if (name === undefined) continue
          const oid = oidFromHex(name)
          holders.set(oid, [...(holders.get(oid) ?? []), part])
        }
      }
    }
    return holders
  }

  #strike(parts: readonly Part[]): void {
    const { random, world } = this
    const nodes = world.hosts.find((host) => host.serving)?.sheep?.cluster.epoch?.nodes ?? []
    const doubted = [...world.planner.doubted(), ...parts.map(({ host }) => host)]
    const idOf = (host: Host) => nodes.find(({ name }) => name === host.name)?.id ?? ''
    const disaster = { ring: new Ring(nodes), gone: new Set(doubted.map(idOf)), safe: new Set<Oid>() }
    const holders = this.#holders(world.hosts)
    // A copy on another disk of a host that loses power as well is worth nothing.
    const withPower =
      random.chance(0.5) && (world.shape.disasters === 'hosts' || indexesAreLeft(holders, wholeHosts(parts)))
    if (world.shape.disasters === 'disks') {
      for (const [oid, where] of holders) if (isLeft(where, parts)) disaster.safe.add(oid)
      const how = withPower ? 'power' : random.pick(['dies', 'away'] as const)
      world.log(`disaster: ${parts.map(({ host, disk }) => `${host.name} ${diskPath(disk as number)}`)}: ${how}`)
      for (const { host, disk } of parts) world.planner.takeDisk(host, disk as number, how)
    } else {
      world.log(`disaster: ${parts.map(({ host }) => host.name)} ${withPower ? 'burn down' : 'fall silent'}`)
      for (const { host } of parts) world.planner.takeAway(host, withPower)
    }
    if (withPower) world.workload.powerLoss()
    this.#disasters.push({ ...disaster, powerLosses: world.workload.powerLosses - (withPower ? 1 : 0) })
    this.#gone.push(...parts)
  }

  async #administer(): Promise<void> {
    const { random, world } = this
    await world.sleep(random.exponential(random.pick([2000, 20_000])))
    // It counts if it is back before anything is given up.
    if (random.chance(0.2) && this.#isNoticed()) this.#bringBack([random.pick(this.#gone)])
    for (;;) {
      await world.sleep(random.exponential(1000))
      if (!world.planner.standing()) continue
      const known = new Set(this.#lineages(({ taking }) => taking === null))
      const lost = await this.#ask('cluster lost', (sheep) => sheep.lost())
      if (lost === null || !world.planner.standing()) continue
      if (lost.some(({ index, deleting, reason }) => index < 0 && !deleting && reason !== 'unreadable'))
        this.#spare(lost)
      else if (lost.length > 0) await this.#giveUp(lost, known)
      else if (world.planner.calm() && this.#isNoticed()) break
      // As in World
      else if (world.workload.closing) await world.planner.throttle.release()
    }
    world.log('nothing is lost any more')
    this.#open = false
    this.#disasters.length = 0
    if (random.chance(0.6)) this.#bringBack(this.#gone.filter(() => random.chance(0.7)))
  }

  /** Without its index a volume is no more, and what it referred to is unknown. Who went amid other trouble may have been all that knew it. */
  #spare(lost: readonly LostObject[]): void {
    if (this.#gone.length > 0) this.#bringBack([...this.#gone])
    else this.world.verdict.report('lost', `${JSON.stringify(lost)} are listed as lost, and everything is back`)
  }

  /** By the daemons. */
  #isNoticed(): boolean {
    const uses = ({ host, disk }: Part) => disk !== null && host.sheep?.workingDisks().includes(diskPath(disk))
    return !this.#gone.some(uses)
  }

  #lineages(among: (actor: Actor) => boolean = () => true): Lineage[] {
    return this.world.workload.actors.filter(among).flatMap((actor) => actor.lineages())
  }

  /** `known`: those whose names the list has if they refer to what is lost */
  async #giveUp(lost: readonly LostObject[], known: ReadonlySet<Lineage>): Promise<void> {
    const { random, world } = this
    for (const one of lost) {
      // What nobody has of a volume that goes was perhaps removed.
      if (!one.deleting && !this.#mayBeLost(oidFromHex(one.oid))) {
        world.verdict.report('lost', `${JSON.stringify(one)} is listed as lost, and cannot be`)
        return
      }
      // Whoever asks for it would wait for ever, and nobody could say for what.
      if (!one.deleting && one.reason === 'nobody') {
        world.verdict.report('lost', `${JSON.stringify(one)} went with something, and nobody knows`)
        return
      }
    }
    const chosen = random.chance(0.3) ? lost.filter(() => random.chance(0.5)) : lost
    if (chosen.length === 0) return
    const zeros = random.chance(0.3)
    const ends = chosen.map((one) => ({ one, settle: this.#doubt(one, zeros, known) }))
    const accepted = await this.#ask('cluster lost --accept', (sheep) =>
      sheep.acceptLost(
        chosen.map(({ oid }) => oid),
        zeros,
      ),
    )
    world.log(`given up${zeros ? ', as zeros' : ''}: ${accepted}`)
    for (const { one, settle } of ends) {
      if (!accepted?.includes(one.oid)) continue
      this.given++
      for (const end of settle) end()
    }
  }

  /** From now on what is left of it may be read, until it is certain that nothing else may. */
  #doubt({ oid, index, volumes }: LostObject, zeros: boolean, known: ReadonlySet<Lineage>): (() => void)[] {
    const { hosts, shape } = this.world
    const size = 2 ** shape.blockSizeShift
    const copies: Buffer[] = []
    // A disk that is about to be plugged in counts only if that comes before somebody has looked for what it holds.
    let certain = 0
    for (const host of hosts.filter((each) => !zeros && !each.buried)) {
      for (const disk of host.disks.filter((one, i) => !one.dead && !host.away.has(i))) {
        const content = disk.content(pathOf(oidFromHex(oid)))
        if (!content) continue
        copies.push(Buffer.concat([content.subarray(FILE_HEADER), Buffer.alloc(size)], size))
        if (host.usedDisks.includes(disk)) certain++
      }
    }
    const all = this.#lineages()
    // A snapshot may have been taken since the list was made.
    const named = all.every((lineage) => known.has(lineage)) ? this.#lineagesOf(volumes) : null
    const ends = (named ?? all).map((lineage) => {
      const first = (index * size) / lineage.cellSize
      const left = (cell: number): number[] =>
        copies
          .map((bytes) => stampOf(bytes, (cell - first) * lineage.cellSize, lineage.cellSize, cell))
          .concat(certain === 0 ? [0] : [])
      return lineage.giveUp(first, size / lineage.cellSize, left)
    })
    return named === null ? [] : ends
  }

  /** Null: nobody can tell. */
  #lineagesOf(names: readonly string[]): Lineage[] | null {
    const { actors } = this.world.workload
    const found = names.flatMap(
      (name) => actors.map((actor) => actor.lineageNamed(name)).find((one) => one !== null) ?? [],
    )
    // One is being renamed, or not all are named.
    return names.length >= NAMES_MAX || found.length < names.length ? null : found
  }

  #bringBack(parts: readonly Part[]): void {
    const { random, world } = this
    this.#gone = this.#gone.filter((part) => !parts.includes(part))
    for (const { host, disk } of parts) {
      if (disk === null) world.planner.giveBack(host, random.exponential(3000))
      else world.planner.giveDiskBack(host, disk, random.chance(0.5), random.exponential(3000))
    }
  }

  /** Null: not now. */
  async #ask<T>(what: string, call: Parameters<typeof Host.prototype.request<T>>[1]): Promise<T | null> {
    const { random, world } = this
    const host = random.pick(world.hosts.filter((each) => each.serving))
    const outcome = await host.request(what, call)
    if (outcome.state === 'done') return outcome.value
    if (outcome.state === 'failed' && !(outcome.error instanceof SheepError)) world.unexpected(what, outcome.error)
    return null
  }
}

/** Not all of these are gone. */
function isLeft(holders: readonly Part[], gone: readonly Part[]): boolean {
  return holders.some(({ host, disk }) => !gone.some((part) => part.host === host && part.disk === disk))
}

function indexesAreLeft(holders: ReadonlyMap<Oid, readonly Part[]>, gone: readonly Part[]): boolean {
  return [...holders].every(([oid, where]) => kindOf(oid) !== KIND_INODE || isLeft(where, gone))
}

function wholeHosts(parts: readonly Part[]): Part[] {
  return parts.flatMap(({ host }) => host.disks.map((_, disk) => ({ host, disk })))
}

/** Its host can start, and serve, without that disk. */
function isSpare({ host, disk }: Part): boolean {
  const path = diskPath(disk as number)
  const working = host.sheep?.workingDisks() ?? []
  return host.sheep?.ownDisks().some((own) => own !== path && working.includes(own)) === true
}
