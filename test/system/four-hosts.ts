/**
 * Four hosts that `dog cluster init` has set up, three copies, a volume on the first by NBD under fio: what may happen to hosts
 * and networks. After each nothing is lost, all copies are the same, those who are enough went on within corosync's token time and
 * two seconds, the others completed nothing and came back by themselves.
 */
import { sleep, until } from '../support/process.js'
import { type SystemCluster, tokenMs } from './cluster.js'
import type { Host } from './host.js'
import { allAtOnce, finish, goesOn, nodesAre, type Scenario, Stranded, volume } from './scenario.js'

/** corosync.conf of `dog cluster init`: token + 50 for each host beyond two */
const goOnLimit = tokenMs + 2 * 50 + 2_000

/**
 * A volume that is made, ms: with busctl, which starts at once. dog is a program of Node: what its start takes where the cores are busy is
 * told beside it.
 */
const createLimit = 200
const measuredCount = 30

/** fio writes on the first host while `act` is done; none of its writes waits longer than the others need to go on. */
async function underFio(
  cluster: SystemCluster,
  name: string,
  seconds: number,
  act: () => Promise<void>,
): Promise<void> {
  const [first] = cluster.hosts
  await volume(cluster, name)
  const longest = await cluster.underLoad(first, () => cluster.fio(first, name, seconds), act)
  cluster.say(`  the longest write or flush took ${longest} ms (limit ${goOnLimit})`)
  if (longest > goOnLimit)
    throw new Error(`a write or flush took ${longest} ms: more than the token time and 2 s (${goOnLimit} ms)`)
  await finish(cluster, name)
}

/** One call for each volume over D-Bus: `dog` takes longer to start than the cluster to do it. */
async function byBus(host: Host, [path, face, ...words]: readonly string[], volumes: readonly string[]): Promise<void> {
  const call = ['busctl', 'call', 'org.sheepdog', `/org/sheepdog${path}`, `org.sheepdog.${face}`, ...words]
  const line = call.map((word) => `"${word}"`.replace('NAME', '$name')).join(' ')
  await host.run('sh', ['-c', `for name in ${volumes.join(' ')}; do ${line} || exit 1; done`], { limit: 180_000 })
}

/** What `dog cluster` would change on a host: its files, and its services. */
async function setUp(host: Host): Promise<string> {
  const files = 'find /etc/corosync /etc/sheepdog -type f -exec sha256sum {} + | sort'
  return (await host.try('sh', ['-c', `${files}; systemctl is-enabled corosync sheepdog`])).stdout
}

const four = { hosts: 4, short: false } as const

export const fourHosts: readonly Scenario[] = [
  {
    ...four,
    short: true,
    name: 'four-init',
    title: 'dog cluster init again changes nothing; a host that is in the way leaves all as they were',
    async run(cluster) {
      const [first] = cluster.hosts
      const fifth = cluster.bed.hosts[4]
      const names = cluster.hosts.map(({ name }) => name)
      const epoch = async () => (await cluster.info(first))?.epochs[0].number
      const before = await epoch()
      const again = await first.run('dog', ['cluster', 'init', ...names, ...cluster.initOptions])
      if (!/Nothing to do/.test(again)) throw new Error(`the second init says\n${again}`)
      const conf = first.read('/etc/corosync/corosync.conf')
      // It has all, but its sheepdog does not start: what was done for it is taken back everywhere.
      fifth.write('/etc/systemd/system/sheepdog.service.d/broken.conf', '[Service]\nExecStart=\nExecStart=/bin/false\n')
      const { code, stderr } = await first.try('dog', ['cluster', 'add', fifth.name, '--yes'])
      if (code === 0 || !/all hosts are as they were/.test(stderr))
        throw new Error(`add of a broken host says\n${stderr}`)
      await fifth.run('rm', ['/etc/systemd/system/sheepdog.service.d/broken.conf'])
      for (const host of cluster.hosts) {
        if (host.read('/etc/corosync/corosync.conf') !== conf)
          throw new Error(`corosync.conf of ${host.name} has changed`)
        const left = await host.run('sh', ['-c', 'ls /etc/corosync /etc/sheepdog | grep dog- || true'])
        if (left !== '') throw new Error(`left on ${host.name}: ${left}`)
      }
      const { stdout } = await fifth.try('systemctl', ['is-active', 'corosync', 'sheepdog'])
      if (!/inactive|failed/.test(stdout.split('\n')[1])) throw new Error(`sheepdog of ${fifth.name} is ${stdout}`)
      if ((await epoch()) !== before) throw new Error('an epoch has begun')
      // Another host under a known name.
      await first.run('sh', ['-c', 'cp /root/.ssh/known_hosts /root/known_hosts'])
      await fifth.run('sh', ['-c', 'rm /etc/ssh/ssh_host_*; ssh-keygen -q -A; systemctl restart ssh'])
      const stranger = await first.try('dog', ['cluster', 'add', fifth.name, '--yes', '--accept-new-host-keys'])
      if (stranger.code === 0 || !/is not the one that is known/.test(stranger.stderr)) {
        throw new Error(`a changed host key: ${stranger.stderr}`)
      }
      await first.run('ssh-keygen', ['-q', '-R', fifth.name])
      const unknown = await first.try('dog', ['cluster', 'add', fifth.name, '--dry-run'])
      if (!/host key of host5 is not known: \S+ SHA256:/.test(unknown.stderr)) throw new Error(unknown.stderr)
      const all = [...cluster.hosts, fifth]
      const asTheyAre = `${await Promise.all(all.map(setUp))}`
      const plan = await first.run('dog', ['cluster', 'add', fifth.name, '--dry-run', '--accept-new-host-keys'])
      if (!/corosync/.test(plan)) throw new Error(`the plan is\n${plan}`)
      const after = `${await Promise.all(all.map(setUp))}`
      if (after !== asTheyAre) throw new Error(`--dry-run changed hosts:\n${asTheyAre}\n${after}`)
    },
  },
  {
    ...four,
    name: 'four-power-off',
    title: 'one of four hosts loses power, and comes back',
    run: (cluster) =>
      underFio(cluster, 'power', 20, async () => {
        const [first, , third] = cluster.hosts
        await third.powerOff()
        await nodesAre(cluster, first, 3, goOnLimit + 2_000)
        await third.boot()
        await cluster.healthy()
      }),
  },
  {
    ...four,
    name: 'four-cut',
    title: 'one of four hosts is cut off (1:3), and comes back',
    run: (cluster) =>
      underFio(cluster, 'cut', 20, async () => {
        const [first, , , fourth] = cluster.hosts
        const stranded = await Stranded.on(cluster, [fourth])
        fourth.unplug()
        await nodesAre(cluster, first, 3, goOnLimit + 2_000)
        await stranded.completeNothing()
        await stranded.takeOver(first)
        cluster.bed.heal()
        await cluster.healthy()
        await stranded.end()
      }),
  },
  {
    ...four,
    name: 'four-writer-cut',
    title: 'the writing one of four hosts is cut off (1:3), and goes on when it is back',
    async run(cluster) {
      const [first, ...others] = cluster.hosts
      const name = await volume(cluster, 'alone')
      await cluster.whileWriting(first, name, async () => {
        const stranded = await Stranded.on(cluster, [first])
        cluster.bed.partition([first], others)
        await nodesAre(cluster, others[0], 3, goOnLimit + 2_000)
        await stranded.completeNothing()
        cluster.bed.heal()
        await cluster.healthy()
        await goesOn(cluster, first, 30_000)
        await stranded.end()
      })
      await finish(cluster, name)
    },
  },
  {
    ...four,
    name: 'four-halves',
    title: 'two hosts here, two there: neither half completes anything, and all go on when they meet again',
    async run(cluster) {
      const [first, second, third, fourth] = cluster.hosts
      const name = await volume(cluster, 'halves')
      await cluster.whileWriting(first, name, async () => {
        const stranded = await Stranded.on(cluster, cluster.hosts)
        cluster.bed.partition([first, second], [third, fourth])
        await stranded.completeNothing()
        cluster.bed.heal()
        await cluster.healthy()
        await goesOn(cluster, first, 30_000)
        await stranded.end()
      })
      await finish(cluster, name)
    },
  },
  {
    ...four,
    name: 'four-paused',
    title: 'one of four hosts stands still for 30 s',
    run: (cluster) =>
      underFio(cluster, 'paused', 50, async () => {
        const [first, , third] = cluster.hosts
        third.pause()
        await nodesAre(cluster, first, 3, goOnLimit + 2_000)
        await sleep(30_000)
        third.resume()
        await cluster.healthy()
      }),
  },
  {
    ...four,
    name: 'four-corosync-restart',
    title: 'corosync is restarted on one of four hosts',
    run: (cluster) =>
      underFio(cluster, 'restart', 15, async () => {
        const [, , third] = cluster.hosts
        await third.run('systemctl', ['restart', 'corosync'])
        await cluster.healthy()
      }),
  },
  {
    ...four,
    name: 'four-grow-and-shrink',
    title: 'dog cluster remove takes a host out, dog cluster add brings a new one and the former one',
    async run(cluster) {
      const [first, second, third, fourth] = cluster.hosts
      const fifth = cluster.bed.hosts[4]
      const dog = async (verb: string, host: Host) => {
        const said = await first.run('dog', ['cluster', verb, host.name, '--yes', '--accept-new-host-keys'])
        cluster.say(`  ${said.trim().split('\n').at(-1)}`)
      }
      await underFio(cluster, 'grow', 60, async () => {
        await dog('remove', third)
        cluster.hosts = [first, second, fourth]
        await cluster.healthy()
        await cluster.allIdentical()
        await dog('add', fifth)
        cluster.hosts = [first, second, fourth, fifth]
        await cluster.healthy()
        await cluster.allIdentical()
      })
      await dog('remove', fifth)
      await dog('add', third)
      cluster.hosts = [first, second, third, fourth]
      await cluster.healthy()
      await cluster.allIdentical()
    },
  },
  {
    ...four,
    name: 'sixteen-daemons',
    title: 'four daemons on each of four hosts, 200 volumes: how long dog vdi create takes',
    async run(cluster) {
      const more = [1, 2, 3]
      const unit = (number: number) => `sheep-${number}`
      for (const host of cluster.hosts) {
        for (const number of more) {
          const sheep = `sheep -f -c corosync --dbus none --volumes none --no-register-pool -p ${7000 + number}`
          const run = `systemd-run --quiet -p Type=notify --collect --unit=${unit(number)}`
          await host.run('sh', ['-c', `${run} ${sheep} /var/lib/sheep${number}`])
        }
      }
      const [first] = cluster.hosts
      await until('sixteen daemons', 60_000, async () => {
        const info = await cluster.info(first)
        return info?.status === 'running' && info.epochs[0].nodes.length === 16 && info.recovering.length === 0
      })
      /** Of 30 calls, each by a process of its own, ms */
      const times = async (command: string): Promise<number[]> => {
        const us = '$((($(date +%s%N) - a) / 1000))'
        const loop = `for i in $(seq ${measuredCount}); do a=$(date +%s%N); ${command} >&2 || exit 1; echo ${us}; done`
        const said = await first.run('sh', ['-c', loop], { limit: 180_000 })
        return said
          .trim()
          .split('\n')
          .map((us) => Number(us) / 1000)
          .sort((a, b) => a - b)
      }
      const median = (what: string, measured: readonly number[]): number => {
        const at = (share: number) => Math.round(measured[Math.floor((measured.length - 1) * share)])
        cluster.say(`  ${what}: median ${at(0.5)} ms, 90% ${at(0.9)} ms, longest ${at(1)} ms`)
        return at(0.5)
      }
      const volumes = Array.from({ length: 200 }, (_, at) => `volume${at + 1}`)
      await byBus(first, ['/cluster', 'Cluster', 'CreateVolume', 'sta{sv}', 'NAME', String(1 << 30), '0'], volumes)
      const start = median('dog --version', await times('dog --version'))
      const byDog = median('dog vdi create', await times('dog vdi create bydog$i 1G'))
      const call = 'busctl call org.sheepdog /org/sheepdog/cluster org.sheepdog.Cluster CreateVolume "sta{sv}"'
      const byCall = median('CreateVolume by busctl', await times(`${call} bybus$i ${1 << 30} 0`))
      const made = Array.from({ length: measuredCount }, (_, at) => [`bydog${at + 1}`, `bybus${at + 1}`]).flat()
      const all = [...volumes, ...made]
      await byBus(first, ['/volumes/NAME', 'Volume', 'Delete'], all)
      for (const number of more) {
        for (const host of cluster.hosts) await host.run('systemctl', ['stop', unit(number)])
        await until('the others to go on', 60_000, async () => {
          const info = await cluster.info(first)
          return info?.status === 'running' && info.recovering.length === 0
        })
      }
      await cluster.healthy()
      if (Math.max(byDog - start, byCall) > createLimit) throw new Error(`a create takes longer than ${createLimit} ms`)
    },
  },
  {
    ...four,
    name: 'four-all-at-once',
    title: 'all four hosts lose power at once: they start again by themselves, with everything that was flushed',
    run: allAtOnce,
  },
]
