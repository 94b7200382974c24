/** A member that answers nothing: the cluster goes on without it. It joins again when it can. */
import type { Cluster } from '../cluster/cluster.js'
import type { NodeInfo } from '../cluster/types.js'
import { asSheepError } from '../errors.js'
import type { Clock, Log } from '../host/interfaces.js'
import type { Topology } from '../replication/topology.js'

const RETRY_MS = 5_000

export interface ExpelParts {
  cluster: Cluster
  topology: Topology
  clock: Clock
  log: Log
}

export function expeller({ cluster, topology, clock, log }: ExpelParts): (node: NodeInfo, reason: string) => void {
  const expelling = new Set<string>()
  return (node, reason) => {
    const key = `${node.id} ${topology.epoch}`
    if (expelling.has(key) || cluster.status !== 'running') return
    expelling.add(key)
    log('warning', `node ${node.name} (${node.host}:${node.port}): ${reason}; asking the cluster to go on without it`)
    cluster
      .propose({ type: 'expel', node: node.id, epoch: topology.epoch, reason })
      .catch((error: unknown) => log('warning', `expelling ${node.name}: ${asSheepError(error).message}`))
      .finally(() => clock.after(RETRY_MS, () => expelling.delete(key)))
  }
}
