/** `dog cluster lost`: what no node that is here can read as it was last, and giving it up. */
import type { LostObject } from '../control/services.js'
import { ACCEPT_MAX } from '../control/verbs.js'
import { SheepError } from '../errors.js'
import type { ParsedOptions } from './command.js'
import { confirm } from './confirm.js'
import type { Session } from './session.js'
import { formatSize } from './size.js'
import type { Column } from './table.js'

const COLUMNS: readonly Column<LostObject>[] = [
  {
    title: 'Volume',
    text: ({ volumes, deleting }) => `${volumes.join(',')}${deleting ? ' (being deleted)' : ''}`,
    raw: ({ volumes }) => volumes.join(','),
  },
  {
    title: 'Offset',
    align: 'right',
    text: ({ index, offset }) => (index < 0 ? 'its index' : formatSize(offset)),
    raw: ({ index, offset }) => (index < 0 ? 'index' : offset),
  },
  { title: 'Object', text: ({ oid }) => oid },
  {
    title: 'Newest copy',
    text: (object) => whereIsIt(object),
    raw: ({ reason, nodes }) => [reason, ...nodes].join(','),
  },
  {
    title: 'What is left',
    text: ({ left, reason }) =>
      reason === 'unreadable'
        ? 'the rest of it'
        : left === null
          ? 'nothing'
          : `as of epoch ${left.epoch}, on ${left.node}`,
    raw: ({ left }) => (left === null ? '' : `${left.epoch},${left.node}`),
  },
]

function whereIsIt({ reason, nodes }: LostObject): string {
  if (reason === 'nobody') return 'no node has it'
  const names = nodes.join(' or ')
  if (reason === 'unreadable') return `unreadable in part on ${names}`
  return reason === 'away' ? `away with ${names}` : `gone with a disk of ${names}`
}

/** Without `--accept` it only lists; exit code 1 when something is lost. */
export async function lost(session: Session, [name = '']: readonly string[], options: ParsedOptions): Promise<void> {
  const zeros = options.zeros === true
  const accepting = options.accept === true
  if (zeros && !accepting) throw new SheepError('invalid', '--zeros says how to accept', 'add --accept')
  const answer = await session.call('cluster.lost', { name }, 'asking all nodes')
  const { objects } = answer
  if (!accepting) {
    if (session.forPeople && objects.length === 0) session.write('Nothing is lost.\n')
    else session.print(answer, COLUMNS, objects)
    if (objects.length === 0) return
    const are = objects.length === 1 ? 'object is' : 'objects are'
    const hint = 'start the nodes and plug in the disks that have them; if those are gone for good: --accept'
    throw new SheepError('io', `${objects.length} ${are} lost or away`, hint)
  }
  const damaged = objects.filter(isDamagedIndex)
  const rest = objects.filter((object) => !isDamagedIndex(object))
  if (rest.length > 0 && options.yes !== true) {
    if (session.forPeople) session.print(answer, COLUMNS, objects)
    await confirm(warning(rest, zeros), '--yes')
  }
  const accepted: string[] = []
  for (let at = 0; at < rest.length; at += ACCEPT_MAX) {
    const batch = rest.slice(at, at + ACCEPT_MAX).map(({ oid }) => oid)
    accepted.push(...(await session.call('cluster.acceptLost', { objects: batch, zeros }, 'giving up')).objects)
  }
  const what = zeros ? 'zeros' : 'what is left, or zeros,'
  const text = accepted.length === 0 ? 'Nothing was lost.' : `${accepted.length} given up: ${what} in place of each.`
  if (accepted.length > 0 || damaged.length === 0) session.report({ objects: accepted }, text)
  if (damaged.length === 0) return
  const names = damaged.flatMap(({ volumes }) => volumes).join(', ')
  throw new SheepError(
    'io',
    `a part of the index of ${names} cannot be read, and is not given up: zeros in it would make data disappear`,
    'start the nodes that have a copy; or roll back to a snapshot (dog vdi rollback), or delete it (dog vdi delete)',
  )
}

function isDamagedIndex({ reason, index }: LostObject): boolean {
  return reason === 'unreadable' && index < 0
}

function warning(all: readonly LostObject[], zeros: boolean): string {
  const partly = all.filter(({ reason }) => reason === 'unreadable').length
  const objects = all.filter(({ reason }) => reason !== 'unreadable')
  const older = zeros ? 0 : objects.filter(({ left }) => left !== null).length
  const empty = objects.filter(({ left, index }) => index >= 0 && (zeros || left === null)).length
  const indexes = objects.filter(({ left, index }) => index < 0 && (zeros || left === null))
  const ruined = indexes.filter(({ deleting }) => !deleting)
  const freed = indexes.filter(({ deleting }) => deleting)
  const parts = []
  if (older > 0) parts.push(`${older} of these objects will have older bytes than were written`)
  if (partly > 0) parts.push(`what cannot be read of ${partly} will be zeros`)
  if (empty > 0) parts.push(`${empty} will be zeros`)
  if (ruined.length > 0) parts.push(`${ruined.flatMap(({ volumes }) => volumes).join(', ')} can only be deleted`)
  if (freed.length > 0) parts.push(`the deletion of ${freed.flatMap(({ volumes }) => volumes).join(', ')} will end`)
  return `${parts.join(', ')}; what the nodes and disks that are away have of them will not count when they come back.`
}
