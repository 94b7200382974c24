/** What the daemon's main and the node it runs know of each other. */
import type { ClusterStatus } from '../lib/cluster/types.js'
import type { LogLine } from '../lib/control/services.js'
import type { Log } from '../lib/host/interfaces.js'
import type { SheepOptions } from './options.js'

/** Given to createNode. */
export interface NodeHooks {
  log: Log
  /** The newest log lines of this daemon, oldest first. */
  recentLog(lines: number): LogLine[]
  /** The node cannot go on. Main logs it with its stack and exits non-zero at once: nothing runs after this call. */
  fatal(error: Error): never
  /** Asks main to leave in order and exit 0: `dog cluster shutdown`, `dog node kill`. Returns at once. */
  requestStop(reason: string): void
  /** Resolves when main begins to stop, which may be before the node has started: nothing then waits for anybody else. */
  readonly stopped: Promise<void>
  /** The store is open: what follows takes no longer for a large one. */
  opened(): void
  /** A descriptor that the service manager keeps under this name; null none. Asked once */
  inherited(name: string): number | null
}

/**
 * What main needs of a node. createNode resolves once the node serves, or clearly waits for something that only people
 * or other hosts can bring (format, missing nodes), or when it is to stop.
 */
export interface RunningNode {
  readonly cluster: { readonly status: ClusterStatus; readonly statusReason: string }
  /** Those of the options that can change while it runs; the others are left as they were. */
  configure(options: SheepOptions): void
  /** Leaves the cluster in order, syncs and closes the store. Main bounds its time. */
  stop(): Promise<void>
}
