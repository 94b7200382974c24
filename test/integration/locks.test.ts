/**
 * One writer, on real daemons: a lock is broken under a daemon that stands still with writes in flight, a machine migrates, a source
 * dies, and a volume goes from daemon to daemon as fast as qemu-img can.
 */
import test, { type ExecutionContext } from 'ava'
import * as nbd from '../../lib/nbd/constants.js'
import { TestCluster } from '../support/cluster.js'
import { NbdClient } from '../support/nbd-client.js'
import { must, sleep, until } from '../support/process.js'
import { surveyReplicas } from '../support/replicas.js'

const KIB = 1024
const PIECE = 64 * KIB
/** Longer than a daemon may be silent before the others go on without it, ms (HUNG_MS of lib/replication/peers.ts). */
const STOPPED_MS = 12_000

interface Locks {
  locks: { volume: string; mode: string; node: string; nodeName: string; migration: { toName: string } | null }[]
}

async function clusterOf(t: ExecutionContext, nodes: number): Promise<TestCluster> {
  const cluster = await TestCluster.start({ nodes })
  t.teardown(() => cluster.stop())
  return cluster
}

function bytes(value: number, length = PIECE): Buffer {
  return Buffer.alloc(length, value)
}

async function wrote(t: ExecutionContext, client: NbdClient, offset: number, value: number): Promise<void> {
  const { error } = await client.call(nbd.CMD_WRITE, offset, PIECE, 0, bytes(value))
  t.is(error, 0, `write of ${value} at ${offset}`)
}

async function holds(t: ExecutionContext, client: NbdClient, offset: number, value: number): Promise<void> {
  const { error, data } = await client.call(nbd.CMD_READ, offset, PIECE)
  t.is(error, 0)
  t.true(data.equals(bytes(value)), `${value} at ${offset}, found ${data[0]}`)
}

/** Everything that the daemon answers before it ends the connection, errors too. */
async function successes(client: NbdClient, most: number): Promise<number> {
  let found = 0
  try {
    for (let i = 0; i < most; i++) if ((await client.reply()).error === 0) found++
  } catch {
    // The connection has ended: nothing more was answered.
  }
  return found
}

async function identical(t: ExecutionContext, cluster: TestCluster, volume: string): Promise<void> {
  await cluster.healthy()
  t.regex((await cluster.dog(['vdi', 'check', volume])).stdout, /./)
  await cluster.healthy()
  t.deepEqual((await surveyReplicas(cluster.stores, Math.min(3, cluster.nodes.length))).problems, [])
}

test.serial(
  'a lock is broken under a daemon that stands still with writes in flight: nothing of it ever appears',
  async (t) => {
    t.timeout(180_000)
    const cluster = await clusterOf(t, 4)
    await cluster.dog(['vdi', 'create', 'disk', '64M'])
    const holder = await NbdClient.open(cluster.nbdSocket(3), 'disk')
    for (let i = 0; i < 16; i++) await wrote(t, holder, i * PIECE, 1)
    const refused = await cluster.tryDog(['vdi', 'lock', 'break', 'disk'])
    t.is(refused.code, 2)
    t.regex(refused.stderr, /disk is open: NBD client .* on .*:\d+, since .*--yes/s)

    // In flight when the daemon stops, and asked for while it stands still: some of it is on the wire, some in its sockets.
    for (let i = 0; i < 16; i++) holder.request(nbd.CMD_WRITE, i, i * PIECE, PIECE, 0, bytes(2))
    process.kill(cluster.pid(3), 'SIGSTOP')
    const stopped = performance.now()
    for (let i = 16; i < 48; i++) holder.request(nbd.CMD_WRITE, i, (i % 16) * PIECE, PIECE, 0, bytes(3))
    for (let i = 48; i < 64; i++) holder.request(nbd.CMD_READ, i, (i % 16) * PIECE, PIECE)
    t.regex(
      (await cluster.dog(['vdi', 'lock', 'break', 'disk', '--yes'])).stdout,
      /disk is free: NBD client .* is shut out/,
    )
    t.log(`broken after ${((performance.now() - stopped) / 1000).toFixed(1)} s`)
    t.deepEqual((await cluster.json<Locks>(['vdi', 'lock', 'list'])).locks, [])

    const next = await NbdClient.open(cluster.nbdSocket(0), 'disk')
    for (let i = 0; i < 16; i++) {
      const { data } = await next.call(nbd.CMD_READ, i * PIECE, PIECE)
      t.true(data.equals(bytes(1)) || data.equals(bytes(2)), `piece ${i}: what was answered, or what was in flight`)
    }
    for (let i = 0; i < 8; i++) await wrote(t, next, i * PIECE, 4)
    const before = Buffer.from((await next.call(nbd.CMD_READ, 0, 16 * PIECE)).data)
    process.kill(cluster.pid(3), 'SIGCONT')
    const answered = await successes(holder, 64)
    // What was done before it stopped may be answered late; nothing that was asked for since.
    t.true(answered <= 16, `${answered} requests were answered by a daemon that has lost the volume`)
    await cluster.healthy()
    t.true((await next.call(nbd.CMD_READ, 0, 16 * PIECE)).data.equals(before), 'nothing changed when it came back')
    t.is((await next.call(nbd.CMD_FLUSH, 0, 0)).error, 0)
    next.destroy()
    const again = await NbdClient.open(cluster.nbdSocket(3), 'disk')
    t.true(
      (await again.call(nbd.CMD_READ, 0, 16 * PIECE)).data.equals(before),
      'read through the daemon that stood still',
    )
    again.destroy()
    await identical(t, cluster, 'disk')
  },
)

test.serial('shutting out a holder that is well costs a look at what it has just written, and no copy', async (t) => {
  t.timeout(120_000)
  const cluster = await clusterOf(t, 3)
  await cluster.dog(['vdi', 'create', 'large', '160M'])
  await cluster.dog(['vdi', 'write', 'large', '0', '160M'], 0, { input: Buffer.alloc(160 * KIB * KIB, 5) })
  await cluster.dog(['vdi', 'create', 'disk', '64M'])
  await cluster.healthy()
  const holder = await NbdClient.open(cluster.nbdSocket(1), 'disk')
  for (let i = 0; i < 4; i++) await wrote(t, holder, i * 4 * KIB * KIB, 1)
  const { ms } = await cluster.dog(['vdi', 'lock', 'break', 'disk', '--yes'])
  await holder.closed()
  await cluster.healthy()
  const { nodes } = await cluster.json<{ nodes: { answer: { bytesTaken: number; objectsTotal: number } }[] }>([
    'node',
    'recovery',
  ])
  const looked = nodes.map(({ answer }) => answer.objectsTotal)
  t.log(`broken after ${ms.toFixed(0)} ms; objects looked at: ${looked}`)
  t.deepEqual(
    nodes.map(({ answer }) => answer.bytesTaken),
    [0, 0, 0],
  )
  for (const objects of looked) t.true(objects <= 5, `${objects} objects: 4 that were written and the inode`)
  const next = await NbdClient.open(cluster.nbdSocket(2), 'disk')
  for (let i = 0; i < 4; i++) await holds(t, next, i * 4 * KIB * KIB, 1)
  next.destroy()
  await identical(t, cluster, 'disk')
})

test.serial('a daemon that stood still until others had its volume answers nothing stale', async (t) => {
  t.timeout(180_000)
  const cluster = await clusterOf(t, 3)
  await cluster.dog(['vdi', 'create', 'disk', '64M'])
  const holder = await NbdClient.open(cluster.nbdSocket(2), 'disk')
  for (let i = 0; i < 8; i++) await wrote(t, holder, i * PIECE, 1)
  t.is((await holder.call(nbd.CMD_FLUSH, 0, 0)).error, 0)
  process.kill(cluster.pid(2), 'SIGSTOP')
  // Reads, of what it has on its own disk and of a hole that will be one no more: answered before its timers run, if it does not look.
  for (let i = 0; i < 8; i++) holder.request(nbd.CMD_READ, i, i * PIECE, PIECE)
  holder.request(nbd.CMD_READ, 8, 32 * KIB * KIB, PIECE)
  await sleep(STOPPED_MS)
  const next = await until('the volume to be free', 30_000, () =>
    NbdClient.open(cluster.nbdSocket(0), 'disk').catch((error: Error) => {
      if (!/open on/.test(error.message)) throw error
      return null
    }),
  )
  for (let i = 0; i < 8; i++) await wrote(t, next, i * PIECE, 2)
  await wrote(t, next, 32 * KIB * KIB, 2)
  process.kill(cluster.pid(2), 'SIGCONT')
  t.is(await successes(holder, 9), 0, 'no read of before is answered')
  await cluster.healthy()
  for (let i = 0; i < 8; i++) await holds(t, next, i * PIECE, 2)
  next.destroy()
  await identical(t, cluster, 'disk')
})

test.serial('live migration: the target reads beside the writer, its first write shuts the source out', async (t) => {
  t.timeout(120_000)
  const cluster = await clusterOf(t, 3)
  await cluster.dog(['vdi', 'create', 'disk', '64M'])
  const source = await NbdClient.open(cluster.nbdSocket(0), 'disk')
  await wrote(t, source, 0, 1)
  await t.throwsAsync(NbdClient.open(cluster.nbdSocket(1), 'disk'), { message: /open on/ })
  t.regex(
    (await cluster.dog(['vdi', 'lock', 'migrate', 'disk', '--to', `127.0.0.1:${cluster.nodes[1].port}`])).stdout,
    /may open disk beside/,
  )
  await t.throwsAsync(NbdClient.open(cluster.nbdSocket(2), 'disk'), { message: /open on/ })

  // A target that goes away again leaves the source as it was.
  const failed = await NbdClient.open(cluster.nbdSocket(1), 'disk')
  await holds(t, failed, 0, 1)
  failed.destroy()
  await wrote(t, source, PIECE, 2)

  const target = await NbdClient.open(cluster.nbdSocket(1), 'disk')
  const modes = (await cluster.json<Locks>(['vdi', 'lock', 'list'])).locks.map((lock) => lock.mode)
  t.deepEqual(modes, ['write', 'target'])
  for (let i = 2; i < 100; i++) {
    await wrote(t, source, (i % 20) * PIECE, i)
    await holds(t, target, (i % 20) * PIECE, i)
  }
  // Discarded, so that the target must not go by an index of its own.
  t.is((await source.call(nbd.CMD_TRIM, 0, 4 * KIB * KIB)).error, 0)
  await holds(t, target, 0, 0)
  await wrote(t, source, 0, 50)
  // The source goes on writing, which it should not: whatever it is answered for comes before the target's write.
  source.request(nbd.CMD_WRITE, 1, 0, PIECE, 0, bytes(51))
  const begun = performance.now()
  await wrote(t, target, 0, 60)
  t.log(`the target's first write took ${(performance.now() - begun).toFixed(0)} ms`)
  for (let i = 2; i < 10; i++) source.request(nbd.CMD_WRITE, i, 0, PIECE, 0, bytes(52))
  t.true((await successes(source, 9)) <= 1)
  await holds(t, target, 0, 60)
  const { locks } = await cluster.json<Locks>(['vdi', 'lock', 'list'])
  t.deepEqual(
    locks.map((lock) => [lock.mode, lock.migration]),
    [['write', null]],
  )
  target.destroy()
  await identical(t, cluster, 'disk')
})

test.serial('live migration: the source dies, the target has the volume; called off, the target has not', async (t) => {
  t.timeout(120_000)
  const cluster = await clusterOf(t, 4)
  await cluster.dog(['vdi', 'create', 'disk', '64M'])
  const source = await NbdClient.open(cluster.nbdSocket(3), 'disk')
  await wrote(t, source, 0, 1)
  await cluster.dog(['vdi', 'lock', 'migrate', 'disk'])
  const cancelled = await NbdClient.open(cluster.nbdSocket(1), 'disk')
  await cluster.dog(['vdi', 'lock', 'migrate', 'disk', '--cancel'])
  await cancelled.closed()
  await wrote(t, source, 0, 2)

  await cluster.dog(['vdi', 'lock', 'migrate', 'disk'])
  const target = await NbdClient.open(cluster.nbdSocket(1), 'disk')
  for (let i = 1; i < 9; i++) source.request(nbd.CMD_WRITE, i, PIECE, PIECE, 0, bytes(i))
  await cluster.killNode(3)
  await holds(t, target, 0, 2)
  await wrote(t, target, 0, 3)
  await holds(t, target, 0, 3)
  const { data } = await target.call(nbd.CMD_READ, PIECE, PIECE)
  t.true(data.equals(bytes(data[0])) && data[0] <= 8, 'one of the writes in flight, or none')
  t.is((await target.call(nbd.CMD_FLUSH, 0, 0)).error, 0)
  target.destroy()
  await cluster.startNode(3)
  await identical(t, cluster, 'disk')
})

test.serial('qemu-img through one daemon after the other, at once', async (t) => {
  t.timeout(180_000)
  const cluster = await clusterOf(t, 3)
  await cluster.dog(['vdi', 'create', 'disk', '32M'])
  const raw = `${cluster.directory}/image.raw`
  await must('qemu-img', ['create', '-q', '-f', 'raw', raw, '32M'])
  await must('qemu-io', ['-f', 'raw', '-c', 'write -P 7 1M 20M', raw])
  for (let round = 0; round < 6; round++) {
    const [here, there] = [round % 3, (round + 1) % 3]
    await must('qemu-img', ['convert', '-n', '-f', 'raw', '-O', 'raw', raw, cluster.nbd('disk', here)])
    await must('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', raw, cluster.nbd('disk', there)])
  }
  const holder = await NbdClient.open(cluster.nbdSocket(0), 'disk')
  const begun = performance.now()
  await t.throwsAsync(NbdClient.open(cluster.nbdSocket(1), 'disk'), { message: /open on/ })
  const ms = performance.now() - begun
  t.true(ms < 1500, `a holder that stays is reported at once, not after ${ms} ms`)
  holder.destroy()
})
