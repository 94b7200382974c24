/** Bytes that turn over at rest in a store's files, as disks do it: found, told from divergence, and put right. */
import { closeSync, openSync, readdirSync, readFileSync, readSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import type { CheckReport } from '../../lib/control/services.js'
import type { VerbAnswer } from '../../lib/control/verbs.js'
import { sumOf } from '../../lib/store/checksums.js'
import { decodeChecksums, decodeHeader, encodeHeader, HEADER_BYTES } from '../../lib/store/header.js'
import { oidFromHex } from '../../lib/vdi/oid.js'
import { TestCluster } from '../support/cluster.js'
import { until } from '../support/process.js'

const CHUNK = 65_536

type Scrubs = VerbAnswer<'cluster.scrub'>['nodes']

/** The data object's file in this store. */
function fileIn(store: string): string {
  for (const directory of readdirSync(join(store, 'obj'))) {
    for (const name of readdirSync(join(store, 'obj', directory))) {
      if (!name.startsWith('80')) return join(store, 'obj', directory, name)
    }
  }
  throw new Error(`no data object in ${store}`)
}

function bytesOf(file: string, position: number, length: number): Buffer {
  const fd = openSync(file, 'r')
  const bytes = Buffer.alloc(length)
  readSync(fd, bytes, 0, length, position)
  closeSync(fd)
  return bytes
}

function put(file: string, position: number, bytes: Buffer): void {
  const fd = openSync(file, 'r+')
  writeSync(fd, bytes, 0, bytes.length, position)
  closeSync(fd)
}

function flip(file: string, position: number): void {
  const [byte] = bytesOf(file, HEADER_BYTES + position, 1)
  put(file, HEADER_BYTES + position, Buffer.of(byte ^ 16))
}

/** The daemons have taken the checksums of what was written, and it has left their intent logs. */
async function quiet(cluster: TestCluster): Promise<void> {
  await until('objects to go quiet', 30_000, () =>
    cluster.stores.every((store) => {
      const file = fileIn(store)
      const sums = decodeChecksums(bytesOf(file, 0, 512), oidFromHex(file.slice(-16)))
      const content = readFileSync(file).subarray(HEADER_BYTES)
      return sums?.sums.every((sum, i) => sum === sumOf(content.subarray(i * CHUNK, (i + 1) * CHUNK))) === true
    }),
  )
}

async function scrub(cluster: TestCluster): Promise<Scrubs> {
  const before = (await cluster.json<{ nodes: Scrubs }>(['cluster', 'scrub'])).nodes
  await cluster.dog(['cluster', 'scrub', 'start'])
  let nodes: Scrubs = []
  await until('the scrub to end', 60_000, async () => {
    nodes = (await cluster.json<{ nodes: Scrubs }>(['cluster', 'scrub'])).nodes
    return nodes.every(({ answer }, i) => answer?.state === 'idle' && answer.ended > (before[i].answer?.ended ?? 0))
  })
  return nodes
}

function counts(nodes: Scrubs, what: 'found' | 'repaired' | 'unrepaired' | 'diverged'): number[] {
  return nodes.map(({ answer }) => answer?.[what] ?? -1)
}

async function check(cluster: TestCluster, ...more: string[]): Promise<{ code: number | null; report: CheckReport }> {
  const { code, stdout } = await cluster.tryDog(['cluster', 'check', '--json', ...more])
  return { code, report: JSON.parse(stdout) }
}

test('what rots at rest is found by the scrub and put right from a copy that has not', async (t) => {
  t.timeout(300_000)
  const cluster = await TestCluster.start({ nodes: 3 })
  t.teardown(() => cluster.stop())
  await cluster.dog(['vdi', 'create', 'volume', '4M'])
  const content = Buffer.alloc(1024 * 1024)
  for (let at = 0; at < content.length; at += 4) content.writeUInt32LE(at ^ 0x5a5a5a5a, at)
  await cluster.dog(['vdi', 'write', 'volume'], 0, { input: content })
  await quiet(cluster)
  const files = cluster.stores.map(fileIn)

  // One copy of three
  flip(files[1], 3 * CHUNK + 77)
  let nodes = await scrub(cluster)
  t.deepEqual(counts(nodes, 'found'), [0, 1, 0])
  t.deepEqual(counts(nodes, 'repaired'), [0, 1, 0])
  const [incident] = nodes[1].answer?.incidents ?? []
  t.like(incident, { kind: 'bit-rot', outcome: 'repaired', volume: 'volume', position: 3 * CHUNK, length: CHUNK })
  t.true(files[1].endsWith(incident.path))
  t.regex(cluster.logOf(1), /bit-rot/)
  t.deepEqual(bytesOf(files[1], HEADER_BYTES, content.length), content)

  // The same place in two of three, other places in all of them
  flip(files[0], 5 * CHUNK)
  flip(files[2], 5 * CHUNK + 1)
  for (const [i, file] of files.entries()) flip(file, (8 + i) * CHUNK)
  nodes = await scrub(cluster)
  t.deepEqual(counts(nodes, 'unrepaired'), [0, 0, 0])
  for (const file of files) t.deepEqual(bytesOf(file, HEADER_BYTES, content.length), content)

  // The same place in all of them: nobody has it any more, and nobody gets something else instead.
  for (const [i, file] of files.entries()) flip(file, 12 * CHUNK + i)
  nodes = await scrub(cluster)
  t.deepEqual(counts(nodes, 'unrepaired'), [1, 1, 1])
  const read = (chunk: number) => cluster.tryDog(['vdi', 'read', 'volume', String(chunk * CHUNK), String(CHUNK)])
  t.is((await read(12)).code, 1)
  t.is((await read(11)).code, 0)
  const rotten = await check(cluster)
  t.is(rotten.code, 1)
  t.deepEqual(
    rotten.report.problems.map(({ kind, repaired, nodes: bad }) => [kind, repaired, bad.length]),
    [['bit-rot', false, 3]],
  )
  // A restart does not make it good, and a backup does.
  await cluster.killNode(0, 'SIGTERM')
  await cluster.startNode(0)
  await cluster.healthy()
  t.is((await read(12)).code, 1)
  const anew = content.subarray(12 * CHUNK, 13 * CHUNK)
  await cluster.dog(['vdi', 'write', 'volume', String(12 * CHUNK), String(CHUNK)], 0, { input: anew })
  t.is((await read(12)).code, 0)
  t.is((await check(cluster)).code, 0)
  await quiet(cluster)

  // Copies that differ, each true to its checksums: reported, and left alone until somebody decides.
  const header = bytesOf(files[1], 0, HEADER_BYTES)
  const { oid, writeEpoch, checkEpoch } = decodeHeader(header) as Exclude<ReturnType<typeof decodeHeader>, string>
  const sums = decodeChecksums(header, oid)
  if (sums === null) throw new Error('no checksums')
  flip(files[1], 2 * CHUNK)
  sums.sums[2] = sumOf(bytesOf(files[1], HEADER_BYTES + 2 * CHUNK, CHUNK))
  encodeHeader(header, oid, writeEpoch, checkEpoch, sums)
  put(files[1], 0, header)
  nodes = await scrub(cluster)
  t.deepEqual(counts(nodes, 'found'), [0, 0, 0])
  t.true(counts(nodes, 'diverged').reduce((sum, count) => sum + count) > 0)
  t.notDeepEqual(bytesOf(files[1], HEADER_BYTES, content.length), content)
  const differing = await check(cluster, '--repair')
  t.deepEqual(
    differing.report.problems.map(({ kind, repaired, nodes: bad }) => [kind, repaired, bad.length]),
    [['differs', true, 1]],
  )
  t.deepEqual(bytesOf(fileIn(cluster.stores[1]), HEADER_BYTES, content.length), content)
  t.is((await check(cluster)).code, 0)
})
