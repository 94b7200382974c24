/** Asking the other nodes what they hold: of this node's whole share (the survey), or of one object. */
import type { NodeInfo } from '../cluster/types.js'
import { SheepError } from '../errors.js'
import type { Clock, Log } from '../host/interfaces.js'
import type { ObjectStore } from '../store/types.js'
import { type Oid, oidToHex, vidOf } from '../vdi/oid.js'
import type { Peers } from './peers.js'
import type { Replica } from './replica.js'
import { sleep } from './sleep.js'
import { decodeReports, encodeOids, type OidReport } from './survey.js'
import type { Topology } from './topology.js'
import { type CopyReport, isFormer, type Teller } from './validity.js'

const LIST_RETRY_MS = 100

export interface InquiryOptions {
  store: ObjectStore
  topology: Topology
  peers: Peers
  replica: Replica
  /** This node's */
  doubts: () => Teller
  clock: Clock
  log: Log
  createdIn: (vid: number) => number
  copiesOf: (vid: number) => number
}

export interface Survey {
  /** Of each object, what those say that have it */
  reports: Map<Oid, CopyReport[]>
  /** What each says of an object that it does not have */
  absent: readonly CopyReport[]
}

export class Inquiry {
  constructor(private readonly options: InquiryOptions) {}

  /**
   * What every other node says of the objects of our share that are not valid here and that any of them has. Null when
   * `goesOn` said no meanwhile.
   */
  async survey(epoch: number, goesOn: () => boolean): Promise<Survey | null> {
    const { topology, peers, log, clock } = this.options
    const doubted = new Map<string, Teller>()
    const reports = new Map<Oid, CopyReport[]>()
    await Promise.all(
      topology.peers().map(async (node) => {
        let cursor = 0
        while (goesOn()) {
          try {
            const answer = await peers.call(node.id, 'list', { epoch, node: topology.self, cursor })
            const { next, ...doubts } = answer.json as { next: number } & Teller
            doubted.set(node.id, doubts)
            for (const report of decodeReports(answer.body)) this.collect(reports, node, { ...report, ...doubts })
            cursor = next
            if (cursor < 0) return
          } catch (error) {
            if (!goesOn()) return
            log('debug', `list from ${node.name}: ${String(error)}`)
            cursor = 0
            await sleep(clock, LIST_RETRY_MS)
          }
        }
      }),
    )
    if (!goesOn()) return null
    return { reports, absent: topology.peers().map((node) => absentReport(node.id, doubted.get(node.id) as Teller)) }
  }

  private collect(reports: Map<Oid, CopyReport[]>, node: NodeInfo, report: OidReport & Teller): void {
    const object = this.options.store.get(report.oid)
    if (object !== undefined && this.options.replica.isValid(object)) return
    if (this.isFormer(report)) return
    const list = reports.get(report.oid)
    const copy: CopyReport = { node: node.id, present: true, ...report }
    if (list === undefined) {
      reports.set(report.oid, [copy])
      return
    }
    // A list that was begun again says some things twice; the later word counts.
    const said = list.findIndex((other) => other.node === node.id)
    if (said < 0) list.push(copy)
    else list[said] = copy
  }

  /** What every other node says of the object; null when somebody could not be asked. */
  async ask(oid: Oid, epoch: number): Promise<CopyReport[] | null> {
    try {
      return await Promise.all(this.options.topology.peers().map((node) => this.statusOf(node.id, oid, epoch)))
    } catch (error) {
      this.options.log('debug', `asking for ${oidToHex(oid)}: ${String(error)}`)
      return null
    }
  }

  async statusOf(node: string, oid: Oid, epoch: number): Promise<CopyReport & { writer: string }> {
    const answer = await this.options.peers.call(node, 'status', { epoch }, encodeOids([oid]))
    const { writers, ...doubts } = answer.json as { writers: string[] } & Teller
    const report = decodeReports(answer.body)[0]
    if (report === undefined || this.isFormer(report)) return { ...absentReport(node, doubts), writer: '' }
    return { node, present: true, ...report, ...doubts, writer: writers[0] }
  }

  /** What every node that stores, this one too, says of each of these objects. SheepError unreachable, busy. */
  async askMany(oids: readonly Oid[], epoch: number): Promise<CopyReport[][]> {
    const { topology, peers, copiesOf } = this.options
    const said = oids.map((oid): CopyReport[] => [this.ownReport(oid, copiesOf(vidOf(oid)))])
    await Promise.all(
      topology.peers().map(async ({ id }) => {
        const answer = await peers.call(id, 'status', { epoch }, encodeOids(oids))
        const { writers: _, ...doubts } = answer.json as { writers: string[] } & Teller
        const present = new Map(decodeReports(answer.body).map((report) => [report.oid, report]))
        for (const [i, oid] of oids.entries()) {
          const report = present.get(oid)
          const isThere = report !== undefined && !this.isFormer(report)
          said[i].push(isThere ? { node: id, present: true, ...report, ...doubts } : absentReport(id, doubts))
        }
      }),
    )
    if (topology.epoch !== epoch) throw new SheepError('busy', `epoch ${epoch} is past`, 'try again in a moment')
    return said
  }

  /** That node has not heard of the VDI yet, and so not dropped what it has of the vid's former one. */
  private isFormer(report: OidReport): boolean {
    return isFormer(report.writeEpoch, this.createdIn(report.oid))
  }

  /** See decide() */
  createdIn(oid: Oid): number {
    return this.options.createdIn(vidOf(oid))
  }

  ownReport(oid: Oid, copies: number): CopyReport {
    const { store, replica, topology, doubts } = this.options
    const object = store.get(oid)
    if (object === undefined) return absentReport(topology.self, doubts())
    return {
      node: topology.self,
      present: true,
      writeEpoch: object.writeEpoch,
      validThrough: replica.validThrough(object, copies),
      settledThrough: replica.settledThrough(object, copies),
      suspect: object.suspect,
      incomplete: object.incomplete,
      hot: object.intent && object.writer !== '',
      gap: object.gapIn > 0,
      keptThrough: replica.keptThrough(object, copies),
      ...doubts(),
    }
  }
}

function absentReport(node: string, doubts: Teller): CopyReport {
  const worth = { writeEpoch: 0, validThrough: 0, settledThrough: 0, keptThrough: 0 }
  const nothing = { ...worth, suspect: false, incomplete: false, hot: false, gap: false }
  return { node, present: false, ...nothing, ...doubts }
}
