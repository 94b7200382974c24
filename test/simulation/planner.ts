/**
 * What goes wrong, and when: drawn from the seed as the run goes. It never takes the last good copy of anything away:
 *
 * - a host is buried (never returns) only while everything is recovered, and at most copies - 1 of them;
 * - when hosts that lose power may have been the last to hold what was not flushed, the checker is told, and holds the
 *   cluster to the flush rule from then on.
 *
 * A host is troubled from its first fault until that has ended and everything is recovered: its copies may lack writes. What hosts say
 * of themselves is not enough: a partition that has just begun is not noticed yet, and one told to die at its next system call lives.
 */
import { SheepError } from '../../lib/errors.js'
import { DiskError } from '../../lib/host/interfaces.js'
import { diskPath, type Host } from './host.js'
import type { SimRandom } from './random.js'
import type { FaultKind } from './shape.js'
import { Throttle } from './throttle.js'
import type { World } from './world.js'

/** Within which the faults that are under way end. */
const HEALING_MS = 3000

export class Planner {
  faults = 0
  /** A script says what happens to hosts: neither clients nor administrators add to it */
  scripted = false
  readonly #troubled = new Set<Host>()
  /** Of those in trouble, the ones that lost their power */
  readonly #cut = new Set<Host>()
  /** The ones that lost a disk */
  readonly #spoilt = new Set<Host>()
  /** How often one that lost its power may be back, and believed, while nobody is there who has all: then flushes fail, in vain perhaps */
  doubtfulReturns = 0
  /** Those that have been told to give their share up, and have not answered yet */
  readonly #draining = new Set<Host>()
  /** Ends of faults that are under way, with whom they trouble until then */
  readonly #undo = new Map<() => void, readonly Host[]>()
  #partitioned = false
  #over = false
  /** When all faults have ended */
  #healed = 0
  readonly throttle: Throttle

  constructor(
    readonly world: World,
    readonly random: SimRandom,
  ) {
    this.throttle = new Throttle(world, () => this.#living)
  }

  get #living(): Host[] {
    return this.world.hosts.filter((host) => !host.buried)
  }

  /** Those that have a share, or may have one soon; who is drained has none until it starts anew, or is told so. */
  get #sharing(): Host[] {
    const epochs = this.#living.flatMap(({ sheep }) => sheep?.cluster.epoch ?? [])
    const newest = epochs.sort((a, b) => b.number - a.number).at(0)
    const drained = new Set(newest?.nodes.filter((node) => node.vnodes === 0).map((node) => node.name))
    const hasShare = ({ name }: Host) => !drained.has(name)
    return this.#living.filter((host) => !host.gatewayOnly && hasShare(host) && !this.#draining.has(host))
  }

  /** So many copies there are of everything when all is well. */
  get #copies(): number {
    return Math.min(this.world.shape.copies, new Set(this.#sharing.map(({ zone }) => zone)).size)
  }

  /** Every host serves in one epoch and has all its share. */
  healthy(): boolean {
    const living = this.#living
    const epoch = living[0].sheep?.cluster.epoch?.number
    if (epoch === undefined) return false
    for (const host of living) {
      if (!host.serving || !disksSettled(host, epoch)) return false
      const { cluster } = host.sheep!
      if (cluster.epoch?.number !== epoch || cluster.epoch.nodes.length !== living.length) return false
      for (const { id, vnodes } of cluster.epoch.nodes) {
        if (vnodes > 0 && cluster.recovered.get(id) !== epoch) return false
      }
    }
    if (this.world.hub.unsettled) return true
    this.#troubled.clear()
    this.#cut.clear()
    this.#spoilt.clear()
    for (const hosts of this.#undo.values()) for (const host of hosts) this.#troubled.add(host)
    return true
  }

  /** A fault is under way. Of what is left after healing only that is, that a host is looked after again and again. */
  get #busy(): boolean {
    return this.#over ? this.world.scheduler.now < this.#healed : this.#undo.size > 0
  }

  /** Healthy, and no fault is under way. */
  calm(): boolean {
    return this.healthy() && !this.#busy && (this.#over || this.#troubled.size === 0)
  }

  /** Every host that is left serves, in one epoch with all of them, and no fault is under way. */
  standing(): boolean {
    const living = this.#living
    const epoch = living[0].sheep?.cluster.epoch
    if (this.#busy || this.world.hub.unsettled || epoch?.nodes.length !== living.length) return false
    return living.every((host) => host.serving && host.sheep?.cluster.epoch?.number === epoch.number)
  }

  #trouble(host: Host): void {
    this.#troubled.add(host)
    if (this.#cut.size > 0 && this.#troubled.size >= this.#copies) this.doubtfulReturns++
  }

  /** Hosts whose copies may lack writes. */
  doubted(): ReadonlySet<Host> {
    if (!this.healthy()) this.#doubtUnrecovered()
    return this.#troubled
  }

  /** For good, unless it is given back. */
  takeAway(host: Host, withPower: boolean): void {
    if (withPower) host.cutPower()
    else host.process?.die()
    host.buried = true
    this.#trouble(host)
  }

  /** It starts after so many ms, and is waited for from now on. */
  giveBack(host: Host, ms: number): void {
    host.buried = false
    this.#trouble(host)
    this.world.scheduler.after(ms, () => host.start())
  }

  /** For good, unless it is given back. 'power': its host loses that at the same time */
  takeDisk(host: Host, number: number, how: 'dies' | 'away' | 'power'): void {
    this.#trouble(host)
    if (how === 'dies') {
      host.disks[number].dead = true
      return
    }
    if (how === 'power') host.cutPower()
    else host.process?.die()
    host.away.add(number)
    this.#restartLater(host)
  }

  /** As it was or empty; plugged in after so many ms. */
  giveDiskBack(host: Host, number: number, empty: boolean, ms: number): void {
    if (empty) host.replaceDisk(number)
    else host.disks[number].dead = false
    host.away.delete(number)
    this.world.scheduler.after(ms, () => this.#bringBack(host, diskPath(number)))
  }

  /** So many hosts are away that there may be objects which none of the others has. */
  allCopiesMayBeAway(): boolean {
    const away = this.#living.filter((host) => !host.serving).length
    return away >= this.#copies
  }

  /** Does one thing, or none; returns when to ask again, ms. */
  step(): number {
    if (this.#over) return 1000
    const { random } = this
    this.healthy()
    if (!this.scripted) this.throttle.step()
    this.world.loss.step()
    const { faults, faultEvery } = this.world.shape
    if (faults.length > 0) {
      this.faults++
      this.#fault(random.pick(faults))
    }
    // Now and then in quick succession, now and then with time to recover.
    return random.chance(0.2) ? random.exponential(50) : random.exponential(faultEvery)
  }

  #fault(kind: FaultKind): void {
    const { random, world } = this
    const up = this.#living.filter((host) => host.up && !host.paused)
    const host = up.length > 0 ? random.pick(up) : null
    if (TAKE_AWAY.has(kind) && this.#living.some(usesFailingDisk)) return
    // The only copy left of an index may be this host's.
    if (kind.startsWith('power') && world.shape.disasters === 'disks' && world.loss.isOpen) return
    switch (kind) {
      case 'kill':
        if (host) this.kill(host)
        break
      case 'stop':
        if (host) this.#stop(host)
        break
      case 'power':
        if (host && this.#mayCut([host])) this.power([host])
        break
      case 'power-all':
        if (random.chance(0.5) && this.#mayCut(this.#living)) this.power(this.#living)
        break
      case 'pause':
        if (host) this.pause(host)
        break
      case 'isolate':
        if (host) this.partition([host])
        break
      case 'partition':
        this.partition(this.#living.filter(() => random.chance(0.4)))
        break
      case 'one-way':
        this.#oneWay()
        break
      case 'break-link':
        if (world.network.ends.size > 0) world.network.breakLink(random.pick([...world.network.ends]))
        break
      case 'slow-disk':
        if (host) this.#slow(host)
        break
      case 'bury':
        if (host) this.#bury(host)
        break
      case 'drain':
        // Who is to hold what then is not who held it when the others went.
        if (host && !world.loss.isOpen) this.#drain(host)
        break
      case 'disk-dies':
      case 'disk-error':
      case 'disk-away':
      case 'disk-crowded':
      case 'unplug':
        if (host) this.#diskTrouble(kind, host)
    }
  }

  /** An administrator takes a host's share away, or gives it back. Enough others have shares that there are all the copies. */
  #drain(host: Host): void {
    const { random, world } = this
    const { id, nodes } = { id: host.sheep?.cluster.self.id, nodes: host.sheep?.cluster.epoch?.nodes ?? [] }
    const drained = random.chance(0.6)
    const zones = new Set(nodes.filter((node) => node.vnodes > 0 && node.id !== id).map((node) => node.zone)).size
    if (!host.serving || id === undefined || (drained && zones < world.shape.copies)) return
    world.log(`${host.name} is ${drained ? 'drained' : 'to take its share again'}`)
    if (drained) this.#draining.add(host)
    void host
      .request('drain', (sheep) => sheep.cluster.propose({ type: 'drain', node: id, drained }))
      .then(() => drained && this.#draining.delete(host))
  }

  /**
   * One disk of a host that has others. With it and the hosts whose copies may lack writes, fewer than all that hold an object are in
   * trouble: so nothing may be lost.
   */
  #diskTrouble(kind: FaultKind, host: Host): void {
    const { random, world } = this
    if (!this.healthy()) this.#doubtUnrecovered()
    const others = [...this.#troubled].filter((other) => other !== host).length
    if (others + 1 >= this.#copies || !host.serving) return
    const working = host.sheep!.workingDisks()
    // One that is dead may not have been noticed yet: were the other one full there would be no room for new objects.
    if (working.length < 2 || host.disks.some((disk) => disk.dead || disk.crowded || disk.errors > 0)) return
    const path = random.pick(working)
    // What was plugged in a moment ago does not count yet: without the others the node cannot start.
    if (!host.sheep!.ownDisks().some((own) => own !== path && working.includes(own))) return
    const number = host.disks.findIndex((_, i) => diskPath(i) === path)
    const disk = host.disks[number]
    world.log(`${host.name} ${path}: ${kind}`)
    if (kind === 'disk-crowded') {
      disk.crowded = true
      this.#later(random.exponential(8000), () => {
        disk.crowded = false
      })
      return
    }
    this.#trouble(host)
    this.#spoilt.add(host)
    if (kind === 'disk-error') {
      disk.errors = random.between(1, 3)
      this.#later(random.exponential(3000), () => {
        disk.errors = 0
        this.#bringBack(host, path)
      })
    } else if (kind === 'disk-dies') {
      disk.dead = true
      this.#later(random.exponential(8000), () => {
        if (random.chance(0.5)) host.replaceDisk(number)
        else disk.dead = false
        this.#bringBack(host, path)
      })
    } else if (kind === 'disk-away') {
      host.process!.die()
      host.away.add(number)
      this.#restartLater(host)
      this.#later(random.exponential(10_000), () => {
        host.away.delete(number)
        this.#bringBack(host, path)
      })
    } else {
      void host.request(`unplug ${path}`, (sheep) => sheep.unplug(path))
      this.#later(random.exponential(8000), () => this.#bringBack(host, path))
    }
  }

  /** An administrator plugs it in; a daemon that is down finds it when it starts. */
  #bringBack(host: Host, path: string): void {
    this.world.workload.disksBack++
    if (!host.serving || host.sheep!.workingDisks().includes(path)) return
    this.#trouble(host)
    void host
      .request(`plug ${path}`, (sheep) => sheep.plug(path))
      .then((outcome) => {
        if (outcome.state !== 'failed') return
        const code = outcome.error instanceof SheepError ? outcome.error.code : ''
        // It came back with a start, or is not here any more.
        if (code !== 'exists' && !(outcome.error instanceof DiskError)) {
          this.world.unexpected(`plug of ${path} at ${host.name}`, outcome.error)
        }
      })
  }

  kill(host: Host): void {
    if (!host.up || this.#over || this.scripted) return
    this.#trouble(host)
    host.kill(this.random.chance(0.5) ? this.random.between(1, 60) : 0)
    this.#restartLater(host)
  }

  #stop(host: Host): void {
    this.#trouble(host)
    this.world.log(`${host.process!.name} is asked to stop`)
    const process = host.process!
    void host
      .request('stop', (sheep) => sheep.stop())
      .then(() => {
        if (host.process === process) process.die()
      })
    // An administrator waits so long, then kills.
    this.world.scheduler.after(20_000, () => host.process === process && process.die())
    this.#restartLater(host)
  }

  /** Not when a disk has gone as well, and with it perhaps the only copy that the power would have left. */
  #mayCut(hosts: readonly Host[]): boolean {
    this.#doubtUnrecovered()
    return this.#spoilt.size === 0 || new Set([...this.#troubled, ...hosts]).size < this.#copies
  }

  /** They start again some seconds later, each in its own time. */
  power(hosts: readonly Host[]): void {
    for (const host of hosts) {
      this.#cut.add(host)
      this.#trouble(host)
    }
    this.#doubtUnrecovered()
    for (const host of hosts) host.cutPower()
    if (this.#troubled.size >= this.#copies) {
      this.world.log('what was not flushed may be lost')
      this.world.workload.powerLoss()
    }
    for (const host of hosts) this.#restartLater(host)
  }

  /** Writes go by where copies are missing: such a host may be no second holder of what was not flushed. */
  #doubtUnrecovered(): void {
    for (const { sheep } of this.#living) {
      const epoch = sheep?.cluster.epoch
      for (const node of epoch?.nodes ?? []) {
        if (node.vnodes === 0 || sheep?.cluster.recovered.get(node.id) === epoch?.number) continue
        const host = this.#living.find(({ name }) => name === node.name)
        if (host) this.#trouble(host)
      }
    }
  }

  #restartLater(host: Host): void {
    const { random } = this
    this.#later(random.chance(0.3) ? random.exponential(100) : random.exponential(5000), () => {
      if (host.up) this.#restartLater(host)
      else host.start()
    }, [host])
  }

  pause(host: Host): void {
    if (!host.up || host.paused || this.#over || this.scripted) return
    this.#trouble(host)
    const process = host.process
    host.pause()
    this.#later(this.random.pick([20, 500, 5000, 20_000]) * (0.5 + this.random.float()), () => {
      if (host.process === process) host.resume()
    }, [host])
  }

  /** `ms`: until it heals */
  partition(side: readonly Host[], ms = 0): void {
    const { world, random } = this
    if (this.#partitioned || side.length === 0 || side.length === this.#living.length) return
    this.#partitioned = true
    for (const host of this.#living) this.#trouble(host)
    const away = new Set(side.map((host) => host.name))
    world.log(`partition: ${[...away]} | ${this.#living.map((host) => host.name).filter((name) => !away.has(name))}`)
    world.hub.partition((name) => (away.has(name) ? 1 : 0))
    const pairs = world.hosts.flatMap((a) => world.hosts.map((b) => [a.name, b.name]))
    const cuts = pairs.filter(([a, b]) => away.has(a) !== away.has(b))
    for (const [a, b] of cuts) world.network.cut(a, b)
    const heal = (): void => {
      world.log('the partition heals')
      this.#partitioned = false
      for (const [a, b] of cuts) world.network.heal(a, b)
      world.hub.partition(() => 0)
    }
    this.#later(ms > 0 ? ms : random.pick([100, 3000, 15_000]) * (0.5 + random.float()), heal, this.#living)
  }

  /** Peers cannot talk in one direction, the engine's own network is fine. */
  #oneWay(): void {
    const { world, random } = this
    const [a, b] = random.shuffle([...this.#living])
    if (!b || this.#partitioned) return
    this.#trouble(a)
    this.#trouble(b)
    world.log(`${a.name} -> ${b.name} is cut`)
    world.network.cut(a.name, b.name)
    const heal = (): void => {
      world.log(`${a.name} -> ${b.name} heals`)
      world.network.heal(a.name, b.name)
    }
    this.#later(random.pick([50, 2000, 12_000]) * (0.5 + random.float()), heal, [a, b])
  }

  #slow(host: Host): void {
    const { random } = this
    this.world.log(`${host.name}'s disk is slow`)
    const disk = random.pick(host.disks)
    disk.slowness = random.pick([10, 200])
    this.#later(random.exponential(5000), () => {
      disk.slowness = 1
    })
  }

  #bury(host: Host): void {
    const { world } = this
    const buried = world.hosts.filter((each) => each.buried).length
    const remaining = this.#living.length - 1
    if (!this.healthy() || this.#undo.size > 0) return
    const keepers = this.#sharing.filter((other) => other !== host).length
    if (buried + 1 >= world.shape.copies || remaining * 2 <= world.hosts.length || keepers < 2) return
    world.log(`${host.name} burns down`)
    host.cutPower()
    host.buried = true
    // Until its copies are made anew a host with the others may lose power, and then nobody has what was not flushed.
    this.#trouble(host)
  }

  /** The daemon stopped itself (expelled, engine failed): systemd starts it again. */
  stoppedItself(host: Host): void {
    this.#trouble(host)
    this.world.scheduler.after(1000, () => host.start())
  }

  #later(ms: number, undo: () => void, troubled: readonly Host[] = []): void {
    const once = (): void => {
      if (this.#undo.delete(once)) undo()
    }
    this.#undo.set(once, troubled)
    this.world.scheduler.after(ms, once)
  }

  /** No more faults, and those under way end within seconds. */
  heal(): void {
    this.#over = true
    for (const host of this.#living) host.process?.dieAfter(-1)
    this.#revive()
    const { scheduler } = this.world
    this.#healed = scheduler.now + HEALING_MS
    for (const undo of [...this.#undo.keys()]) scheduler.after(this.random.float() * HEALING_MS, undo)
  }

  /** After healing, what is down for long is started: an administrator looks again now and then. */
  #revive(): void {
    this.world.scheduler.after(10_000, () => {
      for (const host of this.#living) if (!host.up) host.start()
      this.#revive()
    })
  }
}

/**
 * Whoever serves from a disk that fails, and has not noticed yet, may soon be the only one with a write, were the others to go now: that
 * write would be lost indeed.
 */
const TAKE_AWAY: ReadonlySet<FaultKind> = new Set([
  ...(['kill', 'stop', 'power', 'power-all', 'pause'] as const),
  ...(['isolate', 'partition', 'one-way'] as const),
])

function usesFailingDisk(host: Host): boolean {
  const working = host.sheep?.workingDisks() ?? []
  return host.disks.some((disk, i) => (disk.dead || disk.errors > 0) && working.includes(diskPath(i)))
}

/** It has noticed what is wrong with its disks, and an epoch has begun since. Being asked may show that the last one fails: then it dies. */
function disksSettled(host: Host, epoch: number): boolean {
  return !usesFailingDisk(host) && host.sheep !== null && host.sheep.lostEpoch() < epoch
}
