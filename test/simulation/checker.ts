/**
 * What a volume may hold. One `Lineage` follows one content: a working volume, or a snapshot's frozen one. For each cell it
 * keeps the set of stamps that a read may return now, and the set that may be there after power loss of everything:
 *
 * - requests of one volume that overlap take effect in the order of their issue, so with all writes acknowledged exactly
 *   one stamp may be read;
 * - a write that failed or whose gateway died may have happened or not; the first read of it decides for good;
 * - a completed flush makes durable what was complete, or was read, when it was issued; FUA its own cells; power loss of
 *   everything leaves for each cell the durable stamp or any issued after it.
 *
 * Cells about which everything is certain are one number in an array; only the others have a `Cell`.
 */
import { describeCell, stampOf, TORN } from './stamps.js'
import type { Verdict } from './trace.js'

/** A write in flight or one whose end is unknown. */
export interface Write {
  readonly stamp: number
  readonly first: number
  readonly count: number
  /** Its place in the order of issue */
  readonly sequence: number
  /** When it was acknowledged, in events of this lineage; 0: not */
  acknowledged: number
  state: 'flying' | 'done' | 'failed'
  readonly durable: boolean
}

export interface Read {
  readonly first: number
  readonly count: number
  readonly begun: number
  readonly expected: Int32Array
  /** cells about which there was more to know at issue */
  readonly open: Map<number, Expectation>
  /** By another client than the one that writes: what was issued since may be read, too */
  readonly since: Write[] | null
}

interface Expectation {
  /** The last write that was in flight at issue */
  last: Write | null
  /** What may be read when there was none, or, with what `flying` wrote, when it fails */
  candidates: readonly number[]
  flying: readonly Write[]
  generation: number
}

export interface Flush {
  readonly issued: number
  /** When its client began */
  readonly since: number
}

class Cell {
  visible: number[]
  /** Sequence of the newest acknowledged write in `visible`, or of the event that fixed it */
  visibleSequence = 0
  /** When `visible` became what it is */
  visibleSince = 0
  /** Of all that this lineage's cells ever were: what is known of a read's cells may be of one that was settled since */
  generation = 0
  durable: number[]
  /** Issued after what is durable, oldest first */
  later: Write[] = []
  flying: Write[] = []
  /** Was read until a power loss that may have taken it, and since when: a flush that succeeds says that it is there. null: nothing was */
  owed: { stamp: number; since: number; sequence: number } | null = null

  constructor(stamp: number) {
    this.visible = [stamp]
    this.durable = [stamp]
  }
}

const NO_WRITES: readonly Write[] = []
const stampOfWrite = (write: Write): number => write.stamp

function unite(...lists: readonly (readonly number[])[]): number[] {
  return [...new Set(lists.flat())]
}

/** How many wrong cells one report names. */
const CELLS_REPORTED = 4

export class Lineage {
  #stable: Int32Array
  readonly #open = new Map<number, Cell>()
  #generations = 0
  /** Counts issues and completions: the lineage's own time */
  #time = 0
  /** Of the last power loss after which nothing was flushed; 0 none */
  #lossAt = 0
  /** Snapshots being taken: they may or may not see what is written now */
  readonly #watchers = new Set<Lineage>()
  /** Reads of a second client that are under way */
  readonly #besides = new Set<Read>()
  readonly #failed: Write[] = []
  /** What was given up, or may have gone with the power, when, and what may be there since */
  readonly #taken: { time: number; cells: ReadonlyMap<number, { stamps: readonly number[] }> }[] = []

  constructor(
    readonly name: string,
    readonly cellSize: number,
    public cells: number,
    readonly verdict: Verdict,
  ) {
    this.#stable = new Int32Array(cells)
  }

  get openCells(): number {
    return this.#open.size
  }

  // writes

  beginWrite(stamp: number, first: number, count: number, durable = false): Write {
    const write: Write = { stamp, first, count, sequence: ++this.#time, acknowledged: 0, state: 'flying', durable }
    for (let i = first; i < first + count; i++) {
      const cell = this.#cell(i)
      cell.flying.push(write)
      cell.later.push(write)
    }
    for (const watcher of this.#watchers) watcher.#mayHold(write)
    for (const read of this.#besides) read.since!.push(write)
    return write
  }

  endWrite(write: Write): void {
    write.state = 'done'
    write.acknowledged = ++this.#time
    for (let i = write.first; i < write.first + write.count; i++) {
      const cell = this.#cell(i)
      remove(cell.flying, write)
      if (write.sequence > cell.visibleSequence) this.#see(cell, [write.stamp], write.sequence)
      if (write.durable) this.#settleAt(cell, write)
      this.#close(i, cell)
    }
  }

  /** Failed, or its gateway died: it may have happened, and until somebody reads it may seem to happen later. */
  failWrite(write: Write): void {
    write.state = 'failed'
    this.#failed.push(write)
    this.#time++
    for (let i = write.first; i < write.first + write.count; i++) {
      const cell = this.#cell(i)
      remove(cell.flying, write)
      if (write.sequence > cell.visibleSequence) {
        cell.visible = unite(cell.visible, [write.stamp])
        cell.visibleSince = this.#time
        cell.generation = ++this.#generations
      }
    }
  }

  // reads

  /** `beside`: by another client than the one that writes. Then `endRead` or `dropRead` must follow. */
  beginRead(first: number, count: number, beside = false): Read {
    this.#time++
    const open = new Map<number, Expectation>()
    for (let i = first; i < first + count; i++) {
      const cell = this.#open.get(i)
      if (!cell) continue
      const last = cell.flying.at(-1) ?? null
      const newer = last && last.sequence > cell.visibleSequence ? last : null
      open.set(i, {
        last: newer,
        candidates: cell.visible,
        flying: newer ? [...cell.flying] : NO_WRITES,
        generation: cell.generation,
      })
    }
    const expected = this.#stable.slice(first, first + count)
    const read: Read = { first, count, begun: this.#time, expected, open, since: beside ? [] : null }
    if (beside) this.#besides.add(read)
    return read
  }

  dropRead(read: Read): void {
    this.#besides.delete(read)
  }

  endRead(read: Read, bytes: Buffer, who: string): void {
    this.#time++
    this.#besides.delete(read)
    const wrong: string[] = []
    for (let i = 0; i < read.count; i++) {
      const index = read.first + i
      const stamp = stampOf(bytes, i * this.cellSize, this.cellSize, index)
      const expectation = read.open.get(index)
      if (read.since?.some((write) => write.stamp === stamp && covers(write, index))) continue
      if (this.#wasTaken(index, stamp, read.begun)) continue
      const problem =
        stamp === TORN
          ? `holds ${describeCell(bytes, i * this.cellSize, this.cellSize)}`
          : expectation
            ? this.#unexpected(expectation, stamp, read.since !== null)
            : stamp === read.expected[i]
              ? ''
              : `is ${stamp}, must be ${read.expected[i]}`
      if (problem !== '') {
        wrong.push(`cell ${index} (byte ${index * this.cellSize}) ${problem}`)
        continue
      }
      const cell = this.#open.get(index)
      if (cell && expectation && cell.generation === expectation.generation && cell.visible.length > 1) {
        this.#see(cell, [stamp], cell.visibleSequence)
      }
    }
    if (wrong.length === 0) return
    const more = wrong.length > CELLS_REPORTED ? `, and ${wrong.length - CELLS_REPORTED} cells more` : ''
    this.verdict.report('wrong read', `${who}: ${this.name}: ${wrong.slice(0, CELLS_REPORTED).join('; ')}${more}`)
  }

  #unexpected(expectation: Expectation, stamp: number, beside: boolean): string {
    const { last, candidates, flying } = expectation
    if (last && stamp === last.stamp) return ''
    // The writer's gateway may be cut off with it, while another answers who reads beside the writer.
    const unanswered = last?.state === 'failed' || (beside && last?.state === 'flying')
    if (last && !unanswered) return `is ${stamp}, must be write ${last.stamp} issued before it`
    if (candidates.includes(stamp) || flying.some((write) => write.stamp === stamp)) return ''
    return `is ${stamp}, must be one of ${unite(candidates, flying.map(stampOfWrite))}`
  }

  // durability

  get time(): number {
    return this.#time
  }

  beginFlush(since: number): Flush {
    return { issued: ++this.#time, since }
  }

  endFlush(flush: Flush): void {
    if (flush.issued > this.#lossAt) this.#lossAt = 0
    this.#time++
    for (const [index, cell] of [...this.#open]) {
      const { owed } = cell
      if (owed !== null && owed.since > flush.since && cell.visibleSince <= flush.issued) {
        // What has failed since may have happened.
        const failed = this.#failed.filter((write) => write.sequence > owed.sequence && covers(write, index))
        this.#see(cell, unite([owed.stamp], failed.map(stampOfWrite)), cell.visibleSequence)
        cell.durable = cell.visible
        cell.later = [...cell.flying]
      } else if (cell.visibleSince <= flush.issued) {
        cell.durable = cell.visible
        cell.later = [...cell.flying]
      } else {
        const covered = cell.later.findLast((write) => write.acknowledged > 0 && write.acknowledged <= flush.issued)
        if (covered) this.#settleAt(cell, covered)
      }
      this.#close(index, cell)
    }
  }

  /** Every host lost power (or every holder of something did): nothing is in flight any more. */
  powerLoss(): void {
    this.#lossAt = ++this.#time
    const left = new Map<number, { stamps: readonly number[] }>()
    for (const [index, cell] of this.#open) {
      const possible = unite(
        cell.visible,
        cell.durable,
        cell.later.map((write) => write.stamp),
      )
      const certain = cell.visible.length === 1 && cell.flying.length === 0 && possible.length > 1
      // What is in flight is done all the same, by a gateway that goes on.
      const former = cell.flying.length === 0 ? cell.owed : null
      const last = { stamp: cell.visible[0], since: cell.visibleSince, sequence: cell.visibleSequence }
      const owed = certain ? last : former
      this.#see(cell, possible, this.#time)
      cell.owed = owed
      cell.durable = possible
      cell.later = []
      left.set(index, { stamps: possible })
    }
    this.#taken.push({ time: this.#time, cells: left })
  }

  /**
   * A gateway begins with what is stored. The one before may have gone on with an index of which the power had taken a part: what it
   * answered from that is gone with it, unless it was flushed since.
   */
  opened(): void {
    if (this.#lossAt > 0) this.powerLoss()
    this.#lossAt = 0
  }

  /**
   * What these cells held may be lost: from now on a read may find what `left` says of each. Call the result when nobody may read
   * anything else any more. What is in flight then takes effect all the same, and so may what failed before.
   */
  giveUp(first: number, count: number, left: (cell: number) => readonly number[]): () => void {
    this.#time++
    const last = Math.min(first + count, this.cells)
    const given = new Map<number, { stamps: readonly number[]; generation: number }>()
    for (let i = first; i < last; i++) {
      const cell = this.#cell(i)
      // A gateway goes on with what its client has given up, and with what was under way in a power loss.
      const late = [...this.#failed.filter((write) => covers(write, i)), ...cell.flying]
      const stamps = unite(
        left(i),
        late.filter((write) => write.sequence <= cell.visibleSequence || write.state === 'failed').map(stampOfWrite),
      )
      this.#see(cell, unite(cell.visible, stamps), cell.visibleSequence)
      cell.durable = cell.visible
      cell.later = [...cell.flying]
      given.set(i, { stamps, generation: cell.generation })
    }
    this.#taken.push({ time: this.#time, cells: given })
    return () => {
      for (const [i, { stamps, generation }] of given) {
        const cell = this.#open.get(i)
        // Somebody has read it meanwhile, or written.
        if (cell === undefined || cell.generation !== generation) continue
        this.#see(cell, [...stamps], cell.visibleSequence)
        cell.durable = cell.visible
        this.#close(i, cell)
      }
    }
  }

  /** While the read was under way what it had to find was lost, and left this. */
  #wasTaken(index: number, stamp: number, since: number): boolean {
    return this.#taken.some(({ time, cells }) => time > since && cells.get(index)?.stamps.includes(stamp))
  }

  // operations

  /** The content that a snapshot which begins now may hold; until `endSnapshot` what is written may be in it, too. */
  beginSnapshot(name: string): Lineage {
    const snapshot = this.copy(name)
    this.#watchers.add(snapshot)
    return snapshot
  }

  endSnapshot(snapshot: Lineage): void {
    this.#watchers.delete(snapshot)
  }

  /** The same content under another name (clone, rollback, or the start of a snapshot). */
  copy(name: string, verdict = this.verdict): Lineage {
    const copy = new Lineage(name, this.cellSize, this.cells, verdict)
    copy.#stable = this.#stable.slice()
    copy.#time = this.#time
    for (const [index, cell] of this.#open) {
      const other = new Cell(0)
      other.visible = unite(
        cell.visible,
        cell.flying.filter((w) => w.sequence > cell.visibleSequence).map((w) => w.stamp),
      )
      other.visibleSequence = this.#time
      other.visibleSince = this.#time
      other.durable = unite(
        cell.durable,
        cell.later.map((write) => write.stamp),
        other.visible,
      )
      copy.#open.set(index, other)
    }
    return copy
  }

  #mayHold(write: Write): void {
    for (let i = write.first; i < write.first + write.count; i++) {
      if (i >= this.cells) continue
      const cell = this.#cell(i)
      cell.visible = unite(cell.visible, [write.stamp])
      cell.durable = unite(cell.durable, [write.stamp])
      cell.generation = ++this.#generations
    }
  }

  /** New cells read as zeros; cells cut off are gone. */
  resize(cells: number): void {
    const stable = new Int32Array(cells)
    stable.set(this.#stable.subarray(0, Math.min(cells, this.cells)))
    this.#stable = stable
    for (const index of [...this.#open.keys()]) if (index >= cells) this.#open.delete(index)
    this.cells = cells
  }

  #cell(index: number): Cell {
    let cell = this.#open.get(index)
    if (!cell) {
      cell = new Cell(this.#stable[index])
      cell.generation = ++this.#generations
      this.#open.set(index, cell)
    }
    return cell
  }

  #see(cell: Cell, visible: number[], sequence: number): void {
    cell.owed = null
    cell.visible = visible
    cell.visibleSequence = sequence
    cell.visibleSince = this.#time
    cell.generation = ++this.#generations
  }

  /** `write` is durable: what was before it is past. */
  #settleAt(cell: Cell, write: Write): void {
    if (!cell.later.includes(write)) return
    cell.durable = [write.stamp]
    cell.later = cell.later.filter((other) => other.sequence > write.sequence)
  }

  #close(index: number, cell: Cell): void {
    if (cell.flying.length > 0 || cell.later.length > 0) return
    if (cell.visible.length !== 1 || cell.durable.length !== 1 || cell.visible[0] !== cell.durable[0]) return
    this.#stable[index] = cell.visible[0]
    this.#open.delete(index)
  }
}

function covers(write: Write, index: number): boolean {
  return index >= write.first && index < write.first + write.count
}

function remove(list: Write[], write: Write): void {
  const at = list.indexOf(write)
  if (at >= 0) list.splice(at, 1)
}
