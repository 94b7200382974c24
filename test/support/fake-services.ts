/** ControlServices over volumes in memory, with answers that do not change from run to run. */
import type { ClusterView, EpochRecord, NodeInfo } from '../../lib/cluster/types.js'
import type {
  CheckReport,
  ControlServices,
  LostObject,
  NodeService,
  ObjectLocation,
  RecoveryReport,
  ScrubReport,
  VdiService,
} from '../../lib/control/services.js'
import { SheepError } from '../../lib/errors.js'
import type { Clock } from '../../lib/host/interfaces.js'
import type { VdiLock, VdiMigration } from '../../lib/vdi/types.js'
import { MemoryOpener } from './memory-volume.js'

const MIB = 2 ** 20
/** 2026-11-22 11:20:33 UTC */
const NOON = Date.UTC(2026, 10, 22, 11, 20, 33)

export const realClock: Clock = {
  now: () => performance.now(),
  wall: () => NOON,
  after(ms, fn) {
    const timer = setTimeout(fn, ms)
    return { cancel: () => clearTimeout(timer) }
  },
}

export function fakeNode(number: number): NodeInfo {
  return {
    id: `${number}`.repeat(16),
    name: `host${number}`,
    host: '10.0.0.1',
    port: 7000 + number,
    zone: `rack${number}`,
    space: 100 * 2 ** 30,
    vnodes: 128,
  }
}

type Settable<T> = { -readonly [K in keyof T]: T[K] }

export class FakeServices implements ControlServices {
  readonly version = '9.9.9'
  clock: Clock = realClock
  readonly random = { u32: () => 7, hex: (bytes: number) => '0f'.repeat(bytes) }
  readonly logged: string[] = []
  readonly log: ControlServices['log'] = (level, message) => this.logged.push(`${level}: ${message}`)
  readonly volumes = new MemoryOpener()
  readonly cluster: Settable<ClusterView>
  readonly proposed: unknown[] = []
  readonly stopped: string[] = []
  locks: VdiLock[] = []
  readonly migrations = new Map<number, VdiMigration>()
  report: CheckReport = { objects: 3, bytes: 36 * MIB, problems: [] }
  recoveries: RecoveryReport[] = []
  lostObjects: LostObject[] = []
  private asked = 0

  constructor(nodes = [fakeNode(0), fakeNode(1), fakeNode(2)]) {
    const epoch: EpochRecord = { number: 2, time: NOON + 60_000, nodes }
    this.cluster = {
      self: nodes[0],
      status: 'running',
      statusReason: '',
      config: { clusterId: 'c'.repeat(16), formatTime: NOON, copies: 3, blockSizeShift: 22 },
      epoch,
      history: [{ number: 1, time: NOON, nodes: nodes.slice(0, 2) }, epoch],
      recovered: new Map(nodes.map((node) => [node.id, 2])),
      propose: async (command) => {
        this.proposed.push(command)
        if (command.type === 'recovery') {
          const { held, limit } = this.cluster.recovery
          this.cluster.recovery = { held: command.held ?? held, limit: command.limit ?? limit }
        }
        if (command.type === 'on-no-quorum') this.cluster.onNoQuorum = command.ms
        return null
      },
      recovery: { held: false, limit: 0 },
      departed: [],
      onNoQuorum: 0,
      exclusive: (run) => run(),
    }
    this.volumes.add('disk', 96 * MIB, {
      ...{ vid: 0xab12cd, tag: 'monday', snapId: 1, createTime: NOON, snapshotTime: NOON + 120_000 },
    })
    this.volumes.add('disk', 96 * MIB, { vid: 0xab12ce, snapId: 2, parent: 0xab12cd, createTime: NOON })
    this.volumes.add('web 東京', 64 * MIB, { vid: 0x1234, parent: 0xab12cd, copies: 2, createTime: NOON + 240_000 })
    this.locks = [{ vid: 0xab12ce, node: nodes[1].id, session: 's', mode: 'write', since: NOON, holder: 'NBD client' }]
  }

  readonly vdis: VdiService = {
    create: async ({ name, size, copies, blockSizeShift, preallocate, onNoQuorum }, progress) => {
      if (this.volumes.entries.some((entry) => entry.name === name)) {
        throw new SheepError('exists', `VDI "${name}" exists`, 'choose another name')
      }
      if (preallocate) for (let done = 0; done <= size; done += size / 4) progress.report(done, size, 'preallocating')
      return this.volumes.add(name, size, {
        copies: copies || 3,
        blockSizeShift: blockSizeShift || 22,
        createTime: NOON,
        ...(onNoQuorum === null ? {} : { onNoQuorum }),
      })
    },
    snapshot: async (name, tag) => ({ ...this.volumes.find(name, ''), tag, snapshotTime: NOON }),
    clone: async (source, snapshot, name) => ({ ...this.volumes.find(source, snapshot), name, snapshotTime: 0 }),
    rollback: async (name, snapshot) => ({ ...this.volumes.find(name, snapshot), snapshotTime: 0 }),
    delete: async (name, snapshot) => {
      const entry = this.volumes.find(name, snapshot)
      if (this.locks.some((lock) => lock.vid === entry.vid)) throw new SheepError('locked', `"${name}" is open`)
      this.volumes.entries.splice(this.volumes.entries.indexOf(entry), 1)
    },
    resize: async (name, size) => Object.assign(this.volumes.find(name, ''), { size }),
    setOnNoQuorum: async (name, ms) => {
      const entry = this.volumes.find(name, '')
      if (ms === null) delete entry.onNoQuorum
      else entry.onNoQuorum = ms
      return entry
    },
    rename: async (name, newName) => {
      for (const entry of this.volumes.entries) if (entry.name === name) entry.name = newName
    },
    usage: async (entries) => entries.map((_, i) => (i === 2 ? null : { used: 4 * MIB * i, shared: 1536 * MIB })),
    locks: () => this.locks,
    migration: (vid) => this.migrations.get(vid),
    breakLock: async ({ vid, name }, seen) => {
      const broken = this.locks.filter((lock) => lock.vid === vid)
      if (!broken.some((lock) => lock.node === seen.node && lock.session === seen.session)) {
        throw new SheepError('busy', `"${name}" is open for another by now`)
      }
      this.locks = this.locks.filter((lock) => lock.vid !== vid)
      return broken
    },
    announceMigration: async ({ vid }, to, ms) => {
      this.migrations.set(vid, { vid, to, since: NOON, until: this.clock.wall() + ms })
    },
    cancelMigration: async ({ vid, name }) => {
      if (!this.migrations.delete(vid)) throw new SheepError('not-locked', `no migration of "${name}" is announced`)
    },
    finishMigration: async ({ vid }) => {
      const to = this.migrations.get(vid)?.to ?? ''
      this.migrations.delete(vid)
      this.locks = this.locks.map((lock) => (lock.vid === vid ? { ...lock, node: to } : lock))
    },
    entry: (vid) => this.volumes.list().find((entry) => entry.vid === vid),
    liveParent: (vid) => this.volumes.list().find((entry) => entry.vid === vid)?.parent ?? 0,
  }

  node(id: string): NodeService {
    if (id === '2'.repeat(16)) {
      const away = async () => {
        throw new SheepError('unreachable', 'no link to node host2')
      }
      return {
        space: away,
        recovery: away,
        statistics: away,
        disks: away,
        places: away,
        plug: away,
        unplug: away,
        log: away,
        scrub: away,
        stop: away,
      }
    }
    const space = { total: 100 * 1024 * MIB, free: 75 * 1024 * MIB, used: 25 * 1024 * MIB, objects: 6400 }
    const counts = { active: 1, total: 30, read: 10, write: 20, flush: 0, remove: 0, readBytes: MIB, writeBytes: 2048 }
    return {
      space: async () => space,
      recovery: async () => this.recoveries[Math.min(this.asked++, this.recoveries.length - 1)] ?? IDLE,
      statistics: async () => ({
        uptime: 3723,
        cpu: 61,
        memory: 80 * MIB,
        clients: counts,
        peers: counts,
        peerErrors: 0,
        volumes: [OPEN],
      }),
      disks: async () => [{ id: '00000000000000d1', path: '/srv/store', ...space, state: 'working', reason: '' }],
      places: async () => ({ nbd: `/srv/store${id[0]}/nbd.sock`, volumes: '/var/lib/sheepdog/volumes' }),
      plug: async () => [],
      unplug: async () => '/srv/store',
      log: async (lines) =>
        [
          { time: NOON, level: 'notice' as const, message: 'sheep starts' },
          { time: NOON + 1000, level: 'warning' as const, message: 'odd \u001b[31mred' },
        ].slice(-lines),
      scrub: async (action) => this.scrub(action),
      stop: async () => {
        this.stopped.push(id)
        const { epoch } = this.cluster
        if (epoch !== null) this.cluster.epoch = { ...epoch, nodes: epoch.nodes.filter((node) => node.id !== id) }
      },
    }
  }

  private scrub(action: 'status' | 'start' | 'stop'): ScrubReport {
    const state = action === 'start' ? 'running' : action === 'stop' ? 'stopped' : 'idle'
    const counts = { found: 2, repaired: 1, unrepaired: 1, diverged: 1, rotten: 1, objects: 800, bytes: 3200 * MIB }
    const about = {
      time: NOON,
      vid: 0xab12ce,
      oid: '00ab12ce00000003',
      path: 'obj/03/00ab12ce00000003',
      volume: 'disk',
    }
    return {
      ...{ state, done: 0.25, began: NOON - 3_600_000, ended: NOON, due: 0, objectsTotal: 6400, rate: 32 * MIB },
      ...counts,
      incidents: [
        { ...about, ...{ kind: 'bit-rot', position: 65536, length: 65536 }, outcome: 'repaired', detail: 'from host3' },
        { ...about, ...{ kind: 'divergence', position: 0, length: 0 }, outcome: 'unrepaired', detail: 'differs' },
      ],
    }
  }

  async lost(name: string): Promise<LostObject[]> {
    return this.lostObjects.filter(({ volumes }) => name === '' || volumes.includes(name))
  }

  async acceptLost(objects: readonly string[], zeros: boolean): Promise<string[]> {
    const found = this.lostObjects.map(({ oid }) => oid).filter((oid) => objects.includes(oid))
    this.lostObjects = this.lostObjects.filter(({ oid }) => !found.includes(oid))
    if (found.length > 0) this.proposed.push({ type: 'accept', objects: found, zeros })
    return found
  }

  async check(_entries: unknown, repair: boolean): Promise<CheckReport> {
    return { ...this.report, problems: this.report.problems.map((problem) => ({ ...problem, repaired: repair })) }
  }

  async locate(entry: { vid: number }, index: number): Promise<ObjectLocation> {
    if (index === 7) return { oid: '0000000000000007', index, owner: 0, copies: [] }
    return {
      oid: '80ab12ce00000000',
      index,
      owner: entry.vid,
      copies: [
        { node: '1'.repeat(16), expected: true, state: 'valid', used: 12 * 1024 },
        { node: '0'.repeat(16), expected: true, state: 'missing', used: 0 },
      ],
    }
  }
}

const OPEN = { volume: 'disk', read: 10, write: 20, flush: 0, readBytes: MIB, writeBytes: 2048 }
const IDLE: RecoveryReport = {
  epoch: 2,
  state: 'idle',
  objectsTotal: 12,
  objectsDone: 12,
  bytesTaken: 48 * MIB,
  bytesTotal: 48 * MIB,
  rate: 0,
  left: 0,
  limit: 0,
  waitingFor: [],
  seconds: 3,
}
