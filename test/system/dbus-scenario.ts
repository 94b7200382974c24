/** org.sheepdog on the system bus of real hosts: polkit, corosync-notifyd, and buses that are restarted. */
import { until } from '../support/process.js'
import type { SystemCluster } from './cluster.js'
import type { Host } from './host.js'
import type { Scenario } from './scenario.js'

const CLUSTER = ['org.sheepdog', '/org/sheepdog/cluster', 'org.sheepdog.Cluster']
const signalLimit = 30_000

interface Signal {
  member: string
  data: unknown[]
}

/** What the bus of a host is told of the cluster, from now on. */
class Signals {
  private text = ''
  private readonly ended: Promise<unknown>

  private constructor(private readonly host: Host) {
    const match = "type='signal',path='/org/sheepdog/cluster',interface='org.sheepdog.Cluster'"
    this.ended = host.try('sh', ['-c', `exec busctl monitor --json=short --match="${match}" 2>&1`], {
      limit: 300_000,
      onOutput: (text) => {
        this.text += text
      },
    })
    this.ended.catch(() => undefined)
  }

  /** Resolves when nothing is missed any more. */
  static async of(host: Host): Promise<Signals> {
    const signals = new Signals(host)
    await until('busctl monitor', signalLimit, async () => {
      await host.run('busctl', ['emit', '/org/sheepdog/cluster', 'org.sheepdog.Cluster', 'Probe'])
      return signals.text.includes('"Probe"')
    })
    return signals
  }

  private get all(): Signal[] {
    const lines = this.text.split('\n').filter((line) => line.startsWith('{') && line.endsWith('}'))
    return lines.map((line) => {
      const { member, payload } = JSON.parse(line) as { member: string; payload: { data: unknown[] } }
      return { member, data: payload.data }
    })
  }

  async heard(member: string, check: (data: unknown[]) => boolean = () => true): Promise<unknown[]> {
    try {
      const found = await until(member, signalLimit, () => {
        return this.all.find((signal) => signal.member === member && check(signal.data))
      })
      return found.data
    } catch (error) {
      throw new Error(`${(error as Error).message}; heard\n${this.text}`)
    }
  }

  async end(): Promise<void> {
    await this.host.run('pkill', ['busctl'])
    await this.ended
  }
}

async function expectRefusal(host: Host, user: string, words: readonly string[], pattern: RegExp): Promise<void> {
  const { code, stderr } = await host.try('runuser', ['-u', user, '--', 'busctl', ...words])
  if (code === 0 || !pattern.test(stderr)) throw new Error(`busctl of ${user} ended with ${code}: ${stderr}`)
}

function createWords(name: string): string[] {
  return ['call', ...CLUSTER, 'CreateVolume', 'sta{sv}', name, '67108864', '0']
}

async function usersAndPolkit(host: Host): Promise<void> {
  await host.run('sh', ['-c', 'getent group sheepdog || groupadd --system sheepdog'])
  await host.run('sh', ['-c', 'id alice || useradd alice; id bob || useradd --groups sheepdog bob'])
  const status = await host.run('runuser', ['-u', 'alice', '--', 'busctl', 'get-property', ...CLUSTER, 'Status'])
  if (status !== 's "running"\n') throw new Error(`alice reads ${status}`)
  await expectRefusal(
    host,
    'alice',
    createWords('alices'),
    /not authorized for org.sheepdog.manage-volumes: polkit does not/,
  )
  const silent = ['--allow-interactive-authorization=false', ...createWords('alices')]
  await expectRefusal(host, 'alice', silent, /password|[Ii]nteractive authentication/)
  const made = await host.run('runuser', ['-u', 'bob', '--', 'busctl', ...createWords('bobs')])
  if (made !== 'o "/org/sheepdog/volumes/bobs"\n') throw new Error(`bob made ${made}`)
  // A rule of the administrator's own, by volume.
  host.write(
    '/etc/polkit-1/rules.d/10-alice.rules',
    'polkit.addRule(function (action, subject) {\n' +
      '  if (action.id === "org.sheepdog.delete-data" && action.lookup("volume") === "bobs" && subject.user === "alice")\n' +
      '    return polkit.Result.YES\n})\n',
  )
  await host.run('systemctl', ['restart', 'polkit'])
  const volume = ['org.sheepdog', '/org/sheepdog/volumes/bobs', 'org.sheepdog.Volume']
  await host.run('runuser', ['-u', 'alice', '--', 'busctl', 'call', ...volume, 'Delete'])
  await host.run('systemctl', ['mask', '--runtime', '--now', 'polkit'])
  try {
    await expectRefusal(host, 'bob', createWords('bobs'), /polkit cannot be asked .*only root may/)
    await host.run('busctl', createWords('roots'))
    await host.run('busctl', ['call', 'org.sheepdog', '/org/sheepdog/volumes/roots', 'org.sheepdog.Volume', 'Delete'])
  } finally {
    await host.run('systemctl', ['unmask', '--runtime', 'polkit'])
  }
}

/** Reason and detail of the next departure of that host. */
async function departure(signals: Signals, host: Host, act: () => Promise<unknown>): Promise<string> {
  await act()
  const [, , , reason, detail] = await signals.heard('NodeLeft', ([, name]) => name === host.name)
  return `${reason}: ${detail}`
}

async function expectDeparture(watcher: Host, host: Host, pattern: RegExp, act: () => Promise<unknown>): Promise<void> {
  const signals = await Signals.of(watcher)
  try {
    const why = await departure(signals, host, act)
    if (!pattern.test(why)) throw new Error(`${host.name} left: ${why}; not ${pattern}`)
  } finally {
    await signals.end()
  }
}

async function onTheBus(host: Host): Promise<void> {
  await until(`org.sheepdog on the bus of ${host.name}`, 60_000, async () => {
    return (await host.try('busctl', ['get-property', ...CLUSTER, 'Status'])).stdout === 's "running"\n'
  })
}

export const dbusScenario: Scenario = {
  name: 'dbus',
  title: 'D-Bus: polkit decides who may, a departure has its reason, and buses may be restarted',
  short: true,
  async run(cluster: SystemCluster) {
    const [first, second, third] = cluster.hosts
    await Promise.all(cluster.hosts.map((host) => host.run('systemctl', ['restart', 'corosync-notifyd'])))
    await Promise.all(cluster.hosts.map(onTheBus))
    const tree = await second.run('busctl', ['tree', '--list', 'org.sheepdog'])
    if (tree.match(/^\/org\/sheepdog\/nodes\/[0-9a-f]{16}$/gm)?.length !== 3) throw new Error(`the tree is\n${tree}`)
    await usersAndPolkit(first)

    await expectDeparture(first, second, /^left: it stopped in order$/, () =>
      second.run('systemctl', ['stop', 'sheepdog']),
    )
    await second.run('systemctl', ['start', 'sheepdog'])
    await cluster.healthy()
    const kill = ['kill', '--signal=KILL', 'sheepdog']
    await expectDeparture(first, second, /^died: its process died$/, () => second.run('systemctl', kill))
    await cluster.healthy()
    const address = third.address.replaceAll('.', '\\.')
    const lost = new RegExp(`^lost: its host .*; corosync has lost host (\\S+ \\()?${address}\\)?$`)
    await expectDeparture(first, third, lost, () => third.powerOff())
    const log = await first.run('dog', ['node', 'log', '-l', '200'])
    if (!/node host3 .* left with epoch \d+: its host has gone/.test(log)) throw new Error(`the log says\n${log}`)
    await third.boot()
    await cluster.healthy()

    const signals = await Signals.of(first)
    try {
      cluster.bed.partition([first], [second, third])
      const [reason] = await signals.heard('QuorumLost')
      cluster.say(`  quorum lost: ${reason}`)
      cluster.bed.heal()
      await signals.heard('QuorumRegained')
      await cluster.healthy()
    } finally {
      await signals.end()
    }
    await second.run('systemctl', ['restart', 'dbus'])
    await onTheBus(second)
    if ((await cluster.status(second)) !== 'running') throw new Error('the daemon minded that D-Bus was restarted')
  },
}
