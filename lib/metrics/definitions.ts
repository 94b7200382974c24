/** Every metric: its name with its unit, what it says, and where its numbers come from (https://prometheus.io/docs/practices/naming/). */
import type { ClusterStatus } from '../cluster/types.js'
import type { RequestCounts } from '../control/services.js'
import { LATENCY_BOUNDS, LATENCY_OPERATIONS } from '../gateway/latency.js'
import type { Facts } from './facts.js'

export interface Sample {
  value: number
  labels?: Record<string, string | number>
  /** Of a histogram: the name with _bucket, _sum or _count */
  metricName?: string
}

export interface Definition {
  name: string
  type: 'counter' | 'gauge' | 'histogram'
  help: string
  samples(facts: Facts): Sample[]
}

const gauge = (name: string, help: string, value: (facts: Facts) => number): Definition => {
  return { name, type: 'gauge', help, samples: (facts) => [{ value: value(facts) }] }
}
const counter = (name: string, help: string, value: (facts: Facts) => number): Definition => {
  return { name, type: 'counter', help, samples: (facts) => [{ value: value(facts) }] }
}

const STATUSES: readonly ClusterStatus[] = [
  'joining',
  'waiting-for-format',
  'waiting-for-nodes',
  'running',
  'halted',
  'expelled',
  'stopped',
]

type Served = Pick<RequestCounts, 'read' | 'write' | 'flush' | 'readBytes' | 'writeBytes'>
type Labelled = { counts: Served; labels?: Sample['labels'] }

/** Two metrics of those who are served: `sheepdog_WHOSE_requests_total` and `sheepdog_WHOSE_bytes_total`. */
function traffic(
  whose: string,
  help: Record<'requests' | 'bytes', string>,
  of: (facts: Facts) => Labelled[],
): Definition[] {
  const definition = (what: keyof typeof help, values: (counts: Served) => Record<string, number>): Definition => ({
    name: `sheepdog_${whose}_${what}_total`,
    type: 'counter',
    help: help[what],
    samples: (facts) =>
      of(facts).flatMap(({ counts, labels }) =>
        Object.entries(values(counts)).map(([operation, value]) => ({ labels: { ...labels, operation }, value })),
      ),
  })
  return [
    definition('requests', ({ read, write, flush }) => ({ read, write, flush })),
    definition('bytes', ({ readBytes, writeBytes }) => ({ read: readBytes, write: writeBytes })),
  ]
}

function durations(name: string, { latency }: Facts): Sample[] {
  return LATENCY_OPERATIONS.flatMap((operation, at) => {
    const { cumulative, seconds } = latency.report(at)
    const count = cumulative[cumulative.length - 1]
    const buckets = cumulative.map((value, bucket) => {
      const le = bucket < LATENCY_BOUNDS.length ? LATENCY_BOUNDS[bucket] : '+Inf'
      return { metricName: `${name}_bucket`, labels: { operation, le }, value }
    })
    const labels = { operation }
    return [
      ...buckets,
      { metricName: `${name}_sum`, labels, value: seconds },
      { metricName: `${name}_count`, labels, value: count },
    ]
  })
}

const DURATION = 'sheepdog_client_request_duration_seconds'

export const DEFINITIONS: readonly Definition[] = [
  {
    name: 'sheepdog_build_info',
    type: 'gauge',
    help: 'Always 1; the label is the version of the daemon.',
    samples: ({ version }) => [{ labels: { version }, value: 1 }],
  },
  {
    name: 'sheepdog_cluster_status',
    type: 'gauge',
    help: 'What this node does in the cluster: 1 for the status that it has, 0 for the others.',
    samples: ({ status }) => STATUSES.map((one) => ({ labels: { status: one }, value: one === status ? 1 : 0 })),
  },
  gauge(
    'sheepdog_cluster_quorate',
    'Whether this node serves: 1; 0 without quorum, or before it is in the cluster.',
    ({ status }) => (status === 'running' ? 1 : 0),
  ),
  gauge('sheepdog_cluster_epoch', 'Number of the newest epoch: each change of the members makes one.', (f) => f.epoch),
  gauge('sheepdog_cluster_nodes', 'Nodes of the newest epoch.', (facts) => facts.nodes),
  gauge(
    'sheepdog_cluster_recovering_nodes',
    'Nodes that do not have all of their share yet: redundancy is reduced.',
    (facts) => facts.recoveringNodes,
  ),
  gauge('sheepdog_cluster_volumes', 'Volumes of the cluster.', (facts) => facts.volumes),
  gauge('sheepdog_cluster_snapshots', 'Snapshots of the cluster.', (facts) => facts.snapshots),
  ...traffic(
    'client',
    {
      requests: 'Requests of volumes that are open on this node, by any front-end.',
      bytes: 'Bytes that clients of this node have read and written.',
    },
    ({ statistics }) => [{ counts: statistics.clients }],
  ),
  gauge('sheepdog_client_requests_in_flight', 'NBD requests under way.', ({ statistics }) => statistics.clients.active),
  {
    name: DURATION,
    type: 'histogram',
    help: 'From when a request came to its answer.',
    samples: (facts) => durations(DURATION, facts),
  },
  ...traffic(
    'volume',
    {
      requests: 'Requests of each volume since it was opened on this node.',
      bytes: 'Bytes read and written of each volume since it was opened on this node.',
    },
    ({ statistics }) => statistics.volumes.map(({ volume, ...counts }) => ({ counts, labels: { volume } })),
  ),
  ...traffic(
    'replica',
    {
      requests: 'Requests of gateways, this node among them, to the copies that it keeps.',
      bytes: 'Bytes that gateways have read from and written to the copies of this node.',
    },
    ({ statistics }) => [{ counts: statistics.peers }],
  ),
  counter(
    'sheepdog_replica_errors_total',
    'Requests to the copies of this node that failed.',
    ({ statistics }) => statistics.peerErrors,
  ),
  gauge('sheepdog_store_size_bytes', 'Space of the file systems of this node.', ({ space }) => space.total),
  gauge('sheepdog_store_free_bytes', 'Free of it.', ({ space }) => space.free),
  gauge('sheepdog_store_objects', 'Copies of objects on this node.', ({ space }) => space.objects),
  {
    name: 'sheepdog_disk_size_bytes',
    type: 'gauge',
    help: 'Space of the file system of each disk.',
    samples: ({ disks }) => disks.map(({ path, total }) => ({ labels: { path }, value: total })),
  },
  {
    name: 'sheepdog_disk_free_bytes',
    type: 'gauge',
    help: 'Free of it.',
    samples: ({ disks }) => disks.map(({ path, free }) => ({ labels: { path }, value: free })),
  },
  {
    name: 'sheepdog_disk_healthy',
    type: 'gauge',
    help: 'Whether a disk works: 0 when it failed or was unplugged; full is not a failure.',
    samples: ({ disks }) =>
      disks.map(({ path, state }) => ({ labels: { path }, value: state === 'working' || state === 'full' ? 1 : 0 })),
  },
  gauge('sheepdog_recovery_active', 'Whether this node takes copies of objects that it should have.', ({ recovery }) =>
    recovery.state === 'idle' ? 0 : 1,
  ),
  gauge(
    'sheepdog_recovery_objects',
    'Objects of the last recovery, or the one that runs.',
    (f) => f.recovery.objectsTotal,
  ),
  gauge('sheepdog_recovery_done_objects', 'Of these, those that are done.', (f) => f.recovery.objectsDone),
  gauge('sheepdog_recovery_taken_bytes', 'Bytes taken by it so far.', (facts) => facts.recovery.bytesTaken),
  gauge('sheepdog_recovery_rate_bytes_per_second', 'How fast it goes.', (facts) => facts.recovery.rate),
  gauge('sheepdog_recovery_waiting_objects', 'Objects whose copies are on nodes that are away.', ({ recovery }) =>
    recovery.waitingFor.reduce((sum, { objects }) => sum + objects, 0),
  ),
  gauge('sheepdog_scrub_active', 'Whether a scrub runs.', ({ scrub }) => (scrub.state === 'running' ? 1 : 0)),
  gauge('sheepdog_scrub_progress_ratio', 'How far it is, 0 to 1.', (facts) => facts.scrub.done),
  gauge(
    'sheepdog_scrub_last_completed_timestamp_seconds',
    'When the last whole one ended; 0 never.',
    ({ scrub }) => scrub.ended / 1000,
  ),
  gauge('sheepdog_scrub_rotten_objects', 'Objects that are rotten now: nobody has their bytes.', (f) => f.scrub.rotten),
  gauge(
    'sheepdog_scrub_diverged_objects',
    'Objects whose copies differ, each true to its checksums.',
    (f) => f.scrub.diverged,
  ),
  gauge('sheepdog_scrub_found_objects', 'Objects that the pass has found rotten.', (facts) => facts.scrub.found),
  gauge('sheepdog_scrub_repaired_objects', 'Of these, those that were mended.', (facts) => facts.scrub.repaired),
  counter('process_cpu_seconds_total', 'User and system CPU time of the daemon.', ({ statistics }) => statistics.cpu),
  gauge('process_resident_memory_bytes', 'Resident memory of the daemon.', ({ statistics }) => statistics.memory),
  gauge('sheepdog_uptime_seconds', 'How long the daemon has run.', ({ statistics }) => statistics.uptime),
]
