/** `dog cluster init` that cannot be completed: every host is as it was. */
import { sleep } from '../support/process.js'
import { configuration } from './cluster.js'
import type { Host } from './host.js'
import { expect, type Scenario } from './scenario.js'

const broken = '/etc/systemd/system/sheepdog.service.d/broken.conf'

/** What `dog cluster` changes on a host, its services, and the cluster that the daemon there is of */
async function standing(host: Host): Promise<string> {
  const files = 'find /etc/corosync /etc/sheepdog /etc/systemd/system -type f -exec sha256sum {} + | sort'
  const links = 'find /etc/systemd/system -type l | sort'
  const services =
    'systemctl is-enabled corosync sheepdog; systemctl is-active corosync sheepdog | sed s/failed/inactive/'
  const { stdout } = await host.try('sh', [
    '-c',
    `${files}; ${links}; ${services}; dog cluster info --json | grep clusterId`,
  ])
  return stdout
}

/** The command fails with these words, and these hosts are as before. */
async function fails(hosts: readonly Host[], words: readonly string[], pattern: RegExp): Promise<void> {
  const before = await Promise.all(hosts.map(standing))
  const { code, stderr } = await hosts[0].try('dog', ['cluster', 'init', ...words], { limit: 300_000 })
  if (code === 0 || !pattern.test(stderr)) throw new Error(`dog cluster init ended with ${code}: ${stderr}`)
  // A service that is to be active again may take a moment.
  let after: string[] = []
  for (let turn = 0; turn < 20; turn++) {
    after = await Promise.all(hosts.map(standing))
    if (`${after}` === `${before}`) return
    await sleep(500)
  }
  throw new Error(`before\n${before.join('\n')}\nafter\n${after.join('\n')}`)
}

export const initScenario: Scenario = {
  name: 'init-fails',
  title: 'dog cluster init with a host that fails, early or late: all are as they were, and the next one succeeds',
  short: true,
  apart: true,
  async run(cluster) {
    const { hosts } = cluster.bed
    const [first, second, third] = hosts
    await cluster.letIn(first, hosts)
    // A cluster of its own, as a package starts it.
    second.write(configuration, '')
    await second.run('sh', [
      '-c',
      'systemd-sysusers && systemd-tmpfiles --create sheepdog.conf; systemctl daemon-reload',
    ])
    await second.run('systemctl', ['enable', '--now', 'sheepdog'])
    await expect(second, /running/, 'dog', 'cluster', 'info')
    const words = [...hosts.map(({ name }) => name), '--yes', '--token', '1000']

    await third.run('systemctl', ['stop', 'ssh'])
    await fails(hosts, words, /host3/)
    await third.run('systemctl', ['start', 'ssh'])
    third.write(broken, '[Service]\nExecStart=\nExecStart=/bin/false\n')
    await fails(hosts, words, /all hosts are as they were/)
    await third.run('rm', [broken])
    third.write('/etc/systemd/system/corosync.service.d/broken.conf', '[Service]\nExecStart=\nExecStart=/bin/false\n')
    // Not even with what it had before.
    await fails([first, second], words, /not taken back on host3/)
    await third.run('rm', ['/etc/systemd/system/corosync.service.d/broken.conf'])
    await third.run('systemctl', ['daemon-reload'])

    const said = await first.run('dog', ['cluster', 'init', ...words])
    cluster.say(`  ${said.trim().split('\n').at(-1)}`)
    await cluster.healthy(hosts)
  },
}
