/**
 * `node dist/test/bench/front-end.js [--rounds N] [--seconds S] [--directory DIR]`: the NBD front-end alone, over a
 * preallocated raw file, and qemu-nbd over another such file, in turn. What is missing to 1 here no store can give back.
 */
import { fork } from 'node:child_process'
import { closeSync, mkdtempSync, openSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { startNbdServer } from '../../lib/nbd/server.js'
import { fileOpener } from '../support/file-volume.js'
import { fio } from '../support/fio.js'
import { must } from '../support/process.js'
import { figureOf, jobs, sideOf } from './jobs.js'
import { median, type Row, table } from './report.js'
import { cpuOf, RawFile, type Target } from './targets.js'

const VOLUME_BYTES = 1 << 30
const SERVE = 'serve'

async function serve(file: string, socket: string): Promise<void> {
  await startNbdServer({ unixSocket: socket }, fileOpener(file), () => {})
  process.send?.('ready')
  process.once('disconnect', () => process.exit(1))
}

async function startOurs(directory: string): Promise<{ target: Target; stop: () => Promise<void> }> {
  const file = join(directory, 'ours')
  const socket = join(directory, 'ours.sock')
  closeSync(openSync(file, 'w'))
  await must('qemu-img', ['create', '-q', '-f', 'raw', '-o', 'preallocation=full', file, String(VOLUME_BYTES)])
  const child = fork(process.argv[1], [SERVE, file, socket])
  await new Promise((resolve) => child.once('message', resolve))
  return {
    target: { label: '', uri: `nbd+unix:///disk?socket=${socket}`, pids: [child.pid as number] },
    stop: async () => {
      // Not 'close': with its channel of messages that does not come.
      const exited = new Promise((resolve) => child.once('exit', resolve))
      child.kill()
      await exited
    },
  }
}

async function measure(directory: string, rounds: number, seconds: number): Promise<Row[]> {
  const ours = await startOurs(directory)
  const theirs = await RawFile.start(directory, VOLUME_BYTES)
  try {
    const targets = [ours.target, theirs.target]
    for (const { uri } of targets) await fio(uri, ['rw=write', 'bs=1M', 'iodepth=4', 'end_fsync=1'])
    const rows: Row[] = []
    for (const job of jobs) {
      const figures: number[][] = [[], []]
      const cpu: number[][] = [[], []]
      for (let round = 0; round < rounds; round++) {
        for (const [i, target] of targets.entries()) {
          const before = cpuOf(target)
          const result = await fio(target.uri, [
            ...job.options,
            'time_based',
            `runtime=${Math.round(seconds * 1000)}ms`,
          ])
          const side = sideOf(job, result)
          figures[i].push(figureOf(job, side))
          cpu[i].push(((cpuOf(target) - before) * 1000) / Math.max(1, side.ios))
        }
      }
      for (const [i, { label }] of targets.entries()) {
        const value = median(figures[i])
        const ratio = value / median(figures[1])
        rows.push({ name: `${job.name} ${label}`.trim(), value, unit: job.unit, ratio, cpu: median(cpu[i]) })
      }
    }
    return rows
  } finally {
    await ours.stop()
    await theirs.stop()
  }
}

if (process.argv[2] === SERVE) {
  await serve(process.argv[3], process.argv[4])
} else {
  const { values } = parseArgs({
    options: {
      rounds: { type: 'string', default: '3' },
      seconds: { type: 'string', default: '2' },
      directory: { type: 'string', default: tmpdir() },
    },
  })
  const directory = mkdtempSync(join(values.directory, 'nbd-bench-'))
  try {
    console.log(table(await measure(directory, Number(values.rounds), Number(values.seconds))))
  } finally {
    rmSync(directory, { recursive: true })
  }
}
