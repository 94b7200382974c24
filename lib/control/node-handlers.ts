import { SheepError } from '../errors.js'
import type { Handlers } from './dispatch.js'
import { askNodes, nodeSummaries, selectNodes } from './nodes.js'

export const nodeHandlers: Handlers<'node'> = {
  'node.list': async (services) => ({ nodes: nodeSummaries(services) }),

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

  'node.md': async (services, { node }) => ({
    nodes: await askNodes(services, selectNodes(services, node), (service) => service.disks()),
  }),

  'node.log': async (services, { node, lines }) => ({
    nodes: await askNodes(services, selectNodes(services, node), (service) => service.log(lines)),
  }),

  'node.kill': async (services, { node }) => {
    const chosen = selectNodes(services, node)
    if (node === '' || chosen.length !== 1) {
      throw new SheepError('invalid', 'one node at a time can be stopped', 'dog cluster shutdown stops all of them')
    }
    await services.node(chosen[0].id).stop()
    return { node: chosen[0] }
  },
}
