/**
 * What npm run package makes, on hosts that have nothing of Sheepdog: one host by itself, three by `dog cluster init`, an upgrade from
 * the commit before under I/O, and what removing, purging and installing again leave.
 */
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { buildSync } from 'esbuild'
import { must, run, until } from '../support/process.js'
import type { SystemCluster } from './cluster.js'
import { Guest, makeVolumes } from './guest.js'
import type { Host } from './host.js'
import type { Scenario } from './scenario.js'
import { fileWriter } from './volumes-scenario.js'

const project = join(import.meta.dirname, '..', '..', '..')
const buildLimit = 120_000
const poolLimit = 10_000
const storeLimit = 30_000
/** Of one request of a machine's disk while daemons are replaced */
const pauseLimit = 10_000
const MACHINE = '/run/machine.sock'
const ENOUGH = '/var/tmp/enough-block'

async function build(tree: string, out: string): Promise<string> {
  await must(process.execPath, ['dist/packaging/main.js', '--out', out], { cwd: tree, limit: buildLimit })
  const name = readdirSync(out).find((one) => one.endsWith('.deb'))
  return join(out, name ?? 'no .deb')
}

/**
 * Of the commit before this one, under a version that comes before. Where that commit is not here (a shallow clone, a source archive), of
 * this tree: the upgrade is one for dpkg and for all that runs, from the same program.
 */
async function buildBefore(directory: string, say: (text: string) => void): Promise<string> {
  const tree = join(directory, 'before')
  const { code, stdout } = await run('git', ['-C', project, 'log', '-1', '--format=%h %s', 'HEAD~1'])
  if (code === 0) {
    say(`  upgrades are from ${stdout.trim().slice(0, 80)}`)
    const archive = join(directory, 'before.tar')
    await must('git', ['-C', project, 'archive', '--prefix=before/', '-o', archive, 'HEAD~1'])
    await must('tar', ['-C', directory, '-xf', archive])
  } else {
    say(
      '  NOT TESTED: an upgrade from other bytes. The commit before is not in this clone; upgrades are from this tree.',
    )
    const left = ['node_modules', 'dist', '.git'].map((name) => join(project, name))
    cpSync(project, tree, { recursive: true, filter: (path) => !left.includes(path) })
  }
  symlinkSync(join(project, 'node_modules'), join(tree, 'node_modules'))
  const description = join(tree, 'package.json')
  const text = readFileSync(description, 'utf8')
  writeFileSync(description, text.replace(/"version": "([^"]+)"/, '"version": "$1~before"'))
  await must(process.execPath, ['build.mjs'], { cwd: tree, limit: buildLimit })
  return build(tree, join(directory, 'old'))
}

interface Packages {
  before: string
  now: string
}

async function packages(say: (text: string) => void): Promise<Packages> {
  const directory = mkdtempSync(join(tmpdir(), 'sheepdog-packages-'))
  process.once('exit', () => rmSync(directory, { recursive: true, force: true }))
  return { before: await buildBefore(directory, say), now: await build(project, join(directory, 'now')) }
}

/** Under the name that people type `./sheepdog_*.deb` for. */
function bring(host: Host, file: string): void {
  cpSync(file, join(host.directory, 'root', 'sheepdog_new_amd64.deb'))
}

const apt = ['DEBIAN_FRONTEND=noninteractive', 'apt-get', '-q', '-y', '-o', 'Dpkg::Use-Pty=0']

async function install(host: Host, file: string): Promise<void> {
  bring(host, file)
  await host.run('sh', ['-c', `cd /root && env ${apt.join(' ')} install --allow-downgrades ./sheepdog_*.deb`])
}

async function digest(host: Host, volume: string): Promise<string> {
  return await host.run('sha256sum', [`/var/lib/sheepdog/volumes/${volume}`])
}

function expect(what: string, text: string, pattern: RegExp): void {
  if (!pattern.test(text)) throw new Error(`${what}:\n${text}`)
}

/** The three commands of a host by itself; nothing waits between them. */
async function alone(cluster: SystemCluster, host: Host, now: string): Promise<void> {
  await install(host, now)
  const idle = await host.try('systemctl', ['is-active', 'sheepdog'])
  if (idle.stdout.trim() !== 'inactive') throw new Error(`installed, and it is ${idle.stdout}`)
  // By sysusers
  for (const kind of ['passwd', 'group']) expect(kind, await host.run('getent', [kind, 'sheepdog']), /^sheepdog:/)
  await host.run('systemctl', ['enable', '--now', 'sheepdog'])
  await host.run('virsh', ['vol-create-as', 'sheepdog', 'disk', '64M'])
  expect('the volume', await host.run('dog', ['vdi', 'list']), /\bdisk\b.*64/)
  const said = await host.run('journalctl', ['-u', 'sheepdog', '-o', 'cat', '--no-pager'])
  expect('the journal', said, /a cluster of this host alone, with 1 copy/)
  await host.run('sh', ['-c', 'head -c 8M /dev/urandom > /var/lib/sheepdog/volumes/data'])
  const before = await digest(host, 'data')
  await host.run('sync')
  const start = performance.now()
  await host.powerOff()
  await host.boot()
  cluster.say(`  power off and boot: ${Math.round(performance.now() - start)} ms`)
  await until(
    'the volumes after a boot',
    storeLimit,
    async () => (await digest(host, 'data').catch(() => '')) === before,
  )
  expect('the pool after a boot', await host.run('virsh', ['vol-list', 'sheepdog']), /\bdisk\b/)
}

/** Removed, purged, installed again: the data is there. */
async function comesBack(host: Host, now: string): Promise<void> {
  const before = await digest(host, 'data')
  const list = await host.run('sh', ['-c', 'cd /var/lib/sheepdog && find obj -type f | sort'])
  for (const how of ['remove', 'purge']) {
    host.write('/etc/sheepdog/sheepdog.conf', '# mine\nscrub-rate = 5M\n')
    await host.run('sh', ['-c', `env ${apt.join(' ')} ${how} sheepdog < /dev/null`])
    const left = await host.run('sh', ['-c', 'cd /var/lib/sheepdog && find obj -type f | sort'])
    if (left !== list) throw new Error(`apt ${how} changed the store`)
    if ((await host.try('pgrep', ['-f', 'sheep.mjs'])).code === 0) throw new Error(`it runs after apt ${how}`)
    const { code } = await host.try('test', ['-e', '/etc/sheepdog/sheepdog.conf'])
    if ((code === 0) !== (how === 'remove')) throw new Error(`the configuration after apt ${how}: ${code}`)
    await install(host, now)
    await host.run('systemctl', ['enable', '--now', 'sheepdog'])
    if ((await digest(host, 'data')) !== before) throw new Error(`installed again after ${how}, and other bytes`)
  }
}

async function refuses(first: Host, names: readonly string[]): Promise<void> {
  const { code, stdout, stderr } = await first.try('dog', ['cluster', 'init', ...names, '--yes'])
  if (code === 0) throw new Error(`dog cluster init took a host with data:\n${stdout}`)
  expect('dog cluster init with data', stdout + stderr, /its store has data of the cluster/)
  expect('the volumes of a refused host', await first.run('dog', ['vdi', 'list']), /\bdata\b/)
  for (const volume of ['disk', 'data']) await first.run('virsh', ['vol-delete', volume, '--pool', 'sheepdog'])
}

/**
 * A QEMU whose disk is a volume by NBD, as libvirt's machines have theirs (dog libvirt disk-xml). It lends the disk to a writer, which
 * sees what a guest would: not one broken connection.
 */
async function machine(host: Host, volume: string): Promise<{ end(): Promise<string> }> {
  const disk = [
    'if=none,id=disk,format=raw,cache=none,file.driver=nbd,file.server.type=unix',
    `file.server.path=/var/lib/sheepdog/nbd.sock,file.export=${volume},file.reconnect-delay=300`,
  ].join()
  const qemu = `qemu-system-x86_64 -machine none -nodefaults -display none -monitor stdio -drive ${disk}`
  const script = `(echo nbd_server_start -a -w unix:${MACHINE}; exec sleep infinity) | exec ${qemu}`
  await host.run('systemd-run', ['--quiet', '--unit=machine', 'sh', '-c', script])
  await until(
    'the machine to lend its disk',
    poolLimit,
    async () => (await host.try('test', ['-S', MACHINE])).code === 0,
  )
  const words = ['/var/tmp/writer.mjs', 'disk', ENOUGH, MACHINE]
  const writer = host.run('node', words, { limit: 240_000 })
  writer.catch(() => undefined)
  return {
    async end() {
      host.write(ENOUGH, '')
      const sum = JSON.parse(await writer) as { writes: number; reconnects: number; longestMs: number }
      if (sum.reconnects > 0 || sum.writes < 500) throw new Error(`the machine's disk: ${JSON.stringify(sum)}`)
      if (sum.longestMs > pauseLimit) throw new Error(`the machine's disk stood still for ${sum.longestMs} ms`)
      if ((await host.run('systemctl', ['is-active', 'machine'])).trim() !== 'active') throw new Error('QEMU has ended')
      await host.run('systemctl', ['stop', 'machine'])
      return JSON.stringify(sum)
    },
  }
}

/** What is there of the daemon: another process after each upgrade. */
async function pidOf(host: Host): Promise<string> {
  return (await host.run('systemctl', ['show', 'sheepdog', '-P', 'MainPID'])).trim()
}

async function upgrade(cluster: SystemCluster, host: Host, hosts: readonly Host[], now: string): Promise<void> {
  const start = performance.now()
  const pid = await pidOf(host)
  await install(host, now)
  expect(`the version on ${host.name}`, await host.run('dog', ['--version']), /^[^~]+$/)
  if ((await pidOf(host)) === pid) throw new Error(`${host.name}: the daemon is still the old one`)
  await cluster.healthy(hosts)
  cluster.say(`  ${host.name} was upgraded in ${Math.round(performance.now() - start)} ms`)
}

async function upgraded(cluster: SystemCluster, hosts: readonly Host[], now: string): Promise<void> {
  const [first] = hosts
  await first.run('dog', ['vdi', 'create', 'block', '64M'])
  const { outputFiles } = buildSync({
    entryPoints: [join(project, 'dist/test/system/writer.js')],
    ...{ bundle: true, format: 'esm', platform: 'node', write: false },
  })
  first.write('/var/tmp/writer.mjs', outputFiles[0].text)
  const file = fileWriter(cluster, first)
  const guest = await machine(first, 'block')
  await file.goesOn()
  for (const host of hosts) {
    await upgrade(cluster, host, hosts, now)
    await file.goesOn()
  }
  cluster.say(`  a machine's disk by NBD: ${await guest.end()}`)
  await file.end()
  await first.run('dog', ['cluster', 'check'])
}

/** Three hosts that have nothing, with the package of before. */
async function formed(cluster: SystemCluster, hosts: readonly Host[]): Promise<void> {
  const [first] = hosts
  await first.run('dog', ['cluster', 'init', ...hosts.map(({ name }) => name), '--yes'])
  await cluster.healthy(hosts)
  for (const host of hosts) {
    const pool = async () => (await host.try('virsh', ['pool-info', 'sheepdog'])).stdout.includes('running')
    await until(`the pool on ${host.name}`, poolLimit, pool)
  }
}

export const packageScenario: Scenario = {
  name: 'package',
  title: 'the .deb on hosts that have nothing: one host, three, an upgrade under I/O, removing and installing again',
  short: true,
  hosts: 0,
  async run(cluster) {
    const { before, now } = await packages((text) => cluster.say(text))
    const hosts = cluster.bed.hosts.slice(0, 3)
    const [first, ...others] = hosts
    await alone(cluster, first, now)
    await comesBack(first, now)
    for (const host of others) await install(host, before)
    const names = hosts.map(({ name }) => name)
    await cluster.letIn(first, hosts)
    await refuses(first, names)
    await first.run('systemctl', ['stop', 'sheepdog'])
    await install(first, before)
    await formed(cluster, hosts)
    await first.run('virsh', ['vol-create-as', 'sheepdog', 'three', '64M'])
    expect('the volume of three hosts', await others[0].run('dog', ['vdi', 'list']), /\bthree\b.* 3 /)
    await upgraded(cluster, hosts, now)
  },
}

export const upgradeScenario: Scenario = {
  name: 'upgrade',
  title: 'a real guest whose disks are by NBD runs through the upgrade of all hosts',
  short: false,
  hosts: 0,
  layer: 'machines',
  async run(cluster) {
    const { before, now } = await packages((text) => cluster.say(text))
    const hosts = cluster.bed.hosts.slice(0, 3)
    const [first] = hosts
    for (const host of hosts) await install(host, before)
    await cluster.letIn(first, hosts)
    await formed(cluster, hosts)
    cluster.hosts = hosts
    try {
      await makeVolumes(first)
      const guest = await Guest.start(cluster, first, 'nbd')
      for (const host of hosts) {
        await upgrade(cluster, host, hosts, now)
        await guest.goesOn()
      }
      await guest.end()
    } finally {
      cluster.hosts = []
    }
  },
}
