/**
 * The last look, at the disks themselves: every object that the registry and the inodes reach is on each node that
 * should hold it, byte-identical; nothing else is there.
 */
import { Ring } from '../../lib/placement/ring.js'
import {
  dataOid,
  inodeOid,
  KIND_DATA,
  KIND_INODE,
  kindOf,
  type Oid,
  oidFromHex,
  oidToHex,
  vidOf,
} from '../../lib/vdi/oid.js'
import type { VdiEntry } from '../../lib/vdi/types.js'
import { PAGE } from './disk.js'
import { diskPath, type Host } from './host.js'
import { Violation } from './violation.js'
import type { World } from './world.js'

/** wire-protocol.md, "Inode object". */
export const INODE_INDEX = 4664
/** lib/store/types.ts: a file's bytes begin behind its header. */
export const FILE_HEADER = 4096

/** '' or what is wrong. */
export function auditDisks(world: World): string {
  const living = world.hosts.filter((host) => !host.buried)
  const { cluster, volumes } = living[0].sheep!
  const nodes = cluster.epoch!.nodes
  const ring = new Ring(nodes)
  const hostOf = new Map<string, Host>()
  for (const host of living) hostOf.set(host.sheep!.cluster.self.id, host)
  const files = new Map<Host, Map<Oid, string>>()
  for (const host of living) files.set(host, objectsOn(host))
  const entries = new Map<number, VdiEntry>()
  for (const entry of volumes.list()) entries.set(entry.vid, entry)

  const reachable = new Set<Oid>()
  for (const entry of entries.values()) {
    reachable.add(inodeOid(entry.vid))
    const holder = ring.replicas(inodeOid(entry.vid), entry.copies)[0]
    const path = files.get(hostOf.get(holder.id)!)!.get(inodeOid(entry.vid))
    if (path === undefined) return `the inode of ${entry.name} (${entry.vid.toString(16)}) is missing on ${holder.name}`
    const inode = contentOn(hostOf.get(holder.id)!, path).subarray(FILE_HEADER)
    const count = Math.ceil(entry.size / 2 ** entry.blockSizeShift)
    for (let i = 0; i < count && INODE_INDEX + i * 4 + 4 <= inode.length; i++) {
      const owner = inode.readUInt32LE(INODE_INDEX + i * 4)
      if (owner !== 0) reachable.add(dataOid(owner, i))
    }
  }
  for (const oid of reachable) {
    const problem = compareReplicas(oid, copiesOf(oid, entries, world), ring, hostOf, files)
    if (problem) return problem
  }
  for (const objects of files.values()) {
    for (const oid of objects.keys()) if (!reachable.has(oid)) return leftover(oid, files, entries)
  }
  return ''
}

/** A vid that is deleted itself but whose objects live on in descendants has the copies of its family. */
function copiesOf(oid: Oid, entries: ReadonlyMap<number, VdiEntry>, world: World): number {
  return entries.get(vidOf(oid))?.copies ?? world.shape.copies
}

function leftover(
  oid: Oid,
  files: ReadonlyMap<Host, ReadonlyMap<Oid, string>>,
  entries: ReadonlyMap<number, VdiEntry>,
): string {
  const kind = kindOf(oid) === KIND_INODE ? 'inode' : kindOf(oid) === KIND_DATA ? 'data object' : 'object'
  const holders = [...files].filter(([, objects]) => objects.has(oid)).map(([host]) => host.name)
  const entry = entries.get(vidOf(oid))
  const owner = entry ? `${entry.name}${entry.tag === '' ? '' : `@${entry.tag}`}` : 'an unknown VDI'
  return `${holders} of ${[...files.keys()].map((host) => host.name)} keep ${kind} ${oidToHex(oid)} of ${owner}, which nothing reaches`
}

/** Oid -> "DISK:PATH". */
function objectsOn(host: Host): Map<Oid, string> {
  const found = new Map<Oid, string>()
  const working = host.sheep!.workingDisks()
  for (const [i, disk] of host.disks.entries()) {
    if (!working.includes(diskPath(i))) continue
    for (const path of disk.paths()) {
      const match = /(?:^|\/)obj\/(?:[0-9a-f]{2}\/)?([0-9a-f]{16})$/.exec(path)
      if (!match) continue
      const oid = oidFromHex(match[1])
      if (found.has(oid)) throw new Violation('disks', `${host.name} has ${match[1]} on two disks`)
      found.set(oid, `${i}:${path}`)
    }
  }
  return found
}

function contentOn(host: Host, place: string): Buffer {
  const colon = place.indexOf(':')
  return host.disks[Number(place.slice(0, colon))].content(place.slice(colon + 1))!
}

function compareReplicas(
  oid: Oid,
  copies: number,
  ring: Ring,
  hostOf: ReadonlyMap<string, Host>,
  files: ReadonlyMap<Host, ReadonlyMap<Oid, string>>,
): string {
  const holders = ring.replicas(oid, copies).map((node) => hostOf.get(node.id)!)
  let first: Buffer | null = null
  for (const host of holders) {
    const path = files.get(host)!.get(oid)
    if (path === undefined) return `${oidToHex(oid)} is missing on ${host.name} (holders ${holders.map((h) => h.name)})`
    const content = contentOn(host, path).subarray(FILE_HEADER)
    if (!first) {
      first = content
      continue
    }
    const at = firstDifference(first, content)
    if (at >= 0) return `${oidToHex(oid)} differs at byte ${at} between ${holders[0].name} and ${host.name}`
  }
  for (const [host, objects] of files) {
    if (objects.has(oid) && !holders.includes(host))
      return `${host.name} keeps ${oidToHex(oid)}, which is not its share`
  }
  return ''
}

const ZEROS = Buffer.alloc(PAGE)

/** -1 when equal; what is beyond the end of the shorter one counts as zeros. */
function firstDifference(a: Buffer, b: Buffer): number {
  const common = Math.min(a.length, b.length)
  if (a.compare(b, 0, common, 0, common) !== 0) {
    let i = 0
    while (a[i] === b[i]) i++
    return i
  }
  const longer = a.length > b.length ? a : b
  for (let at = common; at < longer.length; at += PAGE) {
    const part = longer.subarray(at, Math.min(at + PAGE, longer.length))
    if (part.compare(ZEROS, 0, part.length) !== 0) return at
  }
  return -1
}
