/** `dog vdi snapshot --domain`: all of a machine's volumes as they were at one instant. */
import { asSheepError, SheepError } from '../errors.js'
import { DomainXml } from '../libvirt/domain-xml.js'
import type { Quiesced } from '../libvirt/messages.js'
import { placesOf, withLibvirt } from './libvirt-disks.js'
import type { Session } from './session.js'

/** A guest never stands still for longer, whatever becomes of us: Windows' own freeze ends after 60 s, databases wait for less. */
const STANDSTILL_SECONDS = 20

export interface DomainSnapshot {
  domain: string
  tag: string
  volumes: string[]
  /** File systems that the guest's agent had frozen */
  frozen: number
  noAgent: string
}

/** SheepError: none is left of the snapshots that were taken */
export async function snapshotDomain(
  session: Session,
  domain: string,
  tag: string,
  { connect, freeze }: { connect: string | undefined; freeze: boolean },
): Promise<DomainSnapshot> {
  const places = await placesOf(session)
  return withLibvirt(connect, async (host) => {
    const info = await host.call('domain', domain)
    const xml = await host.call('domainXml', info.name, info.active ? 'live' : 'config')
    const disks = DomainXml.parse(xml).sheepdogDisks(places)
    const volumes = disks.filter(({ volume, readOnly }) => !readOnly && !volume.includes('@')).map((one) => one.volume)
    if (volumes.length === 0) {
      throw new SheepError('not-found', `${info.name} has no disk that is a volume`, `virsh domblklist ${info.name}`)
    }
    await refuseTaken(session, volumes, tag)
    const still: Quiesced | null = info.active
      ? await host.call('quiesce', info.name, freeze, STANDSTILL_SECONDS)
      : null
    const taken: string[] = []
    try {
      for (const name of volumes) {
        await session.call('vdi.snapshot', { name, tag }, `snapshot of ${name}`)
        taken.push(name)
      }
      if (still !== null && !(await host.call('release'))) {
        const message = `the snapshots took more than ${STANDSTILL_SECONDS} s: they are not of one instant`
        throw new SheepError('timeout', message, 'see what the cluster waits for: dog cluster info')
      }
    } catch (error) {
      if (still !== null) await host.call('release').catch(() => host.close())
      await undo(session, taken, tag, asSheepError(error))
      throw error
    }
    return { domain: info.name, tag, volumes, frozen: still?.frozen ?? 0, noAgent: still?.noAgent ?? '' }
  })
}

/** Before the guest is made to stand still for it. */
async function refuseTaken(session: Session, volumes: readonly string[], tag: string): Promise<void> {
  const { vdis } = await session.call('vdi.list', { name: '' })
  const taken = vdis.find((vdi) => vdi.snapshot && vdi.tag === tag && volumes.includes(vdi.name))
  if (taken === undefined) return
  throw new SheepError('exists', `${taken.name} has a snapshot ${tag} already`, 'choose another tag')
}

async function undo(session: Session, taken: readonly string[], tag: string, reason: SheepError): Promise<void> {
  for (const name of taken) {
    try {
      await session.call('vdi.delete', { name, snapshot: tag })
    } catch (error) {
      throw new SheepError(
        reason.code,
        `${reason.message}; and ${name}@${tag} stays: ${asSheepError(error).message}`,
        `delete it: dog vdi delete -s ${tag} ${name}`,
      )
    }
  }
}

export function reportDomain(session: Session, taken: DomainSnapshot): void {
  const { domain, tag, volumes, frozen, noAgent } = taken
  const names = volumes.map((name) => `${name}@${tag}`)
  const agent = frozen > 0 ? `, ${frozen} of its file systems frozen` : ''
  const why = noAgent === '' ? '' : `\nAs after a loss of power: its file systems were not frozen (${noAgent}).`
  session.report(taken, `Snapshot of ${domain} taken${agent}: ${names.join(', ')}.${why}`, names.join('\n'))
}
