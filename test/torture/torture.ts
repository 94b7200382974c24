/**
 * Real daemons under a verifying load while they are killed, stopped, and their disks filled. A round is: fio writes and reads back
 * through QEMU, something happens, fio must end without an error, every copy must be the same.
 */
import { join } from 'node:path'
import type { CheckReport } from '../../lib/control/services.js'
import { SimRandom } from '../simulation/random.js'
import { TestCluster } from '../support/cluster.js'
import { fio } from '../support/fio.js'
import { sleep } from '../support/process.js'
import { surveyReplicas } from '../support/replicas.js'
import { QemuClient } from './qemu-client.js'

export const kinds = ['kill', 'kill-all', 'stop'] as const
export type Kind = (typeof kinds)[number]

export interface Plan {
  kind: Kind
  rounds: number
  seed: number
  log: (text: string) => void
}

export interface Result {
  rounds: number
  /** Blocks written and read back */
  verified: number
  /** The longest that any request waited, seconds */
  longest: number
  seconds: number
}

const nodes = 4
const gateway = 0
const volumeMib = 96
/** A pass of fio that is cut short by nothing takes a second; it may wait for recovery on a busy machine. */
const passLimit = 240_000

const verify = ['verify=crc32c', 'verify_fatal=1', 'verify_backlog=256', 'randrepeat=0', 'end_fsync=1']
const region = [`size=${volumeMib}M`]

/** Long enough to be under way when it happens: the rate is bounded, not the time. */
const mixedLoad = [
  ...verify,
  ...region,
  'rw=randwrite',
  'bs=4k',
  'io_size=8M',
  'iodepth=16',
  'fsync=64',
  'rate_iops=1000',
]
const flushLoad = [...verify, ...region, 'rw=randwrite', 'bs=4k', 'io_size=2M', 'iodepth=4', 'fsync=1', 'rate_iops=250']

class Torture {
  /** Of the round, from 1 */
  number = 0
  verified = 0
  longest = 0

  constructor(
    readonly cluster: TestCluster,
    readonly client: QemuClient,
    readonly random: SimRandom,
  ) {}

  async round(load: readonly string[], drama: () => Promise<void>): Promise<void> {
    const [pass] = await Promise.all([fio(this.client.uri, load, { limit: passLimit }), drama()])
    this.verified += pass.read.ios
    this.longest = Math.max(this.longest, pass.read.latencyMaxUs / 1e6, pass.write.latencyMaxUs / 1e6)
    await this.cluster.healthy(gateway)
    const report = await this.cluster.json<CheckReport>(['vdi', 'check', 'volume'], gateway)
    if (report.problems.length > 0) throw new Error(`copies differ: ${JSON.stringify(report.problems)}`)
  }

  /** Milliseconds in [low, high). */
  pause(low: number, high: number): Promise<void> {
    return sleep(low + this.random.below(high - low))
  }
}

const rounds: Record<Kind, (torture: Torture) => Promise<string>> = {
  kill: async (torture) => {
    const { cluster, random } = torture
    const victim = random.below(nodes)
    await torture.round(mixedLoad, async () => {
      await torture.pause(200, 1_200)
      await cluster.killNode(victim)
      await torture.pause(50, 800)
      await cluster.startNode(victim)
    })
    return `daemon ${victim}${victim === gateway ? ', the gateway' : ''}`
  },
  'kill-all': async (torture) => {
    const { cluster } = torture
    await torture.round(flushLoad, async () => {
      await torture.pause(200, 1_200)
      await Promise.all(cluster.nodes.map(({ index }) => cluster.killNode(index)))
      await torture.pause(10, 300)
      await Promise.all(cluster.nodes.map(({ index }) => cluster.startNode(index)))
    })
    return 'all daemons'
  },
  stop: async (torture) => {
    const { cluster, random } = torture
    const victim = random.below(nodes)
    // Some too short to be noticed, most long enough to be voted out, each fifth long enough to be forgotten.
    const short = random.chance(0.25) ? 500 + random.below(3_000) : 9_000 + random.below(5_000)
    const ms = torture.number % 5 === 0 ? 60_000 + random.below(5_000) : short
    await torture.round(mixedLoad, async () => {
      await torture.pause(200, 800)
      process.kill(cluster.pid(victim), 'SIGSTOP')
      await sleep(ms)
      process.kill(cluster.pid(victim), 'SIGCONT')
    })
    return `daemon ${victim}${victim === gateway ? ', the gateway' : ''}, stopped for ${(ms / 1000).toFixed(1)} s`
  },
}

/** Rejects at the first round that loses something; the daemons' logs are in the message. */
export async function torture({ kind, rounds: count, seed, log }: Plan): Promise<Result> {
  const began = performance.now()
  const cluster = await TestCluster.start({ nodes })
  let client: QemuClient | null = null
  let round = 0
  try {
    await cluster.dog(['vdi', 'create', 'volume', `${volumeMib}M`])
    client = await QemuClient.start(cluster.nbdSocket(gateway), 'volume', cluster.directory)
    const work = new Torture(cluster, client, new SimRandom(seed))
    for (round = 1; round <= count; round++) {
      const started = performance.now()
      work.number = round
      const what = await rounds[kind](work)
      log(`${kind} ${round}/${count}: ${what}: ${((performance.now() - started) / 1000).toFixed(1)} s`)
    }
    await client.stop()
    await cluster.healthy(gateway)
    const survey = await surveyReplicas(cluster.stores, 3)
    if (survey.problems.length > 0) throw new Error(`copies differ on disk: ${survey.problems.join('; ')}`)
    if (survey.objects < volumeMib / 4) throw new Error(`only ${survey.objects} objects`)
    const { verified, longest } = work
    return { rounds: count, verified, longest, seconds: (performance.now() - began) / 1000 }
  } catch (error) {
    const logs = cluster.nodes.map(
      ({ index }) => `daemon ${index} (${join(cluster.directory, `n${index}`)}):\n${cluster.logOf(index)}`,
    )
    // Last, where it is seen: the logs are long.
    const what = `${kind}, round ${round} of seed ${seed}: ${(error as Error).message}`
    throw new Error(`${logs.join('\n')}\n${what}`, { cause: error })
  } finally {
    client?.kill()
    await cluster.stop()
  }
}
