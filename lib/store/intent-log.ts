/**
 * Which objects may differ from their replicas: an object is added, durably, before its first write since it was last
 * known equal everywhere, and dropped when a flush has covered it and it has been quiet. After a crash only the objects
 * in the log need to be compared.
 *
 * The file `intent`: a 4096-byte header (magic "SHEEPINT", version, number of slots, at 16 the boot id of the disk's host), then
 * slots of 32 bytes, filled in order:
 *
 *     0  4  1 add, 2 drop, 3 add incomplete    16  4  writeEpoch that the object had when it was added
 *     4  4  slot number + 1                    28  4  crc32 of bytes 0..27
 *     8  8  oid: low word, high word             20  4  of an incomplete one: the last epoch before its power loss, or 0
 *
 * An object is incomplete when its host has booted since it was added: it may have lost completed writes with the power, which
 * one whose daemon alone was killed has not. It stays so until it is dropped or added again.
 *
 * An object whose creation was never synced is gone after a power loss, or the former one of its oid is back. The epoch in its
 * entry, which the header on disk reaches before the entry may be dropped, says how new it was: no older copy is it.
 *
 * Records are only appended. When the slots are used up, or a write failed, the live entries go to a fresh file that
 * replaces the old one by a rename. The slots are zeros on disk from the start, so an append changes no metadata and
 * costs one device flush. All records queued while a sync runs share the next; those of one turn share one.
 *
 * Reading: a torn tail is a slot that does not check. Slots after it may hold records of the same unsynced batch, or, had
 * the disk rotted a slot, entries that matter; so adds are believed there too and drops are not. Too many suspects cost a
 * check, too few cost data.
 */
import { crc32 } from 'node:zlib'
import { assert } from '../assert.js'
import { type Completion, type Disk, DiskError, type Log } from '../host/interfaces.js'
import { highWord, lowWord, type Oid, oidFromWords } from '../vdi/oid.js'
import { completed } from './completed.js'
import type { Intent } from './types.js'

const PATH = 'intent'
const FRESH_PATH = 'intent.new'
const HEADER = 4096
const RECORD = 32
const MAGIC = Buffer.from('SHEEPINT', 'latin1')
const VERSION = 1
const SLOTS_MIN = 16384
const EIO = 5

const ADD = 1
const DROP = 2
const ADD_INCOMPLETE = 3

const BOOT_ID_AT = 16
const BOOT_ID_BYTES = 64

/** Numbers of one record in memory: type, oid, epoch, lostIn */
const FIELDS = 4

interface Batch {
  /** FIELDS of each record, in turn */
  records: number[]
  /** Oid and epoch of each of its ADDs, in turn */
  adds: number[]
}

export class IntentLog {
  /** Called when more than `limit` entries are live, once until they have become fewer than 3/4 of it */
  onPressure: (() => void) | null = null

  private fd = -1
  private slots = 0
  private used = 0
  /** null: durable. Else those who wait for the one ADD of this oid that is queued or being written */
  private readonly live = new Map<Oid, Completion[] | null>()
  /** Of each of `live`: the newest epoch it is, or is being, added with */
  private readonly epochs = new Map<Oid, number>()
  /** Of `live`: those that may lack completed writes, with their lostIn */
  private readonly incomplete = new Map<Oid, number>()
  /** Of `live`: those that are being added again; this former entry counts until the new one is durable */
  private readonly renewed = new Map<Oid, Intent>()
  private batch: Batch = { records: [], adds: [] }
  /** Dropped, and a power loss may bring the entry back: since the last batch was begun, and before */
  private leaving = new Set<Oid>()
  private covering = new Set<Oid>()
  /** Those who wait until what is dropped is gone for good */
  private settling: Completion[] = []
  private running: Promise<void> | null = null
  private broken = false
  private closed = false
  private pressed = false

  constructor(
    private readonly disk: Disk,
    private readonly limit: number,
    private readonly log: Log,
  ) {}

  /** Number of live entries */
  get size(): number {
    return this.live.size
  }

  /** An entry exists or is being written */
  knows(oid: Oid): boolean {
    return this.live.has(oid)
  }

  /** It was dropped, and a power loss may bring it back. */
  mayReturn(oid: Oid): boolean {
    return this.leaving.has(oid) || this.covering.has(oid)
  }

  /** A durable entry exists */
  has(oid: Oid): boolean {
    return this.live.get(oid) === null
  }

  /** A durable entry exists that is no older than `epoch` */
  covers(oid: Oid, epoch: number): boolean {
    return this.has(oid) && (this.epochs.get(oid) as number) >= epoch
  }

  /** A former run has left a file, readable or not. Throws DiskError. */
  get exists(): boolean {
    return this.disk.exists(PATH)
  }

  /** The entries that the file of a former run holds; null when there is no readable file. Throws DiskError. */
  read(): Map<Oid, Intent> | null {
    const bytes = this.disk.readFile(PATH)
    if (bytes === null || bytes.length < HEADER || !MAGIC.equals(bytes.subarray(0, 8))) return null
    if (bytes.readUInt32LE(8) !== VERSION) return null
    const bootId = bytes.toString('latin1', BOOT_ID_AT, BOOT_ID_AT + BOOT_ID_BYTES).replace(/\0+$/, '')
    const rebooted = bootId === '' || bootId !== this.disk.bootId
    const oids = new Map<Oid, Intent>()
    let torn = false
    const slots = Math.floor((bytes.length - HEADER) / RECORD)
    for (let slot = 0; slot < slots; slot++) {
      const at = HEADER + slot * RECORD
      const type = bytes.readUInt32LE(at)
      const oid = oidFromWords(bytes.readUInt32LE(at + 12), bytes.readUInt32LE(at + 8))
      const whole =
        (type === ADD || type === DROP || type === ADD_INCOMPLETE) &&
        bytes.readUInt32LE(at + 4) === slot + 1 &&
        bytes.readUInt32LE(at + 28) === crc32(bytes.subarray(at, at + 28)) &&
        oid > 0
      if (!whole) {
        torn = true
      } else if (type !== DROP) {
        const incomplete = rebooted || type === ADD_INCOMPLETE || (torn && oids.get(oid)?.incomplete === true)
        oids.set(oid, { epoch: bytes.readUInt32LE(at + 16), incomplete, lostIn: bytes.readUInt32LE(at + 20) })
      } else if (!torn) {
        oids.delete(oid)
      }
    }
    return oids
  }

  /** Starts a fresh log with these entries. Throws DiskError. */
  async start(entries: ReadonlyMap<Oid, Intent>): Promise<void> {
    for (const [oid, { epoch, incomplete, lostIn }] of entries) {
      this.live.set(oid, null)
      this.epochs.set(oid, epoch)
      if (incomplete) this.incomplete.set(oid, lostIn)
    }
    const result = await this.rewrite([])
    if (result < 0) throw new DiskError(-result, 'write', PATH, `errno ${-result}`)
    this.checkPressure()
  }

  /** Completes once an entry for `oid`, of `epoch` or a newer one, is durable. */
  add(oid: Oid, epoch: number, done: Completion): void {
    const waiters = this.live.get(oid)
    const known = this.epochs.get(oid) ?? -1
    if (waiters === null && known >= epoch && !this.incomplete.has(oid)) {
      done.complete(0)
      return
    }
    if (waiters && known >= epoch) {
      waiters.push(done)
      return
    }
    // It is written now, and so complete from here on.
    if (waiters === null) {
      const lostIn = this.incomplete.get(oid) ?? 0
      this.renewed.set(oid, { epoch: known, incomplete: this.incomplete.delete(oid), lostIn })
    }
    // Who waits for an entry of an older epoch waits for this one too.
    if (waiters) waiters.push(done)
    else this.live.set(oid, [done])
    this.epochs.set(oid, Math.max(epoch, known))
    this.batch.records.push(ADD, oid, Math.max(epoch, known), 0)
    this.batch.adds.push(oid, Math.max(epoch, known))
    this.pump()
    this.checkPressure()
  }

  /** Written soon, not synced. */
  drop(oid: Oid): void {
    if (!this.has(oid)) return
    this.live.delete(oid)
    this.epochs.delete(oid)
    this.incomplete.delete(oid)
    this.batch.records.push(DROP, oid, 0, 0)
    this.leaving.add(oid)
    this.pump()
    if (this.live.size < (this.limit * 3) / 4) this.pressed = false
  }

  /** Completes once no power loss can bring back what was dropped before this call. */
  settle(done: Completion): void {
    if (this.leaving.size + this.covering.size === 0) {
      done.complete(0)
      return
    }
    this.settling.push(done)
    this.pump()
  }

  /** Writes what is queued and closes the file. What comes later fails. */
  async close(): Promise<void> {
    while (this.running !== null) await this.running
    this.closed = true
    if (this.fd >= 0) this.disk.close(this.fd)
    this.fd = -1
  }

  private checkPressure(): void {
    if (this.live.size <= this.limit || this.pressed) return
    this.pressed = true
    this.onPressure?.()
  }

  private pump(): void {
    if (this.running !== null) return
    // Promise.resolve().then: at the end of this turn, with all that the turn has queued.
    this.running = Promise.resolve().then(() => this.run())
  }

  private async run(): Promise<void> {
    while (this.batch.records.length > 0 || this.settling.length > 0) {
      const { records, adds } = this.batch
      const { settling } = this
      this.batch = { records: [], adds: [] }
      this.settling = []
      for (const oid of this.leaving) this.covering.add(oid)
      this.leaving.clear()
      const durable = adds.length + settling.length > 0
      const full = this.used + records.length / FIELDS > this.slots
      const result = this.closed
        ? -EIO
        : this.broken || full
          ? await this.rewrite(records)
          : await this.append(records, durable)
      if (result >= 0 && durable) this.covering.clear()
      if (result < 0) {
        // What was written may be there or not: start a fresh file before anything else is promised.
        this.broken = true
        if (!this.closed) this.log('error', 'the intent log cannot be written', { errno: -result, file: PATH })
      }
      const told = settling
      for (let i = 0; i < adds.length; i += 2) {
        const oid = adds[i]
        // Added once more, with a newer epoch: those who wait are told then.
        if (this.epochs.get(oid) !== adds[i + 1]) continue
        const waiters = this.live.get(oid)
        assert(Array.isArray(waiters), 'an entry on its way into the intent log has those who wait for it')
        for (const done of waiters) told.push(done)
        this.addEnded(oid, result >= 0)
      }
      for (const done of told) done.complete(Math.min(result, 0))
    }
    this.running = null
  }

  private addEnded(oid: Oid, durable: boolean): void {
    const former = this.renewed.get(oid)
    this.renewed.delete(oid)
    if (durable || former !== undefined) this.live.set(oid, null)
    if (durable) return
    if (former === undefined) {
      this.live.delete(oid)
      this.epochs.delete(oid)
    } else {
      this.epochs.set(oid, former.epoch)
      if (former.incomplete) this.incomplete.set(oid, former.lostIn)
    }
  }

  private async append(records: number[], durable: boolean): Promise<number> {
    const count = records.length / FIELDS
    if (count > 0) {
      const bytes = Buffer.alloc(count * RECORD)
      encodeRecords(bytes, 0, records, this.used)
      const position = HEADER + this.used * RECORD
      this.used += count
      const written = await completed((done) => this.disk.write(this.fd, bytes, 0, bytes.length, position, done))
      if (written < bytes.length) return written < 0 ? written : -EIO
    }
    return durable ? completed((done) => this.disk.sync(this.fd, done)) : 0
  }

  /** A fresh file with all durable entries and then `records`. 0 or a negative errno; the old file stays on failure. */
  private async rewrite(records: number[]): Promise<number> {
    const all: number[] = []
    for (const [oid, waiters] of this.live) {
      const former = this.renewed.get(oid)
      if (former !== undefined) {
        all.push(former.incomplete ? ADD_INCOMPLETE : ADD, oid, former.epoch, former.lostIn)
      } else if (waiters === null) {
        const lostIn = this.incomplete.get(oid)
        all.push(lostIn === undefined ? ADD : ADD_INCOMPLETE, oid, this.epochs.get(oid) as number, lostIn ?? 0)
      }
    }
    for (const value of records) all.push(value)
    const count = all.length / FIELDS
    let slots = SLOTS_MIN
    while (slots < count * 4) slots *= 2
    const bytes = Buffer.alloc(HEADER + slots * RECORD)
    MAGIC.copy(bytes)
    bytes.writeUInt32LE(VERSION, 8)
    bytes.writeUInt32LE(slots, 12)
    bytes.write(this.disk.bootId, BOOT_ID_AT, BOOT_ID_BYTES, 'latin1')
    encodeRecords(bytes, HEADER, all, 0)
    let fd = -1
    try {
      if (this.disk.exists(FRESH_PATH)) this.disk.unlink(FRESH_PATH)
      fd = this.disk.open(FRESH_PATH, 'create-new')
      const fresh = fd
      const written = await completed((done) => this.disk.write(fresh, bytes, 0, bytes.length, 0, done))
      if (written < bytes.length) return written < 0 ? written : -EIO
      const synced = await completed((done) => this.disk.sync(fresh, done))
      if (synced < 0) return synced
      this.disk.rename(FRESH_PATH, PATH)
      const named = await completed((done) => this.disk.syncDirectory('', done))
      if (named < 0) return named
      if (this.fd >= 0) this.disk.close(this.fd)
      this.fd = fd
      fd = -1
      this.slots = slots
      this.used = count
      this.broken = false
      return 0
    } catch (error) {
      if (!(error instanceof DiskError)) throw error
      return -error.errno
    } finally {
      if (fd >= 0) this.disk.close(fd)
    }
  }
}

function encodeRecords(bytes: Buffer, start: number, records: number[], firstSlot: number): void {
  for (let i = 0; i < records.length; i += FIELDS) {
    const at = start + (i / FIELDS) * RECORD
    bytes.writeUInt32LE(records[i], at)
    bytes.writeUInt32LE(firstSlot + i / FIELDS + 1, at + 4)
    bytes.writeUInt32LE(lowWord(records[i + 1]), at + 8)
    bytes.writeUInt32LE(highWord(records[i + 1]), at + 12)
    bytes.writeUInt32LE(records[i + 2], at + 16)
    bytes.writeUInt32LE(records[i + 3], at + 20)
    bytes.writeUInt32LE(crc32(bytes.subarray(at, at + 28)), at + 28)
  }
}
