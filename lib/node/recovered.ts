/**
 * Says that this node's share of an epoch is valid: to its own disks first, then to the cluster. The disks' word (`recoveredEpoch`)
 * holds for every copy that they will show after the next start: that it was here, and right, in this epoch. So before it is given
 * nothing that was removed may be able to come back with a power loss, as a file or, from the intent log, as one that was lost.
 */
import type { Cluster } from '../cluster/cluster.js'
import { asSheepError } from '../errors.js'
import type { Clock, Log, Timer } from '../host/interfaces.js'
import type { Recovery } from '../replication/recovery.js'
import type { Topology } from '../replication/topology.js'
import type { DiskSet } from '../store/disk-set.js'

const RETRY_MS = 1_000
/** Of an older one what an object's own marks say has to do. */
const RECOVERED_BEFORE_MAX = 64

/** Many in the history mean that somebody is away: what only the first one proves outlived later shares. */
function kept(epochs: readonly number[]): readonly number[] {
  return epochs.length <= RECOVERED_BEFORE_MAX ? epochs : [epochs[0], ...epochs.slice(1 - RECOVERED_BEFORE_MAX)]
}

export interface RecoveredParts {
  store: DiskSet
  topology: Topology
  cluster: Cluster
  recovery: Recovery
  clock: Clock
  log: Log
}

export class Recovered {
  private retry: Timer | null = null
  private stopped = false

  constructor(private readonly parts: RecoveredParts) {}

  report(epoch: number): void {
    const { store, topology } = this.parts
    if (this.stopped || topology.epoch !== epoch) return
    if (store.state.recoveredEpoch >= epoch) this.propose(epoch)
    else store.settleRemovals({ complete: (result) => this.settled(epoch, result) })
  }

  stop(): void {
    this.stopped = true
    this.retry?.cancel()
  }

  private settled(epoch: number, result: number): void {
    const { store, topology } = this.parts
    if (this.stopped || topology.epoch !== epoch) return
    if (result < 0) {
      this.again(epoch, `what was removed is not settled: errno ${-result}`)
      return
    }
    store.save({
      recoveredEpoch: epoch,
      recoveredBefore: kept(store.recovered.filter((one) => one >= topology.oldest)),
      passedEpochs: this.parts.recovery.passedEpochs,
    })
    this.propose(epoch)
  }

  private propose(epoch: number): void {
    const { store, cluster } = this.parts
    // Saving it may have shown that a disk fails.
    if (store.state.lostEpoch >= epoch) return
    cluster
      .propose({ type: 'recovered', epoch })
      .catch((error: unknown) => this.again(epoch, asSheepError(error).message))
  }

  private again(epoch: number, why: string): void {
    const { clock, log } = this.parts
    log('debug', `reporting recovery of epoch ${epoch}: ${why}`)
    this.retry?.cancel()
    this.retry = clock.after(RETRY_MS, () => this.report(epoch))
  }
}
