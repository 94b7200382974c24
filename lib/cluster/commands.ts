/** Membership, part 4: commands as they are delivered, each refused, answered, or made an entry. */
import { SheepError } from '../errors.js'
import { fencedBy } from '../vdi/command.js'
import type { MemberId } from './engine.js'
import { type Membership, REJOIN_MS } from './membership.js'
import type { Proposal } from './messages.js'
import { sponsor } from './newcomers.js'
import { withSpace, withVnodes } from './start.js'
import { alreadyFormatted, format, startCommand } from './starting.js'
import type { ClusterCommand } from './types.js'

/** Before an expelled member asks to come back; doubled each time until it has been in for REJOIN_CALM_MS. */
const REJOIN_MS_MAX = 30_000
const REJOIN_CALM_MS = 60_000

export function commands(machine: Membership, sender: MemberId, list: readonly Proposal[]): void {
  const node = machine.established.get(sender)
  const untaken: number[] = []
  for (const proposal of list) {
    const { command, id } = proposal
    const by = sender === machine.self ? id : 0
    if (machine.mode !== 'running' && (command.type === 'format' || command.type === 'force-start')) {
      answer(machine, by, startCommand(machine, sender, proposal, by))
    } else if (machine.mode === 'running' && node !== undefined && machine.established.has(sender)) {
      answer(machine, by, take(machine, node, proposal, by))
    } else if (by !== 0 && !machine.replaying) {
      untaken.push(id)
    }
  }
  if (untaken.length > 0) machine.actions.push({ type: 'untaken', ids: untaken })
}

/** 'later': an entry or a start will answer. */
function answer(machine: Membership, by: number, outcome: SheepError | 'done' | 'later'): void {
  if (by === 0 || outcome === 'later') return
  machine.push({ type: 'settle', by, error: outcome === 'done' ? null : outcome })
}

function take(machine: Membership, sender: string, proposal: Proposal, by: number): SheepError | 'done' | 'later' {
  const { command, time } = proposal
  switch (command.type) {
    case 'force-start':
      return 'done'
    case 'expel':
      return expel(machine, command, by)
    case 'disks':
      return disks(machine, sender, command, by)
    case 'drain':
      return drain(machine, command, by)
    case 'accept':
      return accept(machine, command, by)
    case 'format':
      if (!command.force) return alreadyFormatted(machine.history!.config.clusterId)
      machine.waiting.clear()
      return format(machine, { command, time, sender, by, history: machine.history!, former: null })
    case 'shutdown':
    case 'recovered':
    case 'recovery':
    case 'on-no-quorum':
    case 'exclusive-enter':
    case 'exclusive-leave':
    case 'vdi': {
      if (command.type === 'shutdown') machine.stopping = true
      const fences = command.type === 'vdi' && fencedBy(command.command) !== 0
      // Views make no more epochs, and neither does this.
      if (fences && machine.stopping) return new SheepError('shutting-down', 'the cluster is being shut down')
      machine.append(
        { seq: machine.history!.seq + 1, type: 'command', sender, time, command },
        by,
        machine.established.keys(),
      )
      if (fences) fence(machine)
      return 'later'
    }
    default:
      return new SheepError('invalid', 'a command of a kind that is not known here')
  }
}

/** A new epoch with the same nodes: what is on the wire, of the one that ends, no replica takes any more. */
function fence(machine: Membership): void {
  machine.makeEpoch(machine.history!.epoch.nodes, [], 0, machine.established.keys(), null)
}

/** Nobody leaves; what is in flight is sent again all the same, since the sender may have lost what it had of it. */
function disks(
  machine: Membership,
  sender: string,
  { space, lost, plugged }: Extract<ClusterCommand, { type: 'disks' }>,
  by: number,
): SheepError | 'later' {
  if (!Number.isSafeInteger(space) || space < 0) return new SheepError('invalid', 'space is a number of bytes')
  const { epoch } = machine.history!
  const next = epoch.number + 1
  const since = { ...(lost ? { lost: next } : {}), ...(plugged ? { plugged: next } : {}) }
  const nodes = epoch.nodes.map((node) => (node.id === sender ? { ...withSpace(node, space), ...since } : node))
  machine.makeEpoch(nodes, [], by, machine.established.keys(), null)
  return 'later'
}

/** An epoch in which the node has no share, though it is there and the others take its objects from it. */
function drain(
  machine: Membership,
  { node: id, drained }: Extract<ClusterCommand, { type: 'drain' }>,
  by: number,
): SheepError | 'done' | 'later' {
  const { epoch, known } = machine.history!
  const node = epoch.nodes.find((one) => one.id === id)
  if (node === undefined) return new SheepError('not-found', `node ${id} is not in the cluster`)
  if (node.space <= 0 || drained === (node.vnodes === 0)) return 'done'
  if (drained && !epoch.nodes.some((one) => one.id !== id && one.vnodes > 0)) {
    return new SheepError('invalid', 'no other node could take its objects', 'add a host first: dog cluster add')
  }
  // Views make no more epochs, and neither does this.
  if (machine.stopping) return new SheepError('shutting-down', 'the cluster is being shut down')
  const [back] = drained ? [{ ...node, vnodes: 0 }] : withVnodes([node], epoch.nodes, known)
  machine.makeEpoch(
    epoch.nodes.map((one) => (one.id === id ? back : one)),
    [],
    by,
    machine.established.keys(),
    null,
  )
  return 'later'
}

/** What is in flight is sent again, and whoever waits looks anew. */
function accept(
  machine: Membership,
  { objects, zeros }: Extract<ClusterCommand, { type: 'accept' }>,
  by: number,
): SheepError | 'later' {
  // Views make no more epochs, and neither does this.
  if (machine.stopping) return new SheepError('shutting-down', 'the cluster is being shut down')
  machine.makeEpoch(machine.history!.epoch.nodes, [], by, machine.established.keys(), null, { objects, zeros })
  return 'later'
}

function expel(
  machine: Membership,
  command: Extract<ClusterCommand, { type: 'expel' }>,
  by: number,
): SheepError | 'later' {
  const member = [...machine.established.keys()].find((one) => machine.established.get(one) === command.node)
  if (member === undefined) return new SheepError('not-found', `node ${command.node} is not in the cluster`)
  if (command.epoch !== machine.history!.epoch.number) {
    return new SheepError('busy', `epoch ${command.epoch} is over: node ${command.node} may be well by now`)
  }
  if (machine.established.size === 1) return new SheepError('invalid', 'the only node cannot be expelled')
  // Those who are expelled may not know it yet, and must not be enough to go on by themselves.
  if (machine.hasQuorum && (machine.established.size - 1) * 2 <= machine.history!.epoch.nodes.length) {
    return new SheepError('halted', `without node ${command.node} too few nodes are left to go on safely`)
  }
  machine.drop([member], by)
  machine.expelled.add(member)
  if (member !== machine.self) {
    sponsor(machine)
    return 'later'
  }
  const calm = machine.instant.now - machine.runningSince > REJOIN_CALM_MS
  machine.rejoinMs = calm ? REJOIN_MS : Math.min(machine.rejoinMs * 2, REJOIN_MS_MAX)
  machine.fall(`expelled: ${command.reason}`)
  machine.timer('again', machine.rejoinMs)
  return 'later'
}
