import { SheepError } from '../errors.js'
import type { Membership } from './membership.js'
import type { Standing } from './steps.js'

/** What the membership's state means to people and to the layers above. */
export function standingOf(membership: Membership): Standing {
  const { mode, quorate, round, members, fallen } = membership
  const standing = (status: Standing['status'], reason: string): Standing => ({ status, reason, missing: [] })
  if (mode === 'stopped') return standing('stopped', 'this node may not take part')
  const noQuorum =
    membership.noQuorum || 'no quorum: more than half of the cluster is out of reach; I/O waits until it is back'
  if (mode === 'running') return quorate ? standing('running', '') : standing('halted', noQuorum)
  const decision = round?.decision
  if (decision?.kind === 'wait' && quorate) {
    return { status: 'waiting-for-nodes', reason: decision.reason, missing: decision.missing }
  }
  if (mode === 'frozen') {
    return standing('halted', quorate ? 'the nodes that are here compare what they have' : noQuorum)
  }
  if (fallen !== '') return standing('expelled', `${fallen}; joining again`)
  if (decision?.kind === 'format' && quorate) {
    return standing('waiting-for-format', 'no cluster yet: run dog cluster format on one node')
  }
  if (decision?.kind === 'wait') return standing('waiting-for-nodes', decision.reason)
  if (!quorate) return standing('joining', membership.noQuorum || 'no quorum yet: waiting for more hosts')
  const silent = round !== null && members.some((member) => !round.hellos.has(member))
  return standing('joining', silent ? 'waiting for the other daemons to introduce themselves' : 'joining')
}

/** Why nothing can be proposed while things stand so. */
export function refusalIn({ status, reason }: Standing): SheepError {
  const why = reason === '' ? `the cluster is ${status}` : reason
  switch (status) {
    case 'waiting-for-format':
      return new SheepError('wait-for-format', 'there is no cluster yet', 'dog cluster format makes one')
    case 'stopped':
      return new SheepError('shutting-down', `this daemon is stopping: ${why}`)
    case 'halted':
      return new SheepError('halted', why, 'dog cluster info tells which nodes are here')
    case 'running':
      return new SheepError('timeout', 'the cluster did not take the operation in time', 'try again')
    case 'waiting-for-nodes':
      return new SheepError('starting-up', why, 'dog cluster info')
    case 'joining':
    case 'expelled':
      return new SheepError('wait-for-join', why, 'try again in a moment')
  }
}
