/** dog as a process among others: data through pipes, readers that go away, interrupts, the environment, check's exit code. */
import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { dogProgram } from '../../support/cluster.js'
import { listenControl } from '../../support/control-listener.js'
import { FakeServices } from '../../support/fake-services.js'
import { ended, type RunOptions, run } from '../../support/process.js'

const MIB = 2 ** 20

async function start(t: ExecutionContext) {
  const services = new FakeServices()
  services.locks = []
  const listener = await listenControl(services)
  t.teardown(() => listener.close())
  const words = (...args: string[]) => [dogProgram, '--socket', listener.socket, ...args]
  const dog = (args: string[], options: RunOptions = {}) => run(process.execPath, words(...args), options)
  return { services, listener, dog, words }
}

test('write and read: what goes in through stdin comes out through stdout', async (t) => {
  const { services, dog } = await start(t)
  const data = randomBytes(11 * MIB + 17)
  const wrote = await dog(['vdi', 'write', 'disk', '1000'], { input: data })
  t.is(wrote.code, 0, wrote.stderr)
  t.is(wrote.stdout, 'Wrote 11 MiB to disk.\n')
  const [volume] = services.volumes.volumes
  t.true(volume.bytes.subarray(1000, 1000 + data.length).equals(data))
  t.is(volume.bytes[1000 + data.length], 0)
  t.true(volume.flushes > 0, 'flushed before it says so')
  t.true(volume.closed)
  const read = await dog(['vdi', 'read', 'disk', '1000', String(data.length)])
  t.is(read.code, 0, read.stderr)
  t.true(read.bytes.equals(data))
  const whole = await dog(['vdi', 'read', 'disk', '95M'])
  t.is(whole.bytes.length, MIB, 'to the end')
  const nothing = await dog(['vdi', 'read', 'disk', '96M'])
  t.is(nothing.bytes.length, 0)
  t.is(nothing.code, 0)
})

test('a length takes as much of stdin, and no more', async (t) => {
  const { services, dog } = await start(t)
  const data = Buffer.alloc(3 * MIB, 'abc')
  const took = await dog(['vdi', 'write', 'disk', '0', '1M'], { input: data })
  t.is(took.code, 0, took.stderr)
  const [volume] = services.volumes.volumes
  t.true(volume.bytes.subarray(0, MIB).equals(data.subarray(0, MIB)))
  t.is(volume.bytes[MIB], 0)
  const short = await dog(['vdi', 'write', 'disk', '0', '1M'], { input: 'too little' })
  t.is(short.code, 2)
  t.regex(short.stderr, /stdin ended after 10 of 1048576 bytes/)
})

test('what does not fit is refused, before anything is written when that can be known', async (t) => {
  const { services, dog, words } = await start(t)
  const directory = mkdtempSync(join(tmpdir(), 'dog-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  writeFileSync(join(directory, 'large'), Buffer.alloc(2 * MIB, 'x'))
  const fd = openSync(join(directory, 'large'), 'r')
  const child = spawn(process.execPath, words('vdi', 'write', 'disk', '95M'), { stdio: [fd, 'ignore', 'pipe'] })
  closeSync(fd)
  let said = ''
  child.stderr?.on('data', (text) => {
    said += text
  })
  await ended(child)
  t.is(child.exitCode, 2)
  t.regex(said, /do not fit/)
  t.false(services.volumes.volumes[0].calls.some((call) => call.startsWith('write')))
  const piped = await dog(['vdi', 'write', 'disk', '95M'], { input: Buffer.alloc(2 * MIB, 'x') })
  t.is(piped.code, 2)
  t.regex(piped.stderr, /more than fits/)
  t.is((await dog(['vdi', 'read', 'disk', '0', '97M'])).code, 2)
})

test('an error in the middle of a write ends it with that error', async (t) => {
  const { services, dog } = await start(t)
  services.volumes.open = ((open) => async (request) => {
    const volume = await open.call(services.volumes, request)
    services.volumes.volumes[0].failWith = -28
    return volume
  })(services.volumes.open)
  const full = await dog(['vdi', 'write', 'disk'], { input: Buffer.alloc(20 * MIB) })
  t.is(full.code, 7)
  t.regex(full.stderr, /no space/)
})

test('a snapshot is read and not written', async (t) => {
  const { dog } = await start(t)
  t.is((await dog(['vdi', 'read', '-s', 'monday', 'disk', '0', '512'])).bytes.length, 512)
  t.is((await dog(['vdi', 'write', '-s', 'monday', 'disk'], { input: 'x' })).code, 2)
})

test('a reader that goes away ends dog quietly', async (t) => {
  const { words } = await start(t)
  const child = spawn(process.execPath, words('vdi', 'read', 'disk'), { stdio: ['ignore', 'pipe', 'pipe'] })
  let said = ''
  child.stderr?.on('data', (text) => {
    said += text
  })
  await new Promise<void>((resolve) => child.stdout.once('data', () => resolve()))
  child.stdout.destroy()
  await ended(child)
  t.is(child.exitCode, 141)
  t.is(said, '')
})

test('an interrupt ends dog at once, by that signal, and the daemon closes what it had open', async (t) => {
  const { services, words } = await start(t)
  const child = spawn(process.execPath, words('vdi', 'write', 'disk'), { stdio: ['pipe', 'pipe', 'pipe'] })
  child.stdin.on('error', () => {})
  child.stdin.write(Buffer.alloc(3 * MIB))
  while (!services.volumes.volumes[0]?.calls.some((call) => call.startsWith('write'))) {
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  child.kill('SIGINT')
  await ended(child)
  t.is(child.signalCode, 'SIGINT')
  while (!services.volumes.volumes[0].closed) await new Promise((resolve) => setTimeout(resolve, 10))
  t.pass()
})

test('--timeout ends a wait, and says so', async (t) => {
  const { services, dog } = await start(t)
  services.vdis.rename = () => new Promise(() => {})
  const outcome = await dog(['--timeout', '1', 'vdi', 'rename', 'disk', 'x'])
  t.is(outcome.code, 1)
  t.regex(outcome.stderr, /^dog: not done after 1 s\n {2}\S/)
  t.true(outcome.ms < 20_000, `${outcome.ms} ms`)
})

test('the environment names the daemon, and the command line wins', async (t) => {
  const { listener } = await start(t)
  const list = (args: string[], env: Record<string, string>) =>
    run(process.execPath, [dogProgram, ...args, 'node', 'list'], { env })
  t.is((await list([], { SHEEPDOG_SOCKET: listener.socket, SHEEPDOG_PORT: '1' })).code, 0)
  t.is((await list([], { SHEEPDOG_PORT: String(listener.port) })).code, 0)
  t.is((await list(['-p', String(listener.port)], { SHEEPDOG_SOCKET: '/nonexistent' })).code, 0)
  t.is((await list(['--socket', listener.socket], { SHEEPDOG_ADDRESS: 'nowhere.invalid' })).code, 0)
  t.is((await list([], { SHEEPDOG_SOCKET: '/nonexistent' })).code, 5)
  t.is((await list([], { SHEEPDOG_PORT: 'x' })).code, 2)
})

test('global options stand before and behind the command', async (t) => {
  const { listener } = await start(t)
  const forms = [
    ['--socket', listener.socket, '-r', 'vdi', 'list', 'disk'],
    ['vdi', '--socket', listener.socket, 'list', '-r', 'disk'],
    ['vdi', 'list', 'disk', '-r', '--socket', listener.socket],
  ]
  const outputs = await Promise.all(forms.map((args) => run(process.execPath, [dogProgram, ...args])))
  for (const { code, stdout } of outputs) {
    t.is(code, 0)
    t.is(stdout, outputs[0].stdout)
  }
})

test('a check says what is wrong, and its exit code tells whether it still is', async (t) => {
  const { services, dog } = await start(t)
  services.report.problems = [
    { oid: '00ab12ce00000003', kind: 'differs', nodes: ['1'.repeat(16)], repaired: false },
    { oid: '00ab12ce00000004', kind: 'missing', nodes: ['0'.repeat(16), '2'.repeat(16)], repaired: false },
  ]
  const found = await dog(['vdi', 'check', 'disk'])
  t.is(found.code, 1)
  t.is(
    found.stdout,
    [
      'Object            Problem  Nodes                              Repaired',
      '00ab12ce00000003  differs  1111111111111111                   no',
      '00ab12ce00000004  missing  0000000000000000,2222222222222222  no',
      'disk: 0 of 2 problems repaired (3 objects, 36 MiB compared).',
      '',
    ].join('\n'),
  )
  t.regex(found.stderr, /^dog: disk: 2 objects are not right\n {2}run it again with --repair/)
  const repaired = await dog(['cluster', 'check', '--repair'])
  t.is(repaired.code, 0, repaired.stderr)
  t.regex(repaired.stdout, /2 of 2 problems repaired/)
  t.is((await dog(['vdi', 'check', 'disk', '--json'])).code, 1)
})

test('recovery is watched until it is done', async (t) => {
  const { services, dog } = await start(t)
  const report = {
    ...{ epoch: 2, state: 'recovering' as const, objectsTotal: 10, objectsDone: 2, bytesTaken: 8 * MIB },
    ...{ bytesTotal: 40 * MIB, rate: 4 * MIB, left: 8, limit: 0, waitingFor: [], seconds: 2 },
  }
  const waiting = { ...report, state: 'waiting' as const, waitingFor: [{ nodes: ['host7'], objects: 8 }] }
  services.recoveries = [waiting, report, { ...report, objectsDone: 6 }, { ...report, state: 'idle', objectsDone: 10 }]
  const once = await dog(['node', 'recovery'])
  t.regex(once.stdout, / waiting for host7 +2 of 10 +20% +8 MiB +40 MiB +4 MiB\/s +- +[█#[]/m)
  services.recoveries = [{ ...report, state: 'no-room' }]
  t.regex((await dog(['node', 'recovery'])).stdout, / degraded: no room +2 of 10 /)
  services.recoveries = [report, { ...report, objectsDone: 6 }, { ...report, state: 'idle', objectsDone: 10 }]
  const watched = await dog(['node', 'recovery', '--watch'])
  t.is(watched.code, 1, 'host2 does not answer')
  t.regex(watched.stdout, /done +10 of 10 +100%/)
})

test('package.json and dog agree on the version', async (t) => {
  const { version } = JSON.parse(
    readFileSync(join(import.meta.dirname, '..', '..', '..', '..', 'package.json'), 'utf8'),
  )
  t.is((await run(process.execPath, [dogProgram, '--version'])).stdout, `${version}\n`)
})
