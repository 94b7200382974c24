/** fio with its nbd engine, or on a file with direct I/O, and what it measured. */
import { ProcessError, type RunOptions, run } from './process.js'

export interface FioSide {
  ios: number
  iops: number
  /** bytes per second */
  bandwidth: number
  latencyMeanUs: number
  latencyP99Us: number
  /** The longest that any request waited */
  latencyMaxUs: number
}

export interface FioResult {
  read: FioSide
  write: FioSide
}

/** How long fio may take over its `--runtime`: start, connect, verify, end. */
const graceLimit = 120_000

/** What we use of one side of a job in fio's JSON (fio(1), "json output"). */
interface FioJson {
  total_ios: number
  iops: number
  bw_bytes: number
  clat_ns?: { mean?: number; max?: number; percentile?: Record<string, number> }
}

function side(job: FioJson): FioSide {
  return {
    ios: job.total_ios,
    iops: job.iops,
    bandwidth: job.bw_bytes,
    latencyMeanUs: (job.clat_ns?.mean ?? 0) / 1000,
    latencyMaxUs: (job.clat_ns?.max ?? 0) / 1000,
    latencyP99Us: (job.clat_ns?.percentile?.['99.000000'] ?? 0) / 1000,
  }
}

function targetOf(where: string): string[] {
  if (!where.startsWith('/')) return ['--ioengine=nbd', `--uri=${where}`]
  return ['--ioengine=libaio', '--direct=1', `--filename=${where}`]
}

/**
 * Runs one job on `where`, an NBD URI or the absolute path of a file; `options` are fio's own, without dashes: `['rw=randread', 'bs=4k', 'runtime=2s', 'time_based']`. An
 * interrupted job says what it has measured so far.
 */
export async function fio(
  where: string,
  options: readonly string[],
  { limit = graceLimit, interrupt }: Pick<RunOptions, 'limit' | 'interrupt'> = {},
): Promise<FioResult> {
  const args = [
    '--name=job',
    ...targetOf(where),
    '--output-format=json',
    '--verify_state_save=0',
    ...options.map((o) => `--${o}`),
  ]
  const outcome = await run('fio', args, { limit, interrupt })
  // fio writes warnings before its JSON, on the same stream.
  const start = outcome.stdout.indexOf('{')
  const interrupted = interrupt?.aborted === true
  if (start < 0 || (outcome.code !== 0 && !interrupted)) throw new ProcessError(`fio ${options.join(' ')}`, outcome)
  const [job] = JSON.parse(outcome.stdout.slice(start, outcome.stdout.lastIndexOf('}') + 1)).jobs
  if (job.error !== 0) throw new ProcessError(`fio ${options.join(' ')}: job error ${job.error}`, outcome)
  return { read: side(job.read), write: side(job.write) }
}
