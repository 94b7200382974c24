/**
 * Puts right what rotted here: a chunk that does not match its checksum gets the bytes of another replica that do. The
 * checksum proves them, so it does not matter what else that replica's copy is worth; in place, so that a crash leaves the
 * chunk as rotten as it was. A sector that the disk cannot read is rot as well: being written mends it. When nobody has them the chunk stays unreadable (EIO), until all of it is written anew.
 */
import type { Clock, Log } from '../host/interfaces.js'
import { FLAG_AS_IS } from '../protocol/header.js'
import { completed } from '../store/completed.js'
import type { Damage, ObjectStore, StoredObject } from '../store/types.js'
import { KIND_INODE, kindOf, type Oid, oidToHex, vidOf } from '../vdi/oid.js'
import { RecoveryRead } from './copier.js'
import type { Peers } from './peers.js'
import type { Recovery } from './recovery.js'
import type { Replica } from './replica.js'
import { sleep } from './sleep.js'
import type { Topology } from './topology.js'
import { decide } from './validity.js'

const PIECE = 1024 * 1024
/** What could not be mended is tried again at most this often: every reader asks. */
const RETRY_MS = 5_000
const INCIDENTS_MAX = 200
const ECANCELED = -125

/** Something that was found wrong with a copy at rest. */
export interface Incident {
  /** ms since the Unix epoch */
  time: number
  /** 16 hex digits */
  oid: string
  vid: number
  /** 'bit-rot': this node's bytes are not what it once stored. 'divergence': replicas differ, each true to its checksums */
  kind: 'bit-rot' | 'divergence'
  /** Under the store's root; of this node's copy */
  path: string
  /** Bytes within the object; 0 all of it */
  position: number
  length: number
  outcome: 'repaired' | 'unrepaired'
  /** For people: from whom, or why not */
  detail: string
}

export interface MenderOptions {
  store: ObjectStore
  topology: Topology
  peers: Peers
  replica: Replica
  recovery: Pick<Recovery, 'inquiry'>
  clock: Clock
  log: Log
  copiesOf: (vid: number) => number
}

export class Mender {
  /** Chunks, since the start */
  readonly counters = { found: 0, repaired: 0 }
  /** The newest last */
  readonly incidents: Incident[] = []
  /** Objects that are rotten and could not be mended -> Clock.now() of the last try */
  private readonly unmended = new Map<StoredObject, number>()
  private readonly running = new Map<StoredObject, Promise<boolean>>()
  private stopped = false

  constructor(private readonly options: MenderOptions) {}

  /** Objects that are rotten */
  get rotten(): number {
    for (const object of this.unmended.keys()) if (object.removed) this.unmended.delete(object)
    return this.unmended.size
  }

  stop(): void {
    this.stopped = true
  }

  /** Makes the known rot of an object good; whether all of it is. Never throws but for the disk's own failure. */
  mend(object: StoredObject, patiently = false): Promise<boolean> {
    const { clock } = this.options
    const last = this.unmended.get(object)
    if (!patiently && last !== undefined && clock.now() - last < RETRY_MS) return Promise.resolve(false)
    let work = this.running.get(object)
    if (work === undefined) {
      work = this.work(object).finally(() => this.running.delete(object))
      this.running.set(object, work)
    }
    return work
  }

  /** Those that could not be mended, again: others may have come back. */
  async mendAll(): Promise<void> {
    for (const object of [...this.unmended.keys()]) {
      if (this.stopped) return
      if (object.removed) this.unmended.delete(object)
      else await this.mend(object, true)
    }
  }

  report(incident: Incident): void {
    this.incidents.push(incident)
    if (this.incidents.length > INCIDENTS_MAX) this.incidents.shift()
  }

  private async work(object: StoredObject): Promise<boolean> {
    const { store, clock } = this.options
    if (object.unreadable && !object.removed && !(await this.find(object))) {
      this.unmended.set(object, clock.now())
      return false
    }
    const damage = object.removed ? null : await store.damage(object)
    if (damage === null) {
      this.unmended.delete(object)
      return true
    }
    const isNew = !this.unmended.has(object)
    if (isNew) this.counters.found += damage.chunks.length
    let whole = true
    for (const [i, chunk] of damage.chunks.entries()) {
      if (this.stopped || object.removed) return false
      const from = await this.mendChunk(object, damage, chunk)
      if (from === '' && !isNew) {
        whole = false
        continue
      }
      if (from === '') whole = false
      else this.counters.repaired++
      this.say(object, damage.shift, chunk, from, damage.sums[i])
    }
    if (whole) this.unmended.delete(object)
    else if (!object.removed) this.unmended.set(object, clock.now())
    return whole
  }

  /**
   * The disk could not read some of it. What checksums speak for is damage from now on, as any rot. Of the rest, a gap, nobody can prove
   * what it held: recovery takes another copy, if one is as right and whole. If none is here, this one goes on serving what can be read of
   * it, and others that need a copy wait; until the gap is written, or an administrator gives it up: then it is zeros. False: still a gap.
   */
  private async find(object: StoredObject): Promise<boolean> {
    const { store, clock, topology, replica, recovery, copiesOf, log } = this.options
    const { oid } = object
    object.unreadable = false
    await store.verify(object, () => sleep(clock, 0))
    const gaps = object.removed ? 0 : await store.gaps(object, false)
    if (gaps === 0 || object.removed) {
      object.gapIn = 0
      return true
    }
    // Until it is known who has it, whoever comes next asks again.
    object.unreadable = true
    const { epoch } = topology
    const copies = copiesOf(vidOf(oid))
    if (gaps < 0 || topology.current === null || copies === 0) return false
    const others = await recovery.inquiry.ask(oid, epoch)
    if (others === null || topology.epoch !== epoch || object.removed) return false
    const { inquiry } = recovery
    const own = { ...inquiry.ownReport(oid, copies), gap: true }
    const verdict = decide(topology, oid, copies, own, others, true, inquiry.createdIn(oid))
    if (verdict.kind === 'take') {
      // Recovery takes it then.
      object.unreadable = false
      replica.doubt(object)
      replica.ensurer?.ensure(oid, { resume: () => {} })
    } else if (verdict.kind === 'keep') {
      if (object.gapIn === 0) {
        object.gapIn = epoch
        log(
          'error',
          `${gaps * 4} KiB of ${store.pathOf(oid)} cannot be read, and no other node has it (dog cluster lost)`,
        )
      }
      if ((topology.accepted(oid)?.epoch ?? 0) > object.gapIn) return this.giveUp(object, epoch)
    }
    return false
  }

  /** What cannot be read was given up: zeros take its place. */
  private async giveUp(object: StoredObject, epoch: number): Promise<boolean> {
    const { store, replica, topology, copiesOf, log } = this.options
    const { oid } = object
    const copies = copiesOf(vidOf(oid))
    // Zeros in an index would say that nothing is there, and what is there would be removed.
    if (kindOf(oid) === KIND_INODE) return false
    // One that is no replica any more has what the others wait for.
    if (object.suspect || (topology.holds(oid, copies) && !replica.isValid(object))) return false
    if (replica.activeEpoch !== epoch) return false
    replica.began()
    try {
      const result = object.intent ? 0 : await completed((done) => store.addIntent(object, done))
      if (result < 0 || object.removed || topology.epoch !== epoch) return false
      // What was away with other bytes must not count as equal when it comes back.
      store.setWriteEpoch(object, replica.validThrough(object, copies))
      const gaps = await store.gaps(object, true)
      if (gaps < 0 || object.removed) return false
      object.unreadable = false
      object.gapIn = 0
      replica.hot.add(object)
      replica.sealing.add(object)
      log('warning', `${gaps * 4} KiB of ${oidToHex(oid)} could not be read and were given up: they are zeros now`)
      return true
    } finally {
      replica.ended()
    }
  }

  /** The node whose bytes were right; '' none. */
  private async mendChunk(object: StoredObject, { shift }: Damage, chunk: number): Promise<string> {
    const { store, topology, replica, copiesOf, log } = this.options
    const copies = copiesOf(vidOf(object.oid))
    if (topology.current === null || copies === 0) return ''
    const replicas = topology.replicas(object.oid, copies)
    // Who was a replica until this epoch keeps its copy until all have theirs: it may be the last one that is right.
    const former = topology.peers().filter((node) => !replicas.includes(node))
    for (const node of [...replicas, ...former]) {
      if (node.id === topology.self) continue
      const bytes = await this.fetch(node.id, object.oid, chunk * 2 ** shift, 2 ** shift)
      if (bytes === null) continue
      if (object.removed) return ''
      replica.began()
      const result = await store.mend(object, chunk, bytes).finally(() => replica.ended())
      if (result === 0) return node.name
      if (result === ECANCELED) continue
      log('error', `a rotten chunk of ${oidToHex(object.oid)} cannot be written`, { errno: -result })
      return ''
    }
    return ''
  }

  /** null: it does not answer, or has no copy. */
  private async fetch(node: string, oid: Oid, position: number, length: number): Promise<Buffer | null> {
    const { peers, topology } = this.options
    const buffer = Buffer.allocUnsafe(length)
    for (let at = 0; at < length; at += PIECE) {
      const piece = buffer.subarray(at, Math.min(at + PIECE, length))
      const got = await new Promise<number>((resolve) => {
        peers.submit(
          node,
          new RecoveryRead(topology.epoch, oid, position + at, piece.length, piece, resolve, FLAG_AS_IS),
        )
      })
      if (got < piece.length) return null
    }
    return buffer
  }

  private say(object: StoredObject, shift: number, chunk: number, from: string, sum: number): void {
    const { log, clock, store } = this.options
    const oid = oidToHex(object.oid)
    const position = chunk * 2 ** shift
    const length = 2 ** shift
    const outcome = from === '' ? 'unrepaired' : 'repaired'
    const detail = from === '' ? 'no replica has bytes that match the checksum' : `from ${from}`
    this.report({
      time: clock.wall(),
      oid,
      vid: vidOf(object.oid),
      kind: 'bit-rot',
      path: store.pathOf(object.oid),
      position,
      length,
      outcome,
      detail,
    })
    log(from === '' ? 'error' : 'notice', `bit-rot in ${store.pathOf(object.oid)}: ${outcome}, ${detail}`, {
      object: oid,
      position,
      length,
      sum,
    })
  }
}
