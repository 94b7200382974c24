/**
 * Which epochs enough members have on disk. A start of the whole cluster hears more than half of the newest epoch's nodes,
 * or without quorum all of them; so an epoch may take effect once so many of the *former* epoch's nodes have it on disk that
 * each such start hears of it: half of them, or without quorum one.
 */
export interface Unconfirmed {
  /** Of the entry that begins the epoch */
  seq: number
  /** Node ids of the former epoch */
  nodes: string[]
  /** Those of them that have it on disk */
  have: string[]
}

/** How many of this number of nodes. */
export function confirmationsNeeded(nodes: number, hasQuorum: boolean): number {
  return hasQuorum ? Math.ceil(nodes / 2) : Math.min(1, nodes)
}

export class Confirmations {
  private list: Unconfirmed[] = []

  constructor(
    readonly hasQuorum: boolean,
    readonly self: string,
  ) {}

  get pending(): Unconfirmed[] {
    return this.list.map(({ seq, nodes, have }) => ({ seq, nodes: [...nodes], have: [...have] }))
  }

  /** In place of what was here. */
  set pending(list: readonly Unconfirmed[]) {
    this.list = list.map(({ seq, nodes, have }) => ({ seq, nodes: [...nodes], have: [...have] }))
    this.settle()
  }

  add(seq: number, nodes: readonly string[]): void {
    this.list.push({ seq, nodes: [...nodes], have: [] })
    this.settle()
  }

  /** All entries through `seq` are on this node's disk. */
  stored(node: string, seq: number): void {
    for (const one of this.list) {
      if (one.seq <= seq && one.nodes.includes(node) && !one.have.includes(node)) one.have.push(node)
    }
    this.settle()
  }

  /** Entry `seq`, which is on this member's disk, and all before it may take effect. */
  allow(seq: number): boolean {
    return !this.list.some((one) => one.seq <= seq && (this.hasQuorum || !one.nodes.includes(this.self)))
  }

  /** Whether all that is pending, and a next epoch after `nodes`, can be confirmed by these who are here. */
  possible(present: ReadonlySet<string>, nodes: readonly string[]): boolean {
    return [...this.list, { nodes, have: [] }].every((one) => {
      const able = one.nodes.filter((node) => present.has(node) || (one.have as string[]).includes(node))
      return able.length >= confirmationsNeeded(one.nodes.length, this.hasQuorum)
    })
  }

  takeBack(after: number): void {
    this.list = this.list.filter(({ seq }) => seq <= after)
  }

  private settle(): void {
    this.list = this.list.filter(({ nodes, have }) => have.length < confirmationsNeeded(nodes.length, this.hasQuorum))
  }
}
