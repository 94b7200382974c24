/** What the administrator of a host says of its node: may change while it runs. */
import type { RecoverySettings } from '../cluster/types.js'
import { SCRUB_DEFAULT, type ScrubSettings } from './scrub.js'

export interface NodeSettings {
  scrub: ScrubSettings
  /** Bytes a second that recovery copies here at most, beside the cluster's own limit; 0: none */
  recoveryLimit: number
}

export const SETTINGS_DEFAULT: NodeSettings = { scrub: SCRUB_DEFAULT, recoveryLimit: 0 }

/** The lower of the cluster's limit and this node's own; 0: none. */
export function limited({ held, limit }: RecoverySettings, own: number): RecoverySettings {
  return { held, limit: limit === 0 || own === 0 ? Math.max(limit, own) : Math.min(limit, own) }
}
