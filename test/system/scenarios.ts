/** What happens to hosts, and what must hold. Each takes a healthy cluster, of three hosts if it says nothing else, and leaves one. */
import { sleep, until } from '../support/process.js'
import { apparmorScenario } from './apparmor-scenario.js'
import { tokenMs } from './cluster.js'
import { dbusScenario } from './dbus-scenario.js'
import { deviceScenario } from './device-scenario.js'
import { fourHosts } from './four-hosts.js'
import { guestAgentScenario, guestsScenario } from './guests-scenario.js'
import type { Host } from './host.js'
import { initScenario } from './init-scenario.js'
import { keyScenario } from './key-scenario.js'
import { libvirtScenario } from './libvirt-scenario.js'
import { modularScenario } from './modular-scenario.js'
import { packageScenario, upgradeScenario } from './package-scenario.js'
import { readmeScenario } from './readme-scenario.js'
import { rebootScenario } from './reboot-scenario.js'
import { allAtOnce, finish, goesOn, nodesAre, type Scenario, Stranded, volume } from './scenario.js'
import { bound, endsSoon, guarded, levels, reload } from './service-checks.js'
import { virshScenario } from './virsh-scenario.js'
import { virtInstallScenario, virtManagerScenario } from './virt-tools-scenario.js'
import { volCloneScenario } from './vol-clone-scenario.js'
import { volumesScenario } from './volumes-scenario.js'

/** Corosync's token time for three nodes (corosync.conf(5): token + token_coefficient), its consensus, and 2 s. */
const switchLimit = (tokenMs + 650) * 2.2 + 2_000

async function exposure(host: Host): Promise<{ overallExposure: number }> {
  const text = await host.run('systemd-analyze', ['security', 'sheepdog.service', '--no-pager'])
  const match = /exposure level for sheepdog\.service: ([0-9.]+)/.exec(text)
  if (match === null) throw new Error(`systemd-analyze says\n${text}`)
  return { overallExposure: Number(match[1]) }
}

/** Several hundred changes of the cluster's state a second, all hosts together */
const changesLimit = 300
/** Of systemd-analyze security: 0 is nothing to gain from it, 10 everything */
const exposureLimit = 3

export const scenarios: readonly Scenario[] = [
  dbusScenario,
  libvirtScenario,
  volumesScenario,
  virshScenario,
  volCloneScenario,
  modularScenario,
  packageScenario,
  upgradeScenario,
  readmeScenario,
  rebootScenario,
  keyScenario,
  initScenario,
  deviceScenario,
  guestsScenario,
  guestAgentScenario,
  apparmorScenario,
  virtInstallScenario,
  virtManagerScenario,
  {
    name: 'form',
    title: 'hosts form a cluster, with the addresses that corosync knows them by',
    short: true,
    async run(cluster) {
      const list = await cluster.hosts[2].run('dog', ['node', 'list'])
      for (const { name, address } of cluster.hosts) {
        if (!list.includes(`${address}:7000`) || !list.includes(name)) throw new Error(`${name} is not in\n${list}`)
      }
      const name = await volume(cluster, 'form')
      await cluster.fio(cluster.hosts[0], name, 2)
      await guarded(cluster)
      await finish(cluster, name)
    },
  },
  {
    name: 'service',
    title: 'systemd knows when the daemon is ready and how it is, restarts one that hangs, and lets it do little',
    short: true,
    async run(cluster) {
      const [first, , third] = cluster.hosts
      await cluster.saysReady(first, /: serving$/)
      const { overallExposure } = await exposure(first)
      cluster.say(`  exposure ${overallExposure}`)
      if (overallExposure > exposureLimit) throw new Error(`systemd-analyze security: ${overallExposure}`)
      await first.run('systemctl', ['stop', 'corosync'])
      await until('systemctl status to say that it halted', 10_000, async () => {
        return /corosync does not run/.test((await first.unit('sheepdog')).StatusText)
      })
      await first.run('systemctl', ['start', 'corosync'])
      await cluster.healthy()
      await reload(cluster, first)
      await levels(first)
      await bound(cluster, first)
      await endsSoon(cluster, third)
      const restarted = await cluster.timed(() => third.run('systemctl', ['restart', 'sheepdog']))
      cluster.say(`  an orderly restart took ${restarted} ms`)
      await cluster.healthy()
      third.write('/etc/systemd/system/sheepdog.service.d/soon.conf', '[Service]\nWatchdogSec=2\nTimeoutAbortSec=2\n')
      await third.run('systemctl', ['daemon-reload'])
      await third.run('systemctl', ['restart', 'sheepdog'])
      await third.run('systemctl', ['kill', '--signal=STOP', 'sheepdog'])
      await until('the watchdog', 30_000, async () => {
        return Number((await third.unit('sheepdog')).NRestarts) > 0
      })
      await cluster.healthy()
    },
  },
  {
    name: 'messages',
    title: 'the engine alone: thousands of messages from three hosts, large ones between, one order',
    short: true,
    async run(cluster) {
      const words = ['/usr/lib/sheepdog/dist/test/system/talker.js', 'talk', '3', '1000', '300']
      const said = await Promise.all(cluster.hosts.map((host) => host.run('node', words)))
      const results = said.map((text) => JSON.parse(text) as { heard: number; order: string; ms: number })
      if (new Set(results.map(({ order }) => order)).size !== 1) throw new Error(`other orders: ${said.join('')}`)
      const slowest = Math.max(...results.map(({ ms }) => ms))
      const rate = Math.round((results[0].heard * 1000) / slowest)
      cluster.say(`  ${results[0].heard} messages and 24 MiB in ${slowest} ms: ${rate} messages/s`)
      if (rate < changesLimit) throw new Error(`fewer than ${changesLimit} messages a second`)
    },
  },
  {
    name: 'many-operations',
    title: 'volumes set, opened and closed from three hosts at once: several hundred changes a second',
    short: false,
    async run(cluster) {
      const program = '/usr/lib/sheepdog/dist/test/system/operations.js'
      const said = await Promise.all(cluster.hosts.map((host) => host.run('node', [program, host.name])))
      const results = said.map((text) => JSON.parse(text) as { changes: number; ms: number })
      const changes = results.reduce((sum, one) => sum + one.changes, 0)
      const slowest = Math.max(...results.map(({ ms }) => ms))
      const rate = Math.round((changes * 1000) / slowest)
      cluster.say(`  ${changes} changes in ${slowest} ms: ${rate} changes/s (limit ${changesLimit})`)
      const listed = await cluster.hosts[1].run('dog', ['vdi', 'list', '-r'])
      if (listed !== '') throw new Error(`deleted, and listed:\n${listed}`)
      if (rate < changesLimit) throw new Error(`${rate} changes a second`)
    },
  },
  {
    name: 'power-off',
    title: 'a host loses power under a writing volume, and comes back',
    short: true,
    async run(cluster) {
      const [first, , third] = cluster.hosts
      const name = await volume(cluster, 'power')
      await cluster.underLoad(
        first,
        () => cluster.fio(first, name, 20),
        async () => {
          await third.powerOff()
          await nodesAre(cluster, first, 2, switchLimit)
          await goesOn(cluster, first, 5_000)
          await third.boot()
          await cluster.healthy()
        },
      )
      await finish(cluster, name)
    },
  },
  {
    name: 'writer-cut-off',
    title: 'the writing host is cut off from the others: it completes nothing, and goes on after healing',
    short: true,
    async run(cluster) {
      const [first, second, third] = cluster.hosts
      const name = await volume(cluster, 'minority')
      await cluster.whileWriting(first, name, async () => {
        const stranded = await Stranded.on(cluster, [first])
        cluster.bed.partition([first], [second, third])
        await stranded.completeNothing()
        await nodesAre(cluster, second, 2, switchLimit)
        await stranded.takeOver(second)
        cluster.bed.heal()
        await goesOn(cluster, first, 30_000)
        await stranded.end()
      })
      await finish(cluster, name)
    },
  },
  {
    name: 'no-quorum-time',
    title: 'a host is cut off: its volume that fails after 5 s does, its other waits, and both go on after healing',
    short: false,
    async run(cluster) {
      const [first, second, third] = cluster.hosts
      const name = await volume(cluster, 'fails')
      const patient = await volume(cluster, 'waits')
      await first.run('dog', ['vdi', 'set', name, '--on-no-quorum', '5'])
      await cluster.whileWriting(first, patient, async () => {
        const load = cluster.fio(first, name, 60).then(() => '', String)
        await goesOn(cluster, first, 10_000)
        cluster.bed.partition([first], [second, third])
        let error = ''
        const ms = await cluster.timed(async () => {
          error = await load
        })
        cluster.say(`  failed ${ms} ms after the cut`)
        if (!/Input\/output error|error=5\b|err= ?5\b/.test(error)) throw new Error(`fio does not say EIO: ${error}`)
        if (ms < 5_000 || ms > 5_000 + switchLimit + 2_000) throw new Error(`it failed ${ms} ms after the cut`)
        cluster.bed.heal()
        await goesOn(cluster, first, 30_000)
        await cluster.fio(first, name, 3)
      })
      await finish(cluster, name)
      await finish(cluster, patient)
    },
  },
  {
    name: 'other-cut-off',
    title: 'another host is cut off: the writing one goes on, the other one joins again by itself',
    short: false,
    async run(cluster) {
      const [first, second, third] = cluster.hosts
      const name = await volume(cluster, 'majority')
      await cluster.underLoad(
        first,
        () => cluster.fio(first, name, 20),
        async () => {
          third.unplug()
          await nodesAre(cluster, second, 2, switchLimit)
          await goesOn(cluster, first, 5_000)
          if ((await cluster.status(third)) !== 'halted') throw new Error('the host that was cut off is not halted')
          cluster.bed.heal()
          await cluster.healthy()
        },
      )
      await finish(cluster, name)
    },
  },
  {
    name: 'corosync-restart',
    title: 'corosync is restarted, then killed, under the writing host and under another',
    short: true,
    async run(cluster) {
      const [first, second] = cluster.hosts
      const name = await volume(cluster, 'corosync')
      await cluster.whileWriting(first, name, async () => {
        for (const host of [second, first]) {
          await host.run('systemctl', ['restart', 'corosync'])
          await goesOn(cluster, first, 30_000)
          await cluster.healthy()
        }
        await first.run('systemctl', ['kill', '--signal=KILL', 'corosync'])
        await until('it to halt', switchLimit, async () => (await cluster.status(first)) === 'halted')
        const { reason } = (await cluster.info(first))!
        if (!/corosync does not run on this host/.test(reason)) throw new Error(`dog does not say why: ${reason}`)
        await first.run('systemctl', ['reset-failed', 'corosync'])
        await first.run('systemctl', ['start', 'corosync'])
        await goesOn(cluster, first, 30_000)
      })
      await finish(cluster, name)
    },
  },
  {
    name: 'paused',
    title: 'a host stands still for 30 s: the others go on, it serves nothing stale and joins again',
    short: false,
    async run(cluster) {
      const [first, , third] = cluster.hosts
      const name = await volume(cluster, 'paused')
      await cluster.underLoad(
        first,
        () => cluster.fio(first, name, 45),
        async () => {
          third.pause()
          await nodesAre(cluster, first, 2, switchLimit)
          await goesOn(cluster, first, 5_000)
          await sleep(30_000)
          third.resume()
          await cluster.healthy()
        },
      )
      await finish(cluster, name)
    },
  },
  {
    name: 'flapping',
    title: 'a cable that comes and goes, shorter and longer than the token time',
    short: false,
    async run(cluster) {
      const [first, , third] = cluster.hosts
      const name = await volume(cluster, 'flapping')
      await cluster.whileWriting(first, name, async () => {
        for (const ms of [300, 900, 1_500, 2_200, 3_000, 4_500]) {
          for (const host of [third, first]) {
            host.unplug()
            await sleep(ms)
            cluster.bed.heal()
            await sleep(500)
          }
        }
        await goesOn(cluster, first, 30_000)
      })
      await finish(cluster, name)
    },
  },
  {
    name: 'two-nodes',
    title: 'two hosts as corosync means them: either goes on alone, but none starts alone after both were down',
    short: false,
    hosts: 2,
    async run(cluster) {
      const [first, second] = cluster.hosts
      const name = await volume(cluster, 'two')
      await cluster.whileWriting(first, name, async () => {
        await second.powerOff()
        await nodesAre(cluster, first, 1, switchLimit)
        await goesOn(cluster, first, 5_000)
        await second.boot()
        await cluster.healthy()
        await second.run('systemctl', ['restart', 'corosync'])
        await goesOn(cluster, first, 30_000)
      })
      await finish(cluster, name)
      await Promise.all(cluster.hosts.map((host) => host.powerOff()))
      await first.boot()
      await until('its daemon to answer', 60_000, async () => (await cluster.status(first)) !== 'down')
      const quorum = (await first.try('corosync-quorumtool', ['-s'])).stdout
      // Its boot, which waits for the unit to be ready, is over.
      await cluster.saysReady(first, /: no quorum: most of the cluster is out of reach$/)
      if (!/Quorate: +No/.test(quorum) || !/Flags: .*2Node .*WaitForAll/.test(quorum))
        throw new Error(`corosync does not wait for all:\n${quorum}`)
      await sleep(8_000)
      const alone = await cluster.status(first)
      if (alone === 'running' || alone === 'down')
        throw new Error(`a host that started alone is ${alone}, though the other may have gone on without it`)
      await second.boot()
      await cluster.healthy()
    },
  },
  {
    name: 'all-at-once',
    title: 'every host loses power at once: they start again by themselves, with everything that was flushed',
    short: false,
    run: allAtOnce,
  },
  ...fourHosts,
]
