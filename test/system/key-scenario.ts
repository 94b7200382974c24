/** Who comes from another host without the cluster's key: as a daemon of its own, or with what he has recorded on the way. */
import { newClusterKey } from '../../lib/host/cluster-key.js'
import { until } from '../support/process.js'
import { configuration, engine, type SystemCluster } from './cluster.js'
import type { Host } from './host.js'
import { finish, type Scenario, volume } from './scenario.js'

const keyFile = '/etc/sheepdog/cluster.key'
const unbound = `${engine}corosync-bound = no\n`
/** Of the second host's daemon while its way leads through the third host */
const port = 7100
const record = '/root/record'
const intruder = '/usr/lib/sheepdog/dist/test/system/intruder.js'

async function said(host: Host, pattern: RegExp): Promise<string[]> {
  const journal = await host.run('journalctl', ['-u', 'sheepdog', '-p', 'warning', '-o', 'cat'])
  return journal.split('\n').filter((line) => pattern.test(line))
}

const store = '/var/lib/sheepdog'

/** All files in these directories */
async function state(host: Host, directories: string): Promise<string> {
  return await host.run('sh', ['-c', `find ${directories} -xdev -type f ! -name lock -exec sha256sum {} + | sort`])
}

/** A daemon of this host cannot be started, however often, and is not tried again; the others' cluster is as it was, one of them said so. */
async function refusedDaemon(cluster: SystemCluster, host: Host, pattern: RegExp): Promise<void> {
  const [first, second] = cluster.hosts
  // Its own daemon's books may say that it has run.
  const all = async () => [
    ...(await Promise.all([first, second].map((member) => state(member, store)))),
    await state(host, `${store}/obj ${store}/cluster`),
    JSON.stringify((await cluster.info(first))?.epochs),
  ]
  const before = await all()
  await host.try('systemctl', ['start', 'sheepdog'])
  const { code } = await host.try('systemctl', ['start', 'sheepdog'])
  const { ExecMainStatus, NRestarts, ActiveState } = await host.unit('sheepdog')
  const shown = `${ActiveState}, exit code ${ExecMainStatus}, ${NRestarts} restarts`
  if (code === 0 || shown !== 'failed, exit code 5, 0 restarts') throw new Error(`${code} of systemctl start: ${shown}`)
  if ((await said(host, pattern)).length === 0) throw new Error(`${host.name} does not say ${pattern}`)
  const after = await all()
  if (`${after}` !== `${before}`) throw new Error(`refused, and something changed:\n${before}\n${after}`)
  const lines = (await Promise.all([first, second].map((member) => said(member, pattern)))).flat()
  if (lines.length !== 1) throw new Error(`the others say ${lines.length} times ${pattern}:\n${lines.join('\n')}`)
  await host.run('systemctl', ['reset-failed', 'sheepdog'])
}

async function otherKeys(cluster: SystemCluster): Promise<void> {
  const [first, , third] = cluster.hosts
  const key = third.read(keyFile)
  third.write(keyFile, newClusterKey())
  await refusedDaemon(cluster, third, /has another cluster key than the others/)
  third.write(configuration, `${unbound}no-key = yes\n`)
  await refusedDaemon(cluster, third, /has no cluster key, and the others have one/)
  third.write(configuration, unbound)
  third.write(keyFile, key)
  if ((await cluster.status(first)) !== 'running') throw new Error('the others do not run')
}

/** What the first host's daemon says to the second's leads through the third host, which has no daemon and keeps it. */
async function eavesdrop(cluster: SystemCluster, name: string): Promise<void> {
  const [first, second, third] = cluster.hosts
  await third.run('systemctl', ['stop', 'sheepdog'])
  await third.run('systemd-run', [
    '--quiet',
    '--unit=relay',
    'node',
    intruder,
    'relay',
    `${port}`,
    second.address,
    record,
  ])
  second.write(configuration, `${unbound}port = ${port}\nmyaddr = ${third.address}\n`)
  await second.run('systemctl', ['restart', 'sheepdog'])
  await until('the second host to be back', 30_000, async () => {
    const info = await cluster.info(first)
    return info?.status === 'running' && info.epochs[0].nodes.length === 2 && info.recovering.length === 0
  })
  await cluster.fio(first, name, 2)
  second.write(configuration, unbound)
  await second.run('systemctl', ['restart', 'sheepdog'])
  await third.run('systemctl', ['stop', 'relay'])
  await cluster.healthy([first, second])
  const kept = Number(await third.run('stat', ['-c', '%s', record]))
  if (kept < 1 << 20) throw new Error(`only ${kept} bytes were recorded`)
}

/** It gets no further than the gate, and each daemon says once that it was there. */
async function replay(cluster: SystemCluster): Promise<void> {
  const [first, second, third] = cluster.hosts
  const members = [first, second]
  const before = await Promise.all(members.map((host) => state(host, store)))
  const words = [intruder, 'say', record, ...members.map(({ address }) => `${address}:7000`)]
  const answers = JSON.parse(await third.run('node', words)) as { what: string; closed: boolean; answer: string }[]
  for (const { what, closed, answer } of answers) {
    if (!closed || answer.length > 4_096) throw new Error(`${what} was answered with ${answer.length} bytes: ${answer}`)
  }
  const after = await Promise.all(members.map((host) => state(host, store)))
  if (`${after}` !== `${before}`) throw new Error(`refused, and something changed:\n${before}\n${after}`)
  for (const host of members) {
    // What was recorded is for one of them.
    const replayed = '(its cluster key is another one|looks for node)'
    for (const reason of ['a peer without the cluster key', replayed, 'it speaks version']) {
      const lines = await said(host, new RegExp(`refused .*${third.address}.*${reason}`))
      if (lines.length !== 1) throw new Error(`${host.name} says ${lines.length} times: ${reason}\n${lines.join('\n')}`)
    }
  }
  cluster.say(`  ${answers.length} strangers' words, ${members.length} daemons: each kind is in the journal once`)
}

export const keyScenario: Scenario = {
  name: 'strangers',
  title: 'a host without the key, or with what it has recorded: refused, logged once, nothing touched',
  short: true,
  async run(cluster) {
    const name = await volume(cluster, 'secret')
    await eavesdrop(cluster, name)
    await replay(cluster)
    await otherKeys(cluster)
    await cluster.hosts[2].run('systemctl', ['start', 'sheepdog'])
    await finish(cluster, name)
  },
}
