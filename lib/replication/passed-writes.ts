/**
 * Writes that this node has answered without doing them, because it has no valid copy of the object yet and another
 * replica that has one does them (docs/architecture.md, "A write while copies are missing"). Kept by object, for the
 * epoch: before a copy is taken, what was let go by must be where it is taken from. Their writers know.
 */
import type { Oid } from '../vdi/oid.js'

/** Objects whose writes may go by in one epoch; those of others wait for their copy. */
const OBJECTS_MAX = 1_000_000

export class PassedWrites {
  private epoch = 0
  private readonly writers = new Map<Oid, Set<string>>()

  /** What was in flight in another epoch was sent again in this one. */
  begin(epoch: number): void {
    if (epoch !== this.epoch) this.writers.clear()
    this.epoch = epoch
  }

  /** False: no more can be remembered. */
  add(oid: Oid, writer: string): boolean {
    const known = this.writers.get(oid)
    if (known !== undefined) known.add(writer)
    else if (this.writers.size < OBJECTS_MAX) this.writers.set(oid, new Set([writer]))
    else return false
    return true
  }

  /** Nothing is missing here that went by in this epoch */
  get none(): boolean {
    return this.writers.size === 0
  }

  /** Node ids of the gateways */
  of(oid: Oid): readonly string[] {
    const known = this.writers.get(oid)
    return known === undefined ? [] : [...known]
  }

  /** The object is valid here, or gone. */
  forget(oid: Oid): void {
    this.writers.delete(oid)
  }
}
