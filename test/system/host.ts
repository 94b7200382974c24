/** One host of the bed: a container with its own systemd, network namespace and disk, which can lose power, its cable and time. */
import { type ChildProcess, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { ended, hasEnded, type Outcome, ProcessError, type RunOptions, run, until } from '../support/process.js'
import { command, type Ground } from './ground.js'

const bootLimit = 60_000
const shutDownLimit = 120_000
const environment = ['env', '-i', 'PATH=/usr/sbin:/usr/bin:/sbin:/bin', 'HOME=/root', 'LC_ALL=C.UTF-8']

export interface HostParts {
  ground: Ground
  name: string
  /** Of the bed's bridges */
  network: string
  address: string
  /** The directories of the system it runs, the topmost first, and our build: they are only read. build null: none */
  system: readonly string[]
  build: string | null
}

const PROGRAMS = /^\/usr\/bin\/|\/(?:hooks|system-generators)\//

export class Host {
  private machine: ChildProcess | null = null
  private leader = 0
  private readonly system: string
  private readonly namespace: string

  constructor(readonly parts: HostParts) {
    const { ground, name, network, address, system } = parts
    const directory = join(ground.directory, name)
    this.system = join(directory, 'root')
    for (const part of ['upper', 'work', 'root']) mkdirSync(join(directory, part), { recursive: true })
    const options = `lowerdir=${system.join(':')},upperdir=${directory}/upper,workdir=${directory}/work`
    command('mount', '-t', 'overlay', 'overlay', '-o', options, this.system)
    this.namespace = ground.namespace(name)
    command('ip', '-n', network, 'link', 'add', name, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', this.namespace)
    command('ip', '-n', this.namespace, 'address', 'add', `${address}/24`, 'dev', 'eth0')
    for (const device of ['lo', 'eth0']) command('ip', '-n', this.namespace, 'link', 'set', device, 'up')
    this.plug('lan')
    // Without one the first boot asks questions.
    this.write('/etc/machine-id', `${randomBytes(16).toString('hex')}\n`)
    this.write('/etc/hostname', `${name}\n`)
    this.write('/etc/hosts', `127.0.0.1 localhost\n${address} ${name}\n`)
  }

  get name(): string {
    return this.parts.name
  }

  /** Its root directory, as this machine sees it */
  get directory(): string {
    return this.system
  }

  get address(): string {
    return this.parts.address
  }

  /** Starts it and waits until its systemd has started everything. */
  async boot(): Promise<void> {
    if (this.machine !== null) throw new Error(`${this.name} runs already`)
    const { ground, name, build } = this.parts
    const log = openSync(join(ground.directory, name, 'console.log'), 'a')
    const devices = ['/dev/kvm', '/dev/fuse'].filter(existsSync)
    const nspawn = [
      'systemd-nspawn',
      '--quiet',
      '--boot',
      `--directory=${this.system}`,
      `--machine=${ground.name}-${name}`,
      `--hostname=${name}`,
      '--register=no',
      '--keep-unit',
      '--console=pipe',
      '--capability=all',
      `--network-namespace-path=/run/netns/${this.namespace}`,
      ...(build === null ? [] : [`--bind-ro=${build}:/usr/lib/sheepdog`]),
      ...devices.map((device) => `--bind=${device}`),
    ]
    // Its cgroup first: all that it starts is in it, and is found there whatever happens to us.
    const words = ['-c', 'echo $$ > "$0/cgroup.procs" && exec "$@"', ground.cgroup(name), ...nspawn]
    this.machine = spawn('sh', words, {
      stdio: ['ignore', log, log],
      detached: true,
      env: { ...process.env, SYSTEMD_NSPAWN_UNIFIED_HIERARCHY: '1' },
    })
    closeSync(log)
    try {
      this.leader = await until(`${name} to boot`, bootLimit, () => this.findLeader())
      await until(`the services of ${name}`, bootLimit, async () => {
        const { stdout } = await this.try('systemctl', ['is-system-running'])
        return /^(running|degraded)$/.test(stdout.trim())
      })
    } catch (error) {
      throw new Error(`${(error as Error).message}. Its console:\n${this.console}`)
    }
  }

  get console(): string {
    return readFileSync(join(this.parts.ground.directory, this.name, 'console.log'), 'utf8').slice(-4_000)
  }

  private findLeader(): number {
    const { pid } = this.machine as ChildProcess
    if (hasEnded(this.machine as ChildProcess)) throw new Error(`systemd-nspawn of ${this.name} ended`)
    for (const child of readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ')) {
      if (child !== '' && readFileSync(`/proc/${child}/comm`, 'utf8').trim() === 'systemd') return Number(child)
    }
    return 0
  }

  /** Everything on it ends at this instant. */
  async powerOff(): Promise<void> {
    if (this.machine === null) return
    process.kill(this.leader, 'SIGKILL')
    await ended(this.machine)
    this.machine = null
  }

  /** As its administrator does it: every service ends in its order. */
  async shutDown(): Promise<void> {
    if (this.machine === null) return
    await this.run('systemctl', ['poweroff'])
    const running = this.machine
    await until(`${this.name} to end`, shutDownLimit, () => hasEnded(running))
    this.machine = null
  }

  /** No process of it gets any time until `resume`. */
  pause(): void {
    this.freeze('1')
  }

  resume(): void {
    this.freeze('0')
  }

  private freeze(value: string): void {
    writeFileSync(join(this.parts.ground.cgroup(this.name), 'payload', 'cgroup.freeze'), value)
  }

  unplug(): void {
    command('ip', '-n', this.parts.network, 'link', 'set', this.name, 'down')
  }

  /** Into this bridge of the bed: hosts in one see each other. */
  plug(bridge: string): void {
    command('ip', '-n', this.parts.network, 'link', 'set', this.name, 'master', bridge, 'up')
  }

  /** Within its bridge: isolated hosts do not see each other (bridge(8)). */
  isolate(on: boolean): void {
    const words = ['link', 'set', this.name, 'type', 'bridge_slave', 'isolated', on ? 'on' : 'off']
    command('ip', '-n', this.parts.network, ...words)
  }

  /** A file on it, whether it runs or not. */
  write(path: string, content: string | Buffer): void {
    const place = this.path(path)
    mkdirSync(dirname(place), { recursive: true })
    const mode = PROGRAMS.test(path) ? 0o755 : path.endsWith('.key') ? 0o640 : 0o644
    writeFileSync(place, content, { mode })
  }

  read(path: string): string {
    return readFileSync(this.path(path), 'utf8')
  }

  /** Where this machine has it. */
  path(path: string): string {
    return join(this.system, path)
  }

  try(program: string, args: readonly string[] = [], options: RunOptions = {}): Promise<Outcome> {
    return run('nsenter', ['-t', String(this.leader), '-a', ...environment, program, ...args], options)
  }

  /** Runs a program on it; rejects with what it said when its exit code is not 0. */
  async run(program: string, args: readonly string[] = [], options: RunOptions = {}): Promise<string> {
    const outcome = await this.try(program, args, options)
    if (outcome.code !== 0) throw new ProcessError(`${this.name}: ${program} ${args.join(' ')}`, outcome)
    return outcome.stdout
  }

  /** What `systemctl show` says of a unit. */
  async unit(name: string): Promise<Record<string, string>> {
    const lines = (await this.run('systemctl', ['show', name])).split('\n')
    return Object.fromEntries(lines.map((line) => [line.replace(/=.*/, ''), line.replace(/^[^=]*=/, '')]))
  }
}
