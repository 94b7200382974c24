/**
 * One replica had no room for a write that others have done. Before the client hears of it all replicas must be equal again,
 * and what they can be equal to is what the full one holds: old bytes, or some of the new ones. That range is read there and
 * put on the others. It replaces what they have just written, and zeros are holes, so it needs no room; when another one
 * refuses all the same, it is asked what it holds in its turn.
 */
import { ENOSPC, ObjectRequest, READ, WENT_BY, WRITE, ZERO } from '../replication/request.js'
import type { Oid } from '../vdi/oid.js'
import type { Router } from './router.js'

/** Unit in which zeros are told from data: what a file system allocates at least. */
const BLOCK = 4096

export interface RefusedWrite {
  oid: Oid
  position: number
  length: number
  epoch: number
  nodes: readonly string[]
  /** All zeros was what was asked for */
  zeros: boolean
}

export class TakeBack {
  private cancelled = false
  private rounds = 0
  private pending = 0
  private failed = false
  private full = ''

  /** `done`: whether all are equal. False: the write must be sent again. Not called after `cancel`. */
  constructor(
    private readonly router: Router,
    private readonly write: RefusedWrite,
    private readonly done: (equal: boolean) => void,
  ) {}

  start(full: string): void {
    const { length, zeros, nodes } = this.write
    this.full = ''
    if (zeros) {
      this.pending = nodes.length
      for (const node of nodes) this.put(node, ZERO, EMPTY, 0, length)
      return
    }
    const buffer = Buffer.alloc(length)
    this.send(full, READ, buffer, 0, length, (result) => {
      if (result < 0) this.done(false)
      else this.putOnOthers(full, buffer)
    })
  }

  cancel(): void {
    this.cancelled = true
  }

  private putOnOthers(full: string, buffer: Buffer): void {
    const runs = runsOf(buffer, this.write.position)
    const others = this.write.nodes.filter((node) => node !== full)
    this.pending = runs.length * others.length
    for (const node of others) {
      for (const { start, end, data } of runs) this.put(node, data ? WRITE : ZERO, buffer, start, end)
    }
  }

  private put(node: string, kind: number, buffer: Uint8Array, start: number, end: number): void {
    this.send(node, kind, buffer, start, end, (result) => {
      if (result === ENOSPC) this.full = node
      else if (result < 0 && result !== WENT_BY) this.failed = true
      if (--this.pending > 0) return
      if (!this.failed && this.full === '') this.done(true)
      else if (this.failed || this.write.zeros || ++this.rounds > this.write.nodes.length) this.done(false)
      else this.start(this.full)
    })
  }

  private send(
    node: string,
    kind: number,
    buffer: Uint8Array,
    start: number,
    end: number,
    answered: (result: number) => void,
  ): void {
    const { oid, position, epoch } = this.write
    const request = new TakeBackRequest((result) => {
      if (!this.cancelled) answered(result)
    })
    request.kind = kind
    request.epoch = epoch
    request.oid = oid
    request.position = position + start
    request.length = end - start
    request.buffer = buffer
    request.bufferOffset = start
    request.writer = this.router.options.self
    this.router.send(node, request)
  }
}

class TakeBackRequest extends ObjectRequest {
  constructor(private readonly answered: (result: number) => void) {
    super()
  }

  complete(result: number): void {
    this.answered(result)
  }
}

interface Run {
  start: number
  end: number
  data: boolean
}

/** Stretches of data and of zeros in turn. `position`: where the buffer lies in the object. */
function runsOf(buffer: Buffer, position: number): Run[] {
  const runs: Run[] = []
  for (let start = 0; start < buffer.length; ) {
    const end = Math.min(buffer.length, start + BLOCK - ((position + start) % BLOCK))
    const data = buffer.compare(ZEROS, 0, end - start, start, end) !== 0
    const last = runs[runs.length - 1]
    if (last !== undefined && last.data === data) last.end = end
    else runs.push({ start, end, data })
    start = end
  }
  return runs
}

const EMPTY = new Uint8Array(0)
const ZEROS = Buffer.alloc(BLOCK)
