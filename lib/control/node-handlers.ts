import { SheepError } from '../errors.js'
import { sleep } from '../replication/sleep.js'
import type { Handlers } from './dispatch.js'
import { askNodes, nodeSummaries, selectNodes } from './nodes.js'
import type { ControlServices } from './services.js'
import type { NodeSummary } from './verbs.js'

/** A node that was told to stop closes its volumes first; these have this long, ms. */
const STOP_MS = 30_000
/** One that cannot be reached may have stopped before it answered; then the cluster knows soon. */
const UNREACHABLE_MS = 2_000
const POLL_MS = 50

export const nodeHandlers: Handlers<'node'> = {
  'node.list': async (services) => ({ nodes: nodeSummaries(services), departed: services.cluster.departed }),

  'node.info': async (services) => ({
    nodes: await askNodes(services, nodeSummaries(services), (node) => node.space()),
    volumeSize: services.volumes
      .list()
      .filter((entry) => entry.snapshotTime === 0)
      .reduce((sum, entry) => sum + entry.size, 0),
  }),

  'node.recovery': async (services) => ({
    nodes: await askNodes(services, nodeSummaries(services), (node) => node.recovery()),
  }),

  'node.stat': async (services, { node }) => ({
    nodes: await askNodes(services, selectNodes(services, node), (service) => service.statistics()),
  }),

  'node.places': async (services, { node }) => ({
    nodes: await askNodes(services, selectNodes(services, node), (service) => service.places()),
  }),

  'node.md': async (services, { node }) => ({
    nodes: await askNodes(services, selectNodes(services, node), (service) => service.disks()),
  }),

  'node.plug': async (services, { node, path }) => {
    if (!path.startsWith('/')) {
      throw new SheepError(
        'invalid',
        `${path} is no absolute path`,
        "give the directory's whole path on the node's host",
      )
    }
    const target = oneNode(services, node)
    return { node: target, disks: await services.node(target.id).plug(path) }
  },

  'node.unplug': async (services, { node, disk, force }) => {
    const target = oneNode(services, node)
    return { node: target, path: await services.node(target.id).unplug(disk, force) }
  },

  'node.drain': async (services, { node, drained }) => {
    const { id } = oneNode(services, node)
    await services.cluster.propose({ type: 'drain', node: id, drained }, true)
    return { node: oneNode(services, id) }
  },

  'node.log': async (services, { node, lines }) => ({
    nodes: await askNodes(services, selectNodes(services, node), (service) => service.log(lines)),
  }),

  'node.kill': async (services, { node }) => {
    const chosen = selectNodes(services, node)
    if (node === '' || chosen.length !== 1) {
      throw new SheepError('invalid', 'one node at a time can be stopped', 'dog cluster shutdown stops all of them')
    }
    const [target] = chosen
    let unreachable: SheepError | null = null
    try {
      await services.node(target.id).stop()
    } catch (error) {
      // A node that is quick to stop takes the link with it before its answer is out.
      if (!(error instanceof SheepError) || error.code !== 'unreachable') throw error
      unreachable = error
    }
    const ms = unreachable === null ? STOP_MS : UNREACHABLE_MS
    if (!target.self && !(await gone(services, target, ms))) throw unreachable ?? stillThere(target)
    return { node: target }
  },
}

function oneNode(services: ControlServices, text: string): NodeSummary {
  const chosen = selectNodes(services, text)
  if (chosen.length === 1) return chosen[0]
  throw new SheepError(
    'invalid',
    'this is done at one node at a time',
    'say which: a number of dog node list, a name or an id',
  )
}

/** Whether the cluster goes on without it within `ms`. */
async function gone({ clock, cluster }: ControlServices, node: NodeSummary, ms: number): Promise<boolean> {
  const deadline = clock.now() + ms
  while (cluster.epoch?.nodes.some((member) => member.id === node.id)) {
    if (clock.now() > deadline) return false
    await sleep(clock, POLL_MS)
  }
  return true
}

function stillThere(node: NodeSummary): SheepError {
  return new SheepError(
    'timeout',
    `${node.name} (${node.host}:${node.port}) is still a member ${STOP_MS / 1000} s after it was told to stop`,
    'dog node log shows what it is doing; on its host, systemctl kill sheepdog ends it',
  )
}
