/**
 * Holding back the writes of a VDI for a while: so that a snapshot is of one instant, a check compares what stands still, and a
 * migration's target takes over what its source has ended. A hold is where the VDI is open for writing; one at a time has it.
 */
import type { ClusterView } from '../cluster/types.js'
import { asSheepError, SheepError } from '../errors.js'
import type { Clock, Log } from '../host/interfaces.js'
import type { CallHandler } from '../replication/peer-session.js'
import type { Peers } from '../replication/peers.js'
import { sleep } from '../replication/sleep.js'
import type { Topology } from '../replication/topology.js'
import type { Registry } from '../vdi/registry.js'
import { numberIn } from './call.js'
import type { OpenVolume } from './open-volume.js'
import { ESHUTDOWN } from './router.js'

/** How long one waits for the holds of others to end */
const HELD_MS_MAX = 30_000
const HELD_POLL_MS = 10

/** Who holds back the writes of an open volume. */
export interface Hold {
  /** Which of this gateway's it is */
  id: number
  /** node id */
  by: string
  /** For a migration's target, `by`: until that one writes or gives up, nothing is answered here */
  handedOver: boolean
}

export interface HoldsOptions {
  cluster: ClusterView
  registry: () => Registry
  topology: Topology
  peers: Peers
  clock: Clock
  log: Log
  /** That have this VDI open for writing here, and are there already */
  writers: (vid: number) => OpenVolume[]
  /** Of this VDI, whose opening goes on */
  opening: (vid: number) => Promise<unknown>[]
  /** All that are open here */
  opened: () => Iterable<OpenVolume>
}

export class Holds {
  private last = 0

  constructor(private readonly options: HoldsOptions) {}

  /**
   * Holds back the writes of an open VDI, wherever it is open: none is in flight and all are flushed when this resolves,
   * until the returned function is called, a snapshot of it is committed, or this node leaves.
   */
  async hold(vid: number): Promise<() => void> {
    const { cluster, peers, registry, log } = this.options
    const self = cluster.self.id
    const lock = registry().lockOf(vid)
    if (lock === undefined || lock.mode !== 'write') return () => {}
    if (lock.node === self) {
      const hold = await this.holdHere(vid, self)
      return () => {
        this.releaseHere(hold)
      }
    }
    const { hold } = (await peers.call(lock.node, 'hold', { vid })).json as { hold: number }
    return () => {
      peers.call(lock.node, 'release', { hold }).catch((error: unknown) => {
        log('warning', `releasing vid ${vid.toString(16)} on node ${lock.node}: ${asSheepError(error).message}`)
      })
    }
  }

  /** Peer calls that the other nodes make. */
  calls(): [string, CallHandler][] {
    const hold: CallHandler = async (argument, _body, from) => {
      return { json: { hold: await this.holdHere(numberIn(argument, 'vid'), from) }, body: Buffer.alloc(0) }
    }
    const release: CallHandler = async (argument) => {
      this.releaseHere(numberIn(argument, 'hold'))
      return { json: null, body: Buffer.alloc(0) }
    }
    return [
      ['hold', hold],
      ['release', release],
    ]
  }

  /** For node `by`. Which hold it is, for its release. SheepError busy, halted, io */
  async holdHere(vid: number, by: string): Promise<number> {
    const { writers, opening } = this.options
    const id = ++this.last
    // One that has its lock and still reads its index would begin to write in the middle of what the hold is for.
    await Promise.allSettled(opening(vid))
    for (const open of writers(vid)) {
      if (!(await this.take(open, vid, { id, by, handedOver: false }))) continue
      const { volume } = open
      await volume.hold()
      await Promise.all(open.releasing)
      const result = await new Promise<number>((resolve) => volume.flush({ complete: resolve }))
      if (result < 0) {
        this.releaseHere(id)
        if (result === ESHUTDOWN) {
          const what = `the node that has ${volume.entry.name} open fell out of the cluster, or stops`
          throw new SheepError('busy', what, 'try again in a moment')
        }
        throw new SheepError(
          'io',
          `flushing ${volume.entry.name} failed with errno ${-result}`,
          'its log (dog node log) says why; whoever has it open may have to open it anew',
        )
      }
      if (open.hold?.id !== id) throw new SheepError('busy', `the hold of ${volume.entry.name} has ended meanwhile`)
    }
    return id
  }

  releaseHere(id: number): void {
    for (const open of this.options.opened()) if (open.hold?.id === id) endHold(open)
  }

  /** One at a time: a check's holds are short, a snapshot's ends with its commit. False: meanwhile it no longer writes this VDI. */
  private async take(open: OpenVolume, vid: number, hold: Hold): Promise<boolean> {
    const { clock, topology, writers } = this.options
    const deadline = clock.now() + HELD_MS_MAX
    while (open.hold !== null) {
      if (open.hold.handedOver || clock.now() >= deadline) {
        const what = `writes of ${open.volume.entry.name} are held back for a snapshot, a check or a migration`
        throw new SheepError('busy', what, 'try again in a moment')
      }
      await sleep(clock, HELD_POLL_MS)
    }
    if (!writers(vid).includes(open)) return false
    // Of one that has left nobody would end it.
    if (topology.node(hold.by) === undefined) throw new SheepError('halted', `node ${hold.by} is not in the cluster`)
    open.hold = hold
    return true
  }
}

/** Its writes go on, if they were held back. */
export function endHold(open: OpenVolume): void {
  const { hold, volume } = open
  if (hold === null) return
  open.hold = null
  if (hold.handedOver) volume.thaw()
  volume.release()
}
