/** The answering side of recovery's questions, and their binary form: 24 bytes an object. */
import { SheepError } from '../errors.js'
import type { Clock } from '../host/interfaces.js'
import { putU32, u32 } from '../protocol/header.js'
import type { ObjectStore, StoredObject } from '../store/types.js'
import { highWord, lowWord, type Oid, oidFromWords, vidOf } from '../vdi/oid.js'
import { encodeGrains, grainsOf } from './grains.js'
import type { CallHandler } from './peer-session.js'
import type { CallAnswer } from './peers.js'
import type { Replica } from './replica.js'
import { sleep } from './sleep.js'
import type { Topology } from './topology.js'
import type { Teller } from './validity.js'

const REPORT_BYTES = 24
/** What has room beside the four bits */
const KEPT_MAX = 2 ** 28 - 1
/** Objects looked at per call, so that no call holds up the event loop for long. */
const LIST_STEP = 4_096

export interface OidReport {
  oid: Oid
  writeEpoch: number
  validThrough: number
  settledThrough: number
  suspect: boolean
  incomplete: boolean
  hot: boolean
  gap: boolean
  keptThrough: number
}

export function encodeReports(reports: readonly OidReport[]): Buffer {
  const bytes = Buffer.alloc(reports.length * REPORT_BYTES)
  let at = 0
  for (const report of reports) {
    putU32(bytes, at, lowWord(report.oid))
    putU32(bytes, at + 4, highWord(report.oid))
    putU32(bytes, at + 8, report.writeEpoch)
    putU32(bytes, at + 12, report.validThrough)
    putU32(
      bytes,
      at + 16,
      (report.suspect ? 1 : 0) +
        (report.incomplete ? 2 : 0) +
        (report.hot ? 4 : 0) +
        (report.gap ? 8 : 0) +
        Math.min(report.keptThrough, KEPT_MAX) * 16,
    )
    putU32(bytes, at + 20, report.settledThrough)
    at += REPORT_BYTES
  }
  return bytes
}

/** SheepError invalid on garbage. */
export function decodeReports(bytes: Buffer): OidReport[] {
  const reports: OidReport[] = []
  for (let at = 0; at + REPORT_BYTES <= bytes.length; at += REPORT_BYTES) {
    const oid = oidFromWords(u32(bytes, at + 4), u32(bytes, at))
    if (oid < 0) throw new SheepError('invalid', 'a report names no object')
    reports.push({
      oid,
      writeEpoch: u32(bytes, at + 8),
      validThrough: u32(bytes, at + 12),
      settledThrough: u32(bytes, at + 20),
      suspect: (u32(bytes, at + 16) & 1) !== 0,
      incomplete: (u32(bytes, at + 16) & 2) !== 0,
      hot: (u32(bytes, at + 16) & 4) !== 0,
      gap: (u32(bytes, at + 16) & 8) !== 0,
      keptThrough: u32(bytes, at + 16) >>> 4,
    })
  }
  return reports
}

export function encodeOids(oids: readonly Oid[]): Buffer {
  const bytes = Buffer.alloc(oids.length * 8)
  oids.forEach((oid, i) => {
    putU32(bytes, i * 8, lowWord(oid))
    putU32(bytes, i * 8 + 4, highWord(oid))
  })
  return bytes
}

/** SheepError invalid on garbage. */
export function decodeOids(bytes: Buffer): Oid[] {
  const oids: Oid[] = []
  for (let at = 0; at + 8 <= bytes.length; at += 8) {
    const oid = oidFromWords(u32(bytes, at + 4), u32(bytes, at))
    if (oid < 0) throw new SheepError('invalid', 'not an object id')
    oids.push(oid)
  }
  return oids
}

export interface SurveyOptions {
  store: ObjectStore
  topology: Topology
  replica: Replica
  /** This node's */
  doubts: () => Teller
  /** Whether this node serves clients, who come first */
  busy: () => boolean
  copiesOf: (vid: number) => number
  clock: Clock
  /** Brings rotten bytes back from others */
  mend: (object: StoredObject) => Promise<boolean>
  /** Another replica decides in this epoch which bytes of an object are right, of which we have no copy of this epoch */
  decided: () => void
}

/** Handlers of the calls `status`, `list`, `extents`, `grains` and `decided`. All answer only in the epoch that the asker names. */
export function surveyCalls(options: SurveyOptions): Map<string, CallHandler> {
  const { store, topology, replica, copiesOf, doubts, busy, clock, mend, decided } = options
  /** One walk over the store per asker: a later page goes on where the former ended. */
  const walks = new Map<string, { epoch: number; cursor: number; objects: IterableIterator<StoredObject> }>()

  const inEpoch = async (argument: unknown): Promise<number> => {
    const epoch = Number((argument as { epoch?: unknown } | null)?.epoch)
    if (!Number.isSafeInteger(epoch)) throw new SheepError('invalid', 'the call names no epoch')
    await replica.reached(epoch)
    if (replica.activeEpoch !== epoch) throw new SheepError('busy', `epoch ${epoch} is past`)
    return epoch
  }

  const report = (object: StoredObject, copies: number): OidReport => ({
    oid: object.oid,
    writeEpoch: object.writeEpoch,
    validThrough: replica.validThrough(object, copies),
    settledThrough: replica.settledThrough(object, copies),
    suspect: object.suspect,
    incomplete: object.incomplete,
    hot: object.intent && object.writer !== '',
    gap: object.gapIn > 0,
    keptThrough: replica.keptThrough(object, copies),
  })

  const status: CallHandler = async (argument, body, from) => {
    replica.askers.asked(from, await inEpoch(argument))
    const reports: OidReport[] = []
    const writers: string[] = []
    for (const oid of decodeOids(body)) {
      const object = store.get(oid)
      const copies = copiesOf(vidOf(oid))
      if (object === undefined || copies === 0) continue
      reports.push(report(object, copies))
      writers.push(object.writer)
    }
    return { json: { writers, ...doubts() }, body: encodeReports(reports) }
  }

  const list: CallHandler = async (argument, _body, from): Promise<CallAnswer> => {
    const epoch = await inEpoch(argument)
    replica.askers.asked(from, epoch)
    const { node, cursor } = argument as { node: unknown; cursor: unknown }
    if (typeof node !== 'string' || typeof cursor !== 'number') throw new SheepError('invalid', 'list: node, cursor')
    let walk = walks.get(from)
    if (cursor === 0) {
      walk = { epoch, cursor: 0, objects: store.all() }
      walks.set(from, walk)
    }
    if (walk === undefined || walk.epoch !== epoch || walk.cursor !== cursor) {
      throw new SheepError('busy', 'the walk was lost: begin again')
    }
    const reports: OidReport[] = []
    for (let seen = 0; seen < LIST_STEP; seen++) {
      const step = walk.objects.next()
      if (step.done === true) {
        walks.delete(from)
        return { json: { next: -1, ...doubts() }, body: encodeReports(reports) }
      }
      const object = step.value
      if (object.removed) continue
      const copies = copiesOf(vidOf(object.oid))
      if (copies > 0 && topology.holds(object.oid, copies, node)) reports.push(report(object, copies))
    }
    walk.cursor += LIST_STEP
    return { json: { next: walk.cursor, ...doubts() }, body: encodeReports(reports) }
  }

  const extents: CallHandler = async (argument) => {
    await inEpoch(argument)
    const { oid } = argument as { oid: unknown }
    const object = typeof oid === 'number' ? store.get(oid) : undefined
    const copies = object === undefined ? 0 : copiesOf(vidOf(object.oid))
    if (object === undefined || copies === 0) return { json: { extents: null }, body: Buffer.alloc(0) }
    // What goes to another node is compared first: what is rotten here must not count as true there.
    const rest = () => sleep(clock, 0)
    await store.verify(object, rest)
    const damage = (await mend(object)) ? null : await store.damage(object)
    if (object.removed) throw new SheepError('busy', 'the object was just replaced')
    const found = store.extents(object, 0, 0x80000000).map(({ offset, length }) => [offset, length])
    return {
      json: { extents: found, validThrough: replica.validThrough(object, copies), busy: busy(), damage },
      body: Buffer.alloc(0),
    }
  }

  const grains: CallHandler = async (argument) => {
    await inEpoch(argument)
    const { oid } = argument as { oid: unknown }
    const object = typeof oid === 'number' ? store.get(oid) : undefined
    if (object === undefined) return { json: { present: false }, body: Buffer.alloc(0) }
    return { json: { present: true }, body: encodeGrains(await grainsOf(store, object)) }
  }

  const decide: CallHandler = async (argument) => {
    await inEpoch(argument)
    decided()
    return { json: null, body: Buffer.alloc(0) }
  }

  return new Map([
    ['decided', decide],
    ['status', status],
    ['list', list],
    ['extents', extents],
    ['grains', grains],
  ])
}
