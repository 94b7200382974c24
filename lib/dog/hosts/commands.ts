/** `dog cluster init`, `add`, `remove`: hosts are looked at, the plan is shown, agreed to and carried out. */
import { createHash, randomBytes } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import type { Command } from 'commander'
import { SheepError } from '../../errors.js'
import { newClusterKey } from '../../host/cluster-key.js'
import { parseCopies, parseCount } from '../arguments.js'
import type { Add, ParsedOptions } from '../command.js'
import { agrees, confirm } from '../confirm.js'
import type { Session } from '../session.js'
import { carryOut, type Reporter } from './carry-out.js'
import { type ConfNode, parseConf, TOKEN_MS } from './corosync-conf.js'
import { drained, nodeOf, problemsOfLeaving } from './drain.js'
import { PATHS } from './facts.js'
import type { Plan, Problem, Secrets, Surveyed } from './plan.js'
import * as plans from './plan.js'
import { hostTable, planList, problemList } from './present.js'
import type { Shell } from './shell.js'
import type { SshOptions } from './ssh.js'
import { isHere, parseTarget, type Survey, survey, type Target } from './survey.js'

/** corosync-keygen(8) makes as many */
const AUTHKEY_BYTES = 256
const READ_MS = 30_000
/** The others go on after 2.2 times this: more than the second after which a daemon that stood still asks first (lib/node/node.ts) */
const TOKEN_MIN_MS = 500
const TOKEN_MAX_MS = 60_000

const NOTES = [
  'All hosts are checked before anything is changed on any; what will be done is shown first. When a step fails, what',
  'was done is taken back. Done twice it changes nothing; a run that was cut off is completed by the same command.',
  'Other hosts are reached over SSH as root, or as a user who may use sudo, with the keys of the agent or of ~/.ssh.',
]

export function addHostCommands(cluster: Command, add: Add): void {
  add(cluster, 'init <HOST...>', 'make a cluster of these hosts: corosync, keys, services, format', (command) =>
    common(command)
      .option('-c, --copies <N>', 'how many hosts keep each object (default: 3)', parseCopies)
      .option('--token <MS>', 'corosync gives a silent host up after this', parseToken, TOKEN_MS),
  )
    .notes(...NOTES)
    .examples('dog cluster init host1 host2 host3 --dry-run', 'dog cluster init host1 host2 host3 -c 3')
    .run((session, words, options) => withTargets(words, (targets) => init(session, targets, options)))

  add(cluster, 'add <HOST...>', 'add hosts to the cluster of this one', common)
    .notes(...NOTES, 'Data moves to them by itself: dog node recovery --watch.')
    .examples('dog cluster add host4')
    .run((session, words, options) => withTargets(words, (targets) => addHosts(session, targets, options)))

  add(cluster, 'remove <HOST>', 'take a host out of the cluster of this one', (command) =>
    common(command).option('-f, --force', 'do not wait until its data is elsewhere; also when it cannot be reached'),
  )
    .notes(
      'Its data goes to the others first, however long that takes; it is given up when nothing moves for ten minutes.',
      'Then its services are stopped and the others told. Its own data stays in its store directory, unused.',
      ...NOTES,
    )
    .examples('dog cluster remove host4')
    .run((session, [word], options) => remove(session, word, options))
}

function common(command: Command): Command {
  return command
    .option('--user <NAME>', 'who to log in as; USER@HOST for one host', 'root')
    .option('--ssh-port <PORT>', 'where sshd listens', (text) => parseCount(text, 'TCP port', 1, 65_535), 22)
    .option('--identity <FILE>', 'private key; default: those of the agent, then of ~/.ssh')
    .option('--accept-new-host-keys', 'trust hosts whose keys are in no known_hosts yet')
    .option('-n, --dry-run', 'only show what would be done')
    .option('-y, --yes', 'do not ask')
}

function parseToken(text: string): number {
  return parseCount(text, 'number of milliseconds', TOKEN_MIN_MS, TOKEN_MAX_MS)
}

async function withTargets(words: unknown, run: (targets: Target[]) => Promise<void>): Promise<void> {
  const [given] = words as string[][]
  if (given.length > plans.HOSTS_MAX)
    throw new SheepError('invalid', `corosync is for ${plans.HOSTS_MAX} hosts at most`)
  const targets: Target[] = []
  for (const word of given) targets.push(await parseTarget(word))
  for (const [at, { host }] of targets.entries()) {
    if (targets.findIndex((one) => one.host === host) !== at) throw new SheepError('invalid', `${host} is named twice`)
  }
  await run(targets)
}

/** votequorum(5): `two_node` */
const TWO_HOSTS =
  'When the network between two hosts fails both go on, and what one of them wrote meanwhile is set aside later:\n' +
  'give a third place a vote (corosync-qdevice(8)), or add a third host (dog cluster add).'

async function init(session: Session, targets: readonly Target[], options: ParsedOptions): Promise<void> {
  await surveyed(session, targets, options, async ({ hosts, shells, problems }) => {
    inTheWay(session, hosts, [...problems, ...(problems.length > 0 ? [] : plans.problemsOfInit(hosts))])
    const wish = { copies: options.copies ?? 0, tokenMs: options.token, hashOf }
    const plan = plans.planInit(hosts, await secretsOf(hosts, shells), wish)
    const names = hosts.map(({ host }) => host).join(' ')
    const count = hosts.length === 1 ? '1 host' : `${hosts.length} hosts`
    const there = `The cluster of ${count} is there: dog vdi create NAME SIZE makes a volume.`
    const done = hosts.length === 2 ? `${there}\n${TWO_HOSTS}` : there
    await show(session, plan, hosts, { options, shells, done, again: `dog cluster init ${names}` })
  })
}

async function addHosts(session: Session, targets: readonly Target[], options: ParsedOptions): Promise<void> {
  const nodes = ownCluster()
  const added = targets.filter(({ address }) => !nodes.some((node) => node.address === address))
  const members = await Promise.all(nodes.map(targetOf))
  // One that is listed and not up yet: a run before this one was cut off.
  const late = targets.filter((target) => !added.includes(target))
  const old = members.filter(({ address }) => !late.some((one) => one.address === address))
  await surveyed(session, [...old, ...late, ...added], options, async ({ hosts, shells, problems }) => {
    const of = (list: readonly Target[]) => hosts.filter(({ host }) => list.some((one) => one.host === host))
    const [present, coming] = [of(old), of([...late, ...added])]
    inTheWay(session, hosts, [...problems, ...(problems.length > 0 ? [] : plans.problemsOfAdd(present, coming))])
    const plan = plans.planAdd(present, coming, await secretsOf(present, shells), { hashOf })
    const names = targets.map(({ host }) => host).join(' ')
    const done = `${names} ${targets.length === 1 ? 'is' : 'are'} in the cluster; data moves there now: dog node recovery --watch.`
    await show(session, plan, hosts, { options, shells, done, again: `dog cluster add ${names}` })
  })
}

async function remove(session: Session, word: string, options: ParsedOptions): Promise<void> {
  const nodes = ownCluster()
  const target = await leavingTarget(word, nodes, options.force === true)
  if (target.here) {
    throw new SheepError(
      'invalid',
      `${target.host} is this host`,
      `run dog cluster remove ${target.host} on another host`,
    )
  }
  const staying = await Promise.all(nodes.filter(({ address }) => address !== target.address).map(targetOf))
  const force = options.force === true
  await surveyed(session, [...staying, target], options, async ({ hosts, shells, problems }) => {
    const mine = hosts.filter(({ host }) => host !== target.host)
    const leaving = hosts.find(({ host }) => host === target.host) ?? null
    const unreachable = problems.filter(({ host }) => host === target.host)
    const hint = 'if it is gone for good: --force; its data is made again from other copies'
    const found = problems.filter(({ host }) => host !== target.host || !force)
    for (const problem of unreachable) if (!force) problem.hint = hint
    const way = shells.get(mine[0]?.host ?? '')
    const sheep = found.length > 0 || way === undefined ? null : await nodeOf(way, target.address)
    if (sheep !== null && !force && way !== undefined) found.push(...(await problemsOfLeaving(way, target.host, sheep)))
    inTheWay(session, hosts, found)
    const node = nodes.find(({ address }) => address === target.address) ?? {
      name: word,
      address: target.address,
      nodeid: 0,
    }
    const plan = plans.planRemove(mine, { node, surveyed: leaving, sheepNode: sheep?.id ?? '', force })
    const after =
      sheep === null || force
        ? undefined
        : { title: plans.DRAIN, run: () => drained(session, way as Shell, sheep.id, target.host) }
    const done = `${target.host} is out of the cluster. What it had is in its ${PATHS.store} still; nobody needs it.`
    await show(session, plan, hosts, { options, shells, done, again: `dog cluster remove ${word}`, after })
  })
}

/** A member by its name or address; or a host that a run before this one has taken out of the list already. */
async function leavingTarget(word: string, nodes: readonly ConfNode[], force: boolean): Promise<Target> {
  const member = nodes.find(({ name, address }) => name === word || address === word)
  if (member !== undefined) return { ...(await targetOf(member)), host: member.name }
  const target = await parseTarget(word)
  const same = nodes.find(({ address }) => address === target.address)
  if (same === undefined && force) {
    throw new SheepError(
      'not-found',
      `${word} is not in this cluster`,
      `it has ${nodes.map(({ name }) => name).join(', ')}`,
    )
  }
  return target
}

/** Of the cluster that this host is in. SheepError not-found */
function ownCluster(): ConfNode[] {
  const nodes = existsSync(PATHS.conf) ? parseConf(readFileSync(PATHS.conf, 'utf8')).nodes : []
  if (!nodes.some(({ address }) => isHere(address))) {
    throw new SheepError(
      'not-found',
      'this host is in no cluster',
      'run it on one of the hosts of the cluster, or make one: dog cluster init',
    )
  }
  return nodes
}

/** By its name where that means the same address here: known_hosts has it rather. */
async function targetOf({ name, address }: ConfNode): Promise<Target> {
  const named = await parseTarget(name).catch(() => null)
  return named?.address === address ? named : { host: address, address, user: '', here: isHere(address) }
}

async function surveyed(
  session: Session,
  targets: readonly Target[],
  options: ParsedOptions,
  run: (found: Survey) => Promise<void>,
): Promise<void> {
  // ssh2 takes longer to load than most commands of dog take altogether.
  const { SSH_FILES, SshShell } = await import('./ssh.js')
  const ssh: SshOptions = {
    ...SSH_FILES,
    user: options.user,
    port: options.sshPort,
    identity: options.identity ?? '',
    agent: process.env.SSH_AUTH_SOCK ?? '',
    acceptNew: async (host, type, print) => {
      if (options.acceptNewHostKeys === true) {
        process.stderr.write(`dog: ${host} is new: its host key is ${type} ${print}\n`)
        return true
      }
      return agrees(`The host key of ${host} is not known: ${type}\n  ${print}\nIs it the one that ${host} has?`)
    },
  }
  const connect = ({ host, address, user }: Target) => {
    return SshShell.connect(host, address, user === '' ? ssh : { ...ssh, user })
  }
  const found = await session.withProgress('looking at the hosts', (progress) => {
    progress({ done: 0, total: 0, text: '' })
    return survey(
      targets,
      connect,
      targets.map(({ host }) => host),
    )
  })
  try {
    await run(found)
  } finally {
    for (const shell of found.shells.values()) shell.close()
  }
}

function inTheWay(session: Session, hosts: readonly Surveyed[], problems: readonly Problem[]): void {
  if (problems.length === 0) return
  if (session.forPeople && hosts.length > 0) session.write(`${hostTable(hosts)}\n`)
  process.stderr.write(problemList(problems))
  const what = problems.length === 1 ? 'something is' : `${problems.length} things are`
  throw new SheepError(
    'invalid',
    `${what} in the way, so nothing was changed on any host`,
    'mend it, then run it again',
  )
}

interface Showing {
  options: ParsedOptions
  shells: ReadonlyMap<string, Shell>
  /** A sentence for the end */
  done: string
  again: string
  after?: { title: string; run: () => Promise<void> }
}

async function show(session: Session, plan: Plan, hosts: readonly Surveyed[], showing: Showing): Promise<void> {
  const { options, shells, done, again, after } = showing
  const answer = {
    hosts: hosts.map(({ host, address }) => ({ host, address })),
    steps: plan.phases
      .filter(({ title }) => title !== '')
      .map(({ title, steps }) => ({ title, hosts: [...new Set(steps.map(({ host }) => host))] })),
    done: options.dryRun !== true,
  }
  if (session.forPeople) session.write(`${hostTable(hosts)}\n`)
  if (plan.phases.length === 0) {
    session.report(answer, 'Nothing to do: all is as it should be.')
    return
  }
  if (session.forPeople) session.write(`${planList(plan, hosts)}\n`)
  if (options.dryRun === true) {
    session.report(answer, 'Nothing was changed.')
    return
  }
  if (options.yes !== true) await confirm('This will be done on these hosts.', '--yes')
  await carryOut(plan.phases, { shells, reporter: reporterOf(session), after, now: () => performance.now(), again })
  session.report(answer, done)
}

function reporterOf(session: Session): Reporter {
  const say = (text: string): void => {
    if (session.forPeople) session.write(text)
  }
  return {
    began: () => {},
    done: (title, ms) => say(`  done    ${title}${ms >= 1000 ? ` (${(ms / 1000).toFixed(1)} s)` : ''}\n`),
    failed: (title) => say(title === '' ? '' : `  FAILED  ${title}\n`),
    takingBack: () => say('  taking back what was done\n'),
    notTakenBack: (host, why) => process.stderr.write(`dog: not taken back on ${host}: ${why}\n`),
  }
}

function hashOf(content: Buffer): string {
  return createHash('sha256').update(content).digest('hex')
}

/** Those that hosts of the cluster have; new ones where none has. */
async function secretsOf(hosts: readonly Surveyed[], shells: ReadonlyMap<string, Shell>): Promise<Secrets> {
  const read = async (which: 'authkey' | 'clusterKey'): Promise<Buffer | null> => {
    const holder = plans.keyHolder(hosts, which)
    if (holder === null) return null
    const { code, stdout } = await (shells.get(holder.host) as Shell).run(`base64 -w0 < ${PATHS[which]}`, READ_MS)
    if (code !== 0) throw new SheepError('system', `${PATHS[which]} of ${holder.host} cannot be read`)
    return Buffer.from(stdout, 'base64')
  }
  return {
    authkey: (await read('authkey')) ?? randomBytes(AUTHKEY_BYTES),
    clusterKey: (await read('clusterKey'))?.toString() ?? newClusterKey(),
  }
}
