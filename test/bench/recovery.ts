/**
 * `npm run bench -- --recovery`: what recovery costs the clients, and how fast it is beside plain copying. Three daemons
 * with three copies; one comes back with an empty disk, so that it takes every object, while fio reads and writes 4 KiB
 * at random through another daemon. In each round, one after the other on the same file system:
 *
 *   fio, nothing else -> fio during recovery -> cp of the same files, each synced (fdatasync) -> fio beside such a cp
 *
 * fio is not measured in its first seconds: a new client's first write to an object costs a sync of the intent log,
 * recovery or not. Every write reaches all three daemons, also the one that is being filled.
 */
import { mkdirSync, readdirSync, rmSync } from 'node:fs'
import { loadavg } from 'node:os'
import { join } from 'node:path'
import { TestCluster } from '../support/cluster.js'
import { type FioResult, fio } from '../support/fio.js'
import { must, sleep, until } from '../support/process.js'
import { median, type Row } from './report.js'

export interface RecoveryPlan {
  rounds: number
  /** Of fio alone */
  seconds: number
  volumeBytes: number
  depth: number
}

const filled = 1
const victim = 2
const recoveryLimit = 600_000
const rampSeconds = 4
const MIB = 2 ** 20

/** Both directions at a time: each has its own percentiles. */
function load(plan: RecoveryPlan): string[] {
  const random = ['rw=randrw', 'bs=4k', 'norandommap', 'randrepeat=0', 'time_based']
  return [...random, `iodepth=${plan.depth}`, `ramp_time=${rampSeconds}s`]
}

interface Round {
  idle: FioResult
  during: FioResult
  beside: FioResult
  /** bytes a second */
  recovery: number
  copy: number
  copyBesideLoad: number
}

export async function measureRecovery(
  directory: string,
  plan: RecoveryPlan,
  progress: (text: string) => void,
): Promise<Row[]> {
  const cluster = await TestCluster.start({ directory: join(directory, 'recovery'), nodes: 3 })
  try {
    await cluster.dog(['vdi', 'create', 'volume', String(plan.volumeBytes)])
    const uri = cluster.nbd('volume')
    progress('writing the volume')
    await fio(uri, ['rw=write', 'bs=1M', 'iodepth=4', 'end_fsync=1'])
    const rounds: Round[] = []
    for (let round = 0; round < plan.rounds; round++) {
      rounds.push(
        await measureRound(cluster, uri, plan, (what) => progress(`${what}, round ${round + 1} of ${plan.rounds}`)),
      )
    }
    return rowsOf(rounds)
  } finally {
    await cluster.stop()
  }
}

async function measureRound(
  cluster: TestCluster,
  uri: string,
  plan: RecoveryPlan,
  progress: (text: string) => void,
): Promise<Round> {
  progress('idle')
  const idle = await fio(uri, [...load(plan), `runtime=${Math.round(plan.seconds * 1000)}ms`])

  progress('recovery')
  await cluster.killNode(victim, 'SIGTERM')
  rmSync(cluster.nodes[victim].store, { recursive: true })
  const {
    result: during,
    bytes,
    seconds,
  } = await besides(uri, plan, async () => {
    await cluster.startNode(victim)
    return recovered(cluster)
  })
  await sleep(2_000)

  progress('cp')
  const copy = await copyFiles(cluster)
  progress('cp beside fio')
  const { result: beside, ...copied } = await besides(uri, plan, () => copyFiles(cluster))
  return {
    idle,
    during,
    beside,
    recovery: bytes / seconds,
    copy: copy.bytes / copy.seconds,
    copyBesideLoad: copied.bytes / copied.seconds,
  }
}

interface Moved {
  bytes: number
  seconds: number
}

/** fio until `work` has ended. */
async function besides(
  uri: string,
  plan: RecoveryPlan,
  work: () => Promise<Moved>,
): Promise<Moved & { result: FioResult }> {
  const interrupt = new AbortController()
  const running = fio(uri, [...load(plan), 'runtime=600s'], { limit: recoveryLimit * 2, interrupt: interrupt.signal })
  try {
    await sleep((rampSeconds + 0.5) * 1000)
    const moved = await work()
    interrupt.abort()
    return { ...moved, result: await running }
  } finally {
    interrupt.abort()
    await running.catch(() => {})
  }
}

/** What the daemon with the empty disk says of itself. */
async function recovered(cluster: TestCluster): Promise<Moved> {
  const client = await cluster.control()
  try {
    return await until('recovery to end', recoveryLimit, async () => {
      const { nodes } = await client.call('node.recovery', {})
      const port = cluster.nodes[victim].port
      const report = nodes.find(({ node }) => node.port === port)?.answer
      const info = await client.call('cluster.info', {})
      if (report === null || report === undefined || report.bytesTaken === 0 || info.recovering.length > 0) return null
      return { bytes: report.bytesTaken, seconds: report.seconds }
    })
  } finally {
    client.close()
  }
}

async function copyFiles(cluster: TestCluster): Promise<Moved> {
  const from = join(cluster.nodes[filled].store, 'obj')
  const to = join(cluster.directory, 'copied')
  rmSync(to, { recursive: true, force: true })
  mkdirSync(to)
  const start = performance.now()
  await must('cp', ['-r', '--reflink=never', from, to], { limit: recoveryLimit })
  const files = readdirSync(to, { recursive: true, encoding: 'utf8', withFileTypes: true }).filter((each) =>
    each.isFile(),
  )
  await must('sync', ['-d', ...files.map((file) => join(file.parentPath, file.name))], { limit: recoveryLimit })
  const seconds = (performance.now() - start) / 1000
  const { stdout } = await must('du', ['-s', '-B1', to])
  rmSync(to, { recursive: true })
  return { bytes: Number.parseInt(stdout, 10), seconds }
}

function rowsOf(rounds: readonly Round[]): Row[] {
  const rows: Row[] = []
  const of = (figure: (round: Round) => number) => median(rounds.map(figure))
  const row = (
    name: string,
    unit: string,
    figure: (round: Round) => number,
    base: ((round: Round) => number) | null,
  ) => {
    const ratio = base === null ? null : of((round) => figure(round) / base(round))
    rows.push({ name, unit, value: of(figure), ratio })
  }
  for (const side of ['read', 'write'] as const) {
    row(`${side} p99, idle`, 'us', ({ idle }) => idle[side].latencyP99Us, null)
    row(
      `${side} p99, during recovery`,
      'us',
      ({ during }) => during[side].latencyP99Us,
      ({ idle }) => idle[side].latencyP99Us,
    )
    row(
      `${side} p99, beside cp`,
      'us',
      ({ beside }) => beside[side].latencyP99Us,
      ({ idle }) => idle[side].latencyP99Us,
    )
    row(`${side} longest, during recovery`, 'us', ({ during }) => during[side].latencyMaxUs, null)
    row(`${side} IOPS, idle`, 'IOPS', ({ idle }) => idle[side].iops, null)
    row(
      `${side} IOPS, during recovery`,
      'IOPS',
      ({ during }) => during[side].iops,
      ({ idle }) => idle[side].iops,
    )
    row(
      `${side} IOPS, beside cp`,
      'IOPS',
      ({ beside }) => beside[side].iops,
      ({ idle }) => idle[side].iops,
    )
  }
  row('cp, synced', 'MiB/s', ({ copy }) => copy / MIB, null)
  row(
    'cp, synced, beside fio',
    'MiB/s',
    ({ copyBesideLoad }) => copyBesideLoad / MIB,
    ({ copy }) => copy / MIB,
  )
  row(
    'recovery beside fio',
    'MiB/s',
    ({ recovery }) => recovery / MIB,
    ({ copy }) => copy / MIB,
  )
  rows.push({ name: 'load of this machine, last minute', value: loadavg()[0], unit: '', ratio: null })
  return rows
}
