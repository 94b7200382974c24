/** Wires a SheepNode to this host: store directory, engine, sockets, NBD, FUSE. */
import { CorosyncEngine } from '../lib/cluster/corosync.js'
import { ringAddress } from '../lib/cluster/corosync-library.js'
import type { Engine } from '../lib/cluster/engine.js'
import { LocalEngine } from '../lib/cluster/local.js'
import type { NodeInfo } from '../lib/cluster/types.js'
import { DEFAULT_BLOCK_SIZE_SHIFT } from '../lib/control/cluster-handlers.js'
import type { ControlServices, RequestCounts } from '../lib/control/services.js'
import { Dbus } from '../lib/dbus/dbus.js'
import { asSheepError, hintField, SheepError } from '../lib/errors.js'
import type { FilesParts } from '../lib/fuse/parts.js'
import { type FuseServer, startFuse } from '../lib/fuse/server.js'
import { Latency } from '../lib/gateway/latency.js'
import { RealClock } from '../lib/host/clock.js'
import { readClusterKey } from '../lib/host/cluster-key.js'
import type { Access } from '../lib/host/gate.js'
import { RealNetwork } from '../lib/host/network.js'
import { RealRandom } from '../lib/host/random.js'
import { POOL_PATH } from '../lib/libvirt/domain-xml.js'
import type { PoolRegistrar } from '../lib/libvirt/registrar.js'
import { type MetricsServer, startMetrics } from '../lib/metrics/server.js'
import { type NbdServer, startNbdServer } from '../lib/nbd/server.js'
import { SheepNode } from '../lib/node/node.js'
import { controlServices, type ProcessFacts, serviceCalls } from '../lib/node/services.js'
import { Session } from '../lib/node/sessions.js'
import type { NodeSettings } from '../lib/node/settings.js'
import { keyMark } from '../lib/protocol/proof.js'
import { type AttachedDisk, findDisks, type UnusableDisk } from '../lib/store/node-disks.js'
import type { NodeHooks, RunningNode } from './hooks.js'
import type { DbusOptions, SheepOptions } from './options.js'
import { registerPool } from './storage-pool.js'
import { attachStore } from './store-directory.js'
import { filesParts } from './volumes-directory.js'
import { mountStateIn, VOLUMES_DESCRIPTOR } from './volumes-mount.js'

/** How long a start waits for the cluster before it says that it is waiting. */
const READY_MS = 20_000
/** For libvirt to take its pool, before the service counts as started */
const POOL_MS = 3_000

/** SheepError: whatever keeps this node from serving, with what to do. */
export async function createNode(
  options: SheepOptions,
  disks: { attached: AttachedDisk[]; unusable: UnusableDisk[] },
  hooks: NodeHooks,
  version: string,
): Promise<RunningNode> {
  const { log } = hooks
  const clock = new RealClock()
  const random = new RealRandom()
  const found = findDisks(disks.attached, disks.unusable, { random, clock, log })
  const space = found.disks.reduce((sum, { attached }) => sum + attached.disk.space().total, 0)
  const self: NodeInfo = {
    id: found.id,
    name: options.name,
    host: options.address.host || ringAddress(),
    port: options.address.port,
    socket: options.socket,
    zone: options.zone !== '' ? options.zone : options.cluster.engine === 'local' ? found.id : options.name,
    space: options.gatewayOnly ? 0 : space,
    vnodes: 0,
  }
  const access: Access | null =
    options.keyFile === '' ? null : { key: readClusterKey(options.keyFile), self: found.id, encrypt: options.encrypt }
  let nbd: NbdServer | null = null
  let made: ControlServices | null = null
  const services = (running: SheepNode): ControlServices => {
    made ??= controlServices(running, facts)
    return made
  }
  let dbus: Dbus | null = null
  let pool: PoolRegistrar | null = null
  let volumes: FuseServer | null = null
  let metrics: MetricsServer | null = null
  const started = clock.now()
  const facts: ProcessFacts = {
    version,
    uptime: () => (clock.now() - started) / 1000,
    cpu: () => {
      const { user, system } = process.cpuUsage()
      return (user + system) / 1e6
    },
    memory: () => process.memoryUsage.rss(),
    recentLog: (lines) => hooks.recentLog(lines),
    requestStop: (reason) => hooks.requestStop(reason),
    clients: () => clientCounts(node, nbd),
    places: { nbd: options.nbd.socket, volumes: '' },
  }
  const node = await SheepNode.open({
    self,
    clock,
    random,
    disks: found,
    attach: (path) => attachStore(path, options.sync),
    network: new RealNetwork(log, self.host, access),
    keyMark: keyMark(access?.key ?? null),
    settings: settingsOf(options),
    engine: engineOf(options, log),
    log,
    listen: { ...options.listen, socket: options.socket },
    accept: (running, link) => {
      return new Session(running, services(running), link, clientOf(link, options))
    },
    calls: (running) => serviceCalls(running, facts),
    fatal: (error) => hooks.fatal(error),
    stopRequested: (reason) => hooks.requestStop(reason),
  })
  hooks.opened()
  const latency = options.metrics === null ? null : new Latency()
  node.gateway.latency = latency
  try {
    await node.start()
    nbd = await startNbdServer(
      {
        unixSocket: options.nbd.socket,
        mode: 0o660,
        group: options.nbd.group ?? undefined,
        tcp: options.nbd.tcp ?? undefined,
        tls: options.nbd.tls === null ? undefined : { directory: options.nbd.tls, verifyPeer: !options.nbd.anyClient },
        allowPlain: options.nbd.allowPlain,
      },
      node.gateway,
      log,
    )
    if (options.metrics !== null) metrics = await startMetrics(options.metrics, services(node), latency as Latency)
    if (options.dbus !== null) dbus = onBus(node, services(node), options.dbus)
    await settled(node, clock, hooks)
    // The others refuse it: that is for its administrator, not something to wait out.
    if (node.cluster.failure !== null) throw node.cluster.failure
    if (formsItself(options, node, disks.unusable.length)) await formAlone(node)
    volumes = await startVolumes(options, hooks, filesParts(node, services(node)))
    // libvirt looks into the directory as soon as it has the pool.
    if (options.registerPool) {
      pool = registerPool(node, volumes?.place ?? POOL_PATH)
      // Who starts the service may use the pool at once. At boot libvirt itself waits for this daemon.
      await Promise.race([pool.looked, hooks.stopped, new Promise<void>((resolve) => clock.after(POOL_MS, resolve))])
    }
  } catch (error) {
    pool?.stop()
    await metrics?.close()
    await dbus?.stop()
    await volumes?.close()
    await nbd?.close()
    await node.stop()
    throw error
  }
  return {
    cluster: node.cluster,
    configure(fresh) {
      node.configure(settingsOf(fresh))
      if (access !== null) access.encrypt = fresh.encrypt
    },
    async stop() {
      pool?.stop()
      await metrics?.close()
      await dbus?.stop()
      await volumes?.close()
      await nbd?.close()
      await node.stop()
    },
  }
}

/** Nothing was ever on its disks (else it would know of a cluster), and it has them all. */
function formsItself({ service, cluster }: SheepOptions, node: SheepNode, disksMissing: number): boolean {
  const isNew = node.cluster.status === 'waiting-for-format' && disksMissing === 0
  return service && cluster.engine === 'local' && isNew
}

/** So that a host where nothing is configured can be used at once. */
async function formAlone(node: SheepNode): Promise<void> {
  const clusterId = node.parts.random.hex(8)
  const blockSizeShift = DEFAULT_BLOCK_SIZE_SHIFT
  await node.cluster.propose({ type: 'format', clusterId, copies: 1, blockSizeShift, force: false })
  node.parts.log('notice', 'a cluster of this host alone, with 1 copy of everything: nothing else is configured', {
    hint: 'dog cluster init HOST1 HOST2 HOST3 makes one of several hosts, best before there are volumes here',
  })
}

/** org.sheepdog; whatever becomes of the bus, the node goes on without it. */
function onBus(node: SheepNode, services: ControlServices, bus: DbusOptions): Dbus {
  const dbus = new Dbus({ services, bus, departure: (id) => node.cluster.departure(id) })
  node.cluster.listeners.push(dbus)
  return dbus
}

function settingsOf({ scrubRate, scrubIntervalMs, recoveryLimit }: SheepOptions): NodeSettings {
  return { scrub: { rate: scrubRate, intervalMs: scrubIntervalMs }, recoveryLimit }
}

/** null: none are wanted, or none can be and nobody asked for them by name. */
async function startVolumes(options: SheepOptions, hooks: NodeHooks, parts: FilesParts): Promise<FuseServer | null> {
  const { volumes, stores } = options
  if (volumes === null) return null
  try {
    const descriptor = hooks.inherited(VOLUMES_DESCRIPTOR)
    return await startFuse({ place: volumes.place, state: mountStateIn(stores[0]), descriptor }, parts)
  } catch (error) {
    const failure = asSheepError(error)
    if (volumes.asked) throw error
    hooks.log('warning', `no volumes as files: ${failure.message}`, hintField(failure))
    return null
  }
}

function engineOf({ cluster }: SheepOptions, log: NodeHooks['log']): Engine {
  if (cluster.engine === 'local') return new LocalEngine({ directory: cluster.directory, log })
  return new CorosyncEngine({ group: cluster.group, log })
}

/** Serving, or waiting for what only people or other nodes can bring; or to be stopped. */
async function settled(node: SheepNode, clock: RealClock, hooks: NodeHooks): Promise<void> {
  const deadline = clock.now() + READY_MS
  let stopped = false
  void hooks.stopped.then(() => {
    stopped = true
  })
  while (node.cluster.status === 'joining' && !stopped) {
    if (clock.now() > deadline) {
      throw new SheepError('timeout', `not joined after ${READY_MS / 1000} s: ${node.cluster.statusReason}`)
    }
    await new Promise<void>((resolve) => clock.after(20, resolve))
  }
}

function clientOf(link: unknown, options: SheepOptions): string {
  const remote = (link as { remote?: string }).remote ?? ''
  return remote === '' ? `dog on ${options.name}` : `dog from ${remote}`
}

function clientCounts(node: SheepNode, nbd: NbdServer | null): RequestCounts {
  const { reads, writes, flushes, readBytes, writeBytes } = node.gateway.totals()
  return {
    active: (nbd?.connections() ?? []).reduce((total, connection) => total + connection.inFlight, 0),
    total: reads + writes + flushes,
    ...{ read: reads, write: writes, flush: flushes, remove: 0 },
    ...{ readBytes, writeBytes },
  }
}
