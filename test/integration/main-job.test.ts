/** The main job on real processes: three daemons, three copies, and the NBD clients that people use. */
import { type ChildProcess, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import type { VerbAnswer } from '../../lib/control/verbs.js'
import { TestCluster } from '../support/cluster.js'
import { fio } from '../support/fio.js'
import { ended, must, run, sleep, until } from '../support/process.js'
import { surveyReplicas } from '../support/replicas.js'

const MIB = 2 ** 20
let cluster: TestCluster
let image: string

test.before(async () => {
  cluster = await TestCluster.start({ nodes: 3 })
  image = join(cluster.directory, 'image.raw')
  // Data, a hole, data that ends off any block boundary of ours.
  const content = Buffer.alloc(40 * MIB)
  randomBytes(9 * MIB).copy(content, 0)
  randomBytes(11 * MIB + 512).copy(content, 20 * MIB)
  writeFileSync(image, content)
})
test.after.always(() => cluster?.stop())

function qemuIo(uri: string, ...commands: string[]) {
  return run('qemu-io', ['-f', 'raw', ...commands.flatMap((command) => ['-c', command]), uri])
}

/** A client that has the export open until it is killed. */
async function holdOpen(uri: string): Promise<ChildProcess> {
  const child = spawn('qemu-io', ['-f', 'raw', uri], { stdio: ['pipe', 'pipe', 'inherit'] })
  let output = ''
  child.stdout.on('data', (text) => {
    output += text
  })
  child.stdin.write('read 0 512\n')
  await until('qemu-io to open the export', 20_000, () => output.includes('512 bytes'))
  return child
}

async function create(name: string, size: string, ...options: string[]): Promise<string> {
  await cluster.dog(['vdi', 'create', name, size, ...options])
  return cluster.nbd(name)
}

test.serial('qemu-img copies an image in, and it compares identical through another gateway', async (t) => {
  const uri = await create('image', '40M')
  await must('qemu-img', ['convert', '-n', '-f', 'raw', '-O', 'raw', image, uri])
  await must('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', image, uri])
  const other = await must('qemu-img', [
    'compare',
    '-f',
    'raw',
    '-F',
    'raw',
    image,
    await cluster.elsewhere('image', 2),
  ])
  t.regex(other.stdout, /identical/)
})

test.serial('a compare finds one changed byte', async (t) => {
  const uri = await cluster.elsewhere('image', 1)
  t.is((await qemuIo(uri, 'write -P 0x77 5242880 512')).code, 0)
  const compared = await run('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', image, uri])
  t.is(compared.code, 1)
  t.regex(compared.stdout, /mismatch at offset 5242880/)
})

test.serial('holes stay holes: a thin volume reports and uses only what was written', async (t) => {
  const uri = await create('thin', '10G')
  t.is((await qemuIo(uri, 'write -P 1 1G 64k')).code, 0)
  const map: { start: number; length: number; data: boolean }[] = JSON.parse(
    (await must('qemu-img', ['map', '-f', 'raw', '--output=json', uri])).stdout,
  )
  const data = map.filter((extent) => extent.data)
  t.true(data.length > 0)
  t.true(data.every((extent) => extent.start >= 2 ** 30 - 4 * MIB && extent.start + extent.length <= 2 ** 30 + 8 * MIB))
  const { vdis } = await cluster.json<{ vdis: { name: string; used: number }[] }>(['vdi', 'list', 'thin'])
  t.true(vdis[0].used > 0 && vdis[0].used <= 4 * MIB, `${vdis[0].used} bytes used`)
})

test.serial('nbdinfo lists the exports and what each can do', async (t) => {
  const list = await must('nbdinfo', ['--list', `nbd+unix:///?socket=${cluster.nbdSocket()}`])
  t.regex(list.stdout, /export="image"/)
  t.regex(list.stdout, /export="thin"/)
  const info = JSON.parse((await must('nbdinfo', ['--json', cluster.nbd('thin')])).stdout).exports[0]
  t.is(info['export-size'], 10 * 2 ** 30)
  for (const can of ['can_flush', 'can_fua', 'can_trim', 'can_zero', 'can_multi_conn', 'can_cache', 'can_fast_zero'])
    t.true(info[can], can)
  t.false(info.is_read_only)
  t.deepEqual(info.contexts, ['base:allocation'])
  const missing = await run('nbdinfo', [cluster.nbd('nothing-of-this-name')])
  t.not(missing.code, 0)
})

test.serial('write, FUA, zeroes and discard read back as they must, after a reopen elsewhere too', async (t) => {
  const uri = await create('patterns', '64M')
  const writes = await qemuIo(
    uri,
    'write -P 0x11 0 12M',
    'write -f -P 0x22 4190208 8192',
    'write -z 1M 1M',
    'write -z -u 6M 3M',
    'discard 10M 1M',
    'flush',
    'aio_write -P 0x33 20M 1M',
    'aio_write -P 0x44 21M 1M',
    'aio_flush',
  )
  t.is(writes.code, 0, writes.stdout + writes.stderr)
  for (const gateway of [0, 1, 2]) {
    const reads = await qemuIo(
      await cluster.elsewhere('patterns', gateway),
      'read -P 0x11 0 1M',
      'read -P 0 1M 1M',
      'read -P 0x11 2M 2093056',
      'read -P 0x22 4190208 8192',
      'read -P 0x11 4198400 2093056',
      'read -P 0 6M 3M',
      'read -P 0x11 9M 1M',
      'read -P 0 10M 1M',
      'read -P 0x11 11M 1M',
      'read -P 0 12M 8M',
      'read -P 0x33 20M 1M',
      'read -P 0x44 21M 1M',
      'read -P 0 22M 42M',
    )
    t.is(reads.code, 0, reads.stdout + reads.stderr)
    t.notRegex(reads.stdout, /verification failed/i)
  }
})

test.serial('qemu-io notices a wrong pattern: the reads above can fail', async (t) => {
  const read = await qemuIo(await cluster.elsewhere('patterns', 0), 'read -P 0x12 0 4k')
  t.regex(read.stdout, /verification failed/i)
})

test.serial('nbdcopy takes it out over four connections, byte for byte', async (t) => {
  const uri = await create('copied', '40M')
  await must('nbdcopy', ['--connections=4', image, uri])
  const out = join(cluster.directory, 'out.raw')
  await must('nbdcopy', ['--connections=4', await cluster.elsewhere('copied', 1), out])
  t.is(statSync(out).size, 40 * MIB)
  t.true(readFileSync(out).equals(readFileSync(image)))
})

test.serial('fio writes and verifies at depth 16, also unaligned to blocks', async (t) => {
  const uri = await create('fio', '128M')
  const verify = ['verify=crc32c', 'verify_fatal=1', 'iodepth=16', 'randrepeat=0']
  const whole = await fio(uri, ['rw=randwrite', 'bs=4k', 'size=32M', ...verify])
  t.is(whole.write.ios, 8192)
  t.is(whole.read.ios, 8192)
  const odd = await fio(uri, ['rw=randwrite', 'bsrange=512-64k', 'bs_unaligned', 'size=32M', 'offset=64M', ...verify])
  t.true(odd.read.ios > 100)
})

test.serial('dog writes stdin into a volume and reads it back to stdout', async (t) => {
  await create('pipe', '16M')
  const data = randomBytes(5 * MIB + 17)
  await cluster.dog(['vdi', 'write', 'pipe', '4000000', String(data.length)], 1, { input: data })
  const read = await cluster.dog(['vdi', 'read', 'pipe', '4000000', String(data.length)], 2)
  t.true(read.bytes.equals(data))
})

test.serial('a snapshot keeps its content; a clone and a rollback start from it', async (t) => {
  const uri = await create('tree', '64M')
  t.is((await qemuIo(uri, 'write -P 1 0 8M', 'write -P 2 32M 1M')).code, 0)
  await cluster.dog(['vdi', 'snapshot', '-s', 'one', 'tree'])
  t.is((await qemuIo(uri, 'write -P 9 2M 4M', 'discard 32M 1M')).code, 0)
  await cluster.dog(['vdi', 'clone', '-s', 'one', 'tree', 'branch'])
  t.is((await qemuIo(await cluster.elsewhere('branch', 1), 'write -P 7 0 1M')).code, 0)

  const expectations = {
    'tree@one': ['read -P 1 0 8M', 'read -P 2 32M 1M'],
    tree: ['read -P 1 0 2M', 'read -P 9 2M 4M', 'read -P 1 6M 2M', 'read -P 0 32M 1M'],
    branch: ['read -P 7 0 1M', 'read -P 1 1M 7M', 'read -P 2 32M 1M'],
  }
  for (const [name, commands] of Object.entries(expectations)) {
    const reads = await run('qemu-io', [
      '-r',
      '-f',
      'raw',
      ...commands.flatMap((c) => ['-c', c]),
      await cluster.elsewhere(name, 2),
    ])
    t.is(reads.code, 0, `${name}: ${reads.stderr}${reads.stdout}`)
    t.notRegex(reads.stdout, /verification failed/i, name)
  }
  t.not(
    (await qemuIo(await cluster.elsewhere('tree@one', 0), 'write -P 5 0 4k')).code,
    0,
    'a snapshot must not be writable',
  )

  await cluster.dog(['vdi', 'rollback', '-s', 'one', 'tree'])
  const back = await qemuIo(await cluster.elsewhere('tree', 0), 'read -P 1 0 8M', 'read -P 2 32M 1M')
  t.is(back.code, 0)
  t.notRegex(back.stdout, /verification failed/i)
})

test.serial('checks and snapshots of a volume that is being written wait for each other', async (t) => {
  const uri = await create('busy', '32M')
  const load = fio(uri, ['rw=randwrite', 'bs=4k', 'iodepth=16', 'size=32M', 'time_based', 'runtime=8s'])
  await until('fio to write', 20_000, async () => {
    const { nodes } = JSON.parse((await cluster.dog(['node', 'stat', '--json'])).stdout) as VerbAnswer<'node.stat'>
    return nodes.some(({ answer }) => answer?.volumes.some(({ volume, write }) => volume === 'busy' && write > 100))
  })
  const checks = [0, 1].map((node) => cluster.dog(['vdi', 'check', 'busy'], node))
  const snapshots = [1, 2].map((node) => cluster.dog(['vdi', 'snapshot', '-s', `by-${node}`, 'busy'], node))
  await Promise.all([...checks, ...snapshots])
  t.true((await load).write.ios > 100)
  await cluster.dog(['vdi', 'check', 'busy'])
  await cluster.dog(['vdi', 'delete', 'busy'])
  for (const node of [1, 2]) await cluster.dog(['vdi', 'delete', '-s', `by-${node}`, 'busy'])
})

test.serial('a volume that is open elsewhere is refused, and the message says where', async (t) => {
  const holder = await holdOpen(await create('held', '16M'))
  t.teardown(() => holder.kill())
  const second = await qemuIo(cluster.nbd('held', 1), 'write 0 4k')
  t.not(second.code, 0)
  t.regex(second.stderr, /open|locked/i)
  const locks = await cluster.json<{ locks: { volume: string }[] }>(['vdi', 'lock', 'list'], 2)
  t.true(locks.locks.some((lock) => lock.volume === 'held'))
  const removal = await cluster.tryDog(['vdi', 'delete', 'held'], 2)
  t.is(removal.code, 6, 'busy')

  holder.kill('SIGKILL')
  await ended(holder)
  await until('the lock to go with its client', 10_000, async () => {
    return (await qemuIo(cluster.nbd('held', 1), 'write 0 4k')).code === 0
  })
  t.pass()
})

test.serial('an NBD client gets an error, not a hang, when its daemon is killed in the middle', async (t) => {
  const uri = await create('orphan', '64M')
  const writing = run('fio', [
    ...['--name=job', '--ioengine=nbd', `--uri=${uri}`, '--rw=randwrite', '--bs=4k', '--iodepth=8'],
    ...['--time_based', '--runtime=20s'],
  ])
  await sleep(1500)
  await cluster.killNode(0)
  const killed = performance.now()
  const outcome = await writing
  t.not(outcome.code, 0)
  t.true(performance.now() - killed < 10_000, 'fio heard of it late')
  t.is((await qemuIo(await cluster.elsewhere('orphan', 1), 'write -P 3 0 1M', 'read -P 3 0 1M')).code, 0)
})

test.serial('the killed daemon comes back, catches up, and all copies are the same bytes', async (t) => {
  await cluster.startNode(0)
  await cluster.healthy()
  for (const name of ['image', 'thin', 'patterns', 'copied', 'fio', 'pipe', 'tree', 'branch', 'orphan'])
    await cluster.dog(['vdi', 'check', name])
  const survey = await surveyReplicas(cluster.stores, 3)
  t.deepEqual(survey.problems, [])
  t.true(survey.objects > 20)
})

test.serial('deleting gives the space back at once', async (t) => {
  const before = (await surveyReplicas(cluster.stores, 3)).objects
  await create('doomed', '40M')
  t.is((await qemuIo(cluster.nbd('doomed'), 'write -P 1 0 40M')).code, 0)
  t.is((await surveyReplicas(cluster.stores, 3)).objects, before + 11)
  await cluster.dog(['vdi', 'delete', 'doomed'])
  t.is((await surveyReplicas(cluster.stores, 3)).objects, before)
})
