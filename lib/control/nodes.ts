/** The members as people name them: numbers, names, addresses. */
import type { NodeInfo } from '../cluster/types.js'
import { asSheepError, SheepError } from '../errors.js'
import type { ControlServices, NodeService } from './services.js'
import type { NodeSummary, OfNode } from './verbs.js'

/** Numbered by address, so that every daemon numbers them alike. Before the first epoch: this node alone. */
export function nodeSummaries(services: ControlServices): NodeSummary[] {
  const { self, epoch } = services.cluster
  return [...(epoch?.nodes ?? [self])].sort(byAddress).map((node, number) => ({
    ...node,
    number,
    self: node.id === self.id,
  }))
}

function byAddress(a: NodeInfo, b: NodeInfo): number {
  return a.host.localeCompare(b.host, 'en', { numeric: true }) || a.port - b.port || (a.id < b.id ? -1 : 1)
}

/** `text`: number, id, name or host:port; '' this daemon's own; 'all'. SheepError not-found, invalid */
export function selectNodes(services: ControlServices, text: string): NodeSummary[] {
  const nodes = nodeSummaries(services)
  if (text === 'all') return nodes
  if (text === '') {
    const own = nodes.filter((node) => node.self)
    return own.length > 0 ? own : [{ ...services.cluster.self, number: -1, self: true }]
  }
  const exact = nodes.find((node) => node.id === text || String(node.number) === text)
  if (exact !== undefined) return [exact]
  const named = nodes.filter((node) => node.name === text || `${node.host}:${node.port}` === text)
  if (named.length === 1) return named
  if (named.length > 1) {
    throw new SheepError(
      'invalid',
      `${named.length} nodes are called ${text}`,
      `use a number: ${named.map((node) => `${node.number} (port ${node.port})`).join(', ')}`,
    )
  }
  throw new SheepError('not-found', `no node ${text} is in the cluster`, 'dog node list shows them with their numbers')
}

/** Asks each; a node that cannot answer says why and hides nothing of the others. */
export function askNodes<T>(
  services: ControlServices,
  nodes: readonly NodeSummary[],
  ask: (node: NodeService) => Promise<T>,
): Promise<OfNode<T>[]> {
  return Promise.all(
    nodes.map(async (node) => {
      try {
        return { node, answer: await ask(services.node(node.id)), error: '' }
      } catch (error) {
        if (!(error instanceof SheepError)) throw error
        return { node, answer: null, error: asSheepError(error).message }
      }
    }),
  )
}
