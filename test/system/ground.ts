/**
 * What a bed takes from this machine, and how it gives it back: one cgroup with all its processes, network namespaces, overlay
 * mounts, one directory. All of it is named after the bed, so that a later run finds what a killed one left. Clean-up is
 * synchronous: it also runs when the process exits.
 */
import { spawnSync } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { cache } from './root.js'

const beds = join(cache, 'beds')
const namespaces = '/run/netns'

/** Runs a command; throws with what it said. */
export function command(...words: string[]): string {
  const result = spawnSync(words[0], words.slice(1), { encoding: 'utf8', timeout: 60_000 })
  if (result.error) throw result.error
  if (result.status !== 0)
    throw new Error(`${words.join(' ')}: ${result.stderr.trim() || `exit code ${result.status}`}`)
  return result.stdout
}

/** Where the unified hierarchy is mounted, on systemd's hybrid set-up too; '' nowhere. */
function cgroupRoot(): string {
  const line = readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .find((mount) => mount.split(' ')[2] === 'cgroup2')
  return line?.split(' ')[1] ?? ''
}

/** systemd-nspawn makes the same groups in systemd's own hierarchy of cgroup v1, where there is one. */
const legacyRoot = '/sys/fs/cgroup/systemd'

/** Why there can be no bed here; '' when there can. */
export function obstacle(): string {
  if (process.platform !== 'linux') return `hosts are Linux containers, and this is ${process.platform}`
  if (process.getuid?.() !== 0) return 'containers, mounts and network namespaces need root'
  for (const name of ['systemd-nspawn', 'debootstrap', 'ip', 'nsenter', 'mount']) {
    if (spawnSync(name, ['--version']).error)
      return `${name} is not installed (packaging/tools/prepare.mjs installs it)`
  }
  if (cgroupRoot() === '') return 'no cgroup2 hierarchy is mounted'
  const directory = mkdtempSync(join(tmpdir(), 'sheep-bed-'))
  try {
    const group = join(cgroupRoot(), `sheep-bed-probe-${process.pid}`)
    mkdirSync(group)
    rmdirSync(group)
    command('unshare', '--net', '--mount', 'true')
    for (const name of ['lower', 'upper', 'work', 'root']) mkdirSync(join(directory, name))
    const options = `lowerdir=${directory}/lower,upperdir=${directory}/upper,workdir=${directory}/work`
    command('unshare', '--mount', 'mount', '-t', 'overlay', 'overlay', '-o', options, join(directory, 'root'))
    return ''
  } catch (error) {
    return (error as Error).message
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

/** When a process began, in clock ticks since boot (proc(5)): with its id it is unique. '' none */
function startOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1].split(' ')[19]
  } catch {
    return ''
  }
}

export class Ground {
  readonly name: string
  readonly directory: string

  private constructor(name: string) {
    this.name = name
    this.directory = join(beds, name)
  }

  /** A fresh one of this process. What dead processes left is removed first. */
  static take(): Ground {
    Ground.removeLeftovers()
    for (let number = 1; ; number++) {
      const ground = new Ground(`sheepbed-${process.pid}-${number}`)
      if (existsSync(ground.directory)) continue
      mkdirSync(ground.directory, { recursive: true, mode: 0o700 })
      writeFileSync(join(ground.directory, 'owner'), `${process.pid} ${startOf(process.pid)}`)
      return ground
    }
  }

  private static removeLeftovers(): void {
    if (!existsSync(beds)) return
    for (const name of readdirSync(beds)) {
      const owner = join(beds, name, 'owner')
      const [pid, start] = existsSync(owner) ? readFileSync(owner, 'utf8').split(' ') : ['0', 'none']
      if (startOf(Number(pid)) !== start) new Ground(name).giveBack()
    }
  }

  /** The cgroup of one host, made when missing. */
  cgroup(host: string): string {
    const path = join(cgroupRoot(), this.name, host)
    mkdirSync(path, { recursive: true })
    return path
  }

  namespace(part: string): string {
    const name = `${this.name}-${part}`
    if (!existsSync(join(namespaces, name))) command('ip', 'netns', 'add', name)
    return name
  }

  /** Kills and removes everything that is named after this bed. Throws when something stays. */
  giveBack(): void {
    // Each time anew: a systemd-nspawn that is not killed yet may be about to make its own.
    const roots = () => [cgroupRoot(), legacyRoot].map((root) => join(root, this.name)).filter(existsSync)
    const deadline = performance.now() + 20_000
    const processes = () => roots().flatMap(processesBelow)
    for (let left = processes(); left.length > 0; left = processes()) {
      for (const pid of left) kill(pid)
      if (performance.now() > deadline) throw new Error(`processes ${left.join(', ')} of ${this.name} do not end`)
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 50)
    }
    for (const path of this.mounts()) command('umount', path)
    if (this.mounts().length > 0) throw new Error(`mounts below ${this.directory} stay`)
    if (existsSync(namespaces)) {
      const own = readdirSync(namespaces).filter((name) => name.startsWith(`${this.name}-`))
      for (const name of own) command('ip', 'netns', 'delete', name)
    }
    for (const root of roots()) for (const path of groupsBelow(root).reverse()) rmdirSync(path)
    rmSync(this.directory, { recursive: true, force: true })
  }

  /** Innermost first */
  private mounts(): string[] {
    const paths = readFileSync('/proc/self/mounts', 'utf8')
      .split('\n')
      .map((line) => line.split(' ')[1] ?? '')
    return paths.filter((path) => path.startsWith(`${this.directory}/`)).reverse()
  }
}

/** What there is on this machine of beds whose names begin so. */
export function traces(prefix: string): string[] {
  const mounts = readFileSync('/proc/self/mounts', 'utf8').split('\n')
  const named = [beds, namespaces, cgroupRoot(), legacyRoot].filter(existsSync).flatMap((directory) => {
    return readdirSync(directory).map((name) => join(directory, name))
  })
  return [
    ...named.filter((path) => basename(path).startsWith(prefix)),
    ...mounts.map((line) => line.split(' ')[1] ?? '').filter((path) => path.startsWith(join(beds, prefix))),
  ]
}

/** The group and those in it, outermost first. */
function groupsBelow(path: string): string[] {
  const inner = readdirSync(path, { withFileTypes: true }).filter((entry) => entry.isDirectory())
  return [path, ...inner.flatMap((entry) => groupsBelow(join(path, entry.name)))]
}

function processesBelow(path: string): number[] {
  return groupsBelow(path).flatMap((group) => {
    return readFileSync(join(group, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean).map(Number)
  })
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}
