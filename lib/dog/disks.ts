/** `dog node md`: the disks of a node. */
import { isAbsolute } from 'node:path'
import type { Command } from 'commander'
import type { DiskInfo } from '../control/services.js'
import type { NodeSummary } from '../control/verbs.js'
import { SheepError } from '../errors.js'
import type { Add } from './command.js'
import { hostPort } from './location.js'
import { allOption, reportSilent } from './node.js'
import type { Session } from './session.js'
import { formatPercent, formatSize } from './size.js'
import { type Column, printable } from './table.js'

export function addDiskCommands(md: Command, add: Add): void {
  add(md, 'info [NODE]', 'show the disks of a node', allOption, { isDefault: true })
    .examples('dog node md info', 'dog node md info -A')
    .run(showDisks)

  add(md, 'plug <DIR>', 'take a disk into use', nodeOption)
    .notes(
      'DIR is the mount point of a file system of its own, on the host of the node: empty, or a disk of this node that was',
      'away. What such a disk holds is compared with the other nodes before it counts.',
      'Add DIR to the command line of sheep, too, or it is missing after the next start.',
    )
    .examples('dog node md plug /srv/disk3', 'dog node md plug /srv/disk3 --node 2')
    .run(plug)

  add(md, 'unplug <DISK>', 'give a disk up: its objects are copied again from other nodes', (command) =>
    nodeOption(command).option('--force', 'though what only this disk has is lost then'),
  )
    .notes('DISK is a number of dog node md info, or the path. Once this is done it can be unmounted.')
    .examples('dog node md unplug 1', 'dog node md unplug /srv/disk3 --node 2')
    .run(unplug)
}

function nodeOption(command: Command): Command {
  return command.option('--node <NODE>', 'of this node: a number of dog node list, a name, host:port or an id', '')
}

async function plug(session: Session, [path]: string[], { node = '' }: { node?: string }): Promise<void> {
  if (!isAbsolute(path)) {
    throw new SheepError('invalid', `${path} is no absolute path`, "give the directory's whole path on the node's host")
  }
  const answer = await session.call('node.plug', { node, path }, 'reading the disk')
  const disk = answer.disks.find((one) => one.path === path)
  const size = disk === undefined ? '' : ` (${formatSize(disk.total)}, ${disk.objects} objects)`
  session.report(
    answer,
    `Node ${nameOf(answer.node)} uses ${printable(path)}${size}. dog node recovery shows what is copied.`,
  )
}

async function unplug(
  session: Session,
  [disk]: string[],
  { node = '', force = false }: { node?: string; force?: boolean },
): Promise<void> {
  const answer = await session.call('node.unplug', { node, disk, force }, 'giving the disk up')
  session.report(
    answer,
    `Node ${nameOf(answer.node)} uses ${printable(answer.path)} no more. dog node recovery shows what is copied.`,
  )
}

function nameOf(node: NodeSummary): string {
  return node.number < 0 ? hostPort(node) : `${node.number} (${hostPort(node)})`
}

async function showDisks(session: Session, [which = '']: string[], options: { all?: boolean }): Promise<void> {
  const answer = await session.call('node.md', { node: options.all ? 'all' : which })
  const rows = answer.nodes.flatMap(({ node, answer: disks }) => (disks ?? []).map((disk, i) => ({ node, disk, i })))
  type Row = { node: NodeSummary; disk: DiskInfo; i: number }
  const bytes = (title: string, of: (disk: DiskInfo) => number): Column<Row> => ({
    title,
    align: 'right',
    text: ({ disk }) => (holds(disk) ? formatSize(of(disk)) : '-'),
    raw: ({ disk }) => of(disk),
  })
  const columns: Column<Row>[] = [
    { title: 'Node', align: 'right', text: ({ node }) => String(node.number) },
    { title: 'Id', align: 'right', text: ({ i }) => String(i) },
    bytes('Size', (disk) => disk.total),
    bytes('Used', (disk) => disk.used),
    bytes('Avail', (disk) => disk.free),
    {
      title: 'Use%',
      align: 'right',
      text: ({ disk }) => (holds(disk) ? formatPercent(disk.total - disk.free, disk.total) : '-'),
    },
    {
      title: 'Objects',
      align: 'right',
      text: ({ disk }) => (holds(disk) ? String(disk.objects) : '-'),
      raw: ({ disk }) => disk.objects,
    },
    { title: 'State', text: ({ disk }) => disk.state },
    { title: 'Path', text: ({ disk }) => disk.path },
  ]
  session.print(answer, columns, rows)
  if (session.forPeople) for (const { node, disk } of rows) explain(session, node, disk)
  reportSilent(answer.nodes)
}

function holds({ state }: DiskInfo): boolean {
  return state === 'working' || state === 'full'
}

const NEXT: Partial<Record<DiskInfo['state'], string>> = {
  full: 'delete VDIs, or add a disk: dog node md plug DIR',
  failed: 'replace it, then: dog node md plug DIR',
  missing: 'mount it, then: dog node md plug DIR; or leave it out of the command line of sheep',
}

function explain(session: Session, node: NodeSummary, { state, path, reason }: DiskInfo): void {
  const next = NEXT[state]
  if (next === undefined) return
  session.write(`\nNode ${nameOf(node)}: ${printable(path)} is ${state}: ${printable(reason)}.\n  ${next}\n`)
}
