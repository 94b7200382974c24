/** What `dog libvirt` does: reads machines' XML, and changes their disks. */
import type { NodePlaces } from '../control/services.js'
import { SheepError } from '../errors.js'
import { systemUris } from '../libvirt/daemons.js'
import { busOf, DomainXml, diskXml, elementXml, type Places, POOL_PATH } from '../libvirt/domain-xml.js'
import { Libvirt } from '../libvirt/libvirt.js'
import type { Definition, DomainInfo } from '../libvirt/messages.js'
import { formatReference, parseReference } from '../vdi/name.js'
import type { ParsedOptions } from './command.js'
import type { Session } from './session.js'

const WORDS: Record<Definition, string> = { live: 'running', config: 'next start' }

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

export async function printDisk(session: Session, volume: string, target: string): Promise<void> {
  const name = await existing(session, volume)
  const xml = diskXml(name, target, await placesOf(session))
  session.report({ volume: name, xml }, xml.trimEnd(), xml.trimEnd())
}

export async function attach(session: Session, domain: string, volume: string, options: ParsedOptions): Promise<void> {
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
    if (taken) throw new SheepError('exists', `${info.name} has a disk ${target} already`, 'choose another --target')
    await host.call('attachDevice', info.name, diskXml(name, target, places), definitions)
    session.report({ domain: info.name, volume: name, target, definitions }, done(info, name, target, definitions))
  })
}

export async function detach(session: Session, domain: string, volume: string, options: ParsedOptions): Promise<void> {
  const { name: vdi, snapshot } = parseReference(volume)
  const name = formatReference(vdi, snapshot)
  const places = await placesOf(session)
  await withLibvirt(options.connect, async (host) => {
    const info = await host.call('domain', domain)
    const definitions = definitionsOf(info, options)
    const diskIn = async (definition: Definition) => {
      const document = DomainXml.parse(await host.call('domainXml', info.name, definition))
      return document.sheepdogDisks(places).find((one) => one.volume === name)
    }
    const found: Definition[] = []
    for (const definition of definitions) {
      const disk = await diskIn(definition)
      if (disk === undefined) continue
      await host.call('detachDevice', info.name, elementXml(disk.element), [definition])
      found.push(definition)
    }
    const where = (list: readonly Definition[]) => list.map((definition) => WORDS[definition]).join(' and ')
    if (found.length === 0) {
      const message = `${info.name} has no disk ${name} (${where(definitions)})`
      throw new SheepError('not-found', message, 'virsh domblklist shows them')
    }
    // libvirt has asked the guest, which may take its time, or not answer at all.
    const asked = found.includes('live') && (await diskIn('live')) !== undefined
    const taken = asked ? found.filter((definition) => definition !== 'live') : found
    const lines = taken.length === 0 ? [] : [`${name} is taken from ${info.name} (${where(taken)}).`]
    if (asked) lines.push(`${info.name} has been asked to let ${name} go: it has it until its guest has done so.`)
    session.report({ domain: info.name, volume: name, definitions: taken, asked }, lines.join('\n'))
  })
}

export async function convert(session: Session, domain: string, connect: string | undefined): Promise<void> {
  const places = await placesOf(session)
  await withLibvirt(connect, (host) => convertDomain(session, host, domain, places))
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

async function convertDomain(session: Session, host: Libvirt, domain: string, places: Places): Promise<void> {
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
