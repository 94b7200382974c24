/** kill -9 under load: fio writes and verifies through one gateway while another daemon dies and returns, ten times. */
import test from 'ava'
import { TestCluster } from '../support/cluster.js'
import { fio } from '../support/fio.js'
import { sleep } from '../support/process.js'
import { surveyReplicas } from '../support/replicas.js'

const kills = 10
/** Milliseconds for one pass of fio, which waits through several kills on a busy machine. */
const passLimit = 300_000

test('a daemon of four is killed and restarted ten times under a verifying fio: no error, copies identical', async (t) => {
  t.timeout(8 * 60_000)
  const cluster = await TestCluster.start({ nodes: 4 })
  t.teardown(() => cluster.stop())
  await cluster.dog(['vdi', 'create', 'volume', '256M'])
  const gateway = 0
  let done = false

  const load = async () => {
    let verified = 0
    let longest = 0
    // Each pass writes 32 MiB in random order and reads all of it back; the passes go on until the last restart.
    do {
      const pass = await fio(
        cluster.nbd('volume', gateway),
        [
          ...['rw=randwrite', 'bs=4k', 'size=256M', 'io_size=32M', 'iodepth=16', 'randrepeat=0'],
          ...['verify=crc32c', 'verify_fatal=1', 'verify_backlog=512', 'fsync=64'],
        ],
        { limit: passLimit },
      )
      verified += pass.read.ios
      longest = Math.max(longest, pass.read.latencyMaxUs, pass.write.latencyMaxUs)
    } while (!done)
    return { verified, longest }
  }

  const drama = async () => {
    try {
      for (let round = 0; round < kills; round++) {
        const victim = 1 + (round % 3)
        await sleep(500)
        await cluster.killNode(victim)
        await sleep(700)
        await cluster.startNode(victim)
        await cluster.healthy(gateway)
      }
    } finally {
      done = true
    }
  }

  const [{ verified, longest }] = await Promise.all([load(), drama()])
  t.log(`${verified} blocks written and verified; the longest wait for one was ${(longest / 1e6).toFixed(2)} s`)
  t.true(verified >= 8192, `${verified} blocks verified`)
  await cluster.healthy(gateway)
  await cluster.dog(['vdi', 'check', 'volume'])
  const survey = surveyReplicas(cluster.stores, 3)
  t.deepEqual(survey.problems, [])
  t.true(survey.objects >= 64)
})
