/**
 * Drops copies that nobody needs: outside this node's share once all nodes have recovered the epoch, or of VDIs that the
 * registry does not know. In steps, so that a full store holds up nothing.
 */
import type { Clock, Log } from '../host/interfaces.js'
import type { Replica } from '../replication/replica.js'
import type { Topology } from '../replication/topology.js'
import type { ObjectStore } from '../store/types.js'
import { vidOf } from '../vdi/oid.js'

const STEP = 1_000
/** So long one step may take, ms: removing a file waits for a disk that is busy */
const STEP_MS = 20

export interface PurgeParts {
  store: ObjectStore
  topology: Topology
  replica: Replica
  clock: Clock
  log: Log
  copiesOf: (vid: number) => number
  /** False as soon as the epoch has moved on */
  mayGoOn: () => boolean
}

export function purge(parts: PurgeParts): void {
  const { store, topology, replica, clock, log, copiesOf, mayGoOn } = parts
  const objects = store.all()
  let dropped = 0
  const step = () => {
    if (!mayGoOn()) return
    const began = clock.now()
    for (let seen = 0; seen < STEP && clock.now() - began < STEP_MS; seen++) {
      const next = objects.next()
      if (next.done === true) {
        if (dropped > 0) log('info', `dropped ${dropped} copies that other nodes hold now`)
        return
      }
      const object = next.value
      // Written in this epoch: whoever wrote it knows a registry that is newer than ours.
      if (object.removed || object.writeEpoch >= topology.epoch) continue
      const copies = copiesOf(vidOf(object.oid))
      if (copies > 0 && topology.holds(object.oid, copies)) continue
      replica.discard(object)
      dropped++
    }
    clock.after(0, step)
  }
  step()
}
