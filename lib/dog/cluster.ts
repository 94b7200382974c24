/** `dog cluster`: all daemons together. */
import { type Command, Option } from 'commander'
import type { ClusterInfo } from '../control/verbs.js'
import { parseCopies, parseObjectShift, parseOnNoQuorum } from './arguments.js'
import { printCheck } from './check-report.js'
import type { Add, ParsedOptions } from './command.js'
import { confirm } from './confirm.js'
import { addHostCommands } from './hosts/commands.js'
import { hostPort } from './location.js'
import { lost } from './lost.js'
import { sentencesOf } from './recovery.js'
import { scrub } from './scrub.js'
import type { Session } from './session.js'
import { formatSize, formatTime } from './size.js'
import { type Column, printable } from './table.js'
import { top } from './top.js'

type Epoch = ClusterInfo['epochs'][number]

const EPOCH_COLUMNS: readonly Column<Epoch>[] = [
  { title: 'Epoch', align: 'right', text: (epoch) => String(epoch.number) },
  { title: 'Time', text: (epoch) => formatTime(epoch.time, true), raw: (epoch) => Math.floor(epoch.time / 1000) },
  {
    title: 'Nodes',
    text: (epoch) => epoch.nodes.map(hostPort).join(', '),
    raw: (epoch) => epoch.nodes.map(hostPort).join(','),
  },
]

export function addClusterCommands(cluster: Command, add: Add): void {
  add(cluster, 'info', 'show what the cluster does, and its epochs').examples('dog cluster info').run(showInfo)

  add(cluster, 'format', 'make a new, empty cluster of all daemons', (command) =>
    yesOption(
      command
        .option('-c, --copies <N>', 'how many nodes keep each object (default: 3)', parseCopies)
        .option('-z, --object-size <SIZE>', 'size of objects: 1M to 2G, or its log2 (default: 4M)', parseObjectShift)
        .addOption(onNoQuorumOption().default(0, 'wait')),
    ),
  )
    .notes('A cluster that has been formatted loses all its volumes: that needs --force.')
    .examples('dog cluster format -c 3', 'dog cluster format -c 1')
    .run(format)

  add(cluster, 'set', 'change what holds for all volumes', (command) =>
    command.addOption(onNoQuorumOption().makeOptionMandatory()),
  )
    .notes(
      'A host without quorum serves nothing. Requests of its volumes wait for it, or fail with EIO after SECONDS: for',
      'machines that have another to take over. dog vdi set says it for one volume.',
    )
    .examples('dog cluster set --on-no-quorum 30', 'dog cluster set --on-no-quorum wait')
    .run(async (session, _words, { onNoQuorum }) => {
      const info = await session.call('cluster.set', { onNoQuorum })
      session.report(info, `${sentenceOf(info.onNoQuorum)}.`)
    })

  addHostCommands(cluster, add)

  add(cluster, 'top', 'watch nodes, volumes, rates and recovery', (command) =>
    command.option('--once', 'print it once, as is done where the output is no terminal'),
  )
    .notes('Drawn each second; q quits. Rates are of the last second; used space is of the file systems.')
    .examples('dog cluster top', 'dog cluster top --once')
    .run((session, _words, options) => top(session, options))

  add(cluster, 'shutdown', 'stop all daemons in order', yesOption)
    .notes('Volumes must not be in use. Started again, the cluster is as it was.')
    .examples('dog cluster shutdown --yes')
    .run(async (session, _words, options) => {
      if (!agreed(options)) {
        await confirm(
          'All daemons of the cluster will stop, and no volume can be used until they start again.',
          '--yes',
        )
      }
      const answer = await session.call('cluster.shutdown', {}, 'shutting down')
      session.report(answer, 'All daemons are stopping.')
    })

  add(cluster, 'check', 'compare all copies of all objects of all volumes', (command) =>
    command.option('--repair', 'write good copies over bad and missing ones'),
  )
    .notes('Exit code 1 when something is wrong and was not repaired.')
    .examples('dog cluster check', 'dog cluster check --repair')
    .run(async (session, _words, { repair }) => {
      printCheck(session, 'cluster', await session.call('cluster.check', { repair: repair === true }, 'checking'))
    })

  add(cluster, 'scrub [ACTION]', 'read all objects at rest, and repair what has rotted')
    .notes(
      'ACTION is status, start or stop; without it, status. Every node reads its objects once a week by itself, slowly,',
      'slower still beside clients; start begins now, and stop lasts until start. What does not match its checksum is',
      'repaired from another node. Replicas that differ though each matches its checksum are only reported:',
      'dog cluster check --repair decides.',
    )
    .examples('dog cluster scrub', 'dog cluster scrub start', 'dog cluster scrub stop')
    .run((session, words) => scrub(session, words))

  add(cluster, 'lost [VOLUME]', 'list objects that are lost or away, or give them up', (command) =>
    command
      .option('--accept', 'go on with the older copies that are left, or zeros where there are none')
      .option('--zeros', 'with --accept: zeros, also where there are older copies')
      .option('-y, --yes', 'do not ask'),
  )
    .notes(
      'Reads of such objects fail, or wait for the nodes that are away, and recovery does not end. Nothing is given up by',
      'itself: first start the nodes and plug in the disks that have them. When those are gone for good, --accept gives up',
      'what they had: what comes back after recovery has put the older copies or zeros in its place is stale. A volume',
      'whose index has no copy left cannot be opened any more, only deleted.',
      'Exit code 1 when something is lost or away.',
    )
    .examples('dog cluster lost', 'dog cluster lost disk1 --accept', 'dog cluster lost --accept --zeros --yes')
    .run(lost)

  add(cluster, 'recover', 'go on without nodes that the cluster waits for', yesOption)
    .notes('What only the missing nodes have is lost for good if they are not started again.')
    .examples('dog cluster recover --yes')
    .run(recover)
}

function onNoQuorumOption(): Option {
  return new Option('--on-no-quorum <wait|SECONDS>', 'what volumes do without quorum').argParser(parseOnNoQuorum)
}

function sentenceOf(onNoQuorum: number): string {
  return onNoQuorum === 0 ? 'Without quorum requests wait' : `Without quorum requests fail after ${onNoQuorum / 1000} s`
}

/** Scripts of Sheepdog's administrators say --force. */
function yesOption(command: Command): Command {
  return command.option('-y, --yes', 'do not ask').option('-f, --force', 'the same')
}

function agreed(options: ParsedOptions): boolean {
  return options.yes === true || options.force === true
}

async function showInfo(session: Session): Promise<void> {
  const info = await session.call('cluster.info', {})
  if (session.options.format === 'raw') session.write(`${info.status}\n`)
  if (session.forPeople) session.write(summary(info))
  if (session.forPeople && info.epochs.length === 0) return
  session.print(info, EPOCH_COLUMNS, info.epochs)
}

function summary(info: ClusterInfo): string {
  const lines = [
    `Cluster status: ${info.status}${info.recovering.length > 0 && info.status === 'running' ? ', recovering' : ''}`,
  ]
  if (info.reason !== '') lines.push(`  ${printable(info.reason)}`)
  if (info.recovering.length > 0) {
    const nodes = info.recovering.map((node) => hostPort(node)).join(', ')
    lines.push(`  Degraded: redundancy is reduced until objects are copied on ${nodes}: dog node recovery`)
  }
  for (const sentence of sentencesOf(info.recovery)) lines.push(`  ${sentence}`)
  if (info.config !== null) {
    const { created, copies, objectSize } = info.config
    lines.push(
      `Cluster created at ${formatTime(created, true)}, default ${copies} copies of objects of ${formatSize(objectSize)}`,
    )
  }
  if (info.onNoQuorum > 0) lines.push(`${sentenceOf(info.onNoQuorum)} (dog cluster set --on-no-quorum).`)
  if (info.epochs.length > 0) lines.push('')
  return `${lines.join('\n')}\n`
}

async function format(
  session: Session,
  _words: string[],
  { copies = 0, objectSize = 0, onNoQuorum = 0, ...options }: ParsedOptions,
): Promise<void> {
  const before = await session.call('cluster.info', {})
  if (before.config !== null && !agreed(options)) {
    const { volumes, created } = { volumes: await volumeCount(session), created: formatTime(before.config.created) }
    await confirm(
      `This cluster was formatted at ${created}${volumes}: formatting again loses everything in it.`,
      '--force',
    )
  }
  const info = await session.call(
    'cluster.format',
    { copies, blockSizeShift: objectSize, force: before.config !== null, onNoQuorum },
    'formatting',
  )
  const nodes = info.epochs[0]?.nodes ?? []
  const kept = info.config?.copies ?? 0
  session.report(
    info,
    `Formatted: ${nodes.length} ${nodes.length === 1 ? 'node' : 'nodes'}, ${kept} ${kept === 1 ? 'copy' : 'copies'} of each object.`,
  )
  const zones = new Set(nodes.filter((node) => node.vnodes > 0).map((node) => node.zone)).size
  if (zones < kept) {
    process.stderr.write(
      `dog: ${zones === 0 ? 'no zone has' : zones === 1 ? 'only 1 zone has' : `only ${zones} zones have`} space, ` +
        `so objects get ${zones} of ${kept} copies until more nodes join\n`,
    )
  }
}

async function volumeCount(session: Session): Promise<string> {
  const { vdis } = await session.call('vdi.list', { name: '' })
  const count = vdis.filter((vdi) => !vdi.snapshot).length
  return count === 0 ? '' : ` and has ${count} ${count === 1 ? 'volume' : 'volumes'}`
}

async function recover(session: Session, _words: string[], options: ParsedOptions): Promise<void> {
  if (!agreed(options)) {
    const { status, reason } = await session.call('cluster.info', {})
    if (status === 'waiting-for-nodes') {
      await confirm(
        `${reason}\nGoing on without them loses what only they have, if they are never started again.`,
        '--yes',
      )
    }
  }
  const info = await session.call('cluster.recover', {}, 'starting without the missing nodes')
  session.report(info, `The cluster is ${info.status}.`)
}
