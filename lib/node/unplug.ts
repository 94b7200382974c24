/** May a disk be given up? Its objects are rebuilt from other copies: there must be some, and all nodes must have theirs. */
import type { Cluster } from '../cluster/cluster.js'
import { SheepError } from '../errors.js'
import type { Topology } from '../replication/topology.js'
import type { StoredObject } from '../store/types.js'
import { vidOf } from '../vdi/oid.js'

export interface UnplugParts {
  cluster: Cluster
  topology: Topology
}

/** SheepError busy, invalid: what might be lost, and what to do. */
export function refuseUnplug({ cluster, topology }: UnplugParts, objects: readonly StoredObject[]): void {
  const { registry, recovered, epoch } = cluster
  const lagging = (epoch?.nodes ?? []).filter((node) => node.vnodes > 0 && recovered.get(node.id) !== epoch?.number)
  if (lagging.length > 0 || topology.current === null) {
    throw new SheepError(
      'busy',
      `objects are still being copied on ${lagging.map((node) => node.name).join(', ') || 'this node'}`,
      'wait until dog node recovery says that it is done, or say --force: what only this disk has is lost then',
    )
  }
  for (const { oid } of objects) {
    const entry = registry.get(vidOf(oid))
    if (entry === undefined || topology.replicas(oid, entry.copies).length > 1) continue
    throw new SheepError(
      'invalid',
      `this disk has the only copy of objects of ${entry.name}`,
      'copy that VDI elsewhere first (dog vdi backup, or a VDI with more copies), or say --force to lose them',
    )
  }
}
