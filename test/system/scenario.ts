/** What a scenario is, and what most of them do. */
import { until } from '../support/process.js'
import type { Setting, SystemCluster } from './cluster.js'
import type { Host } from './host.js'

export interface Scenario extends Setting {
  name: string
  title: string
  /** Part of npm test */
  short: boolean
  run(cluster: SystemCluster): Promise<void>
}

export async function volume(cluster: SystemCluster, name: string): Promise<string> {
  await cluster.hosts[0].run('dog', ['vdi', 'create', name, '64M'])
  return name
}

export async function finish(cluster: SystemCluster, name: string): Promise<void> {
  await cluster.healthy()
  await cluster.identical(name)
  await cluster.allIdentical()
  const digests = new Set<string>()
  for (const host of cluster.hosts) digests.add(await cluster.digest(host, name))
  if (digests.size !== 1) throw new Error(`the hosts read different bytes: ${[...digests].join(' ')}`)
  await cluster.hosts[0].run('dog', ['vdi', 'delete', name])
}

/** It completes further writes. */
export async function goesOn(cluster: SystemCluster, host: Host, limit: number): Promise<void> {
  const start = performance.now()
  const before = await cluster.writes(host)
  await until(`writes at ${host.name} to go on`, limit, async () => (await cluster.writes(host)) > before + 50)
  cluster.say(`  ${host.name} went on after ${Math.round(performance.now() - start)} ms`)
}

/** Every host loses power at the same moment: they start again by themselves, with everything that was flushed. */
export async function allAtOnce(cluster: SystemCluster): Promise<void> {
  const [first] = cluster.hosts
  const name = await volume(cluster, 'all')
  await cluster.fio(first, name, 3)
  const before = await cluster.digest(first, name)
  await Promise.all(cluster.hosts.map((host) => host.powerOff()))
  const start = performance.now()
  await Promise.all(cluster.hosts.map((host) => host.boot()))
  await cluster.healthy()
  cluster.say(`  all serve ${Math.round((performance.now() - start) / 1000)} s after the power came back`)
  if ((await cluster.digest(first, name)) !== before) throw new Error('other bytes than before')
  await finish(cluster, name)
}

/** What a program that ends well says; an error when that is something else. */
export async function expect(host: Host, pattern: RegExp, program: string, ...args: string[]): Promise<string> {
  const text = await host.run(program, args)
  if (!pattern.test(text)) throw new Error(`${host.name}: ${program} ${args.join(' ')} says\n${text}`)
  return text
}

/** It ends with an error, and says so. */
export async function refused(host: Host, pattern: RegExp, program: string, ...args: string[]): Promise<void> {
  const { code, stdout, stderr } = await host.try(program, args)
  if (code !== 0 && pattern.test(stderr)) return
  throw new Error(`${host.name}: ${program} ${args.join(' ')} ended with ${code}: ${stdout}${stderr}`)
}
