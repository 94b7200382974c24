/**
 * The objects on the bus: what the daemon told of the cluster, as paths with properties. Takes facts and says what came, changed
 * and went; nothing here knows the bus itself.
 */
import { CLUSTER, NODE, SNAPSHOT, VOLUME } from './interfaces.js'
import type { ClusterFacts, VolumeFacts } from './messages.js'
import { CLUSTER_PATH, nodePath, ROOT_PATH, snapshotPath, volumePath } from './names.js'

/** Property name -> value, of the type that INTERFACES gives it */
export type Values = Record<string, unknown>

export type Subject =
  | { kind: 'cluster' }
  | { kind: 'node'; id: string }
  | { kind: 'volume'; name: string; vid: number }
  | { kind: 'snapshot'; name: string; id: number; vid: number }

export interface BusObject {
  path: string
  /** Its one interface of ours */
  face: string
  values: Values
  subject: Subject
}

export interface Changes {
  added: BusObject[]
  changed: { object: BusObject; values: Values }[]
  removed: BusObject[]
}

/** "No object": an object path cannot be empty. */
const NONE = '/'

/** D-Bus services of the host give times so, as systemd's do. */
function microseconds(ms: number): number {
  return Math.round(ms) * 1_000
}

export class Objects {
  private readonly objects = new Map<string, BusObject>()
  /** Path -> elements right below it */
  private readonly children = new Map<string, Set<string>>()
  private readonly volumes = new Map<number, VolumeFacts>()
  /** vid -> vids whose `parent` it is */
  private readonly offspring = new Map<number, Set<number>>()
  /** Name -> vids of the volume and its snapshots */
  private readonly namesakes = new Map<string, Set<number>>()
  /** Path -> vid: a volume's changes with each snapshot */
  private readonly owners = new Map<string, number>()

  constructor() {
    this.link(ROOT_PATH)
  }

  get(path: string): BusObject | undefined {
    return this.objects.get(path)
  }

  all(): Iterable<BusObject> {
    return this.objects.values()
  }

  /** Elements below a path; undefined: neither an object nor above one. */
  below(path: string): Iterable<string> | undefined {
    return this.children.get(path) ?? (this.objects.has(path) ? [] : undefined)
  }

  /** A snapshot by tag or decimal id, as `dog` finds it: its id when the text is a number. */
  snapshot(name: string, text: string): BusObject | undefined {
    for (const vid of this.namesakes.get(name) ?? []) {
      const facts = this.volumes.get(vid)!
      if (facts.snapshot && (String(facts.snapId) === text || facts.tag === text)) return this.get(pathOf(facts))
    }
    return undefined
  }

  take(cluster: ClusterFacts, changed: readonly VolumeFacts[], removed: readonly number[]): Changes {
    const changes: Changes = { added: [], changed: [], removed: [] }
    this.put(changes, clusterObject(cluster))
    const nodes = new Set(cluster.nodes.map((node) => nodePath(node.id)))
    for (const node of cluster.nodes) this.put(changes, nodeObject(cluster, node))
    for (const object of [...this.objects.values()]) {
      if (object.subject.kind === 'node' && !nodes.has(object.path)) this.drop(changes, object.path)
    }
    this.takeVolumes(changes, changed, removed)
    return changes
  }

  private takeVolumes(changes: Changes, changed: readonly VolumeFacts[], removed: readonly number[]): void {
    const touched = new Set<string>()
    const names = new Set<string>()
    const forget = (vid: number): void => {
      const facts = this.volumes.get(vid)
      if (facts === undefined) return
      const path = pathOf(facts)
      touched.add(path)
      names.add(facts.name)
      if (this.owners.get(path) === vid) this.owners.delete(path)
      removeFrom(this.offspring, facts.parent, vid)
      removeFrom(this.namesakes, facts.name, vid)
      this.volumes.delete(vid)
    }
    for (const vid of removed) forget(vid)
    for (const { vid } of changed) forget(vid)
    for (const facts of changed) {
      this.volumes.set(facts.vid, facts)
      this.owners.set(pathOf(facts), facts.vid)
      addTo(this.offspring, facts.parent, facts.vid)
      addTo(this.namesakes, facts.name, facts.vid)
      touched.add(pathOf(facts))
      names.add(facts.name)
    }
    // Those that name one of these: its path is another now, or none.
    const naming = [...removed, ...changed.map((facts) => facts.vid)].map((vid) => this.offspring.get(vid))
    for (const vids of [...naming, ...[...names].map((name) => this.namesakes.get(name))]) {
      for (const vid of vids ?? []) touched.add(pathOf(this.volumes.get(vid)!))
    }
    for (const path of touched) if (!this.owners.has(path)) this.drop(changes, path)
    for (const path of touched) {
      const vid = this.owners.get(path)
      if (vid !== undefined) this.put(changes, this.volumeObject(this.volumes.get(vid)!))
    }
  }

  private volumeObject(facts: VolumeFacts): BusObject {
    const { vid, name, tag, snapId, size, copies, objectSize, created, preallocated, parent } = facts
    const parentFacts = this.volumes.get(parent)
    const common = {
      ...{ Name: name, Vid: vid, Size: size, Copies: copies, ObjectSize: objectSize },
      ...{ Created: microseconds(created), Preallocated: preallocated },
      Parent: parentFacts === undefined ? NONE : pathOf(parentFacts),
      Locks: facts.locks.map((lock) => {
        return [nodePath(lock.node), lock.session, lock.mode, lock.holder, microseconds(lock.since)]
      }),
    }
    const path = pathOf(facts)
    if (facts.snapshot) {
      const values = { ...common, Id: snapId, Tag: tag, Volume: this.volumePathOf(name) }
      return { path, face: SNAPSHOT, values, subject: { kind: 'snapshot', name, id: snapId, vid } }
    }
    const values = {
      ...common,
      Clone: parentFacts !== undefined && parentFacts.name !== name,
      OnNoQuorum: facts.onNoQuorum === null ? -1 : microseconds(facts.onNoQuorum),
    }
    return { path, face: VOLUME, values, subject: { kind: 'volume', name, vid } }
  }

  private volumePathOf(name: string): string {
    const path = volumePath(name)
    return this.owners.has(path) ? path : NONE
  }

  private put(changes: Changes, object: BusObject): void {
    const before = this.objects.get(object.path)
    if (before === undefined) {
      this.objects.set(object.path, object)
      this.link(object.path)
      changes.added.push(object)
      return
    }
    const values: Values = {}
    let differs = false
    for (const [name, value] of Object.entries(object.values)) {
      if (same(value, before.values[name])) continue
      values[name] = value
      differs = true
    }
    if (!differs) return
    this.objects.set(object.path, object)
    changes.changed.push({ object, values })
  }

  private drop(changes: Changes, path: string): void {
    const object = this.objects.get(path)
    if (object === undefined) return
    this.objects.delete(path)
    this.unlink(path)
    changes.removed.push(object)
  }

  private link(path: string): void {
    for (let at = path; at !== '/'; ) {
      const [above, element] = split(at)
      const list = this.children.get(above) ?? new Set()
      this.children.set(above, list.add(element))
      at = above
    }
  }

  private unlink(path: string): void {
    for (let at = path; at !== ROOT_PATH && at !== '/'; ) {
      if (this.objects.has(at) || (this.children.get(at)?.size ?? 0) > 0) return
      this.children.delete(at)
      const [above, element] = split(at)
      this.children.get(above)?.delete(element)
      at = above
    }
  }
}

/** The path above, and this one's last element */
function split(path: string): [string, string] {
  const at = path.lastIndexOf('/')
  return [path.slice(0, at) || '/', path.slice(at + 1)]
}

/** One map's set of a key: made when missing, gone when empty. */
function addTo<K>(map: Map<K, Set<number>>, key: K, vid: number): void {
  map.set(key, (map.get(key) ?? new Set<number>()).add(vid))
}

function removeFrom<K>(map: Map<K, Set<number>>, key: K, vid: number): void {
  const set = map.get(key)
  set?.delete(vid)
  if (set?.size === 0) map.delete(key)
}

function pathOf({ name, snapId, snapshot }: VolumeFacts): string {
  return snapshot ? snapshotPath(name, snapId) : volumePath(name)
}

function same(a: unknown, b: unknown): boolean {
  return a === b || (typeof a === 'object' && JSON.stringify(a) === JSON.stringify(b))
}

function clusterObject(facts: ClusterFacts): BusObject {
  const recovered = new Set(facts.recovered)
  const recovering = facts.nodes.filter((node) => node.vnodes > 0 && !recovered.has(node.id))
  const values = {
    ...{ Version: facts.version, LocalNode: nodePath(facts.self), Status: facts.status, StatusReason: facts.reason },
    Quorate: facts.status === 'running' || facts.status === 'waiting-for-format',
    ...{ ClusterId: facts.clusterId, Created: microseconds(facts.created), Copies: facts.copies },
    ...{ ObjectSize: facts.objectSize, Epoch: facts.epoch, EpochTime: microseconds(facts.epochTime) },
    Nodes: facts.nodes.map((node) => nodePath(node.id)),
    Recovering: recovering.map((node) => nodePath(node.id)),
    ...{ RecoveryHeld: facts.recoveryHeld, RecoveryLimit: facts.recoveryLimit },
    OnNoQuorum: microseconds(facts.onNoQuorum),
  }
  return { path: CLUSTER_PATH, face: CLUSTER, values, subject: { kind: 'cluster' } }
}

function nodeObject(cluster: ClusterFacts, node: ClusterFacts['nodes'][number]): BusObject {
  const { id, name, host, port, zone, space, vnodes } = node
  const values = {
    ...{ Id: id, Local: id === cluster.self, Name: name, Host: host, Port: port, Zone: zone, Space: space },
    ...{ VNodes: vnodes, Recovered: cluster.recovered.includes(id) },
  }
  return { path: nodePath(id), face: NODE, values, subject: { kind: 'node', id } }
}
