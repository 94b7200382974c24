/** Stands in for a volume's router: keeps each request until the test ends it. */
import type { VolumeRouter } from '../../../lib/gateway/volume-router.js'
import type { Completion } from '../../../lib/host/interfaces.js'
import type { Oid } from '../../../lib/vdi/oid.js'

export interface PendingWrite {
  kind: number
  oid: Oid
  copies: number
  bytes: Uint8Array
  position: number
  flags: number
  done: Completion
}

export class PendingRouter {
  readonly submitted: PendingWrite[] = []
  readonly flushes: { node: string; oid: Oid; done: Completion }[] = []
  /** Ends requests before they return, with this result */
  inline: ((kind: number, bytes: Uint8Array, position: number) => number) | null = null

  submit(
    kind: number,
    oid: Oid,
    copies: number,
    buffer: Uint8Array,
    bufferOffset: number,
    length: number,
    position: number,
    flags: number,
    _absentFails: boolean,
    done: Completion,
  ): void {
    const bytes = buffer.subarray(bufferOffset, bufferOffset + length)
    if (this.inline !== null) done.complete(this.inline(kind, bytes, position))
    else this.submitted.push({ kind, oid, copies, bytes, position, flags, done })
  }

  flush(node: string, oid: Oid, done: Completion): void {
    this.flushes.push({ node, oid, done })
  }

  get asVolumeRouter(): VolumeRouter {
    return this as unknown as VolumeRouter
  }
}
