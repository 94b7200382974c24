/**
 * Who has asked this process what it holds, and in which epochs. A node decides about a suspect only when every other member of the
 * epoch has answered it. So a replica that is away has not decided in an epoch in which it never asked some member, and nobody needs to
 * wait for what its readers may have seen: the one that hung before the epoch began, above all.
 */
import type { Topology } from './topology.js'

export interface Asks {
  /** The first epoch that the process was in; 0 none */
  since: number
  /** Node that is away -> the newest epoch in which it asked */
  newest: Readonly<Record<string, number>>
}

/** Nobody can tell. */
export const NO_ASKS: Asks = { since: 0, newest: {} }

export class Askers {
  private since = 0
  private readonly newest = new Map<string, number>()

  constructor(private readonly topology: Topology) {}

  epochChanged(): void {
    if (this.since === 0) this.since = this.topology.epoch
  }

  /** Before it is answered. */
  asked(node: string, epoch: number): void {
    this.newest.set(node, epoch)
  }

  report(): Asks {
    const { topology } = this
    return {
      since: this.since,
      newest: Object.fromEntries([...this.newest].filter(([node]) => topology.node(node) === undefined)),
    }
  }
}

/** Whether one of `members` of the epoch knows that the node did not ask it then. */
export function neverAsked(
  node: string,
  epoch: number,
  members: readonly string[],
  reports: readonly { node: string; asks: Asks }[],
): boolean {
  return reports.some(({ node: teller, asks }) => {
    return members.includes(teller) && asks.since > 0 && asks.since <= epoch && (asks.newest[node] ?? 0) < epoch
  })
}
