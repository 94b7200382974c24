/**
 * What processes have open, by the number that the kernel knows it under. It is also in a small file, so that the next process of the
 * daemon takes it over: a slot of 32 bytes for each, written before the kernel hears of it. Directories are not in it.
 *
 * A request that the kernel repeats after a restart may have been done already: an open finds the slot that it made, by the kernel's own
 * number of the request; a release finds its slot gone, or with another serial.
 */
import { SheepError } from '../errors.js'

export const HANDLES_MAX = 65_536
const SLOT = 32
const SLOT_SPAN = 2 ** 20
const SERIAL_MAX = 2 ** 31
const OPEN_READ = 1
const OPEN_WRITE = 2

export interface HandleFile {
  read(): Buffer
  write(position: number, bytes: Buffer): void
}

export interface Handle {
  number: number
  node: number
  writes: boolean
  /** The kernel's number of the request that opened it */
  unique: string
}

export class Handles {
  private readonly slots: (Handle | null)[] = []
  private readonly free: number[] = []
  private serial = 1

  /** @param file null: nobody takes over */
  constructor(private readonly file: HandleFile | null) {
    const bytes = file?.read() ?? Buffer.alloc(0)
    for (let slot = 0; (slot + 1) * SLOT <= bytes.length && slot < HANDLES_MAX; slot++) {
      this.slots.push(this.decode(bytes, slot))
      if (this.slots[slot] === null) this.free.push(slot)
    }
  }

  get(number: number): Handle | null {
    const handle = this.slots[number % SLOT_SPAN] ?? null
    return handle?.number === number ? handle : null
  }

  all(): Handle[] {
    return this.slots.filter((handle) => handle !== null)
  }

  /** The one that this request has opened, when it comes again. */
  openedBy(unique: string, node: number): Handle | null {
    return this.slots.find((handle) => handle?.unique === unique && handle.node === node) ?? null
  }

  /** SheepError busy: too many. */
  add(node: number, writes: boolean, unique: string): Handle {
    // The oldest free one, so that a number that was closed is not soon another's.
    const slot = this.free.shift() ?? this.slots.length
    if (slot >= HANDLES_MAX) throw new SheepError('busy', `${HANDLES_MAX} files are open`)
    this.serial = (this.serial + 1) % SERIAL_MAX
    const handle = { number: this.serial * SLOT_SPAN + slot, node, writes, unique }
    this.slots[slot] = handle
    this.file?.write(slot * SLOT, encode(handle))
    return handle
  }

  remove(handle: Handle): void {
    const slot = handle.number % SLOT_SPAN
    this.slots[slot] = null
    this.free.push(slot)
    this.file?.write(slot * SLOT, Buffer.alloc(SLOT))
  }

  private decode(bytes: Buffer, slot: number): Handle | null {
    const at = slot * SLOT
    const state = bytes.readUInt32LE(at)
    if (state !== OPEN_READ && state !== OPEN_WRITE) return null
    const serial = bytes.readUInt32LE(at + 4) % SERIAL_MAX
    this.serial = Math.max(this.serial, serial)
    return {
      number: serial * SLOT_SPAN + slot,
      node: bytes.readUInt32LE(at + 8),
      writes: state === OPEN_WRITE,
      unique: `${bytes.readUInt32LE(at + 16)}:${bytes.readUInt32LE(at + 20)}`,
    }
  }
}

function encode({ number, node, writes, unique }: Handle): Buffer {
  const bytes = Buffer.alloc(SLOT)
  const [high, low] = unique.split(':').map(Number)
  bytes.writeUInt32LE(writes ? OPEN_WRITE : OPEN_READ, 0)
  bytes.writeUInt32LE(Math.floor(number / SLOT_SPAN), 4)
  bytes.writeUInt32LE(node, 8)
  bytes.writeUInt32LE(high, 16)
  bytes.writeUInt32LE(low, 20)
  return bytes
}
