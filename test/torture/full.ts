/**
 * A file system of 200 MB under each of three daemons, filled to the end through QEMU's eyes: new data is refused with "no space",
 * what is there stays right and can be overwritten, a daemon that dies and returns finds its place, deleting makes room.
 */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { CheckReport } from '../../lib/control/services.js'
import type { VerbAnswer } from '../../lib/control/verbs.js'
import { TestCluster } from '../support/cluster.js'
import { fio } from '../support/fio.js'
import { must, run, until } from '../support/process.js'

const nodes = 3
const sizeMib = 200
/** Written before the disks fill, and verified at the end. */
const keptMib = 32

const verify = [
  'rw=randwrite',
  'bs=4k',
  `size=${keptMib}M`,
  'iodepth=16',
  'verify=crc32c',
  'verify_fatal=1',
  'randrepeat=0',
]

/** Every daemon has recovered, or has no room to. */
async function settled(cluster: TestCluster): Promise<boolean> {
  const { nodes } = await cluster.json<VerbAnswer<'node.recovery'>>(['node', 'recovery'])
  return nodes.every(({ answer }) => answer !== null && (answer.state === 'idle' || answer.state === 'no-room'))
}

export async function fillDisks(log: (text: string) => void): Promise<void> {
  if (process.getuid?.() !== 0) throw new Error('mounting small file systems needs root: run this as root')
  const directory = mkdtempSync(join(tmpdir(), 'sheep-full-'))
  const mounted: string[] = []
  let cluster: TestCluster | null = null
  try {
    for (let index = 0; index < nodes; index++) {
      const store = join(directory, `n${index}`)
      mkdirSync(store)
      await must('mount', ['-t', 'tmpfs', '-o', `size=${sizeMib}m`, 'sheepdog-test', store])
      mounted.push(store)
    }
    cluster = await TestCluster.start({ nodes, copies: 2, directory })
    await cluster.dog(['vdi', 'create', 'kept', `${keptMib}M`])
    await cluster.dog(['vdi', 'create', 'greedy', '1G'])
    await fio(cluster.nbd('kept'), verify)

    const filling = await run('qemu-io', ['-f', 'raw', '-c', 'write -P 2 0 1G', cluster.nbd('greedy')])
    if (!/no space/i.test(filling.stdout + filling.stderr))
      throw new Error(`filling said: ${filling.stderr}${filling.stdout}`)
    log('full: new data is refused with "no space"')
    await fio(cluster.nbd('kept'), verify)
    log('full: overwrites go on, and read back right')

    await cluster.killNode(1)
    await fio(cluster.nbd('kept'), verify)
    await cluster.startNode(1)
    await until('recovery to end or to say that it is degraded', 60_000, () => settled(cluster as TestCluster))
    await fio(await cluster.elsewhere('kept', 1), verify)
    log('full: a daemon died and returned, and serves')

    await cluster.dog(['vdi', 'delete', 'greedy'])
    await cluster.healthy()
    const report = await cluster.json<CheckReport>(['cluster', 'check'])
    if (report.problems.length > 0) throw new Error(`copies differ: ${JSON.stringify(report.problems)}`)
    log('full: deleting made room for recovery, and all copies are identical')
    await cluster.dog(['vdi', 'create', 'next', '64M'])
    await fio(cluster.nbd('next'), ['rw=write', 'bs=1M', 'size=64M', 'verify=crc32c', 'verify_fatal=1'])
    log('full: and for a new volume')
  } catch (error) {
    const about = cluster === null ? null : await cluster.tryDog(['node', 'recovery']).catch(() => null)
    const logs = cluster?.nodes.map(({ index }) => `daemon ${index}:\n${cluster?.logOf(index)}`) ?? []
    throw new Error([(error as Error).message, about?.stdout, ...logs].join('\n'), { cause: error })
  } finally {
    await cluster?.stop().catch(() => {})
    for (const store of mounted) await must('umount', ['-l', store])
    rmSync(directory, { recursive: true, force: true })
  }
}
