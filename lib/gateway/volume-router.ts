import type { Completion } from '../host/interfaces.js'
import type { Oid } from '../vdi/oid.js'
import { ESHUTDOWN, type Router } from './router.js'

/**
 * The router as one volume may use it. Once the volume has lost its lock nothing of it is sent any more, whatever still
 * waits somewhere: for an index entry, for a copy, for its turn.
 */
export class VolumeRouter {
  private revoked = false

  constructor(private readonly router: Router) {}

  submit(
    kind: number,
    oid: Oid,
    copies: number,
    buffer: Uint8Array,
    bufferOffset: number,
    length: number,
    position: number,
    flags: number,
    absentFails: boolean,
    done: Completion,
  ): void {
    if (this.revoked) done.complete(ESHUTDOWN)
    else this.router.submit(kind, oid, copies, buffer, bufferOffset, length, position, flags, absentFails, done)
  }

  flush(node: string, oid: Oid, done: Completion): void {
    if (this.revoked) done.complete(ESHUTDOWN)
    else this.router.flush(node, oid, done)
  }

  get epoch(): number {
    return this.router.epoch
  }

  /** What needs no replica may be answered: this node is in the cluster, or the volume is not this node's and all must fail. */
  get answers(): boolean {
    return this.revoked || this.router.isStopped || this.router.serves
  }

  get isRevoked(): boolean {
    return this.revoked || this.router.isStopped
  }

  whenAnswering(run: () => void): void {
    this.router.whenServing(run)
  }

  /** Fails those in flight for which `matches` holds, and all that follow. */
  revoke(matches: (oid: Oid) => boolean): void {
    this.revoked = true
    this.router.revoke(matches)
  }
}
