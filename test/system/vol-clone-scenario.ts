/** What a copy of a snapshot by libvirt itself takes: `virsh vol-clone` reads and writes, and what it wrote is shared again. */
import type { VdiInfo } from '../../lib/control/verbs.js'
import { sleep } from '../support/process.js'
import type { SystemCluster } from './cluster.js'
import type { Host } from './host.js'
import type { Scenario } from './scenario.js'
import { withLibvirt } from './virt-tools-scenario.js'

const POOL = '/var/lib/sheepdog/volumes'
const MIB = 1 << 20
const GIB = 1 << 30
const SIZE_GIB = 10
/** 2 GiB of data that lie apart, not at the borders of objects */
const PIECES = 8
const PIECE_BYTES = 256 * MIB
const FIRST_BYTE = 12_345
const APART_BYTES = Math.floor((SIZE_GIB * GIB) / PIECES)
/** Of what the snapshot takes: when it is done, and at any moment on the way */
const GROWTH_MAX = 0.02
const ON_THE_WAY_MAX = 0.1
const SAMPLE_MS = 2_000
const CLONE_MS_MAX = 400_000
const SETTLED_MS_MAX = 30_000

/** Bytes that all copies of all objects take on the disks of all hosts */
async function used(cluster: SystemCluster): Promise<number> {
  const each = await Promise.all(
    cluster.hosts.map((host) => host.run('sh', ['-c', 'du -s --block-size=1 /var/lib/sheepdog/obj | cut -f 1'])),
  )
  return each.reduce((sum, text) => sum + Number(text), 0)
}

async function vdi(host: Host, name: string): Promise<VdiInfo> {
  const { vdis } = JSON.parse(await host.run('dog', ['vdi', 'list', '--json', name])) as { vdis: VdiInfo[] }
  const found = vdis.find((one) => !one.snapshot)
  if (found === undefined) throw new Error(`there is no volume ${name}`)
  return found
}

async function clone(cluster: SystemCluster): Promise<void> {
  const [host, other] = cluster.hosts
  await host.run('dog', ['vdi', 'create', 'gold', `${SIZE_GIB}G`])
  for (let piece = 0; piece < PIECES; piece++) {
    const where = `${FIRST_BYTE + piece * APART_BYTES} ${PIECE_BYTES}`
    await host.run('sh', ['-c', `head -c ${PIECE_BYTES} /dev/urandom | dog vdi write gold ${where}`], {
      limit: 120_000,
    })
  }
  await host.run('dog', ['vdi', 'snapshot', '-s', 'monday', 'gold'])
  await host.run('virsh', ['pool-refresh', 'sheepdog'])
  const before = await used(cluster)
  if (before < 2 * PIECES * PIECE_BYTES) throw new Error(`2 GiB in two copies take ${before} bytes`)
  let most = before
  let over = false
  const watch = async (): Promise<void> => {
    while (!over) {
      most = Math.max(most, await used(cluster))
      await sleep(SAMPLE_MS)
    }
  }
  const watching = watch()
  const start = performance.now()
  try {
    await host.run('virsh', ['vol-clone', 'gold@monday', 'copy', 'sheepdog'], { limit: CLONE_MS_MAX })
  } finally {
    over = true
    await watching
  }
  const seconds = ((performance.now() - start) / 1000).toFixed(1)
  const growth = async (): Promise<number> => (await used(cluster)) / before - 1
  await cluster.took('the copy to be shared', async () => (await growth()) < GROWTH_MAX, SETTLED_MS_MAX)
  const percent = (part: number): string => `${(part * 100).toFixed(2)} %`
  const left = percent(await growth())
  cluster.say(
    `  virsh vol-clone took ${seconds} s; used space grew by ${left}, on the way by ${percent(most / before - 1)}`,
  )
  if (most / before - 1 > ON_THE_WAY_MAX) throw new Error('on the way it took much more than in the end')
  const made = await vdi(other, 'copy')
  if (!made.clone || made.size !== SIZE_GIB * GIB) throw new Error(`the copy is no clone: ${JSON.stringify(made)}`)
  await host.run('cmp', [`${POOL}/gold@monday`, `${POOL}/copy`], { limit: CLONE_MS_MAX })
  // Each its own from now on.
  await other.run('sh', ['-c', 'head -c 9000000 /dev/urandom | dog vdi write copy 5000000'])
  await host.run('cmp', [`${POOL}/gold@monday`, `${POOL}/gold`], { limit: CLONE_MS_MAX })
  await host.run('virsh', ['vol-delete', 'gold@monday', 'sheepdog'])
  await host.run('virsh', ['vol-delete', 'gold', 'sheepdog'])
  await cluster.identical('copy')
  await host.run('virsh', ['vol-delete', 'copy', 'sheepdog'])
}

export const volCloneScenario: Scenario = {
  name: 'vol-clone',
  title: 'virsh vol-clone of a 10 GiB snapshot with 2 GiB of data: used space grows by less than 2 %',
  short: false,
  async run(cluster) {
    await withLibvirt(cluster.hosts[0], () => clone(cluster))
    await cluster.healthy()
  },
}
