/** What `dog cluster top` shows: rates from two samples, as lines of a given width. Pure: the terminal is top.ts. */
import type { NodeStatistics, RecoveryReport, RequestCounts } from '../control/services.js'
import type { ClusterInfo, NodeInfoAnswer, NodeSummary, OfNode } from '../control/verbs.js'
import { bar } from './progress-bar.js'
import { formatDuration, formatPercent, formatSize } from './size.js'
import { type Column, cut, displayWidth, formatTable, printable } from './table.js'

export interface Sample {
  /** ms, monotonic */
  at: number
  info: ClusterInfo
  space: NodeInfoAnswer
  statistics: OfNode<NodeStatistics>[]
  recovery: OfNode<RecoveryReport>[]
}

/** A second; null: not known, the first sample or a daemon that has started anew */
export interface Rates {
  reads: number
  writes: number
  flushes: number
  readBytes: number
  writeBytes: number
}

export interface NodeRow {
  node: NodeSummary
  error: string
  used: number
  total: number
  rates: Rates | null
  recovery: RecoveryReport | null
}

export interface VolumeRow {
  volume: string
  node: NodeSummary
  rates: Rates | null
}

export interface View {
  nodes: NodeRow[]
  /** The busiest first */
  volumes: VolumeRow[]
}

type Counts = Omit<RequestCounts, 'active' | 'total' | 'remove'>

function ratesOf(now: Counts, before: Counts | undefined, ms: number): Rates | null {
  if (before === undefined || ms <= 0 || now.read < before.read || now.write < before.write) return null
  const rate = (of: (counts: Counts) => number): number => Math.max(0, ((of(now) - of(before)) * 1000) / ms)
  return {
    reads: rate(({ read }) => read),
    writes: rate(({ write }) => write),
    flushes: rate(({ flush }) => flush),
    readBytes: rate(({ readBytes }) => readBytes),
    writeBytes: rate(({ writeBytes }) => writeBytes),
  }
}

export function viewOf(now: Sample, before: Sample | null): View {
  const ms = before === null ? 0 : now.at - before.at
  const last = new Map(before?.statistics.map(({ node, answer }) => [node.id, answer]))
  const spaces = new Map(now.space.nodes.map(({ node, answer }) => [node.id, answer]))
  const recoveries = new Map(now.recovery.map(({ node, answer }) => [node.id, answer]))
  const nodes = now.statistics.map(({ node, answer, error }): NodeRow => {
    const { used = 0, total = 0 } = spaces.get(node.id) ?? {}
    const rates = answer === null ? null : ratesOf(answer.clients, last.get(node.id)?.clients, ms)
    return { node, error, used, total, rates, recovery: recoveries.get(node.id) ?? null }
  })
  const volumes = now.statistics.flatMap(({ node, answer }) =>
    (answer?.volumes ?? []).map((counts): VolumeRow => {
      const former = last.get(node.id)?.volumes.find(({ volume }) => volume === counts.volume)
      return { volume: counts.volume, node, rates: ratesOf(counts, former, ms) }
    }),
  )
  const load = ({ rates }: VolumeRow): number => (rates === null ? -1 : rates.reads + rates.writes + rates.flushes)
  return { nodes, volumes: volumes.sort((a, b) => load(b) - load(a) || (a.volume < b.volume ? -1 : 1)) }
}

const BAR_WIDTH = 10
/** With fewer columns some things are left out, and others have lines of their own. */
const WIDE = 112
/** Of a volume's row in a narrow frame, what is not its name */
const BESIDE_NAME = 56
const NAME_MIN = 12

function rateColumns<Row extends { rates: Rates | null }>(wide: boolean): Column<Row>[] {
  const column = (title: string, text: (rates: Rates) => string): Column<Row> => {
    return { title, align: 'right', text: ({ rates }) => (rates === null ? '-' : text(rates)) }
  }
  return [
    column('Reads/s', ({ reads }) => reads.toFixed(0)),
    column('Writes/s', ({ writes }) => writes.toFixed(0)),
    ...(wide ? [column('Flushes/s', ({ flushes }) => flushes.toFixed(0))] : []),
    column('Read', ({ readBytes }) => `${formatSize(Math.round(readBytes))}/s`),
    column('Written', ({ writeBytes }) => `${formatSize(Math.round(writeBytes))}/s`),
  ]
}

function hasNews({ recovery, error }: Pick<NodeRow, 'recovery' | 'error'>): boolean {
  return error !== '' || (recovery !== null && recovery.state !== 'idle')
}

function recoveryText({ recovery, error }: Pick<NodeRow, 'recovery' | 'error'>): string {
  if (error !== '') return `does not answer: ${error}`
  if (!hasNews({ recovery, error }) || recovery === null) return 'all copies are here'
  const { state, objectsDone, objectsTotal, rate, left } = recovery
  const pace = rate > 0 ? `, ${formatSize(Math.round(rate))}/s` : ''
  const time = left > 0 ? `, ${formatDuration(left)} left` : ''
  return `${state} ${formatPercent(objectsDone, objectsTotal)} of ${objectsTotal}${pace}${time}`
}

function nodeColumns(blocks: boolean, wide: boolean): Column<NodeRow>[] {
  const used: Column<NodeRow> = {
    title: 'Used',
    text: ({ used, total }) =>
      total === 0
        ? '-'
        : `${wide ? `${bar(used / total, BAR_WIDTH, blocks)} ` : ''}${formatPercent(used, total)} of ${formatSize(total)}`,
  }
  return [
    { title: 'Node', text: ({ node }) => node.name },
    used,
    ...rateColumns<NodeRow>(wide),
    ...(wide ? [{ title: 'Recovery', text: recoveryText }] : []),
  ]
}

/** @param room columns for its name */
function volumeColumns(wide: boolean, room: number): Column<VolumeRow>[] {
  return [
    { title: 'Volume', text: ({ volume }) => (displayWidth(volume) > room ? `${cut(volume, room - 3)}...` : volume) },
    { title: 'Open on', text: ({ node }) => node.name },
    ...rateColumns<VolumeRow>(wide),
  ]
}

export interface Line {
  text: string
  kind: 'head' | 'title' | 'text' | 'warning'
}

function headOf({ info }: Sample): Line[] {
  const { status, reason, epochs, recovering } = info
  const [epoch] = epochs
  const facts = [
    `Sheepdog ${info.version}: ${status}`,
    ...(epoch === undefined ? [] : [`epoch ${epoch.number}`, `${epoch.nodes.length} nodes`]),
  ]
  const lines: Line[] = [{ text: facts.join(', '), kind: status === 'running' ? 'head' : 'warning' }]
  if (reason !== '') lines.push({ text: reason, kind: 'warning' })
  if (recovering.length > 0 && status === 'running') {
    const names = recovering.map(({ name }) => name).join(', ')
    lines.push({ text: `Redundancy is reduced until objects are copied on ${names}`, kind: 'warning' })
  }
  return lines.map(({ text, kind }) => ({ text: printable(text), kind }))
}

/**
 * All lines; the caller cuts them to its terminal.
 * @param blocks the terminal has block characters
 * @param columns for how wide a terminal it is laid out
 */
export function frameOf(sample: Sample, view: View, blocks: boolean, columns = Number.POSITIVE_INFINITY): Line[] {
  const wide = columns >= WIDE
  const room = wide ? Number.POSITIVE_INFINITY : Math.max(NAME_MIN, columns - BESIDE_NAME)
  const table = (text: string): Line[] =>
    text
      .trimEnd()
      .split('\n')
      .map((line, at) => ({ text: line, kind: at === 0 ? 'title' : 'text' }))
  const volumes: Line[] =
    view.volumes.length === 0
      ? [{ text: 'No volume is open.', kind: 'text' }]
      : table(formatTable(volumeColumns(wide, room), view.volumes))
  const blank: Line = { text: '', kind: 'text' }
  const news = view.nodes
    .filter((row) => !wide && hasNews(row))
    .map((row): Line => ({ text: printable(`${row.node.name}: ${recoveryText(row)}`), kind: 'text' }))
  const nodes = [...table(formatTable(nodeColumns(blocks, wide), view.nodes)), ...news]
  return [...headOf(sample), blank, ...nodes, blank, ...volumes]
}

const STYLES = { head: '\u001b[1m', title: '\u001b[7m', text: '', warning: '\u001b[1;33m' }

/** What draws `lines` on a terminal of this size from its top left on, and nothing beyond it. */
export function drawn(lines: readonly Line[], columns: number, rows: number, colors: boolean): string {
  const hidden = lines.length - rows
  const shown = hidden > 0 ? lines.slice(0, rows - 1) : lines
  const more: Line[] = hidden > 0 ? [{ text: `... ${hidden + 1} more lines`, kind: 'text' }] : []
  const body = [...shown, ...more].map(({ text, kind }) => {
    const fitting = cut(text, columns)
    if (!colors || STYLES[kind] === '') return `${fitting}\u001b[K`
    const fill = kind === 'title' ? ' '.repeat(Math.max(0, columns - displayWidth(fitting))) : ''
    return `${STYLES[kind]}${fitting}${fill}\u001b[0m\u001b[K`
  })
  return `\u001b[H${body.join('\r\n')}\u001b[J`
}
