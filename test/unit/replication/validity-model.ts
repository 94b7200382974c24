/**
 * One object, nodes that come and go, and the rules by which copies are written: what the checks of validity.ts are about,
 * acted out. Deliberately plain. Each copy holds blocks with version numbers; a block may never show a version that is
 * older than the last one that was acknowledged. Only when power fails and leaves nobody who serves, it may go back to what
 * was flushed.
 */

import { assert } from '../../../lib/assert.js'
import type { EpochRecord } from '../../../lib/cluster/types.js'
import { NO_ASKS } from '../../../lib/replication/askers.js'
import { Topology } from '../../../lib/replication/topology.js'
import {
  type CopyReport,
  decide,
  passedIn,
  passedWithout,
  type Verdict,
  validThrough,
} from '../../../lib/replication/validity.js'
import { dataOid, type Oid } from '../../../lib/vdi/oid.js'
import { epochOf, node, nodeId } from './nodes.js'

export const BLOCKS = 2

/** What a power failure leaves at least */
interface Durable {
  blocks: number[]
  writeEpoch: number
  checkEpoch: number
}

interface Copy extends Durable {
  durable: Durable
  intent: boolean
  incomplete: boolean
  lostIn: number
  suspect: boolean
  /** Epoch since which it is doubted, 0: not known */
  doubtedIn: number
  writer: string
}

function doubt(copy: Copy, epoch: number): void {
  if (!copy.suspect || epoch === 0) copy.doubtedIn = epoch
  copy.suspect = true
}

class Member {
  copy: Copy | null = null
  recovered: number[] = [0]
  present = true
  passedEpochs: number[] = []
  lastEpoch = 0
  lostEpoch = 0

  constructor(
    readonly number: number,
    readonly id = nodeId(number),
  ) {}
}

function newCopy(blocks: readonly number[], writeEpoch: number, checkEpoch: number): Copy {
  const durable = { blocks: [...blocks], writeEpoch, checkEpoch }
  return {
    ...durable,
    blocks: [...blocks],
    durable,
    intent: false,
    incomplete: false,
    lostIn: 0,
    suspect: false,
    doubtedIn: 0,
    writer: '',
  }
}

function sync(copy: Copy): void {
  const { blocks, writeEpoch, checkEpoch } = copy
  copy.durable = { blocks: [...blocks], writeEpoch, checkEpoch }
}

interface Write {
  block: number
  version: number
  applied: Set<string>
  /** Those of them that have no valid copy and let it go by */
  passed: Set<string>
}

export class ValidityModel {
  readonly members: Member[]
  readonly topology = new Topology('')
  /** Last version of each block that may not be lost any more: acknowledged, or after a power failure flushed */
  acked = new Array<number>(BLOCKS).fill(0)
  flushed = new Array<number>(BLOCKS).fill(0)
  /** What was read of each block last, while nothing was written to it, and the newest version that had been issued by then */
  seen = new Array<{ version: number; issued: number } | null>(BLOCKS).fill(null)
  readonly oid: Oid
  history: EpochRecord[] = []
  writes: Write[] = []
  gateway = ''
  version = 0
  /** To be switched on by a test that shows that the model notices */
  readonly bugs = {
    trustEqualMarks: false,
    forgetSuspects: false,
    skipWitness: false,
    forgetWritesUnderWay: false,
    forgetPower: false,
    forgetPassed: false,
    takeTooEarly: false,
    inheritIncomplete: false,
    forgetPassedTooEarly: false,
    forgetLoss: false,
    forgetRenounced: false,
    trustDoubted: false,
    forgetDecided: false,
  }

  constructor(
    count: number,
    readonly copies: number,
    index: number,
  ) {
    this.oid = dataOid(7, index)
    this.members = Array.from({ length: count }, (_, i) => new Member(i))
    this.newEpoch([])
    for (const member of this.ring()) {
      member.copy = newCopy(this.acked, 1, 0)
    }
    for (const member of this.members) member.recovered = [1]
    this.open(0)
  }

  get epoch(): number {
    return this.topology.epoch
  }

  get present(): Member[] {
    return this.members.filter((member) => member.present)
  }

  ring(): Member[] {
    const ids = this.topology.replicas(this.oid, this.copies).map((replica) => replica.id)
    return ids.map((id) => this.members.find((member) => member.id === id) as Member)
  }

  private newEpoch(left: readonly string[]): void {
    const number = this.epoch + 1
    const record = epochOf(
      number,
      this.present.map((member) => node(member.number)),
    )
    this.history = [...this.history, record]
    this.forget()
    for (const member of this.present) {
      const { copy } = member
      if (copy?.intent === true && left.includes(copy.writer) && !this.bugs.forgetSuspects) doubt(copy, number)
      member.lastEpoch = number
    }
    // A gateway that lives sends again what was in flight.
    for (const write of this.writes) {
      write.applied.clear()
      write.passed.clear()
    }
    if (left.includes(this.gateway)) {
      this.gateway = ''
      this.writes = []
    }
  }

  /** Epochs that all have recovered past are kept no more. */
  private forget(): void {
    const needed = Math.min(...this.members.map(({ recovered }) => recovered[recovered.length - 1]))
    this.history = this.history.filter(({ number }, i) => number >= needed || i === this.history.length - 1)
    this.topology.update(this.history[this.history.length - 1], this.history)
  }

  /** What the copy's own marks and its member's prove, before any is inherited */
  private validFrom(member: Member): number {
    const { copy } = member
    assert(copy !== null, 'asked of a copy')
    const from = Math.max(copy.writeEpoch, copy.checkEpoch)
    const mine = (epoch: number) =>
      this.topology.replicasIn(epoch, this.oid, this.copies)?.some(({ id }) => id === member.id)
    return Math.max(from, ...member.recovered.filter(mine))
  }

  private settledThrough(member: Member): number {
    const { suspect, doubtedIn } = member.copy as Copy
    const end = this.validThrough(member)
    if (!suspect || this.bugs.trustDoubted) return end
    return doubtedIn === 0 ? Math.min(end, this.validFrom(member)) : Math.min(end, doubtedIn - 1)
  }

  validThrough(member: Member): number {
    const { copy } = member
    assert(copy !== null, 'asked of a copy')
    const from = this.validFrom(member)
    const last = copy.incomplete && !this.bugs.inheritIncomplete ? copy.lostIn : this.epoch
    return validThrough(this.topology, member.id, this.oid, this.copies, from, last)
  }

  serves(member: Member): boolean {
    const { copy } = member
    if (!member.present || copy === null || copy.suspect) return false
    return this.ring().includes(member) && this.validThrough(member) >= this.epoch
  }

  // events

  open(which: number): void {
    if (this.gateway === '') this.gateway = this.present[which % this.present.length].id
  }

  /** Begins a write; nobody has it yet. */
  write(block: number): void {
    if (this.gateway === '' || this.writes.some((write) => write.block === block)) return
    this.writes.push({ block, version: ++this.version, applied: new Set(), passed: new Set() })
  }

  /** One replica does one of the writes in flight. */
  apply(which: number, replica: number): void {
    if (this.writes.length === 0) return
    const write = this.writes[which % this.writes.length]
    const ring = this.ring()
    const member = ring[replica % ring.length]
    if (write.applied.has(member.id)) return
    if (!this.serves(member)) {
      this.pass(write, member)
      return
    }
    const copy = member.copy as Copy
    copy.intent = true
    copy.writer = this.gateway
    copy.writeEpoch = this.epoch
    copy.blocks[write.block] = write.version
    this.applied(write, member)
  }

  /** Another replica holds the object, and does it. */
  private pass(write: Write, member: Member): void {
    if (!this.ring().some((one) => this.serves(one))) return
    if (member.copy !== null && this.validThrough(member) >= this.epoch) return
    if (member.passedEpochs.at(-1) !== this.epoch) member.passedEpochs = passedIn(member.passedEpochs, this.epoch, 0)
    write.passed.add(member.id)
    this.applied(write, member)
  }

  private applied(write: Write, member: Member): void {
    const ring = this.ring()
    write.applied.add(member.id)
    if (ring.every((one) => write.applied.has(one.id))) {
      this.acked[write.block] = write.version
      this.writes.splice(this.writes.indexOf(write), 1)
    }
  }

  read(block: number, which: number): void {
    if (this.gateway === '' || this.writes.some((write) => write.block === block)) return
    const serving = this.ring().filter((member) => this.serves(member))
    if (serving.length === 0) return
    const { blocks } = serving[which % serving.length].copy as Copy
    this.seen[block] = { version: blocks[block], issued: this.version }
  }

  private forgetUnflushed(): void {
    this.acked = [...this.flushed]
    this.seen.fill(null)
  }

  /** Waits, here: is not done, while nobody has the object. */
  flush(): void {
    if (this.gateway === '' || !this.ring().some((member) => this.serves(member))) return
    for (const { copy } of this.present) if (copy !== null) sync(copy)
    this.flushed = [...this.acked]
  }

  /** The gateway says that the object is flushed and quiet. */
  clean(): void {
    if (this.gateway === '' || this.writes.length > 0 || !this.ring().some((member) => this.serves(member))) return
    this.flush()
    for (const { copy } of this.ring()) {
      if (copy !== null && !copy.suspect && copy.writer === this.gateway) copy.intent = false
    }
  }

  /** Of what was not synced, the parts in `kept` (a bit each) are on disk by chance. */
  private losePower(member: Member, kept: number): void {
    const { copy } = member
    if (copy === null) return
    copy.blocks = copy.blocks.map((version, i) => ((kept >> i) & 1 ? version : copy.durable.blocks[i]))
    if (((kept >> BLOCKS) & 1) === 0) copy.writeEpoch = copy.durable.writeEpoch
    if (((kept >> (BLOCKS + 1)) & 1) === 0) copy.checkEpoch = copy.durable.checkEpoch
    if (copy.intent) {
      if (!copy.incomplete) copy.lostIn = member.lastEpoch
      copy.incomplete = !this.bugs.forgetPower
      if (!this.bugs.forgetSuspects) doubt(copy, 0)
    }
    sync(copy)
    const survivors = this.members.some((other) => other !== member && this.serves(other))
    if (!survivors) this.forgetUnflushed()
  }

  /** These stop, or are out of reach; `restarts`: their processes end. All others go on in a new epoch. */
  leave(which: readonly number[], restarts: boolean, power = -1): void {
    const leaving = this.present.filter((member) => which.includes(member.number))
    if (leaving.length === 0 || leaving.length === this.present.length) return
    for (const member of leaving) {
      member.present = false
      if (power >= 0) this.losePower(member, power)
      if (member.copy === null || this.bugs.forgetSuspects) continue
      // A process that went on outside finds out when it is back; one that was killed, when it starts.
      if (member.copy.intent || (restarts && member.copy.suspect)) doubt(member.copy, restarts ? 0 : this.epoch + 1)
    }
    this.newEpoch(leaving.map((member) => member.id))
  }

  /** One restarts, and the others have no quorum without it: the next epoch has it again. */
  bounce(which: number, power: number): void {
    const member = this.present[which % this.present.length]
    this.losePower(member, power)
    if (member.copy?.intent === true && !this.bugs.forgetSuspects) doubt(member.copy, 0)
    this.newEpoch([member.id])
  }

  /** The disk with its copy fails: a new epoch with the same nodes begins. */
  loseDisk(which: number): void {
    const member = this.present[which % this.present.length]
    member.copy = null
    // A last write that nobody acknowledged may have been read of it, and be nowhere else.
    this.seen.fill(null)
    if (!this.bugs.forgetLoss) member.lostEpoch = this.epoch
    // It may have had what a host lost with its power and had not flushed: that is gone then.
    const { acked } = this
    const kept = (copy: Copy) => !copy.incomplete && copy.blocks.every((version, block) => version >= acked[block])
    const copies = this.members.flatMap((one) => one.copy ?? [])
    if (copies.some((copy) => copy.incomplete) && !copies.some(kept)) this.forgetUnflushed()
    this.newEpoch([])
  }

  /** No room for the copy that is to be taken beside the stale one: that goes first, and then the member may die. */
  giveUp(which: number): void {
    const ring = this.ring()
    const member = ring[which % ring.length]
    if (member.copy === null || this.serves(member)) return
    const verdict = this.verdict(member)
    if (verdict.kind !== 'take') return
    const source = this.members.find((other) => other.id === verdict.from) as Member
    if (!this.serves(source)) return
    if (!this.bugs.forgetRenounced) member.lostEpoch = Math.max(member.lostEpoch, this.epoch - 1)
    member.copy = null
  }

  back(which: number): void {
    const away = this.members.filter((member) => !member.present)
    if (away.length === 0) return
    away[which % away.length].present = true
    this.newEpoch([])
  }

  /** All are killed at once, or lose their power, and all come back. */
  restartAll(power = -1): void {
    const ids = this.members.map((member) => member.id)
    if (power >= 0) for (const [i, member] of this.members.entries()) this.losePower(member, power >> (i % 3))
    if (power >= 0) this.forgetUnflushed()
    for (const member of this.members) {
      member.present = true
      if (member.copy?.intent === true && !this.bugs.forgetSuspects) doubt(member.copy, 0)
    }
    this.newEpoch(ids)
  }

  private report(member: Member): CopyReport {
    const { id, copy } = member
    const { lostEpoch } = member
    const passedEpochs = this.bugs.forgetPassed ? [] : member.passedEpochs
    if (copy === null) {
      const nothing = {
        writeEpoch: 0,
        validThrough: 0,
        suspect: false,
        settledThrough: 0,
        incomplete: false,
        hot: false,
        gap: false,
        keptThrough: 0,
      }
      return { node: id, present: false, ...nothing, passedEpochs, lostEpoch, asks: NO_ASKS }
    }
    const { writeEpoch, suspect, incomplete, intent: hot } = copy
    const settledThrough = this.settledThrough(member)
    const validThrough = this.validThrough(member)
    const marks = { writeEpoch, validThrough, suspect, settledThrough, incomplete, hot, gap: false, keptThrough: 0 }
    return { node: id, present: true, ...marks, passedEpochs, lostEpoch, asks: NO_ASKS }
  }

  verdict(member: Member): Verdict {
    const others = this.present.filter((other) => other !== member).map((other) => this.report(other))
    const own = this.report(member)
    if (this.bugs.trustEqualMarks) {
      const equal = own.present && !own.suspect && others.some((other) => other.writeEpoch === own.writeEpoch)
      if (equal) return { kind: 'keep' }
    }
    const verdict = decide(this.topology, this.oid, this.copies, own, others)
    if (verdict.kind !== 'wait' || !this.bugs.skipWitness) return verdict
    return own.present ? { kind: 'keep' } : { kind: 'absent' }
  }

  /** As lib/replication/recovery.ts acts on a verdict. */
  recover(which: number): Verdict | null {
    const ring = this.ring()
    const member = ring[which % ring.length]
    if (this.serves(member)) return null
    // What went by here must be where the copy is taken from.
    const awaited = this.writes.some((write) => {
      const missing = ring.some((one) => this.serves(one) && !write.applied.has(one.id))
      return write.passed.has(member.id) && missing
    })
    if (awaited && !this.bugs.takeTooEarly) return null
    const verdict = this.verdict(member)
    const { copy } = member
    if (verdict.kind === 'keep') {
      assert(copy !== null, 'only a copy that is there is kept')
      if (copy.suspect) this.decide(member)
      this.settle(copy)
    } else if (verdict.kind === 'take') {
      const source = this.members.find((other) => other.id === verdict.from)?.copy
      assert(source !== null && source !== undefined, 'a copy is taken from a node that has one')
      if (source.suspect) this.decide(member)
      const unwritten = !source.suspect && source.writeEpoch === copy?.writeEpoch
      const near = copy?.suspect === true && (unwritten || this.validThrough(member) >= this.epoch - 1)
      const blocks = [...source.blocks]
      if (near) {
        copy.blocks = blocks
        this.settle(copy)
      } else {
        const writeEpoch = source.suspect || source.intent ? this.epoch : source.writeEpoch
        member.copy = newCopy(blocks, writeEpoch, this.epoch)
      }
      // What is under way there is under way here now, too.
      if (source.intent && !source.suspect && !this.bugs.forgetWritesUnderWay) {
        Object.assign(member.copy as Copy, { intent: true, writer: source.writer })
      }
    }
    return verdict
  }

  /** What is right is decided now: for those who have no copy of this epoch that is like a change that goes by. */
  private decide(member: Member): void {
    if (this.bugs.forgetDecided) return
    for (const other of this.ring()) {
      if (other === member || (other.copy !== null && this.validThrough(other) >= this.epoch)) continue
      if (other.passedEpochs.at(-1) !== this.epoch) other.passedEpochs = passedIn(other.passedEpochs, this.epoch, 0)
    }
  }

  private settle(copy: Copy): void {
    if (copy.suspect && !this.bugs.trustEqualMarks) copy.writeEpoch = this.epoch
    sync(copy)
    copy.suspect = false
    copy.incomplete = false
    copy.intent = false
    copy.writer = ''
    copy.checkEpoch = this.epoch
  }

  reportRecovered(which: number): void {
    const { present } = this
    const member = present[which % present.length]
    const valid = !this.ring().includes(member) || this.serves(member)
    if (valid && !member.recovered.includes(this.epoch)) member.recovered.push(this.epoch)
    this.forget()
    if (valid || this.bugs.forgetPassedTooEarly) {
      member.passedEpochs = [...passedWithout(member.passedEpochs, this.epoch)]
    }
    if (!present.every((one) => one.recovered.includes(this.epoch))) return
    for (const one of present) {
      if (one.copy !== null && !this.ring().includes(one) && one.copy.writeEpoch < this.epoch) one.copy = null
    }
  }

  // what must hold

  faults(): string[] {
    const faults: string[] = []
    for (const member of this.members) {
      if (!this.serves(member)) continue
      this.acked.forEach((version, block) => {
        const has = (member.copy as Copy).blocks[block]
        if (has < version)
          faults.push(`epoch ${this.epoch}: ${member.number} serves ${has} of block ${block}, acknowledged ${version}`)
        const seen = this.seen[block]
        if (seen !== null && has !== seen.version && has <= seen.issued)
          faults.push(`epoch ${this.epoch}: ${member.number} serves ${has} of block ${block}, read was ${seen.version}`)
      })
    }
    return faults
  }

  /** Everybody comes back and recovers, and what is in flight ends. */
  quiesce(): string[] {
    while (this.present.length < this.members.length) this.back(0)
    const faults: string[] = []
    let lost = false
    for (let round = 0; round < this.copies + 2; round++) {
      for (let i = 0; i < BLOCKS * this.copies; i++) this.apply(0, i)
      for (let i = 0; i < this.ring().length; i++) {
        const verdict = this.recover(i)
        lost ||= verdict?.kind === 'lost'
        if (verdict?.kind === 'wait')
          faults.push(`all are here, and ${this.ring()[i].number} waits for epoch ${verdict.epoch}`)
        if (verdict?.kind === 'absent') faults.push('all are here, and the object is nowhere')
      }
    }
    for (let i = 0; i < BLOCKS * this.copies; i++) this.apply(0, i)
    if (lost) return [...faults, ...this.faults()]
    if (this.writes.length > 0) faults.push('a write does not end')
    const contents = new Set(this.ring().map((member) => member.copy?.blocks.join() ?? 'none'))
    if (contents.size !== 1) faults.push(`replicas differ: ${[...contents].join(' | ')}`)
    if (!this.ring().every((member) => this.serves(member))) faults.push('not all recovered')
    return [...faults, ...this.faults()]
  }
}
