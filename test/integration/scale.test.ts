/** The sizes that the issue names: 32 daemons on one host, 10,000 volumes, 16 TiB. */
import test from 'ava'
import { TestCluster } from '../support/cluster.js'
import { must, run } from '../support/process.js'
import { surveyReplicas } from '../support/replicas.js'

const TIB = 2 ** 40

test.serial('32 daemons form a cluster, keep 31 copies, and lose five of them without harm', async (t) => {
  t.timeout(4 * 60_000)
  const cluster = await TestCluster.start({ nodes: 32, copies: 3 })
  t.teardown(() => cluster.stop())
  await cluster.dog(['vdi', 'create', 'wide', '16M', '-c', '31'])
  await must('qemu-io', ['-f', 'raw', '-c', 'write -P 0x31 0 5M', await cluster.elsewhere('wide', 31)])
  const { nodes } = await cluster.json<{ nodes: unknown[] }>(['node', 'list'], 17)
  t.is(nodes.length, 32)
  const survey = await surveyReplicas(cluster.stores, 31)
  t.deepEqual(survey.problems, [])
  t.is(survey.objects, 3, 'the inode and two data objects')

  await Promise.all([3, 7, 11, 19, 23].map((index) => cluster.killNode(index)))
  const read = await must('qemu-io', ['-r', '-f', 'raw', '-c', 'read -P 0x31 0 5M', await cluster.elsewhere('wide', 5)])
  t.notRegex(read.stdout, /failed/i)
  await cluster.healthy()
  const left = await cluster.json<{ nodes: unknown[] }>(['node', 'list'])
  t.is(left.nodes.length, 27)
})

test.serial(
  '10,000 volumes: made, listed, one found among them, and still there after a restart of everything',
  async (t) => {
    t.timeout(9 * 60_000)
    const count = 10_000
    const cluster = await TestCluster.start({ nodes: 3 })
    t.teardown(() => cluster.stop())
    const client = await cluster.control()
    let next = 0
    const worker = async () => {
      while (next < count) {
        const name = `v${next++}`
        await client.call('vdi.create', {
          ...{ name, size: 2 ** 30, copies: 1, blockSizeShift: 0, preallocate: false, onNoQuorum: null },
        })
      }
    }
    const start = performance.now()
    await Promise.all(Array.from({ length: 64 }, worker))
    const made = performance.now()
    const { vdis } = await client.call('vdi.list', { name: '' })
    const listed = performance.now()
    client.close()
    t.is(vdis.length, count)
    t.log(`made in ${((made - start) / 1000).toFixed(1)} s, listed in ${((listed - made) / 1000).toFixed(2)} s`)
    t.true(listed - made < 10_000)

    await must('qemu-io', ['-f', 'raw', '-c', 'write -P 5 0 64k', await cluster.elsewhere('v7777', 1)])
    await Promise.all([0, 1, 2].map((index) => cluster.killNode(index)))
    await Promise.all([0, 1, 2].map((index) => cluster.startNode(index)))
    await cluster.healthy()
    const read = await must('qemu-io', [
      '-r',
      '-f',
      'raw',
      '-c',
      'read -P 5 0 64k',
      await cluster.elsewhere('v7777', 2),
    ])
    t.notRegex(read.stdout, /failed/i)
    const again = await cluster.json<{ vdis: unknown[] }>(['vdi', 'list'], 2)
    t.is(again.vdis.length, count)
  },
)

test.serial('a volume of 16 TiB: written at both ends and the middle, snapshot, discard', async (t) => {
  const cluster = await TestCluster.start({ nodes: 3 })
  t.teardown(() => cluster.stop())
  await cluster.dog(['vdi', 'create', 'vast', '16T'])
  const uri = cluster.nbd('vast')
  const size = JSON.parse((await must('nbdinfo', ['--json', uri])).stdout).exports[0]['export-size']
  t.is(size, 16 * TIB)
  const last = 16 * TIB - 65_536
  const places = [0, 8 * TIB - 32_768, last]
  for (const [i, place] of places.entries())
    await must('qemu-io', ['-f', 'raw', '-c', `write -P ${i + 1} ${place} 64k`, uri])
  await cluster.dog(['vdi', 'snapshot', '-s', 'then', 'vast'])
  await must('qemu-io', ['-f', 'raw', '-c', `write -P 9 ${last} 64k`, uri])
  const now = await must('qemu-io', [
    '-r',
    '-f',
    'raw',
    '-c',
    `read -P 9 ${last} 64k`,
    await cluster.elsewhere('vast', 1),
  ])
  t.notRegex(now.stdout, /failed/i)
  for (const [i, place] of places.entries()) {
    const then = await must('qemu-io', [
      '-r',
      '-f',
      'raw',
      '-c',
      `read -P ${i + 1} ${place} 64k`,
      cluster.nbd('vast@then', 2),
    ])
    t.notRegex(then.stdout, /failed/i)
  }
  const beyond = await run('qemu-io', ['-f', 'raw', '-c', `write ${16 * TIB} 64k`, uri])
  t.regex(beyond.stdout + beyond.stderr, /error|beyond|past|invalid/i)
})
