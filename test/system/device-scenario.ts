/** Two hosts and a quorum device: a third host's vote, without data or daemons of ours. */
import { sleep, until } from '../support/process.js'
import type { SystemCluster } from './cluster.js'
import type { Host } from './host.js'
import { finish, goesOn, type Scenario, Stranded, volume } from './scenario.js'

/** Corosync's times and those of the device (cluster.ts): its server has to miss a host before it votes without it. */
const deviceLimit = 20_000

async function alone(cluster: SystemCluster, host: Host): Promise<void> {
  await until(`${host.name} to go on alone`, deviceLimit, async () => {
    const info = await cluster.info(host)
    return info?.status === 'running' && info.epochs[0].nodes.length === 1
  })
}

export const deviceScenario: Scenario = {
  name: 'quorum-device',
  title: 'two hosts and a quorum device: the half that has its vote goes on, the other completes nothing',
  short: false,
  hosts: 2,
  witness: true,
  layer: 'device',
  async run(cluster) {
    const [first, second] = cluster.hosts
    await cluster.bed.hosts[2].run('systemctl', ['enable', '--now', 'corosync-qnetd'])
    for (const host of cluster.hosts) await host.run('systemctl', ['enable', '--now', 'corosync-qdevice'])
    await until("the device's vote", deviceLimit, async () => {
      const { stdout } = await first.try('corosync-quorumtool', ['-s'])
      return /Expected votes: +3/.test(stdout) && /Total votes: +3/.test(stdout) && /Qdevice/.test(stdout)
    })
    const name = await volume(cluster, 'device')
    await cluster.whileWriting(first, name, async () => {
      const stranded = await Stranded.on(cluster, [second])
      // Each sees the device's host. Its tie-breaker is the lower number.
      cluster.bed.part(first, second)
      await alone(cluster, first)
      await goesOn(cluster, first, deviceLimit)
      await stranded.completeNothing()
      await stranded.takeOver(first)
      cluster.bed.heal()
      await cluster.healthy()
      await stranded.end()
      await second.powerOff()
      await alone(cluster, first)
      await goesOn(cluster, first, deviceLimit)
    })
    const before = await cluster.digest(first, name)
    await first.powerOff()
    // The device would give it quorum, and what the first host wrote alone is not here.
    await second.boot()
    await until('quorum on the second host', deviceLimit, async () => {
      return /Quorate: +Yes/.test((await second.try('corosync-quorumtool', ['-s'])).stdout)
    })
    await until('its daemon to answer', 60_000, async () => (await cluster.status(second)) !== 'down')
    await sleep(5_000)
    const status = await cluster.status(second)
    if (status === 'running' || status === 'down') throw new Error(`the second host, alone, is ${status}`)
    await first.boot()
    await cluster.healthy()
    for (const host of cluster.hosts) {
      if ((await cluster.digest(host, name)) !== before) throw new Error(`other bytes than before on ${host.name}`)
    }
    await finish(cluster, name)
  },
}
