/**
 * A daemon that cannot lose anything, because all of them share one memory: what the clients and the checker are tested
 * with. With a `flaw` it breaks one promise, and the checker must notice.
 */
import type { ClusterView, EpochRecord, NodeInfo } from '../../lib/cluster/types.js'
import type { VdiService } from '../../lib/control/services.js'
import { SheepError } from '../../lib/errors.js'
import type { FileVolume, OpenRequest, Volume, VolumeOpener } from '../../lib/gateway/types.js'
import type { Completion } from '../../lib/host/interfaces.js'
import type { VdiEntry } from '../../lib/vdi/types.js'
import type { MakeSheep, Sheep, SheepParts } from './host.js'

export type Flaw = 'none' | 'lost-write' | 'stale-read' | 'late-snapshot' | 'no-answer'

interface Stored {
  entry: VdiEntry
  data: Buffer
  holder: SheepParts | null
}

/** One memory for all daemons of one world. `rarely` decides when the flaw shows. */
export function perfectSheep(flaw: Flaw, rarely: () => boolean): MakeSheep {
  const stored = new Map<string, Stored>()
  const shared = { formatted: false, nextVid: 1 }
  const members = new Map<string, { node: NodeInfo; parts: SheepParts; alive: () => boolean }>()

  const find = (name: string, tag: string): Stored => {
    const volume = stored.get(`${name}@${tag}`)
    if (!volume) throw new SheepError('not-found', `no VDI ${name}@${tag}`)
    return volume
  }
  const add = (name: string, tag: string, data: Buffer, copies: number): VdiEntry => {
    if (stored.has(`${name}@${tag}`)) throw new SheepError('exists', `${name}@${tag} exists`)
    const entry: VdiEntry = {
      vid: shared.nextVid++,
      name,
      tag,
      snapId: 0,
      parent: 0,
      size: data.length,
      copies,
      blockSizeShift: 16,
      createTime: 0,
      snapshotTime: 0,
      state: 'live',
      creator: '',
      preallocated: false,
      epoch: 1,
    }
    stored.set(`${name}@${tag}`, { entry, data, holder: null })
    return entry
  }

  const openVolume = (parts: SheepParts, volume: Stored): Volume => {
    const held = volume.entry.tag === ''
    // Overlapping requests in order: everything takes effect at its call, only answers take time.
    const later = (done: Completion, result: number): void => {
      if (flaw === 'no-answer' && rarely()) return
      parts.clock.after(parts.random.u32() / 2 ** 31, () => done.complete(result))
    }
    const open: Volume & Pick<FileVolume, 'share'> = {
      entry: volume.entry,
      size: volume.data.length,
      readOnly: !held,
      objectSize: 65536,
      onChange: null,
      read(buffer, bufferOffset, length, offset, done) {
        buffer.set(volume.data.subarray(offset, offset + length), bufferOffset)
        if (flaw === 'stale-read' && rarely()) buffer.fill(0, bufferOffset, bufferOffset + 512)
        later(done, length)
      },
      write(buffer, bufferOffset, length, offset, _fua, done) {
        if (!(flaw === 'lost-write' && rarely()))
          volume.data.set(buffer.subarray(bufferOffset, bufferOffset + length), offset)
        later(done, length)
      },
      zero(length, offset, _keep, _fua, done) {
        volume.data.fill(0, offset, offset + length)
        later(done, 0)
      },
      discard(length, offset, _fua, done) {
        volume.data.fill(0, offset, offset + length)
        later(done, 0)
      },
      flush: (done) => later(done, 0),
      extents: () => Promise.resolve([]),
      // EXDEV: nothing is like anything else
      share: () => Promise.resolve(-18),
      close: () => {
        if (volume.holder === parts) volume.holder = null
        return Promise.resolve()
      },
    }
    return open
  }

  return async (parts) => {
    const self: NodeInfo = {
      id: parts.name.padEnd(16, '0'),
      name: parts.name,
      host: parts.host,
      port: 7000,
      zone: parts.zone,
      space: 1,
      vnodes: 1,
    }
    let alive = true
    members.set(parts.name, { node: self, parts, alive: () => alive })
    const volumes: VolumeOpener = {
      open: async (request: OpenRequest) => {
        const volume = find(request.name, request.snapshot)
        if (!request.readOnly) {
          const free =
            volume.holder === null ||
            volume.holder === parts ||
            members.get(volume.holder.name)!.parts !== volume.holder
          if (!free) throw new SheepError('locked', 'in use')
          if (volume.holder === parts) throw new SheepError('locked', 'in use here')
          volume.holder = parts
        }
        return openVolume(parts, volume)
      },
      list: () => [...stored.values()].map((volume) => volume.entry),
      find: (name, tag) => find(name, tag).entry,
    }
    const vdis: VdiService = {
      create: async (request) => add(request.name, '', Buffer.alloc(request.size), request.copies),
      snapshot: async (name, tag) => {
        const volume = find(name, '')
        if (flaw !== 'late-snapshot') return add(name, tag, Buffer.from(volume.data), volume.entry.copies)
        const entry = add(name, tag, volume.data, volume.entry.copies)
        return entry
      },
      clone: async (source, tag, name) => add(name, '', Buffer.from(find(source, tag).data), 1),
      rollback: async (name, tag) => {
        const volume = find(name, '')
        volume.data = Buffer.from(find(name, tag).data)
        return volume.entry
      },
      delete: async (name, tag) => {
        find(name, tag)
        stored.delete(`${name}@${tag}`)
      },
      resize: async (name, size) => {
        const volume = find(name, '')
        const data = Buffer.alloc(size)
        volume.data.copy(data)
        volume.data = data
        volume.entry.size = size
        return volume.entry
      },
      setOnNoQuorum: async (name) => volumes.find(name, ''),
      rename: async (name, newName) => {
        find(name, '')
        for (const [key, volume] of [...stored]) {
          if (!key.startsWith(`${name}@`)) continue
          stored.delete(key)
          volume.entry.name = newName
          stored.set(`${newName}${key.slice(name.length)}`, volume)
        }
      },
      usage: () => Promise.resolve([]),
      locks: () => [],
      migration: () => undefined,
      breakLock: () => Promise.reject(new SheepError('not-locked', 'it knows no locks')),
      announceMigration: () => Promise.reject(new SheepError('not-locked', 'it knows no locks')),
      cancelMigration: () => Promise.reject(new SheepError('not-locked', 'it knows no locks')),
      finishMigration: () => Promise.reject(new SheepError('not-locked', 'it knows no locks')),
      entry: () => undefined,
      liveParent: () => 0,
    }
    const epoch = (): EpochRecord => ({
      number: 1,
      time: 0,
      nodes: [...members.values()].map((member) => member.node),
    })
    const cluster: ClusterView = {
      self,
      get status() {
        return shared.formatted ? ('running' as const) : ('waiting-for-format' as const)
      },
      statusReason: '',
      config: null,
      get epoch() {
        return shared.formatted ? epoch() : null
      },
      history: [],
      get recovered() {
        return new Map([...members.values()].map((member) => [member.node.id, 1]))
      },
      recovery: { held: false, limit: 0 },
      departed: [],
      onNoQuorum: 0,
      propose: async () => {
        shared.formatted = true
      },
      exclusive: (run) => run(),
    }
    const sheep: Sheep = {
      volumes,
      vdis,
      cluster,
      plug: async () => {},
      unplug: async (path) => path,
      workingDisks: () => [],
      ownDisks: () => [],
      lostEpoch: () => 0,
      start: async () => {
        // A former incarnation of this node holds nothing any more.
        for (const volume of stored.values())
          if (volume.holder && volume.holder.name === parts.name) volume.holder = null
      },
      stop: async () => {
        alive = false
        for (const volume of stored.values()) if (volume.holder === parts) volume.holder = null
      },
      resting: () => false,
      check: async () => ({ objects: 0, bytes: 0, problems: [] }),
      lost: async () => [],
      acceptLost: async () => [],
      startScrub: () => {},
      scrubbing: () => false,
    }
    return sheep
  }
}
