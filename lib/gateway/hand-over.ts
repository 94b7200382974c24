/**
 * How a volume's lock comes to another node while somebody holds it: broken by an administrator, handed over in a live migration, or
 * about to be free because its holder is closing it.
 *
 *     break     the command takes the lock and begins an epoch; over when every member is in that epoch, since from then on no replica
 *               takes what the former holder has on the wire
 *     migrate   target: first change -> asks the source to hand over: its writes end, are flushed, and what follows waits there
 *               -> migrate-finish, the lock is the target's -> reads the index -> goes on.
 *               A source that does not answer is fenced, as by a break: migrate-finish begins an epoch.
 */
import type { ClusterView } from '../cluster/types.js'
import { asSheepError, SheepError } from '../errors.js'
import type { Clock, Log } from '../host/interfaces.js'
import type { CallHandler } from '../replication/peer-session.js'
import type { CallAnswer, Peers } from '../replication/peers.js'
import type { Replica } from '../replication/replica.js'
import { sleep } from '../replication/sleep.js'
import type { Topology } from '../replication/topology.js'
import type { BrokenLocks } from '../vdi/locking.js'
import { type Registry, referenceOf } from '../vdi/registry.js'
import type { VdiCommand, VdiEntry, VdiLock } from '../vdi/types.js'
import { numberIn, textIn } from './call.js'
import { Gate } from './migration-target.js'
import type { OpenVolume } from './open-volume.js'

/** A member that hangs is expelled sooner, and a start of many recoveries is no reason to give up. */
const FENCE_MS_MAX = 60_000
const FENCE_RETRY_MS = 200
/** A source that has not handed over in this time is fenced. */
const HAND_OVER_MS_MAX = 5_000
const TAKE_OVER_RETRY_MS = 500
const READ_MS_MAX = 5_000
const READ_MAX = 4 * 1024 * 1024
/** Between an answer to a last client and the word that it has gone. */
const GOODBYE_MS = 20
const RETRY_MS = 50

export interface HandOverOptions {
  cluster: ClusterView
  registry: () => Registry
  topology: Topology
  peers: Peers
  replica: Replica
  clock: Clock
  log: Log
  opened: (session: string) => OpenVolume | undefined
  /** Closed, and its lock is on its way to be given up */
  isEnding: (session: string) => boolean
  /** Ends the writes of this VDI here, for node `by` (Holds.holdHere) */
  hold: (vid: number, by: string) => Promise<number>
  release: (id: number) => void
}

export class HandOver {
  /** Every member has been in this epoch */
  private everywhere = 0

  constructor(private readonly options: HandOverOptions) {}

  // --- for administrators -----------------------------------------------------------------------------------------

  /**
   * Takes the volume from whoever has it open. `seen`: the lock that is meant. SheepError not-locked, busy (another has it by now),
   * timeout: the lock is gone, but not every node has said yet that it takes nothing of the former holder any more.
   */
  async break(entry: VdiEntry, seen: { node: string; session: string }): Promise<readonly VdiLock[]> {
    const { node, session } = seen
    const broken = (await this.propose({ op: 'break', vid: entry.vid, node, session })) as BrokenLocks
    await this.reachedEverywhere(broken.epoch)
    return broken.locks
  }

  /** `to`: node id, '' any. SheepError not-locked, busy. */
  async announce(entry: VdiEntry, to: string, ms: number): Promise<void> {
    const until = Math.floor(this.options.clock.wall()) + ms
    await this.propose({ op: 'migrate-begin', vid: entry.vid, to, until })
  }

  /** SheepError not-locked. */
  async cancel(entry: VdiEntry): Promise<void> {
    await this.propose({ op: 'migrate-cancel', vid: entry.vid })
  }

  /** Moves the lock to the target now, without waiting for its first write. SheepError not-locked. */
  async finish(entry: VdiEntry): Promise<void> {
    const { registry, cluster, peers } = this.options
    const target = registry()
      .locks()
      .find((lock) => lock.vid === entry.vid && lock.mode === 'target')
    if (target === undefined) {
      throw new SheepError('not-locked', `no target of a migration has "${referenceOf(entry)}" open`)
    }
    if (target.node === cluster.self.id) await this.takeOver(target.session)
    else await peers.call(target.node, 'take-over', { session: target.session }, undefined, FENCE_MS_MAX)
  }

  /**
   * Every member takes no request of an epoch before this one: who has lost a volume before it can do nothing to it any more. Asked once
   * an epoch. SheepError timeout
   */
  async reachedEverywhere(epoch: number): Promise<void> {
    if (epoch <= this.everywhere) return
    const { topology, peers, replica, clock, cluster } = this.options
    const deadline = clock.now() + FENCE_MS_MAX
    const reached = new Set<string>()
    let waitingFor = ''
    while (clock.now() < deadline) {
      // Our own list of members may be of the epoch before.
      const missing = (topology.current?.nodes ?? []).filter((node) => !reached.has(node.id))
      if (topology.epoch >= epoch && missing.length === 0) {
        this.everywhere = Math.max(this.everywhere, epoch)
        return
      }
      waitingFor = missing.map((node) => node.name).join(', ')
      const asked = missing.map(async (node) => {
        if (node.id === cluster.self.id) {
          if (replica.activeEpoch >= epoch) reached.add(node.id)
          return
        }
        try {
          await peers.call(node.id, 'fenced', { epoch }, undefined, FENCE_RETRY_MS * 10)
          reached.add(node.id)
        } catch (error) {
          this.options.log('debug', `node ${node.name} is not in epoch ${epoch} yet: ${asSheepError(error).message}`)
        }
      })
      await Promise.all(asked)
      if (topology.epoch < epoch || missing.some((node) => !reached.has(node.id))) await this.sleep(RETRY_MS)
    }
    throw new SheepError(
      'timeout',
      `${waitingFor || 'the cluster'} has not said yet that it takes nothing of a former holder any more`,
      'dog node list, dog node recovery: is a node in trouble?',
    )
  }

  // --- at the target ----------------------------------------------------------------------------------------------

  async readAtSource(session: string, offset: number, length: number): Promise<Buffer> {
    const { registry, cluster, peers } = this.options
    const vid = registry().lockOfSession(cluster.self.id, session)?.vid
    const source = vid === undefined ? undefined : registry().lockOf(vid)
    if (source === undefined || source.node === cluster.self.id)
      throw new SheepError('not-locked', 'the source has gone')
    const argument = { session: source.session, offset, length }
    const { body } = await peers.call(source.node, 'read-at-source', argument, undefined, READ_MS_MAX)
    if (body.length !== length) throw new SheepError('io', `${body.length} bytes instead of ${length}`)
    return body
  }

  /** Makes the lock this target's own. Resolves when it is, or when the target has lost its place. */
  async takeOver(session: string): Promise<void> {
    const { registry, cluster, log } = this.options
    const self = cluster.self.id
    while (cluster.status !== 'stopped') {
      const own = registry().lockOfSession(self, session)
      if (own?.mode !== 'target') return
      const source = registry().lockOf(own.vid) as VdiLock
      const drained = await this.drainSource(source)
      try {
        await this.propose({ op: 'migrate-finish', vid: own.vid, session, fence: !drained })
        return
      } catch (error) {
        const { code, message } = asSheepError(error)
        if (code === 'shutting-down' || code === 'not-locked' || code === 'not-found') return
        log('warning', `taking over vid ${own.vid.toString(16)} from node ${source.node}: ${message}`)
        await this.sleep(TAKE_OVER_RETRY_MS)
      }
    }
  }

  /** False: nobody knows what the source has under way. */
  private async drainSource(source: VdiLock): Promise<boolean> {
    const { peers, log, clock } = this.options
    const { node, vid, session } = source
    const deadline = clock.now() + HAND_OVER_MS_MAX
    while (clock.now() < deadline) {
      try {
        await peers.call(node, 'hand-over', { vid, session }, undefined, deadline - clock.now())
        return true
      } catch (error) {
        const { code, message } = asSheepError(error)
        log('warning', `node ${node} does not hand over vid ${vid.toString(16)}: ${message}`)
        await this.sleep(RETRY_MS)
        if (code !== 'busy' && code !== 'unreachable') return false
      }
    }
    return false
  }

  // --- at the source ----------------------------------------------------------------------------------------------

  /** This node is the target of a migration of the VDI. */
  hasTarget(vid: number, node: string): boolean {
    return this.options
      .registry()
      .locks()
      .some((lock) => lock.vid === vid && lock.mode === 'target' && lock.node === node)
  }

  /** Peer calls that other gateways make to this one. */
  calls(): Map<string, CallHandler> {
    const nothing: CallAnswer = { json: null, body: Buffer.alloc(0) }
    const fenced: CallHandler = async (argument) => {
      await this.options.replica.reached(numberIn(argument, 'epoch'))
      return nothing
    }
    const closing: CallHandler = async (argument) => {
      const is = await this.isClosingHere(numberIn(argument, 'vid'), textIn(argument, 'session'))
      return { json: { closing: is }, body: Buffer.alloc(0) }
    }
    const handOver: CallHandler = async (argument, _body, from) => {
      await this.handOverHere(numberIn(argument, 'vid'), textIn(argument, 'session'), from)
      return nothing
    }
    const read: CallHandler = async (argument) => ({
      json: null,
      body: await this.readHere(
        textIn(argument, 'session'),
        numberIn(argument, 'offset'),
        numberIn(argument, 'length'),
      ),
    })
    const takeOver: CallHandler = async (argument) => {
      await this.takeOver(textIn(argument, 'session'))
      return nothing
    }
    return new Map([
      ['fenced', fenced],
      ['closing', closing],
      ['hand-over', handOver],
      ['read-at-source', read],
      ['take-over', takeOver],
    ])
  }

  private async handOverHere(vid: number, session: string, to: string): Promise<void> {
    const open = this.options.opened(session)
    if (open === undefined || open.volume.isRevoked) throw new SheepError('not-locked', 'it is not open here')
    if (open.hold?.by === to && open.hold.handedOver) return
    const id = await this.options.hold(vid, to)
    if (open.volume.isRevoked || open.hold?.id !== id || !this.hasTarget(vid, to)) {
      this.options.release(id)
      throw new SheepError('busy', 'the migration has ended meanwhile')
    }
    open.hold.handedOver = true
    open.volume.freeze(new Gate())
  }

  private async readHere(session: string, offset: number, length: number): Promise<Buffer> {
    const open = this.options.opened(session)
    if (open === undefined || open.volume.isRevoked) throw new SheepError('not-locked', 'it is not open here')
    const { volume } = open
    if (!(offset >= 0 && length > 0 && length <= READ_MAX && offset + length <= volume.size)) {
      throw new SheepError('invalid', `a read of ${length} bytes at ${offset}`)
    }
    const buffer = Buffer.allocUnsafe(length)
    const result = await new Promise<number>((resolve) => {
      volume.read(buffer, 0, length, offset, { complete: resolve })
    })
    if (result < 0) throw new SheepError('io', `reading ${volume.entry.name} failed with errno ${-result}`)
    return buffer
  }

  // --- closing ----------------------------------------------------------------------------------------------------

  /** Whoever has the VDI open is giving it up, or cannot be asked within `ms`. */
  async isClosing(vid: number, ms: number): Promise<boolean> {
    const { registry, cluster, peers } = this.options
    const lock = registry().lockOf(vid)
    if (lock === undefined) return true
    const { node, session } = lock
    if (node === cluster.self.id) return this.isClosingHere(vid, session)
    try {
      const answer = await peers.call(node, 'closing', { vid, session }, undefined, ms)
      return (answer.json as { closing?: unknown } | null)?.closing === true
    } catch {
      return true
    }
  }

  private async isClosingHere(vid: number, session: string): Promise<boolean> {
    const { opened, isEnding, registry, cluster } = this.options
    const ending = () => {
      const open = opened(session)
      if (open !== undefined) return open.closing !== null || open.clients.size === 0
      return isEnding(session) || registry().lockOfSession(cluster.self.id, session)?.vid !== vid
    }
    if (!ending()) await this.sleep(GOODBYE_MS)
    return ending()
  }

  // --- inside -----------------------------------------------------------------------------------------------------

  private propose(command: VdiCommand): Promise<unknown> {
    return this.options.cluster.propose({ type: 'vdi', command })
  }

  private sleep(ms: number): Promise<void> {
    return sleep(this.options.clock, ms)
  }
}
