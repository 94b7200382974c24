/** What systemd and the configuration make of the daemon, and who comes in, on real hosts. */
import { newClusterKey } from '../../lib/host/cluster-key.js'
import { until } from '../support/process.js'
import { configuration, engine, type SystemCluster } from './cluster.js'
import type { Host } from './host.js'

/** What can change does, and the journal says what did not. */
export async function reload(cluster: SystemCluster, host: Host): Promise<void> {
  const changed = `${engine}corosync-bound = no\nscrub-rate = 5M\nzone = elsewhere\n`
  host.write(configuration, changed)
  await host.run('systemctl', ['reload', 'sheepdog'])
  await journal(host, /scrub-rate is 5 MiB\/s, was 32 MiB\/s/)
  await journal(host, /zone changes at the next restart/)
  host.write(configuration, `${changed}scrub-rat = 5M\n`)
  await host.run('systemctl', ['reload', 'sheepdog'])
  await journal(host, /sheepdog.conf, line 6: there is no key "scrub-rat"/)
  if ((await cluster.status(host)) !== 'running') throw new Error('a mistake in the configuration stopped the daemon')
  const { code } = await host.try('systemctl', ['restart', 'sheepdog'])
  const { stdout } = await host.try('systemctl', ['is-active', 'sheepdog'])
  if (code === 0 || stdout.trim() !== 'failed') throw new Error(`a start with a mistake in it: ${code}, ${stdout}`)
  host.write(configuration, `${engine}corosync-bound = no\n`)
  await host.run('systemctl', ['start', 'sheepdog'])
  await cluster.healthy()
}

/** systemd's own numbers (syslog.h): what asks for somebody's attention can be told from the rest, by `journalctl -p` too. */
export async function levels(host: Host): Promise<void> {
  const text = await host.run('journalctl', ['-u', 'sheepdog', '-o', 'json', '--output-fields=PRIORITY,MESSAGE'])
  const lines = text.trim().split('\n')
  const all = lines.map((line) => JSON.parse(line) as { PRIORITY: string; MESSAGE: string })
  for (const [wanted, pattern] of [
    ['3', /^sheep: .*there is no key "scrub-rat"/],
    ['3', /^the configuration stays as it was/],
    ['4', /^now halted: /],
    ['4', /^\S+: zone changes at the next restart/],
    ['5', /^now running$/],
    ['6', /^D-Bus: on the system bus/],
    ['7', /^corosync: a view /],
  ] as const) {
    const found = all.filter(({ MESSAGE }) => pattern.test(MESSAGE)).map(({ PRIORITY }) => PRIORITY)
    if (found.length === 0 || found.some((priority) => priority !== wanted))
      throw new Error(`${pattern} is in the journal with priorities [${found}], not ${wanted}`)
  }
}

async function journal(host: Host, pattern: RegExp): Promise<void> {
  await until(`the journal to say ${pattern}`, 10_000, async () => {
    return pattern.test(await host.run('journalctl', ['-u', 'sheepdog', '--no-pager', '-o', 'cat']))
  })
}

/** As a fresh configuration has it: the daemon is started with corosync, ends with it, and comes back with it. */
export async function bound(cluster: SystemCluster, host: Host): Promise<void> {
  const active = async (): Promise<string> => (await host.try('systemctl', ['is-active', 'sheepdog'])).stdout.trim()
  host.write(configuration, engine)
  await host.run('systemctl', ['daemon-reload'])
  await host.run('systemctl', ['stop', 'corosync'])
  if ((await active()) !== 'inactive') throw new Error(`corosync is stopped, and sheepdog is ${await active()}`)
  await host.run('systemctl', ['start', 'sheepdog'])
  await cluster.healthy()
  await host.run('systemctl', ['restart', 'corosync'])
  await cluster.healthy()
  await host.run('systemctl', ['stop', 'corosync'])
  await host.run('systemctl', ['start', 'corosync'])
  await until('sheepdog to come back with corosync', 30_000, async () => (await active()) === 'active')
  await cluster.healthy()
  host.write(configuration, `${engine}corosync-bound = no\n`)
  await host.run('systemctl', ['daemon-reload'])
}

/** The socket is the group's, the key is no stranger's, and from another host nobody comes in without it. */
export async function guarded(cluster: SystemCluster): Promise<void> {
  const [first, second] = cluster.hosts
  for (const [path, wanted] of [
    ['/var/lib/sheepdog/sock', 'root sheepdog 660'],
    ['/var/lib/sheepdog', 'root sheepdog 751'],
    ['/etc/sheepdog/cluster.key', 'root sheepdog 640'],
  ]) {
    const said = (await first.run('stat', ['-c', '%U %G %a', path])).trim()
    if (said !== wanted) throw new Error(`${path} is ${said}, not ${wanted}`)
  }
  await byHand(first)
  const from = ['-a', first.address]
  await second.run('dog', [...from, 'node', 'list'])
  const other = '/root/other.key'
  second.write(other, newClusterKey())
  const wrong = await second.try('dog', [...from, '--key', other, 'node', 'list'])
  if (!/its cluster key is another one/.test(wrong.stderr)) throw new Error(`another key: ${wrong.stderr}`)
  await second.run('mv', ['/etc/sheepdog/cluster.key', '/root/away.key'])
  const none = await second.try('dog', [...from, 'node', 'list'])
  await second.run('mv', ['/root/away.key', '/etc/sheepdog/cluster.key'])
  if (!/a client without the cluster key/.test(none.stderr)) throw new Error(`no key: ${none.stderr}`)
}

/** A daemon that root starts without systemd, beside the service: its socket is the group's as well. */
async function byHand(host: Host): Promise<void> {
  const store = '/var/tmp/by-hand'
  await host.run('sheep', ['-c', `local:${store}-cluster`, '--dbus', 'none', '-b', '127.0.0.1', '-p', '7100', store])
  const said = (await host.run('stat', ['-c', '%U %G %a', `${store}/sock`])).trim()
  await host.run('dog', ['--socket', `${store}/sock`, 'node', 'kill', '0'])
  await host.run('rm', ['-r', store, `${store}-cluster`])
  if (said !== 'root sheepdog 660') throw new Error(`the socket of a daemon started by hand is ${said}`)
}

/** Libvirt's daemon hangs while ours starts, and ours is stopped; then ours is killed and leaves what does not heed SIGTERM. Neither waits. */
export async function endsSoon(cluster: SystemCluster, host: Host): Promise<void> {
  const seconds = 10
  await host.run('systemctl', ['start', 'libvirtd'])
  await host.run('systemctl', ['kill', '--signal=STOP', 'libvirtd'])
  await host.run('systemctl', ['restart', '--no-block', 'sheepdog'])
  await until('the start to be under way', 20_000, async () => {
    return (await host.unit('sheepdog')).MainPID !== '0'
  })
  await host.run('sleep', ['1.5'])
  const stopped = await cluster.timed(() => host.run('systemctl', ['stop', 'sheepdog']))
  const { Result: result } = await host.unit('sheepdog')
  await host.run('systemctl', ['kill', '--signal=CONT', 'libvirtd'])
  await host.run('systemctl', ['start', 'sheepdog'])
  await cluster.healthy()
  const deaf = "trap '' TERM; echo $$ > /sys/fs/cgroup/system.slice/sheepdog.service/cgroup.procs; exec sleep 100"
  await host.run('systemd-run', ['--quiet', '--collect', 'sh', '-c', deaf])
  await host.run('systemctl', ['kill', '--signal=KILL', '--kill-whom=main', 'sheepdog'])
  const back = await cluster.took('the daemon to be back', async () => (await cluster.status(host)) === 'running')
  await cluster.healthy()
  await host.run('systemctl', ['stop', 'libvirtd.socket', 'libvirtd-ro.socket', 'libvirtd-admin.socket', 'libvirtd'])
  cluster.say(`  stopped while it started and libvirt hung: ${stopped} ms; back after kill -9: ${back} ms`)
  if (stopped > seconds * 1000 || result !== 'success') throw new Error(`systemctl stop: ${stopped} ms, ${result}`)
  if (back > seconds * 1000) throw new Error(`a process that it left kept the next one away for ${back} ms`)
}
