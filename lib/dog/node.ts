/** `dog node`: the daemons of the cluster. */
import type { Command } from 'commander'
import type { NodeSpace, NodeStatistics } from '../control/services.js'
import { LOG_LINES_MAX, type NodeSummary, type OfNode } from '../control/verbs.js'
import { parseCount } from './arguments.js'
import { type Add, group } from './command.js'
import { addDiskCommands } from './disks.js'
import { hostPort } from './location.js'
import { parseLimit, setRecovery, showRecovery, watchRecovery } from './recovery.js'
import type { Session } from './session.js'
import { formatDuration, formatPercent, formatSize, formatTime } from './size.js'
import { type Column, printable } from './table.js'

export const NODE_COLUMNS: readonly Column<NodeSummary>[] = [
  { title: 'Id', align: 'right', text: (node) => String(node.number) },
  { title: 'Host:Port', text: hostPort },
  { title: 'V-Nodes', align: 'right', text: (node) => String(node.vnodes) },
  { title: 'Zone', text: (node) => node.zone },
  { title: 'Name', text: (node) => node.name },
]

/** The first columns of every table with a row per node. */
export function ofNodeColumns<T>(): Column<OfNode<T>>[] {
  return [
    { title: 'Id', align: 'right', text: ({ node }) => String(node.number) },
    { title: 'Host:Port', text: ({ node }) => hostPort(node) },
  ]
}

/** A column of an answer that a node may not have given. */
export function answerColumn<T>(
  title: string,
  text: (answer: T) => string,
  raw: (answer: T) => string | number = text,
): Column<OfNode<T>> {
  return {
    title,
    align: 'right',
    text: ({ answer }) => (answer === null ? '-' : text(answer)),
    raw: ({ answer }) => (answer === null ? '' : raw(answer)),
  }
}

/** Says for which nodes nothing is known, on stderr, and makes the exit code say it too. */
export function reportSilent(nodes: readonly OfNode<unknown>[]): void {
  for (const { node, error } of nodes) {
    if (error === '') continue
    process.stderr.write(`dog: node ${node.number} (${hostPort(node)}) did not answer: ${printable(error)}\n`)
    process.exitCode = 1
  }
}

export function addNodeCommands(node: Command, add: Add): void {
  add(node, 'list', 'list the nodes')
    .notes('Shows who has left, too, when and why, as far as the daemon that answers has seen it.')
    .examples('dog node list')
    .run(async (session) => {
      const answer = await session.call('node.list', {})
      session.print(answer, NODE_COLUMNS, answer.nodes)
      if (!session.forPeople || answer.departed.length === 0) return
      session.write(`\nNo longer in the cluster, as this daemon has seen it:\n`)
      for (const { node, epoch, time, reason, detail } of answer.departed) {
        const why = reason === 'unknown' ? 'nobody knows why' : `${reason === 'expelled' ? 'expelled, ' : ''}${detail}`
        session.write(
          `  ${printable(node.name)} (${hostPort(node)}) ${formatTime(time)}, with epoch ${epoch}: ${printable(why)}\n`,
        )
      }
    })

  add(node, 'info', 'show disk space, node by node').examples('dog node info', 'dog node info -r').run(showSpace)

  add(node, 'recovery', 'show how far the copying of objects is', (command) =>
    command
      .option('-P, --watch', 'stay, and show progress until it is done')
      .option('--hold', 'of all nodes: copy only what requests wait for')
      .option('--release', 'of all nodes: go on')
      .option('--limit <RATE>', 'of each node, bytes a second: 50M; none: as fast as clients let it', parseLimit),
  )
    .notes(
      'What is held or limited stays so, also over restarts. Beside clients recovery rests by itself; a limit is for',
      'networks and disks that others use, too. State "degraded: no room": the disk is full up to its reserve;',
      'recovery goes on by itself when there is room.',
    )
    .examples(
      'dog node recovery',
      'dog node recovery --watch',
      'dog node recovery --hold',
      'dog node recovery --limit 50M',
    )
    .run((session, _words, options) => {
      const { watch, hold, release, limit } = options
      if (hold || release || limit !== undefined) return setRecovery(session, options)
      return watch ? watchRecovery(session) : showRecovery(session)
    })

  add(node, 'stat [NODE]', 'show what a node has served', allOption)
    .examples('dog node stat', 'dog node stat -A')
    .run(showStatistics)

  add(node, 'kill <NODE>', 'stop one daemon in order')
    .notes('NODE is a number of dog node list, a name, host:port or an id.')
    .examples('dog node kill 2')
    .run(async (session, [which]) => {
      const answer = await session.call('node.kill', { node: which })
      session.report(
        answer,
        `Node ${answer.node.number} (${hostPort(answer.node)}) ${answer.node.self ? 'is stopping' : 'has left the cluster'}.`,
      )
    })

  add(node, 'drain <NODE>', 'give the share of one node to the others', (command) =>
    command.option('--cancel', 'let it take its share again'),
  )
    .notes(
      'It goes on serving clients, and keeps what it has until the others have it: dog node recovery shows how far they',
      'are. Lasts until its daemon starts again. dog cluster remove does this by itself.',
    )
    .examples('dog node drain host3', 'dog node drain host3 --cancel')
    .run(async (session, [which], { cancel }) => {
      const answer = await session.call('node.drain', { node: which, drained: cancel !== true })
      const name = `Node ${answer.node.number} (${hostPort(answer.node)})`
      session.report(answer, `${name} ${cancel ? 'takes its share again' : 'gives its share to the others'}.`)
    })

  addDiskCommands(group(node, 'md', 'the disks of a node').usage('[options] info [NODE]'), add)

  add(node, 'log [NODE]', "show the newest lines of a node's log", (command) =>
    command.option('-l, --lines <N>', 'how many', (text) => parseCount(text, 'number of lines', 1, LOG_LINES_MAX), 100),
  )
    .examples('dog node log', 'dog node log 2 -l 20')
    .run(async (session, [which = ''], { lines }) => {
      const answer = await session.call('node.log', { node: which, lines })
      if (session.options.format === 'json') session.report(answer, '')
      for (const { answer: entries } of answer.nodes) {
        if (session.options.format === 'json') break
        for (const { time, level, message } of entries ?? []) {
          session.write(`${formatTime(time, true)} ${level.padEnd(7)} ${printable(message)}\n`)
        }
      }
      reportSilent(answer.nodes)
    })
}

export function allOption(command: Command): Command {
  return command.option('-A, --all', 'of all nodes')
}

async function showSpace(session: Session): Promise<void> {
  const answer = await session.call('node.info', {})
  const known = answer.nodes.flatMap(({ answer: space }) => (space === null ? [] : [space]))
  const sum = (of: (space: NodeSpace) => number) => known.reduce((total, space) => total + of(space), 0)
  const total: NodeSpace = {
    total: sum((space) => space.total),
    used: sum((space) => space.used),
    free: sum((space) => space.free),
    objects: sum((space) => space.objects),
  }
  const columns: Column<OfNode<NodeSpace>>[] = [
    ...ofNodeColumns<NodeSpace>().slice(0, 1),
    answerColumn<NodeSpace>(
      'Size',
      (space) => formatSize(space.total),
      (space) => space.total,
    ),
    answerColumn<NodeSpace>(
      'Used',
      (space) => formatSize(space.used),
      (space) => space.used,
    ),
    answerColumn<NodeSpace>(
      'Avail',
      (space) => formatSize(space.free),
      (space) => space.free,
    ),
    answerColumn<NodeSpace>('Use%', (space) => formatPercent(space.total - space.free, space.total)),
    answerColumn<NodeSpace>('Objects', (space) => String(space.objects)),
  ]
  session.print(answer, columns, answer.nodes)
  if (session.options.format === 'raw') {
    const percent = formatPercent(total.total - total.free, total.total)
    session.write(`Total ${total.total} ${total.used} ${total.free} ${percent} ${total.objects} ${answer.volumeSize}\n`)
  } else if (session.forPeople) {
    session.write(
      `\nTotal: ${formatSize(total.total)}, ${formatSize(total.used)} used, ${formatSize(total.free)} free, ` +
        `${total.objects} objects. Sizes of all volumes: ${formatSize(answer.volumeSize)}.\n`,
    )
  }
  reportSilent(answer.nodes)
}

async function showStatistics(session: Session, [which = '']: string[], options: { all?: boolean }): Promise<void> {
  const answer = await session.call('node.stat', { node: options.all ? 'all' : which })
  const rows = answer.nodes.flatMap(({ node, answer: statistics }) =>
    statistics === null
      ? []
      : (['clients', 'peers'] as const).map((from) => ({ node, from, statistics, counts: statistics[from] })),
  )
  type Row = (typeof rows)[number]
  const number = (title: string, of: (row: Row) => number): Column<Row> => ({
    title,
    align: 'right',
    text: (row) => String(of(row)),
  })
  const bytes = (title: string, of: (row: Row) => number): Column<Row> => ({
    title,
    align: 'right',
    text: (row) => formatSize(of(row)),
    raw: of,
  })
  session.print(
    answer,
    [
      { title: 'Id', align: 'right', text: ({ node }) => String(node.number) },
      { title: 'Requests', text: ({ from }) => from },
      number('Active', ({ counts }) => counts.active),
      number('Total', ({ counts }) => counts.total),
      number('Write', ({ counts }) => counts.write),
      number('Read', ({ counts }) => counts.read),
      number('Remove', ({ counts }) => counts.remove),
      number('Flush', ({ counts }) => counts.flush),
      bytes('Written', ({ counts }) => counts.writeBytes),
      bytes('Read bytes', ({ counts }) => counts.readBytes),
    ],
    rows,
  )
  if (session.forPeople) {
    session.write('\n')
    for (const { node, answer: statistics } of answer.nodes)
      if (statistics !== null) session.write(processLine(node, statistics))
  }
  reportSilent(answer.nodes)
}

function processLine(node: NodeSummary, { uptime, cpu, memory }: NodeStatistics): string {
  return `Node ${node.number} is up ${formatDuration(uptime)}, used ${formatDuration(cpu)} of CPU, holds ${formatSize(memory)} of memory.\n`
}
