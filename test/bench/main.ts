/**
 * `npm run bench`: our volumes, by fio's nbd engine and as files with direct I/O, and a preallocated raw file behind qemu-nbd, in
 * turn within one run. Each figure is the median of the rounds; each ratio divides it by qemu-nbd's of the same run on the same file
 * system. `-- --files`: what files of the pool are measured by, and whether they reach their bars (bars.ts).
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestCluster } from '../support/cluster.js'
import { fio } from '../support/fio.js'
import { optionsOf, refuse } from '../support/options.js'
import { peakMemory } from '../support/process.js'
import { missed } from './bars.js'
import { figureOf, type Job, jobs, sideOf } from './jobs.js'
import { measureRecovery } from './recovery.js'
import { median, type Row, table } from './report.js'
import { cpuOf, fileTarget, RawFile, sheepTarget, startCluster, stopCluster, type Target } from './targets.js'

interface Plan {
  rounds: number
  seconds: number
  volumeBytes: number
  /** repetitions of snapshot and clone */
  snapshots: number
}

const GIB = 2 ** 30
const full: Plan = { rounds: 5, seconds: 3, volumeBytes: 2 * GIB, snapshots: 5 }
const quick: Plan = { rounds: 2, seconds: 0.5, volumeBytes: GIB / 4, snapshots: 2 }

const usage =
  'npm run bench [-- --quick] [--json] [--rounds N] [--seconds S] [--size MIB] [--directory DIR] [--files] [--recovery [--depth N]]'
const { values: options } = optionsOf(usage, {
  options: {
    json: { type: 'boolean', default: false },
    quick: { type: 'boolean', default: false },
    rounds: { type: 'string' },
    seconds: { type: 'string' },
    size: { type: 'string' },
    files: { type: 'boolean', default: false },
    recovery: { type: 'boolean', default: false },
    depth: { type: 'string' },
    directory: { type: 'string', default: tmpdir() },
  },
})

function positive(text: string | undefined, option: string, otherwise: number): number {
  if (text === undefined) return otherwise
  const value = Number(text)
  if (!(value > 0)) refuse(usage, `--${option} takes a number above 0, not "${text}"`)
  return value
}

function planOf(): Plan {
  const base = options.quick ? quick : full
  return {
    ...base,
    rounds: Math.ceil(positive(options.rounds, 'rounds', base.rounds)),
    seconds: positive(options.seconds, 'seconds', base.seconds),
    volumeBytes: Math.ceil(positive(options.size, 'size', base.volumeBytes / 2 ** 20)) * 2 ** 20,
  }
}

function progress(text: string): void {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`)
}

/** Every block is written, so that no read is of a hole. */
async function fill(target: Target): Promise<void> {
  progress(`writing ${target.label || '1 copy'}`)
  await fio(target.uri, ['rw=write', 'bs=1M', 'iodepth=4', 'end_fsync=1'])
}

interface Samples {
  figures: number[]
  cpu: number[]
}

async function sample(job: Job, target: Target, seconds: number, into: Samples): Promise<void> {
  const cpuBefore = cpuOf(target)
  const result = await fio(target.uri, [...job.options, 'time_based', `runtime=${Math.round(seconds * 1000)}ms`])
  const side = sideOf(job, result)
  into.figures.push(figureOf(job, side))
  into.cpu.push(((cpuOf(target) - cpuBefore) * 1000) / Math.max(1, side.ios))
}

async function measureJob(job: Job, targets: readonly Target[], plan: Plan): Promise<Row[]> {
  const samples = targets.map((): Samples => ({ figures: [], cpu: [] }))
  for (let round = 0; round < plan.rounds; round++) {
    for (const [index, target] of targets.entries()) {
      progress(`${job.name} ${target.label}, round ${round + 1} of ${plan.rounds}`)
      await sample(job, target, plan.seconds, samples[index])
    }
  }
  const baseline = median(samples[targets.findIndex((target) => target.label === 'qemu-nbd')].figures)
  return targets.map((target, index) => ({
    name: `${job.name} ${target.label}`.trim(),
    value: median(samples[index].figures),
    unit: job.unit,
    ratio: median(samples[index].figures) / baseline,
    cpu: median(samples[index].cpu),
  }))
}

/** Seconds that the whole command takes, as its user waits for it. */
async function commandSeconds(cluster: TestCluster, args: readonly string[]): Promise<number> {
  return (await cluster.dog(args)).ms / 1000
}

async function measureSnapshots(cluster: TestCluster, size: string, plan: Plan): Promise<Row[]> {
  const name = `snapshots-${size}`
  await cluster.dog(['vdi', 'create', name, size])
  // Something in its index, at both ends.
  await cluster.dog(['vdi', 'write', name, '0', '4096'], 0, { input: Buffer.alloc(4096, 1) })
  const times: { snapshot: number[]; clone: number[] } = { snapshot: [], clone: [] }
  for (let i = 0; i < plan.snapshots; i++) {
    progress(`snapshot and clone of ${size}, ${i + 1} of ${plan.snapshots}`)
    times.snapshot.push(await commandSeconds(cluster, ['vdi', 'snapshot', '-s', `s${i}`, name]))
    times.clone.push(await commandSeconds(cluster, ['vdi', 'clone', '-s', `s${i}`, name, `${name}-${i}`]))
  }
  const shown = size.replace(/([GT])$/, ' $1iB')
  return [
    { name: `snapshot ${shown}`, value: median(times.snapshot), unit: 's', ratio: null },
    { name: `clone ${shown}`, value: median(times.clone), unit: 's', ratio: null },
  ]
}

/** Largest resident memory of any daemon so far, with a 1 TiB volume attached and written all over. */
async function measureMemory(cluster: TestCluster, plan: Plan): Promise<Row[]> {
  progress('memory with 1 TiB attached')
  await cluster.dog(['vdi', 'create', 'large', '1T'])
  const load = ['rw=randwrite', 'bs=4k', 'iodepth=16', 'norandommap', 'randrepeat=0', 'time_based']
  await fio(cluster.nbd('large'), [...load, `runtime=${Math.round(plan.seconds * 2000)}ms`])
  const bytes = Math.max(...cluster.nodes.map((node) => peakMemory(cluster.pid(node.index))))
  return [{ name: 'memory per daemon, 1 TiB attached', value: bytes / 2 ** 20, unit: 'MiB', ratio: null }]
}

async function measure(directory: string, plan: Plan): Promise<Row[]> {
  const stops: (() => Promise<void>)[] = []
  try {
    const raw = await RawFile.start(directory, plan.volumeBytes)
    stops.push(() => raw.stop())
    const one = await startCluster(directory, 1)
    stops.push(() => stopCluster(one))
    const three = await startCluster(directory, 3)
    stops.push(() => stopCluster(three))
    const targets = [
      await sheepTarget(one, '', plan.volumeBytes),
      await sheepTarget(three, '3 copies', plan.volumeBytes),
      raw.target,
    ]
    for (const target of targets) await fill(target)
    const rows: Row[] = []
    const files = [fileTarget(one, targets[0]), fileTarget(three, targets[1])]
    for (const job of jobs.filter(({ onFiles }) => onFiles || !options.files)) {
      rows.push(...(await measureJob(job, job.onFiles ? [...targets, ...files] : targets, plan)))
    }
    if (options.files) return rows
    for (const size of ['1G', '1T']) rows.push(...(await measureSnapshots(three, size, plan)))
    rows.push(...(await measureMemory(three, plan)))
    return rows
  } finally {
    for (const stop of stops) await stop()
    progress('')
  }
}

const plan = planOf()
const directory = mkdtempSync(join(options.directory, 'sheep-bench-'))
process.on('exit', () => rmSync(directory, { recursive: true, force: true }))
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => process.exit(130))
const rows = options.recovery
  ? await measureRecovery(directory, { ...plan, depth: Math.ceil(positive(options.depth, 'depth', 4)) }, progress)
  : await measure(directory, plan)
if (options.json) {
  console.log(JSON.stringify({ rows }))
} else {
  const scope = `${plan.rounds} rounds of ${plan.seconds} s, volumes of ${plan.volumeBytes / 2 ** 20} MiB`
  console.log(`${scope}; ${cpus().length} cores, ${directory.replace(/\/[^/]*$/, '')}\n`)
  console.log(table(rows))
}
if (options.files) {
  const failures = missed(rows)
  for (const failure of failures) console.error(failure)
  if (failures.length > 0) process.exitCode = 1
}
