/** What the FUSE front-end needs of a node (lib/fuse/parts.ts), on a SheepNode. */
import type { ControlServices } from '../lib/control/services.js'
import { asSheepError } from '../lib/errors.js'
import type { FilesParts } from '../lib/fuse/parts.js'
import type { SheepNode } from '../lib/node/node.js'

/** Others are asked no more often than this. */
const SPACE_BELIEVED_MS = 5_000

export function filesParts(node: SheepNode, services: ControlServices): FilesParts {
  const { clock, log } = node.parts
  let known = { at: Number.NEGATIVE_INFINITY, total: 0, free: 0 }
  return {
    cluster: node.cluster,
    registry: () => node.cluster.registry,
    volumes: node.gateway,
    operations: node.operations,
    io: node.gateway.io,
    usage: async (entries) =>
      (await services.vdis.usage(entries)).map((one) => (one === null ? null : one.used + one.shared)),
    space: async () => {
      if (clock.now() - known.at < SPACE_BELIEVED_MS) return known
      const { current } = node.topology
      const stores = current?.nodes.filter(({ vnodes }) => vnodes > 0) ?? []
      const spaces = await Promise.all(
        stores.map(({ id }) =>
          services
            .node(id)
            .space()
            .catch((error: unknown) => {
              log('debug', `asking node ${id} for its space: ${asSheepError(error).message}`)
              return { total: 0, free: 0 }
            }),
        ),
      )
      const zones = new Set(stores.map(({ zone }) => zone)).size
      const copies = Math.max(1, Math.min(node.cluster.config?.copies ?? 1, zones))
      const sum = (what: 'total' | 'free') => spaces.reduce((all, space) => all + space[what], 0) / copies
      known = { at: clock.now(), total: sum('total'), free: sum('free') }
      return known
    },
    clock,
    log,
  }
}
