/** What of this node's share a survey has found not to be valid here. */
import type { Clock } from '../host/interfaces.js'
import type { ObjectStore } from '../store/types.js'
import { type Oid, vidOf } from '../vdi/oid.js'
import type { Survey } from './inquiry.js'
import type { Replica } from './replica.js'
import { sleep } from './sleep.js'
import type { Topology } from './topology.js'
import type { CopyReport } from './validity.js'

/** Objects, some milliseconds of work: a daemon that stands still for longer than its lease stops serving (lib/node/lease.ts) */
const LOOKED_AT_ONCE = 2_000

export interface SurveyedOptions {
  store: ObjectStore
  replica: Replica
  topology: Topology
  copiesOf: (vid: number) => number
  clock: Clock
}

/** Calls `wanted` for each, with what all others said of it; false: `goesOn` is not so any more. */
export async function lookThrough(
  { reports, absent }: Survey,
  { store, replica, topology, copiesOf, clock }: SurveyedOptions,
  goesOn: () => boolean,
  wanted: (oid: Oid, present: CopyReport[]) => void,
): Promise<boolean> {
  let looked = 0
  for (const object of store.all()) {
    if (++looked % LOOKED_AT_ONCE === 0) {
      await sleep(clock, 0)
      if (!goesOn()) return false
    }
    if (reports.has(object.oid) || replica.isValid(object)) continue
    const copies = copiesOf(vidOf(object.oid))
    if (copies > 0 && topology.holds(object.oid, copies)) reports.set(object.oid, [])
  }
  // Those that nobody has are on no list.
  for (const oid of topology.allAccepted) {
    const copies = copiesOf(vidOf(oid))
    if (copies > 0 && topology.holds(oid, copies) && !reports.has(oid)) reports.set(oid, [])
  }
  for (const [oid, present] of reports) {
    if (++looked % LOOKED_AT_ONCE === 0) {
      await sleep(clock, 0)
      if (!goesOn()) return false
    }
    const object = store.get(oid)
    if (object !== undefined && replica.isValid(object)) continue
    for (const report of absent) if (!present.some(({ node }) => node === report.node)) present.push(report)
    wanted(oid, present)
  }
  return true
}
