/** The three things that are measured side by side, each an NBD export with the processes that serve it. */
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { TestCluster } from '../support/cluster.js'
import { cpuMs, ended, must, until } from '../support/process.js'

export interface Target {
  /** Appended to a job's name: '' is our volume with one copy */
  label: string
  uri: string
  pids: readonly number[]
}

export const volume = 'bench'

/** `volumeBytes` are written by the caller before anything is read. */
export async function sheepTarget(cluster: TestCluster, label: string, volumeBytes: number): Promise<Target> {
  await cluster.dog(['vdi', 'create', volume, String(volumeBytes), '-c', String(cluster.nodes.length)])
  return { label, uri: cluster.nbd(volume), pids: cluster.nodes.map((node) => cluster.pid(node.index)) }
}

export function startCluster(directory: string, nodes: number): Promise<TestCluster> {
  return TestCluster.start({ directory: join(directory, `${nodes}`), nodes, copies: nodes })
}

export class RawFile {
  private constructor(
    private readonly child: ChildProcess,
    readonly target: Target,
  ) {}

  /** A preallocated raw file behind qemu-nbd with the options that QEMU's own users give it. */
  static async start(directory: string, volumeBytes: number): Promise<RawFile> {
    const file = join(directory, 'raw')
    const socket = join(directory, 'qemu-nbd.sock')
    await must('qemu-img', ['create', '-q', '-f', 'raw', '-o', 'preallocation=full', file, String(volumeBytes)])
    const options = ['--format=raw', '--cache=writeback', '--persistent', '--shared=16', `--socket=${socket}`]
    const child = spawn('qemu-nbd', [...options, `--export-name=${volume}`, file], {
      stdio: ['ignore', 'ignore', 'inherit'],
    })
    await until('qemu-nbd to listen', 10_000, () => existsSync(socket) || child.exitCode !== null)
    if (child.exitCode !== null) throw new Error(`qemu-nbd ended with exit code ${child.exitCode}`)
    const uri = `nbd+unix:///${volume}?socket=${socket}`
    return new RawFile(child, { label: 'qemu-nbd', uri, pids: [child.pid as number] })
  }

  async stop(): Promise<void> {
    this.child.kill()
    await ended(this.child)
  }
}

/** CPU time of all processes of the target so far, milliseconds. */
export function cpuOf(target: Target): number {
  return target.pids.reduce((sum, pid) => sum + cpuMs(pid), 0)
}
