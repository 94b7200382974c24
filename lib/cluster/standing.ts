import type { Membership } from './membership.js'
import type { Standing } from './steps.js'

/** What the membership's state means to people and to the layers above. */
export function standingOf(membership: Membership): Standing {
  const { mode, quorate, round, members, fallen } = membership
  const standing = (status: Standing['status'], reason: string): Standing => ({ status, reason, missing: [] })
  if (mode === 'stopped') return standing('stopped', 'this node may not take part')
  const noQuorum = 'no quorum: more than half of the cluster is out of reach; I/O waits until it is back'
  if (mode === 'running') return quorate ? standing('running', '') : standing('halted', noQuorum)
  const decision = round?.decision
  if (decision?.kind === 'wait' && quorate) {
    return { status: 'waiting-for-nodes', reason: decision.reason, missing: decision.missing }
  }
  if (mode === 'frozen') {
    return standing('halted', quorate ? 'quorum is back: the nodes compare what they have' : noQuorum)
  }
  if (fallen !== '') return standing('expelled', `${fallen}; joining again`)
  if (decision?.kind === 'format' && quorate) {
    return standing('waiting-for-format', 'no cluster yet: run dog cluster format on one node')
  }
  if (decision?.kind === 'wait') return standing('waiting-for-nodes', decision.reason)
  if (!quorate) return standing('joining', 'no quorum yet: waiting for more hosts')
  const silent = round !== null && members.some((member) => !round.hellos.has(member))
  return standing('joining', silent ? 'waiting for the other daemons to introduce themselves' : 'joining')
}
