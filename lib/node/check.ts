/**
 * `dog vdi check`: reads all replicas of a VDI's objects, compares each with its checksums and with the others, and repairs.
 * Rot is mended as soon as it is seen, like everywhere. An object that differs while its VDI is being written is looked at
 * again with the writes held back, so that what is reported is true.
 */
import type { NodeInfo } from '../cluster/types.js'
import type { CheckProblem, CheckReport, Progress } from '../control/services.js'
import { asSheepError, SheepError } from '../errors.js'
import type { Gateway } from '../gateway/gateway.js'
import type { Clock } from '../host/interfaces.js'
import { digestOf, grainsOf } from '../replication/grains.js'
import type { CallHandler } from '../replication/peer-session.js'
import type { Peers } from '../replication/peers.js'
import type { Recovery } from '../replication/recovery.js'
import type { Replica } from '../replication/replica.js'
import { sleep } from '../replication/sleep.js'
import type { Topology } from '../replication/topology.js'
import type { ObjectStore, StoredObject } from '../store/types.js'
import { entriesFor } from '../vdi/inode.js'
import { readIndex } from '../vdi/inode-io.js'
import { dataOid, indexOf, inodeOid, KIND_INODE, kindOf, type Oid, oidToHex, vidOf } from '../vdi/oid.js'
import type { Registry } from '../vdi/registry.js'
import type { VdiEntry } from '../vdi/types.js'

const OBJECTS_AT_ONCE = 4
/** So long an object's replicas may be out of reach, ms, and so often they are asked: a silent node is a replica no more before that ends */
const REACH_MS = 30_000
const RETRY_MS = 200

export interface CheckParts {
  store: ObjectStore
  topology: Topology
  replica: Replica
  recovery: Recovery
  peers: Peers
  gateway: Gateway
  registry: () => Registry
  clock: Clock
  /** Makes the known rot of an object good; whether all of it is */
  mend: (object: StoredObject) => Promise<boolean>
}

interface Copy {
  node: NodeInfo
  state: 'present' | 'missing' | 'unreadable'
  valid: boolean
  /** Some of it did not match its checksums: mended, or not */
  rot: '' | 'mended' | 'rotten'
  /** '' of one that is rotten */
  digest: string
  bytes: number
}

type OwnCopy = Pick<Copy, 'valid' | 'rot' | 'digest' | 'bytes'> & { present: boolean }

export class Checker {
  constructor(private readonly parts: CheckParts) {}

  /** Handlers of the calls `digest` and `retake`. */
  calls(): Map<string, CallHandler> {
    const digest: CallHandler = async (argument) => ({
      json: await this.digestHere(oidIn(argument)),
      body: Buffer.alloc(0),
    })
    const retake: CallHandler = async (argument) => {
      const { from } = argument as { from?: unknown }
      if (typeof from !== 'string') throw new SheepError('invalid', 'retake names no source')
      await this.parts.recovery.retake(oidIn(argument), from)
      return { json: null, body: Buffer.alloc(0) }
    }
    return new Map([
      ['digest', digest],
      ['retake', retake],
    ])
  }

  async check(entries: readonly VdiEntry[], repair: boolean, progress: Progress): Promise<CheckReport> {
    const oids = await this.objectsOf(entries)
    const report: CheckReport = { objects: oids.length, bytes: 0, problems: [] }
    const total = oids.reduce((sum, { size }) => sum + size, 0)
    let done = 0
    let next = 0
    const worker = async () => {
      while (next < oids.length && !progress.cancelled) {
        const { oid, size } = oids[next++]
        report.problems.push(...(await this.checkObject(oid, entries, repair, report)))
        done += size
        progress.report(done, total, '')
      }
    }
    await Promise.all(Array.from({ length: OBJECTS_AT_ONCE }, worker))
    report.problems.sort((a, b) => (a.oid < b.oid ? -1 : 1))
    return report
  }

  /** Each object once, though several snapshots refer to it; inode objects first. */
  private async objectsOf(entries: readonly VdiEntry[]): Promise<{ oid: Oid; size: number }[]> {
    const found = new Map<Oid, number>()
    for (const entry of entries) {
      const size = 2 ** entry.blockSizeShift
      found.set(inodeOid(entry.vid), size)
      const count = entriesFor(entry.size, entry.blockSizeShift)
      const index = await readIndex(this.parts.gateway.io, entry.vid, 0, count)
      for (let i = 0; i < index.length; i++) if (index[i] !== 0) found.set(dataOid(index[i], i), size)
    }
    return [...found].map(([oid, size]) => ({ oid, size }))
  }

  private async checkObject(
    oid: Oid,
    entries: readonly VdiEntry[],
    repair: boolean,
    report: CheckReport,
  ): Promise<CheckProblem[]> {
    let copies = await this.compare(oid)
    for (const copy of copies) report.bytes += copy.bytes
    const problems: CheckProblem[] = []
    const found = (kind: CheckProblem['kind'], bad: readonly Copy[], repaired: boolean) => {
      if (bad.length === 0) return
      problems.push({ oid: oidToHex(oid), kind, nodes: bad.map((copy) => copy.node.id), repaired })
    }
    const mended = copies.filter((copy) => copy.rot === 'mended')
    found('bit-rot', mended, true)
    if (alike(copies)) return problems
    const release = await this.parts.gateway.hold(vidOf(oid))
    try {
      copies = await this.compare(oid)
      if (alike(copies) || !(await this.isNamed(oid, entries))) return problems
      const whole = copies.filter((copy) => copy.state === 'present' && copy.rot !== 'rotten')
      const rotten = copies.filter((copy) => copy.rot === 'rotten')
      if (whole.length === 0) {
        // Which bytes were right nobody can tell: what is rotten stays unreadable until it is written anew.
        found('bit-rot', rotten, false)
        if (rotten.length === 0) found('lost', copies, false)
        return problems
      }
      const good = majority(whole)
      const bad = copies.filter((copy) => !whole.includes(copy) || copy.digest !== good.digest)
      let repaired = repair
      if (repair) for (const copy of bad) repaired = (await this.repair(oid, copy.node, good.node)) && repaired
      for (const kind of ['bit-rot', 'unreadable', 'missing', 'stale', 'differs'] as const) {
        const those = bad.filter((copy) => wrongness(copy) === kind)
        found(kind, those, repaired)
      }
      return problems
    } finally {
      release()
    }
  }

  /** One of these still has it: what is being deleted goes from one replica after the other. */
  private async isNamed(oid: Oid, entries: readonly VdiEntry[]): Promise<boolean> {
    for (const { vid, createTime } of entries) {
      const isLive = () => {
        const now = this.parts.registry().get(vid)
        return now?.state === 'live' && now.createTime === createTime
      }
      if (!isLive()) continue
      if (kindOf(oid) === KIND_INODE) {
        if (inodeOid(vid) === oid) return true
        continue
      }
      try {
        const [owner] = await readIndex(this.parts.gateway.io, vid, indexOf(oid), indexOf(oid) + 1)
        if (owner === vidOf(oid)) return true
      } catch (error) {
        if (asSheepError(error).code !== 'no-object' || isLive()) throw error
      }
    }
    return false
  }

  /** A link that breaks, or a node that leaves, is no end of the check: who is a replica then is asked. SheepError unreachable */
  private async compare(oid: Oid): Promise<Copy[]> {
    const { clock } = this.parts
    const began = clock.now()
    for (;;) {
      try {
        return await this.compareNow(oid)
      } catch (error) {
        if (asSheepError(error).code !== 'unreachable' || clock.now() - began > REACH_MS) throw error
      }
      await sleep(clock, RETRY_MS)
    }
  }

  private compareNow(oid: Oid): Promise<Copy[]> {
    const { topology, gateway, peers } = this.parts
    const wanted = gateway.copiesOf(vidOf(oid))
    // Deleted since: nobody has to have it.
    const nodes = wanted === 0 ? [] : topology.replicas(oid, wanted)
    return Promise.all(
      nodes.map(async (node): Promise<Copy> => {
        try {
          const answer =
            node.id === topology.self
              ? await this.digestHere(oid)
              : ((await peers.call(node.id, 'digest', { oid })).json as OwnCopy)
          const state = answer.present ? 'present' : 'missing'
          return { node, state, valid: answer.valid, rot: answer.rot, digest: answer.digest, bytes: answer.bytes }
        } catch (error) {
          if (asSheepError(error).code !== 'io') throw error
          return { node, state: 'unreadable', valid: false, rot: '', digest: '', bytes: 0 }
        }
      }),
    )
  }

  private async repair(oid: Oid, node: NodeInfo, from: NodeInfo): Promise<boolean> {
    const { topology, peers, recovery } = this.parts
    if (node.id === topology.self) await recovery.retake(oid, from.id)
    else await peers.call(node.id, 'retake', { oid, from: from.id })
    return true
  }

  private async digestHere(oid: Oid): Promise<OwnCopy> {
    const { store, replica, recovery, clock, mend } = this.parts
    // A copy that recovery has not looked at yet would be called different: it is only not finished.
    const former = store.get(oid)
    if (former === undefined || !replica.isValid(former)) {
      await new Promise<void>((resolve) => recovery.ensure(oid, { resume: () => resolve() }))
    }
    const object = store.get(oid)
    if (object === undefined) return { present: false, valid: false, rot: '', digest: '', bytes: 0 }
    const rest = () => sleep(clock, 0)
    const known = (await store.damage(object)) !== null
    await store.verify(object, rest)
    const rotten = known || (await store.damage(object)) !== null
    const rot = !rotten ? '' : (await mend(object)) ? 'mended' : 'rotten'
    const valid = replica.isValid(object)
    if (rot === 'rotten') return { present: true, valid, rot, digest: '', bytes: 0 }
    const grains = await grainsOf(store, object)
    return { present: true, valid: replica.isValid(object), rot, digest: digestOf(grains), bytes: grains.bytes }
  }
}

function alike(copies: readonly Copy[]): boolean {
  return copies.every((copy) => copy.state === 'present' && copy.rot !== 'rotten' && copy.digest === copies[0].digest)
}

function wrongness({ state, rot, valid }: Copy): CheckProblem['kind'] {
  if (rot === 'rotten') return 'bit-rot'
  if (state !== 'present') return state
  return valid ? 'differs' : 'stale'
}

/** The copy that most agree with; the first in ring order among equals. */
function majority(copies: readonly Copy[]): Copy {
  const votes = (copy: Copy) => copies.filter((other) => other.digest === copy.digest).length
  return copies.reduce((best, copy) => (votes(copy) > votes(best) ? copy : best))
}

function oidIn(argument: unknown): Oid {
  const oid = (argument as { oid?: unknown } | null)?.oid
  if (typeof oid !== 'number' || !Number.isSafeInteger(oid)) throw new SheepError('invalid', 'the call names no object')
  return oid
}
