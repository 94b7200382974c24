/**
 * Who may be believed about an object: the rules of docs/architecture.md, "Object versions and who may be believed".
 * Pure functions of headers, reports and the epoch history.
 */
import { mutations } from '../mutations.js'
import type { Oid } from '../vdi/oid.js'
import { type Asks, neverAsked } from './askers.js'
import type { Topology } from './topology.js'

/** What is remembered of the epochs in which changes went by; the oldest then stands for all before it. */
export const PASSED_EPOCHS_MAX = 256

/** Why what a node says proves nothing of writes in some epochs, of whatever object. */
export interface Doubts {
  /** In which its node let changes go by, of whatever object, that it did not get in the same epoch (passed-writes.ts); ascending,
   *  at most PASSED_EPOCHS_MAX */
  passedEpochs: readonly number[]
  /** The newest epoch after which the node lost a disk, 0 none: whatever it says proves nothing of writes up to it */
  lostEpoch: number
}

/** What goes with every answer about copies. */
export interface Teller extends Doubts {
  asks: Asks
}

/** What a node says of its copy of one object. */
export interface CopyReport extends Teller {
  node: string
  present: boolean
  writeEpoch: number
  /** Last epoch through which the copy is known to be valid; 0 when absent */
  validThrough: number
  /** In the intent log, with its writer gone: may hold a write that others lack, or lack one */
  suspect: boolean
  /** Last epoch through which nobody doubted it: which bytes of a suspect are right may have been decided elsewhere since */
  settledThrough: number
  /** In the intent log, with its writer at work: may hold a write that is still under way, under an older mark */
  hot: boolean
  /** Suspect, and may lack acknowledged writes, too: its host may have lost power since */
  incomplete: boolean
  /** A part of it cannot be read, and what was in that nobody can prove: it was written since its checksums were taken */
  gap: boolean
  /** Its disk was away since: the last epoch of which that says what its node had. 0: it was there all the time */
  keptThrough: number
}

export type Verdict =
  /** Our copy is right: equal to a valid one, or itself the truth */
  | { kind: 'keep' }
  /** Take the copy of this node */
  | { kind: 'take'; from: string }
  /** One of these nodes must be heard first: only they can know of a later write */
  | { kind: 'wait'; epoch: number; nodes: readonly string[] }
  /** The newest copy went with a disk of these nodes, or may have. `stale`: an older one is here */
  | { kind: 'lost'; nodes: readonly string[]; stale: boolean }
  /** The right copy is this node's, which goes on serving it; but a part of it can be read nowhere, so nobody can take it */
  | { kind: 'gap'; node: string }
  /** Nobody has it, and an administrator has given up what it held */
  | { kind: 'zeros' }
  /** No member that reported has it */
  | { kind: 'absent' }

/**
 * Last epoch through which a copy on `node` is valid, knowing that it was in `from`: as long as the node was in the
 * object's replica set in each following epoch, up to `last`, every write reached it.
 */
export function validThrough(
  topology: Topology,
  node: string,
  oid: Oid,
  copies: number,
  from: number,
  last = topology.epoch,
): number {
  let epoch = from
  while (epoch < last) {
    const next = topology.replicasIn(epoch + 1, oid, copies)
    if (next === null || !next.some((replica) => replica.id === node)) return epoch
    epoch++
  }
  return epoch
}

/**
 * What `self` does with its copy in the current epoch. `own` is our report, `others` those of every other present
 * member that stores objects (absent copies too, with present = false). `patient`: a node that is away is waited for even when
 * all it can have more than those who are here is what was acknowledged and not flushed before their hosts lost power. `createdIn`:
 * the epoch of the object's VDI, before which nobody can have had it; 0 when that is not known.
 */
export function decide(
  topology: Topology,
  oid: Oid,
  copies: number,
  own: CopyReport,
  others: readonly CopyReport[],
  patient = true,
  createdIn = 0,
): Verdict {
  const accepted = topology.accepted(oid)
  const counts = (report: CopyReport) =>
    report.present && !(accepted?.zeros === true && report.validThrough < accepted.epoch)
  const present = others.filter(counts)
  if (counts(own)) present.push(own)
  // Nobody here has it; but who held it in some epoch may be away.
  if (present.length === 0) {
    if (mutations.zerosForLost && topology.epoch > 1) return { kind: 'zeros' }
    const unheard = firstUnheardEpoch(topology, oid, copies, [], own, others, patient, createdIn)
    if (unheard !== null) return unheard
    if (accepted !== undefined) return { kind: 'zeros' }
    const nodes = [own, ...others]
      .filter(({ lostEpoch }) => lostEpoch >= Math.max(1, createdIn))
      .map(({ node }) => node)
    if (nodes.length === 0 || mutations.trustLostDisk) return { kind: 'absent' }
    return anyAway(topology, oid, copies, own, others, createdIn) ?? { kind: 'lost', nodes, stale: false }
  }

  // A valid copy that nobody doubts settles it: it has every acknowledged write.
  // While one was doubted no write reached it, and what is right was decided by those who were not.
  const settled = Math.max(0, ...present.filter(({ incomplete }) => !incomplete).map((report) => report.settledThrough))
  const fit = present.filter((report) => report.settledThrough >= settled)
  const reach = newest(fit)?.validThrough ?? 0
  const best = fit.filter((report) => report.validThrough === reach)
  const unheard = firstUnheardEpoch(topology, oid, copies, best, own, others, patient, createdIn)
  if (unheard !== null) return unheard

  const trusted = best.filter((report) => !report.suspect)
  // Every acknowledged write is in a suspect whose host stayed up; in one that lost power only what was flushed.
  const complete = best.filter((report) => !report.incomplete)
  const equals = trusted.length > 0 ? trusted : complete.length > 0 ? complete : best
  const whole = equals.filter((report) => !report.gap)
  const choice = inRingOrder(topology, oid, copies, whole.length > 0 ? whole : equals)
  if (choice.incomplete && choice.validThrough >= (accepted?.epoch ?? 0)) {
    // What it lost with the power, those who were replicas beside it to its end may have: none of them is here with it. Who went on without
    // it has perhaps told its client since that it is flushed: that is waited for as a write is.
    const end = choice.validThrough
    const set = (topology.replicasIn(end, oid, copies) ?? []).map((node) => node.id)
    const unheard = set.filter((id) => reportOf(id, own, others) === undefined)
    const waits = unheard.length > 0 && (patient || unheard.some((id) => topology.wentOn(id, end)))
    if (waits) return { kind: 'wait', epoch: end, nodes: unheard }
    // One that has lost it in that epoch already promised nothing of it since, unless it gave its copy up in the next, for another's
    // (`renounce`): who was a replica then and is not here, or has lost that in its turn, may have taken it before.
    const gone = (id: string) => reportOf(id, own, others)?.lostEpoch ?? Number.POSITIVE_INFINITY
    const taken = (topology.replicasIn(end + 1, oid, copies) ?? []).some(({ id }) => gone(id) > end)
    const promised = (id: string) => (taken && gone(id) === end ? end + 1 : gone(id))
    const lost = set.filter((id) => !unheard.includes(id) && topology.wentOn(id, end, promised(id)))
    if (lost.length > 0 && !mutations.trustLostDisk) return { kind: 'lost', nodes: lost, stale: true }
  }
  if (choice.suspect) {
    // It may have a write that nobody else took, or lack one. Who was a replica since may have answered reads with other bytes: what
    // has been read does not change back.
    const last = Math.max(choice.settledThrough, (accepted?.epoch ?? 0) - 1)
    for (let epoch = topology.epoch - 1; epoch > last; epoch--) {
      const set = topology.replicasIn(epoch, oid, copies) ?? []
      const ids = set.map((node) => node.id)
      const mayHaveDecided = (id: string) => !neverAsked(id, epoch, ids, [own, ...others])
      const nodes = ids.filter((id) => reportOf(id, own, others) === undefined && mayHaveDecided(id))
      if (nodes.length > 0) return { kind: 'wait', epoch, nodes }
    }
  }
  if (choice.node === own.node) return { kind: 'keep' }
  // A copy that missed an epoch with writes has a lower writeEpoch than all sound ones; one that equals any missed none.
  const same = counts(own) && !own.suspect && !own.gap && trusted.some((report) => report.writeEpoch === own.writeEpoch)
  if (same) return { kind: 'keep' }
  if (choice.gap) return { kind: 'gap', node: choice.node }
  return { kind: 'take', from: choice.node }
}

function letPass(epochs: readonly number[], epoch: number): boolean {
  return epochs.includes(epoch) || (epochs.length === PASSED_EPOCHS_MAX && epoch < epochs[0])
}

/** With `epoch` too. `oldest`: no epoch before it is asked about any more. */
export function passedIn(epochs: readonly number[], epoch: number, oldest: number): number[] {
  const kept = epochs.length === PASSED_EPOCHS_MAX ? [...epochs] : epochs.filter((one) => one >= oldest)
  return [...kept, epoch].slice(-PASSED_EPOCHS_MAX)
}

/** Without `epoch`, the newest: what went by in it has come since. A full list stands for epochs that it does not name, and stays. */
export function passedWithout(epochs: readonly number[], epoch: number): readonly number[] {
  return epochs.length === PASSED_EPOCHS_MAX ? epochs : epochs.filter((one) => one !== epoch)
}

/** 0 is a copy being received, of which nobody knows yet. */
export function isFormer(writeEpoch: number, createdIn: number): boolean {
  return writeEpoch > 0 && writeEpoch < createdIn
}

function newest(reports: readonly CopyReport[]): CopyReport | null {
  let best: CopyReport | null = null
  for (const report of reports) if (best === null || report.validThrough > best.validThrough) best = report
  return best
}

/**
 * A write in epoch k needs every replica of k that lives through k, so one member of that set that reports and lacks
 * it proves that there was none; one that lost power, or let changes go by in k, proves nothing, but when all have reported
 * there is nobody else to ask. One that has lost a disk since proves nothing either, and then what it had may be gone for good.
 * Null when every epoch after that through which the `best` copies are valid, and before the current one, has such a witness.
 */
function firstUnheardEpoch(
  topology: Topology,
  oid: Oid,
  copies: number,
  best: readonly CopyReport[],
  own: CopyReport,
  others: readonly CopyReport[],
  patient: boolean,
  createdIn: number,
): Verdict | null {
  const reach = best[0]?.validThrough ?? 0
  let lost: Verdict | null = null
  // Who had what was written before it was accepted, an administrator has given up.
  const last = Math.max(reach, createdIn - 1, (topology.accepted(oid)?.epoch ?? 0) - 1)
  for (let epoch = topology.epoch - 1; epoch > last; epoch--) {
    const set = topology.replicasIn(epoch, oid, copies)
    // Older than the history that is kept: every known node has recovered past it, so nothing older can be newer.
    if (set === null) {
      if (lost !== null) return lost
      const gone = goneSince(best, [own, ...others])
      return gone === null ? null : (anyAway(topology, oid, copies, own, others, createdIn) ?? gone)
    }
    if (set.length === 0) continue
    const heard = set.map((node) => reportOf(node.id, own, others))
    // As in decide()
    const mayLack = (report: CopyReport): boolean =>
      report.incomplete &&
      (patient ||
        set.some(({ id }, i) => {
          const lostEpoch = heard[i]?.lostEpoch ?? Number.POSITIVE_INFINITY
          return lostEpoch >= epoch && topology.wentOn(id, report.validThrough, lostEpoch)
        }))
    const proves = (report: CopyReport): boolean =>
      !mayLack(report) &&
      (mutations.trustPassing || !letPass(report.passedEpochs, epoch)) &&
      (report.lostEpoch < epoch || mutations.trustLostDisk)
    if (heard.some((report) => report !== undefined && proves(report))) continue
    const unheard = set.filter((_, i) => heard[i] === undefined).map((node) => node.id)
    if (unheard.length > 0) return { kind: 'wait', epoch, nodes: unheard }
    const nodes = set.filter((_, i) => heard[i]!.lostEpoch >= epoch).map((node) => node.id)
    if (nodes.length > 0) lost ??= { kind: 'lost', nodes, stale: reach > 0 }
  }
  return lost
}

/**
 * Nobody that is here has it: whoever was a replica of it in some epoch and is away is the last hope. That another one lacked it then
 * may only mean that this one had lost it, and nobody was there who could tell.
 */
function anyAway(
  topology: Topology,
  oid: Oid,
  copies: number,
  own: CopyReport,
  others: readonly CopyReport[],
  createdIn: number,
): Verdict | null {
  for (let epoch = topology.epoch - 1; epoch >= createdIn; epoch--) {
    const set = topology.replicasIn(epoch, oid, copies)
    if (set === null) return null
    const nodes = set.map(({ id }) => id).filter((id) => reportOf(id, own, others) === undefined)
    if (nodes.length > 0) return { kind: 'wait', epoch, nodes }
  }
  return null
}

/**
 * Whoever recovers does not miss what nobody had any more. So when a disk comes back, each node that has lost one after that had left may
 * have had something newer, and lost it.
 */
function goneSince(best: readonly CopyReport[], all: readonly CopyReport[]): Verdict | null {
  if (best.length === 0 || best.some(({ keptThrough }) => keptThrough === 0)) return null
  const kept = Math.max(...best.map(({ keptThrough }) => keptThrough))
  const nodes = all.filter(({ lostEpoch }) => lostEpoch > kept).map(({ node }) => node)
  return nodes.length > 0 && !mutations.trustLostDisk ? { kind: 'lost', nodes, stale: true } : null
}

function reportOf(node: string, own: CopyReport, others: readonly CopyReport[]): CopyReport | undefined {
  return node === own.node ? own : others.find((report) => report.node === node)
}

function inRingOrder(topology: Topology, oid: Oid, copies: number, reports: readonly CopyReport[]): CopyReport {
  for (const node of topology.replicas(oid, copies)) {
    const report = reports.find((candidate) => candidate.node === node.id)
    if (report !== undefined) return report
  }
  return [...reports].sort((a, b) => (a.node < b.node ? -1 : 1))[0]
}
