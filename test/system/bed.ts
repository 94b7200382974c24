/**
 * A bed: hosts with kernel network namespaces, systemd and our build, joined by bridges in a namespace of the bed's own. Beds do
 * not see each other, nor this machine's network.
 */
import { cpSync, existsSync, mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { command, Ground } from './ground.js'
import { Host } from './host.js'
import { type Layer, prepareSystem } from './root.js'

const project = join(import.meta.dirname, '..', '..', '..')

/** Paths below node_modules of what the program needs when it runs, as the lock file says. */
function runtimeModules(): string[] {
  const { packages } = JSON.parse(readFileSync(join(project, 'package-lock.json'), 'utf8')) as {
    packages: Record<string, { dev?: boolean }>
  }
  return Object.entries(packages)
    .filter(([path, { dev }]) => path !== '' && !dev)
    .map(([path]) => path)
}

const programs = {
  '/usr/bin/sheep': 'dist/daemon/sheep.js',
  '/usr/bin/dog': 'dist/lib/dog/main.js',
}

/** As a package would install them */
const files = {
  '/etc/systemd/system/sheepdog.service': 'systemd/sheepdog.service',
  '/etc/systemd/system/machine-.scope.d/50-sheepdog.conf': 'systemd/machine-scope.conf',
  '/usr/lib/systemd/system-generators/sheepdog-generator': 'systemd/sheepdog-generator',
  '/usr/lib/sysusers.d/sheepdog.conf': 'systemd/sysusers.conf',
  '/usr/lib/tmpfiles.d/sheepdog.conf': 'systemd/tmpfiles.conf',
  '/usr/share/dbus-1/system.d/org.sheepdog.conf': 'systemd/org.sheepdog.conf',
  '/usr/share/polkit-1/actions/org.sheepdog.policy': 'systemd/org.sheepdog.policy',
  '/usr/share/polkit-1/rules.d/org.sheepdog.rules': 'systemd/org.sheepdog.rules',
  '/etc/libvirt/hooks/qemu.d/sheepdog': 'libvirt-hooks/qemu',
  '/etc/apparmor.d/abstractions/libvirt-qemu.d/sheepdog': 'libvirt-hooks/apparmor/libvirt-qemu.d-sheepdog',
  '/usr/share/sheepdog/sheepdog.xml': 'libvirt-hooks/sheepdog.xml',
}

/**
 * A file of each host and its text. Corosync asks for the highest real-time priority. Where the corosyncs of several hosts share two
 * cores, each then keeps the kernel's threads that deliver packets from running: seen as a minute of lost tokens with both cores busy.
 */
const sharedCores = [
  '/etc/systemd/system/corosync.service.d/shared-cores.conf',
  '[Service]\nRestrictRealtime=yes\n',
] as const

export interface BedOptions {
  hosts: number
  /** Above the basic system */
  layer: Layer | null
  say: (text: string) => void
  /** Nothing of Sheepdog is on them: a package brings it */
  bare?: boolean
  /** Writes what the hosts need before they boot */
  setUp?: (host: Host, bed: Bed) => void
}

let watched = false

/** Its end gives back what beds took: so does an end by a signal. */
function endWithSignals(): void {
  if (watched) return
  watched = true
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => process.exit(130))
}

export class Bed {
  readonly hosts: Host[] = []
  private readonly network: string
  private readonly atExit = (): void => this.ground.giveBack()

  private constructor(readonly ground: Ground) {
    endWithSignals()
    process.on('exit', this.atExit)
    this.network = ground.namespace('net')
    for (const bridge of ['lan', ...Array.from({ length: 4 }, (_, at) => `part${at}`)]) {
      command('ip', '-n', this.network, 'link', 'add', bridge, 'type', 'bridge')
      command('ip', '-n', this.network, 'link', 'set', bridge, 'up')
    }
  }

  static async make({ hosts, layer, say, bare = false, setUp }: BedOptions): Promise<Bed> {
    const system = await prepareSystem(layer, say)
    const bed = new Bed(Ground.take())
    try {
      const build = bare ? null : bed.stageBuild()
      for (let number = 1; number <= hosts; number++) {
        const address = `10.77.0.${10 + number}`
        const host = new Host({
          ground: bed.ground,
          name: `host${number}`,
          network: bed.network,
          address,
          system,
          build,
        })
        for (const [path, target] of Object.entries(bare ? {} : programs)) {
          host.write(path, `#!/bin/sh\nexec node /usr/lib/sheepdog/${target} "$@"\n`)
        }
        for (const [path, source] of Object.entries(bare ? {} : files)) {
          host.write(path, readFileSync(join(project, source), 'utf8'))
        }
        host.write(...sharedCores)
        bed.hosts.push(host)
      }
      for (const host of bed.hosts) setUp?.(host, bed)
      await Promise.all(bed.hosts.map((host) => host.boot()))
      return bed
    } catch (error) {
      bed.close()
      throw error
    }
  }

  /** A copy, so that a build meanwhile changes nothing under running hosts. */
  private stageBuild(): string {
    const build = join(this.ground.directory, 'build')
    mkdirSync(join(build, 'node_modules'), { recursive: true })
    cpSync(join(project, 'package.json'), join(build, 'package.json'))
    cpSync(join(project, 'dist'), join(build, 'dist'), { recursive: true })
    for (const path of runtimeModules()) {
      const module = join(project, path)
      if (existsSync(module)) cpSync(module, join(build, path), { recursive: true, dereference: true })
    }
    return build
  }

  /** Hosts of one group see each other and nobody else; at most four groups. */
  partition(...groups: Host[][]): void {
    for (const [at, group] of groups.entries()) for (const host of group) host.plug(`part${at}`)
  }

  /** These see every other host, but not each other. */
  part(...hosts: Host[]): void {
    for (const host of hosts) host.isolate(true)
  }

  heal(): void {
    for (const host of this.hosts) {
      host.isolate(false)
      host.plug('lan')
    }
  }

  close(): void {
    process.off('exit', this.atExit)
    this.ground.giveBack()
  }
}
