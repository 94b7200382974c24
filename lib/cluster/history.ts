/**
 * What every member knows of the cluster's past: who was in it in which epoch, since when each node is known, how far
 * each has recovered. A pure function of the entries applied, in their order.
 */
import { createHash } from 'node:crypto'
import { assert } from '../assert.js'
import { SheepError } from '../errors.js'
import { isHistory } from './shape.js'
import type { ClusterCommand, ClusterConfig, EpochRecord, NodeInfo } from './types.js'

/**
 * Epochs kept for nodes that are away. One that misses more is forgotten: when it comes back, all its copies are taken
 * anew. It bounds what each member keeps, and what a newcomer is sent, to some megabytes at 32 nodes.
 */
export const ABSENCE_EPOCHS_MAX = 512

/** Commands that every member logs and applies; the others end as an epoch, or as nothing. */
export type LoggedCommand = Extract<
  ClusterCommand,
  { type: 'recovered' | 'recovery' | 'on-no-quorum' | 'exclusive-enter' | 'exclusive-leave' | 'vdi' | 'shutdown' }
>

/** One step of the replicated state. The same number is the same step on every member of one line of history. */
export type Entry =
  | { seq: number; type: 'command'; sender: string; time: number; command: LoggedCommand }
  /** `left`: nodes whose incarnation ended, those that are back in `record` too. */
  | { seq: number; type: 'epoch'; record: EpochRecord; left: string[] }

export interface KnownNode {
  /** The last that was not 0 */
  vnodes: number
  /** First epoch it was in: it holds no older copy */
  since: number
}

export interface HistoryJson {
  seq: number
  digest: string
  config: ClusterConfig
  /** oldest first */
  epochs: EpochRecord[]
  /** For each of `epochs`: the digest when it began. Two lines of history differ here. */
  lines: string[]
  known: [string, KnownNode][]
  recovered: [string, number][]
  /** Of epochs that are kept, those that a node had recovered before its last one, ascending; absent when an older daemon made it */
  recoveredBefore?: [string, number[]][]
}

/**
 * Of everything up to and including this entry. Two members with the same digest applied the same entries. An epoch's
 * time is each member's own, so it is left out.
 */
function digestAfter(before: string, entry: Entry): string {
  const shared = entry.type === 'epoch' ? { ...entry, record: { ...entry.record, time: 0 } } : entry
  return createHash('sha256').update(before).update(JSON.stringify(shared)).digest('hex').slice(0, 16)
}

export function sortedById(nodes: Iterable<NodeInfo>): NodeInfo[] {
  return [...nodes].sort((a, b) => (a.id < b.id ? -1 : a.id > b.id ? 1 : 0))
}

export class History {
  private constructor(
    readonly config: ClusterConfig,
    private number: number,
    private state: string,
    private records: readonly EpochRecord[],
    private lines: readonly string[],
    private readonly nodes: Map<string, KnownNode>,
    private readonly reported: Map<string, number>,
    private readonly before: Map<string, readonly number[]>,
  ) {}

  /** A new cluster. It has no data yet, so every node has recovered. */
  static format(config: ClusterConfig, seq: number, record: EpochRecord): History {
    const history = new History(config, seq, '', [record], [], new Map(), new Map(), new Map())
    history.state = digestAfter(JSON.stringify(config), { seq, type: 'epoch', record, left: [] })
    history.lines = [history.state]
    history.meet(record)
    for (const node of record.nodes) history.reported.set(node.id, record.number)
    return history
  }

  /** SheepError invalid when `json`, a peer's or a disk's, is no history. */
  static fromJSON(json: unknown): History {
    if (!isHistory(json)) throw new SheepError('invalid', 'a cluster state holds no history of it')
    const { config, seq, digest, epochs, lines, known, recovered, recoveredBefore = [] } = json
    return new History(
      ...([config, seq, digest, epochs, lines] as const),
      ...([new Map(known), new Map(recovered), new Map(recoveredBefore)] as const),
    )
  }

  toJSON(): HistoryJson {
    return {
      seq: this.number,
      digest: this.state,
      config: this.config,
      epochs: [...this.records],
      lines: [...this.lines],
      known: [...this.nodes],
      recovered: [...this.reported],
      recoveredBefore: Array.from(this.before, ([id, epochs]) => [id, [...epochs]]),
    }
  }

  /** A copy that goes its own way from here. */
  fork(): History {
    return History.fromJSON(this.toJSON())
  }

  /** Of the last entry applied. */
  get seq(): number {
    return this.number
  }

  get digest(): string {
    return this.state
  }

  get epoch(): EpochRecord {
    return this.records[this.records.length - 1]
  }

  /** Oldest first. A new array with each change: a holder of one has what was true. */
  get epochs(): readonly EpochRecord[] {
    return this.records
  }

  get recovered(): ReadonlyMap<string, number> {
    return this.reported
  }

  get known(): ReadonlyMap<string, KnownNode> {
    return this.nodes
  }

  /** The digest with which epoch `number` began; null when it is not kept. */
  lineOf(number: number): string | null {
    const at = this.records.findIndex((record) => record.number === number)
    return at < 0 ? null : this.lines[at]
  }

  /** SheepError for a command that changes nothing because it is wrong; its number is used up all the same. */
  apply(entry: Entry): void {
    assert(entry.seq === this.number + 1, `entries follow each other: ${entry.seq} after ${this.number}`)
    this.number = entry.seq
    this.state = digestAfter(this.state, entry)
    if (entry.type === 'epoch') this.begin(entry.record)
    else if (entry.command.type === 'recovered') this.recoveredIn(entry.sender, entry.command.epoch)
  }

  private begin(record: EpochRecord): void {
    assert(record.number === this.epoch.number + 1, `epochs follow each other: ${record.number}`)
    this.records = [...this.records, record]
    this.lines = [...this.lines, this.state]
    this.meet(record)
    this.forget()
  }

  private recoveredIn(node: string, epoch: number): void {
    if (!Number.isInteger(epoch) || epoch < 1 || epoch > this.epoch.number || !this.nodes.has(node)) {
      throw new SheepError('invalid', `node ${node} says it recovered in epoch ${epoch} of ${this.epoch.number}`)
    }
    const last = this.reported.get(node) ?? 0
    if (epoch <= last) return
    if (last > 0) this.before.set(node, [...(this.before.get(node) ?? []), last])
    this.reported.set(node, epoch)
    this.forget()
  }

  private meet(record: EpochRecord): void {
    for (const { id, vnodes } of record.nodes) {
      const known = this.nodes.get(id)
      if (known === undefined) this.nodes.set(id, { vnodes, since: record.number })
      else if (vnodes > 0 && vnodes !== known.vnodes) this.nodes.set(id, { ...known, vnodes })
    }
  }

  /** Drops what is older than the last epoch that all have recovered, and nodes that were away too long. */
  private forget(): void {
    const current = this.epoch
    for (const [id, { since }] of [...this.nodes]) {
      const last = this.reported.get(id) ?? since
      if (last >= current.number - ABSENCE_EPOCHS_MAX || current.nodes.some((node) => node.id === id)) continue
      this.nodes.delete(id)
      this.reported.delete(id)
      this.before.delete(id)
    }
    const from = this.records.findLastIndex(({ number }) => this.allRecovered(number))
    if (from <= 0) return
    this.records = this.records.slice(from)
    this.lines = this.lines.slice(from)
    const oldest = this.records[0].number
    for (const [id, epochs] of this.before) {
      const kept = epochs.filter((epoch) => epoch >= oldest)
      if (kept.length > 0) this.before.set(id, kept)
      else this.before.delete(id)
    }
  }

  /**
   * Everybody who may have had something then. That each has recovered some epoch since is not enough: whoever recovers takes what those
   * have who are members then, and does not hear of what only others had.
   */
  private allRecovered(number: number): boolean {
    for (const [id, { since }] of this.nodes) {
      if (since <= number && this.reported.get(id) !== number && !this.before.get(id)?.includes(number)) return false
    }
    return true
  }
}
