/** What all metrics are made of: read once for each scrape, of this node and what it knows of the cluster. */
import type { ClusterStatus } from '../cluster/types.js'
import type {
  ControlServices,
  DiskInfo,
  NodeSpace,
  NodeStatistics,
  RecoveryReport,
  ScrubReport,
} from '../control/services.js'
import type { Latency } from '../gateway/latency.js'

export interface Facts {
  version: string
  status: ClusterStatus
  epoch: number
  nodes: number
  /** Of the epoch's nodes, those that do not have all of their share yet */
  recoveringNodes: number
  volumes: number
  snapshots: number
  space: NodeSpace
  disks: DiskInfo[]
  statistics: NodeStatistics
  recovery: RecoveryReport
  scrub: ScrubReport
  latency: Latency
}

export async function readFacts(services: ControlServices, latency: Latency): Promise<Facts> {
  const { cluster, version } = services
  const here = services.node(cluster.self.id)
  const [space, disks, statistics, recovery, scrub] = await Promise.all([
    here.space(),
    here.disks(),
    here.statistics(),
    here.recovery(),
    here.scrub('status'),
  ])
  const { epoch } = cluster
  const entries = services.volumes.list()
  const snapshots = entries.filter(({ snapshotTime }) => snapshotTime !== 0).length
  return {
    version,
    status: cluster.status,
    epoch: epoch?.number ?? 0,
    nodes: epoch?.nodes.length ?? 0,
    recoveringNodes: epoch?.nodes.filter(({ id }) => (cluster.recovered.get(id) ?? 0) < epoch.number).length ?? 0,
    volumes: entries.length - snapshots,
    snapshots,
    ...{ space, disks, statistics, recovery, scrub, latency },
  }
}
