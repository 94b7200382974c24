/** What is measured side by side: NBD exports and files of the volumes directory, with the processes that serve them. */
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { TestCluster } from '../support/cluster.js'
import { cpuMs, ended, must, run, until } from '../support/process.js'

export interface Target {
  /** Appended to a job's name: '' is our volume with one copy */
  label: string
  /** NBD URI, or path of a file */
  uri: string
  pids: readonly number[]
}

export const volume = 'bench'

/** `volumeBytes` are written by the caller before anything is read. */
export async function sheepTarget(cluster: TestCluster, label: string, volumeBytes: number): Promise<Target> {
  await cluster.dog(['vdi', 'create', volume, String(volumeBytes), '-c', String(cluster.nodes.length)])
  return { label, uri: cluster.nbd(volume), pids: cluster.nodes.map((node) => cluster.pid(node.index)) }
}

/** The same volume as a file. */
export function fileTarget(cluster: TestCluster, { label, pids }: Target): Target {
  return { label: label === '' ? 'file' : `file, ${label}`, uri: join(placeOf(cluster.directory), volume), pids }
}

export function startCluster(directory: string, nodes: number): Promise<TestCluster> {
  const own = join(directory, `${nodes}`)
  const optionsOf = (index: number) => (index === 0 ? ['--volumes', placeOf(own)] : [])
  return TestCluster.start({ directory: own, nodes, copies: nodes, optionsOf })
}

export async function stopCluster(cluster: TestCluster): Promise<void> {
  // In order, so that it unmounts.
  await cluster.killNode(0, 'SIGTERM')
  await run('umount', ['-l', placeOf(cluster.directory)])
  await cluster.stop()
}

function placeOf(directory: string): string {
  return join(directory, 'volumes')
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
