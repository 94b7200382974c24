/** What the control verbs need of a node (lib/control/services.ts), on a SheepNode. */
import type {
  ControlServices,
  DiskInfo,
  LogLine,
  NodePlaces,
  NodeService,
  NodeSpace,
  NodeStatistics,
  ObjectCopy,
  ObjectLocation,
  RecoveryReport,
  RequestCounts,
  ScrubReport,
  VdiService,
  VolumeCounts,
} from '../control/services.js'
import { UsageReader } from '../control/usage.js'
import { LOG_LINES_MAX } from '../control/verbs.js'
import { SheepError } from '../errors.js'
import type { CallHandler } from '../replication/peer-session.js'
import type { SdServices } from '../sd/session.js'
import { entriesFor } from '../vdi/inode.js'
import { readIndex } from '../vdi/inode-io.js'
import { formatReference } from '../vdi/name.js'
import { dataOid, inodeOid, type Oid, oidToHex, vidOf } from '../vdi/oid.js'
import { liveParent } from '../vdi/tree.js'
import type { VdiEntry } from '../vdi/types.js'
import type { SheepNode } from './node.js'

/** What only the process around the node knows. */
export interface ProcessFacts {
  version: string
  /** seconds */
  uptime(): number
  /** user and system time, seconds */
  cpu(): number
  /** resident, bytes */
  memory(): number
  recentLog(lines: number): LogLine[]
  requestStop(reason: string): void
  clients(): RequestCounts
  places: NodePlaces
}

interface LocatedCopy {
  present: boolean
  valid: boolean
  used: number
}

/** One for a node: it remembers what lists ask for again and again. */
export function controlServices(node: SheepNode, facts: ProcessFacts): ControlServices {
  return {
    version: facts.version,
    clock: node.parts.clock,
    random: node.parts.random,
    log: node.parts.log,
    cluster: node.cluster,
    volumes: node.gateway,
    vdis: vdiService(node),
    node: (id) => nodeService(node, facts, id),
    check: (entries, repair, progress) => node.checker.check(entries, repair, progress),
    lost: (name, progress) => node.lost.find(name, progress),
    acceptLost: (objects, zeros) => node.lost.accept(objects, zeros),
    locate: (entry, index) => locate(node, entry, index),
  }
}

/** Calls by which other nodes ask this one: "node.space", "node.recovery", ... and "locate". */
export function serviceCalls(node: SheepNode, facts: ProcessFacts): Map<string, CallHandler> {
  const here = localService(node, facts)
  const answer = async (json: unknown) => ({ json, body: Buffer.alloc(0) })
  return new Map<string, CallHandler>([
    ['node.space', async () => answer(await here.space())],
    ['node.recovery', async () => answer(await here.recovery())],
    ['node.statistics', async () => answer(await here.statistics())],
    ['node.disks', async () => answer(await here.disks())],
    ['node.places', async () => answer(await here.places())],
    ['node.plug', async (argument) => answer(await here.plug(String((argument as { path?: unknown })?.path)))],
    [
      'node.unplug',
      async (argument) => {
        const { disk, force } = (argument ?? {}) as { disk?: unknown; force?: unknown }
        return answer(await here.unplug(String(disk), force === true))
      },
    ],
    ['node.log', async (argument) => answer(await here.log(Number((argument as { lines?: unknown })?.lines ?? 100)))],
    ['node.scrub', async (argument) => answer(await here.scrub(actionIn(argument)))],
    ['node.stop', async () => answer(await here.stop())],
    ['locate', async (argument) => answer(locateHere(node, Number((argument as { oid?: unknown })?.oid)))],
  ])
}

// --- one node -----------------------------------------------------------------------------------------------------

function nodeService(node: SheepNode, facts: ProcessFacts, id: string): NodeService {
  if (id === node.parts.self.id) return localService(node, facts)
  const ask = async <T>(method: string, argument: unknown = null) => (await node.ask(id, method, argument)) as T
  if (node.topology.node(id) === undefined) {
    throw new SheepError('not-found', `no node ${id}`, 'dog node list shows the members')
  }
  return {
    space: () => ask<NodeSpace>('node.space'),
    recovery: () => ask<RecoveryReport>('node.recovery'),
    statistics: () => ask<NodeStatistics>('node.statistics'),
    disks: () => ask<DiskInfo[]>('node.disks'),
    places: () => ask<NodePlaces>('node.places'),
    plug: (path) => ask<DiskInfo[]>('node.plug', { path }),
    unplug: (disk, force) => ask<string>('node.unplug', { disk, force }),
    log: (lines) => ask<LogLine[]>('node.log', { lines }),
    scrub: (action) => ask<ScrubReport>('node.scrub', { action }),
    stop: () => ask<void>('node.stop'),
  }
}

function localService(node: SheepNode, facts: ProcessFacts): NodeService {
  const space = (): NodeSpace => {
    const { total, free } = node.store.space()
    return { total, free, used: total - free, objects: node.store.count }
  }
  return {
    space: async () => space(),
    recovery: async () => {
      const { since, ...progress } = node.recovery.progress()
      return { ...progress, seconds: (node.parts.clock.now() - since) / 1000 }
    },
    statistics: async () => {
      const { counters } = node.replica
      const peers: RequestCounts = {
        active: 0,
        total: counters.reads + counters.writes + counters.flushes,
        read: counters.reads,
        write: counters.writes,
        flush: counters.flushes,
        remove: 0,
        readBytes: counters.readBytes,
        writeBytes: counters.writeBytes,
      }
      return {
        ...{ uptime: facts.uptime(), cpu: facts.cpu(), memory: facts.memory() },
        ...{ clients: facts.clients(), peers, peerErrors: counters.errors },
        volumes: volumeCounts(node),
      }
    },
    disks: async () => node.store.report(),
    places: async () => facts.places,
    plug: async (path) => {
      await node.disks.plug(path)
      return node.store.report()
    },
    unplug: (disk, force) => node.disks.unplug(disk, force),
    log: async (lines) => facts.recentLog(Math.min(Math.max(1, lines), LOG_LINES_MAX)),
    scrub: async (action) => {
      if (action === 'start') node.scrub.start()
      if (action === 'stop') node.scrub.halt()
      return scrubReport(node)
    },
    stop: async () => facts.requestStop('dog node kill'),
  }
}

/** In one answer */
const VOLUMES_MAX = 256

function volumeCounts(node: SheepNode): VolumeCounts[] {
  const counts = node.gateway.volumes().map(({ volume }) => {
    const { reads, writes, flushes, readBytes, writeBytes } = volume.counters
    const { name, tag } = volume.entry
    return { volume: formatReference(name, tag), read: reads, write: writes, flush: flushes, readBytes, writeBytes }
  })
  return counts.sort((a, b) => b.read + b.write - a.read - a.write).slice(0, VOLUMES_MAX)
}

function actionIn(argument: unknown): 'status' | 'start' | 'stop' {
  const action = (argument as { action?: unknown } | null)?.action
  if (action !== 'status' && action !== 'start' && action !== 'stop') throw new SheepError('invalid', 'scrub: action')
  return action
}

function scrubReport(node: SheepNode): ScrubReport {
  const incidents = node.scrub.mender.incidents.map((incident) => {
    const entry = node.cluster.registry.get(incident.vid)
    const volume = entry?.state === 'live' ? formatReference(entry.name, entry.tag) : ''
    return { ...incident, volume }
  })
  return { ...node.scrub.progress(), incidents }
}

// --- VDIs ---------------------------------------------------------------------------------------------------------

export function vdiService(node: SheepNode): VdiService {
  const { operations } = node
  const reader = new UsageReader({ io: node.gateway.io, clock: node.parts.clock, cluster: node.cluster })
  return {
    create: ({ name, size, copies, blockSizeShift, preallocate, onNoQuorum }, progress) =>
      operations.create(
        {
          name,
          size,
          preallocated: preallocate,
          ...(copies > 0 ? { copies } : {}),
          ...(blockSizeShift > 0 ? { blockSizeShift } : {}),
          ...(onNoQuorum === null ? {} : { onNoQuorum }),
        },
        (done, total) => progress.report(done, total, 'preallocating'),
      ),
    setOnNoQuorum: (name, ms) => operations.setOnNoQuorum(name, ms),
    snapshot: (name, tag) => operations.snapshot(name, tag),
    clone: (source, snapshot, name) => operations.clone(source, snapshot, name),
    rollback: (name, snapshot) => operations.rollback(name, snapshot),
    delete: (name, snapshot, progress) =>
      operations.delete(name, snapshot, (done, total) => progress.report(done, total, 'freeing')),
    resize: (name, size, shrink) => operations.resize(name, size, shrink),
    rename: (name, newName) => operations.rename(name, newName),
    usage: (entries) => reader.usage(entries),
    locks: () => node.cluster.registry.locks(),
    migration: (vid) => node.cluster.registry.migrationOf(vid),
    breakLock: (entry, seen) => node.gateway.handOver.break(entry, seen),
    announceMigration: (entry, to, ms) => node.gateway.handOver.announce(entry, to, ms),
    cancelMigration: (entry) => node.gateway.handOver.cancel(entry),
    finishMigration: (entry) => node.gateway.handOver.finish(entry),
    entry: (vid) => {
      const entry = node.cluster.registry.get(vid)
      return entry?.state === 'live' ? entry : undefined
    },
    liveParent: (vid) => liveParent(node.cluster.registry, vid),
  }
}

async function locate(node: SheepNode, entry: VdiEntry, index: number): Promise<ObjectLocation> {
  let owner = entry.vid
  let oid: Oid = inodeOid(entry.vid)
  if (index >= 0) {
    if (index >= entriesFor(entry.size, entry.blockSizeShift)) {
      const last = entriesFor(entry.size, entry.blockSizeShift) - 1
      throw new SheepError('invalid', `"${entry.name}" has no object ${index}`, `its last one is ${last}`)
    }
    owner = (await readIndex(node.gateway.io, entry.vid, index, index + 1))[0]
    oid = dataOid(owner === 0 ? entry.vid : owner, index)
  }
  const expected = node.topology.replicas(oid, node.gateway.copiesOf(vidOf(oid)))
  const others = node.topology.storing().filter((candidate) => !expected.some((replica) => replica.id === candidate.id))
  const copies = await Promise.all(
    [...expected, ...others].map(async (replica): Promise<ObjectCopy> => {
      const isExpected = expected.includes(replica)
      try {
        const found = (await node.ask(replica.id, 'locate', { oid })) as LocatedCopy
        const state = !found.present ? 'missing' : found.valid && isExpected ? 'valid' : 'stale'
        return { node: replica.id, expected: isExpected, state, used: found.used }
      } catch {
        // Not an error of the question: the table says that this node could not be asked.
        return { node: replica.id, expected: isExpected, state: 'unknown', used: 0 }
      }
    }),
  )
  return {
    oid: oidToHex(oid),
    index,
    owner,
    copies: copies.filter((copy) => copy.expected || copy.state === 'stale'),
  }
}

function locateHere(node: SheepNode, oid: Oid): LocatedCopy {
  const object = node.store.get(oid)
  if (object === undefined) return { present: false, valid: false, used: 0 }
  return { present: true, valid: node.replica.isValid(object), used: node.store.usedBytes(object) }
}

/** What clients of the old protocol need. */
export function sdServices(node: SheepNode): SdServices {
  const { cluster, gateway, operations } = node
  return {
    cluster,
    volumes: gateway,
    io: gateway.io,
    log: node.parts.log,
    entry: (vid) => cluster.registry.get(vid),
    *usedVids() {
      for (const entry of cluster.registry.all()) yield entry.vid
    },
    create: (name, size, copies, blockSizeShift) =>
      operations.create({
        name,
        size,
        ...(copies > 0 ? { copies } : {}),
        ...(blockSizeShift > 0 ? { blockSizeShift } : {}),
      }),
    clone: (base, name) => operations.clone(base.name, String(base.snapId), name),
    async snapshot(working, tag) {
      await operations.snapshot(working.name, tag)
      return gateway.find(working.name, '')
    },
    remove: (entry) => operations.delete(entry.name, entry.snapshotTime === 0 ? '' : String(entry.snapId)),
  }
}
