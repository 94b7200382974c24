import type { VdiEntry } from '../vdi/types.js'
import type { Handlers } from './dispatch.js'
import { nodeSummaries } from './nodes.js'
import type { ControlServices } from './services.js'
import type { LockInfo, VdiInfo } from './verbs.js'

export const vdiHandlers: Handlers<'vdi' | 'lock'> = {
  'vdi.create': async (services, request, progress) => infoOf(services, await services.vdis.create(request, progress)),

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
      holder: holders.get(entry.vid) ?? '',
    }))
    .sort((a, b) => (a.name === b.name ? a.id - b.id : a.name < b.name ? -1 : 1))
}

function locksOf(services: ControlServices): LockInfo[] {
  const names = new Map(nodeSummaries(services).map((node) => [node.id, `${node.name}:${node.port}`]))
  return services.vdis.locks().map((lock) => {
    const entry = services.vdis.entry(lock.vid)
    const volume =
      entry === undefined ? '' : entry.snapshotTime === 0 ? entry.name : `${entry.name}@${entry.tag || entry.snapId}`
    return { ...lock, volume, nodeName: names.get(lock.node) ?? lock.node }
  })
}
