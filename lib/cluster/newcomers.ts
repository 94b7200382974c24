/** Membership, part 2: how newcomers get the state of a running cluster and are counted in. */
import { assert } from '../assert.js'
import type { MemberId } from './engine.js'
import { History } from './history.js'
import { Line } from './line.js'
import type { Membership } from './membership.js'
import type { Hello, Runtime, StateMessage } from './messages.js'
import { compareStates, type Refusal, refusalOf, withVnodes } from './start.js'
import { formerOf } from './starting.js'

/** Each later established member waits this much longer before it sends STATE in the sponsor's place. */
const SPONSOR_PATIENCE_MS = 3_000

export function metByRunning(machine: Membership, sender: MemberId, hello: Hello): void {
  if (machine.established.has(sender) || (machine.expelled.has(sender) && hello.mode !== 'outside')) return
  if (hello.mode === 'running' && isBetter(machine, sender, hello)) {
    machine.fall('another part of the cluster went further than this one')
    machine.callAgain(false)
    return
  }
  machine.expelled.delete(sender)
  const others = [...machine.waiting].filter(([member]) => member !== sender).map(([, other]) => other.hello.node.id)
  const present = new Set([...machine.established.values(), ...others])
  const refusal = refusalOf(hello, machine.history!, present, machine.keyMark)
  if (refusal === null) machine.waiting.set(sender, { hello, heard: machine.count })
  else if (sponsorNow(machine) === machine.self) refuse(machine, sender, refusal)
  sponsor(machine)
}

/** Two parts run, which the engine's quorum should have prevented: one must give way, the same on both sides. */
function isBetter(machine: Membership, sender: MemberId, hello: Hello): boolean {
  const { summary } = machine.round!.mine
  const standing = hello.summary && summary ? compareStates(hello.summary, summary) : 0
  if (standing !== 0) return standing > 0
  return machine.members.indexOf(sender) < machine.members.findIndex((member) => machine.established.has(member))
}

export function refuse(machine: Membership, to: MemberId, refusal: Refusal): void {
  machine.broadcast({ type: 'refuse', to, ...refusal })
}

export function sponsorNow(machine: Membership): MemberId | undefined {
  return machine.members.find((member) => machine.established.has(member))
}

export function sponsor(machine: Membership): void {
  if (!machine.maySponsor || machine.sending) return
  const rank = machine.members.filter((member) => machine.established.has(member)).indexOf(machine.self)
  if (rank === 0) sendState(machine, [...machine.waiting.keys()], '')
  else machine.timer('sponsor', rank * SPONSOR_PATIENCE_MS)
}

export function sendState(machine: Membership, to: MemberId[], start: string): void {
  if (machine.replaying) return
  machine.sending = true
  const { count, members, established, waiting, expelled, round } = machine
  const runtime: Runtime = {
    at: count,
    members: [...members],
    established: [...established],
    waiting: [...waiting],
    expelled: [...expelled],
    unconfirmed: machine.confirmations.pending,
    round: round?.key ?? '',
  }
  machine.push({ type: 'send-state', to, start, runtime, whole: to.length > 0 })
}

export function admit(machine: Membership, sender: MemberId, to: readonly MemberId[]): void {
  if (!machine.established.has(sender) || machine.stopping) return
  const admitted = to.filter((member) => machine.waiting.has(member))
  if (admitted.length > 0) {
    const { epoch, known } = machine.history!
    const needs = [...machine.established.keys()]
    const nodes = admitted.map((member) => machine.waiting.get(member)!.hello.node)
    for (const [at, member] of admitted.entries()) {
      machine.established.set(member, nodes[at].id)
      machine.waiting.delete(member)
    }
    const joins = admitted.includes(machine.self) ? formerOf(machine) : null
    machine.makeEpoch([...epoch.nodes, ...withVnodes(nodes, epoch.nodes, known)], [], 0, needs, joins)
  }
  sponsor(machine)
}

/** Takes the snapshot and repeats what was ordered after it; the last of that is this very message, which admits. */
export function takeState(machine: Membership, { runtime, state }: StateMessage): void {
  const mine = runtime.waiting.find(([member]) => member === machine.self)?.[1]
  const said = mine && machine.kept.countOf(mine.hello.nonce)
  if (mine === undefined || said === undefined || state === null) {
    // The events since are not all kept. But the others may count this member in by now.
    machine.callAgain(true)
    return
  }
  const offset = said - mine.heard
  const later = machine.kept.after(runtime.at + offset)
  const { line, members, round, actions, quorate, count, receipted, fallen } = machine
  const unconfirmed = machine.confirmations.pending
  machine.actions = []
  machine.line = new Line(machine.hasQuorum, null)
  machine.line.replace(History.fromJSON(state.history), machine.number + 1, [], null)
  machine.push({ type: 'install', state })
  machine.mode = 'running'
  machine.receipted = 0
  machine.members = runtime.members
  machine.established = new Map(runtime.established)
  machine.waiting = new Map(
    runtime.waiting.map(([member, { hello, heard }]) => [member, { hello, heard: heard + offset }]),
  )
  machine.expelled = new Set(runtime.expelled)
  machine.confirmations.pending = runtime.unconfirmed
  machine.round =
    runtime.round === '' ? null : { key: runtime.round, mine: mine.hello, hellos: new Map(), decision: null }
  machine.replaying = true
  for (const event of later) {
    machine.count = event.count
    machine.quorate = event.quorate
    machine.ordered(event.event)
  }
  machine.replaying = false
  machine.quorate = quorate
  assert(machine.count === count, 'the repeated events end with this one')
  if (machine.mode === 'running' && machine.established.has(machine.self)) {
    machine.actions = [...actions, ...machine.actions]
    machine.becomeRunning()
    return
  }
  // Its sender was no longer established when it came, or all froze before: nobody was admitted.
  machine.thaw(fallen)
  machine.confirmations.pending = unconfirmed
  Object.assign(machine, { line, members, round, actions, receipted, stopping: false })
}
