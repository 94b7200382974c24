import { SheepError } from '../errors.js'
import type { Handlers } from './dispatch.js'
import { askNodes, nodeSummaries } from './nodes.js'
import type { ControlServices } from './services.js'
import type { ClusterInfo } from './verbs.js'

/** As Sheepdog's administrators know it. */
const DEFAULT_COPIES = 3
/** 4 MiB */
export const DEFAULT_BLOCK_SIZE_SHIFT = 22

export const clusterHandlers: Handlers<'cluster'> = {
  'cluster.info': async (services) => clusterInfo(services),

  'cluster.format': async (services, { copies, blockSizeShift, force, onNoQuorum }) => {
    await services.cluster.propose(
      {
        type: 'format',
        clusterId: services.random.hex(8),
        copies: copies || DEFAULT_COPIES,
        blockSizeShift: blockSizeShift || DEFAULT_BLOCK_SIZE_SHIFT,
        force,
      },
      true,
    )
    if (onNoQuorum > 0) await services.cluster.propose({ type: 'on-no-quorum', ms: onNoQuorum })
    return clusterInfo(services)
  },

  'cluster.set': async (services, { onNoQuorum }) => {
    await services.cluster.propose({ type: 'on-no-quorum', ms: onNoQuorum })
    return clusterInfo(services)
  },

  'cluster.shutdown': async (services) => {
    await services.cluster.propose({ type: 'shutdown' })
    return {}
  },

  'cluster.recover': async (services) => {
    const { status } = services.cluster
    if (status !== 'waiting-for-nodes') {
      throw new SheepError(
        'invalid',
        `the cluster waits for no missing nodes: it is ${status}`,
        'dog cluster info says what it does; lost copies are made again by themselves',
      )
    }
    await services.cluster.propose({ type: 'force-start' })
    return clusterInfo(services)
  },

  'cluster.recovery': async ({ cluster }, { held, limit }) => {
    if (held !== null || limit !== null) await cluster.propose({ type: 'recovery', held, limit })
    return cluster.recovery
  },

  'cluster.scrub': async (services, { action }) => ({
    nodes: await askNodes(services, nodeSummaries(services), (node) => node.scrub(action)),
  }),

  'cluster.lost': async (services, { name }, progress) => {
    if (name !== '' && !services.volumes.list().some((entry) => entry.name === name)) {
      throw new SheepError('not-found', `no VDI "${name}"`, 'dog vdi list shows what there is')
    }
    return { objects: await services.lost(name, progress) }
  },

  'cluster.acceptLost': async (services, { objects, zeros }) => ({
    objects: await services.acceptLost(objects, zeros),
  }),

  'cluster.check': async (services, { repair }, progress) => services.check(services.volumes.list(), repair, progress),
}

function clusterInfo(services: ControlServices): ClusterInfo {
  const { status, statusReason, config, epoch, history, recovered, recovery, onNoQuorum } = services.cluster
  const current = epoch?.number ?? 0
  return {
    version: services.version,
    status,
    reason: statusReason,
    recovering: nodeSummaries(services).filter(
      (node) => epoch !== null && node.vnodes > 0 && (recovered.get(node.id) ?? 0) < current,
    ),
    recovery,
    onNoQuorum,
    config: config && {
      clusterId: config.clusterId,
      created: config.formatTime,
      copies: config.copies,
      objectSize: 2 ** config.blockSizeShift,
    },
    epochs: [...history].reverse(),
  }
}
