/** `dog libvirt hook`: what libvirt-hooks/qemu asks when a machine seems to have sheepdog disks. */
import { SheepError } from '../errors.js'
import { type HookCluster, isHookOperation, runHook } from '../libvirt/hook.js'
import { placesIn, placesOf } from './libvirt-disks.js'
import type { Session } from './session.js'

/** libvirt's own limit of what a hook may print and of a domain's XML (virCommand, virDomainDefParse): 16 MiB and less */
const STDIN_BYTES_MAX = 16 << 20

/** SheepError: the machine is not to start here */
export async function libvirtHook(session: Session, operation: string): Promise<void> {
  const xml = await standardInput()
  if (!isHookOperation(operation)) return
  session.write(await runHook(operation, xml, clusterOf(session)))
}

function clusterOf(session: Session): HookCluster {
  const self = async (): Promise<string> => {
    const { nodes } = await session.call('node.list', {})
    const own = nodes.find((node) => node.self)
    if (own === undefined) throw new SheepError('wait-for-join', 'the daemon of this host is in no cluster yet')
    return own.id
  }
  return {
    self,
    places: () => placesOf(session),
    everywhere: async () => {
      const { nodes } = await session.call('node.places', { node: 'all' })
      return nodes.flatMap(({ answer }) => (answer === null ? [] : [placesIn(answer)]))
    },
    locks: async () => (await session.call('lock.list', {})).locks,
    announce: async (name, seconds) => {
      await session.call('lock.migrate', { name, to: await self(), seconds })
    },
    cancel: async (name) => {
      await session.call('lock.cancel', { name })
    },
    sleep: (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
  }
}

async function standardInput(): Promise<string> {
  const pieces: Buffer[] = []
  let length = 0
  for await (const piece of process.stdin as AsyncIterable<Buffer>) {
    length += piece.length
    if (length > STDIN_BYTES_MAX) throw new SheepError('too-big', 'more than 16 MiB of XML')
    pieces.push(piece)
  }
  return Buffer.concat(pieces).toString('utf8')
}
