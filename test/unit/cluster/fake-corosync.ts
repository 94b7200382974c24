/**
 * Corosync as far as its clients see it, one process a host, a step at a time: rings that part and meet, each client at its own pace,
 * and what is unpleasant about it: messages that were on their way at a change come later and not to all; the last ones before a
 * partition come to one side; libquorum tells a ring's quorum before or after libcpg tells the ring.
 */
import type { CorosyncConnection } from '../../../lib/cluster/corosync.js'
import { CS_ERR_TRY_AGAIN, CS_OK, type LibraryEvent } from '../../../lib/cluster/corosync-library.js'
import type { WorkerOutput } from '../../../lib/cluster/corosync-worker.js'

interface Sent {
  sender: Client
  bytes: Buffer
  /** Those who get it; null: all of the ring */
  only: Set<Client> | null
}

export class Client {
  readonly inbox: LibraryEvent[] = []
  readonly quorumInbox: LibraryEvent[] = []
  joined = false
  alive = true
  /** As delivered */
  ring = ''

  constructor(
    readonly node: FakeNode,
    readonly process: string,
    readonly on: (output: WorkerOutput) => void,
  ) {}
}

export class FakeNode {
  client: Client | null = null
  ring: Ring
  side = 0
  /** Its own corosync runs */
  up = true
  pids = 100

  constructor(
    readonly id: number,
    ring: Ring,
  ) {
    this.ring = ring
  }

  get name(): string {
    return String(this.id)
  }
}

interface Ring {
  id: string
  nodes: FakeNode[]
  unsent: Sent[]
}

export class FakeCorosync {
  readonly nodes: FakeNode[] = []
  readonly quorateRings = new Map<string, boolean>()
  private rings = 0
  /** It takes no messages */
  busy = false
  /** libquorum's events come late */
  slowQuorum = false

  constructor(
    readonly hosts: number,
    readonly random: (below: number) => number,
  ) {
    for (let id = 1; id <= hosts; id++) this.nodes.push(new FakeNode(id, { id: '', nodes: [], unsent: [] }))
    this.form()
  }

  /** For CorosyncEngineOptions */
  connectAt(node: FakeNode): (group: string, on: (output: WorkerOutput) => void) => CorosyncConnection {
    return (_group, on) => {
      const client = new Client(node, `${node.id}:${node.pids}`, on)
      // As a worker: its answers come later.
      queueMicrotask(() => {
        if (!node.up || node.client !== null) {
          on({ type: 'ended', reason: 'not running', hint: '' })
          return
        }
        node.client = client
        on({ type: 'connected', handle: node.id, self: client.process })
        this.enter(client)
      })
      return {
        multicast: (_handle, bytes) => {
          if (this.busy || node.client !== client) return CS_ERR_TRY_AGAIN
          node.ring.unsent.push({ sender: client, bytes: Buffer.from(bytes), only: null })
          return CS_OK
        },
        taken: () => undefined,
        stop: () => this.disconnect(client, true),
      }
    }
  }

  clientsOf(ring: Ring): Client[] {
    return ring.nodes.flatMap(({ client }) => (client?.joined ? [client] : [])).sort(byProcess)
  }

  private enter(client: Client): void {
    client.joined = true
    const { ring } = client.node
    const processes = this.clientsOf(ring).map(({ process }) => process)
    for (const other of this.clientsOf(ring)) {
      other.inbox.push({ type: 'processes', processes, left: [], down: [], quit: [], joined: [client.process] })
    }
    client.inbox.push({ type: 'ring', ring: ring.id, nodes: ring.nodes.map(({ id }) => id) })
    client.quorumInbox.push({ type: 'quorum', ring: ring.id, quorate: this.quorate(ring) })
  }

  /** The process ends, or leaves in order first. */
  disconnect(client: Client, quits = false): void {
    if (!client.alive) return
    client.alive = false
    const { node } = client
    if (node.client === client) node.client = null
    if (client.joined) {
      const { ring } = node
      const processes = this.clientsOf(ring).map(({ process }) => process)
      for (const other of this.clientsOf(ring)) {
        other.inbox.push({
          type: 'processes',
          processes,
          left: [client.process],
          down: [],
          quit: quits ? [client.process] : [],
          joined: [],
        })
      }
    }
    queueMicrotask(() => client.on({ type: 'ended', reason: 'left', hint: '' }))
  }

  quorate(ring: Ring): boolean {
    return ring.nodes.length * 2 > this.hosts
  }

  /** Orders the oldest unsent message of one ring. False: there is none. */
  order(): boolean {
    const rings = [...new Set(this.nodes.map(({ ring }) => ring))].filter(({ unsent }) => unsent.length > 0)
    if (rings.length === 0) return false
    const ring = rings[this.random(rings.length)]
    this.send(ring, ring.unsent.shift()!)
    return true
  }

  private send(ring: Ring, { sender, bytes, only }: Sent): void {
    for (const client of this.clientsOf(ring)) {
      if (only !== null && !only.has(client)) continue
      client.inbox.push({ type: 'message', sender: sender.process, bytes: new Uint8Array(bytes) })
    }
  }

  /** One client gets its next event. False: there is none. */
  deliver(): boolean {
    const waiting = this.nodes.flatMap(({ client }) => {
      if (client === null) return []
      const inboxes = [client.inbox, client.quorumInbox].filter((inbox) => inbox.length > 0)
      return inboxes.map((inbox) => ({ client, inbox }))
    })
    if (waiting.length === 0) return false
    const quick = waiting.filter(({ client, inbox }) => inbox !== client.quorumInbox)
    const from = this.slowQuorum && quick.length > 0 && this.random(20) > 0 ? quick : waiting
    const { client, inbox } = from[this.random(from.length)]
    const event = inbox.shift()!
    if (event.type === 'processes') this.lists.set(client, event.processes)
    if (event.type === 'ring') client.ring = event.ring
    client.on({ type: 'events', events: [event] })
    return true
  }

  /** A host's corosync ends under its daemon. It takes part again after `start`. */
  stop(node: FakeNode): void {
    const { client } = node
    node.up = false
    node.client = null
    if (client !== null) {
      client.alive = false
      client.on({ type: 'ended', reason: 'the connection is lost', hint: '' })
    }
  }

  start(node: FakeNode): void {
    node.up = true
    // A ring of its own before it meets the others again, which may not have missed it.
    node.ring = { id: '', nodes: [], unsent: [] }
  }

  /** New rings by the nodes' sides; whoever is not up is in none. */
  form(): void {
    const old = new Map(this.nodes.map((node) => [node, node.ring]))
    const before = new Map([...new Set(old.values())].map((ring) => [ring, ring.nodes]))
    for (const [ring] of before) this.lastMessages(ring)
    for (const node of this.nodes) if (!node.up) node.ring = { id: 'down', nodes: [], unsent: [] }
    const sides = new Set(this.nodes.filter(({ up }) => up).map(({ side }) => side))
    for (const side of sides) {
      const nodes = this.nodes.filter((node) => node.up && node.side === side)
      const ring: Ring = { id: `${nodes[0].id}.${++this.rings}`, nodes, unsent: [] }
      for (const node of nodes) node.ring = ring
      this.quorateRings.set(ring.id, this.quorate(ring))
      for (const former of new Set(nodes.map((node) => old.get(node)!))) this.moveUnsent(former, ring, old)
      for (const node of nodes) this.tell(node, old, before)
    }
  }

  /** Before a ring breaks, some of what is on its way is delivered, maybe to one side only. */
  private lastMessages(ring: Ring): void {
    for (let count = this.random(3); count > 0 && ring.unsent.length > 0; count--) {
      const sent = ring.unsent.shift()!
      const { side } = sent.sender.node
      const here = ring.nodes.filter((node) => node.up && node.side === side && node.ring === ring)
      const only = new Set(here.flatMap(({ client }) => client ?? []))
      if (this.random(2) === 0) this.send(ring, sent)
      else this.send(ring, { ...sent, only })
    }
  }

  private moveUnsent(former: Ring, ring: Ring, old: ReadonlyMap<FakeNode, Ring>): void {
    for (const sent of former.unsent) {
      const { node } = sent.sender
      if (!ring.nodes.includes(node) || old.get(node) !== former) continue
      const together = ring.nodes.filter((other) => old.get(other) === former).flatMap(({ client }) => client ?? [])
      // Its beginning was sent in the ring before: who was not there cannot put it together.
      const cut = this.random(2) === 0
      const only = cut || sent.only !== null ? new Set(together.filter((one) => sent.only?.has(one) ?? true)) : null
      ring.unsent.push({ ...sent, only })
    }
  }

  private tell(node: FakeNode, old: ReadonlyMap<FakeNode, Ring>, before: ReadonlyMap<Ring, FakeNode[]>): void {
    const { client, ring } = node
    if (client === null || !client.joined) return
    const former = old.get(node)!
    const stays = (other: FakeNode): boolean => ring.nodes.includes(other) && old.get(other) === former
    const left = [...this.known(client)].filter((process) => {
      const other = this.nodes.find(({ id }) => String(id) === process.split(':')[0])!
      return !before.get(former)!.includes(other) || !stays(other) || other.client?.process !== process
    })
    const together = this.clientsOf(ring).filter((other) => stays(other.node))
    const all = this.clientsOf(ring)
    const processes = together.map((other) => other.process)
    if (left.length > 0) client.inbox.push({ type: 'processes', processes, left, down: left, quit: [], joined: [] })
    for (const other of all) {
      if (together.includes(other)) continue
      processes.push(other.process)
      client.inbox.push({
        type: 'processes',
        processes: [...processes],
        left: [],
        down: [],
        quit: [],
        joined: [other.process],
      })
    }
    const nodes = ring.nodes.map(({ id }) => id)
    client.inbox.push({ type: 'ring', ring: ring.id, nodes })
    client.quorumInbox.push({ type: 'quorum', ring: ring.id, quorate: this.quorate(ring) })
  }

  /** The list that the client has been told last, or will be. */
  private known(client: Client): Set<string> {
    const last = client.inbox.findLast((event) => event.type === 'processes')
    const list = last?.type === 'processes' ? last.processes : this.lists.get(client)
    return new Set(list ?? [client.process])
  }

  /** As delivered */
  private readonly lists = new Map<Client, string[]>()
}

function byProcess(a: Client, b: Client): number {
  return a.process < b.process ? -1 : 1
}
