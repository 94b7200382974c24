/**
 * The replicated state of a cluster: its history, the registry of VDIs, and who may run a cluster-wide operation. A pure
 * state machine over entries; every member applies the same ones in the same order and has the same answers.
 */
import { SheepError } from '../errors.js'
import { checkOnNoQuorum } from '../vdi/command.js'
import { oidFromHex } from '../vdi/oid.js'
import { Registry } from '../vdi/registry.js'
import { type Entry, History, type HistoryJson, type LoggedCommand } from './history.js'
import { isClaims, isCount, isRecoverySettings } from './shape.js'
import type { ClusterConfig, EpochRecord, RecoverySettings } from './types.js'

/** Of all nodes together. A node has one at a time unless many of its clients come at once. */
const EXCLUSIVE_QUEUE_MAX = 4096
const TOKEN_MAX = 64
export const RECOVERY_DEFAULT: RecoverySettings = { held: false, limit: 0 }

export interface ExclusiveClaim {
  token: string
  /** node id */
  node: string
}

export interface StateJson {
  version: 1
  history: HistoryJson
  registry: unknown
  exclusive: ExclusiveClaim[]
  recovery?: RecoverySettings
  onNoQuorum?: number
}

/** `value` is the command's answer; `error` its refusal, the same on every member. */
export type Outcome = { value: unknown; error: null } | { value: null; error: SheepError }

export class ClusterState {
  private constructor(
    readonly history: History,
    readonly registry: Registry,
    private claims: ExclusiveClaim[],
    private settings: RecoverySettings,
    /** ms; 0: requests wait for the quorum for ever */
    private noQuorumMs: number,
  ) {}

  static format(config: ClusterConfig, seq: number, record: EpochRecord): ClusterState {
    return new ClusterState(History.format(config, seq, record), new Registry(), [], RECOVERY_DEFAULT, 0)
  }

  /** SheepError version, invalid when it is not what toJSON returned, as JSON. */
  static fromJSON(value: unknown): ClusterState {
    const json = value as StateJson
    if (json?.version !== 1) throw new SheepError('version', 'the cluster state has a version that is not known here')
    const { exclusive, recovery = RECOVERY_DEFAULT, onNoQuorum = 0 } = json
    if (!isClaims(exclusive)) throw new SheepError('invalid', 'a cluster state holds no list of claims')
    if (!isRecoverySettings(recovery)) throw new SheepError('invalid', 'a cluster state holds no settings of recovery')
    if (!isCount(onNoQuorum)) throw new SheepError('invalid', 'a cluster state holds no time to wait for the quorum')
    const history = History.fromJSON(json.history)
    return new ClusterState(history, Registry.fromJSON(json.registry), [...exclusive], recovery, onNoQuorum)
  }

  toJSON(): StateJson {
    return {
      version: 1,
      history: this.history.toJSON(),
      registry: this.registry.toJSON(),
      exclusive: [...this.claims],
      recovery: this.settings,
      onNoQuorum: this.noQuorumMs,
    }
  }

  /** First the one that runs, then those that wait. */
  get exclusive(): readonly ExclusiveClaim[] {
    return this.claims
  }

  get onNoQuorum(): number {
    return this.noQuorumMs
  }

  get recovery(): RecoverySettings {
    return this.settings
  }

  apply(entry: Entry): Outcome {
    try {
      this.history.apply(entry)
      if (entry.type === 'epoch') {
        for (const node of entry.left) this.registry.nodeLeft(node)
        this.claims = this.claims.filter((claim) => !entry.left.includes(claim.node))
        this.registry.giveUp((entry.record.accepted?.objects ?? []).map(oidFromHex))
        return { value: { epoch: entry.record.number }, error: null }
      }
      return { value: this.command(entry.command, entry.sender, entry.time), error: null }
    } catch (error) {
      if (error instanceof SheepError) return { value: null, error }
      throw error
    }
  }

  private command(command: LoggedCommand, sender: string, time: number): unknown {
    switch (command.type) {
      case 'vdi':
        return this.registry.apply(command.command, { sender, time, epoch: this.history.epoch.number })
      case 'exclusive-enter':
        return this.enter(command.token, sender)
      case 'exclusive-leave':
        this.claims = this.claims.filter((claim) => claim.token !== command.token || claim.node !== sender)
        return null
      case 'recovery':
        return this.throttle(command)
      case 'on-no-quorum':
        checkOnNoQuorum(command.ms, 'the cluster')
        this.noQuorumMs = command.ms
        return null
      case 'recovered':
      case 'shutdown':
        return null
    }
  }

  private throttle({ held, limit }: { held: boolean | null; limit: number | null }): RecoverySettings {
    if (limit !== null && !(Number.isSafeInteger(limit) && limit >= 0)) {
      throw new SheepError('invalid', 'a limit of recovery is a number of bytes a second')
    }
    this.settings = { held: held ?? this.settings.held, limit: limit ?? this.settings.limit }
    return this.settings
  }

  private enter(token: string, node: string): null {
    if (typeof token !== 'string' || token === '' || token.length > TOKEN_MAX) {
      throw new SheepError('invalid', 'a claim to the exclusive right has no proper token')
    }
    if (this.claims.some((claim) => claim.token === token)) return null
    if (this.claims.length >= EXCLUSIVE_QUEUE_MAX) {
      throw new SheepError('busy', 'too many cluster-wide operations wait', 'try again in a moment')
    }
    this.claims = [...this.claims, { token, node }]
    return null
  }
}
