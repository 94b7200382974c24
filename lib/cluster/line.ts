/**
 * The line of history that this member follows: what has been delivered, and what of it may take effect.
 *
 * With an engine that knows quorum, what is delivered here need not be delivered anywhere else: when the network parts, some
 * members may have seen a last message that the others never will. So an entry takes effect only when all members that could
 * go on without this one have said that they have it too (RECEIPT); those who leave by a quorate view are no longer waited for.
 * What did not get that far when quorum is lost is taken back. Hence the history on a minority's disks is a beginning of the
 * majority's. An engine without partitions needs none of this: everything is stable at once.
 */
import { assert } from '../assert.js'
import { SheepError } from '../errors.js'
import type { MemberId } from './engine.js'
import type { Entry, History } from './history.js'

/** What a member was before a step that made it another. */
export interface Former {
  mode: 'outside' | 'frozen'
  fallen: string
}

interface Unstable {
  /** Of the action that brings it into effect */
  number: number
  seq: number
  digest: string
  /** Members that have not said that they have it */
  needs: Set<MemberId>
  /** One of them */
  entry: Entry | null
  history: History | null
  former: Former | null
}

export class Line {
  private unstable: Unstable[] = []
  private stable: History | null

  /** @param delivered with all entries delivered; null before the first start */
  constructor(
    readonly hasQuorum: boolean,
    public delivered: History | null,
  ) {
    this.stable = hasQuorum ? (delivered?.fork() ?? null) : null
  }

  /** Actions with this number and higher must wait. */
  get firstUnstable(): number {
    return this.unstable.length === 0 ? Number.POSITIVE_INFINITY : this.unstable[0].number
  }

  append(entry: Entry, number: number, needs: Iterable<MemberId>, former: Former | null): void {
    applyTo(this.delivered!, entry)
    this.add({ number, entry, history: null, former }, needs)
  }

  /** Another history takes the place of the one so far. */
  replace(history: History, number: number, needs: Iterable<MemberId>, former: Former | null): void {
    this.delivered = history
    this.add({ number, entry: null, history: this.hasQuorum ? history.fork() : null, former }, needs)
  }

  private add(step: Pick<Unstable, 'number' | 'entry' | 'history' | 'former'>, needs: Iterable<MemberId>): void {
    if (!this.hasQuorum) return
    const { seq, digest } = this.delivered!
    this.unstable.push({ ...step, seq, digest, needs: new Set(needs) })
    this.settle()
  }

  /** `member` has everything through `seq` on the line that has this digest there. */
  received(member: MemberId, seq: number, digest: string): void {
    let at = this.unstable.length - 1
    while (at >= 0 && (this.unstable[at].seq !== seq || this.unstable[at].digest !== digest)) at--
    for (; at >= 0; at--) this.unstable[at].needs.delete(member)
    this.settle()
  }

  /** A quorate view: nobody waits for those who are not in it. */
  retain(members: ReadonlySet<MemberId>): void {
    for (const { needs } of this.unstable) for (const member of needs) if (!members.has(member)) needs.delete(member)
    this.settle()
  }

  /** They are out: nobody waits for them. */
  excuse(members: Iterable<MemberId>): void {
    for (const member of members) for (const step of this.unstable) step.needs.delete(member)
    this.settle()
  }

  private settle(): void {
    while (this.unstable.length > 0 && this.unstable[0].needs.size === 0) {
      const { entry, history } = this.unstable.shift()!
      if (history !== null) this.stable = history
      else applyTo(this.stable!, entry!)
    }
  }

  /** Takes back what is not stable. What this member was before, when that changed it; 'same' when it did not; null: nothing. */
  rollBack(): Former | 'same' | null {
    if (this.unstable.length === 0) return null
    const former = this.unstable.find((step) => step.former !== null)?.former
    this.unstable = []
    this.delivered = this.stable?.fork() ?? null
    assert(former !== undefined || this.delivered !== null, 'an entry follows a history')
    return former ?? 'same'
  }
}

function applyTo(history: History, entry: Entry): void {
  try {
    history.apply(entry)
  } catch (error) {
    // A refusal that all members share; the state answers the proposer with it.
    if (!(error instanceof SheepError)) throw error
  }
}
