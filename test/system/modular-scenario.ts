/**
 * libvirt's modular daemons, virtqemud and virtstoraged. Debian 13 builds only libvirtd; here it listens where those two would, and
 * nowhere else: what differs for a client is the socket of each driver, and that the library is told so in the URI.
 */
import type { SystemCluster } from './cluster.js'
import type { Host } from './host.js'
import { definePlain, poolRuns } from './libvirt-scenario.js'
import { expect, refused, type Scenario } from './scenario.js'

const SOCKETS = ['/run/libvirt/virtqemud-sock', '/run/libvirt/virtstoraged-sock']
const DROP_IN = '/etc/systemd/system/libvirtd.socket.d/modular.conf'
const URI = 'qemu:///system?mode=direct'
const NAME = 'modular'

const listed = (host: Host): Promise<string> => host.run('virsh', ['-c', URI, 'vol-list', 'sheepdog'])

async function pool(cluster: SystemCluster, host: Host, other: Host): Promise<void> {
  await host.run('systemctl', ['start', 'libvirtd.socket'])
  cluster.say(`  libvirt after sheep: the pool runs after ${await poolRuns(cluster, host, URI)} ms`)
  await refused(host, /libvirt-sock'/, 'virsh', '-c', 'qemu:///system?mode=legacy', 'list')
  await cluster.took('the daemon to have seen to it', async () => {
    return /storage:\/\/\/system\?mode=direct/.test(await host.run('journalctl', ['-u', 'sheepdog', '--no-pager']))
  })
  await other.run('dog', ['vdi', 'create', 'seen', '4M'])
  await cluster.took('the pool to look again', async () => /\bseen\b/.test(await listed(host)))
  await host.run('systemctl', ['stop', 'libvirtd.socket', 'libvirtd'])
  await other.run('dog', ['vdi', 'create', 'later', '4M'])
  await host.run('systemctl', ['start', 'libvirtd.socket'])
  await poolRuns(cluster, host, URI)
  await cluster.took('the pool to look again', async () => /\blater\b/.test(await listed(host)))
  for (const name of ['seen', 'later']) await other.run('dog', ['vdi', 'delete', name])

  for (const word of ['pool-destroy', 'pool-undefine']) await host.run('virsh', ['-c', URI, word, 'sheepdog'])
  await host.run('systemctl', ['restart', 'sheepdog'])
  cluster.say(`  sheep after libvirt: the pool runs after ${await poolRuns(cluster, host, URI)} ms`)
}

async function machine(host: Host): Promise<void> {
  await host.run('dog', ['vdi', 'create', 'disk', '64M'])
  await definePlain(host, NAME, URI)
  await expect(host, /modular has disk as vda, now/, 'dog', 'libvirt', 'attach', NAME, 'disk')
  await expect(host, /Snapshot of modular taken.*: disk@one/, 'dog', 'vdi', 'snapshot', '-s', 'one', '--domain', NAME)
  await host.run('virsh', ['-c', URI, 'destroy', NAME])
  await host.run('virsh', ['-c', URI, 'undefine', NAME])
}

export const modularScenario: Scenario = {
  name: 'modular',
  title: 'the pool, attach and snapshots where libvirt listens as virtqemud and virtstoraged',
  short: false,
  async run(cluster) {
    const [host, other] = cluster.hosts
    host.write(DROP_IN, `[Socket]\nListenStream=\n${SOCKETS.map((path) => `ListenStream=${path}\n`).join('')}`)
    await host.run('systemctl', ['daemon-reload'])
    await pool(cluster, host, other)
    await cluster.healthy()
    await machine(host)
    await host.run('systemctl', ['stop', 'libvirtd.socket', 'libvirtd-ro.socket', 'libvirtd-admin.socket', 'libvirtd'])
    // Not while libvirt looks into what has changed: a volume that is being read is not deleted.
    await host.run('dog', ['vdi', 'delete', '-s', 'one', 'disk'])
    await host.run('dog', ['vdi', 'delete', 'disk'])
    await host.run('rm', [DROP_IN])
    await host.run('systemctl', ['daemon-reload'])
    await cluster.healthy()
  },
}
