/** `dog libvirt`: volumes as disks of libvirt's machines, by NBD over the daemon's Unix socket. */
import { type Command, Option } from 'commander'
import type { NodePlaces } from '../control/services.js'
import { SheepError } from '../errors.js'
import { systemUris } from '../libvirt/daemons.js'
import { busOf, DomainXml, diskXml, elementXml, type Places, POOL_PATH } from '../libvirt/domain-xml.js'
import { Libvirt } from '../libvirt/libvirt.js'
import type { Definition, DomainInfo } from '../libvirt/messages.js'
import { formatReference, parseReference } from '../vdi/name.js'
import type { Add, ParsedOptions } from './command.js'
import { libvirtHook } from './libvirt-hook.js'
import type { Session } from './session.js'

const TARGET_DEFAULT = 'vda'

export function connectOption(): Option {
  return new Option('-c, --connect <URI>', "of libvirt (default: this host's system daemon)").env('LIBVIRT_DEFAULT_URI')
}

export async function withLibvirt<T>(uri: string | undefined, run: (libvirt: Libvirt) => Promise<T>): Promise<T> {
  const libvirt = await Libvirt.open(uri === undefined || uri === '' ? systemUris('qemu') : [uri])
  try {
    return await run(libvirt)
  } finally {
    libvirt.close()
  }
}

/** Of the host whose daemon is asked. SheepError */
export async function placesOf(session: Session): Promise<Places> {
  const { nodes } = await session.call('node.places', { node: '' })
  const [{ answer, error }] = nodes
  if (answer === null) throw new SheepError('unreachable', `that daemon does not say where its volumes are: ${error}`)
  return placesIn(answer)
}

/** A daemon that shows no files may still be asked about disks in the place where they are by default. */
export function placesIn({ nbd, volumes }: NodePlaces): Places {
  return { nbd, volumes: volumes || POOL_PATH }
}

export function addLibvirtCommands(libvirt: Command, add: Add): void {
  add(libvirt, 'disk-xml <VOLUME>', "print a volume's <disk> element for a domain's XML", (command) =>
    command.option('--target <NAME>', `what the guest's disk is called: vda, sda, ...`, TARGET_DEFAULT),
  )
    .notes(
      'VOLUME@TAG is a snapshot, read-only. The element uses the NBD socket of the daemon that is asked, and',
      'lets the guest wait while that daemon restarts.',
    )
    .examples('dog libvirt disk-xml disk', 'dog libvirt disk-xml disk --target vdb > disk.xml')
    .run(async (session, [volume], { target }) => {
      const name = await existing(session, volume)
      const xml = diskXml(name, target, await placesOf(session))
      session.report({ volume: name, xml }, xml.trimEnd(), xml.trimEnd())
    })

  add(libvirt, 'attach <DOMAIN> <VOLUME>', 'give a volume to a machine as a disk', (command) =>
    affecting(command).option('--target <NAME>', 'what the disk is called (default: the first free vdX)'),
  )
    .notes(...AFFECTING)
    .examples('dog libvirt attach web1 data', 'dog libvirt attach web1 data --persistent --target vdc')
    .run(async (session, [domain, volume], options) => {
      const name = await existing(session, volume)
      const places = await placesOf(session)
      if (options.target !== undefined) busOf(options.target)
      await withLibvirt(options.connect, async (host) => {
        const info = await host.call('domain', domain)
        const definitions = definitionsOf(info, options)
        const documents = await documentsOf(host, info, definitions)
        for (const [at, document] of documents.entries()) {
          const there = document.sheepdogDisks(places).find((disk) => disk.volume === name)
          if (there !== undefined) {
            const where = WORDS[definitions[at]]
            throw new SheepError('exists', `${info.name} has ${name} already, as ${there.target} (${where})`)
          }
        }
        const target = options.target ?? freeTarget(documents)
        const taken = documents.some((document) => document.targets.has(target))
        if (taken)
          throw new SheepError('exists', `${info.name} has a disk ${target} already`, 'choose another --target')
        await host.call('attachDevice', info.name, diskXml(name, target, places), definitions)
        session.report({ domain: info.name, volume: name, target, definitions }, done(info, name, target, definitions))
      })
    })

  add(libvirt, 'detach <DOMAIN> <VOLUME>', 'take a volume away from a machine', affecting)
    .notes(...AFFECTING, 'A running guest has to agree: what it has mounted it may keep.')
    .examples('dog libvirt detach web1 data', 'dog libvirt detach web1 data --persistent')
    .run(async (session, [domain, volume], options) => {
      const { name: vdi, snapshot } = parseReference(volume)
      const name = formatReference(vdi, snapshot)
      const places = await placesOf(session)
      await withLibvirt(options.connect, async (host) => {
        const info = await host.call('domain', domain)
        const definitions = definitionsOf(info, options)
        const found: Definition[] = []
        for (const definition of definitions) {
          const document = DomainXml.parse(await host.call('domainXml', info.name, definition))
          const disk = document.sheepdogDisks(places).find((one) => one.volume === name)
          if (disk === undefined) continue
          await host.call('detachDevice', info.name, elementXml(disk.element), [definition])
          found.push(definition)
        }
        if (found.length === 0) {
          const where = definitions.map((definition) => WORDS[definition]).join(' and ')
          throw new SheepError(
            'not-found',
            `${info.name} has no disk ${name} (${where})`,
            'virsh domblklist shows them',
          )
        }
        const where = found.map((definition) => WORDS[definition]).join(' and ')
        session.report(
          { domain: info.name, volume: name, definitions: found },
          `${name} is taken from ${info.name} (${where}).`,
        )
      })
    })

  add(libvirt, 'convert <DOMAIN>', "turn a machine's files of the pool into network disks", (command) =>
    command.addOption(connectOption()),
  )
    .notes(
      'Same volumes, same disks in the guest, by NBD: faster, and what live migration wants. It changes the',
      'definition; a machine that runs has the new disks at its next start (shut it down, then start it).',
    )
    .examples('dog libvirt convert web1')
    .run(async (session, [domain], { connect }) => {
      const places = await placesOf(session)
      await withLibvirt(connect, (host) => convert(session, host, domain, places))
    })

  add(libvirt, 'hook <DOMAIN> <OPERATION>', "answer libvirt's qemu hook: XML comes by stdin")
    .notes("What /etc/libvirt/hooks/qemu.d/sheepdog calls; its messages are those of libvirt's start and migrate.")
    .examples('virsh dumpxml web1 | dog libvirt hook web1 prepare')
    .run((session, [, operation]) => libvirtHook(session, operation))
}

const WORDS: Record<Definition, string> = { live: 'running', config: 'next start' }

const AFFECTING = [
  'Without an option: the machine that runs, or the definition of one that does not. A definition counts',
  'from the next start on.',
]

function affecting(command: Command): Command {
  return command
    .addOption(connectOption())
    .option('--live', 'the machine that runs')
    .option('--config', 'its definition')
    .option('--persistent', 'both, where it runs')
}

/** As virsh understands these words. SheepError: libvirt would refuse it, with a worse message */
function definitionsOf(info: DomainInfo, { live, config, persistent }: ParsedOptions): Definition[] {
  if (live && !info.active) {
    throw new SheepError('invalid', `${info.name} does not run`, 'leave --live out, or start it: virsh start')
  }
  if ((config || persistent) && !info.persistent) {
    throw new SheepError('invalid', `${info.name} has no definition: it is gone when it stops`, 'use --live')
  }
  const definitions: Definition[] = []
  if (live || (info.active && (persistent || !config))) definitions.push('live')
  if (config || persistent || definitions.length === 0) definitions.push('config')
  return definitions
}

function documentsOf(host: Libvirt, info: DomainInfo, definitions: readonly Definition[]): Promise<DomainXml[]> {
  return Promise.all(definitions.map(async (of) => DomainXml.parse(await host.call('domainXml', info.name, of))))
}

/** In all of them. */
function freeTarget(documents: readonly DomainXml[]): string {
  const taken = new Set(documents.flatMap((document) => [...document.targets]))
  return documents[0].freeTarget('vd', taken)
}

function done(info: DomainInfo, volume: string, target: string, definitions: readonly Definition[]): string {
  const now = definitions.includes('live') ? 'now' : ''
  const later = definitions.includes('config') ? (info.active ? 'from its next start on' : 'when it starts') : ''
  return `${info.name} has ${volume} as ${target}, ${[now, later].filter((word) => word !== '').join(' and ')}.`
}

/** As libvirt is to know it. SheepError not-found, no-tag, invalid */
async function existing(session: Session, volume: string): Promise<string> {
  const { name, snapshot } = parseReference(volume)
  const { vdis } = await session.call('vdi.list', { name })
  const found = vdis.find((vdi) =>
    snapshot === '' ? !vdi.snapshot : vdi.snapshot && (vdi.tag === snapshot || String(vdi.id) === snapshot),
  )
  if (found === undefined) {
    throw new SheepError('no-tag', `${name} has no snapshot ${snapshot}`, `dog vdi list ${name} shows its snapshots`)
  }
  return formatReference(name, found.snapshot ? found.tag || found.id : '')
}

async function convert(session: Session, host: Libvirt, domain: string, places: Places): Promise<void> {
  const info = await host.call('domain', domain)
  if (!info.persistent) {
    throw new SheepError('invalid', `${info.name} has no definition that could be changed`, 'define it: virsh define')
  }
  const document = DomainXml.parse(await host.call('domainXml', info.name, 'config'))
  const { converted, kept } = document.convert(places)
  if (converted.length > 0) await host.call('defineDomain', String(document))
  const lines = converted.map(({ target, volume }) => `${target} of ${info.name} is volume ${volume} by NBD.`)
  for (const { disk, reason } of kept) lines.push(`${disk.target} stays the file of volume ${disk.volume}: ${reason}.`)
  if (lines.length === 0) lines.push(`${info.name} has no disk that is a file of a volume: nothing to convert.`)
  if (converted.length > 0 && info.active) {
    lines.push(`${info.name} runs with its files until it is shut down; its next start takes the network disks.`)
  }
  const answer = {
    domain: info.name,
    converted: converted.map(({ target, volume }) => ({ target, volume })),
    kept: kept.map(({ disk: { target, volume }, reason }) => ({ target, volume, reason })),
    running: info.active,
  }
  session.report(answer, lines.join('\n'), converted.map(({ target, volume }) => `${target} ${volume}`).join('\n'))
}
