/** `dog vdi lock`: who has volumes open, taking one away from a host, and live migration. */
import { type Command, Option } from 'commander'
import { type LockInfo, MIGRATION_SECONDS_MAX } from '../control/verbs.js'
import { SheepError } from '../errors.js'
import { parseCount } from './arguments.js'
import { type Add, group } from './command.js'
import { confirm } from './confirm.js'
import type { Session } from './session.js'
import { formatTime } from './size.js'
import type { Column } from './table.js'

const MIGRATION_MINUTES = 60

const COLUMNS: readonly Column<LockInfo>[] = [
  { title: 'Volume', text: (lock) => lock.volume },
  { title: 'VDI id', align: 'right', text: (lock) => lock.vid.toString(16) },
  { title: 'Mode', text: (lock) => lock.mode },
  { title: 'Node', text: (lock) => lock.nodeName },
  { title: 'Since', text: (lock) => formatTime(lock.since, true), raw: (lock) => Math.floor(lock.since / 1000) },
  { title: 'Holder', text: (lock) => lock.holder },
  {
    title: 'May migrate to',
    text: ({ migration }) =>
      migration === null ? '' : `${migration.toName || 'any node'}, until ${formatTime(migration.until, true)}`,
    raw: ({ migration }) => (migration === null ? '' : migration.toName || 'any'),
  },
]

export function addLockCommands(vdi: Command, add: Add): void {
  const lock = group(vdi, 'lock', 'who has volumes open; take one away, migrate one')

  add(lock, 'list', 'list volumes that are open, and by whom')
    .notes('Mode target: the target of a live migration, which may read beside the writer.')
    .examples('dog vdi lock list')
    .run(async (session) => {
      const answer = await session.call('lock.list', {})
      session.print(answer, COLUMNS, answer.locks)
    })

  add(lock, 'break <NAME>', 'take a volume away from whoever has it open', (command) =>
    command.addOption(new Option('-s, --snapshot <TAG>', 'take this snapshot away')).option('-y, --yes', 'do not ask'),
  )
    .notes(
      'The holder is shut out first: when this returns, no node takes a write of its any more, not even',
      'one that was on its way. Its clients lose their connections, and what they wrote without an answer',
      'is lost, as when their host loses power. A volume of a host that has left is free without this.',
    )
    .examples('dog vdi lock break disk', 'dog vdi lock break --yes disk')
    .run((session, [name], { snapshot = '', yes }) => breakLock(session, name, snapshot, yes === true))

  add(lock, 'migrate <NAME>', 'let a second node open a volume for a live migration', (command) =>
    command
      .option('--to <NODE>', 'the only one that may: number, id or name (default: any)')
      .option('--minutes <N>', `for so long (default: ${MIGRATION_MINUTES})`, parseMinutes)
      .option('--cancel', 'end it: the volume stays where it is')
      .option('--finish', 'move the volume to the target now, before it writes'),
  )
    .notes(
      'The target may open the volume beside the running machine, and read. With its first write the',
      'volume is its own; the former host is shut out first. If the target goes away without a write, the',
      'volume stays where it is; if the former host dies, the target has it.',
    )
    .examples('dog vdi lock migrate disk --to host2', 'dog vdi lock migrate disk --cancel')
    .run(async (session, [name], { to = '', minutes = MIGRATION_MINUTES, cancel, finish }) => {
      if (cancel === true && finish === true)
        throw new SheepError('invalid', '--cancel and --finish exclude each other')
      if (cancel === true) {
        const answer = await session.call('lock.cancel', { name })
        session.report(answer, `${name} stays where it is.`)
      } else if (finish === true) {
        const answer = await session.call('lock.finish', { name })
        session.report(answer, `${name} is open on ${answer.lock.nodeName} now.`)
      } else {
        const answer = await session.call('lock.migrate', { name, to, seconds: minutes * 60 })
        const { nodeName, migration } = answer.lock
        const until = migration === null ? '' : ` until ${formatTime(migration.until, true)}`
        const who = migration?.toName || 'Any node'
        session.report(answer, `${who} may open ${name} beside ${nodeName}${until}.`)
      }
    })
}

async function breakLock(session: Session, name: string, snapshot: string, yes: boolean): Promise<void> {
  const volume = snapshot === '' ? name : `${name}@${snapshot}`
  const { vdis } = await session.call('vdi.list', { name })
  const vdi = vdis.find((one) =>
    snapshot === '' ? !one.snapshot : one.snapshot && (one.tag === snapshot || String(one.id) === snapshot),
  )
  const { locks } = await session.call('lock.list', {})
  if (vdi === undefined) {
    throw new SheepError('no-tag', `${name} has no snapshot ${snapshot}`, `dog vdi list ${name} shows its snapshots`)
  }
  const held = locks.filter((lock) => lock.vid === vdi.vid)
  if (held.length === 0) {
    throw new SheepError('not-locked', `nobody has ${volume} open`, 'dog vdi lock list shows all that are open')
  }
  if (!yes) {
    const who = held.map((lock) => `${lock.holder} on ${lock.nodeName}, since ${formatTime(lock.since, true)}`)
    const loses =
      'It loses the volume at once, with every write that was not answered: a machine that runs there fails.'
    await confirm(`${volume} is open: ${who.join('; ')}. ${loses}`, '--yes')
  }
  const { node, session: holder } = held[0]
  const broken = await session.call(
    'lock.break',
    { name, snapshot, holder: { node, session: holder } },
    `shutting out the holder of ${volume}`,
  )
  const taken = broken.locks.map((lock) => `${lock.holder} on ${lock.nodeName}`).join(', ')
  session.report(broken, `${volume} is free: ${taken} is shut out.`)
}

function parseMinutes(text: string): number {
  return parseCount(text, 'number of minutes', 1, MIGRATION_SECONDS_MAX / 60)
}
