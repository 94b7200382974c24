/** `dog vdi`: volumes, snapshots, clones. */
import { type Command, Option } from 'commander'
import type { VdiInfo } from '../control/verbs.js'
import { SheepError } from '../errors.js'
import { parseCopies, parseIndex, parseObjectShift, parseOnNoQuorum } from './arguments.js'
import { printCheck } from './check-report.js'
import { type Add, group } from './command.js'
import { confirm } from './confirm.js'
import { connectOption } from './libvirt.js'
import { printLocation } from './location.js'
import { addLockCommands } from './lock.js'
import { formatSize, formatTime, parseSize } from './size.js'
import type { Column } from './table.js'
import { formatTree, treeOf } from './tree.js'
import { readVolume, writeVolume } from './volume-data.js'

/** The first column as administrators know it: s snapshot, c clone, in raw output = for a plain volume. */
function kind(vdi: VdiInfo): string {
  return vdi.snapshot ? 's' : vdi.clone ? 'c' : ''
}

export const VDI_COLUMNS: readonly Column<VdiInfo>[] = [
  { title: ' ', text: kind, raw: (vdi) => kind(vdi) || '=' },
  { title: 'Name', text: (vdi) => vdi.name },
  { title: 'Id', align: 'right', text: (vdi) => String(vdi.id) },
  { title: 'Size', align: 'right', text: (vdi) => formatSize(vdi.size), raw: (vdi) => vdi.size },
  sizeColumn('Used', (vdi) => vdi.used),
  sizeColumn('Shared', (vdi) => vdi.shared),
  { title: 'Creation time', text: (vdi) => formatTime(vdi.created), raw: (vdi) => Math.floor(vdi.created / 1000) },
  { title: 'VDI id', align: 'right', text: (vdi) => vdi.vid.toString(16) },
  { title: 'Copies', align: 'right', text: (vdi) => String(vdi.copies) },
  { title: 'Tag', text: (vdi) => vdi.tag },
  {
    title: 'Object',
    align: 'right',
    text: (vdi) => formatSize(vdi.objectSize),
    raw: (vdi) => Math.log2(vdi.objectSize),
  },
]

/** What is not known now is `-`. */
function sizeColumn(title: string, of: (vdi: VdiInfo) => number | null): Column<VdiInfo> {
  return {
    title,
    align: 'right',
    text: (vdi) => {
      const bytes = of(vdi)
      return bytes === null ? '-' : formatSize(bytes)
    },
    raw: (vdi) => of(vdi) ?? '',
  }
}

function title(vdi: VdiInfo): string {
  return vdi.snapshot ? `${vdi.name}@${vdi.tag || vdi.id}` : vdi.name
}

function snapshotOption(what: string, mandatory: boolean): Option {
  return new Option('-s, --snapshot <TAG>', what).makeOptionMandatory(mandatory)
}

export function addVdiCommands(vdi: Command, add: Add): void {
  add(vdi, 'create <NAME> <SIZE>', 'create a volume', (command) =>
    command
      .option('-c, --copies <N>', "how many nodes keep each object (default: the cluster's)", parseCopies)
      .option('-P, --prealloc', 'reserve all space now, instead of when it is written')
      .option(
        '-z, --object-size <SIZE>',
        "size of objects, 1M to 2G, or its log2 (default: the cluster's)",
        parseObjectShift,
      )
      .option(
        '--on-no-quorum <wait|SECONDS>',
        "what it does without quorum: wait, or fail (default: the cluster's)",
        parseOnNoQuorum,
      ),
  )
    .examples('dog vdi create disk 10G', 'dog vdi create disk 1.5T -c 2 -P', 'dog vdi create archive 16T -z 16M')
    .run(async (session, [name, size], options) => {
      const created = await session.call(
        'vdi.create',
        {
          name,
          size: parseSize(size),
          copies: options.copies ?? 0,
          blockSizeShift: options.objectSize ?? 0,
          preallocate: options.prealloc === true,
          onNoQuorum: options.onNoQuorum ?? null,
        },
        `creating ${name}`,
      )
      const { copies } = created
      session.report(
        created,
        `Created ${name}: ${formatSize(created.size)}, ${copies} ${copies === 1 ? 'copy' : 'copies'} of each object.`,
      )
    })

  add(vdi, 'set <NAME>', 'change what a volume does without quorum', (command) =>
    command.addOption(
      new Option(
        '--on-no-quorum <wait|SECONDS|cluster>',
        "wait, fail with EIO after SECONDS, or do as the cluster's others",
      )
        .argParser((text) => (text === 'cluster' ? text : parseOnNoQuorum(text)))
        .makeOptionMandatory(),
    ),
  )
    .notes(
      'What a request that failed was to write may be written when the quorum is back. Its snapshots keep to',
      'what held when they were taken.',
    )
    .examples('dog vdi set disk --on-no-quorum 5', 'dog vdi set disk --on-no-quorum cluster')
    .run(async (session, [name], { onNoQuorum }) => {
      const changed = await session.call('vdi.set', {
        name,
        onNoQuorum: onNoQuorum === 'cluster' ? null : onNoQuorum,
      })
      const ms = changed.onNoQuorum
      const does = ms === null ? "as the cluster's others" : ms === 0 ? 'wait' : `fail after ${ms / 1000} s`
      session.report(changed, `Without quorum requests to ${name} ${ms === null ? `do ${does}` : does}.`)
    })

  add(vdi, 'list [NAME]', 'list volumes and snapshots')
    .notes('The first column says s for a snapshot and c for a clone.', 'Used and Shared count one copy.')
    .examples('dog vdi list', 'dog vdi list disk', 'dog vdi list -r | cut -d" " -f2')
    .run(async (session, [name = '']) => {
      const answer = await session.call('vdi.list', { name })
      session.print(answer, VDI_COLUMNS, answer.vdis)
    })

  add(vdi, 'snapshot [NAME]', 'freeze a volume as a snapshot', (command) =>
    command
      .addOption(snapshotOption('tag of the new snapshot', true))
      .option('--domain <DOMAIN>', "all volumes of this machine of libvirt's, at one instant")
      .addOption(connectOption())
      .option('--no-freeze', "with --domain: do not ask the guest's agent"),
  )
    .notes(
      "With --domain the guest's agent, where there is one, writes out and freezes its file systems first; the",
      'machine stands still while the snapshots are taken, goes on whatever happens, and after 20 s at the latest.',
    )
    .examples('dog vdi snapshot -s before-upgrade disk', 'dog vdi snapshot -s before-upgrade --domain web1')
    .run(async (session, [name], { snapshot: tag, domain, connect, freeze }) => {
      if ((name === undefined) === (domain === undefined)) {
        throw new SheepError('invalid', 'either a volume or --domain says what is to be frozen', 'give one of them')
      }
      if (domain === undefined) {
        const taken = await session.call('vdi.snapshot', { name, tag })
        session.report(taken, `Snapshot ${title(taken)} taken.`)
      } else {
        const { reportDomain, snapshotDomain } = await import('./domain-snapshot.js')
        reportDomain(session, await snapshotDomain(session, domain, tag, { connect, freeze: freeze === true }))
      }
    })

  add(vdi, 'clone <SOURCE> <NAME>', 'make a writable volume from a snapshot', (command) =>
    command.addOption(snapshotOption('tag or id of the snapshot', true)),
  )
    .examples('dog vdi clone -s golden debian web1')
    .run(async (session, [source, name], { snapshot }) => {
      const clone = await session.call('vdi.clone', { source, snapshot, name })
      session.report(clone, `Cloned ${source}@${snapshot} to ${name}.`)
    })

  add(vdi, 'rollback <NAME>', 'put a volume back to a snapshot', (command) =>
    command
      .addOption(snapshotOption('tag or id of the snapshot', true))
      .option('-y, --yes', 'do not ask on a terminal'),
  )
    .notes('What was written since the snapshot is dropped. The snapshot stays.')
    .examples('dog vdi rollback -s before-upgrade disk')
    .run(async (session, [name], { snapshot, yes }) => {
      if (!yes && process.stdin.isTTY)
        await confirm(`Everything written to ${name} since ${snapshot} will be lost.`, '--yes')
      const rolled = await session.call('vdi.rollback', { name, snapshot }, `rolling back ${name}`)
      session.report(rolled, `${name} is what it was at ${snapshot}.`)
    })

  add(vdi, 'delete <NAME>', 'delete a volume or a snapshot', (command) =>
    command.addOption(snapshotOption('delete this snapshot, and keep the volume', false)),
  )
    .examples('dog vdi delete disk', 'dog vdi delete -s before-upgrade disk')
    .run(async (session, [name], { snapshot = '' }) => {
      const answer = await session.call('vdi.delete', { name, snapshot }, `deleting ${name}`)
      session.report(answer, `Deleted ${snapshot === '' ? name : `${name}@${snapshot}`}.`)
    })

  add(vdi, 'resize <NAME> <SIZE>', 'make a volume larger, or smaller', (command) =>
    command.option('--shrink', 'allow a smaller size: data beyond it is lost'),
  )
    .examples('dog vdi resize disk 20G', 'dog vdi resize --shrink disk 5G')
    .run(async (session, [name, size], { shrink }) => {
      const resized = await session.call('vdi.resize', { name, size: parseSize(size), shrink: shrink === true })
      session.report(resized, `${name} is ${formatSize(resized.size)} now.`)
    })

  add(vdi, 'rename <NAME> <NEW_NAME>', 'rename a volume with its snapshots')
    .examples('dog vdi rename disk old-disk')
    .run(async (session, [name, newName]) => {
      const answer = await session.call('vdi.rename', { name, newName })
      session.report(answer, `${name} is called ${newName} now.`)
    })

  add(vdi, 'tree [NAME]', 'show which snapshots and clones come from which')
    .examples('dog vdi tree')
    .run(async (session, [name]) => {
      const { vdis } = await session.call('vdi.list', { name: '' })
      if (name !== undefined && !vdis.some((one) => one.name === name)) await session.call('vdi.list', { name })
      const roots = treeOf(vdis).filter((root) => name === undefined || root.contains(name))
      if (session.options.format === 'json') session.report({ trees: roots }, '')
      else session.write(formatTree(roots, session.options.format === 'raw'))
    })

  add(vdi, 'read <NAME> [OFFSET] [LENGTH]', "copy a volume's bytes to stdout", (command) =>
    command.addOption(snapshotOption('read this snapshot', false)),
  )
    .examples('dog vdi read disk > disk.raw', 'dog vdi read -s golden debian 0 1M | hexdump -C')
    .run((session, [name, offset, length], { snapshot = '' }) =>
      readVolume(session, name, snapshot, sizeOr(offset, 0), sizeOr(length, -1)),
    )

  add(vdi, 'write <NAME> [OFFSET] [LENGTH]', "write stdin's bytes into a volume")
    .notes('It returns when the data is safe on all copies.')
    .examples('dog vdi write disk < disk.raw', 'printf hello | dog vdi write disk 4096')
    .run((session, [name, offset, length]) => writeVolume(session, name, sizeOr(offset, 0), sizeOr(length, -1)))

  add(vdi, 'check <NAME>', 'compare all copies of all objects', (command) =>
    command
      .addOption(snapshotOption('check this snapshot', false))
      .option('--repair', 'write good copies over bad and missing ones'),
  )
    .notes('Exit code 1 when something is wrong and was not repaired.')
    .examples('dog vdi check disk', 'dog vdi check --repair disk')
    .run(async (session, [name], { snapshot = '', repair }) => {
      const checking = { name, snapshot, repair: repair === true }
      printCheck(session, name, await session.call('vdi.check', checking, `checking ${name}`))
    })

  addObjectCommand(vdi, add)
  addLockCommands(vdi, add)
}

/** `dog vdi object NAME [INDEX]`, and the form `dog vdi object location` that scripts know. */
function addObjectCommand(vdi: Command, add: Add): void {
  const object = group(vdi, 'object', "where a volume's objects are").usage('[options] <NAME> [INDEX]')
  add(
    object,
    'location <NAME> [INDEX]',
    'show which nodes have an object',
    (command) =>
      command
        .addOption(snapshotOption('of this snapshot', false))
        .option('-i, --index <INDEX>', 'data object number; without one the inode object', parseIndex),
    { isDefault: true },
  )
    .examples('dog vdi object disk', 'dog vdi object disk 0', 'dog vdi object location -i 12 disk')
    .run(async (session, [name, given], { snapshot = '', index = given === undefined ? -1 : parseIndex(given) }) => {
      const location = await session.call('vdi.locate', { name, snapshot, index })
      const { nodes } = await session.call('node.list', {})
      printLocation(session, location, nodes)
    })
}

function sizeOr(text: string | undefined, fallback: number): number {
  if (text === undefined) return fallback
  const bytes = parseSize(text)
  if (bytes < 0) throw new SheepError('invalid', `${text} is negative`)
  return bytes
}
