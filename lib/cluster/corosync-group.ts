/**
 * From CPG's events to the views, order and quorum that lib/cluster needs (engine.ts). A pure state machine.
 *
 * What corosync gives. CPG (exec/cpg.c, exec/totempg.c, exec/sync.c, exec/votequorum.c of corosync 3.1): one order of messages
 * and of joins and leaves of processes (node id, process id) in a ring; those who go from one ring to the next together have
 * seen the same before; after a partition has healed each side sees the others as joined. What it does not give, and what this
 * module makes of it:
 *
 * - *A message that was on its way when the ring changed* may be delivered in the next ring, and not by those who are new
 *   there (totem's fragments: they lack the first). So each message carries the stamp of the component in which it was sent,
 *   counts in no other, and its sender sends it again in the next.
 * - *libquorum and libcpg have no mutual order*, and nodes may differ for a moment (quorum device). So quorum goes into CPG's order:
 *   after each change everybody multicasts an INTRO with what libquorum says *of this very ring*, and the view is what the
 *   INTROs make of it, at the place where they are delivered: the same on all.
 * - *Process ids are used again*, and a host may be back before it was missed. INTRO names each member's own id.
 *
 * Components. Those who have delivered the same so far, and their list. When processes or ring change, a component is in limbo:
 * nothing is delivered and no view told, until an INTRO of one of its members (any: nobody waits for a member that hangs) is
 * delivered, made for exactly this ring and these processes. Then it is installed: those of it that are still there are the view.
 * All components installed in one ring and process list are one from there on; each further INTRO of another adds its members.
 * So a member's view holds only those with which it shares every message from there on, and all in it see the same views.
 *
 * Quorum. The ring is quorate when a member of it says so, and none has taken it back since. A component that was
 * told "quorate" stays so while that holds. One that was not becomes so when it merges with such a one, or has *all*
 * processes of the group that the ring has: never beside others that may be going on with a quorum that they have from before.
 * It also loses it when one of its own came back in the same change in which it left: there was a ring in between that this
 * member was not in, in which those may have gone on.
 *
 * After a loss of corosync itself a member is alone and without quorum, as if cut off from everybody, and later joined to
 * the others again under its old id.
 */
import { createHash } from 'node:crypto'
import type { EngineView, LeaveReason, MemberId } from './engine.js'

/** Everybody's first word after a change, and again when what libquorum says of this ring changes. */
export interface Intro {
  /** Ring and processes for which it was made */
  place: string
  /** The component, what is left of it */
  fragment: string
  members: [process: string, id: MemberId][]
  /** It was told that it is quorate, and nothing of its own speaks against it */
  primary: boolean
  /** What libquorum says on the sender's host */
  quorate: boolean
}

export interface GroupEvents {
  /** In order with what `accepts` lets through. */
  view(view: EngineView): void
  quorum(quorate: boolean): void
  send(intro: Intro): void
  /** From now on messages carry this stamp; those not yet delivered must be sent again. null: in limbo, hold them. */
  installed(stamp: string | null): void
}

/** A process in the group: "NODE:PID" */
type Process = string

type Report = 'yes' | 'no' | 'taken-back'

/** A component that was introduced in this place. */
interface Piece {
  fragment: string
  members: Intro['members']
  primary: boolean
  merged: boolean
}

/** Any 16 hex digits that only the same words give. */
export function digest(...words: readonly string[]): string {
  return createHash('sha256').update(JSON.stringify(words)).digest('hex').slice(0, 16)
}

export class Group {
  private self: Process = ''
  private processes: Process[] = []
  private ring = ''
  private local: { ring: string; quorate: boolean } | null = null
  private place = ''

  /** Of this component, as last told */
  private members = new Map<Process, MemberId>()
  private stamp = ''
  private told: boolean | null = null
  private viewed = false
  /** Left since then */
  private readonly gone = new Set<Process>()
  /** Left with their hosts */
  private readonly down = new Set<Process>()
  /** Why each of `gone` did */
  private readonly reasons = new Map<Process, LeaveReason>()
  private cameBack = false

  private fragment = ''
  private installed = false
  /** Fragments that were introduced here, in the order of delivery */
  private introduced: Piece[] = []
  private readonly reports = new Map<Process, Report>()
  private said: boolean | null = null

  constructor(
    readonly id: MemberId,
    readonly events: GroupEvents,
  ) {
    this.stamp = digest('alone', id)
  }

  /** For people: who keeps this member waiting; empty when nobody does. */
  get awaited(): readonly Process[] {
    const known = new Set(this.introduced.flatMap(({ members }) => members.map(([process]) => process)))
    return this.processes.filter((process) => !known.has(process))
  }

  /** Connected, as this process; nothing is known yet. */
  attach(self: Process): void {
    this.self = self
    this.members = new Map([[self, this.id]])
  }

  /** Corosync is gone. */
  lost(): void {
    this.processes = []
    this.ring = ''
    this.local = null
    this.place = ''
    const left = this.others()
    const reasons = new Map(left.map((id) => [id, 'lost' as const]))
    this.members = new Map([[this.self, this.id]])
    this.stamp = digest('lost', this.stamp)
    this.reset()
    this.gone.clear()
    this.reasons.clear()
    this.down.clear()
    this.cameBack = false
    this.installed = true
    if (this.viewed) this.tell(false, left.length > 0 ? { joined: [], left, reasons } : null)
    this.events.installed(this.stamp)
  }

  /** CPG's list changed. Of `left`: those whose host went, and those that went in order. */
  changed(
    processes: readonly Process[],
    left: readonly Process[],
    down: readonly Process[],
    quit: readonly Process[],
  ): void {
    this.processes = [...processes].sort()
    for (const process of left) {
      this.gone.add(process)
      this.reasons.set(process, down.includes(process) ? 'lost' : quit.includes(process) ? 'left' : 'died')
    }
    for (const process of down) this.down.add(process)
    this.move()
  }

  /** The ring; its changes come after those of the processes that they brought. */
  ringChanged(ring: string, nodes: readonly number[]): void {
    if (ring === this.ring) return
    this.ring = ring
    const here = new Set(nodes.map(String))
    for (const process of this.down) {
      if (this.members.has(process) && here.has(process.split(':')[0])) this.cameBack = true
    }
    this.move()
  }

  /** What libquorum says of a ring. */
  quorumSays(ring: string, quorate: boolean): void {
    this.local = { ring, quorate }
    this.introduce()
  }

  /** Whether a message of this sender with this stamp counts here. */
  accepts(sender: Process, stamp: string): boolean {
    return this.installed && stamp === this.stamp && this.members.has(sender)
  }

  memberOf(process: Process): MemberId {
    return this.members.get(process)!
  }

  delivered(sender: Process, intro: Intro): void {
    if (intro.place !== this.place || this.place === '' || !this.processes.includes(sender)) return
    this.report(sender, intro.quorate)
    const { fragment, members, primary } = intro
    const known = this.introduced.some((piece) => piece.fragment === fragment)
    if (!known) this.introduced.push({ fragment, members, primary, merged: false })
    // What they once had is no reason any more.
    if (!this.ringQuorate()) for (const piece of this.introduced) piece.primary = false
    if (!this.installed) {
      if (fragment !== this.fragment) return
      this.install()
    }
    if (known) this.recheck()
    else this.merge()
  }

  // a new place

  private move(): void {
    if (this.ring === '' || !this.processes.includes(this.self)) return
    this.place = digest(this.ring, ...this.processes)
    this.reset()
    this.fragment = digest(this.stamp, ...this.rest().map(([process]) => process))
    this.events.installed(null)
    this.introduce()
  }

  private reset(): void {
    this.installed = false
    this.introduced = []
    this.reports.clear()
    this.said = null
  }

  private rest(): [Process, MemberId][] {
    const stays = (process: Process): boolean => {
      return process === this.self || (!this.gone.has(process) && this.processes.includes(process))
    }
    return [...this.members].filter(([process]) => stays(process)).sort(([a], [b]) => (a < b ? -1 : 1))
  }

  private introduce(): void {
    const { local, place, fragment } = this
    if (place === '' || local === null || local.ring !== this.ring || local.quorate === this.said) return
    this.said = local.quorate
    const primary = this.told === true && !this.cameBack
    this.events.send({ place, fragment, members: this.rest(), primary, quorate: local.quorate })
  }

  private report(sender: Process, quorate: boolean): void {
    const before = this.reports.get(sender)
    if (quorate) this.reports.set(sender, 'yes')
    else this.reports.set(sender, before === undefined || before === 'no' ? 'no' : 'taken-back')
  }

  // installation

  private install(): void {
    const mine = this.introduced.find(({ fragment }) => fragment === this.fragment)!
    this.installed = true
    mine.merged = true
    const rest = new Map(this.rest())
    const others = [...this.members].filter(([process]) => !rest.has(process))
    const left = others.map(([, id]) => id)
    const reasons = new Map(others.map(([process, id]) => [id, this.reasons.get(process) ?? 'lost']))
    this.members = rest
    this.gone.clear()
    this.reasons.clear()
    this.down.clear()
    this.cameBack = false
    if (this.viewed && left.length > 0) this.tell(mine.primary, { joined: [], left, reasons })
    else if (this.told === true && !mine.primary) this.tell(false, null)
  }

  private merge(): void {
    const joined: MemberId[] = []
    const left: MemberId[] = []
    for (const piece of this.introduced) {
      if (piece.merged) continue
      piece.merged = true
      for (const [process, id] of piece.members) {
        if (process === this.self) continue
        const before = this.members.get(process)
        if (before !== undefined && before !== id) left.push(before)
        this.members.set(process, id)
        joined.push(id)
      }
    }
    this.restamp()
    const first = !this.viewed && (this.introduced.length > 1 || this.coversAll())
    if (first) joined.push(this.id)
    if (first || (this.viewed && joined.length > 0)) {
      this.viewed = true
      this.tell(this.nowQuorate(), { joined, left })
    } else {
      this.recheck()
    }
    this.events.installed(this.stamp)
  }

  private recheck(): void {
    if (this.viewed) this.tell(this.nowQuorate(), null)
  }

  private restamp(): void {
    this.stamp = digest(this.place, ...this.introduced.map(({ fragment }) => fragment))
  }

  private coversAll(): boolean {
    return this.processes.every((process) => this.members.has(process))
  }

  private ringQuorate(): boolean {
    const said = [...this.reports.values()]
    return said.includes('yes') && !said.includes('taken-back')
  }

  private nowQuorate(): boolean {
    if (!this.ringQuorate()) return false
    return this.told === true || this.coversAll() || this.introduced.some(({ primary }) => primary)
  }

  // telling

  private others(): MemberId[] {
    return [...this.members.values()].filter((id) => id !== this.id)
  }

  /** A loss before the view that shows it, a gain after. */
  private tell(quorate: boolean, change: Omit<EngineView, 'members'> | null): void {
    const before = this.told
    this.told = quorate
    if (!quorate && before !== false) this.events.quorum(false)
    if (change !== null) {
      const { joined, left, reasons } = change
      this.events.view({
        members: [...this.members.values()].sort(),
        joined: [...joined].sort(),
        left: [...left].sort(),
        ...(reasons && { reasons }),
      })
    }
    if (quorate && before !== true) this.events.quorum(true)
  }
}
