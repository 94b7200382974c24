/** Facts of hosts -> what is wrong with them, or what to do on them. Pure: tests look at plans, nothing is run here. */
import type { SheepError } from '../../errors.js'
import { formatSize } from '../size.js'
import { type ConfNode, type CorosyncConf, freeNodeid, newConf, parseConf, withNodes } from './corosync-conf.js'
import { type HostFacts, PATHS } from './facts.js'
import type { File, Phase, Step } from './steps.js'
import * as steps from './steps.js'

/** A host as it was named, and what it says of itself. */
export interface Surveyed {
  host: string
  /** What the name is here */
  address: string
  facts: HostFacts
  /** Its clock is so far ahead of ours, ms; negative: behind */
  skewMs: number
}

export interface Problem {
  /** '' all */
  host: string
  text: string
  hint: string
}

export interface Plan {
  phases: Phase[]
  /** Worth knowing, and no obstacle */
  notes: string[]
}

export interface Secrets {
  authkey: Buffer
  clusterKey: string
}

const SKEW_MAX_MS = 10_000
const FREE_MIN = 2 ** 30
/** corosync(5) recommends no more without measuring */
export const HOSTS_MAX = 32

export const CLUSTER_NAME = 'sheepdog'

/** What has to be so on each host, whatever is to be done. */
export function problemsOf(hosts: readonly Surveyed[]): Problem[] {
  return hosts.flatMap((one) => [...problemsOfSystem(one), ...problemsOfAddresses(one, hosts)])
}

function problemsOfSystem({ host, facts, skewMs }: Surveyed): Problem[] {
  const { system, systemd, packages, listeners, free } = facts
  const problems: Problem[] = []
  const problem = (text: string, hint: string): unknown => problems.push({ host, text, hint })
  const known = system.some((name) => ['debian', 'fedora', 'rhel'].includes(name))
  if (!known)
    problem(
      `its system is ${system[0] ?? 'unknown'}`,
      'Debian, Fedora and those made of them can be set up; others by hand',
    )
  if (!systemd) problem('systemd does not run on it', 'services are units of systemd')
  for (const [name, { present, installable }] of Object.entries(packages)) {
    if (!present && !installable)
      problem(`${name} is neither installed nor in its package lists`, `install ${name} on it`)
  }
  if (Math.abs(skewMs) > SKEW_MAX_MS) {
    const seconds = Math.round(Math.abs(skewMs) / 1000)
    problem(`its clock is ${seconds} s ${skewMs > 0 ? 'ahead' : 'behind'}`, 'let NTP set it: timedatectl set-ntp true')
  }
  if (free < FREE_MIN) problem(`only ${formatSize(free)} are free for its store`, `at least ${formatSize(FREE_MIN)}`)
  if (!['', 'node', 'sheep', 'MainThread'].includes(listeners.sheep)) {
    problem(`${listeners.sheep} listens on TCP port 7000`, 'end it, or give it another port')
  }
  if (!['', 'corosync'].includes(listeners.corosync)) {
    problem(`${listeners.corosync} uses UDP port 5405`, 'end it, or give it another port')
  }
  return problems
}

function problemsOfAddresses({ host, address, facts }: Surveyed, hosts: readonly Surveyed[]): Problem[] {
  const problems: Problem[] = []
  if (!facts.addresses.includes(address)) {
    problems.push({
      host,
      text: `${host} is ${address} here, and the host there has ${facts.addresses.join(', ') || 'no addresses'}`,
      hint: 'name it by an address of its own, one that the other hosts reach',
    })
  }
  for (const other of hosts) {
    const seen = facts.resolved.get(other.host) ?? []
    // Debian gives a host's own name a loopback address; addresses are what corosync gets.
    if (other.host === host || seen.length === 0 || seen.includes(other.address)) continue
    problems.push({
      host,
      text: `${other.host} is ${seen.join(', ')} there, and ${other.address} here`,
      hint: 'make both say the same (/etc/hosts, DNS)',
    })
  }
  const twin = hosts.find((other) => other.host !== host && other.address === address)
  if (twin !== undefined)
    problems.push({ host, text: `it is the same host as ${twin.host}`, hint: 'name each host once' })
  return problems
}

export interface Members {
  conf: string
  parsed: CorosyncConf
}

/** The cluster that the hosts are in, all of its hosts among them; null none. */
export function clusterAmong(hosts: readonly Surveyed[]): { members: Members | null; problems: Problem[] } {
  const problems: Problem[] = []
  let members: Members | null = null
  const addresses = new Set(hosts.map(({ address }) => address))
  for (const { host, facts } of hosts) {
    if (facts.conf === null) continue
    let parsed: CorosyncConf
    try {
      parsed = parseConf(facts.conf)
    } catch (error) {
      const { message } = error as SheepError
      problems.push({ host, text: `its ${message}`, hint: 'mend it, or remove it if it is of no use' })
      continue
    }
    const strangers = parsed.nodes.filter(({ address }) => !addresses.has(address)).map(({ name }) => name)
    const missing = hosts.filter(({ address }) => !parsed.nodes.some((node) => node.address === address))
    if (strangers.length > 0) {
      problems.push({
        host,
        text: `it is in the corosync cluster "${parsed.clusterName}" with ${strangers.join(', ')}`,
        hint: 'name all of its hosts, or take this one out of it first (dog cluster remove)',
      })
    } else if (missing.length > 0) {
      problems.push({
        host,
        text: `it is in the cluster "${parsed.clusterName}" already, and ${missing.map((one) => one.host).join(', ')} not`,
        hint: `dog cluster add ${missing.map((one) => one.host).join(' ')}`,
      })
    } else if (members !== null && members.conf !== facts.conf) {
      problems.push({ host, text: 'its corosync.conf is not the one of the others', hint: 'make them the same' })
    } else {
      members = { conf: facts.conf, parsed }
    }
  }
  return { members, problems }
}

/** Where a secret is that hosts of the cluster have already; null nowhere, '' they differ. */
export function keyHolder(hosts: readonly Surveyed[], which: 'authkey' | 'clusterKey'): Surveyed | null {
  const having = hosts.filter(({ facts }) => facts[which] !== '')
  return having.find(({ facts }) => facts.conf !== null || facts.storeCluster !== '') ?? having[0] ?? null
}

/** Nothing of it is in use: another takes its place. */
function setAside(hosts: readonly Surveyed[], members: Members | null): Surveyed[] {
  return members === null ? hosts.filter(({ facts }) => facts.storeAlone) : []
}

function problemsOfStores(all: readonly Surveyed[], inCluster: boolean): Problem[] {
  const hosts = inCluster ? all : all.filter(({ facts }) => !facts.storeAlone)
  const owners = new Set(hosts.map(({ facts }) => facts.storeCluster).filter((id) => id !== ''))
  if (owners.size === 0 || (owners.size === 1 && inCluster)) return []
  return hosts
    .filter(({ facts }) => facts.storeCluster !== '')
    .map(({ host, facts }) => ({
      host,
      text: `its store has data of the cluster ${facts.storeCluster}, and init begins an empty one`,
      hint: `copy what is needed elsewhere (qemu-img convert), then stop sheepdog there and move ${PATHS.store} aside`,
    }))
}

/** What differs from what it should be, as files. */
function filesFor(
  { facts }: Surveyed,
  conf: string,
  { authkey, clusterKey }: Secrets,
  hashOf: (content: Buffer) => string,
): File[] {
  const daemonConf = withEngine(facts.daemonConf)
  const files: (File | false)[] = [
    hashOf(authkey) !== facts.authkey && { path: PATHS.authkey, mode: '0400', group: '', content: authkey },
    hashOf(Buffer.from(clusterKey)) !== facts.clusterKey && {
      ...{ path: PATHS.clusterKey, mode: '0640', group: 'sheepdog', content: Buffer.from(clusterKey) },
    },
    daemonConf !== facts.daemonConf && {
      ...{ path: PATHS.daemonConf, mode: '0644', group: '', content: Buffer.from(daemonConf) },
    },
    conf !== facts.conf && { path: PATHS.conf, mode: '0644', group: '', content: Buffer.from(conf) },
  ]
  return files.filter((file) => file !== false)
}

/** The daemon's configuration with the corosync engine, and all else that it says. */
export function withEngine(text: string | null): string {
  const lines = (text ?? '').split('\n')
  const at = lines.findIndex((line) => /^\s*cluster\s*=/.test(line))
  if (at < 0)
    return `${text ?? ''}${text === null || text === '' || text.endsWith('\n') ? '' : '\n'}cluster = corosync\n`
  if (/^\s*cluster\s*=\s*corosync\s*$/.test(lines[at])) return text as string
  lines[at] = 'cluster = corosync'
  return lines.join('\n')
}

export interface InitWish {
  copies: number
  tokenMs: number
  hashOf: (content: Buffer) => string
}

export function problemsOfInit(hosts: readonly Surveyed[]): Problem[] {
  const { members, problems } = clusterAmong(hosts)
  const found = [...problemsOf(hosts), ...problems]
  if (problems.length === 0) found.push(...problemsOfStores(hosts, members !== null))
  return found
}

/** Of hosts without problems. */
export function planInit(hosts: readonly Surveyed[], secrets: Secrets, wish: InitWish): Plan {
  const { members } = clusterAmong(hosts)
  const nodes = hosts.map(({ address, facts }, at) => ({ name: facts.hostname, address, nodeid: at + 1 }))
  const conf = members?.conf ?? newConf(CLUSTER_NAME, nodes, wish.tokenMs)
  const files = new Map(hosts.map((one) => [one, filesFor(one, conf, secrets, wish.hashOf)]))
  const aside = setAside(hosts, members)
  const formatted = hosts.some((one) => one.facts.storeCluster !== '' && !aside.includes(one))
  const emptied = phase(
    'set the empty store of a host alone aside',
    aside.map(({ host }) => steps.setAside(host)),
  )
  const begin = [...installPhases(hosts), ...filePhases(hosts, files, hosts), ...some([emptied])]
  const phases = [...begin, ...startPhases(hosts, files)]
  const [{ host: first }] = hosts
  if (phases.length > 0) joinAll(phases, hosts, hosts.length, 'wait until the daemons answer')
  if (!formatted) {
    const copies = wish.copies > 0 ? ` with ${wish.copies} ${wish.copies === 1 ? 'copy' : 'copies'} of each object` : ''
    phases.push({ ...phase(`format the cluster${copies}`, [steps.format(first, wish.copies)]), final: true })
    phases.push({
      ...phase(
        'wait until all serve',
        hosts.map(({ host }) => steps.serve(host, hosts.length)),
      ),
      final: true,
    })
  }
  phases.push(...forgetPhases(files))
  return { phases, notes: notesOf(hosts) }
}

/** Before sheepdog starts all `hosts` see the `nodes` of the cluster, and at the end they are waited for. */
function joinAll(phases: Phase[], hosts: readonly Surveyed[], nodes: number, title: string): void {
  const at = phases.findIndex((one) => one.title === START_SHEEP)
  const meeting = phase(
    'wait until all hosts see each other',
    hosts.map(({ host }) => steps.meet(host, nodes)),
  )
  phases.splice(at < 0 ? phases.length : at, 0, meeting)
  phases.push(
    phase(
      title,
      hosts.map(({ host }) => steps.serve(host, nodes)),
    ),
  )
}

export interface AddWish {
  hashOf: (content: Buffer) => string
}

/** `members`: hosts of the cluster, as its corosync.conf lists them; `added`: those to come. */
export function problemsOfAdd(members: readonly Surveyed[], added: readonly Surveyed[]): Problem[] {
  const { problems } = clusterAmong(members)
  const found = [...problemsOf([...members, ...added]), ...problems]
  const addresses = new Set([...members, ...added].map(({ address }) => address))
  const owner = members.map(({ facts }) => facts.storeCluster).find((id) => id !== '') ?? ''
  for (const { host, facts } of members) {
    for (const [name, { active }] of Object.entries(facts.services)) {
      if (!active) found.push({ host, text: `${name} does not run on it`, hint: `systemctl start ${name}, then again` })
    }
  }
  for (const { host, facts } of added) {
    if (facts.storeCluster !== '' && facts.storeCluster !== owner) {
      const text = `its store has data of the cluster ${facts.storeCluster}, not of this one`
      found.push({ host, text, hint: `move ${PATHS.store} aside if nobody needs it` })
    }
    if (facts.conf === null) continue
    const strangers = nodesOf(facts.conf).filter(({ address }) => !addresses.has(address))
    if (strangers.length > 0) {
      found.push({
        host,
        text: `it is in another corosync cluster, with ${strangers.map(({ name }) => name).join(', ')}`,
        hint: 'take it out of that first',
      })
    }
  }
  return found
}

export function planAdd(
  members: readonly Surveyed[],
  added: readonly Surveyed[],
  secrets: Secrets,
  wish: AddWish,
): Plan {
  const present = members[0].facts.conf as string
  const nodes = nodesOf(present)
  for (const { address, facts } of added) {
    if (nodes.some((node) => node.address === address)) continue
    nodes.push({ name: facts.hostname, address, nodeid: freeNodeid(nodes) })
  }
  const conf = nodes.length === nodesOf(present).length ? present : withNodes(present, nodes)
  const all = [...members, ...added]
  const files = new Map(all.map((one) => [one, filesFor(one, conf, secrets, wish.hashOf)]))
  const starts = startPhases(added, files)
  const changed = members.some((one) => (files.get(one) as File[]).length > 0)
  const phases = [...installPhases(added)]
  if (changed) phases.push(hidden([steps.reloadWhenTakenBack(members[0].host)]))
  phases.push(...filePhases(all, files, added))
  if (changed) phases.push(phase('tell corosync of the new list of hosts', [steps.reload(members[0].host)]))
  phases.push(...starts)
  if (phases.length > 0) {
    joinAll(phases, all, nodes.length, 'wait until all serve')
    phases.push(...forgetPhases(files))
  }
  return { phases, notes: notesOf(added) }
}

/** Of a host that is to be taken out. */
export interface Leaving {
  /** As the cluster calls it */
  node: ConfNode
  /** null: it cannot be reached, and goes by force */
  surveyed: Surveyed | null
  /** Id of its daemon's node; '' it is in the cluster no more */
  sheepNode: string
  /** Nobody waits for its data */
  force: boolean
}

/** What happens between `drain` and the rest: the caller waits until the others have all. */
export const DRAIN = 'give its data to the others'

export function planRemove(staying: readonly Surveyed[], leaving: Leaving): Plan {
  const conf = staying[0].facts.conf as string
  const nodes = nodesOf(conf).filter(({ address }) => address !== leaving.node.address)
  const listed = nodes.length < nodesOf(conf).length
  const { host: first } = staying[0]
  const phases: Phase[] = []
  const host = leaving.surveyed?.host ?? ''
  if (leaving.surveyed !== null) {
    const { sheepdog, corosync } = leaving.surveyed.facts.services
    if (leaving.sheepNode !== '' && !leaving.force) phases.push(phase(DRAIN, [steps.drain(first, leaving.sheepNode)]))
    if (sheepdog.active || sheepdog.enabled) phases.push(phase('stop its sheepdog', [steps.stop(host, 'sheepdog')]))
    if (corosync.active || corosync.enabled) phases.push(phase('stop its corosync', [steps.stop(host, 'corosync')]))
  }
  if (listed) {
    const content = Buffer.from(withNodes(conf, nodes))
    const files = new Map(staying.map((one) => [one, [{ path: PATHS.conf, mode: '0644', group: '', content }]]))
    phases.push(hidden([steps.reloadWhenTakenBack(first)]))
    phases.push(...filePhases(staying, files, []))
    phases.push(phase('tell corosync of the new list of hosts', [steps.reload(first)]))
    phases.push(
      phase('wait until the others go on', [
        ...staying.map((one) => steps.meet(one.host, nodes.length)),
        ...staying.map((one) => steps.serve(one.host, nodes.length)),
      ]),
    )
    phases.push(...forgetPhases(files))
  }
  if (leaving.surveyed !== null && (leaving.surveyed.facts.conf !== null || leaving.surveyed.facts.authkey !== '')) {
    phases.push({ ...phase('remove its keys and its corosync.conf; its data stays', [steps.leave(host)]), final: true })
  }
  return { phases, notes: [] }
}

function nodesOf(conf: string): ConfNode[] {
  return [...parseConf(conf).nodes]
}

const START_SHEEP = 'start sheepdog'

function phase(title: string, list: Step[]): Phase {
  return { title, steps: list }
}

function hidden(list: Step[]): Phase {
  return { title: '', steps: list }
}

function some(phases: Phase[]): Phase[] {
  return phases.filter((one) => one.steps.length > 0)
}

function installPhases(hosts: readonly Surveyed[]): Phase[] {
  return some(
    (['corosync', 'sheepdog'] as const).map((name) => {
      const lacking = hosts.filter(({ facts }) => !facts.packages[name].present)
      return phase(
        `install ${name}`,
        lacking.map(({ host, facts }) => steps.install(host, facts.packager, [name])),
      )
    }),
  )
}

/** `restarted`: of them, those whose services are started anew afterwards. */
function filePhases(
  hosts: readonly Surveyed[],
  files: ReadonlyMap<Surveyed, File[]>,
  restarting: readonly Surveyed[],
): Phase[] {
  const changed = hosts.filter((one) => (files.get(one) as File[]).length > 0)
  const restarted = changed.filter((one) => restarting.includes(one))
  const names = new Set(
    changed.flatMap((one) => (files.get(one) as File[]).map(({ path }) => path.replace(/.*\//, ''))),
  )
  const list = [...names].join(', ')
  const running = (['corosync', 'sheepdog'] as const).flatMap((service) => {
    return restarted
      .filter(({ facts }) => facts.services[service].active)
      .map(({ host }) => steps.startAgainWhenTakenBack(host, service))
  })
  return some([
    hidden(running),
    phase(
      `write ${list} beside`,
      changed.map((one) => steps.stage(one.host, files.get(one) as File[])),
    ),
    phase(
      `put ${list} into place`,
      changed.map((one) => steps.place(one.host, files.get(one) as File[])),
    ),
  ])
}

function startPhases(hosts: readonly Surveyed[], files: ReadonlyMap<Surveyed, File[]>): Phase[] {
  const starting = (service: 'corosync' | 'sheepdog', read: readonly string[]): Step[] =>
    hosts
      .filter((one) => {
        const { enabled, active } = one.facts.services[service]
        return !enabled || !active || (files.get(one) as File[]).some(({ path }) => read.includes(path))
      })
      .map(({ host, facts }) => steps.start(host, service, facts.services[service]))
  return some([
    phase('start corosync', starting('corosync', [PATHS.conf, PATHS.authkey])),
    phase(START_SHEEP, starting('sheepdog', [PATHS.daemonConf, PATHS.clusterKey])),
  ])
}

function forgetPhases(files: ReadonlyMap<Surveyed, File[]>): Phase[] {
  const changed = [...files].filter(([, list]) => list.length > 0)
  return changed.length === 0
    ? []
    : [{ ...hidden(changed.map(([{ host }, list]) => steps.forget(host, list))), final: true }]
}

function notesOf(hosts: readonly Surveyed[]): string[] {
  return hosts
    .filter(({ facts }) => facts.firewall !== '')
    .map(
      ({ host, facts }) =>
        `${facts.firewall} runs on ${host}: it must let the hosts reach UDP port 5405 and TCP port 7000.`,
    )
}
