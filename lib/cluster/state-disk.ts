/**
 * The cluster's state on a member's disk.
 *
 *     cluster/snapshot.json   the whole state as of one entry
 *     cluster/log             "CRC base SEQ DIGEST\n": which snapshot it follows; then a line an entry, "CRC SEQ BATCH JSON\n"
 *     epoch/NNNNNNNN          the record of each epoch that took effect here, written before it does
 *
 * CRC is the CRC-32 of the rest of the line; BATCH is the first SEQ of the entries that were written and synced together. A batch is
 * written only after the one before it is on disk. So what a crash tears is the last batch: at opening it is cut at its first
 * bad line. A bad line with a later batch behind it is damage, and refused. A log is never truncated but replaced whole, after
 * the snapshot that takes its place; one that follows another snapshot than the one there is from before it.
 */
import { crc32 } from 'node:zlib'
import { assert } from '../assert.js'
import { SheepError } from '../errors.js'
import { type Completion, type Disk, DiskError } from '../host/interfaces.js'
import type { Entry } from './history.js'
import { isEntry } from './shape.js'
import { ClusterState } from './state.js'
import type { EpochRecord } from './types.js'

const DIRECTORY = 'cluster'
const SNAPSHOT = 'cluster/snapshot.json'
const LOG = 'cluster/log'
const EPOCHS = 'epoch'
const EPOCH_FILE = /^\d{8,}$/
/** A log shorter than this is not worth a snapshot. */
const COMPACT_BYTES_MIN = 1 << 20
const EIO = 5

const HINT =
  'the other members hold the same state: move the directory "cluster" of this store aside and start again; ' +
  'the objects of this store stay and are checked. If this was the only node, restore that directory from a backup'

function damaged(what: string): SheepError {
  return new SheepError('io', `the cluster state on disk is damaged: ${what}`, HINT)
}

function epochFile(number: number): string {
  return `${EPOCHS}/${String(number).padStart(8, '0')}`
}

function checked(text: string): string {
  return `${crc32(text).toString(16).padStart(8, '0')} ${text}\n`
}

/** The line without its checksum; null when that is wrong. */
function check(line: string): string | null {
  const text = line.slice(9)
  return line.slice(0, 9) === `${crc32(text).toString(16).padStart(8, '0')} ` ? text : null
}

function base(state: ClusterState): string {
  return `base ${state.history.seq} ${state.history.digest}`
}

/** null when it is no whole line of an entry. */
function entryOf(line: string): { entry: Entry; batch: number } | null {
  const match = /^(\d+) (\d+) (\{.*\})$/.exec(check(line) ?? '')
  if (match === null) return null
  const entry = parsed(match[3])
  if (!isEntry(entry)) return null
  return entry.seq === Number(match[1]) ? { entry, batch: Number(match[2]) } : null
}

/** null: no JSON */
function parsed(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return null
  }
}

/**
 * The entries behind a log's first line, the first of which must be number `next`, and how many bytes are good. SheepError io
 * for what no crash explains.
 */
function entriesOf(content: Buffer, start: number, next: number): { entries: Entry[]; length: number } {
  const entries: Entry[] = []
  let length = start
  let bad = -1
  for (let position = start; position < content.length; ) {
    const newline = content.indexOf(0x0a, position)
    const line = newline < 0 ? null : entryOf(content.toString('utf8', position, newline))
    const wanted = next + entries.length
    if (line === null) {
      if (bad < 0) bad = position
    } else if (bad >= 0) {
      // Only the rest of the same torn batch may stand here.
      if (line.batch > wanted) throw damaged(`${LOG} at byte ${bad}: entry ${wanted} is unreadable`)
    } else {
      if (line.entry.seq !== wanted)
        throw damaged(`${LOG} at byte ${position}: entry ${line.entry.seq} stands for ${wanted}`)
      entries.push(line.entry)
      length = newline + 1
    }
    position = newline < 0 ? content.length : newline + 1
  }
  return { entries, length }
}

class Waiter implements Completion {
  constructor(readonly then: (result: number) => void) {}

  complete(result: number): void {
    this.then(result)
  }
}

export class StateDisk {
  private fd = -1
  private logBytes = 0
  private snapshotBytes = 0
  private writing = false
  private closing = false
  /** Number -> content, of the files below epoch/ */
  private readonly epochs = new Map<number, string>()

  constructor(readonly disk: Disk) {}

  /**
   * What the last incarnation left; null when it was in no cluster. `effective`: the number of its last epoch that took effect
   * here, 0 for none. SheepError io when it is damaged, DiskError.
   */
  async load(): Promise<{ state: ClusterState; effective: number } | null> {
    const { disk } = this
    disk.makeDirectory(DIRECTORY)
    disk.makeDirectory(EPOCHS)
    // A process that was killed may have left what is seen here, but not yet on the platter.
    for (const path of ['', DIRECTORY, EPOCHS]) await this.synced((done) => disk.syncDirectory(path, done), path)
    const snapshot = disk.readFile(SNAPSHOT)
    if (snapshot === null) {
      if (disk.exists(LOG)) throw damaged(`${SNAPSHOT} is gone, ${LOG} is there`)
      return null
    }
    const state = snapshotOf(snapshot)
    this.snapshotBytes = snapshot.length
    this.openLog(this.replay(state))
    await this.synced((done) => disk.sync(this.fd, done), LOG)
    this.readEpochs()
    const { epochs } = state.history
    const effective = epochs.findLast((record) => this.epochs.get(record.number) === fileOf(record))?.number ?? 0
    this.saveEpochs(epochs.filter(({ number }) => number <= effective))
    return { state, effective }
  }

  private async synced(sync: (done: Completion) => void, path: string): Promise<void> {
    const result = await new Promise<number>((resolve) => sync(new Waiter(resolve)))
    if (result < 0) throw new DiskError(-result, 'sync', path, 'what is there cannot be made durable')
  }

  /** Applies the log to the state of its snapshot. Bytes of the log that is there afterwards. */
  private replay(state: ClusterState): number {
    const content = this.disk.readFile(LOG) ?? Buffer.alloc(0)
    const end = content.indexOf(0x0a)
    const first = end < 0 ? null : check(content.toString('utf8', 0, end))
    if (content.length > 0 && first === null) throw damaged(`${LOG}: its first line is unreadable`)
    if (first !== base(state)) return this.replaceLog(state)
    const { entries, length } = entriesOf(content, end + 1, state.history.seq + 1)
    if (length < content.length) this.disk.writeFileAtomic(LOG, content.subarray(0, length))
    for (const entry of entries) {
      const { number } = state.history.epoch
      if (entry.type === 'epoch' && entry.record.number !== number + 1) {
        throw damaged(`${LOG}: epoch ${entry.record.number} stands behind epoch ${number}`)
      }
      state.apply(entry)
    }
    return length
  }

  private replaceLog(state: ClusterState): number {
    const text = checked(base(state))
    this.disk.writeFileAtomic(LOG, text)
    return text.length
  }

  private openLog(bytes: number): void {
    if (this.fd >= 0) this.disk.close(this.fd)
    this.fd = this.disk.open(LOG, 'write')
    this.logBytes = bytes
  }

  /**
   * The whole state, whatever was there before, of which epochs up to number `effective` have taken effect: durable on return.
   * DiskError.
   */
  install(state: ClusterState, effective = Number.POSITIVE_INFINITY): void {
    assert(!this.writing, 'a snapshot does not pass entries on their way to the log')
    const json = JSON.stringify(state)
    const text = `{"crc32":${crc32(json)},"state":${json}}\n`
    this.disk.writeFileAtomic(SNAPSHOT, text)
    this.snapshotBytes = Buffer.byteLength(text)
    this.openLog(this.replaceLog(state))
    this.saveEpochs(state.history.epochs.filter(({ number }) => number <= effective))
  }

  /** `done` gets 0 when the entries are on disk, else a negative errno; then nothing more can be written. */
  append(entries: readonly Entry[], done: (result: number) => void): void {
    assert(!this.writing && this.fd >= 0 && entries.length > 0, 'one batch at a time')
    this.writing = true
    const batch = entries[0].seq
    const bytes = Buffer.from(
      entries.map((entry) => checked(`${entry.seq} ${batch} ${JSON.stringify(entry)}`)).join(''),
    )
    const end = (result: number): void => {
      this.writing = false
      if (this.closing) this.close()
      done(result)
    }
    const written = (result: number): void => {
      if (result !== bytes.length) {
        end(result < 0 ? result : -EIO)
      } else {
        this.logBytes += bytes.length
        this.disk.sync(this.fd, new Waiter(end))
      }
    }
    this.disk.write(this.fd, bytes, 0, bytes.length, this.logBytes, new Waiter(written))
  }

  /** A new snapshot when the log has outgrown the old one. Only when all entries applied are on disk, and no other. */
  compact(state: ClusterState): void {
    if (!this.writing && this.logBytes > Math.max(this.snapshotBytes, COMPACT_BYTES_MIN)) this.install(state)
  }

  /** These take effect now, and no others are left. Durable on return. DiskError. */
  saveEpochs(records: readonly EpochRecord[]): void {
    const wanted = new Map(records.map((record) => [record.number, fileOf(record)]))
    for (const [number, text] of wanted) {
      if (this.epochs.get(number) === text) continue
      this.disk.writeFileAtomic(epochFile(number), text)
      this.epochs.set(number, text)
    }
    for (const number of [...this.epochs.keys()]) {
      if (wanted.has(number)) continue
      this.disk.unlink(epochFile(number))
      this.epochs.delete(number)
    }
  }

  private readEpochs(): void {
    for (const name of this.disk.list(EPOCHS)) {
      if (!EPOCH_FILE.test(name)) continue
      this.epochs.set(Number(name), this.disk.readFile(`${EPOCHS}/${name}`)?.toString() ?? '')
    }
  }

  /** Now, or when what is being written has ended. */
  close(): void {
    this.closing = this.writing
    if (this.writing) return
    if (this.fd >= 0) this.disk.close(this.fd)
    this.fd = -1
  }
}

/** The last epoch that took effect on this disk's node; 0 none. DiskError. */
export function lastEpochOn(disk: Disk): number {
  if (!disk.exists(EPOCHS)) return 0
  const numbers = disk.list(EPOCHS).filter((name) => EPOCH_FILE.test(name))
  return Math.max(0, ...numbers.map(Number))
}

function fileOf(record: EpochRecord): string {
  return `${JSON.stringify(record, null, 1)}\n`
}

function snapshotOf(content: Buffer): ClusterState {
  try {
    const { crc32: sum, state } = JSON.parse(content.toString()) as { crc32: number; state: unknown }
    if (crc32(JSON.stringify(state)) !== sum) throw damaged(`${SNAPSHOT}: its checksum is wrong`)
    return ClusterState.fromJSON(state)
  } catch (error) {
    if (error instanceof SheepError) throw error
    throw damaged(`${SNAPSHOT}: ${(error as Error).message}`)
  }
}
