/** What is there from another version, older or newer, on disk and on the wire: taken over, or refused with what to do (docs/versions.md). */
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import test, { type ExecutionContext } from 'ava'
import { PROTOCOL } from '../../lib/cluster/messages.js'
import {
  encodeRequest,
  FLAG_WRITE,
  HEADER_LENGTH,
  OP,
  PEER_VERSION,
  PROTOCOL_VERSION,
} from '../../lib/protocol/header.js'
import { encodeCall } from '../../lib/replication/peers.js'
import { VERSION as OBJECT_VERSION } from '../../lib/store/header.js'
import { VERSION as STORE_VERSION } from '../../lib/store/identity.js'
import { TestCluster } from '../support/cluster.js'
import { freePorts, must, type Outcome, run } from '../support/process.js'
import { tell } from '../support/stranger.js'

const project = join(import.meta.dirname, '..', '..', '..')
const limit = 30_000

async function cluster(t: ExecutionContext): Promise<TestCluster> {
  const started = await TestCluster.start({ nodes: 1 })
  t.teardown(() => started.stop())
  await started.dog(['vdi', 'create', 'disk', '16M'])
  await must('qemu-io', ['-f', 'raw', '-c', 'write -P 0x6b 0 1M', started.nbd('disk')])
  return started
}

async function reads(started: TestCluster, pattern: number): Promise<void> {
  await must('qemu-io', ['-r', '-f', 'raw', '-c', `read -P ${pattern} 0 1M`, await started.elsewhere('disk', 0)])
}

/** What `sheep` says in a store that it cannot serve. */
async function refusedStart(started: TestCluster): Promise<Outcome> {
  const [{ store, port }] = started.nodes
  const words = [join(project, 'dist/daemon/sheep.js'), '-f', '-c', `local:${join(started.directory, 'local')}`]
  return await run(process.execPath, [...words, '-p', String(port), store], { limit })
}

/** A change of a file of the store, while no daemon has it; what it was. */
function changed(store: string, name: string, change: (text: string) => string): string {
  const file = join(store, name)
  const text = readFileSync(file, 'utf8')
  const now = change(text)
  if (now === text) throw new Error(`${name} has nothing to change: ${text}`)
  writeFileSync(file, now)
  return text
}

/** Header of an object (lib/store/header.ts) under another version. Version 1 has no checksums. */
function withVersion(bytes: Buffer, version: number): Buffer {
  const header = Buffer.from(bytes)
  header.writeUInt32LE(version, 8)
  if (version === 1) header.fill(0, 32, 508)
  header.writeUInt32LE(crc32(header.subarray(0, 508)), 508)
  return header
}

function objects(store: string): string[] {
  const files = readdirSync(join(store, 'obj'), { recursive: true, withFileTypes: true })
  return files.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name))
}

test('a store of a newer version: the daemon does not start, says so, and changes nothing', async (t) => {
  const started = await cluster(t)
  const [{ store }] = started.nodes
  await started.killNode(0)
  const text = changed(store, 'config', (config) => config.replace(/"version": ?\d+/, '"version": 99'))
  const newer = readFileSync(join(store, 'config'), 'utf8')
  const { code, stderr } = await refusedStart(started)
  t.is(code, 1)
  t.regex(stderr, /this store has version 99, this sheep knows versions up to \d+\n {2}start the newer sheep/)
  t.is(readFileSync(join(store, 'config'), 'utf8'), newer)
  writeFileSync(join(store, 'config'), text)
  await started.startNode(0)
  await reads(started, 0x6b)
})

test('an object of a newer version: the daemon does not start, says so, and the object stays as it is', async (t) => {
  const started = await cluster(t)
  const [{ store }] = started.nodes
  await started.killNode(0)
  const [file] = objects(store)
  const bytes = readFileSync(file)
  const newer = withVersion(bytes, OBJECT_VERSION + 1)
  writeFileSync(file, newer)
  const { code, stderr } = await refusedStart(started)
  t.is(code, 1)
  t.regex(stderr, /obj\/\S+ was written by a newer sheep\n {2}start the newer version on this store/)
  t.true(readFileSync(file).equals(newer))
  writeFileSync(file, bytes)
  await started.startNode(0)
  await reads(started, 0x6b)
})

test('an older store is taken over, with its bytes, and its objects become new with the next write', async (t) => {
  const started = await cluster(t)
  const [{ store }] = started.nodes
  await started.killNode(0)
  // As versions wrote it that knew one disk, and no checksums.
  changed(store, 'state', (text) => {
    const { clusterId, recoveredEpoch } = JSON.parse(text) as Record<string, unknown>
    return JSON.stringify({ clusterId, recoveredEpoch })
  })
  changed(store, 'config', (text) => {
    const { disk: _, ...older } = JSON.parse(text) as Record<string, unknown>
    return JSON.stringify(older)
  })
  const files = objects(store)
  for (const file of files) writeFileSync(file, withVersion(readFileSync(file), 1))
  await started.startNode(0)
  await reads(started, 0x6b)
  await must('qemu-io', ['-f', 'raw', '-c', 'write -P 0x6c 0 1M', await started.elsewhere('disk', 0)])
  await reads(started, 0x6c)
  await started.dog(['vdi', 'check', 'disk'])
  const versions = files.map((file) => readFileSync(file).readUInt32LE(8))
  t.true(versions.includes(OBJECT_VERSION), String(versions))
})

/** The programs as another version would be that numbers what it says on the wire so. */
function otherVersion(t: ExecutionContext, by: number): string {
  const root = mkdtempSync(join(tmpdir(), 'other-version-'))
  t.teardown(() => rmSync(root, { recursive: true }))
  for (const folder of ['lib', 'daemon'])
    cpSync(join(project, 'dist', folder), join(root, 'dist', folder), { recursive: true })
  cpSync(join(project, 'package.json'), join(root, 'package.json'))
  symlinkSync(join(project, 'node_modules'), join(root, 'node_modules'))
  changed(root, 'dist/lib/cluster/messages.js', (text) =>
    text.replace(`PROTOCOL = ${PROTOCOL};`, `PROTOCOL = ${PROTOCOL + by};`),
  )
  changed(root, 'dist/lib/protocol/header.js', (text) =>
    text.replace(`PEER_VERSION = ${PEER_VERSION};`, `PEER_VERSION = ${PEER_VERSION + by};`),
  )
  return join(root, 'dist', 'daemon', 'sheep.js')
}

for (const [name, by] of [
  ['newer', 1],
  ['older', -1],
] as const) {
  test(`a daemon of ${name} protocols is refused with what to do, and the cluster goes on`, async (t) => {
    const started = await cluster(t)
    const [port] = await freePorts(1, 17_700)
    const engine = `local:${join(started.directory, 'local')}`
    const store = join(started.directory, 'other')
    const words = [otherVersion(t, by), '-f', '-c', engine, '-p', String(port), store]
    const { code, stderr } = await run(process.execPath, words, { limit })
    t.is(code, 5, stderr)
    t.regex(stderr, new RegExp(`speaks cluster protocol ${PROTOCOL + by}, the others ${PROTOCOL}\n`))
    t.regex(stderr, /\n {2}install the same version of sheepdog on all nodes\n/)
    const { status, epochs } = await started.json<{ status: string; epochs: unknown[] }>(['cluster', 'info'])
    t.is(status, 'running')
    t.is(epochs.length, 1)
    await reads(started, 0x6b)
  })

  test(`a peer that connects with a ${name} version and no key is refused, and the log says what to do, once`, async (t) => {
    const started = await cluster(t)
    const said = { id: 'a'.repeat(16), to: 'b'.repeat(16), version: PEER_VERSION + by, link: 1 }
    const hello = encodeCall({ ...said, incarnation: 'x', clusterId: '' }, undefined)
    const header = Buffer.alloc(HEADER_LENGTH)
    encodeRequest(header, 0, OP.PEER_HELLO, FLAG_WRITE, 0, 0, hello.length)
    for (let time = 0; time < 3; time++) {
      t.true((await tell(started.nodes[0].port, [Buffer.concat([header, hello])])).closed)
    }
    const lines = readFileSync(started.nodes[0].log, 'utf8').match(/.*speaks protocol.*/g) ?? []
    t.is(lines.length, 1, lines.join('\n'))
    t.true(
      lines[0]?.endsWith(
        `speaks protocol ${PEER_VERSION + by}, this node ${PEER_VERSION}; run the same version of sheepdog on all hosts`,
      ),
      lines[0],
    )
    await reads(started, 0x6b)
  })
}

/** Whoever raises one is led to that page, which says what has to rise with it. */
test('docs/versions.md says the versions that there are', (t) => {
  const page = readFileSync(join(project, 'docs/versions.md'), 'utf8')
  const row = (what: string): string => page.split('\n').find((line) => line.startsWith(`| ${what} |`)) ?? ''
  for (const [what, now] of [
    ['a store', STORE_VERSION],
    ["an object's header", OBJECT_VERSION],
    ['what members tell each other', PROTOCOL],
    ['between daemons', PEER_VERSION],
    ['clients of the sheepdog protocol', PROTOCOL_VERSION],
  ] as const) {
    t.regex(row(what).split('|')[3] ?? '', new RegExp(`^ ${now}\\b`), `${what} is ${now}`)
  }
})

test('sheep and dog say their version, which is that of package.json', async (t) => {
  const { version } = JSON.parse(readFileSync(join(project, 'package.json'), 'utf8')) as { version: string }
  for (const name of ['daemon/sheep.js', 'lib/dog/main.js']) {
    const { stdout } = await must(process.execPath, [join(project, 'dist', name), '--version'])
    t.is(stdout, `${version}\n`, name)
  }
})
