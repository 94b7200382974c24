/** What is measured: each job of fio, its name in the results, and what its figure is. */
import type { FioResult, FioSide } from '../support/fio.js'

export interface Job {
  name: string
  /** fio options beside the target and the run time */
  options: readonly string[]
  side: 'read' | 'write'
  unit: 'IOPS' | 'MiB/s'
  /** Measured through the volumes directory, too */
  onFiles?: boolean
}

const random = ['bs=4k', 'norandommap', 'randrepeat=0']
const sequential = ['bs=1M', 'iodepth=8']

export const jobs: readonly Job[] = [
  { name: 'randread qd1', options: ['rw=randread', 'iodepth=1', ...random], side: 'read', unit: 'IOPS' },
  {
    name: 'randread qd16',
    options: ['rw=randread', 'iodepth=16', ...random],
    side: 'read',
    unit: 'IOPS',
    onFiles: true,
  },
  { name: 'randwrite qd1', options: ['rw=randwrite', 'iodepth=1', ...random], side: 'write', unit: 'IOPS' },
  {
    name: 'randwrite qd16',
    options: ['rw=randwrite', 'iodepth=16', ...random],
    side: 'write',
    unit: 'IOPS',
    onFiles: true,
  },
  {
    name: 'randwrite+flush qd1',
    options: ['rw=randwrite', 'iodepth=1', 'fsync=1', ...random],
    side: 'write',
    unit: 'IOPS',
  },
  { name: 'seqread 1M', options: ['rw=read', ...sequential], side: 'read', unit: 'MiB/s', onFiles: true },
  { name: 'seqwrite 1M', options: ['rw=write', ...sequential], side: 'write', unit: 'MiB/s', onFiles: true },
]

export function sideOf(job: Job, result: FioResult): FioSide {
  return result[job.side]
}

export function figureOf(job: Job, side: FioSide): number {
  return job.unit === 'IOPS' ? side.iops : side.bandwidth / 2 ** 20
}
