/** UsageReader: right figures, each snapshot read once, and no list that waits for an inode out of reach. */
import test from 'ava'
import type { ClusterStatus } from '../../../lib/cluster/types.js'
import { USAGE_MS_MAX, UsageReader } from '../../../lib/control/usage.js'
import { SheepError } from '../../../lib/errors.js'
import { encodeIndex } from '../../../lib/vdi/inode.js'
import type { ObjectIo } from '../../../lib/vdi/object-io.js'
import { type Oid, vidOf } from '../../../lib/vdi/oid.js'
import type { VdiEntry } from '../../../lib/vdi/types.js'
import { MemoryOpener } from '../../support/memory-volume.js'

const MIB = 2 ** 20

function scene() {
  const entries = new MemoryOpener()
  entries.add('disk', 16 * MIB, { vid: 5, tag: 'monday', snapshotTime: 1 })
  entries.add('disk', 16 * MIB, { vid: 6 })
  const indexes = new Map([
    [5, [5, 0, 5, 3]],
    [6, [6, 0, 5, 3]],
  ])
  const reads: number[] = []
  const stuck = new Set<number>()
  const cluster: { status: ClusterStatus } = { status: 'running' }
  const io = {
    async read(oid: Oid, _position: number, length: number): Promise<Buffer> {
      const vid = vidOf(oid)
      reads.push(vid)
      if (stuck.has(vid)) await new Promise(() => {})
      const index = indexes.get(vid)
      if (index === undefined) throw new SheepError('no-object', `no inode of ${vid}`)
      return encodeIndex(Uint32Array.from(index)).subarray(0, length)
    },
  } as unknown as ObjectIo
  let expire = () => {}
  const clock = {
    now: () => 0,
    wall: () => 0,
    after(ms: number, fn: () => void) {
      if (ms === USAGE_MS_MAX) expire = fn
      return { cancel: () => {} }
    },
  }
  const reader = new UsageReader({ io, clock, cluster })
  return { list: entries.entries, reader, reads, stuck, cluster, indexes, expire: () => expire() }
}

test('own objects are used, those of ancestors shared, holes neither', async (t) => {
  const { reader, list } = scene()
  t.deepEqual(await reader.usage(list), [
    { used: 8 * MIB, shared: 4 * MIB },
    { used: 4 * MIB, shared: 8 * MIB },
  ])
})

test('a snapshot is read once, a volume each time, and a vid that is used again anew', async (t) => {
  const { reader, list, reads, indexes } = scene()
  await reader.usage(list)
  await reader.usage(list)
  t.deepEqual(reads, [5, 6, 6])
  indexes.set(5, [5, 5, 5, 5])
  const other: VdiEntry = { ...list[0], snapshotTime: 2 }
  t.deepEqual(await reader.usage([other]), [{ used: 16 * MIB, shared: 0 }])
})

test('an inode that cannot be read in time has no figures, and others have theirs', async (t) => {
  const { reader, list, reads, stuck, expire } = scene()
  stuck.add(6)
  const first = reader.usage(list)
  const second = reader.usage(list)
  await new Promise((resolve) => setImmediate(resolve))
  expire()
  t.deepEqual(await second, [{ used: 8 * MIB, shared: 4 * MIB }, null])
  t.is(reads.filter((vid) => vid === 6).length, 1, 'who asks meanwhile shares the read under way')
  void first
})

test('one that was deleted meanwhile has no figures; a bug is not hidden', async (t) => {
  const { reader, list, indexes } = scene()
  indexes.delete(6)
  t.is((await reader.usage(list))[1], null)
  const broken = scene()
  broken.indexes.get = () => {
    throw new TypeError('a bug')
  }
  await t.throwsAsync(broken.reader.usage(broken.list), { instanceOf: TypeError })
})

test('without quorum nothing is read', async (t) => {
  const { reader, list, reads, cluster } = scene()
  cluster.status = 'halted'
  t.deepEqual(await reader.usage(list), [null, null])
  t.deepEqual(reads, [])
})
