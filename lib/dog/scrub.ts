/** `dog cluster scrub`: each node's reading of its objects at rest, a row per node, and what it found. */
import type { ScrubReport } from '../control/services.js'
import type { NodeSummary, OfNode } from '../control/verbs.js'
import { SheepError } from '../errors.js'
import { answerColumn, ofNodeColumns, reportSilent } from './node.js'
import type { Session } from './session.js'
import { formatPercent, formatSize, formatTime } from './size.js'
import { type Column, printable } from './table.js'

type Row = OfNode<ScrubReport>
type Found = ScrubReport['incidents'][number] & { node: NodeSummary }

const COLUMNS: readonly Column<Row>[] = [
  ...ofNodeColumns<ScrubReport>(),
  { ...answerColumn<ScrubReport>('State', (report) => report.state), align: 'left' },
  answerColumn<ScrubReport>(
    'Done',
    ({ state, done }) => (state === 'idle' ? '-' : formatPercent(done, 1)),
    ({ state, done }) => (state === 'idle' ? 1 : done),
  ),
  answerColumn<ScrubReport>('Objects', (report) => String(report.objects)),
  answerColumn<ScrubReport>(
    'Read',
    (report) => formatSize(report.bytes),
    (report) => report.bytes,
  ),
  answerColumn<ScrubReport>(
    'Rate',
    (report) => `${formatSize(report.rate)}/s`,
    (report) => report.rate,
  ),
  answerColumn<ScrubReport>('Rotten', (report) => String(report.found)),
  answerColumn<ScrubReport>('Repaired', (report) => String(report.repaired)),
  answerColumn<ScrubReport>('Unrepaired', (report) => String(report.rotten)),
  answerColumn<ScrubReport>('Diverged', (report) => String(report.diverged)),
  answerColumn<ScrubReport>(
    'Last end',
    (report) => (report.ended === 0 ? 'never' : formatTime(report.ended, true)),
    (report) => Math.floor(report.ended / 1000),
  ),
]

const FOUND_COLUMNS: readonly Column<Found>[] = [
  { title: 'Time', text: ({ time }) => formatTime(time, true) },
  { title: 'Node', text: ({ node }) => node.name },
  { title: 'Object', text: ({ oid }) => oid },
  { title: 'Volume', text: ({ volume }) => printable(volume === '' ? '-' : volume) },
  { title: 'Problem', text: ({ kind }) => kind },
  { title: 'Bytes', text: ({ position, length }) => (length === 0 ? 'all' : `${position}+${length}`) },
  { title: 'Outcome', text: ({ outcome }) => outcome },
  { title: 'Detail', text: ({ detail }) => printable(detail) },
]

export async function scrub(session: Session, [word = 'status']: string[]): Promise<void> {
  if (word !== 'status' && word !== 'start' && word !== 'stop') {
    throw new SheepError('invalid', `dog cluster scrub does not ${word}`, 'it takes status, start or stop')
  }
  const answer = await session.call('cluster.scrub', { action: word })
  session.print(answer, COLUMNS, answer.nodes)
  const found = answer.nodes.flatMap(({ node, answer: report }) =>
    (report?.incidents ?? []).map((incident) => ({ ...incident, node })),
  )
  if (session.forPeople && found.length > 0) {
    found.sort((a, b) => a.time - b.time)
    session.write('\nWhat was found since the daemons started:\n')
    session.print(answer, FOUND_COLUMNS, found)
  }
  reportSilent(answer.nodes)
}
