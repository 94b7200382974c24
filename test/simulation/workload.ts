/**
 * The clients: one actor for each volume, which opens it somewhere, works, moves, is left alone by its daemon, takes
 * snapshots, rolls back, resizes, clones and deletes, one thing after the other but with many requests in flight. What an
 * operation whose daemon died has done is found out by asking again until it is certain.
 */
import { SheepError } from '../../lib/errors.js'
import { Lineage } from './checker.js'
import { copySnapshot, rewrite } from './copying.js'
import type { Host, Outcome, Sheep } from './host.js'
import { asksForPatience } from './patience.js'
import type { SimRandom } from './random.js'
import { Session } from './session.js'
import { migrate, type Owner, takeAway } from './takeover.js'
import type { World } from './world.js'

/** A daemon may not have heard yet of what was answered elsewhere: it has so long, ms. */
const HEARSAY_MS = 60_000
const CLONES_MAX = 2

export class Workload {
  requests = 0
  /** Of them, those that were answered EIO because the host was without quorum for as long as the volume waits */
  failedWithoutQuorum = 0
  closing = false
  /** Of all hosts at once */
  powerLosses = 0
  disksBack = 0
  /** Clients whose writes were lost with the power of all that had them */
  flushesFailed = 0
  #stamp = 0
  #names = 0
  readonly actors: Actor[] = []
  readonly #running: Promise<void>[] = []

  constructor(
    readonly world: World,
    readonly random: SimRandom,
  ) {}

  nextStamp(): number {
    return ++this.#stamp
  }

  nextName(prefix: string): string {
    return `${prefix}${++this.#names}`
  }

  async run(): Promise<void> {
    for (let i = 0; i < this.world.shape.volumes; i++)
      this.begin(new Actor(this, this.random.split(), this.nextName('v')))
    for (let i = 0; i < this.#running.length; i++) await this.#running[i]
  }

  begin(actor: Actor): void {
    this.actors.push(actor)
    this.#running.push(actor.run())
  }

  /** What was not flushed may be gone. */
  powerLoss(): void {
    this.powerLosses++
    for (const actor of this.actors) for (const lineage of actor.lineages()) lineage.powerLoss()
  }

  /** Everything that should be there is, and reads as it should, through a fresh gateway. */
  async verify(): Promise<void> {
    const expected: string[] = []
    for (const actor of this.actors) {
      if (actor.deleted) continue
      expected.push(actor.name, ...[...actor.snapshots.keys()].map((tag) => `${actor.name}@${tag}`))
      await actor.verify('')
      for (const tag of actor.snapshots.keys()) await actor.verify(tag)
    }
    for (const host of this.world.hosts) {
      if (host.buried) continue
      const listed = host
        .sheep!.volumes.list()
        .map((entry) => (entry.tag === '' ? entry.name : `${entry.name}@${entry.tag}`))
      const missing = expected.filter((name) => !listed.includes(name))
      const surplus = listed.filter((name) => !expected.includes(name))
      if (missing.length > 0) this.world.verdict.report('registry', `${host.name} does not list ${missing}`)
      if (surplus.length > 0)
        this.world.verdict.report('registry', `${host.name} lists ${surplus}, which should be gone`)
    }
  }
}

export class Actor {
  readonly snapshots = new Map<string, Lineage>()
  deleted = false
  #lineage: Lineage
  /** Snapshots being taken */
  taking: Lineage | null = null
  #session: Session | null = null
  readonly #world: World
  #clones = 0

  constructor(
    readonly workload: Workload,
    readonly random: SimRandom,
    /** Of the VDI; a rename changes it */
    public name: string,
    /** The content of a clone; null: a new volume, to be created */
    cloned: Lineage | null = null,
  ) {
    this.#world = workload.world
    const cellSize = random.chance(0.2) ? 64 : 512
    const objects = random.pick([1, 3, 12, 24])
    const bytes =
      objects * 2 ** this.#world.shape.blockSizeShift - (random.chance(0.3) ? 4096 * random.between(0, 3) : 0)
    this.#lineage = cloned ?? new Lineage(name, cellSize, bytes / cellSize, this.#world.verdict)
    this.#exists = cloned !== null
    this.#drama = random.split()
    this.#copier = this.#world.shape.copying ? this.#drama.split() : null
  }

  #exists: boolean
  /** Of its own, so that what happens to locks does not shift what else is drawn */
  readonly #drama: SimRandom
  readonly #copier: SimRandom | null

  lineages(): Lineage[] {
    return [this.#lineage, ...this.snapshots.values(), ...(this.taking ? [this.taking] : [])]
  }

  /** Of "name" or "name@tag", as the registry calls it. Null: it is not this actor's, or being changed. */
  lineageNamed(reference: string): Lineage | null {
    const [name, tag] = reference.split('@')
    if (name !== this.name || this.taking) return null
    return tag === undefined ? this.#lineage : (this.snapshots.get(tag) ?? null)
  }

  async run(): Promise<void> {
    if (!this.#exists) await this.#create()
    while (!this.workload.closing && !this.deleted) {
      await this.#step()
      await this.#world.sleep(this.random.chance(0.05) ? 8000 : this.random.exponential(150))
    }
    await this.#close()
  }

  async #step(): Promise<void> {
    const { random } = this
    const session = this.#session
    if (session && !session.ended && this.#drama.chance(this.#world.shape.takeovers)) {
      this.#session = null
      this.#session = await (this.#drama.chance(0.5) ? takeAway : migrate)(this.#owner(), session)
      return
    }
    if (this.#drama.chance(0.01)) {
      await this.#rename()
      return
    }
    if (this.#copier?.chance(0.15)) return this.#copy(this.#copier)
    const choice = random.float()
    if (choice < 0.82) await this.#work()
    else if (choice < 0.87) await this.#close()
    else if (choice < 0.92) await this.#snapshot()
    else if (choice < 0.94) await this.#rollback()
    else if (choice < 0.95) await this.#clone()
    else if (choice < 0.97) await this.#resize()
    else if (choice < 0.985) await this.#deleteSnapshot()
    else if (choice < 0.99) await this.#readSnapshot()
    else if (choice < 0.994 && this.#clonedFrom()) await this.#delete()
  }

  #owner(): Owner {
    const request = (session: Session) => this.#request(session)
    const mayWait = (error: unknown, since: number) => this.#mayWait(error, since)
    return { world: this.#world, random: this.#drama, name: this.name, lineage: this.#lineage, request, mayWait }
  }

  /** A volume with a life of its own is only deleted when it is a clone, so that every run keeps some. */
  #clonedFrom(): boolean {
    return this.name.startsWith('c') && this.snapshots.size === 0
  }

  // requests

  async #work(): Promise<void> {
    const session = await this.#open()
    if (!session) return
    const { random } = this
    const flying = new Set<Promise<void>>()
    const depth = random.pick([1, 2, 8])
    const requests = random.between(1, 12)
    const done = (async () => {
      for (let i = 0; i < requests && !session.ended; i++) {
        const request = this.#request(session)
        flying.add(request)
        void request.then(() => flying.delete(request))
        if (flying.size >= depth) await Promise.race(flying)
        if (random.chance(0.2)) await this.#world.sleep(random.exponential(2))
      }
      await Promise.all(flying)
    })()
    await this.#patiently(session, done)
  }

  /** Now and then a client gives up on a daemon that does not answer. */
  async #patiently(session: Session, work: Promise<void>): Promise<void> {
    const patience = this.random.chance(0.5) ? this.random.between(1000, 15_000) : Number.POSITIVE_INFINITY
    let over = false
    if (patience !== Number.POSITIVE_INFINITY) {
      this.#world.scheduler.after(patience, () => {
        if (!over) session.abandon()
      })
    }
    await Promise.race([work, session.over])
    over = true
    if (session.ended && this.#session === session) this.#session = null
  }

  #request(session: Session): Promise<void> {
    const { random } = this
    const kind = random.float()
    const [first, count] = this.#range(kind < 0.88 ? 1 : 4)
    if (kind < 0.5) return session.write(first, count, this.workload.nextStamp(), random.chance(0.15))
    if (kind < 0.8) return session.read(first, count)
    if (kind < 0.88) return session.flush()
    if (kind < 0.93) return session.zero(first, count, random.chance(0.5), random.chance(0.2))
    return session.discard(first, count, random.chance(0.2))
  }

  /** Cells: mostly few, around few places, so that requests meet; sometimes whole objects, sometimes much. */
  #range(scale: number): [first: number, count: number] {
    const { random } = this
    const { cells, cellSize } = this.#lineage
    const object = 2 ** this.#world.shape.blockSizeShift / cellSize
    const choice = random.float()
    if (choice < 0.1 * scale && cells >= object) {
      return [random.below(Math.floor(cells / object)) * object, object]
    }
    if (choice > 0.99) {
      const count = Math.min(cells, Math.floor((1 << 20) / cellSize))
      return [random.below(cells - count + 1), count]
    }
    const count = Math.min(cells, random.pick([1, 1, 2, 8, 8, 8, random.between(1, 40)]))
    const aligned = random.chance(0.5)
    const around = random.chance(0.5) ? random.pick([0, object - 4, object * 2 - 2]) : random.below(cells)
    const at = Math.min(Math.max(0, around + random.below(8)), cells - count)
    return [aligned ? at - (at % 8) : at, count]
  }

  // opening

  async #open(): Promise<Session | null> {
    if (this.#session && !this.#session.ended) return this.#session
    const session = await this.#openAt('', this.#lineage, false)
    this.#session = session
    return session
  }

  /** Null when the workload ends first. */
  async #openAt(snapshot: string, lineage: Lineage, insist: boolean): Promise<Session | null> {
    const request = { name: this.name, snapshot, readOnly: snapshot !== '', holder: 'simulated', shareable: false }
    const begun = this.#world.scheduler.now
    while (insist || !this.workload.closing) {
      const host = this.#host()
      if (!host) {
        await this.#world.sleep(200)
        continue
      }
      // A client that waits too long for an open hangs up; the daemon may open it all the same, and must let it go.
      let abandoned = false
      const opening = host.request(`open ${this.name}@${snapshot}`, async (sheep) => {
        const volume = await sheep.volumes.open(request)
        if (abandoned) await volume.close()
        return volume
      })
      const late = this.#world.sleep(insist ? 120_000 : 20_000).then(() => null)
      const outcome = await Promise.race([opening, late])
      if (!outcome) {
        abandoned = true
        continue
      }
      if (outcome.state === 'done') {
        const volume = outcome.value
        if (volume.size !== lineage.cells * lineage.cellSize) {
          // A daemon that has not heard of a resize yet: only the owner of the lock may be trusted.
          const must = lineage.cells * lineage.cellSize
          this.#world.verdict.report('size', `${this.name}: ${volume.size}, must be ${must}`)
        }
        lineage.opened()
        return new Session(this.#world, host, volume, lineage)
      }
      if (outcome.state === 'failed' && !this.#mayWait(outcome.error, begun)) {
        this.#world.unexpected(`open of ${this.name}@${snapshot}`, outcome.error)
      }
      await this.#world.sleep(this.random.between(50, 500))
    }
    return null
  }

  #host(): Host | null {
    const serving = this.#world.hosts.filter((host) => host.up && !host.paused && host.sheep)
    return serving.length > 0 ? this.random.pick(serving) : null
  }

  #mayWait(error: unknown, since: number): boolean {
    if (!(error instanceof SheepError)) return false
    if (asksForPatience(error)) return true
    // What all lost before it was flushed, or may have: whoever has it open has to open it anew.
    const { loss, shape, workload } = this.#world
    const copiesGone = workload.disksBack > 0 || shape.disasters !== ''
    if (error.code === 'io' && error.message.startsWith('flushing') && (workload.powerLosses > 0 || copiesGone)) {
      this.#session?.abandon()
      return true
    }
    if (error.code === 'io' && loss.isOpen) return true
    const hearsay = error.code === 'not-found' || error.code === 'no-tag'
    return hearsay && this.#world.scheduler.now - since < HEARSAY_MS
  }

  async #close(): Promise<void> {
    const session = this.#session
    if (!session) return
    this.#session = null
    if (!session.ended) {
      await this.#patiently(
        session,
        session.close().then(() => {}),
      )
    }
  }

  // operations

  /**
   * Asks until the answer is certain. `settled` names the error that says an earlier, unanswered try has done it. Gives
   * up only when the operation is refused at the first try: then null.
   */
  async #operate<T>(what: string, settled: string, call: (sheep: Sheep) => Promise<T>): Promise<Outcome<T> | null> {
    const begun = this.#world.scheduler.now
    let tries = 0
    for (;;) {
      const host = this.#host()
      if (!host) {
        await this.#world.sleep(200)
        continue
      }
      this.#world.log(`${what} at ${host.process!.name}`)
      const outcome = await host.request(what, call)
      this.#world.log(`${what}: ${outcome.state}${outcome.state === 'failed' ? ` ${String(outcome.error)}` : ''}`)
      if (outcome.state === 'done') return outcome
      if (outcome.state === 'failed') {
        const code = outcome.error instanceof SheepError ? outcome.error.code : ''
        // Of what exists it may be that it is only being made, by a try that may yet be given up.
        const pending = code === 'exists' && / is being created by node /.test(String(outcome.error))
        if (tries > 0 && code === settled && !pending) return outcome
        if (pending && tries > 0) {
          await this.#world.sleep(this.random.between(100, 1000))
          continue
        }
        if (!this.#mayWait(outcome.error, begun)) {
          this.#world.unexpected(what, outcome.error)
          return null
        }
      }
      tries++
      await this.#world.sleep(this.random.between(100, 1000))
    }
  }

  async #create(): Promise<void> {
    const { onNoQuorum: time } = this.#world.shape
    const onNoQuorum = time > 0 && Number(this.name.slice(1)) % 2 === 0 ? 0 : null
    const { cells, cellSize } = this.#lineage
    await this.#make(this.name, cells * cellSize, onNoQuorum, () => this.random.chance(0.15))
  }

  #make(name: string, size: number, onNoQuorum: number | null, preallocate: () => boolean): Promise<unknown> {
    const { blockSizeShift, copies } = this.#world.shape
    return this.#operate(`create ${name}`, 'exists', (sheep) =>
      sheep.vdis.create(
        { name, size, copies, blockSizeShift, onNoQuorum, preallocate: preallocate() },
        { report: () => {}, cancelled: false },
      ),
    )
  }

  async #snapshot(): Promise<void> {
    if (this.snapshots.size >= 3) return
    const tag = this.workload.nextName('s')
    const snapshot = this.#lineage.beginSnapshot(`${this.name}@${tag}`)
    this.taking = snapshot
    const session = this.#session
    const working = session && !session.ended && this.random.chance(0.7) ? this.#work() : Promise.resolve()
    const done = await this.#operate(`snapshot ${this.name}@${tag}`, 'exists', (sheep) =>
      sheep.vdis.snapshot(this.name, tag),
    )
    this.#lineage.endSnapshot(snapshot)
    this.taking = null
    if (done) this.snapshots.set(tag, snapshot)
    await working
  }

  async #rollback(): Promise<void> {
    if (this.snapshots.size === 0) return
    await this.#close()
    const tag = this.random.pick([...this.snapshots.keys()])
    const done = await this.#operate(`rollback ${this.name}@${tag}`, '', (sheep) => sheep.vdis.rollback(this.name, tag))
    if (!done) return
    this.#lineage = this.snapshots.get(tag)!.copy(this.name)
  }

  async #clone(): Promise<void> {
    if (this.snapshots.size === 0 || this.#clones >= CLONES_MAX) return
    this.#clones++
    const tag = this.random.pick([...this.snapshots.keys()])
    const name = this.workload.nextName('c')
    const done = await this.#operate(`clone ${this.name}@${tag} to ${name}`, 'exists', (sheep) =>
      sheep.vdis.clone(this.name, tag, name),
    )
    if (!done) return
    const content = this.snapshots.get(tag)!.copy(name)
    this.workload.begin(new Actor(this.workload, this.random.split(), name, content))
  }

  /** As programs do that know of no clones: into a new volume, or the same bytes over those that are there. */
  async #copy(random: SimRandom): Promise<void> {
    if (this.snapshots.size === 0) return this.#snapshot()
    const tag = random.pick([...this.snapshots.keys()])
    if (random.chance(0.8) || this.#clones >= CLONES_MAX) {
      const session = await this.#open()
      if (session) await rewrite(this.#world, random, session, this.name, tag, () => this.#request(session))
      return
    }
    this.#clones++
    const lineage = this.snapshots.get(tag)!
    const name = this.workload.nextName('c')
    if (!(await this.#make(name, lineage.cells * lineage.cellSize, 0, () => false))) return
    const copied = await copySnapshot(this.#world, random, () => this.#host(), this.name, tag, name)
    const actor = new Actor(this.workload, random.split(), name, lineage.copy(name))
    if (copied) this.workload.begin(actor)
    else await actor.#remove('')
  }

  async #resize(): Promise<void> {
    await this.#close()
    const { cellSize } = this.#lineage
    const object = 2 ** this.#world.shape.blockSizeShift
    const size = this.random.between(1, 24) * object - (this.random.chance(0.3) ? 4096 : 0)
    const done = await this.#operate(`resize ${this.name} to ${size}`, '', (sheep) =>
      sheep.vdis.resize(this.name, size, true),
    )
    if (done) this.#lineage.resize(size / cellSize)
  }

  /** With all its snapshots, open or not. */
  async #rename(): Promise<void> {
    const name = this.workload.nextName(this.name.slice(0, 1))
    const done = await this.#operate(`rename ${this.name} to ${name}`, 'not-found', (sheep) =>
      sheep.vdis.rename(this.name, name),
    )
    if (done) this.name = name
  }

  async #deleteSnapshot(): Promise<void> {
    if (this.snapshots.size === 0) return
    const tag = this.random.pick([...this.snapshots.keys()])
    await this.#remove(tag)
    this.snapshots.delete(tag)
  }

  async #delete(): Promise<void> {
    await this.#close()
    await this.#remove('')
    this.deleted = true
  }

  async #remove(tag: string): Promise<void> {
    await this.#operate(`delete ${this.name}@${tag}`, tag === '' ? 'not-found' : 'no-tag', (sheep) =>
      sheep.vdis.delete(this.name, tag, { report: () => {}, cancelled: false }),
    )
  }

  async #readSnapshot(): Promise<void> {
    if (this.snapshots.size === 0) return
    const tag = this.random.pick([...this.snapshots.keys()])
    const lineage = this.snapshots.get(tag)!
    const session = await this.#openAt(tag, lineage, false)
    if (!session) return
    await this.#patiently(session, session.read(0, Math.min(lineage.cells, 2048)))
    if (!session.ended) await session.close()
  }

  /** Reads all of it. */
  async verify(tag: string): Promise<void> {
    const lineage = tag === '' ? this.#lineage : this.snapshots.get(tag)!
    const session = await this.#openAt(tag, lineage, true)
    if (!session) return
    const step = Math.floor((1 << 18) / lineage.cellSize)
    for (let at = 0; at < lineage.cells && !session.ended; at += step) {
      await session.read(at, Math.min(step, lineage.cells - at))
    }
    await session.close()
  }
}
