/**
 * One simulated host: a disk that stays, a daemon that comes and goes. `MakeSheep` is the only place where the world meets
 * the code under test; everything the daemon touches is made here, fresh for each incarnation.
 */

import type { Engine } from '../../lib/cluster/engine.js'
import type { ClusterView } from '../../lib/cluster/types.js'
import type { CheckReport, LostObject, VdiService } from '../../lib/control/services.js'
import { SheepError } from '../../lib/errors.js'
import type { VolumeOpener } from '../../lib/gateway/types.js'
import type { Clock, Log, Network, Random } from '../../lib/host/interfaces.js'
import type { AttachedDisk } from '../../lib/store/node-disks.js'
import type { Oid } from '../../lib/vdi/oid.js'
import { SimClock } from './clock.js'
import { type DiskShape, SimDisk } from './disk.js'
import { DiskView } from './disk-view.js'
import { Process, ProcessDied } from './process.js'
import type { SimRandom } from './random.js'
import type { World } from './world.js'

export const PORT = 7000

export function diskPath(disk: number): string {
  return `/disk${disk}`
}

export interface SheepParts {
  name: string
  zone: string
  /** Offers no disk space */
  gatewayOnly: boolean
  /** Listens on, and is reached at, this host's name and PORT */
  host: string
  clock: Clock
  random: Random
  /** Those that are there */
  disks: AttachedDisk[]
  /** One more, by its path */
  attach: (path: string) => AttachedDisk
  network: Network
  engine: Engine
  /** See NodeParts: as long as the engine waits for a silent host at least, like in production */
  lease: number
  log: Log
  /** A broken invariant or a condition in which the daemon must stop: it dies */
  fatal: (error: unknown) => void
}

/** What the simulator uses of a daemon. */
export interface Sheep {
  readonly volumes: VolumeOpener
  readonly vdis: VdiService
  readonly cluster: ClusterView
  plug(path: string): Promise<void>
  unplug(path: string): Promise<string>
  /** Paths */
  workingDisks(): string[]
  /** Paths of those that the node's state lists */
  ownDisks(): string[]
  lostEpoch(): number
  /** Resolves when it takes part in the cluster, or waits for others */
  start(): Promise<void>
  /** Orderly */
  stop(): Promise<void>
  /** The object is quiet: its checksums are in force */
  resting(oid: Oid): boolean
  /** Of all volumes, as they are now */
  check(): Promise<CheckReport>
  lost(): Promise<LostObject[]>
  acceptLost(objects: readonly string[], zeros: boolean): Promise<string[]>
  startScrub(): void
  scrubbing(): boolean
}

/** Opens its store; SheepError when it cannot. */
export type MakeSheep = (parts: SheepParts) => Promise<Sheep>

export type Outcome<T> = { state: 'done'; value: T } | { state: 'failed'; error: unknown } | { state: 'gone' }

export class Host {
  readonly disks: SimDisk[]
  /** Indices into `disks`: pulled out, or not mounted */
  readonly away = new Set<number>()
  process: Process | null = null
  sheep: Sheep | null = null
  powered = true
  /** Never to return */
  buried = false
  incarnation = 0
  /** Called when the daemon dies: clients whose requests end nowhere */
  readonly onDeath = new Set<() => void>()
  readonly #views = new Set<DiskView>()

  constructor(
    readonly world: World,
    readonly name: string,
    readonly zone: string,
    readonly gatewayOnly: boolean,
    readonly random: SimRandom,
    shape: DiskShape,
    disks: number,
  ) {
    this.disks = Array.from({ length: disks }, () => new SimDisk(world.scheduler, random.split(), shape))
  }

  get up(): boolean {
    return this.process?.alive ?? false
  }

  get paused(): boolean {
    return this.process?.paused ?? false
  }

  /** Its daemon serves, as far as it knows. */
  get serving(): boolean {
    return this.up && !this.paused && this.sheep?.cluster.status === 'running'
  }

  start(): void {
    if (this.up || this.buried) return
    const { world } = this
    if (!this.powered) {
      this.powered = true
      world.hub.hostUp(this.name)
      world.network.down.delete(this.name)
    }
    const process = new Process(`${this.name}.${++this.incarnation}`, world.scheduler, world.verdict, (dead) =>
      this.#died(dead),
    )
    this.process = process
    const rate = 1 + (this.random.float() - 0.5) * 0.0005
    const locked = new Set<string>()
    const attach = (path: string): AttachedDisk => {
      // As flock() has it (daemon/store-directory.ts)
      if (locked.has(path)) throw new SheepError('exists', `${path} is in use by this daemon already`)
      locked.add(path)
      const at = this.disks.findIndex((_, i) => diskPath(i) === path)
      const view = new DiskView(this.disks[at], process)
      this.#views.add(view)
      return { path, disk: view, close: () => locked.delete(path) }
    }
    const present = this.disks.map((_, i) => diskPath(i)).filter((_, i) => !this.away.has(i))
    const random = this.random.split()
    world.log(`${process.name} starts`)
    process.enter(() => {
      const opened = world.makeSheep({
        name: this.name,
        zone: this.zone,
        gatewayOnly: this.gatewayOnly,
        host: this.name,
        clock: new SimClock(world.scheduler, process, rate, this.random.below(600_000) - 300_000),
        random,
        disks: present.map(attach),
        attach,
        network: world.network.attach(process, this.name),
        engine: world.hub.attach(process, this.name),
        lease: world.shape.engine.tokenTimeout,
        log: (level, message, fields) => {
          if (world.trace.on)
            world.log(`${process.name} ${level}: ${message}${fields ? ` ${JSON.stringify(fields)}` : ''}`)
        },
        fatal: (error) => world.fatal(this, process, error),
      })
      opened
        .then((sheep) => {
          if (process.alive) this.sheep = sheep
          return sheep.start()
        })
        .catch((error: unknown) => world.startFailed(this, process, error))
    })
  }

  /** Those that its daemon uses; without one, all. */
  get usedDisks(): SimDisk[] {
    const working = this.sheep?.workingDisks()
    return this.disks.filter((_, i) => working === undefined || working.includes(diskPath(i)))
  }

  /** The one with this file; null none. */
  diskWith(path: string): SimDisk | null {
    return this.usedDisks.find((disk) => disk.file(path) !== null) ?? null
  }

  /** A new, empty one in its place. */
  replaceDisk(number: number): void {
    const { scheduler, shape } = this.disks[number]
    this.disks[number] = new SimDisk(scheduler, this.random.split(), shape)
  }

  /** kill -9 now, or at its (calls+1)th system call. */
  kill(calls: number): void {
    if (!this.up) return
    this.world.log(`${this.process!.name} is killed${calls > 0 ? ` at system call ${calls}` : ''}`)
    if (calls > 0 && !this.paused) this.process!.dieAfter(calls)
    else this.process!.die()
  }

  cutPower(): void {
    if (!this.powered) return
    this.world.log(`${this.name} loses power`)
    this.powered = false
    this.process?.die()
    this.world.hub.hostDown(this.name)
    this.world.network.down.add(this.name)
    for (const disk of this.disks) disk.powerLoss()
  }

  pause(): void {
    if (!this.up || this.paused) return
    this.world.log(`${this.process!.name} is stopped`)
    this.process!.pause()
  }

  resume(): void {
    if (!this.paused) return
    this.world.log(`${this.process!.name} goes on`)
    this.process!.resume()
  }

  #died(process: Process): void {
    const { world } = this
    world.log(`${process.name} is dead`)
    for (const view of this.#views) view.detach()
    this.#views.clear()
    this.sheep = null
    if (this.powered) {
      world.network.processDied(process)
      world.hub.processDied()
    } else {
      world.network.hostDied(process)
    }
    for (const tell of [...this.onDeath]) tell()
    this.onDeath.clear()
  }

  /**
   * A client's request to this daemon. 'gone': the daemon died, nobody knows how far it came. An answer made in the same
   * turn in which the daemon dies does not get out.
   */
  request<T>(what: string, call: (sheep: Sheep) => Promise<T>): Promise<Outcome<T>> {
    return this.requestRaw(what, (sheep, done) => {
      call(sheep).then(
        (value) => done({ state: 'done', value }),
        (error) => done({ state: 'failed', error }),
      )
    })
  }

  requestRaw<T>(what: string, call: (sheep: Sheep, done: (outcome: Outcome<T>) => void) => void): Promise<Outcome<T>> {
    const { world, process, sheep } = this
    if (!process?.alive || !sheep) return Promise.resolve({ state: 'gone' })
    return new Promise((resolve) => {
      const label = world.wait(`${what} at ${process.name}`)
      let over = false
      const end = (outcome: Outcome<T>): void => {
        if (over) return
        over = true
        this.onDeath.delete(gone)
        world.waited(label)
        resolve(outcome)
      }
      const gone = (): void => void world.scheduler.after(0, () => end({ state: 'gone' }))
      this.onDeath.add(gone)
      const answer = (outcome: Outcome<T>): void => {
        if (!process.alive) return
        if (outcome.state === 'failed' && outcome.error instanceof ProcessDied) return
        world.scheduler.after(0, () => {
          if (process.alive) end(outcome)
        })
      }
      world.scheduler.after(this.random.exponential(0.05), () => process.enter(() => call(sheep, answer), 'client'))
    })
  }
}
