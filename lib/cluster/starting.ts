/** Membership, part 3: a start when nobody runs, with the newest state there is or, formatted, with none. */
import { assert } from '../assert.js'
import { SheepError } from '../errors.js'
import type { MemberId } from './engine.js'
import { History } from './history.js'
import type { Former } from './line.js'
import type { Membership } from './membership.js'
import type { Proposal, StateMessage } from './messages.js'
import { refuse, sendState } from './newcomers.js'
import { decideStart, type FormatWish, formatted, withVnodes } from './start.js'
import type { NodeInfo } from './types.js'

export function decide(machine: Membership): void {
  const { round, members } = machine
  if (round === null || machine.mode === 'running') return
  if (!members.every((member) => round.hellos.has(member))) return
  const hellos = [...round.hellos.values()]
  if (hellos.some((hello) => hello.mode === 'running')) return
  // Nobody runs, so no STATE is on its way that would need what came before.
  machine.kept.forget()
  const forced = machine.forced || hellos.some((hello) => hello.forced)
  const decision = decideStart(members, round.hellos, machine.hasQuorum, forced)
  round.decision = decision
  if (decision.accepted[0] === machine.self) {
    for (const [member, refusal] of decision.refused) refuse(machine, member, refusal)
  }
  if (decision.kind !== 'start' || decision.holders[0] !== machine.self || !machine.quorate) return
  sendState(
    machine,
    decision.accepted.filter((member) => !decision.holders.includes(member)),
    round.key,
  )
}

export function begin(machine: Membership, sender: MemberId, message: StateMessage): void {
  const { round } = machine
  const decision = round?.decision
  if (machine.mode === 'running' || !round || message.start !== round.key) return
  if (decision?.kind !== 'start' || decision.holders[0] !== sender) return
  if (!decision.accepted.includes(machine.self)) return
  const former = formerOf(machine)
  const { accepted, holders } = decision
  if (!holders.includes(machine.self)) {
    assert(message.state !== null, 'a start brings the state for those who lack it')
    machine.line.replace(History.fromJSON(message.state.history), machine.number + 1, [], null)
    machine.push({ type: 'install', state: message.state })
  }
  const nodeOf = (member: MemberId): NodeInfo => round.hellos.get(member)!.node
  const goesOn = (member: MemberId): boolean => holders.includes(member) && round.hellos.get(member)!.mode === 'frozen'
  machine.established = new Map(accepted.map((member) => [member, nodeOf(member).id]))
  machine.acks.clear()
  machine.confirmations.pending = message.runtime.unconfirmed
  machine.waiting.clear()
  machine.expelled.clear()
  machine.mode = 'running'
  machine.round = null
  const { epoch, known } = machine.history!
  const stayed = new Set(accepted.filter(goesOn).map((member) => nodeOf(member).id))
  const left = epoch.nodes.map((node) => node.id).filter((id) => !stayed.has(id))
  const newcomers = accepted.filter((member) => !goesOn(member)).map(nodeOf)
  // One that was delivered while some were frozen has not taken effect with them, and will not by itself.
  const lags = accepted.some((member) => (round.hellos.get(member)!.summary?.effective.epoch ?? 0) < epoch.number)
  if (left.length > 0 || newcomers.length > 0 || lags) {
    const kept = epoch.nodes.filter((node) => stayed.has(node.id))
    machine.makeEpoch([...kept, ...withVnodes(newcomers, epoch.nodes, known)], left, 0, accepted, former)
  }
  machine.becomeRunning()
}

/** What this member goes back to when the step that makes it run is taken back. */
export function formerOf(machine: Membership): Former {
  const { mode, fallen } = machine
  return { mode: mode === 'frozen' ? 'frozen' : 'outside', fallen }
}

/** Format and force-start, of members that do not run. */
export function startCommand(
  machine: Membership,
  sender: MemberId,
  proposal: Proposal,
  by: number,
): SheepError | 'done' | 'later' {
  const decision = machine.round?.decision
  if (!decision) {
    return new SheepError('starting-up', 'the daemons are still introducing themselves', 'try again in a moment')
  }
  const { command } = proposal
  if (command.type === 'force-start') {
    if (decision.kind === 'format') {
      return new SheepError('wait-for-format', 'there is no cluster to start', 'dog cluster format')
    }
    if (by !== 0) machine.forceIds.push(by)
    machine.forced = true
    decide(machine)
    return 'later'
  }
  assert(command.type === 'format', 'only two commands work before the start')
  if (!decision.accepted.includes(machine.self)) return new SheepError('join-failed', 'this node may not take part')
  const hellos = decision.accepted.map((member) => machine.round!.hellos.get(member)!)
  const summaries = hellos.flatMap(({ summary }) => (summary === null ? [] : [summary]))
  if (summaries.length > 0 && !command.force) return alreadyFormatted(summaries[0].clusterId)
  // By what all said in the round, not by what is so here and now: all must come to the same answer.
  if (
    (machine.hasQuorum && !hellos.every((hello) => hello.quorate)) ||
    hellos.some((hello) => hello.mode === 'frozen')
  ) {
    return new SheepError('halted', 'no quorum', 'wait until more nodes are here')
  }
  const node = machine.round!.hellos.get(sender)!.node.id
  const before = machine.established
  machine.established = new Map(decision.accepted.map((member, at) => [member, hellos[at].node.id]))
  const former = formerOf(machine)
  const outcome = format(machine, { command, time: proposal.time, sender: node, by, hellos, former })
  if (outcome === 'later') {
    machine.round = null
    machine.becomeRunning()
  } else {
    machine.established = before
  }
  return outcome
}

export function format(
  machine: Membership,
  wish: FormatWish & { by: number; former: Former | null },
): SheepError | 'later' {
  const { command, sender, by, former } = wish
  const made = formatted(wish)
  if (made instanceof SheepError) return made
  const { config, seq, record } = made
  machine.line.replace(History.format(config, seq, record), machine.number + 1, machine.others(), former)
  machine.push({ type: 'format', config, seq, record, command, sender, by })
  return 'later'
}

export function alreadyFormatted(clusterId: string): SheepError {
  return new SheepError(
    'exists',
    `the cluster is formatted already (id ${clusterId})`,
    'dog cluster format --force destroys all its volumes',
  )
}
