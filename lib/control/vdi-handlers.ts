import { SheepError } from '../errors.js'
import type { VdiEntry } from '../vdi/types.js'
import type { Handlers } from './dispatch.js'
import { nodeSummaries, selectNodes } from './nodes.js'
import type { ControlServices } from './services.js'
import type { LockInfo, VdiInfo } from './verbs.js'

export const vdiHandlers: Handlers<'vdi' | 'lock'> = {
  'vdi.create': async (services, request, progress) => infoOf(services, await services.vdis.create(request, progress)),

  'vdi.set': async (services, { name, onNoQuorum }) =>
    infoOf(services, await services.vdis.setOnNoQuorum(name, onNoQuorum)),

  'vdi.list': async (services, { name }) => {
    const entries = services.volumes.list().filter((entry) => name === '' || entry.name === name)
    if (name !== '' && entries.length === 0) services.volumes.find(name, '')
    return { vdis: await infosOf(services, entries) }
  },

  'vdi.snapshot': async (services, { name, tag }) => infoOf(services, await services.vdis.snapshot(name, tag)),

  'vdi.clone': async (services, { source, snapshot, name }) =>
    infoOf(services, await services.vdis.clone(source, snapshot, name)),

  'vdi.rollback': async (services, { name, snapshot }) =>
    infoOf(services, await services.vdis.rollback(name, snapshot)),

  'vdi.delete': async (services, { name, snapshot }, progress) => {
    await services.vdis.delete(name, snapshot, progress)
    return {}
  },

  'vdi.resize': async (services, { name, size, shrink }) =>
    infoOf(services, await services.vdis.resize(name, size, shrink)),

  'vdi.rename': async (services, { name, newName }) => {
    await services.vdis.rename(name, newName)
    return {}
  },

  'vdi.check': async (services, { name, snapshot, repair }, progress) =>
    services.check([services.volumes.find(name, snapshot)], repair, progress),

  'vdi.locate': async (services, { name, snapshot, index }) =>
    services.locate(services.volumes.find(name, snapshot), index),

  'lock.list': async (services) => ({ locks: locksOf(services) }),

  'lock.break': async (services, { name, snapshot, holder }) => {
    const entry = services.volumes.find(name, snapshot)
    const held = locksOf(services).filter((lock) => lock.vid === entry.vid)
    const broken = await services.vdis.breakLock(entry, holder)
    return {
      locks: held.filter((lock) => broken.some((one) => one.node === lock.node && one.session === lock.session)),
    }
  },

  'lock.migrate': async (services, { name, to, seconds }) => {
    const entry = services.volumes.find(name, '')
    await services.vdis.announceMigration(entry, to === '' ? '' : oneNode(services, to), seconds * 1000)
    return { lock: writerOf(services, entry) }
  },

  'lock.cancel': async (services, { name }) => {
    await services.vdis.cancelMigration(services.volumes.find(name, ''))
    return {}
  },

  'lock.finish': async (services, { name }) => {
    const entry = services.volumes.find(name, '')
    await services.vdis.finishMigration(entry)
    return { lock: writerOf(services, entry) }
  },
}

function oneNode(services: ControlServices, text: string): string {
  const [node, ...others] = selectNodes(services, text)
  if (others.length > 0)
    throw new SheepError('invalid', 'a migration goes to one node', 'name it, or leave it out for any')
  return node.id
}

/** Of a lock that was there a moment ago. */
function writerOf(services: ControlServices, { vid, name }: VdiEntry): LockInfo {
  const writer = locksOf(services).find((lock) => lock.vid === vid && lock.mode === 'write')
  if (writer === undefined) throw new SheepError('not-locked', `whoever had "${name}" open has just closed it`)
  return writer
}

async function infoOf(services: ControlServices, entry: VdiEntry): Promise<VdiInfo> {
  return (await infosOf(services, [entry]))[0]
}

async function infosOf(services: ControlServices, entries: readonly VdiEntry[]): Promise<VdiInfo[]> {
  const holders = new Map(locksOf(services).map((lock) => [lock.vid, `${lock.holder} on ${lock.nodeName}`]))
  const usage = await services.vdis.usage(entries)
  return entries
    .map((entry, i) => ({
      name: entry.name,
      tag: entry.tag,
      id: entry.snapId,
      vid: entry.vid,
      parent: services.vdis.liveParent(entry.vid),
      snapshot: entry.snapshotTime !== 0,
      clone: (services.vdis.entry(services.vdis.liveParent(entry.vid))?.name ?? entry.name) !== entry.name,
      size: entry.size,
      used: usage[i]?.used ?? null,
      shared: usage[i]?.shared ?? null,
      copies: entry.copies,
      objectSize: 2 ** entry.blockSizeShift,
      created: entry.snapshotTime || entry.createTime,
      preallocated: entry.preallocated,
      onNoQuorum: entry.onNoQuorum ?? null,
      holder: holders.get(entry.vid) ?? '',
    }))
    .sort((a, b) => (a.name === b.name ? a.id - b.id : a.name < b.name ? -1 : 1))
}

function locksOf(services: ControlServices): LockInfo[] {
  const names = new Map(nodeSummaries(services).map((node) => [node.id, `${node.name}:${node.port}`]))
  const now = services.clock.wall()
  return services.vdis.locks().map((lock) => {
    const entry = services.vdis.entry(lock.vid)
    const volume =
      entry === undefined ? '' : entry.snapshotTime === 0 ? entry.name : `${entry.name}@${entry.tag || entry.snapId}`
    const nodeName = names.get(lock.node) ?? lock.node
    const announced = lock.mode === 'write' ? services.vdis.migration(lock.vid) : undefined
    if (announced === undefined || announced.until <= now) return { ...lock, volume, nodeName, migration: null }
    const { to, until } = announced
    return { ...lock, volume, nodeName, migration: { to, toName: names.get(to) ?? to, until } }
  })
}
