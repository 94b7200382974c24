/** Recovery as administrators steer and watch it, on real daemons with clients at work. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, rmSync } from 'node:fs'
import test from 'ava'
import type { RecoveryReport } from '../../lib/control/services.js'
import { TestCluster } from '../support/cluster.js'
import { fio } from '../support/fio.js'
import { until } from '../support/process.js'
import { surveyReplicas } from '../support/replicas.js'

const MIB = 2 ** 20
const limit = 60_000

async function reports(cluster: TestCluster): Promise<Map<number, RecoveryReport>> {
  const { nodes } = await cluster.json<{ nodes: { node: { port: number }; answer: RecoveryReport | null }[] }>([
    'node',
    'recovery',
  ])
  return new Map(nodes.flatMap(({ node, answer }) => (answer === null ? [] : [[node.port, answer]])))
}

async function withData(t: { teardown(run: () => Promise<void>): void }, nodes = 4): Promise<TestCluster> {
  const cluster = await TestCluster.start({ nodes })
  t.teardown(() => cluster.stop())
  await cluster.dog(['vdi', 'create', 'volume', '128M'])
  await fio(cluster.nbd('volume'), ['rw=write', 'bs=1M', 'iodepth=4', 'end_fsync=1'])
  return cluster
}

test('recovery is held over a restart while clients work, goes on at a limit, and says how far it is', async (t) => {
  t.timeout(4 * 60_000)
  const cluster = await withData(t)
  await cluster.dog(['node', 'recovery', '--hold'])
  await cluster.killNode(3)
  const heldAt = async () => [...(await reports(cluster)).values()].filter(({ state }) => state === 'held').length
  await until('recovery to be held', limit, async () => (await heldAt()) > 0)

  // Every write reaches objects of which a copy is missing, and all are read back.
  const verified = await fio(cluster.nbd('volume'), [
    ...['rw=randwrite', 'bs=4k', 'io_size=8M', 'iodepth=8', 'randrepeat=0'],
    ...['verify=crc32c', 'verify_fatal=1'],
  ])
  t.true(verified.read.ios >= 2048)
  const taken = [...(await reports(cluster)).values()].reduce((sum, report) => sum + report.bytesTaken, 0)
  t.true(taken <= 8 * MIB, `${taken} bytes were copied for what no request needed`)
  const info = (await cluster.dog(['cluster', 'info'])).stdout
  t.regex(info, /Degraded: redundancy is reduced/)
  t.regex(info, /Recovery is held/)

  await cluster.killNode(2)
  await cluster.startNode(2)
  await until('the restarted daemon to know', limit, async () => {
    return /Recovery is held/.test((await cluster.dog(['cluster', 'info'], 2)).stdout)
  })

  await cluster.dog(['node', 'recovery', '--limit', '4M', '--release'])
  const under = await until('progress', limit, async () => {
    const all = [...(await reports(cluster)).values()]
    // The restarted node finds most of its copies to be good: it is done with some before it takes one.
    const taking = ({ bytesTaken, objectsDone }: RecoveryReport) => bytesTaken > 0 && objectsDone > 2
    return all.find((report) => report.state === 'recovering' && taking(report) && report.left > 0)
  })
  t.true(under.bytesTotal > under.bytesTaken && under.objectsTotal > under.objectsDone)
  t.is(under.limit, 4 * MIB)
  t.true(under.rate < 10 * MIB, `${under.rate} bytes/s under a limit of 4 MiB/s`)

  await cluster.dog(['node', 'recovery', '--limit', 'none'])
  await cluster.healthy()
  await cluster.startNode(3)
  await cluster.healthy()
  t.deepEqual((await surveyReplicas(cluster.stores, 3)).problems, [])
})

test('a node that was away for some seconds takes what was written meanwhile, and no more', async (t) => {
  t.timeout(4 * 60_000)
  const cluster = await withData(t)
  await cluster.killNode(3)
  // Two objects at most, besides what the cluster writes itself.
  await fio(cluster.nbd('volume'), ['rw=randwrite', 'bs=4k', 'size=4M', 'io_size=64k', 'end_fsync=1'])
  await cluster.startNode(3)
  await cluster.healthy()
  const report = (await reports(cluster)).get(cluster.nodes[3].port) as RecoveryReport
  t.true(report.bytesTaken <= 12 * MIB, `${report.bytesTaken} bytes were copied`)
  t.deepEqual((await surveyReplicas(cluster.stores, 3)).problems, [])
})

test('a disk without room stops its recovery, not the clients, and room lets it go on', async (t) => {
  t.timeout(4 * 60_000)
  t.is(process.getuid?.(), 0, 'mounting a small file system needs root: run the tests as root')
  const cluster = await withData(t, 3)
  const { store, port } = cluster.nodes[2]
  await cluster.killNode(2)
  rmSync(store, { recursive: true })
  mkdirSync(store)
  // A quarter of it is the reserve: room for about 70 MiB of 128.
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=96M', 'tmpfs', store])
  t.teardown(() => execFileSync('umount', ['-l', store]))
  await cluster.startNode(2)
  const state = async () => (await reports(cluster)).get(port)?.state
  await until('the disk to be full', limit, async () => (await state()) === 'no-room')
  t.regex((await cluster.dog(['node', 'recovery'])).stdout, /degraded: no room/)
  t.regex((await cluster.dog(['cluster', 'info'])).stdout, /Degraded: redundancy is reduced/)

  const options = ['rw=randwrite', 'bs=4k', 'io_size=4M', 'iodepth=8', 'verify=crc32c', 'verify_fatal=1']
  t.true((await fio(cluster.nbd('volume'), options)).read.ios >= 1024)
  t.is(await state(), 'no-room')

  execFileSync('mount', ['-o', 'remount,size=400M', store])
  await cluster.healthy()
  t.deepEqual((await surveyReplicas(cluster.stores, 3)).problems, [])
})
