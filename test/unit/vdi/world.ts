/**
 * A cluster for VDI operations without network or disks: one registry that every node sees, one set of objects, nodes that die at a chosen
 * step, power that fails. A step is one proposal or one ObjectIo call of a node; a node that died never hears an answer.
 */
import type { ClusterCommand, ClusterView, EpochRecord, NodeInfo } from '../../../lib/cluster/types.js'
import { SheepError } from '../../../lib/errors.js'
import type { Clock, Timer } from '../../../lib/host/interfaces.js'
import { encodeIndex, entriesFor, entryPosition } from '../../../lib/vdi/inode.js'
import { readIndex } from '../../../lib/vdi/inode-io.js'
import type { ObjectIo } from '../../../lib/vdi/object-io.js'
import { dataOid, inodeOid, KIND_DATA, kindOf, type Oid, oidToHex, vidOf } from '../../../lib/vdi/oid.js'
import { VdiOperations } from '../../../lib/vdi/operations.js'
import { Registry } from '../../../lib/vdi/registry.js'
import { referencesOf } from '../../../lib/vdi/tree.js'
import type { VdiEntry } from '../../../lib/vdi/types.js'

const NEVER = new Promise<never>(() => {})

export class FakeClock implements Clock {
  private time = 0
  private timers: { at: number; fn: () => void }[] = []

  now(): number {
    return this.time
  }

  wall(): number {
    return this.time
  }

  after(ms: number, fn: () => void): Timer {
    const timer = { at: this.time + ms, fn }
    this.timers.push(timer)
    return {
      cancel: () => {
        this.timers = this.timers.filter((one) => one !== timer)
      },
    }
  }

  advance(ms: number): void {
    this.time += ms
    const due = this.timers.filter((timer) => timer.at <= this.time)
    this.timers = this.timers.filter((timer) => timer.at > this.time)
    for (const timer of due) timer.fn()
  }

  get pending(): number {
    return this.timers.length
  }
}

/** Objects as all replicas hold them: what reads see, and what a power loss leaves. */
export class Objects {
  private readonly current = new Map<Oid, Buffer>()
  private durable = new Map<Oid, Buffer>()
  private readonly dirty = new Map<number, Set<Oid>>()
  /** Bytes; an allocation above fails with no-space */
  room = Number.POSITIVE_INFINITY

  oids(): Oid[] {
    return [...this.current.keys()]
  }

  has(oid: Oid): boolean {
    return this.current.has(oid)
  }

  read(oid: Oid, position: number, length: number): Buffer {
    const bytes = this.current.get(oid)
    if (bytes === undefined) throw new SheepError('no-object', `no object ${oidToHex(oid)}`)
    const answer = Buffer.alloc(length)
    if (position < bytes.length) bytes.copy(answer, 0, position, position + length)
    return answer
  }

  write(oid: Oid, position: number, data: Buffer): void {
    let bytes = this.current.get(oid)
    if (bytes === undefined) throw new SheepError('no-object', `no object ${oidToHex(oid)}`)
    if (bytes.length < position + data.length) {
      bytes = Buffer.concat([bytes, Buffer.alloc(position + data.length - bytes.length)])
    }
    data.copy(bytes, position)
    this.current.set(oid, bytes)
    this.touch(oid)
  }

  create(oid: Oid, position: number, data: Buffer): void {
    this.current.set(oid, Buffer.alloc(0))
    this.write(oid, position, data)
  }

  allocate(oid: Oid, length: number): void {
    if (length > this.room) throw new SheepError('no-space', 'the disks are full')
    this.room -= length
    this.create(oid, 0, Buffer.alloc(0))
  }

  /** Durable at once: the worst that may be. */
  remove(oid: Oid): void {
    this.current.delete(oid)
    this.durable.delete(oid)
  }

  flush(vid: number): void {
    for (const oid of this.dirty.get(vid) ?? []) {
      const bytes = this.current.get(oid)
      if (bytes !== undefined) this.durable.set(oid, Buffer.from(bytes))
    }
    this.dirty.delete(vid)
  }

  /** Every host at once: what was not flushed is gone. */
  powerLoss(): void {
    this.current.clear()
    for (const [oid, bytes] of this.durable) this.current.set(oid, Buffer.from(bytes))
    this.dirty.clear()
  }

  private touch(oid: Oid): void {
    const set = this.dirty.get(vidOf(oid)) ?? new Set()
    this.dirty.set(vidOf(oid), set.add(oid))
  }
}

export class FakeNode {
  readonly operations: VdiOperations
  readonly view: ClusterView
  alive = true
  steps = 0
  /** Step at which it dies; before the step takes effect, or after */
  dieAt = Number.POSITIVE_INFINITY
  dieAfterEffect = false
  /** What the next steps of this kind throw, instead of working */
  failing = new Map<string, SheepError>()
  readonly log: string[] = []
  readonly trace: string[] = []
  readonly io: ObjectIo

  constructor(
    readonly world: World,
    readonly id: string,
  ) {
    const { objects } = world
    this.io = {
      get epoch() {
        return world.epoch
      },
      read: (oid, position, length) => this.step('io.read', () => objects.read(oid, position, length)),
      write: (oid, position, data) => this.step('io.write', () => objects.write(oid, position, data)),
      create: (oid, position, data) => this.step('io.create', () => objects.create(oid, position, data)),
      flush: (vid) => this.step('io.flush', () => objects.flush(vid)),
      remove: (oids) =>
        this.step('io.remove', () => {
          for (const oid of oids) objects.remove(oid)
        }),
      allocate: (oid, length) => this.step('io.allocate', () => objects.allocate(oid, length)),
    }
    const self: NodeInfo = { id, name: id, host: '', port: 0, zone: id, space: 1, vnodes: 1 }
    this.view = {
      self,
      status: 'running',
      statusReason: '',
      config: { clusterId: '0', formatTime: 0, copies: 3, blockSizeShift: 22 },
      get epoch(): EpochRecord {
        return { number: world.epoch, time: 0, nodes: world.members() }
      },
      history: [],
      recovered: new Map(),
      recovery: { held: false, limit: 0 },
      departed: [],
      onNoQuorum: 0,
      propose: (command) => this.propose(command),
      exclusive: (run) => world.exclusive(this, run),
    }
    this.operations = new VdiOperations({
      cluster: this.view,
      registry: () => world.registry,
      io: this.io,
      log: (level, message, fields) => this.log.push(`${level}: ${message} ${JSON.stringify(fields ?? {})}`),
      clock: world.clock,
      quiesce: {
        hold: (vid) => this.step('hold', () => world.hold(vid)),
        referred: (lock, indexes) => world.referred(lock.vid, indexes),
      },
    })
  }

  private propose(command: ClusterCommand): Promise<unknown> {
    const kind = command.type === 'vdi' ? command.command.op : command.type
    return this.step(kind, () => {
      if (command.type !== 'vdi') throw new SheepError('unsupported', kind)
      const result = this.world.registry.apply(command.command, {
        sender: this.id,
        time: ++this.world.time,
        epoch: this.world.epoch,
      })
      this.world.delivered(command.command.op)
      return result
    })
  }

  private async step<T>(kind: string, effect: () => T): Promise<Awaited<T>> {
    // A turn, so that nodes interleave
    await Promise.resolve()
    if (!this.alive) return NEVER
    const failure = this.failing.get(kind)
    if (failure !== undefined) throw failure
    this.trace.push(kind)
    const dies = ++this.steps === this.dieAt
    if (dies && !this.dieAfterEffect) {
      this.die()
      return NEVER
    }
    let result: Awaited<T> | undefined
    let thrown: unknown
    try {
      result = await effect()
    } catch (error) {
      thrown = error
    }
    if (dies) this.die()
    await this.world.pace(this, kind)
    if (!this.alive) return NEVER
    if (thrown !== undefined) throw thrown
    return result as Awaited<T>
  }

  die(): void {
    this.alive = false
    this.world.died()
  }
}

export class World {
  registry = new Registry()
  readonly clock = new FakeClock()
  readonly objects = new Objects()
  readonly nodes: FakeNode[]
  time = 0
  epoch = 1
  /** Lets a test hold up a node between its steps */
  pace: (node: FakeNode, kind: string) => Promise<void> = async () => {}
  /** Called at a gateway that is to be held */
  hold: (vid: number) => Promise<() => void> = async () => () => {}
  /** What an open volume says that it refers to: all that it is asked about, unless a test knows better */
  referred: (vid: number, indexes: readonly number[]) => Promise<ReadonlySet<number> | null> = async (_vid, indexes) =>
    new Set(indexes)
  delivered: (op: string) => void = () => {}
  private queue: { node: FakeNode; start: () => void }[] = []
  private noticed = new Set<string>()
  private readonly deaths: (() => void)[] = []
  private readonly leaves: (() => void)[] = []

  constructor(nodes = 3) {
    this.nodes = Array.from({ length: nodes }, (_, i) => new FakeNode(this, `node-${i}`))
  }

  members(): NodeInfo[] {
    return this.nodes.filter((node) => node.alive || !this.noticed.has(node.id)).map((node) => node.view.self)
  }

  async exclusive<T>(node: FakeNode, run: () => Promise<T>): Promise<T> {
    await new Promise<void>((start) => {
      this.queue.push({ node, start })
      if (this.queue.length === 1) start()
    })
    if (!node.alive) return NEVER
    try {
      return await run()
    } finally {
      this.queue.shift()
      this.queue[0]?.start()
    }
  }

  died(): void {
    for (const wake of this.deaths.splice(0)) wake()
  }

  /** Resolves with true when `work` ended, false when a node died first. */
  async untilDone(work: Promise<unknown>): Promise<boolean> {
    const death = new Promise<boolean>((resolve) => this.deaths.push(() => resolve(false)))
    return Promise.race([work.then(() => true), death])
  }

  /** Rejects when the cluster notices that the node died. */
  leaving(node: FakeNode): Promise<never> {
    return new Promise((_, reject) => {
      this.leaves.push(() => {
        if (!node.alive) reject(new SheepError('unreachable', `${node.id} has left`))
      })
    })
  }

  /** The cluster notices who died: a new epoch. */
  viewChange(): void {
    this.epoch++
    for (const node of this.nodes) {
      if (node.alive || this.noticed.has(node.id)) continue
      this.noticed.add(node.id)
      this.registry.nodeLeft(node.id)
    }
    for (const notice of this.leaves) notice()
    this.delivered('view')
    const running = this.queue[0]
    this.queue = this.queue.filter(({ node }) => node.alive)
    if (running !== undefined && !running.node.alive) this.queue[0]?.start()
  }

  /** All hosts lose power at once; two come back. */
  blackout(): void {
    this.epoch++
    for (const node of this.nodes) {
      if (node.alive) node.die()
      this.noticed.add(node.id)
      this.registry.nodeLeft(node.id)
    }
    this.queue = []
    this.objects.powerLoss()
    for (let i = 0; i < 2; i++) this.nodes.push(new FakeNode(this, `node-${this.nodes.length}`))
  }

  /** Every node looks for interrupted operations until there are none. */
  async heal(): Promise<void> {
    this.viewChange()
    for (let round = 0; round < 3; round++) {
      for (const node of this.nodes) if (node.alive) await node.operations.resumeInterrupted()
    }
  }

  get alive(): FakeNode[] {
    return this.nodes.filter((node) => node.alive)
  }

  private index(vid: number): Promise<Uint32Array> {
    const { size, blockSizeShift } = this.registry.get(vid) as VdiEntry
    const io = { read: async (...a: Parameters<Objects['read']>) => this.objects.read(...a) } as unknown as ObjectIo
    return readIndex(io, vid, 0, entriesFor(size, blockSizeShift))
  }

  /** Everything that live VDIs need. Throws when something of it is missing. */
  async needed(): Promise<Set<Oid>> {
    const needed = new Set<Oid>()
    for (const { vid } of this.registry.live()) {
      needed.add(inodeOid(vid))
      for (const oid of referencesOf(await this.index(vid))) needed.add(oid)
    }
    for (const oid of needed) if (!this.objects.has(oid)) throw new Error(`object ${oidToHex(oid)} is missing`)
    return needed
  }

  /** Stamps of a live VDI's objects; 0 where it reads as zeros. */
  async content(vid: number): Promise<number[]> {
    const index = await this.index(vid)
    return Array.from(index, (owner, i) =>
      owner === 0 ? 0 : this.objects.read(dataOid(owner, i), 0, 4).readUInt32LE(0),
    )
  }

  dataObjects(): number {
    return this.objects.oids().filter((oid) => kindOf(oid) === KIND_DATA).length
  }
}

/** An open volume as a gateway has it: index in memory, copy-on-write, release of what it refers to no more. */
export class FakeVolume {
  private index: Uint32Array = new Uint32Array(0)
  private tail: Promise<unknown> = Promise.resolve()
  /** Called when the request that waits begins */
  began: () => void = () => {}
  private held: { child: number; end: () => void } | null = null

  private constructor(
    readonly node: FakeNode,
    readonly session: string,
    public vid: number,
  ) {}

  static async open(node: FakeNode, name: string, session: string): Promise<FakeVolume> {
    const { vid } = node.world.registry.find(name, '')
    const command = { op: 'lock', vid, session, mode: 'write', holder: 'a test' } as const
    await node.view.propose({ type: 'vdi', command })
    const volume = new FakeVolume(node, session, vid)
    volume.index = await readIndex(node.io, vid, 0, volume.entries)
    return volume
  }

  private get entries(): number {
    const { size, blockSizeShift } = this.node.world.registry.get(this.vid) as VdiEntry
    return entriesFor(size, blockSizeShift)
  }

  async close(): Promise<void> {
    await this.tail
    await this.node.io.flush(this.vid)
    await this.node.view.propose({ type: 'vdi', command: { op: 'unlock', vid: this.vid, session: this.session } })
  }

  /** Requests run one after another; those that come while it is held wait. */
  private queue<T>(run: () => Promise<T>): Promise<T> {
    const next = this.tail.then(run)
    this.tail = next.catch(() => {})
    return next
  }

  write(i: number, stamp: number): Promise<void> {
    return this.queue(async () => {
      this.began()
      const { io } = this.node
      const data = Buffer.alloc(8)
      data.writeUInt32LE(stamp)
      const owner = this.index[i]
      if (owner === this.vid) return io.write(dataOid(owner, i), 0, data)
      await io.create(dataOid(this.vid, i), 0, data)
      if (owner !== 0) await io.flush(this.vid)
      await this.refer(i, this.vid)
      if (owner !== 0) await this.node.operations.reclaim.release(this.vid, [dataOid(owner, i)])
    })
  }

  discard(i: number): Promise<void> {
    return this.queue(async () => {
      this.began()
      const owner = this.index[i]
      if (owner === 0) return
      await this.refer(i, 0)
      await this.node.operations.reclaim.release(this.vid, [dataOid(owner, i)])
    })
  }

  flush(): Promise<void> {
    return this.queue(() => this.node.io.flush(this.vid))
  }

  private async refer(i: number, owner: number): Promise<void> {
    await this.node.io.write(inodeOid(this.vid), entryPosition(i), encodeIndex(Uint32Array.of(owner)))
    this.index[i] = owner
  }

  /** Until the pending child is committed or given up. */
  hold(): Promise<() => void> {
    return new Promise((held) => {
      this.queue(
        () =>
          new Promise<void>((end) => {
            const { registry } = this.node.world
            const child = registry.pending((registry.get(this.vid) as VdiEntry).name)?.vid ?? 0
            this.held = { child, end }
            held(() => {})
          }),
      )
    })
  }

  /** A command was delivered. */
  delivered(): void {
    if (this.held === null) return
    const { registry } = this.node.world
    const child = registry.get(this.held.child)
    if (child?.state === 'creating') return
    if (child?.state === 'live') this.vid = child.vid
    this.held.end()
    this.held = null
  }
}
