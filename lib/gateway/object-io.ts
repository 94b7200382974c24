/** ObjectIo on the router: whole-object access for VDI operations, with promises. */
import { SheepError } from '../errors.js'
import type { Completion } from '../host/interfaces.js'
import { FLAG_CREATE } from '../protocol/header.js'
import { ALLOCATE, LOST, NO_OBJECT, READ, REMOVE, WRITE } from '../replication/request.js'
import type { ObjectIo } from '../vdi/object-io.js'
import { inodeOid, KIND_DATA, kindOf, type Oid, oidToHex, vidOf } from '../vdi/oid.js'
import type { Router } from './router.js'

/** At most what a peer takes in one message. */
const PIECE = 1024 * 1024
const REMOVALS_AT_ONCE = 64

export interface RoutedIoOptions {
  router: Router
  /** 0 when the registry does not know the vid */
  copiesOf: (vid: number) => number
  /** False: the object exists as long as its VDI does, so when nobody has it those who do are away, and reads wait */
  mayLack: (oid: Oid) => boolean
  /** Every node that stores objects */
  storeNodes: () => readonly string[]
}

export class RoutedIo implements ObjectIo {
  constructor(private readonly options: RoutedIoOptions) {}

  get epoch(): number {
    return this.options.router.epoch
  }

  async read(oid: Oid, position: number, length: number): Promise<Buffer> {
    const buffer = Buffer.alloc(length)
    const copies = this.copies(oid)
    const mayLack = this.options.mayLack(oid)
    await pieces(length, (at, size) =>
      this.run(oid, 'read', (done) =>
        this.options.router.submit(READ, oid, copies, buffer, at, size, position + at, 0, mayLack, done),
      ),
    )
    return buffer
  }

  async write(oid: Oid, position: number, data: Buffer): Promise<void> {
    const copies = this.copies(oid)
    await pieces(data.length, (at, size) =>
      this.run(oid, 'write', (done) =>
        this.options.router.submit(WRITE, oid, copies, data, at, size, position + at, 0, true, done),
      ),
    )
  }

  async create(oid: Oid, position: number, data: Buffer): Promise<void> {
    const copies = this.copies(oid)
    const first = Math.min(PIECE, data.length)
    await this.run(oid, 'create', (done) =>
      this.options.router.submit(WRITE, oid, copies, data, 0, first, position, FLAG_CREATE, false, done),
    )
    if (data.length > first) await this.write(oid, position + first, data.subarray(first))
  }

  async flush(vid: number): Promise<void> {
    const oid = inodeOid(vid)
    await Promise.all(
      this.options
        .storeNodes()
        .map((node) => this.run(oid, 'flush', (done) => this.options.router.flush(node, oid, done))),
    )
  }

  async remove(oids: readonly Oid[]): Promise<void> {
    let next = 0
    const worker = async () => {
      while (next < oids.length) {
        const oid = oids[next++]
        const copies = this.copies(oid)
        await this.run(oid, 'remove', (done) =>
          this.options.router.submit(REMOVE, oid, copies, EMPTY, 0, 0, 0, 0, false, done),
        )
      }
    }
    await Promise.all(Array.from({ length: Math.min(REMOVALS_AT_ONCE, oids.length) }, worker))
  }

  async allocate(oid: Oid, length: number): Promise<void> {
    const copies = this.copies(oid)
    await this.run(oid, 'allocate', (done) =>
      this.options.router.submit(ALLOCATE, oid, copies, EMPTY, 0, length, 0, FLAG_CREATE, false, done),
    )
  }

  private copies(oid: Oid): number {
    const copies = this.options.copiesOf(vidOf(oid))
    if (copies === 0) throw new SheepError('no-object', `object ${oidToHex(oid)} belongs to no VDI`)
    return copies
  }

  private async run(oid: Oid, what: string, start: (done: Completion) => void): Promise<void> {
    const result = await new Promise<number>((resolve) => start({ complete: resolve }))
    if (result >= 0) return
    const name = oidToHex(oid)
    if (result === LOST && kindOf(oid) === KIND_DATA) {
      throw new SheepError(
        'io',
        `object ${name} is lost`,
        'dog cluster lost says what of which volumes, and where it may be',
      )
    }
    if (result === NO_OBJECT || result === LOST) throw new SheepError('no-object', `no node has object ${name}`)
    if (result === -28) {
      throw new SheepError(
        'no-space',
        `no space left to ${what} object ${name}`,
        'add disks or delete VDIs: dog node list',
      )
    }
    if (result === -108 && !this.options.router.isStopped) {
      const hint = 'try again once dog cluster info shows this node running'
      throw new SheepError('halted', `${what} of object ${name} ended: this node was out of the cluster`, hint)
    }
    if (result === -108) throw new SheepError('shutting-down', `${what} of object ${name} ended: the daemon stops`)
    throw new SheepError('io', `${what} of object ${name} failed with errno ${-result}`, 'look at dog node log')
  }
}

async function pieces(length: number, run: (at: number, size: number) => Promise<void>): Promise<void> {
  const running: Promise<void>[] = []
  for (let at = 0; at < length || at === 0; at += PIECE) running.push(run(at, Math.min(PIECE, length - at)))
  await Promise.all(running)
}

const EMPTY = new Uint8Array(0)
