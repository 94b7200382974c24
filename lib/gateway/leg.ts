/** What one node is asked for by an operation that is sent to several (router.ts). It recycles itself when it ends. */
import { ObjectRequest } from '../replication/request.js'

export interface LegOp {
  legDone(leg: Leg, result: number): void
  /** The disk has let go of the buffer, in a leg that no longer counts */
  bufferFree(): void
}

export interface LegOwner {
  readonly strays: Set<Leg>
  recycleLeg(leg: Leg): void
}

export class Leg extends ObjectRequest {
  op: LegOp | null = null
  /** Of an attempt of this op that no longer counts, while the disk uses its buffer */
  former: LegOp | null = null
  node = ''

  constructor(private readonly owner: LegOwner) {
    super()
  }

  complete(result: number): void {
    const { op, former } = this
    this.former = null
    if (op !== null) {
      op.legDone(this, result)
    } else {
      this.owner.strays.delete(this)
      former?.bufferFree()
    }
    this.buffer = EMPTY
    this.owner.recycleLeg(this)
  }
}

const EMPTY = new Uint8Array(0)
