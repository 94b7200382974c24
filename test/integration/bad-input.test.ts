/** What a stranger, a careless user and a full disk do to real daemons: a clear error each, and the daemon goes on. */
import { randomBytes } from 'node:crypto'
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { sheepProgram, TestCluster } from '../support/cluster.js'
import { fio } from '../support/fio.js'
import { freePorts, must, type Outcome, peakMemory, run } from '../support/process.js'
import { sheepdogHeader, tell } from '../support/stranger.js'

const MIB = 2 ** 20
let cluster: TestCluster
let ports: number[]

test.before(async () => {
  cluster = await TestCluster.start({ nodes: 3, sheepOptions: [] })
  ports = cluster.nodes.map((node) => node.port)
  await cluster.dog(['vdi', 'create', 'precious', '64M'])
  await must('qemu-io', ['-f', 'raw', '-c', 'write -P 0x6b 0 8M', cluster.nbd('precious')])
})
test.after.always(() => cluster?.stop())

/** The daemons are the same processes as before, answer, and have lost nothing. */
async function unharmed(): Promise<void> {
  for (const node of cluster.nodes) {
    if (node.child?.exitCode !== null) throw new Error(`daemon ${node.index} ended:\n${cluster.logOf(node.index)}`)
    await cluster.dog(['vdi', 'list'], node.index)
  }
  const read = await must('qemu-io', [
    '-r',
    '-f',
    'raw',
    '-c',
    'read -P 0x6b 0 8M',
    await cluster.elsewhere('precious', 1),
  ])
  if (/failed/i.test(read.stdout)) throw new Error(read.stdout)
}

/** One sentence that names the trouble, then what to do; never a stack trace. */
function isClear(outcome: Outcome): boolean {
  const said = outcome.stderr.trim()
  return said.length > 0 && said.split('\n').length <= 6 && !/^\s+at .*:\d+:\d+\)?$/m.test(said)
}

function everyEntrance(): (number | string)[] {
  const { store, port } = cluster.nodes[0]
  return [port, join(store, 'sock'), join(store, 'nbd.sock')]
}

test.serial('random bytes on every port and socket', async (t) => {
  for (const entrance of everyEntrance())
    for (const size of [1, 47, 48, 49, 4096, 3 * MIB]) await tell(entrance, [randomBytes(size)], 100)
  await unharmed()
  t.pass()
})

test.serial('half a request, then nothing, from two hundred clients', async (t) => {
  const half = sheepdogHeader({ opcode: 0xc0, flags: 1, length: 1000 }).subarray(0, 30)
  for (const entrance of everyEntrance()) {
    const reactions = await Promise.all(Array.from({ length: 200 }, () => tell(entrance, [half], 200)))
    t.is(reactions.length, 200)
  }
  await unharmed()
})

test.serial('absurd lengths are refused and cost no memory', async (t) => {
  const before = peakMemory(cluster.pid(0))
  const { store, port } = cluster.nodes[0]
  for (const entrance of [port, join(store, 'sock')]) {
    for (const opcode of [0x01, 0x02, 0x03, 0x11, 0x12, 0x15, 0xc0, 0xc1, 0xc2, 0xc3, 0x80, 0xa0, 0xff]) {
      for (const flags of [0, 1]) {
        const header = sheepdogHeader({ opcode, flags, length: 0xffffffff })
        await tell(entrance, [header, Buffer.alloc(64 * 1024)], 50)
      }
    }
  }
  // NBD: client flags, then an option of 4 GiB (NBD protocol, "Option haggling").
  const option = Buffer.alloc(20)
  option.writeUInt32BE(3, 0)
  option.write('IHAVEOPT', 4)
  option.writeUInt32BE(7, 12)
  option.writeUInt32BE(0xffffffff, 16)
  await tell(join(store, 'nbd.sock'), [option, randomBytes(MIB)], 200)
  t.true(peakMemory(cluster.pid(0)) - before < 96 * MIB)
  await unharmed()
})

test.serial(
  'control requests that are no JSON, no verb, or have wrong arguments get an error and the connection goes on',
  async (t) => {
    const bodies = ['', '{', 'null', '[]', '{"verb":"__proto__"}', '{"verb":"vdi.create","arguments":{"name":5}}']
    for (const body of [...bodies, '['.repeat(200_000)]) {
      const payload = Buffer.from(body)
      const bad = Buffer.concat([sheepdogHeader({ opcode: 0xc0, flags: 1, id: 7, length: payload.length }), payload])
      const goodBody = Buffer.from('{"verb":"node.list","arguments":{}}')
      const good = Buffer.concat([sheepdogHeader({ opcode: 0xc0, flags: 1, id: 8, length: goodBody.length }), goodBody])
      const { answer } = await tell(ports[0], [bad, good])
      t.true(answer.length >= 96, `${body.slice(0, 40)}: ${answer.length} bytes of answer`)
      t.is(answer.readUInt32LE(8), 7)
      t.not(answer.readUInt32LE(16), 0, body.slice(0, 40))
      const second = 48 + answer.readUInt32LE(12)
      t.is(answer.readUInt32LE(second + 8), 8)
      t.is(answer.readUInt32LE(second + 16), 0)
    }
    await unharmed()
  },
)

test.serial('names with /, @, newline, NUL, too long or empty, and sizes that are none', async (t) => {
  const names = ['a/b', 'a@b', 'a\nb', '', '.', '..', 'x'.repeat(256), 'é'.repeat(128), '\u0085', '\u2028']
  for (const name of names) {
    const outcome = await cluster.tryDog(['vdi', 'create', '--', name, '1M'])
    t.is(outcome.code, 2, JSON.stringify(name))
    t.true(isClear(outcome), outcome.stderr)
  }
  for (const size of ['-1', '-1G', '0x', '', 'huge', '1e400', '99999999T', '18446744073709551616', '1.5.2G', 'NaN']) {
    const outcome = await cluster.tryDog(['vdi', 'create', 'sized', '--', size])
    t.is(outcome.code, 2, `size "${size}" gave ${outcome.code}: ${outcome.stderr}`)
    t.true(isClear(outcome), outcome.stderr)
  }
  // NUL cannot be in a program's argument: it comes by the protocol.
  const payload = Buffer.from(JSON.stringify({ verb: 'vdi.create', arguments: { name: 'a\0b', size: MIB } }))
  const { answer } = await tell(ports[0], [sheepdogHeader({ opcode: 0xc0, flags: 1, length: payload.length }), payload])
  t.is(answer.readUInt32LE(16), 5)
  const { vdis } = await cluster.json<{ vdis: { name: string }[] }>(['vdi', 'list'])
  t.deepEqual(
    vdis.map((vdi) => vdi.name),
    ['precious'],
  )
})

test.serial('the longest name works: 255 bytes of UTF-8, through dog and NBD', async (t) => {
  const name = `${'ü'.repeat(127)}x`
  await cluster.dog(['vdi', 'create', name, '4M'])
  await must('qemu-io', ['-f', 'raw', '-c', 'write -P 1 0 4k', await cluster.elsewhere(name, 1)])
  await cluster.dog(['vdi', 'delete', name])
  t.pass()
})

test.serial('unknown options, verbs and volumes: exit codes that tell them apart', async (t) => {
  const cases: [string[], number][] = [
    [['vdi', 'create', 'x', '1M', '--frobnicate'], 2],
    [['vdi', 'explode'], 2],
    [['nonsense'], 2],
    [['vdi', 'create', 'precious', '1M'], 4],
    [['vdi', 'delete', 'no-such-volume'], 3],
    [['vdi', 'clone', '-s', 'no-such-tag', 'precious', 'y'], 3],
    [['vdi', 'create', 'x', '1M', '-c', '0'], 2],
    [['vdi', 'create', 'x', '1M', '-c', '32'], 2],
  ]
  for (const [args, code] of cases) {
    const outcome = await cluster.tryDog(args)
    t.is(outcome.code, code, `dog ${args.join(' ')}: ${outcome.stderr}`)
    t.true(isClear(outcome), outcome.stderr)
  }
  await unharmed()
})

test.serial('two creates of one name at once: one wins, on whichever daemon', async (t) => {
  for (let round = 0; round < 5; round++) {
    const outcomes = await Promise.all([0, 1, 2].map((i) => cluster.tryDog(['vdi', 'create', `race${round}`, '1M'], i)))
    t.deepEqual(outcomes.map((outcome) => outcome.code).sort(), [0, 4, 4])
  }
})

async function startSheep(...args: string[]): Promise<Outcome> {
  const [port] = await freePorts(1, 9100)
  const engine = `local:${join(cluster.directory, 'elsewhere')}`
  return run(process.execPath, [sheepProgram, '-f', '-c', engine, '-p', String(port), ...args], { limit: 20_000 })
}

test.serial('sheep refuses unknown options and values', async (t) => {
  const store = join(cluster.directory, 'never')
  for (const args of [
    ['--frobnicate', store],
    ['-c', 'zookeeper', store],
    ['-p', '0', store],
    ['-p', 'x', store],
    [store, store],
  ]) {
    const outcome = await startSheep(...args)
    t.is(outcome.code, 2, args.join(' '))
    t.true(isClear(outcome), outcome.stderr)
  }
})

test.serial('sheep refuses a directory that is not a store, and leaves it alone', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'sheep-foreign-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  writeFileSync(join(directory, 'thesis.txt'), 'not yours')
  mkdirSync(join(directory, 'obj'))
  const foreign = await startSheep(directory)
  t.not(foreign.code, 0)
  t.true(isClear(foreign), foreign.stderr)
  t.regex(foreign.stderr, /not.*store|not empty/i)
  t.deepEqual(readdirSync(directory).sort(), ['obj', 'thesis.txt'])
  const file = await startSheep(join(directory, 'thesis.txt'))
  t.not(file.code, 0)
  t.true(isClear(file), file.stderr)
})

test.serial('sheep refuses a store that another daemon uses, and says which', async (t) => {
  const outcome = await startSheep(cluster.nodes[0].store)
  t.not(outcome.code, 0)
  t.true(isClear(outcome), outcome.stderr)
  t.regex(outcome.stderr, new RegExp(`in use|${cluster.pid(0)}`))
  await unharmed()
})

test.serial('sheep refuses a port that is taken', async (t) => {
  const store = join(cluster.directory, 'port-taken')
  const engine = `local:${join(cluster.directory, 'elsewhere')}`
  const args = [sheepProgram, '-f', '-c', engine, '-p', String(ports[0]), store]
  const outcome = await run(process.execPath, args, { limit: 20_000 })
  t.not(outcome.code, 0)
  t.true(isClear(outcome), outcome.stderr)
  t.regex(outcome.stderr, new RegExp(String(ports[0])))
})

test.serial('dog says so when there is no daemon, and what to do', async (t) => {
  const [port] = await freePorts(1, 9200)
  const outcome = await run(process.execPath, cluster.dogWords(['node', 'list'], port))
  t.is(outcome.code, 5)
  t.true(isClear(outcome), outcome.stderr)
  t.regex(outcome.stderr, /sheep/)
})

test.serial(
  'a full disk: new data gets "no space", overwrites and other volumes go on, deleting makes room',
  async (t) => {
    t.is(process.getuid?.(), 0, 'this test mounts a small tmpfs: run it as root')
    const directory = mkdtempSync(join(tmpdir(), 'sheep-full-'))
    chmodSync(directory, 0o755)
    await must('mount', ['-t', 'tmpfs', '-o', 'size=160m', 'sheepdog-test', directory])
    t.teardown(async () => {
      await must('umount', ['-l', directory])
      rmSync(directory, { recursive: true, force: true })
    })
    const small = await TestCluster.start({ directory: join(directory, 'stores'), nodes: 1 })
    t.teardown(() => small.stop())
    await small.dog(['vdi', 'create', 'kept', '16M'])
    await small.dog(['vdi', 'create', 'greedy', '1G'])
    await must('qemu-io', ['-f', 'raw', '-c', 'write -P 1 0 16M', small.nbd('kept')])

    const filling = await run('qemu-io', ['-f', 'raw', '-c', 'write -P 2 0 500M', small.nbd('greedy')])
    t.not(filling.code, 0)
    t.regex(filling.stdout + filling.stderr, /no space/i)
    const over = await run('qemu-io', [
      '-f',
      'raw',
      '-c',
      'write -P 3 0 16M',
      '-c',
      'read -P 3 0 16M',
      small.nbd('kept'),
    ])
    t.is(over.code, 0, over.stdout + over.stderr)
    t.notRegex(over.stdout, /failed/i)

    await small.dog(['vdi', 'delete', 'greedy'])
    await small.dog(['vdi', 'create', 'next', '64M'])
    const next = await fio(small.nbd('next'), ['rw=write', 'bs=1M', 'size=64M', 'verify=crc32c'])
    t.is(next.read.ios, 64)
    await small.killNode(0)
    await small.startNode(0)
    const read = await must('qemu-io', ['-r', '-f', 'raw', '-c', 'read -P 3 0 16M', small.nbd('kept')])
    t.notRegex(read.stdout, /failed/i)
  },
)
