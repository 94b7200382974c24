/** README.md's commands for one host, for three and for an administrator, as printed and in that order, on hosts that have nothing of Sheepdog. */
import { cpSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { must, until } from '../support/process.js'
import { adaptedCommands, commandsOf } from '../support/readme.js'
import type { SystemCluster } from './cluster.js'
import type { Host } from './host.js'
import type { Scenario } from './scenario.js'

const project = join(import.meta.dirname, '..', '..', '..')
const buildLimit = 180_000
const commandLimit = 240_000
const poolLimit = 60_000

/** What only the reader has: a directory for a disk, a package that is newer, somebody who ends the live view, a machine's CPU. */
const adapted: Record<string, string> = {
  'dog cluster top': "{ sleep 2; printf q; } | script -qec 'dog cluster top' /dev/null",
  'dog node md plug DIR': 'mkdir /srv/disk2 && dog node md plug /srv/disk2',
  // Named, not told to be typed
  'dog cluster init': 'dog cluster init host1 host2 host3',
  'apt install': 'apt install --reinstall ./sheepdog_*.deb',
}
const installMachine = ' --virt-type qemu --network none --graphics none --noautoconsole'

/** By root at a terminal, who says yes when asked. */
async function type(cluster: SystemCluster, host: Host, command: string): Promise<string> {
  const start = performance.now()
  const quoted = command.replaceAll("'", "'\\''")
  const said = await host.run('sh', ['-c', `cd /root && printf 'yes\\nyes\\n' | script -qec '${quoted}' /dev/null`], {
    limit: commandLimit,
  })
  cluster.say(`  ${host.name}# ${command} (${((performance.now() - start) / 1000).toFixed(1)} s)`)
  return said
}

async function bring(hosts: readonly Host[]): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'sheepdog-readme-'))
  try {
    await must('npm', ['run', 'package', '--', '--out', directory], { cwd: project, limit: buildLimit })
    const name = readdirSync(directory).find((one) => one.endsWith('.deb')) ?? 'no .deb'
    for (const host of hosts) {
      cpSync(join(directory, name), join(host.directory, 'root', name))
      // Nobody is asked.
      host.write('/etc/apt/apt.conf.d/yes', 'APT::Get::Assume-Yes "true";\n')
    }
  } finally {
    rmSync(directory, { recursive: true })
  }
}

async function pool(host: Host): Promise<void> {
  await until(`the pool on ${host.name}`, poolLimit, async () => {
    return (await host.try('virsh', ['pool-info', 'sheepdog'])).stdout.includes('running')
  })
}

async function onThreeHosts(cluster: SystemCluster, hosts: readonly Host[]): Promise<void> {
  const [first] = hosts
  first.write('/var/lib/libvirt/images/debian.iso', 'no system\n')
  for (const { text } of commandsOf('On three hosts')) {
    if (text.startsWith('virsh')) await pool(first)
    await type(cluster, first, text.startsWith('virt-install') ? text + installMachine : text)
    if (text === 'dog cluster init host1 host2 host3') await cluster.healthy(hosts.slice(0, 3))
  }
}

/** What has happened before somebody types that. */
async function before(cluster: SystemCluster, [first, second, third, fourth]: readonly Host[], command: string) {
  if (command.startsWith('dog vdi rollback')) await first.run('virsh', ['destroy', 'web1'])
  if (command === 'dog cluster remove host2 --force') await second.powerOff()
  if (command === 'dog cluster remove host2') {
    await second.boot()
    await cluster.healthy([first, third, fourth])
    await type(cluster, first, 'dog cluster add host2')
    await cluster.healthy([first, second, third, fourth])
  }
}

async function asAdministrator(cluster: SystemCluster, hosts: readonly Host[]): Promise<void> {
  const [first] = hosts
  const commands = [...commandsOf('Monitoring, security, limits'), ...commandsOf('What an administrator does')]
  const typed = adaptedCommands(commands, adapted)
  for (const [at, { text }] of commands.entries()) {
    await before(cluster, hosts, text)
    await type(cluster, first, typed[at])
  }
  if ((await first.try('test', ['-d', '/var/lib/sheepdog/obj'])).code !== 0) throw new Error('apt purge took the store')
}

export const readmeScenario: Scenario = {
  name: 'readme',
  title: "the README's commands on one host and on several, as printed",
  short: false,
  hosts: 0,
  layer: 'machines',
  async run(cluster) {
    const { hosts } = cluster.bed
    const [first, ...others] = hosts
    await bring(hosts)
    const [build, ...alone] = commandsOf('On one host')
    if (build.text !== 'npm run package') throw new Error(`the README builds packages by ${build.text}`)
    for (const { text } of alone) await type(cluster, first, text)
    await cluster.letIn(first, hosts)
    for (const host of others) await type(cluster, host, alone[0].text)
    await first.run('virsh', ['vol-delete', 'disk', '--pool', 'sheepdog'])
    await until('its objects to go', poolLimit, async () => {
      return (await first.run('find', ['/var/lib/sheepdog/obj', '-type', 'f'])) === ''
    })
    await onThreeHosts(cluster, hosts)
    await asAdministrator(cluster, hosts)
  },
}
