/**
 * Who may connect, with real daemons: without the cluster's key, with another, with what was recorded, with another version. The
 * daemons reach each other through relays that record what passes, each at an address of its own of this host.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { newClusterKey } from '../../lib/host/cluster-key.js'
import { sheepProgram, TestCluster } from '../support/cluster.js'
import { freePorts, must, run, until } from '../support/process.js'
import { proofOfNextVersion, tell, unprovenHello } from '../support/stranger.js'

const PATTERN = Buffer.alloc(64, 0x6b)

/** Where others find daemon i; it listens on 127.0.0.1. */
const outside = (i: number): string => `127.0.9.${i + 1}`

class Relays {
  /** Of each connection to a daemon, what was said to it */
  readonly said: Buffer[][] = []
  private readonly servers: Server[] = []
  private readonly sockets = new Set<Socket>()

  async listen(i: number, port: number): Promise<void> {
    const server = createServer((from) => {
      const pieces: Buffer[] = []
      this.said.push(pieces)
      const to = connect(port, '127.0.0.1')
      for (const [one, other] of [
        [from, to],
        [to, from],
      ]) {
        this.sockets.add(one)
        one.on('error', () => other.destroy())
        one.on('close', () => other.destroy())
        one.on('data', (bytes) => {
          if (one === from) pieces.push(bytes)
          other.write(bytes)
        })
      }
    })
    this.servers.push(server)
    await new Promise<void>((resolve) => server.listen(port, outside(i), resolve))
  }

  saw(bytes: Buffer): boolean {
    return this.said.some((pieces) => Buffer.concat(pieces).includes(bytes))
  }

  close(): void {
    for (const server of this.servers) server.close()
    for (const socket of this.sockets) socket.destroy()
  }
}

interface Keyed {
  cluster: TestCluster
  relays: Relays
  directory: string
  ports: number[]
}

/** Two daemons with one key, each behind a relay; a volume of theirs is written and read. */
async function keyed(t: ExecutionContext, options: readonly string[] = []): Promise<Keyed> {
  const directory = mkdtempSync(join(tmpdir(), 'keyed-'))
  const key = join(directory, 'cluster.key')
  writeFileSync(key, newClusterKey(), { mode: 0o640 })
  const relays = new Relays()
  t.teardown(() => {
    relays.close()
    rmSync(directory, { recursive: true, force: true })
  })
  const optionsOf = (i: number) => ['--key', key, '-y', outside(i), ...options]
  const cluster = await TestCluster.start({ nodes: 2, format: false, optionsOf, directory: join(directory, 'cluster') })
  t.teardown(() => cluster.stop())
  const ports = cluster.nodes.map(({ port }) => port)
  for (const [i, port] of ports.entries()) await relays.listen(i, port)
  await cluster.dog(['cluster', 'format', '-c', '2'])
  await cluster.dog(['vdi', 'create', 'disk', '16M'])
  await must('qemu-io', ['-f', 'raw', '-c', 'write -P 0x6b 0 1M', cluster.nbd('disk')])
  await must('qemu-io', ['-r', '-f', 'raw', '-c', 'read -P 0x6b 0 1M', await cluster.elsewhere('disk', 1)])
  return { cluster, relays, directory, ports }
}

/** As `keyed` left it, and untouched by whoever tried. */
async function untouched(t: ExecutionContext, { cluster }: Keyed): Promise<void> {
  const { epochs, status } = await cluster.json<{ epochs: unknown[]; status: string }>(['cluster', 'info'])
  t.is(status, 'running')
  t.is(epochs.length, 1)
  await must('qemu-io', ['-r', '-f', 'raw', '-c', 'read -P 0x6b 0 1M', await cluster.elsewhere('disk', 0)])
  const { stdout } = await cluster.dog(['vdi', 'list', '-r'])
  t.is(stdout.trim().split('\n').length, 1)
}

function logLines(cluster: TestCluster, i: number, pattern: RegExp): string[] {
  return readFileSync(cluster.nodes[i].log, 'utf8')
    .split('\n')
    .filter((line) => pattern.test(line))
}

test.serial('peers with the key work; without it, or with what was recorded, nobody says a word to them', async (t) => {
  const world = await keyed(t)
  const { cluster, relays, ports } = world
  t.true(relays.saw(PATTERN), 'what is not encrypted can be seen')

  for (let i = 0; i < 3; i++) {
    const { closed } = await tell(ports[1], [unprovenHello()])
    t.true(closed)
  }
  t.is(logLines(cluster, 1, /a peer without the cluster key/).length, 1)

  // Each connection to the second daemon, as it was: proof, HELLO, writes.
  const recorded = relays.said.map((pieces) => Buffer.concat(pieces)).filter((bytes) => bytes.length > 1 << 20)
  t.true(recorded.length > 0)
  for (const bytes of recorded) {
    for (const port of ports) {
      const { answer, closed } = await tell(port, [bytes])
      t.true(closed)
      t.false(answer.includes(PATTERN))
    }
  }
  t.is(logLines(cluster, 1, /refused .*its cluster key is another one/).length, 1)

  for (let i = 0; i < 3; i++) {
    const { answer, closed } = await tell(ports[1], [proofOfNextVersion()])
    t.true(closed)
    t.regex(answer.toString(), /"version".*it speaks version 2/)
  }
  t.is(logLines(cluster, 1, /refused .*it speaks version/).length, 1)
  await untouched(t, world)
})

test.serial('encrypted: what passes cannot be read', async (t) => {
  const world = await keyed(t, ['--encrypt'])
  t.true(world.relays.said.some((pieces) => Buffer.concat(pieces).length > 1 << 20))
  t.false(world.relays.saw(PATTERN))
  await untouched(t, world)
})

test.serial('a daemon with another key, or with none, is refused with what to do, and changes nothing', async (t) => {
  const world = await keyed(t)
  const { cluster, directory } = world
  const [port] = await freePorts(1, 9_000 + (process.pid % 1_000))
  const key = join(directory, 'other.key')
  writeFileSync(key, newClusterKey(), { mode: 0o640 })
  const engine = `local:${join(cluster.directory, 'local')}`
  for (const [options, reason] of [
    [['--key', key], /has another cluster key than the others/],
    [[], /has no cluster key, and the others have one/],
  ] as const) {
    const words = [sheepProgram, '-f', '-c', engine, '-p', String(port), ...options, join(directory, 'store')]
    const outcome = await run(process.execPath, words, { limit: 30_000 })
    t.is(outcome.code, 5, outcome.stderr)
    t.regex(outcome.stderr, reason)
    t.regex(outcome.stderr, /cluster-key.md/)
  }
  await untouched(t, world)
})

test.serial('a key file that is none, or that everybody can read', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'keyed-'))
  t.teardown(() => rmSync(directory, { recursive: true, force: true }))
  const key = join(directory, 'key')
  const start = async () => {
    return await run(process.execPath, [sheepProgram, '-f', '--key', key, join(directory, 'store')], { limit: 30_000 })
  }
  t.regex((await start()).stderr, /there is no cluster key at .*\n.*copy it from another host/)
  writeFileSync(key, 'correct horse battery staple\n', { mode: 0o640 })
  const nonsense = await start()
  t.regex(nonsense.stderr, /holds no cluster key/)
  t.false(nonsense.stderr.includes('horse'))
  rmSync(key)
  writeFileSync(key, newClusterKey(), { mode: 0o644 })
  t.regex((await start()).stderr, /can be read by everybody/)
})

test.serial('reload: the configuration is read again, a mistake in it changes nothing', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'conf-'))
  const path = join(directory, 'sheepdog.conf')
  writeFileSync(path, 'log-level = notice\n')
  const cluster = await TestCluster.start({ nodes: 1, sheepOptions: ['--config', path] })
  t.teardown(async () => {
    await cluster.stop()
    rmSync(directory, { recursive: true, force: true })
  })
  const reload = async (text: string, pattern: RegExp): Promise<void> => {
    writeFileSync(path, text)
    process.kill(cluster.pid(0), 'SIGHUP')
    await until(`the log to say ${pattern}`, 5_000, () => logLines(cluster, 0, pattern).length > 0)
  }
  await reload('log-level = notice\nscrub-rate = 5M\nzone = r\n', /zone changes at the next restart/)
  t.is(logLines(cluster, 0, /scrub-rate is 5 MiB\/s, was 32 MiB\/s/).length, 1)
  await reload('log-level = notice\nscrub-rat = 5M\n', /stays as it was: .*line 2: there is no key "scrub-rat"/)
  t.is(logLines(cluster, 0, / (?:info|debug): /).length, 0)
  await reload('log-level = debug\nscrub-rate = 5M\n', /log-level is debug, was notice/)
  await cluster.dog(['cluster', 'scrub', 'start'])
  await until('more in the log', 5_000, () => logLines(cluster, 0, / (?:info|debug): /).length > 0)
  const { stdout } = await cluster.dog(['cluster', 'scrub', '--json'])
  t.true(stdout.includes(String(5 << 20)), stdout)
})
