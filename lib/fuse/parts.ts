/** What the file system is given of a node. */
import type { ClusterView } from '../cluster/types.js'
import { asSheepError, SheepError } from '../errors.js'
import type { FileVolume, OpenRequest } from '../gateway/types.js'
import type { Clock, Log } from '../host/interfaces.js'
import { sleep } from '../replication/sleep.js'
import type { ObjectIo } from '../vdi/object-io.js'
import type { CreateRequest } from '../vdi/operations.js'
import type { Registry } from '../vdi/registry.js'
import type { VdiCommand, VdiEntry } from '../vdi/types.js'

export interface FilesParts {
  cluster: Pick<ClusterView, 'status' | 'propose'>
  registry: () => Registry
  volumes: { open(request: OpenRequest): Promise<FileVolume> }
  operations: {
    create(request: CreateRequest): Promise<VdiEntry>
    snapshot(name: string, tag: string): Promise<VdiEntry>
    delete(name: string, snapshot: string): Promise<void>
    rename(name: string, newName: string): Promise<void>
    setTag(name: string, snapshot: string, tag: string): Promise<VdiEntry>
  }
  io: ObjectIo
  /** Bytes in use by each; null: not known now */
  usage(entries: readonly VdiEntry[]): Promise<(number | null)[]>
  /** Of the cluster, one copy counted */
  space(): Promise<{ total: number; free: number }>
  clock: Clock
  log: Log
}

/** Of those, what a change of the registry needs */
export type ProposerParts = Pick<FilesParts, 'cluster' | 'clock' | 'log'>

const RETRY_MS = 50
const BUSY_MS_MAX = 30_000

/** Proposes what `command` says each time, until nothing that passes by itself (a snapshot being taken) refuses it. SheepError. */
export async function proposePatiently(parts: ProposerParts, command: () => VdiCommand): Promise<void> {
  const { cluster, clock } = parts
  const deadline = clock.now() + BUSY_MS_MAX
  for (;;) {
    try {
      await cluster.propose({ type: 'vdi', command: command() })
      return
    } catch (error) {
      const { code } = asSheepError(error)
      // read-only: the vid has become a snapshot since.
      if ((code !== 'busy' && code !== 'read-only') || clock.now() > deadline) throw error
    }
    await sleep(clock, RETRY_MS)
  }
}

/** Positive errno of whatever failed; a broken invariant is thrown again. */
export function errnoOf(error: unknown): number {
  if (!(error instanceof SheepError)) throw error
  return error.errno
}
