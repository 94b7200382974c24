/** Objects of which a change has gone by some replica in the present epoch: that may not have what was written. */
import type { Topology } from '../replication/topology.js'
import type { Oid } from '../vdi/oid.js'

export class WentBy {
  private epoch = 0
  private readonly nodes = new Map<Oid, Set<string>>()

  constructor(private readonly topology: Topology) {}

  add(oid: Oid, node: string): void {
    if (this.epoch !== this.topology.epoch) this.nodes.clear()
    this.epoch = this.topology.epoch
    const known = this.nodes.get(oid)
    if (known === undefined) this.nodes.set(oid, new Set([node]))
    else known.add(node)
  }

  has(oid: Oid, node: string): boolean {
    return this.epoch === this.topology.epoch && this.nodes.get(oid)?.has(node) === true
  }
}
