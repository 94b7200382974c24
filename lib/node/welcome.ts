import { SheepError } from '../errors.js'
import { PEER_VERSION } from '../protocol/header.js'

/**
 * A peer's HELLO; its node id, which must be the one that it has `proven` where that was asked for. `clusterId` of this node: '' before
 * format. SheepError invalid, version, join-failed.
 */
export function welcome(hello: unknown, proven: string | undefined, self: string, clusterId: string): string {
  const said = (hello ?? {}) as Record<'id' | 'to' | 'version' | 'clusterId', unknown>
  const { id, to, version } = said
  if (typeof id !== 'string' || !/^[0-9a-f]{16}$/.test(id)) throw new SheepError('invalid', 'a peer without a node id')
  if (proven !== undefined && proven !== id) {
    throw new SheepError('join-failed', `${proven === '' ? 'a client' : `node ${proven}`} says that it is node ${id}`)
  }
  if (version !== PEER_VERSION) {
    throw new SheepError(
      'version',
      `peer ${id} speaks protocol ${String(version)}, this node ${PEER_VERSION}`,
      'run the same version of sheepdog on all hosts',
    )
  }
  if (clusterId !== '' && said.clusterId !== '' && said.clusterId !== clusterId) {
    throw new SheepError('join-failed', `peer ${id} belongs to another cluster`)
  }
  if (to !== self) {
    throw new SheepError('join-failed', `peer ${id} looks for node ${String(to)} at this one's address`)
  }
  return id
}
