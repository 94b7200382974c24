/**
 * The scrub: reads all this node's objects at rest, little by little, and compares them with their checksums. Rot is mended
 * from other replicas (lib/replication/mender.ts). Then the first of an object's replicas compares its checksums with those
 * of the others: replicas that differ, each true to its own, are reported and left as they are, because nobody can tell
 * which is right; `dog cluster check --repair` decides.
 *
 *     idle --a week (as set) since the last pass began, or `start`--> running --all 256 directories seen--> idle
 *      ^                                                       | stop
 *      '------------------------- stopped <--------------------'
 *
 * A pass goes through the store's directories in order; how far it is is on disk now and then, so that it goes on there
 * after a restart. Objects with an intent are not at rest: a torn write is recovery's business.
 */
import type { ScrubReport } from '../control/services.js'
import { asSheepError } from '../errors.js'
import { type Clock, type Disk, DiskError, type Log, type Timer } from '../host/interfaces.js'
import { Mender } from '../replication/mender.js'
import type { CallHandler } from '../replication/peer-session.js'
import type { Peers } from '../replication/peers.js'
import type { Recovery } from '../replication/recovery.js'
import type { Replica } from '../replication/replica.js'
import { sleep } from '../replication/sleep.js'
import type { Topology } from '../replication/topology.js'
import { DIRECTORIES, directoryIndex } from '../store/object-file.js'
import type { ObjectStore, ObjectSums, StoredObject } from '../store/types.js'
import { type Oid, oidToHex, vidOf } from '../vdi/oid.js'

const PATH = 'scrub'
const LOOK_MS = 60_000
const SAVE_MS = 300_000
/** Requests a second of this node above which clients count as busy */
const BUSY_RATE = 50
const BUSY_SLOWDOWN = 8
/** Objects looked at without a pause when nothing has to be read of them */
const WALK_STEP = 4_096
/** Between two looks at replicas that differ: a write that is only being sealed here and there is no divergence */
const CONFIRM_MS = 2_000
export const SCRUB_DEFAULT: ScrubSettings = { rate: 32 * 1024 * 1024, intervalMs: 7 * 86_400_000 }

export interface ScrubSettings {
  /** Bytes read a second at most */
  rate: number
  /** From the beginning of one pass to that of the next; 0: none begins by itself */
  intervalMs: number
}

export interface ScrubOptions {
  store: ObjectStore
  topology: Topology
  replica: Replica
  recovery: Recovery
  peers: Peers
  clock: Clock
  log: Log
  copiesOf: (vid: number) => number
  bytesOf: (oid: Oid) => number
  /** This node takes part in the cluster, and recovers nothing */
  running: () => boolean
  /** As they are now */
  settings: () => ScrubSettings
  /** For the file `scrub`: how far it is */
  disk: Pick<Disk, 'readFile'> & { writeFileAtomic(path: string, content: string): void }
}

/** What outlasts a restart. Times in ms since the Unix epoch; 0 never. */
interface Kept {
  state: 'idle' | 'running' | 'stopped'
  /** First directory that is still to be seen */
  next: number
  began: number
  ended: number
  objects: number
  bytes: number
  found: number
  repaired: number
  unrepaired: number
  diverged: number
}

const NEVER: Kept = {
  state: 'idle',
  next: 0,
  began: 0,
  ended: 0,
  objects: 0,
  bytes: 0,
  found: 0,
  repaired: 0,
  unrepaired: 0,
  diverged: 0,
}

export class Scrub {
  readonly mender: Mender
  private kept: Kept
  private timer: Timer | null = null
  private saved = 0
  private walking: Promise<void> | null = null
  private closed = false
  /** When the next bytes may be read, Clock.now() */
  private free = 0
  private requestsBefore = 0
  private lookedAt = 0
  private busy = false

  constructor(private readonly options: ScrubOptions) {
    this.mender = new Mender(options)
    this.kept = this.load()
    this.later()
  }

  /** Handlers of the call `sums`: the checksums of a copy at rest. */
  calls(): Map<string, CallHandler> {
    const sums: CallHandler = async (argument) => {
      const oid = (argument as { oid?: unknown } | null)?.oid
      const own = typeof oid === 'number' ? await this.restingSums(oid) : null
      if (own === null) return { json: { shift: 0 }, body: Buffer.alloc(0) }
      return { json: { shift: own.shift }, body: Buffer.from(own.sums.buffer) }
    }
    return new Map([['sums', sums]])
  }

  progress(): Omit<ScrubReport, 'incidents'> {
    const { store, settings } = this.options
    const { rate } = settings()
    const due = this.due
    const { next, ...counts } = this.kept
    return { ...counts, done: next / DIRECTORIES, due, objectsTotal: store.count, rate, rotten: this.mender.rotten }
  }

  /** A pass begins now, from the first directory; one that runs or was stopped goes on. */
  start(): void {
    if (this.kept.state === 'idle') this.begin()
    else this.kept.state = 'running'
    this.save()
    this.walk()
  }

  /** Nothing is read until `start`, also after a restart. */
  halt(): void {
    this.kept.state = 'stopped'
    this.save()
  }

  async close(): Promise<void> {
    this.closed = true
    this.mender.stop()
    this.timer?.cancel()
    if (this.kept.state === 'running') this.save()
  }

  /** When the next pass begins, ms since the Unix epoch; 0: not by itself */
  private get due(): number {
    const { state, began, ended } = this.kept
    const { intervalMs } = this.options.settings()
    if (state !== 'idle' || intervalMs === 0) return 0
    return began === 0 ? this.options.clock.wall() : Math.max(began + intervalMs, ended)
  }

  private begin(): void {
    this.kept = { ...NEVER, state: 'running', began: this.options.clock.wall(), ended: this.kept.ended }
  }

  /** What could not be mended, again: others may have come back, or it was given up. */
  mendAll(): void {
    void this.mender.mendAll().catch((error: unknown) => this.failed(error))
  }

  private later(): void {
    this.timer = this.options.clock.after(LOOK_MS, () => {
      const { due } = this
      if (due > 0 && due <= this.options.clock.wall()) this.begin()
      this.walk()
      this.mendAll()
      this.later()
    })
  }

  private get goesOn(): boolean {
    return !this.closed && this.kept.state === 'running' && this.options.running()
  }

  private walk(): void {
    if (this.walking !== null || !this.goesOn) return
    this.walking = this.pass()
      .catch((error: unknown) => this.failed(error))
      .finally(() => {
        this.walking = null
      })
  }

  private failed(error: unknown): void {
    if (!(error instanceof DiskError)) throw error
    // The disk itself is the store's to judge.
    if (!this.closed) this.options.log('error', `scrub: ${error.message}`)
  }

  private async pass(): Promise<void> {
    const { clock, log } = this.options
    while (this.goesOn && this.kept.next < DIRECTORIES) {
      const { next } = this.kept
      for (const object of await this.objectsIn(next)) {
        if (!this.goesOn) return
        await this.scrubObject(object)
      }
      this.kept.next = next + 1
      if (clock.now() - this.saved > SAVE_MS) this.save()
    }
    if (!this.goesOn) return
    this.kept.state = 'idle'
    this.kept.ended = clock.wall()
    this.save()
    const { objects, found, repaired, unrepaired, diverged } = this.kept
    log(unrepaired + diverged > 0 ? 'warning' : 'info', 'scrub: a pass has ended', {
      objects,
      found,
      repaired,
      unrepaired,
      diverged,
    })
  }

  private async objectsIn(directory: number): Promise<StoredObject[]> {
    const found: StoredObject[] = []
    let seen = 0
    for (const object of this.options.store.all()) {
      if (directoryIndex(object.oid) === directory) found.push(object)
      if (++seen % WALK_STEP === 0) await this.rest(0)
    }
    return found
  }

  private async scrubObject(object: StoredObject): Promise<void> {
    const { store, replica, bytesOf, topology } = this.options
    // What is not valid is recovery's to compare; what is hot is not at rest.
    if (object.removed || object.intent || topology.current === null || !replica.isValid(object)) return
    this.kept.objects++
    const verdict = await store.verify(object, (bytes) => this.rest(bytes))
    if (object.removed || object.intent) return
    if (verdict === 'unsealed') {
      await store.seal(object, bytesOf(object.oid), () => false)
    } else if (verdict === 'header') {
      await this.headerLost(object)
    } else if ((await store.damage(object)) !== null) {
      this.kept.found++
      if (await this.mender.mend(object, true)) this.kept.repaired++
      else this.kept.unrepaired++
    } else {
      await this.compare(object)
    }
  }

  /** Its epochs are still known; its bytes are compared with another replica's, as a suspect's are. */
  private async headerLost(object: StoredObject): Promise<void> {
    const { store, recovery, clock, bytesOf } = this.options
    this.kept.found++
    this.options.replica.doubt(object)
    await new Promise<void>((resolve) => recovery.ensure(object.oid, { resume: () => resolve() }))
    const now = store.get(object.oid)
    const whole = now !== undefined && !now.suspect
    if (whole) {
      this.kept.repaired++
      await store.seal(now, bytesOf(object.oid), () => false)
    } else {
      this.kept.unrepaired++
    }
    this.mender.report({
      time: clock.wall(),
      oid: oidToHex(object.oid),
      vid: vidOf(object.oid),
      kind: 'bit-rot',
      path: store.pathOf(object.oid),
      position: 0,
      length: 0,
      outcome: whole ? 'repaired' : 'unrepaired',
      detail: 'its header was rotten: compared with the other replicas',
    })
  }

  // --- replicas against each other --------------------------------------------------------------------------------

  private async compare(object: StoredObject): Promise<void> {
    const { topology, copiesOf } = this.options
    const copies = copiesOf(vidOf(object.oid))
    if (copies === 0) return
    const [first, ...others] = topology.replicas(object.oid, copies)
    if (first.id !== topology.self) return
    for (const node of others) {
      if (!(await this.differs(object.oid, node.id))) continue
      await this.rest(0)
      await sleep(this.options.clock, CONFIRM_MS)
      if (this.goesOn && (await this.differs(object.oid, node.id))) this.diverged(object, node.name)
    }
  }

  /** Both at rest, whole, and not equal. */
  private async differs(oid: Oid, node: string): Promise<boolean> {
    const own = await this.restingSums(oid)
    if (own === null) return false
    let theirs: { shift: number; sums: Buffer }
    try {
      const answer = await this.options.peers.call(node, 'sums', { oid })
      theirs = { shift: Number((answer.json as { shift?: unknown }).shift), sums: answer.body }
    } catch (error) {
      this.options.log('debug', `scrub: asking ${node}: ${asSheepError(error).message}`)
      return false
    }
    if (theirs.shift !== own.shift || theirs.sums.length !== own.sums.byteLength) return false
    return Buffer.from(own.sums.buffer).compare(theirs.sums) !== 0
  }

  private async restingSums(oid: Oid): Promise<ObjectSums | null> {
    const { store, replica } = this.options
    const object = store.get(oid)
    const rests = () => object !== undefined && !object.removed && !object.intent && replica.isValid(object)
    if (object === undefined || !rests()) return null
    const sums = await store.sums(object)
    return sums !== null && sums.written.length === 0 && rests() && (await store.damage(object)) === null ? sums : null
  }

  private diverged(object: StoredObject, name: string): void {
    const { store, clock, log } = this.options
    this.kept.diverged++
    const oid = oidToHex(object.oid)
    log('error', `divergence: this node's copy of ${oid} and that of ${name} differ, each true to its checksums`)
    this.mender.report({
      time: clock.wall(),
      oid,
      vid: vidOf(object.oid),
      kind: 'divergence',
      path: store.pathOf(object.oid),
      position: 0,
      length: 0,
      outcome: 'unrepaired',
      detail: `differs from ${name}: dog cluster check --repair`,
    })
  }

  // --- pace -------------------------------------------------------------------------------------------------------

  /** Keeps to the rate, and to a fraction of it while clients are busy. */
  private rest(bytes: number): Promise<void> {
    const { clock, settings, replica } = this.options
    const now = clock.now()
    if (now - this.lookedAt > 1_000) {
      const requests = replica.counters.reads + replica.counters.writes
      this.busy = (requests - this.requestsBefore) * 1_000 > BUSY_RATE * (now - this.lookedAt)
      this.requestsBefore = requests
      this.lookedAt = now
    }
    this.kept.bytes += bytes
    this.free = Math.max(this.free, now) + (bytes * 1_000 * (this.busy ? BUSY_SLOWDOWN : 1)) / settings().rate
    return sleep(clock, Math.max(0, this.free - now))
  }

  // --- what outlasts a restart ------------------------------------------------------------------------------------

  private load(): Kept {
    const text = this.options.disk.readFile(PATH)
    if (text === null) return { ...NEVER }
    try {
      const read = JSON.parse(text.toString()) as Record<string, unknown>
      const kept: Kept = { ...NEVER }
      for (const key of Object.keys(NEVER) as (keyof Kept)[]) {
        const value = read[key]
        if (key === 'state') {
          if (value === 'running' || value === 'stopped') kept.state = value
        } else if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) {
          kept[key] = value
        }
      }
      return kept
    } catch {
      this.options.log('warning', 'scrub: its state is no JSON; it begins anew')
      return { ...NEVER }
    }
  }

  private save(): void {
    this.saved = this.options.clock.now()
    this.options.disk.writeFileAtomic(PATH, `${JSON.stringify(this.kept)}\n`)
  }
}
