/** `dog node recovery`: a row per node, once or until it is done. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { RecoverySettings } from '../cluster/types.js'
import type { RecoveryReport } from '../control/services.js'
import type { OfNode } from '../control/verbs.js'
import { SheepError } from '../errors.js'
import type { ParsedOptions } from './command.js'
import { answerColumn, ofNodeColumns, reportSilent } from './node.js'
import { bar, unicodeTerminal } from './progress-bar.js'
import type { Session } from './session.js'
import { formatDuration, formatPercent, formatSize, parseSize } from './size.js'
import { type Column, formatTable } from './table.js'

const WATCH_MS = 500
const BAR_WIDTH = 20

type Row = OfNode<RecoveryReport>

const COLUMNS: readonly Column<Row>[] = [
  ...ofNodeColumns<RecoveryReport>(),
  {
    ...answerColumn<RecoveryReport>(
      'State',
      (report) => stateText(report),
      (report) => report.state,
    ),
    align: 'left',
  },
  answerColumn(
    'Objects',
    (report) => `${report.objectsDone} of ${report.objectsTotal}`,
    (report) => report.objectsDone,
  ),
  answerColumn(
    'Done',
    (report) => formatPercent(report.objectsDone, report.objectsTotal),
    (report) => report.objectsTotal,
  ),
  answerColumn(
    'Copied',
    (report) => formatSize(report.bytesTaken),
    (report) => report.bytesTaken,
  ),
  answerColumn(
    'Of about',
    (report) => (report.bytesTotal > 0 ? formatSize(report.bytesTotal) : '-'),
    (report) => report.bytesTotal,
  ),
  answerColumn(
    'Rate',
    (report) => (isActive(report) ? `${formatSize(report.rate)}/s` : '-'),
    (report) => Math.round(report.rate),
  ),
  answerColumn(
    'Left',
    (report) => timeLeft(report),
    (report) => Math.round(report.left),
  ),
]

function isActive(report: RecoveryReport): boolean {
  return report.state !== 'idle'
}

function stateText(report: RecoveryReport): string {
  if (report.state === 'idle') return 'done'
  if (report.state === 'no-room') return 'degraded: no room'
  if (report.state !== 'waiting') return report.state
  return `waiting for ${report.waitingFor.flatMap(({ nodes }) => nodes).join(', ')}`
}

function timeLeft(report: RecoveryReport): string {
  return report.state === 'recovering' && report.left > 0 ? formatDuration(report.left) : '-'
}

/** `--hold`, `--release`, `--limit`: for all nodes, until said otherwise, whatever restarts. */
export async function setRecovery(session: Session, options: ParsedOptions): Promise<void> {
  if (options.hold === true && options.release === true) {
    throw new SheepError('invalid', 'recovery is held or released, not both')
  }
  const held = options.hold === true ? true : options.release === true ? false : null
  const settings = await session.call('cluster.recovery', { held, limit: options.limit ?? null })
  session.report(settings, sentencesOf(settings).join(' ') || 'Recovery is not held, and has no limit.')
}

export function parseLimit(text: string): number {
  return text === 'none' ? 0 : parseSize(text.replace(/\/s$/, ''))
}

/** What administrators have said of recovery, as sentences; none when it goes as it likes. */
export function sentencesOf({ held, limit }: RecoverySettings): string[] {
  const sentences = []
  if (held) sentences.push('Recovery is held: only what requests wait for is copied (dog node recovery --release).')
  if (limit > 0)
    sentences.push(`Recovery is limited to ${formatSize(limit)}/s on each node (dog node recovery --limit).`)
  return sentences
}

export async function showRecovery(session: Session): Promise<void> {
  const answer = await session.call('node.recovery', {})
  const active = answer.nodes.some((row) => row.answer !== null && isActive(row.answer))
  session.print(answer, session.forPeople && active ? [...COLUMNS, BAR_COLUMN] : COLUMNS, answer.nodes)
  reportSilent(answer.nodes)
}

/** Redraws on a terminal; else prints a line when the share done has changed. Ends when every node is done. */
export async function watchRecovery(session: Session): Promise<void> {
  let drawnLines = 0
  let last = ''
  for (;;) {
    const answer = await session.call('node.recovery', {})
    const active = answer.nodes.filter((row) => row.answer !== null && isActive(row.answer))
    if (active.length === 0) {
      if (drawnLines > 0) session.write(`\u001b[${drawnLines}A\u001b[J`)
      return showRecovery(session)
    }
    if (session.forPeople && process.stdout.isTTY) {
      const lines = formatTable([...COLUMNS, BAR_COLUMN], answer.nodes)
      if (drawnLines > 0) session.write(`\u001b[${drawnLines}A\u001b[J`)
      session.write(lines)
      drawnLines = lines.split('\n').length - 1
    } else {
      const line = active.map((row) => progressLine(row)).join('')
      if (line !== last) session.write(line)
      last = line
    }
    await sleep(WATCH_MS)
  }
}

const BAR_COLUMN: Column<Row> = {
  title: 'Progress',
  text: ({ answer }) => {
    if (answer === null) return ''
    const share = answer.objectsTotal > 0 ? answer.objectsDone / answer.objectsTotal : isActive(answer) ? 0 : 1
    return bar(Math.min(1, share), BAR_WIDTH, unicodeTerminal())
  },
}

function progressLine({ node, answer }: Row): string {
  if (answer === null) return ''
  const { objectsDone, objectsTotal } = answer
  return `node ${node.number} ${answer.state} ${objectsDone}/${objectsTotal} ${formatPercent(objectsDone, objectsTotal)}\n`
}
