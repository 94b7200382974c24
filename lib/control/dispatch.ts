/** From a verb's name to what does it. */
import type { ClusterStatus } from '../cluster/types.js'
import { type ErrorCode, SheepError } from '../errors.js'
import { clusterHandlers } from './cluster-handlers.js'
import { nodeHandlers } from './node-handlers.js'
import type { ControlServices, Progress } from './services.js'
import { vdiHandlers } from './vdi-handlers.js'
import type { Verb, VerbAnswer, VerbArguments } from './verbs.js'

export type Handler<V extends Verb> = (
  services: ControlServices,
  given: VerbArguments<V>,
  progress: Progress,
) => Promise<VerbAnswer<V>>

/** The handlers of all verbs of some groups: 'vdi' is every vdi.* verb. */
export type Handlers<Group extends string> = { [V in Extract<Verb, `${Group}.${string}`>]: Handler<V> }

const HANDLERS: { [V in Verb]: Handler<V> } = { ...clusterHandlers, ...nodeHandlers, ...vdiHandlers }

export async function dispatch<V extends Verb>(
  services: ControlServices,
  verb: V,
  given: VerbArguments<V>,
  progress: Progress,
): Promise<VerbAnswer<V>> {
  if (verb.startsWith('vdi.') || verb.startsWith('lock.') || verb === 'cluster.check') requireService(services)
  return HANDLERS[verb](services, given, progress)
}

/** Statuses in which there are no volumes to speak of. Without quorum there are: changes wait, lists answer. */
const NOT_SERVING: Partial<Record<ClusterStatus, { code: ErrorCode; hint: string }>> = {
  joining: { code: 'starting-up', hint: 'try again in a moment; dog node log shows what it does' },
  'waiting-for-format': { code: 'wait-for-format', hint: 'dog cluster format -c COPIES' },
  'waiting-for-nodes': { code: 'wait-for-join', hint: 'start them, or go on without them: dog cluster recover' },
  expelled: { code: 'wait-for-join', hint: 'it joins again by itself; dog node log shows why it was left out' },
  stopped: { code: 'shutting-down', hint: 'start the daemon again' },
}

function requireService(services: ControlServices): void {
  const { status, statusReason } = services.cluster
  const reason = NOT_SERVING[status]
  if (reason !== undefined) throw new SheepError(reason.code, statusReason || `the cluster is ${status}`, reason.hint)
}
