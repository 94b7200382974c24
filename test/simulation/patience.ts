import type { SheepError } from '../../lib/errors.js'

const PATIENCE = new Set([
  'locked',
  'busy',
  'starting-up',
  'wait-for-format',
  'wait-for-join',
  'halted',
  'timeout',
  'unreachable',
  'shutting-down',
])

/** Of an answer: the cluster is not in a state to serve this now, and comes out of it by itself. */
export function asksForPatience({ code }: SheepError): boolean {
  return PATIENCE.has(code)
}
