import test from 'ava'
import { Garbage } from '../../../lib/node/garbage.js'
import type { Recovery } from '../../../lib/replication/recovery.js'
import type { Replica } from '../../../lib/replication/replica.js'
import { Topology } from '../../../lib/replication/topology.js'
import type { ObjectStore, StoredObject } from '../../../lib/store/types.js'
import { dataOid, type Oid, vidOf } from '../../../lib/vdi/oid.js'
import { Registry } from '../../../lib/vdi/registry.js'
import type { CommandContext, VdiCommand } from '../../../lib/vdi/types.js'
import { epochsOf, nodeId } from '../replication/nodes.js'
import { FakeClock } from '../vdi/world.js'

/** One node's disks with the registry that it knows, in epoch 2. */
class Disks {
  readonly registry = new Registry()
  readonly objects = new Map<Oid, StoredObject>()
  readonly clock = new FakeClock()
  readonly cancelled: Oid[] = []
  reachable: (oids: readonly Oid[]) => Promise<ReadonlySet<Oid>> = async () => new Set<Oid>()
  recoveredEpoch = 2
  readonly garbage: Garbage
  private readonly topology = new Topology(nodeId(0))

  constructor() {
    const epochs = epochsOf([0, 1], [0, 1])
    this.topology.update(epochs[1], epochs)
    const store = {
      all: () => this.objects.values(),
      ofVdi: (vid: number) => [...this.objects.values()].filter(({ oid }) => vidOf(oid) === vid),
      get: (oid: Oid) => this.objects.get(oid),
    } as unknown as ObjectStore
    const replica = {
      activeEpoch: 2,
      reached: async () => {},
      discard: (object: StoredObject) => this.objects.delete(object.oid),
    } as unknown as Replica
    this.garbage = new Garbage({
      store,
      topology: this.topology,
      replica,
      recovery: { cancel: (oid: Oid) => this.cancelled.push(oid), deleted: () => {} } as unknown as Recovery,
      registry: () => this.registry,
      clock: this.clock,
      log: () => {},
      copiesOf: (vid) => this.registry.get(vid)?.copies ?? 0,
      reachable: (oids) => this.reachable(oids),
      recoveredEpoch: () => this.recoveredEpoch,
      recovered: () => new Map(),
    })
  }

  apply(command: VdiCommand): unknown {
    const context: CommandContext = { sender: nodeId(0), time: 1, epoch: 2 }
    const result = this.registry.apply(command, context)
    this.garbage.commandApplied({ type: 'vdi', command }, result)
    return result
  }

  create(name: string, parent = 0): number {
    const size = 2 ** 24
    const op = { op: 'create', name, size, copies: 2, blockSizeShift: 22, parent, preallocated: false } as const
    const { vid } = this.apply(op) as { vid: number }
    this.apply({ op: 'ready', vid })
    return vid
  }

  put(vid: number, index: number, writeEpoch = 2): Oid {
    const oid = dataOid(vid, index)
    this.objects.set(oid, { oid, writeEpoch, lastWrite: 0, removed: false } as StoredObject)
    return oid
  }

  async settle(): Promise<void> {
    for (let turn = 0; turn < 50; turn++) {
      await Promise.resolve()
      this.clock.advance(5)
    }
  }
}

test('a VDI that is gone takes with it what no index named', (t) => {
  const disks = new Disks()
  const vid = disks.create('vm')
  const other = disks.create('other')
  const kept = disks.put(other, 0)
  const left = disks.put(vid, 3)
  disks.apply({ op: 'delete-begin', vid })
  t.true(disks.objects.has(left), 'the node in charge is at work')
  disks.apply({ op: 'delete-done', vid, epoch: 1 })
  t.true(disks.objects.has(left), 'not done: all was removed in a former epoch')
  disks.apply({ op: 'delete-done', vid, epoch: 2 })
  t.deepEqual([...disks.objects.keys()], [kept])
  t.deepEqual(disks.cancelled, [left], 'nobody takes it from another node either')
})

test('a deleted VDI whose vid its descendants need keeps what they refer to', async (t) => {
  const disks = new Disks()
  const vid = disks.create('vm')
  const { vid: child } = disks.apply({ op: 'snapshot-begin', vid, tag: 'a' }) as { vid: number }
  disks.apply({ op: 'snapshot-commit', vid, child, tag: 'a' })
  const needed = disks.put(vid, 0)
  const left = disks.put(vid, 3)
  disks.reachable = async (oids) => new Set(oids.filter((oid) => oid === needed))
  disks.apply({ op: 'delete-begin', vid })
  disks.apply({ op: 'delete-done', vid, epoch: 2 })
  t.true(disks.objects.has(left))
  await disks.settle()
  t.deepEqual([...disks.objects.keys()], [needed])
})

test('a volume whose gateway could not free everything is looked at when it is closed', async (t) => {
  for (const leftovers of [false, true]) {
    const disks = new Disks()
    const vid = disks.create('vm')
    disks.garbage.sweep()
    await disks.settle()
    const oid = disks.put(vid, 0)
    disks.apply({ op: 'lock', vid, session: 's', mode: 'write', holder: 'a test' })
    disks.apply({ op: 'unlock', vid, session: 's', leftovers })
    await disks.settle()
    t.is(disks.objects.has(oid), !leftovers)
  }
})

test('nothing is judged before this node has what it should have', async (t) => {
  const disks = new Disks()
  const vid = disks.create('vm')
  const oid = disks.put(vid, 0)
  disks.recoveredEpoch = 1
  disks.garbage.suspect([vid])
  await disks.settle()
  t.true(disks.objects.has(oid))
  disks.garbage.sweep()
  await disks.settle()
  t.false(disks.objects.has(oid))
})

test('a leftover that changed while it was judged is judged again', async (t) => {
  const disks = new Disks()
  const vid = disks.create('vm')
  disks.garbage.sweep()
  await disks.settle()
  const oid = disks.put(vid, 0)
  let asked = 0
  disks.reachable = async () => {
    // Another node took it from here meanwhile, or a gateway wrote: which of the two, only the next answer tells.
    if (asked++ === 0) disks.objects.get(oid)!.lastWrite = 1
    return new Set()
  }
  disks.garbage.suspect([vid])
  await disks.settle()
  t.is(asked, 1)
  t.true(disks.objects.has(oid))
  disks.clock.advance(2_000)
  await disks.settle()
  t.false(disks.objects.has(oid))
  t.is(asked, 2)
  disks.clock.advance(10_000)
  await disks.settle()
  t.is(asked, 2, 'and no more')
})
