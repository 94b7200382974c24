/** Daemons with several disks, on small file systems that fail, go away, come back and fill up, under a verifying fio. */
import fs from 'node:fs'
import test from 'ava'
import type { DiskInfo } from '../../lib/control/services.js'
import type { ClusterInfo, OfNode, VerbAnswer } from '../../lib/control/verbs.js'
import { TestCluster } from '../support/cluster.js'
import { fio } from '../support/fio.js'
import { Mounts } from '../support/mounts.js'
import { hasEnded, sleep, until } from '../support/process.js'

const MIB = 1 << 20
const DISK = 320 * MIB

/** Two equal disks for each of `nodes` daemons, named n0a, n0b, n1a, ... */
function pairs(mounts: Mounts, nodes: number, kindOf: (name: string) => 'tmpfs' | 'ext4'): string[][] {
  return Array.from({ length: nodes }, (_, index) =>
    ['a', 'b'].map((letter) => mounts.make(`n${index}${letter}`, kindOf(`n${index}${letter}`), DISK)),
  )
}

async function disksOf(cluster: TestCluster, index: number): Promise<DiskInfo[]> {
  const { nodes } = await cluster.json<{ nodes: OfNode<DiskInfo[]>[] }>(['node', 'md', 'info'], index)
  return nodes[0].answer ?? []
}

async function stateOf(cluster: TestCluster, index: number, root: string): Promise<string> {
  return (await disksOf(cluster, index)).find((disk) => disk.path === root)?.state ?? 'unknown'
}

/** Writes at random places and reads all of it back, again and again until `drama` has ended. */
async function verified(cluster: TestCluster, drama: () => Promise<void>): Promise<number> {
  let done = false
  let blocks = 0
  const load = async () => {
    do {
      const pass = await fio(
        cluster.nbd('volume'),
        [
          ...['rw=randwrite', 'bs=4k', 'size=96M', 'io_size=16M', 'iodepth=16', 'randrepeat=0'],
          ...['verify=crc32c', 'verify_fatal=1', 'verify_backlog=512', 'fsync=64'],
        ],
        { limit: 200_000 },
      )
      blocks += pass.read.ios
    } while (!done)
  }
  const acting = async () => {
    try {
      await drama()
    } finally {
      done = true
    }
  }
  await Promise.all([load(), acting()])
  return blocks
}

for (const trouble of ['fails', 'turns read-only', 'is unmounted'] as const) {
  test.serial(`one of two disks ${trouble} under load: the daemon goes on, its objects are rebuilt`, async (t) => {
    t.timeout(5 * 60_000)
    const mounts = new Mounts(t)
    const kind = trouble === 'is unmounted' ? 'tmpfs' : 'ext4'
    const roots = pairs(mounts, 3, (name) => (name === 'n1b' ? kind : 'tmpfs'))
    const cluster = await TestCluster.start({ nodes: 3, copies: 2, disksOf: (index) => roots[index] })
    t.teardown(() => cluster.stop())
    await cluster.dog(['vdi', 'create', 'volume', '96M'])
    const bad = roots[1][1]
    const blocks = await verified(cluster, async () => {
      await until('objects to lie on the disk', 30_000, async () => {
        return (await disksOf(cluster, 1)).some((disk) => disk.path === bad && disk.objects > 3)
      })
      if (trouble === 'fails') mounts.shutDown(bad)
      else if (trouble === 'is unmounted') mounts.unmount(bad)
      else mounts.readOnly(bad)
      await until('the disk to be taken out', 30_000, async () => (await stateOf(cluster, 1, bad)) === 'failed')
      await cluster.healthy()
    })
    t.true(blocks >= 4096)
    t.false(hasEnded(cluster.nodes[1].child!))
    const { stdout } = await cluster.dog(['node', 'md', 'info'], 1)
    t.regex(stdout, new RegExp(`Node 1 .*${bad} is failed: .*\\n  replace it, then: dog node md plug`))
    await cluster.dog(['vdi', 'check', 'volume'])

    // A new one in its place
    if (trouble !== 'is unmounted') mounts.unmount(bad)
    mounts.mount('n1b', 'tmpfs', DISK)
    const plugged = await cluster.dog(['node', 'md', 'plug', bad], 1)
    t.regex(plugged.stdout, /uses .*n1b \(320 MiB, 0 objects\)/)
    const twice = await cluster.tryDog(['node', 'md', 'plug', bad], 1)
    t.regex(twice.stderr, /n1b is in use by this daemon already/)
    await cluster.healthy()
    t.is(await stateOf(cluster, 1, bad), 'working')
    await cluster.killNode(1)
    await cluster.startNode(1)
    await cluster.healthy()
    t.deepEqual(
      (await disksOf(cluster, 1)).map((disk) => disk.state),
      ['working', 'working'],
    )
    await cluster.dog(['vdi', 'check', 'volume'])
  })
}

test.serial('a disk is unplugged and plugged in again under load', async (t) => {
  t.timeout(5 * 60_000)
  const mounts = new Mounts(t)
  const roots = pairs(mounts, 2, (name) => (name === 'n1b' ? 'ext4' : 'tmpfs'))
  const bad = roots[1][1]
  const cluster = await TestCluster.start({ nodes: 2, copies: 2, disksOf: (index) => roots[index] })
  t.teardown(() => cluster.stop())
  await cluster.dog(['vdi', 'create', 'volume', '96M'])
  const blocks = await verified(cluster, async () => {
    for (let round = 0; round < 3; round++) {
      await until('objects to lie on the disk', 30_000, async () => {
        return (await disksOf(cluster, 1)).some((disk) => disk.path === bad && (round > 0 || disk.objects > 3))
      })
      await cluster.healthy()
      t.regex((await cluster.dog(['node', 'md', 'unplug', bad], 1)).stdout, /uses .* no more/)
      // Nothing holds it: an administrator may take it away.
      await until('the disk to be let go', 10_000, async () => {
        const { state } = (await disksOf(cluster, 1)).find((disk) => disk.path === bad)!
        return state === 'unplugged'
      })
      await sleep(300)
      await cluster.dog(['node', 'md', 'plug', bad], 1)
      await cluster.healthy()
    }
  })
  t.true(blocks >= 4096)
  await cluster.dog(['vdi', 'check', 'volume'])
  await cluster.dog(['node', 'md', 'unplug', bad], 1)
  t.notThrows(() => mounts.unmountUnused(bad))
  const last = await cluster.tryDog(['node', 'md', 'unplug', '0'], 1)
  t.regex(last.stderr, /still being copied|the only disk of this node/)
})

test.serial("at the start: a disk that is missing, another node's, none at all", async (t) => {
  t.timeout(4 * 60_000)
  const mounts = new Mounts(t)
  const roots = pairs(mounts, 2, (name) => (name === 'n1b' ? 'ext4' : 'tmpfs'))
  const bad = roots[1][1]
  const cluster = await TestCluster.start({ nodes: 2, copies: 2, disksOf: (index) => roots[index] })
  t.teardown(() => cluster.stop())
  await cluster.dog(['vdi', 'create', 'volume', '64M'])
  const fill = async () => void (await fio(cluster.nbd('volume'), ['rw=write', 'bs=1M', 'size=64M', 'end_fsync=1']))
  await fill()
  await cluster.healthy()
  const before = (await disksOf(cluster, 1)).map((disk) => disk.objects)
  t.true(before[0] > 0 && before[1] > 0, `objects lie on both disks: ${before}`)

  // Not mounted: its place is an empty directory, and stays one.
  await cluster.killNode(1)
  mounts.unmountUnused(bad)
  await cluster.startNode(1)
  t.is(await stateOf(cluster, 1, bad), 'missing')
  t.deepEqual(
    fs.readdirSync(bad).filter((name) => name !== 'lock'),
    [],
  )
  await fill()
  await cluster.healthy()
  await cluster.dog(['vdi', 'check', 'volume'])

  // Back again, with what it held then
  await cluster.killNode(1)
  mounts.remount('n1b')
  await cluster.startNode(1)
  t.is(await stateOf(cluster, 1, bad), 'working')
  await cluster.healthy()
  await cluster.dog(['vdi', 'check', 'volume'])

  await cluster.killNode(1)
  const { disks } = cluster.nodes[1]
  cluster.nodes[1].disks = [cluster.nodes[1].store, roots[0][0]]
  const busy = await t.throwsAsync(cluster.startNode(1))
  t.regex(busy!.message, /in use by another daemon/)
  await cluster.killNode(1)
  await cluster.killNode(0)
  const foreign = await t.throwsAsync(cluster.startNode(1))
  t.regex(foreign!.message, /is a disk of node [0-9a-f]{16}, and .* of node [0-9a-f]{16}/)
  await cluster.killNode(1)
  cluster.nodes[1].disks = disks
  await Promise.all([cluster.startNode(0), cluster.startNode(1)])
  await cluster.healthy()
  await cluster.dog(['vdi', 'check', 'volume'])
})

test.serial('the only copies go with their disk: EIO for those, never older bytes; the others go on', async (t) => {
  t.timeout(3 * 60_000)
  const mounts = new Mounts(t)
  const [disks] = pairs(mounts, 1, (name) => (name === 'n0b' ? 'ext4' : 'tmpfs'))
  const root = disks[1]
  const cluster = await TestCluster.start({ nodes: 1, copies: 1, disksOf: () => disks })
  t.teardown(() => cluster.stop())
  for (const name of ['volume', 'other']) {
    await cluster.dog(['vdi', 'create', name, '64M'])
    await fio(cluster.nbd(name), ['rw=write', 'bs=1M', 'size=64M', 'end_fsync=1'])
  }
  const only = await cluster.tryDog(['node', 'md', 'unplug', root])
  t.regex(only.stderr, /has the only copy of objects of (volume|other)/)
  mounts.shutDown(root)
  // What lies there cannot be read any more; what lies on the other disk can.
  let lost = 0
  for (let index = 0; index < 16; index++) {
    const { code } = await cluster.tryDog(['vdi', 'read', 'volume', String(index * 4 * MIB), '4096'])
    if (code !== 0) lost++
  }
  t.true(lost > 0 && lost < 16, `${lost} of 16 objects are lost`)
  t.is(await stateOf(cluster, 0, root), 'failed')
  await cluster.dog(['vdi', 'create', 'third', '32M'])
  await fio(cluster.nbd('third'), ['rw=write', 'bs=1M', 'size=32M', 'end_fsync=1', 'verify=crc32c', 'do_verify=1'])
})

test.serial(
  'recovery stops before it fills the last disk, says degraded, and goes on when there is room',
  async (t) => {
    t.timeout(4 * 60_000)
    const mounts = new Mounts(t)
    const roots = [mounts.make('n0', 'tmpfs', 640 * MIB), mounts.make('n1', 'tmpfs', 128 * MIB)]
    const cluster = await TestCluster.start({ nodes: 2, copies: 2, disksOf: (index) => [roots[index]] })
    t.teardown(() => cluster.stop())
    await cluster.dog(['vdi', 'create', 'small', '16M'])
    await fio(cluster.nbd('small'), ['rw=write', 'bs=1M', 'size=16M', 'end_fsync=1'])
    await cluster.killNode(1, 'SIGTERM')
    await cluster.dog(['vdi', 'create', 'big', '160M'])
    await fio(cluster.nbd('big'), ['rw=write', 'bs=1M', 'size=160M', 'end_fsync=1'])
    await cluster.startNode(1)
    const stateOfRecovery = async () => {
      const { nodes } = await cluster.json<VerbAnswer<'node.recovery'>>(['node', 'recovery'])
      return nodes[1].answer
    }
    await until('recovery to stop', 60_000, async () => (await stateOfRecovery())?.state === 'no-room')
    t.regex((await cluster.dog(['node', 'recovery'])).stdout, /degraded: no room/)
    t.regex((await cluster.dog(['cluster', 'info'])).stdout, /Degraded/)
    const [disk] = await disksOf(cluster, 1)
    t.true(disk.free > 24 * MIB, `${disk.free} bytes are left for clients`)
    // Overwrites go on, new objects too while there is more than the reserve.
    await fio(cluster.nbd('small'), ['rw=randwrite', 'bs=4k', 'size=16M', 'io_size=4M', 'end_fsync=1'])
    const info = await cluster.json<ClusterInfo>(['cluster', 'info'])
    t.is(info.status, 'running')
    await cluster.dog(['vdi', 'delete', 'big'])
    await cluster.healthy()
    t.is((await stateOfRecovery())?.state, 'idle')
    await cluster.dog(['vdi', 'check', 'small'])
  },
)
