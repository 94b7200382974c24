/** What hurt the users of such systems, on real daemons. README.md says which test is whose. */
import test from 'ava'
import type { VerbAnswer } from '../../lib/control/verbs.js'
import { TestCluster } from '../support/cluster.js'
import { fio } from '../support/fio.js'
import { must, sleep } from '../support/process.js'
import { surveyReplicas } from '../support/replicas.js'

const MIB = 2 ** 20
const volumeMib = 64

/** Bytes that a daemon has taken from others since its newest epoch began. */
async function taken(cluster: TestCluster, index: number): Promise<number> {
  const { nodes } = await cluster.json<VerbAnswer<'node.recovery'>>(['node', 'recovery'], index)
  const own = nodes.find(({ node }) => node.self)
  if (own?.answer == null) throw new Error('the daemon does not say how its recovery is')
  return own.answer.bytesTaken
}

test.serial(
  'while recovery is held, volumes open and serve on the daemon that lacks copies, and old bytes are not read',
  async (t) => {
    t.timeout(4 * 60_000)
    const cluster = await TestCluster.start({ nodes: 3 })
    t.teardown(() => cluster.stop())
    await cluster.dog(['vdi', 'create', 'disk', `${volumeMib}M`])
    await must('qemu-io', ['-f', 'raw', '-c', `write -P 1 0 ${volumeMib}M`, cluster.nbd('disk')])
    await cluster.dog(['node', 'recovery', '--hold'])
    await cluster.killNode(2)
    await must('qemu-io', ['-f', 'raw', '-c', `write -P 2 0 ${volumeMib}M`, await cluster.elsewhere('disk', 0)])
    await cluster.startNode(2)

    // The one that missed it all is the gateway now.
    const began = performance.now()
    const uri = await cluster.elsewhere('disk', 2)
    const read = await must('qemu-io', ['-f', 'raw', '-c', `read -P 2 0 ${volumeMib}M`, '-c', 'write -P 3 4M 8M', uri])
    t.notRegex(read.stdout, /failed/i)
    t.true(performance.now() - began < 30_000, 'it took too long')
    const pass = await fio(await cluster.elsewhere('disk', 1), [
      ...['rw=randrw', 'bs=4k', 'size=4M', 'offset=32M', 'iodepth=8', 'verify=crc32c', 'verify_fatal=1'],
    ])
    t.true(pass.write.latencyMaxUs < 5e6, `a write waited ${pass.write.latencyMaxUs} us`)

    await cluster.dog(['node', 'recovery', '--release'])
    await cluster.healthy()
    t.deepEqual((await surveyReplicas(cluster.stores, 3)).problems, [])
  },
)

test.serial('a daemon that was away takes the difference, not everything', async (t) => {
  t.timeout(4 * 60_000)
  const cluster = await TestCluster.start({ nodes: 3 })
  t.teardown(() => cluster.stop())
  await cluster.dog(['vdi', 'create', 'disk', `${volumeMib}M`])
  await must('qemu-io', ['-f', 'raw', '-c', `write -P 1 0 ${volumeMib}M`, '-c', 'flush', cluster.nbd('disk')])
  await sleep(9_000)
  await cluster.killNode(2)
  // Two of sixteen objects change meanwhile.
  const changes = ['write -P 2 4M 64k', 'write -P 3 40M 4k', 'flush'].flatMap((command) => ['-c', command])
  await must('qemu-io', ['-f', 'raw', ...changes, await cluster.elsewhere('disk', 0)])
  await cluster.startNode(2)
  await cluster.healthy(2)
  const bytes = await taken(cluster, 2)
  t.log(`${(bytes / MIB).toFixed(1)} MiB of ${volumeMib} were taken`)
  t.true(bytes < volumeMib * MIB * 0.3, `${bytes} bytes were taken`)
  t.deepEqual((await surveyReplicas(cluster.stores, 3)).problems, [])
})

test.serial('the last copy of an object is not given up: its volume waits for the host that has it', async (t) => {
  t.timeout(4 * 60_000)
  const cluster = await TestCluster.start({ nodes: 3, copies: 1 })
  t.teardown(() => cluster.stop())
  await cluster.dog(['vdi', 'create', 'disk', '32M'])
  await must('qemu-io', ['-f', 'raw', '-c', 'write -P 7 0 32M', cluster.nbd('disk')])
  await cluster.killNode(2)
  const index = await cluster.json<VerbAnswer<'cluster.info'>>(['cluster', 'info'], 0)
  t.is(index.status, 'running')
  // It does not become zeros, nor an error: it is there again when its host is.
  const reading = must('qemu-io', ['-r', '-f', 'raw', '-c', 'read -P 7 0 32M', await cluster.elsewhere('disk', 0)])
  await cluster.startNode(2)
  const read = await reading
  t.notRegex(read.stdout, /failed/i)
})
