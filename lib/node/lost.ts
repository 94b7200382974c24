/**
 * `dog cluster lost`: objects of live VDIs whose newest copy is not here: it went with a disk, or with nodes that are away. It asks
 * every node what it holds and judges as recovery does (lib/replication/validity.ts), but changes nothing. What an administrator then
 * gives up is a command in the total order: it begins an epoch, and of what was written before that nobody waits for more than is left.
 */

import { ACCEPTED_MAX } from '../cluster/shape.js'
import type { Acceptance, ClusterView } from '../cluster/types.js'
import type { LostObject, Progress } from '../control/services.js'
import { asSheepError, SheepError } from '../errors.js'
import type { Gateway } from '../gateway/gateway.js'
import type { Inquiry } from '../replication/inquiry.js'
import type { Topology } from '../replication/topology.js'
import { type CopyReport, decide, type Verdict } from '../replication/validity.js'
import { entriesFor } from '../vdi/inode.js'
import { readIndex } from '../vdi/inode-io.js'
import { dataOid, indexOf, inodeOid, KIND_INODE, kindOf, type Oid, oidFromHex, oidToHex, vidOf } from '../vdi/oid.js'
import { type Registry, referenceOf } from '../vdi/registry.js'
import type { VdiEntry } from '../vdi/types.js'

/** Asked about in one call to each node. */
const BATCH = 1_024
const NAMES_MAX = 4

export interface LostParts {
  cluster: ClusterView & { readonly registry: Registry }
  topology: Topology
  gateway: Gateway
  inquiry: Pick<Inquiry, 'askMany' | 'createdIn'>
}

interface Place {
  entries: VdiEntry[]
  /** -1: the inode object */
  index: number
}

interface Whereabouts {
  reason: LostObject['reason']
  /** Ids */
  nodes: readonly string[]
}

export class Lost {
  constructor(private readonly parts: LostParts) {}

  /**
   * Of the VDIs and snapshots of this name, '' all. Of one that is being deleted its inode only: without that nobody can free the rest.
   * SheepError busy when the epoch changes meanwhile, halted.
   */
  async find(name: string, progress: Progress): Promise<LostObject[]> {
    this.mustRun()
    const { registry } = this.parts.cluster
    const named = (entry: VdiEntry) => name === '' || entry.name === name
    const entries = registry.live().filter(named)
    const deleting = [...registry.all()].filter((entry) => entry.state === 'deleting' && named(entry))
    const places = new Map<Oid, Place>()
    for (const entry of [...entries, ...deleting]) places.set(inodeOid(entry.vid), { entries: [entry], index: -1 })
    const lost = await this.examine(places, progress)
    const unreadable = new Set(lost.map(({ oid }) => oid))
    for (const entry of entries) {
      // Without its inode nobody can tell what a VDI has.
      if (progress.cancelled || unreadable.has(oidToHex(inodeOid(entry.vid)))) continue
      const count = entriesFor(entry.size, entry.blockSizeShift)
      const index = await this.indexOf(entry, 0, count)
      if (index === null) {
        lost.push(await this.damaged(entry))
        continue
      }
      for (let i = 0; i < index.length; i++) {
        if (index[i] === 0) continue
        const place = places.get(dataOid(index[i], i))
        if (place === undefined) places.set(dataOid(index[i], i), { entries: [entry], index: i })
        else place.entries.push(entry)
      }
    }
    const data = new Map([...places].filter(([, { index }]) => index >= 0))
    const found = [...lost, ...(await this.examine(data, progress))]
    // What was removed while this went on is no loss.
    const wanted: LostObject[] = []
    for (const one of found) {
      const oid = oidFromHex(one.oid)
      if (progress.cancelled || (await this.isWanted(oid, places.get(oid) as Place))) wanted.push(one)
    }
    return wanted
  }

  private async isWanted(oid: Oid, { entries, index }: Place): Promise<boolean> {
    for (const entry of entries) {
      if (!this.isStill(entry)) continue
      if (index < 0) return true
      const now = await this.indexOf(entry, index, index + 1)
      if (now === null || now[0] === vidOf(oid)) return true
    }
    return false
  }

  /** In the same state: a deleter has not come. */
  private isStill({ vid, epoch, state }: VdiEntry): boolean {
    const now = this.parts.cluster.registry.get(vid)
    return now?.epoch === epoch && now.state === state
  }

  /** Entries [first, end); none when the VDI is gone meanwhile. Null: some of it cannot be read. */
  private async indexOf(entry: VdiEntry, first: number, end: number): Promise<Uint32Array | null> {
    try {
      return await readIndex(this.parts.gateway.io, entry.vid, first, end)
    } catch (error) {
      if (!this.isStill(entry)) return new Uint32Array(0)
      if (asSheepError(error).code !== 'io') throw error
      return null
    }
  }

  /** A copy is here, but nobody can read all of it. */
  private async damaged(entry: VdiEntry): Promise<LostObject> {
    const { topology, inquiry } = this.parts
    const oid = inodeOid(entry.vid)
    const [said] = await inquiry.askMany([oid], topology.epoch)
    const nodes = said.filter(({ present }) => present).map(({ node }) => node)
    return this.describe(oid, { entries: [entry], index: -1 }, { reason: 'unreadable', nodes }, said)
  }

  /**
   * Gives up what these objects have lost, of those that are still lost; which they were. Not a part of an index that cannot be read:
   * zeros there would say that nothing is there. SheepError invalid, busy, halted.
   */
  async accept(objects: readonly string[], zeros: boolean): Promise<string[]> {
    this.mustRun()
    const places = new Map<Oid, Place>()
    for (const object of objects) {
      const oid = oidFromHex(object)
      if (oid < 0) throw new SheepError('invalid', `${object} names no object`, 'dog cluster lost lists them')
      const entry = this.parts.cluster.registry.get(vidOf(oid))
      if (entry !== undefined)
        places.set(oid, { entries: [entry], index: kindOf(oid) === KIND_INODE ? -1 : indexOf(oid) })
    }
    const lost = await this.examine(places)
    const still = lost.filter((one) => one.index >= 0 || one.reason !== 'unreadable').map(({ oid }) => oid)
    for (let at = 0; at < still.length; at += ACCEPTED_MAX) {
      const acceptance: Acceptance = { objects: still.slice(at, at + ACCEPTED_MAX), zeros }
      await this.parts.cluster.propose({ type: 'accept', ...acceptance }, true)
    }
    return still
  }

  private mustRun(): void {
    const { status, statusReason } = this.parts.cluster
    if (status !== 'running') throw new SheepError('halted', `the cluster is ${status}: ${statusReason}`)
  }

  private async examine(places: ReadonlyMap<Oid, Place>, progress: Progress | null = null): Promise<LostObject[]> {
    const { topology, inquiry } = this.parts
    const lost: LostObject[] = []
    const oids = [...places.keys()]
    for (let at = 0; at < oids.length && progress?.cancelled !== true; at += BATCH) {
      const batch = oids.slice(at, at + BATCH)
      const said = await inquiry.askMany(batch, topology.epoch)
      for (const [i, oid] of batch.entries()) {
        const found = this.judge(oid, said[i], places.get(oid) as Place)
        if (found !== null) lost.push(found)
      }
      progress?.report(at + batch.length, oids.length, '')
    }
    return lost
  }

  /** `said`: by every node that stores, this one among them. */
  private judge(oid: Oid, said: readonly CopyReport[], { entries, index }: Place): LostObject | null {
    const { topology, gateway, inquiry } = this.parts
    const copies = gateway.copiesOf(vidOf(oid))
    if (copies === 0 || said.length === 0) return null
    // Whoever is asked comes to the same answer. What the power took is waited for two minutes, and then no longer.
    const verdict = decide(topology, oid, copies, said[0], said.slice(1), false, inquiry.createdIn(oid))
    const where = placeOf(verdict, said[0], index)
    if (where === null) return null
    return this.describe(oid, { entries, index }, where, said)
  }

  private describe(oid: Oid, { entries, index }: Place, where: Whereabouts, said: readonly CopyReport[]): LostObject {
    const left = said.filter(({ present }) => present).sort((a, b) => b.validThrough - a.validThrough)
    const size = 2 ** entries[0].blockSizeShift
    return {
      oid: oidToHex(oid),
      volumes: entries.slice(0, NAMES_MAX).map(referenceOf),
      index,
      offset: Math.max(0, index) * size,
      deleting: entries[0].state === 'deleting',
      reason: where.reason,
      nodes: where.nodes.map((id) => this.nodeName(id)),
      left:
        left.slice(0, 1).map(({ node, validThrough }) => ({ node: this.nodeName(node), epoch: validThrough }))[0] ??
        null,
    }
  }

  /** Also of one that is away. */
  private nodeName(id: string): string {
    for (const { nodes } of [...this.parts.cluster.history].reverse()) {
      const node = nodes.find((one) => one.id === id)
      if (node !== undefined) return node.name
    }
    return id
  }
}

/** Where the newest copy is, in place of all who want it. Null: here. */
function placeOf(verdict: Verdict, own: CopyReport, index: number): Whereabouts | null {
  switch (verdict.kind) {
    case 'take':
      return null
    case 'keep':
      return own.gap ? { reason: 'unreadable', nodes: [own.node] } : null
    case 'gap':
      return { reason: 'unreadable', nodes: [verdict.node] }
    case 'wait':
      return { reason: 'away', nodes: verdict.nodes }
    case 'lost':
      return { reason: 'disk', nodes: verdict.nodes }
    case 'absent':
      return { reason: 'nobody', nodes: [] }
    case 'zeros':
      // Of data it is about to be made.
      return index < 0 ? { reason: 'nobody', nodes: [] } : null
  }
}

/** What every node says to its log when an epoch begins with it. */
export function acceptanceText({ objects, zeros }: Acceptance): string {
  const what = zeros ? 'zeros' : 'the newest copies that are left, or zeros,'
  const some = objects.slice(0, NAMES_MAX).join(', ')
  const more = objects.length > NAMES_MAX ? ` and ${objects.length - NAMES_MAX} more` : ''
  return `an administrator has given up what was lost of ${objects.length} objects: ${what} take its place: ${some}${more}`
}
