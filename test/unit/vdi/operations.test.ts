import test, { type ExecutionContext } from 'ava'
import { type ErrorCode, SheepError } from '../../../lib/errors.js'
import { decodeHeader, encodeIndex, entryPosition } from '../../../lib/vdi/inode.js'
import { dataOid, inodeOid, type Oid, vmStateOid } from '../../../lib/vdi/oid.js'
import { BUILD_MS_MAX, HOLD_MS_MAX } from '../../../lib/vdi/operations.js'
import type { VdiEntry } from '../../../lib/vdi/types.js'
import { FakeVolume, World } from './world.js'

const MIB = 2 ** 20
const SIZE = 5 * 4 * MIB

/** What is there is what is needed, nothing is under way, nobody holds anything. */
async function whole(t: ExecutionContext, world: World): Promise<void> {
  t.deepEqual([...world.objects.oids()].sort(), [...(await world.needed())].sort())
  t.deepEqual(
    Array.from(world.registry.all()).filter((e) => e.state === 'creating' || e.state === 'deleting'),
    [],
  )
  t.deepEqual(await reachable(world, world.objects.oids()), world.objects.oids().sort())
}

async function reachable(world: World, oids: Oid[]): Promise<Oid[]> {
  return [...(await world.alive[0].operations.reclaim.reachable(oids))].sort()
}

/** A world with volume "vm", blocks 0, 1, 2 written as 10, 11, 12. */
async function withVolume(nodes = 3): Promise<World> {
  const world = new World(nodes)
  await world.nodes[0].operations.create({ name: 'vm', size: SIZE })
  await writes(world, 'vm', { 0: 10, 1: 11, 2: 12 })
  return world
}

let sessions = 0

async function writes(world: World, name: string, stamps: Record<number, number>): Promise<void> {
  const volume = await FakeVolume.open(world.alive[0], name, `w${sessions++}`)
  for (const [i, stamp] of Object.entries(stamps)) await volume.write(Number(i), stamp)
  await volume.close()
}

function content(world: World, name: string, snapshot = ''): Promise<number[]> {
  return world.content(world.registry.find(name, snapshot).vid)
}

async function refused(t: ExecutionContext, run: Promise<unknown>, code: ErrorCode): Promise<SheepError> {
  const error = await t.throwsAsync(run, { instanceOf: SheepError })
  t.is(error.code, code)
  return error
}

test('create: an entry, and an inode that survives power loss', async (t) => {
  const world = new World()
  const entry = await world.nodes[1].operations.create({ name: 'vm', size: SIZE })
  t.like(entry, { name: 'vm', size: SIZE, copies: 3, blockSizeShift: 22, state: 'live', preallocated: false })
  world.objects.powerLoss()
  const header = decodeHeader(world.objects.read(inodeOid(entry.vid), 0, 4664))
  t.like(header, { name: 'vm', vid: entry.vid, size: SIZE, copies: 3, snapshotTime: 0 })
  t.deepEqual(await content(world, 'vm'), [0, 0, 0, 0, 0])
  await whole(t, world)
})

test('create: large sizes take larger objects, wrong ones are refused', async (t) => {
  const { operations } = new World().nodes[0]
  t.is((await operations.create({ name: 'large', size: 16 * 2 ** 40, copies: 1 })).blockSizeShift, 24)
  t.is((await operations.create({ name: 'own', size: SIZE, blockSizeShift: 20 })).blockSizeShift, 20)
  await refused(t, operations.create({ name: 'x', size: -1 }), 'invalid')
  await refused(t, operations.create({ name: 'x', size: 2 ** 52 }), 'too-big')
  await refused(t, operations.create({ name: 'x', size: 2 ** 43, blockSizeShift: 22 }), 'too-big')
  await refused(t, operations.create({ name: 'a/b', size: SIZE }), 'invalid')
  await refused(t, operations.create({ name: 'x', size: SIZE, copies: 32 }), 'invalid')
})

test('two creates of one name at once: one wins', async (t) => {
  const world = new World()
  const results = await Promise.allSettled(world.nodes.map((n) => n.operations.create({ name: 'vm', size: SIZE })))
  t.is(results.filter((r) => r.status === 'fulfilled').length, 1)
  for (const result of results) if (result.status === 'rejected') t.is(result.reason.code, 'exists')
  await whole(t, world)
})

test('preallocated: every object there, progress to the end; without room nothing stays', async (t) => {
  const world = new World()
  const seen: number[] = []
  const { operations } = world.nodes[0]
  const entry = await operations.create({ name: 'vm', size: SIZE - 512, preallocated: true }, (done, total) => {
    t.is(total, SIZE - 512)
    seen.push(done)
  })
  t.is(seen.at(-1), SIZE - 512)
  t.is(seen.length, 5)
  for (let i = 0; i < 5; i++) t.true(world.objects.has(dataOid(entry.vid, i)))
  await operations.delete('vm', '')
  t.deepEqual(world.objects.oids(), [])
  world.objects.room = 3 * 4 * MIB
  await refused(t, operations.create({ name: 'vm', size: SIZE, preallocated: true }), 'no-space')
  t.deepEqual(world.objects.oids(), [])
  t.is(world.registry.size, 0)
})

test('snapshot, clone, rollback, delete: contents and objects', async (t) => {
  const world = await withVolume()
  const { operations } = world.nodes[1]
  const one = await operations.snapshot('vm', 'one')
  t.like(one, { tag: 'one', snapId: 1 })
  await writes(world, 'vm', { 1: 21, 3: 23 })
  const two = await operations.snapshot('vm', '')
  t.is(two.snapId, 2)
  await writes(world, 'vm', { 4: 34 })
  await operations.clone('vm', 'one', 'clone', 2)
  t.is(world.registry.find('clone', '').copies, 2)
  await writes(world, 'clone', { 0: 40 })
  t.deepEqual(await content(world, 'vm', 'one'), [10, 11, 12, 0, 0])
  t.deepEqual(await content(world, 'vm', '2'), [10, 21, 12, 23, 0])
  t.deepEqual(await content(world, 'vm'), [10, 21, 12, 23, 34])
  t.deepEqual(await content(world, 'clone'), [40, 11, 12, 0, 0])
  await whole(t, world)

  await operations.rollback('vm', 'one')
  t.deepEqual(await content(world, 'vm'), [10, 11, 12, 0, 0])
  await whole(t, world)
  await operations.delete('vm', 'one')
  await refused(t, operations.clone('vm', 'one', 'late'), 'no-tag')
  t.deepEqual(await content(world, 'vm', '2'), [10, 21, 12, 23, 0])
  t.deepEqual(await content(world, 'clone'), [40, 11, 12, 0, 0])
  await whole(t, world)
  await operations.delete('vm', '2')
  await whole(t, world)
  t.is(world.dataObjects(), 4, 'blocks 0 to 2 for "vm", and the clone\'s own block 0')
  await operations.delete('clone', '')
  t.is(world.dataObjects(), 3)
  await operations.delete('vm', '')
  t.deepEqual(world.objects.oids(), [])
  t.is(world.registry.size, 0)
})

test('copy-on-write and discard under deleted snapshots give space back at once', async (t) => {
  const world = await withVolume()
  const { operations } = world.nodes[0]
  await operations.snapshot('vm', 'a')
  await operations.snapshot('vm', 'b')
  await operations.delete('vm', 'a')
  await operations.delete('vm', 'b')
  t.is(world.dataObjects(), 3)
  await writes(world, 'vm', { 0: 20 })
  t.is(world.dataObjects(), 3, 'the overwritten one is gone')
  const volume = await FakeVolume.open(world.nodes[0], 'vm', 'd')
  await Promise.all([volume.discard(1), volume.discard(0)])
  t.is(world.dataObjects(), 1)
  await volume.close()
  world.objects.powerLoss()
  t.deepEqual(await content(world, 'vm'), [0, 0, 12, 0, 0])
  await whole(t, world)
})

test('what a relative no longer refers to is durable before it is freed', async (t) => {
  const world = await withVolume()
  const [{ operations }, other] = world.nodes
  await operations.snapshot('vm', 'a')
  await operations.clone('vm', 'a', 'clone')
  const volume = await FakeVolume.open(other, 'vm', 'writer')
  await volume.write(0, 20)
  await operations.delete('vm', 'a')
  await operations.delete('clone', '')
  t.is(world.dataObjects(), 3, 'the former block 0 is gone')
  world.objects.powerLoss()
  await t.notThrowsAsync(world.needed(), 'the index does not name it again')
})

test('releases that come together are one look at the relatives', async (t) => {
  const world = await withVolume()
  const { operations } = world.nodes[0]
  await operations.snapshot('vm', 'a')
  await operations.clone('vm', 'a', 'clone')
  await operations.delete('vm', 'a')
  const volume = await FakeVolume.open(world.nodes[0], 'vm', 'd')
  const { vid } = world.registry.find('vm', '')
  const former = world.registry.get(vid)?.parent as number
  for (const i of [0, 1, 2]) await world.nodes[0].io.write(inodeOid(vid), entryPosition(i), Buffer.alloc(4))
  world.nodes[0].trace.length = 0
  const { reclaim } = operations
  await Promise.all([0, 1, 2].map((i) => reclaim.release(vid, [dataOid(former, i)])))
  t.deepEqual(world.nodes[0].trace, ['io.read', 'io.flush', 'io.read'], 'the clone needs them all')
  await volume.close()
  await operations.delete('clone', '')
  await whole(t, world)
})

test('a release fails once the volume is not open here', async (t) => {
  const world = await withVolume()
  const { vid } = world.registry.find('vm', '')
  await world.nodes[0].io.write(inodeOid(vid), entryPosition(0), Buffer.alloc(4))
  await refused(t, world.nodes[0].operations.reclaim.release(vid, [dataOid(vid, 0)]), 'not-locked')
  t.true(world.objects.has(dataOid(vid, 0)))
})

test('a snapshot of a volume that is being written to loses nothing and freezes', async (t) => {
  const world = await withVolume()
  const volume = await FakeVolume.open(world.nodes[2], 'vm', 'writer')
  world.hold = (vid) => (vid === volume.vid ? volume.hold() : Promise.reject(new SheepError('not-locked', 'not here')))
  world.delivered = () => volume.delivered()
  let stamp = 100
  let stop = false
  const writing = (async () => {
    while (!stop) await volume.write(stamp % 5, stamp++)
  })()
  const frozen: number[][] = []
  for (const tag of ['a', 'b', 'c']) {
    const { vid } = await world.nodes[0].operations.snapshot('vm', tag)
    frozen.push(await world.content(vid))
    for (let turn = 0; turn < 200; turn++) await Promise.resolve()
  }
  stop = true
  await writing
  for (const [i, tag] of ['a', 'b', 'c'].entries()) {
    t.deepEqual(await content(world, 'vm', tag), frozen[i])
    const newest = Math.max(...frozen[i])
    if (newest > 104)
      t.deepEqual([...frozen[i]].sort(), [4, 3, 2, 1, 0].map((n) => newest - n).sort(), 'a moment in time')
  }
  const last = stamp - 1
  t.deepEqual([...(await content(world, 'vm'))].sort(), [last - 4, last - 3, last - 2, last - 1, last].sort())
  t.true(last > 110, 'it was written to all the while')
  t.is(world.registry.lockOf(volume.vid)?.session, 'writer')
  await volume.close()
  await whole(t, world)
})

test('what was written and not flushed before a snapshot survives power loss after it', async (t) => {
  const world = await withVolume()
  const volume = await FakeVolume.open(world.nodes[2], 'vm', 'writer')
  world.hold = () => volume.hold()
  world.delivered = () => volume.delivered()
  await volume.write(3, 33)
  await world.nodes[0].operations.snapshot('vm', 'a')
  world.objects.powerLoss()
  t.deepEqual(await content(world, 'vm'), [10, 11, 12, 33, 0])
  t.deepEqual(await content(world, 'vm', 'a'), [10, 11, 12, 33, 0])
})

test('a volume that cannot be held: the snapshot fails, nothing has changed', async (t) => {
  const world = await withVolume()
  const volume = await FakeVolume.open(world.nodes[2], 'vm', 'writer')
  world.hold = () => Promise.reject(new SheepError('unreachable', 'node-2 does not answer'))
  await refused(t, world.nodes[0].operations.snapshot('vm', 'a'), 'unreachable')
  await whole(t, world)
  await volume.write(0, 99)
  t.is(world.registry.pending('vm'), undefined)

  let late = 0
  let answer = () => {}
  world.hold = () =>
    new Promise((resolve) => {
      answer = () => resolve(() => late++)
    })
  const hanging = world.nodes[0].operations.snapshot('vm', 'a')
  for (let turn = 0; turn < 100; turn++) await Promise.resolve()
  world.clock.advance(HOLD_MS_MAX)
  await refused(t, hanging, 'timeout')
  answer()
  for (let turn = 0; turn < 10; turn++) await Promise.resolve()
  t.is(late, 1, 'a hold that comes too late is let go')
  t.is(world.clock.pending, 0)
  await volume.close()
  await whole(t, world)
})

test('the holder dies while it is held: the snapshot is taken all the same', async (t) => {
  const world = await withVolume()
  await FakeVolume.open(world.nodes[2], 'vm', 'writer')
  world.hold = async () => {
    world.nodes[2].die()
    world.viewChange()
    throw new SheepError('unreachable', 'node-2 does not answer')
  }
  await world.nodes[0].operations.snapshot('vm', 'a')
  t.deepEqual(await content(world, 'vm'), [10, 11, 12, 0, 0])
  await whole(t, world)
})

test('a snapshot whose node was out of the cluster while it waited for the writer makes nothing of a vid that is given again', async (t) => {
  const world = await withVolume()
  const [node, other] = world.nodes
  const volume = await FakeVolume.open(world.nodes[2], 'vm', 'writer')
  let child = 0
  world.hold = async () => {
    child = world.registry.pending('vm')?.vid as number
    world.epoch++
    world.registry.nodeLeft(node.id)
    await other.view.propose({ type: 'vdi', command: { op: 'delete-begin', vid: child } })
    await other.operations.reclaim.free(child)
    world.epoch++
    const begun = { op: 'snapshot-begin', vid: volume.vid, tag: 'b' } as const
    t.deepEqual(await other.view.propose({ type: 'vdi', command: begun }), { vid: child })
    return () => {}
  }
  await refused(t, node.operations.snapshot('vm', 'a'), 'busy')
  t.false(world.objects.has(inodeOid(child)))
  t.is(world.registry.get(child)?.state, 'creating')
  t.is(world.registry.get(child)?.creator, other.id)
})

test('a build that hangs is given up, and its vid stays taken until it has ended', async (t) => {
  const world = await withVolume()
  const [node, other] = world.nodes
  await node.operations.snapshot('vm', 'a')
  let resume = () => {}
  world.pace = (who, kind) =>
    who === node && kind === 'io.create' ? new Promise((resolve) => (resume = resolve)) : Promise.resolve()
  const hanging = node.operations.clone('vm', 'a', 'clone')
  for (let turn = 0; turn < 100; turn++) await Promise.resolve()
  const vid = world.registry.pending('clone')?.vid as number
  const waiting = other.operations.snapshot('vm', 'b')
  world.clock.advance(BUILD_MS_MAX)
  await refused(t, hanging, 'timeout')
  await waiting
  t.is(world.registry.get(vid)?.state, 'deleting')
  await node.operations.resumeInterrupted()
  t.is(world.registry.get(vid)?.state, 'deleting', 'something of it is still on its way')
  await other.operations.clone('vm', 'a', 'clone')
  resume()
  for (let turn = 0; turn < 100; turn++) await Promise.resolve()
  t.is(world.registry.get(vid), undefined)
  await whole(t, world)
})

test('the answer to a commit is lost: the operation has succeeded all the same', async (t) => {
  const world = await withVolume()
  const [node] = world.nodes
  const lost = new SheepError('timeout', 'no answer')
  world.pace = async (_who, kind) => {
    if (kind === 'snapshot-commit' || kind === 'ready') throw lost
  }
  t.is((await node.operations.snapshot('vm', 'a')).tag, 'a')
  t.is((await node.operations.clone('vm', 'a', 'clone')).name, 'clone')
  world.pace = async () => {}
  await whole(t, world)
})

test('neither commit nor abort get through: it is ended later', async (t) => {
  const world = await withVolume()
  const [node] = world.nodes
  const halted = new SheepError('halted', 'no quorum')
  node.failing.set('snapshot-commit', halted)
  node.failing.set('abort', halted)
  await refused(t, node.operations.snapshot('vm', 'a'), 'halted')
  t.true(node.log.some((line) => line.startsWith('warning: giving up')))
  await node.operations.resumeInterrupted()
  t.truthy(world.registry.pending('vm'), 'still no quorum')
  node.failing.clear()
  await node.operations.resumeInterrupted()
  await whole(t, world)
  await node.operations.snapshot('vm', 'a')
})

test('delete: refused while open; freed later when a removal fails', async (t) => {
  const world = await withVolume()
  const [node, other] = world.nodes
  const volume = await FakeVolume.open(other, 'vm', 'writer')
  const error = await refused(t, node.operations.delete('vm', ''), 'locked')
  t.regex(error.message, /open for writing on node node-1: a test/)
  await volume.close()
  node.failing.set('io.remove', new SheepError('io', 'disk trouble'))
  await refused(t, node.operations.delete('vm', ''), 'io')
  await refused(t, node.operations.delete('vm', ''), 'not-found')
  await other.operations.resumeInterrupted()
  t.true(world.objects.oids().length > 0, 'it is the first node that is in charge')
  node.failing.clear()
  const progress: number[] = []
  await node.operations.resumeInterrupted()
  await node.operations.create({ name: 'vm', size: SIZE })
  await writes(world, 'vm', { 0: 1, 4: 2 })
  await node.operations.delete('vm', '', (done, total) => progress.push(done, total))
  t.deepEqual(progress, [2 * 4 * MIB, 2 * 4 * MIB])
  t.deepEqual(world.objects.oids(), [])
})

test('delete takes the VM state along', async (t) => {
  const world = await withVolume()
  const { vid } = world.registry.find('vm', '')
  const size = Buffer.alloc(8)
  size.writeBigUInt64LE(BigInt(2 * 4 * MIB + 1))
  world.objects.write(inodeOid(vid), 544, size)
  for (const i of [0, 1, 2]) world.objects.create(vmStateOid(vid, i), 0, Buffer.from('ram'))
  await world.nodes[0].operations.snapshot('vm', 'a')
  t.deepEqual(await reachable(world, [vmStateOid(vid, 2)]), [vmStateOid(vid, 2)])
  await world.nodes[0].operations.delete('vm', 'a')
  t.false([0, 1, 2].some((i) => world.objects.has(vmStateOid(vid, i))))
})

test('a damaged inode header does not keep a VDI from being deleted, a damaged index does', async (t) => {
  const world = await withVolume()
  const [{ operations, log }] = world.nodes
  const { vid } = world.registry.find('vm', '')
  world.objects.write(inodeOid(vid), 0, Buffer.alloc(600, 0xff))
  await operations.delete('vm', '')
  t.deepEqual(world.objects.oids(), [])
  t.true(log.some((line) => line.includes('header')))
  await operations.create({ name: 'vm', size: SIZE })
  const again = world.registry.find('vm', '').vid
  world.objects.write(inodeOid(again), entryPosition(0), encodeIndex(Uint32Array.of(0xffffffff)))
  await refused(t, operations.delete('vm', ''), 'invalid')
})

test('grow and shrink', async (t) => {
  const world = await withVolume()
  const [{ operations }, other] = world.nodes
  t.is((await operations.resize('vm', SIZE + 8 * MIB, false)).size, SIZE + 8 * MIB)
  await writes(world, 'vm', { 6: 16 })
  await refused(t, operations.resize('vm', SIZE, false), 'invalid')
  const volume = await FakeVolume.open(other, 'vm', 'writer')
  await refused(t, operations.resize('vm', SIZE, true), 'locked')
  t.is((await operations.resize('vm', SIZE + 12 * MIB, false)).size, SIZE + 12 * MIB, 'growing an open one is fine')
  await volume.close()

  await operations.resize('vm', 4 * MIB, true)
  t.is(world.dataObjects(), 1)
  t.deepEqual(world.registry.locks(), [])
  await operations.resize('vm', SIZE, false)
  t.deepEqual(await content(world, 'vm'), [10, 0, 0, 0, 0])
  await refused(t, operations.resize('vm', 100, true), 'invalid')
  await refused(t, operations.resize('vm', 2 ** 43, false), 'too-big')
  await whole(t, world)
})

test('shrinking into an object zeros the rest of it, and copies it when a snapshot has it', async (t) => {
  const world = await withVolume()
  const [{ operations }] = world.nodes
  const { vid } = world.registry.find('vm', '')
  world.objects.write(dataOid(vid, 0), 0, Buffer.alloc(3 * MIB, 7))
  await operations.resize('vm', MIB, true)
  const own = world.objects.read(dataOid(vid, 0), 0, 4 * MIB)
  t.true(own.subarray(0, MIB).equals(Buffer.alloc(MIB, 7)) && own.subarray(MIB).equals(Buffer.alloc(3 * MIB)))

  await operations.resize('vm', 2 * MIB, false)
  await operations.snapshot('vm', 'a')
  await operations.resize('vm', MIB / 2, true)
  const next = world.registry.find('vm', '').vid
  const copied = world.objects.read(dataOid(next, 0), 0, 4 * MIB)
  t.true(copied.subarray(0, MIB / 2).equals(Buffer.alloc(MIB / 2, 7)))
  t.true(copied.subarray(MIB / 2).equals(Buffer.alloc(3.5 * MIB)))
  t.true(world.objects.read(dataOid(vid, 0), 0, MIB).equals(Buffer.alloc(MIB, 7)), 'the snapshot keeps its bytes')
  await whole(t, world)
})

test('what was cut stays cut through power loss, also what a snapshot still has', async (t) => {
  const world = await withVolume()
  const [{ operations }] = world.nodes
  await operations.snapshot('vm', 'a')
  await operations.resize('vm', 4 * MIB, true)
  world.objects.powerLoss()
  await operations.resize('vm', SIZE, false)
  t.deepEqual(await content(world, 'vm'), [10, 0, 0, 0, 0])
  t.deepEqual(await content(world, 'vm', 'a'), [10, 11, 12, 0, 0])
})

test('a snapshot while it is being cut waits its turn', async (t) => {
  const world = await withVolume()
  const [node, other] = world.nodes
  let resume = () => {}
  world.pace = (who, kind) =>
    who === node && kind === 'io.remove' ? new Promise((resolve) => (resume = resolve)) : Promise.resolve()
  const cutting = node.operations.resize('vm', 4 * MIB, true)
  for (let turn = 0; turn < 100; turn++) await Promise.resolve()
  await refused(t, other.operations.snapshot('vm', 'a'), 'busy')
  resume()
  t.is((await cutting).size, 4 * MIB)
  await other.operations.snapshot('vm', 'a')
  await whole(t, world)
})

test('rename and tags', async (t) => {
  const world = await withVolume()
  const { operations } = world.nodes[0]
  await operations.snapshot('vm', 'a')
  await operations.rename('vm', 'neu')
  t.is((await operations.setTag('neu', 'a', 'b')).tag, 'b')
  t.deepEqual(await content(world, 'neu', 'b'), [10, 11, 12, 0, 0])
  await refused(t, operations.setTag('neu', '', 'c'), 'invalid')
  await refused(t, operations.rollback('neu', ''), 'invalid')
})

test('reachable: what is garbage and what is not', async (t) => {
  const world = await withVolume()
  const [{ operations }] = world.nodes
  const vid = world.registry.find('vm', '').vid
  await operations.snapshot('vm', 'a')
  await operations.clone('vm', 'a', 'clone')
  await writes(world, 'vm', { 0: 20 })
  const garbage = [dataOid(vid, 3), dataOid(0x123456, 0), inodeOid(0x123456), vmStateOid(0x123456, 0)]
  const all = [...world.objects.oids(), ...garbage]
  t.deepEqual(await reachable(world, all), world.objects.oids().sort())
  const volume = await FakeVolume.open(world.nodes[1], 'vm', 'writer')
  const inFlight = dataOid(volume.vid, 4)
  t.deepEqual(await reachable(world, [inFlight]), [inFlight], 'a gateway may be about to refer to it')
  world.referred = async () => new Set()
  t.deepEqual(await reachable(world, [inFlight]), [], 'its gateway knows nothing of it')
  world.referred = async () => null
  await t.throwsAsync(reachable(world, [inFlight]), { message: /does not say/ })
  await volume.close()
  t.deepEqual(await reachable(world, [inFlight]), [])
  await operations.delete('vm', 'a')
  t.deepEqual(await reachable(world, [dataOid(vid, 0)]), [dataOid(vid, 0)], 'the clone needs it')
  t.deepEqual(await reachable(world, [inodeOid(vid)]), [], 'of a deleted VDI no inode stays')
})

test('what a descendant has ceased to refer to is garbage only when no power loss brings the reference back', async (t) => {
  const world = await withVolume()
  const [{ operations, io }] = world.nodes
  const { vid } = world.registry.find('vm', '')
  await operations.snapshot('vm', 'a')
  await operations.delete('vm', 'a')
  const child = world.registry.find('vm', '').vid
  // A gateway wrote the entry, and died before it had flushed it.
  await io.create(dataOid(child, 0), 0, Buffer.alloc(8))
  await io.write(inodeOid(child), entryPosition(0), encodeIndex(Uint32Array.of(child)))
  t.deepEqual(await reachable(world, [dataOid(vid, 0)]), [])
  world.objects.remove(dataOid(vid, 0))
  world.objects.powerLoss()
  await t.notThrowsAsync(world.needed())
})

/** After the next step of this kind those that had what was not flushed lose their power, and an epoch begins without them. */
function powerLossAfter(world: World, kind: string): void {
  world.pace = async (_node, step) => {
    if (step !== kind) return
    world.pace = async () => {}
    world.epoch++
    world.objects.powerLoss()
  }
}

test('an inode that is made while all who have it lose their power is made again', async (t) => {
  const world = await withVolume()
  const [{ operations, io }] = world.nodes
  await io.flush(world.registry.find('vm', '').vid)
  await operations.snapshot('vm', 'a')
  powerLossAfter(world, 'io.create')
  await operations.clone('vm', 'a', 'clone')
  world.objects.powerLoss()
  await whole(t, world)
})

test('what a relative seems to need no more is asked again when its power went before that was durable', async (t) => {
  const world = await withVolume()
  const [{ operations, io }] = world.nodes
  const { vid } = world.registry.find('vm', '')
  await io.flush(vid)
  await operations.snapshot('vm', 'a')
  const child = world.registry.find('vm', '').vid
  await io.create(dataOid(child, 0), 0, Buffer.alloc(8))
  await io.write(inodeOid(child), entryPosition(0), encodeIndex(Uint32Array.of(child)))
  let reads = 0
  world.pace = async (_node, step) => {
    // Its own inode, its own index, and that of the child
    if (step !== 'io.read' || ++reads < 3) return
    world.pace = async () => {}
    world.epoch++
    world.objects.powerLoss()
  }
  await operations.delete('vm', 'a')
  t.is(reads, 3)
  t.true(world.objects.has(dataOid(vid, 0)))
  await t.notThrowsAsync(world.needed())
})

test('what the stored index names is not freed, though its gateway has another one in memory', async (t) => {
  for (const when of ['io.write', 'io.read']) {
    const world = await withVolume()
    const [{ operations, io }] = world.nodes
    const { vid } = world.registry.find('vm', '')
    await io.flush(vid)
    await operations.snapshot('vm', 'a')
    await operations.delete('vm', 'a')
    const volume = await FakeVolume.open(world.nodes[0], 'vm', 'writer')
    powerLossAfter(world, when)
    await t.throwsAsync(volume.write(0, 77), { message: /names an object that is to be freed/ }, when)
    t.true(world.objects.has(dataOid(vid, 0)))
    await t.notThrowsAsync(world.needed())
  }
})

test('an epoch that begins between index and flush: what the index said is read again', async (t) => {
  for (const isOpen of [true, false]) {
    const world = await withVolume()
    const [{ io }] = world.nodes
    const volume = await FakeVolume.open(world.nodes[1], 'vm', 'writer')
    await io.flush(volume.vid)
    await io.write(inodeOid(volume.vid), entryPosition(0), encodeIndex(Uint32Array.of(0)))
    world.referred = async () => new Set([1, 2])
    if (!isOpen) world.registry.nodeLeft('node-1')
    world.pace = async (_node, kind) => {
      if (kind !== 'io.read') return
      world.pace = async () => {}
      world.epoch++
      // All who had the cleared entry
      world.objects.powerLoss()
    }
    t.deepEqual(await reachable(world, [dataOid(volume.vid, 0)]), [dataOid(volume.vid, 0)])
  }
})

test('an entry that was cleared without an answer: its object is garbage only when no power loss brings the entry back', async (t) => {
  for (const isOpen of [true, false]) {
    const world = await withVolume()
    const [{ io }] = world.nodes
    const volume = await FakeVolume.open(world.nodes[1], 'vm', 'writer')
    await io.flush(volume.vid)
    await io.write(inodeOid(volume.vid), entryPosition(0), encodeIndex(Uint32Array.of(0)))
    world.referred = async () => new Set([1, 2])
    if (!isOpen) world.registry.nodeLeft('node-1')
    t.deepEqual(await reachable(world, [dataOid(volume.vid, 0)]), [])
    world.objects.remove(dataOid(volume.vid, 0))
    world.objects.powerLoss()
    t.deepEqual(
      [...(await world.needed())].filter((oid) => !world.objects.has(oid)),
      [],
    )
  }
})

test('shrinking that stops half-way says that it leaves something', async (t) => {
  const world = await withVolume()
  const [node] = world.nodes
  const unlocks: unknown[] = []
  const { registry } = world
  const apply = registry.apply.bind(registry)
  registry.apply = (command, context) => {
    if (command.op === 'unlock') unlocks.push(command.leftovers)
    return apply(command, context)
  }
  node.failing.set('io.remove', new SheepError('io', 'no removal today'))
  await refused(t, node.operations.resize('vm', 4 * MIB, true), 'io')
  node.failing.clear()
  await node.operations.resize('vm', 4 * MIB, true)
  t.deepEqual(unlocks, [true, false])
})

test('a lock of which nobody knows whether it was given, or taken back, does not stay', async (t) => {
  const world = await withVolume()
  const [node] = world.nodes
  // It takes effect, and the answer is lost.
  const { propose } = node.view
  const unsure = (op: string, times: number) => {
    let left = times
    node.view.propose = async (command) => {
      const answer = await propose(command)
      if (command.type === 'vdi' && command.command.op === op && left-- > 0)
        throw new SheepError('timeout', 'no answer')
      return answer
    }
  }
  unsure('lock', 1)
  await refused(t, node.operations.resize('vm', 4 * MIB, true), 'timeout')
  for (let turn = 0; turn < 50; turn++) await Promise.resolve()
  t.deepEqual(world.registry.locks(), [])
  unsure('unlock', 2)
  await node.operations.resize('vm', 4 * MIB, true)
  t.deepEqual(world.registry.locks(), [])
})

test('a live inode that cannot be read is no licence to free', async (t) => {
  const world = await withVolume()
  const [{ operations }] = world.nodes
  const { vid } = await operations.snapshot('vm', 'a')
  const working = world.registry.find('vm', '')
  world.objects.remove(inodeOid(working.vid))
  await refused(t, operations.delete('vm', 'a'), 'no-object')
  t.true(world.objects.has(dataOid(vid, 0)))
})

test('a live inode that was given up refers to nothing', async (t) => {
  const world = await withVolume()
  const [{ operations }] = world.nodes
  const { vid } = await operations.snapshot('vm', 'a')
  const working = inodeOid(world.registry.find('vm', '').vid)
  world.objects.remove(working)
  world.registry.giveUp([working, dataOid(vid, 0)])
  await operations.delete('vm', 'a')
  t.false(world.objects.has(dataOid(vid, 0)))
})

test('snapshot and clone of a full 1 TiB volume', async (t) => {
  const world = new World(1)
  const [node] = world.nodes
  const { vid } = await node.operations.create({ name: 'big', size: 2 ** 40 })
  world.objects.write(inodeOid(vid), entryPosition(0), encodeIndex(new Uint32Array(262_144).fill(vid)))
  const times: number[] = []
  for (let round = 0; round < 5; round++) {
    const start = process.hrtime.bigint()
    await node.operations.snapshot('big', `s${round}`)
    await node.operations.clone('big', `s${round}`, `clone${round}`)
    times.push(Number(process.hrtime.bigint() - start) / 1e6)
  }
  t.log(`both together: ${Math.min(...times).toFixed(1)} ms besides disks and network`)
  t.true(Math.min(...times) < 300)
  const entry = world.registry.find('clone4', '') as VdiEntry
  t.is(world.objects.read(inodeOid(entry.vid), entryPosition(262_143), 4).readUInt32LE(0), vid)
})
