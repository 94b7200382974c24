/**
 * What a set of members that heard each other, none of them running, makes of it: start (and with whose state), wait (and
 * for whom), or be formatted. And who of newcomers may take part, and with how many vnodes. Pure functions, so that every
 * member comes to the same answer.
 */
import { SheepError } from '../errors.js'
import { checkCopies } from '../vdi/command.js'
import { checkShift } from '../vdi/inode.js'
import { confirmationsNeeded } from './confirmations.js'
import type { MemberId } from './engine.js'
import { type History, type KnownNode, sortedById } from './history.js'
import { type EpochSummary, type Hello, type NodeSummary, PROTOCOL, type Summary } from './messages.js'
import type { ClusterCommand, ClusterConfig, EpochRecord, NodeInfo } from './types.js'

/** What a node of mean size has on the ring. */
export const VNODES_MEAN = 128
export const VNODES_MAX = 4096

export interface Refusal {
  reason: string
  hint: string
}

export type Decision =
  | { kind: 'format'; accepted: MemberId[]; refused: Map<MemberId, Refusal> }
  | {
      kind: 'start' | 'wait'
      /** They hold the newest state; the first sends it to the others */
      holders: MemberId[]
      accepted: MemberId[]
      refused: Map<MemberId, Refusal>
      /** Nodes of the newest epoch that are not here */
      missing: NodeSummary[]
      reason: string
    }

export type Standing = -1 | 0 | 1

/** Which of two states is further on: 1 when a is. 0: they are the same. */
export function compareStates(a: Summary, b: Summary): Standing {
  const [m, n] = [newestOf(a).number, newestOf(b).number]
  if (m !== n) return m > n ? 1 : -1
  if (a.seq !== b.seq) return a.seq > b.seq ? 1 : -1
  if (a.digest !== b.digest) return a.digest > b.digest ? 1 : -1
  return 0
}

/**
 * Whether `a` went another way in an epoch that has taken effect where `b` is: then that of `a` never can, nor what came after it,
 * however much it is, since with quorum not both can be confirmed. A daemon that stood still finds, when it goes on, the views that
 * it has missed, and makes epochs of them that the others, who have started again meanwhile, know nothing of.
 */
function isOvertaken(a: Summary, b: Summary): boolean {
  const { epoch, line } = b.effective
  return a.effective.epoch < epoch && a.epochs.some((one) => one.number === epoch && one.line !== line)
}

function newestOf(summary: Summary): EpochSummary {
  return summary.epochs[summary.epochs.length - 1]
}

function nodeText(node: NodeSummary): string {
  return `${node.name} (${node.host}:${node.port}, id ${node.id})`
}

const otherProtocol = (hello: Hello, wanted: number): Refusal => ({
  reason: `node ${hello.node.name} speaks cluster protocol ${hello.protocol}, the others ${wanted}`,
  hint: 'install the same version of sheepdog on all nodes',
})

/** Members of different keys would be in one cluster and could not connect to each other. */
const otherKey = (hello: Hello, wanted: string): Refusal => ({
  reason: `node ${hello.node.name} has ${hello.key ? (wanted === '' ? 'a cluster key, and the others have none' : 'another cluster key than the others') : 'no cluster key, and the others have one'}`,
  hint: 'give all daemons of a cluster the same key file (docs/cluster-key.md)',
})

const keyOf = (hello: Hello): string => hello.key ?? ''

const sameNode = (hello: Hello): Refusal => ({
  reason: `node id ${hello.node.id} is in use by another running daemon`,
  hint: 'a store was copied or is served twice: stop one of the two; a node needs a store of its own',
})

const otherCluster = (hello: Hello, clusterId: string): Refusal => ({
  reason: `the store of node ${hello.node.name} belongs to cluster ${hello.summary!.clusterId}, not to ${clusterId}`,
  hint: 'start it with the other members of its own cluster, or with a new empty store directory to join this one',
})

/** Why a newcomer may not join the running cluster; null when it may. */
export function refusalOf(
  hello: Hello,
  history: History,
  present: ReadonlySet<string>,
  keyMark: string,
): Refusal | null {
  if (hello.protocol !== PROTOCOL) return otherProtocol(hello, PROTOCOL)
  if (keyOf(hello) !== keyMark) return otherKey(hello, keyMark)
  if (present.has(hello.node.id)) return sameNode(hello)
  const { summary } = hello
  if (summary === null) return null
  if (summary.clusterId !== history.config.clusterId) return otherCluster(hello, history.config.clusterId)
  const { epoch, line } = summary.effective
  const ours = history.lineOf(epoch)
  if (epoch > history.epoch.number || (ours !== null && ours !== line)) {
    return {
      reason: `node ${hello.node.name} has been in an epoch ${epoch} that this cluster, in epoch ${history.epoch.number}, does not have`,
      hint:
        'the cluster went on without this node (dog cluster recover, or two hosts that were cut off from each other), so what it ' +
        'wrote since cannot be merged: keep its store directory aside and start it with a new empty one',
    }
  }
  return null
}

function mostCommon<T extends string | number>(values: readonly T[]): T {
  const counts = new Map<T, number>()
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1)
  return [...counts].sort(([a, m], [b, n]) => n - m || (a < b ? -1 : 1))[0][0]
}

/**
 * @param members in the view's order; `hellos` has one of each
 * @param hasQuorum the engine tells minorities: a majority of the newest epoch will do, when all say they are quorate
 */
export function decideStart(
  members: readonly MemberId[],
  hellos: ReadonlyMap<MemberId, Hello>,
  hasQuorum: boolean,
  forced: boolean,
): Decision {
  const refused = new Map<MemberId, Refusal>()
  const helloOf = (member: MemberId): Hello => hellos.get(member)!
  const protocol = mostCommon(members.map((member) => helloOf(member).protocol))
  // Of those who have been in a cluster, when there are such: newcomers cannot outvote them.
  const former = members.filter((member) => helloOf(member).summary !== null)
  const key = mostCommon((former.length > 0 ? former : members).map((member) => keyOf(helloOf(member))))
  // Those whose state is live come first: of two with one node id, it is the other that must go.
  const order = [...members].sort((a, b) => Number(helloOf(b).mode === 'frozen') - Number(helloOf(a).mode === 'frozen'))
  const nodes = new Set<string>()
  let accepted = order.filter((member) => {
    const hello = helloOf(member)
    if (hello.protocol !== protocol) refused.set(member, otherProtocol(hello, protocol))
    else if (keyOf(hello) !== key) refused.set(member, otherKey(hello, key))
    else if (nodes.has(hello.node.id)) refused.set(member, sameNode(hello))
    else nodes.add(hello.node.id)
    return !refused.has(member)
  })
  const stateful = accepted.filter((member) => helloOf(member).summary !== null)
  if (stateful.length === 0) return { kind: 'format', accepted: inOrder(members, accepted), refused }

  const clusterId = mostCommon(stateful.map((member) => helloOf(member).summary!.clusterId))
  const holders = holdersOf(stateful, helloOf, clusterId, hasQuorum)
  const newest = helloOf(holders[0]).summary!
  const here = accepted.filter((member) => (helloOf(member).summary?.clusterId ?? clusterId) === clusterId)
  const present = new Set(here.map((member) => helloOf(member).node.id))
  const heard = here.flatMap((member) => {
    const { node, summary } = helloOf(member)
    return summary === null ? [] : [{ node: node.id, summary }]
  })
  const asked = epochsToHear(newest, heard, hasQuorum)
  const missing = missingOf(asked, present)
  const quorate = !hasQuorum || members.every((member) => helloOf(member).quorate)
  const enough = asked.every(({ nodes }) => {
    const away = nodes.filter((node) => !present.has(node.id)).length
    return hasQuorum ? away * 2 < nodes.length : away === 0
  })
  const starts = quorate && (enough || forced)
  if (starts) {
    for (const member of accepted) {
      if (!here.includes(member)) refused.set(member, otherCluster(helloOf(member), clusterId))
    }
    accepted = here
  }
  return {
    kind: starts ? 'start' : 'wait',
    holders: inOrder(members, holders),
    accepted: inOrder(members, accepted),
    refused,
    missing,
    reason: quorate
      ? waitReason(newestOf(newest), missing, hasQuorum)
      : 'no quorum: most of the cluster is out of reach',
  }
}

function inOrder(members: readonly MemberId[], some: readonly MemberId[]): MemberId[] {
  return members.filter((member) => some.includes(member))
}

/** Those with the newest state; those whose state is live alone when there are such among them. */
function holdersOf(
  stateful: readonly MemberId[],
  helloOf: (member: MemberId) => Hello,
  clusterId: string,
  hasQuorum: boolean,
): MemberId[] {
  let best: MemberId[] = []
  const summaryOf = (member: MemberId) => helloOf(member).summary!
  const known = stateful.filter((member) => summaryOf(member).clusterId === clusterId)
  for (const member of known) {
    const summary = summaryOf(member)
    if (hasQuorum && known.some((other) => isOvertaken(summary, summaryOf(other)))) continue
    const standing = best.length === 0 ? 1 : compareStates(summary, helloOf(best[0]).summary!)
    if (standing > 0) best = [member]
    else if (standing === 0) best.push(member)
  }
  const live = best.filter((member) => helloOf(member).mode === 'frozen')
  return live.length > 0 ? live : best.slice(0, 1)
}

/**
 * The epochs of which enough nodes must be heard: the newest, and the one before any that may not have been confirmed, since
 * those who were in that one only may have gone on without it.
 */
function epochsToHear(
  newest: Summary,
  heard: readonly { node: string; summary: Summary }[],
  hasQuorum: boolean,
): EpochSummary[] {
  const { epochs } = newest
  const asked = [epochs[epochs.length - 1]]
  for (let at = epochs.length - 1; at > 0; at--) {
    const [former, epoch] = [epochs[at - 1], epochs[at]]
    const has = (last: number, line: string): boolean => {
      return last >= epoch.number && epochs.some((one) => one.number === last && one.line === line)
    }
    // It took effect somewhere: it was confirmed, and so was all before it.
    if (heard.some(({ summary }) => has(summary.effective.epoch, summary.effective.line))) break
    const stored = heard.filter(({ node, summary }) => {
      const last = newestOf(summary)
      return former.nodes.some(({ id }) => id === node) && has(last.number, last.line)
    })
    if (stored.length < confirmationsNeeded(former.nodes.length, hasQuorum)) asked.push(former)
  }
  return asked
}

function missingOf(epochs: readonly EpochSummary[], present: ReadonlySet<string>): NodeSummary[] {
  const missing = new Map<string, NodeSummary>()
  for (const { nodes } of epochs) for (const node of nodes) if (!present.has(node.id)) missing.set(node.id, node)
  return [...missing.values()]
}

function waitReason(newest: EpochSummary, missing: NodeSummary[], hasQuorum: boolean): string {
  const away = missing.map(nodeText).join(', ')
  const needed = hasQuorum ? `more than half of the ${newest.nodes.length} nodes` : 'all nodes'
  return (
    `waiting for ${needed} of epoch ${newest.number}; away: ${away}. Start them. ` +
    'If they are lost for good: dog cluster recover (what only they hold is lost)'
  )
}

/**
 * Newcomers with their vnodes, which are fixed when a node first brings disk space: in the proportion of vnodes to space
 * that the present nodes have, so that a share of the data is a share of the space whatever the order of joining. The
 * first have 128 on the mean.
 */
export function withVnodes(
  newcomers: readonly NodeInfo[],
  present: readonly NodeInfo[],
  known: ReadonlyMap<string, KnownNode>,
): NodeInfo[] {
  const measured = present.filter((node) => node.vnodes > 0 && node.space > 0)
  const sized = measured.length > 0 ? measured : newcomers.filter((node) => node.space > 0)
  const space = sized.reduce((sum, node) => sum + node.space, 0)
  const vnodes = measured.length > 0 ? sized.reduce((sum, node) => sum + node.vnodes, 0) : sized.length * VNODES_MEAN
  return newcomers.map((node) => {
    if (node.space <= 0) return { ...node, vnodes: 0 }
    const before = known.get(node.id)?.vnodes ?? 0
    if (before > 0) return { ...node, vnodes: before }
    return { ...node, vnodes: Math.min(VNODES_MAX, Math.max(1, Math.round((node.space * vnodes) / space))) }
  })
}

/** Its disks have changed: its share changes in proportion. A gateway stays one. */
export function withSpace(node: NodeInfo, space: number): NodeInfo {
  if (node.vnodes === 0 || node.space <= 0) return node
  const vnodes = Math.min(VNODES_MAX, Math.max(1, Math.round((node.vnodes * space) / node.space)))
  return { ...node, space, vnodes }
}

export interface FormatWish {
  command: Extract<ClusterCommand, { type: 'format' }>
  /** ms since the Unix epoch, the proposer's */
  time: number
  /** node id */
  sender: string
  /** Of those who will be in it, when none runs */
  hellos?: readonly Hello[]
  /** Of the running cluster that is formatted anew */
  history?: History
}

/** What the new cluster begins with. Numbers grow over all that its members have seen before. */
export function formatted({
  command,
  time,
  hellos = [],
  history,
}: FormatWish): { config: ClusterConfig; seq: number; record: EpochRecord } | SheepError {
  const { clusterId, copies, blockSizeShift } = command
  try {
    checkCopies(copies)
    checkShift(blockSizeShift)
    if (!/^[0-9a-f]{16}$/.test(clusterId)) throw new SheepError('invalid', 'a cluster id is 16 hex digits')
  } catch (error) {
    if (error instanceof SheepError) return error
    throw error
  }
  const summaries = hellos.flatMap(({ summary }) => (summary === null ? [] : [summary]))
  const seq = Math.max(history?.seq ?? 0, ...summaries.map((summary) => summary.seq)) + 1
  const number = Math.max(history?.epoch.number ?? 0, ...summaries.map((summary) => newestOf(summary).number)) + 1
  const newcomers = withVnodes(
    hellos.map((hello) => hello.node),
    [],
    new Map(),
  )
  const nodes = sortedById([...(history?.epoch.nodes ?? []), ...newcomers])
  return { config: { clusterId, formatTime: time, copies, blockSizeShift }, seq, record: { number, time, nodes } }
}
