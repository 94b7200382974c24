/** The programs that people use, against the NBD front-end over volumes in memory. */
import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { SheepError } from '../../lib/errors.js'
import { type NbdOptions, type NbdServer, startNbdServer } from '../../lib/nbd/server.js'
import { makeCertificates } from '../support/certificates.js'
import { fio } from '../support/fio.js'
import { MemoryOpener } from '../support/memory-volume.js'
import { must, run, until } from '../support/process.js'

const SIZE = 64 << 20

interface Served {
  directory: string
  socket: string
  opener: MemoryOpener
  server: NbdServer
  uri: (name: string) => string
}

async function serve(
  t: ExecutionContext,
  timing: 'inline' | 'mixed' = 'inline',
  more: NbdOptions = {},
): Promise<Served> {
  const directory = mkdtempSync(join(tmpdir(), 'nbd-'))
  const opener = new MemoryOpener({ timing })
  opener.add('disk', SIZE)
  opener.add('disk', SIZE, { tag: 'before', snapshotTime: 1_700_000_000_000 })
  opener.add('other', SIZE)
  const socket = join(directory, 'nbd')
  const server = await startNbdServer({ unixSocket: socket, ...more }, opener, () => {})
  t.teardown(async () => {
    await server.close()
    rmSync(directory, { recursive: true })
  })
  return { directory, socket, opener, server, uri: (name) => `nbd+unix:///${name}?socket=${socket}` }
}

test('nbdinfo shows the export and all that it can do', async (t) => {
  const { uri } = await serve(t)
  const [info] = JSON.parse((await must('nbdinfo', ['--json', uri('disk')])).stdout).exports
  t.is(info['export-name'], 'disk')
  t.is(info.description, 'volume, 3 copies')
  t.is(info['export-size'], SIZE)
  t.deepEqual(info.contexts, ['base:allocation'])
  for (const can of ['cache', 'df', 'fast_zero', 'flush', 'fua', 'multi_conn', 'trim', 'zero'])
    t.true(info[`can_${can}`], can)
  t.false(info.is_read_only)
  t.is(info.block_size_minimum, 1)
  t.is(info.block_size_preferred, 4096)
  t.is(info.block_size_maximum, 32 << 20)
  const [snapshot] = JSON.parse((await must('nbdinfo', ['--json', uri('disk@before')])).stdout).exports
  t.true(snapshot.is_read_only)
  const listed = JSON.parse((await must('nbdinfo', ['--json', '--list', uri('')])).stdout).exports
  t.deepEqual(
    listed.map((each: { 'export-name': string }) => each['export-name']),
    ['disk', 'disk@before', 'other'],
  )
})

test('programs say why an export cannot be opened', async (t) => {
  const { uri, opener } = await serve(t)
  const nothing = await run('nbdinfo', [uri('nothing')])
  t.not(nothing.code, 0)
  t.regex((await run('qemu-img', ['info', uri('nothing')])).stderr, /no VDI named nothing: dog vdi list/)
  t.regex((await run('qemu-img', ['info', uri('')])).stderr, /there is no default export: name a volume/)
  opener.refusal = new SheepError('locked', 'disk is open on host7 by NBD client, pid 4711', 'close it there first')
  for (const program of [
    ['qemu-img', 'info', uri('disk')],
    ['qemu-io', '-f', 'raw', '-c', 'read 0 512', uri('disk')],
  ]) {
    const refused = await run(program[0], program.slice(1))
    t.not(refused.code, 0)
    t.regex(refused.stderr, /open on host7 by NBD client, pid 4711: close it there first/)
  }
})

for (const timing of ['inline', 'mixed'] as const) {
  test(`${timing}: qemu-img copies an image in, compares it and copies it out, holes included`, async (t) => {
    const { directory, uri, opener } = await serve(t, timing)
    const image = join(directory, 'image')
    const bytes = Buffer.alloc(SIZE)
    for (const at of [0, 5 << 20, (20 << 20) + 4096, SIZE - 70_000]) randomBytes(65_536).copy(bytes, at)
    writeFileSync(image, bytes)
    await must('qemu-img', ['convert', '-n', '-f', 'raw', '-O', 'raw', image, uri('disk')])
    t.true(opener.volumes.at(-1)?.bytes.equals(bytes))
    t.true((opener.volumes.at(-1)?.flushes ?? 0) > 0)
    await must('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', image, uri('disk')])
    const map = JSON.parse((await must('qemu-img', ['map', '--output=json', '-f', 'raw', uri('disk')])).stdout)
    const data = map.filter((each: { data: boolean }) => each.data)
    const total = data.reduce((sum: number, each: { length: number }) => sum + each.length, 0)
    t.true(data.length >= 4 && total < 1 << 20, `${total} bytes of data in ${data.length} ranges`)
    const copy = join(directory, 'copy')
    await must('qemu-img', ['convert', '-f', 'raw', '-O', 'raw', uri('disk'), copy])
    t.true(readFileSync(copy).equals(bytes))
    bytes[SIZE - 1] ^= 1
    writeFileSync(image, bytes)
    t.is((await run('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', image, uri('disk')])).code, 1)
  })

  test(`${timing}: nbdcopy over several connections and large requests`, async (t) => {
    const { directory, uri, opener } = await serve(t, timing)
    const image = join(directory, 'image')
    const bytes = randomBytes(SIZE)
    writeFileSync(image, bytes)
    await must('nbdcopy', ['--connections=4', '--requests=16', '--flush', image, uri('disk')])
    t.true(opener.volumes.at(-1)?.bytes.equals(bytes))
    t.is(opener.requests.length, 1, 'one volume for all connections')
    const copy = join(directory, 'copy')
    await must('nbdcopy', ['--connections=2', `--request-size=${32 << 20}`, uri('disk'), copy])
    t.true(readFileSync(copy).equals(bytes))
    await must('nbdcopy', ['--synchronous', uri('disk'), uri('other')])
    t.true(opener.volumes.findLast((volume) => volume.entry.name === 'other')?.bytes.equals(bytes))
  })

  test(`${timing}: fio writes and verifies`, async (t) => {
    const { uri } = await serve(t, timing)
    const options = ['rw=randwrite', 'bsrange=512-256k', 'bs_unaligned', 'size=48M', 'iodepth=16', 'verify=crc32c']
    const { read, write } = await fio(uri('disk'), [...options, 'verify_fatal=1', 'randseed=7'])
    t.true(write.ios > 100)
    t.is(read.ios, write.ios, 'each write was verified')
  })
}

test('qemu-io: patterns, zeroes, discard, FUA and flush', async (t) => {
  const { uri, opener } = await serve(t, 'mixed')
  const commands = [
    'write -P 0x5a 12345 100000',
    'read -P 0x5a 12345 100000',
    'write -f -P 0x11 1M 64k',
    'write -z 1M 4k',
    'write -z -u 1052672 4k',
    'read -P 0 1M 8k',
    'read -P 0x11 1056768 56k',
    'discard 1M 64k',
    'read -P 0 1M 64k',
    'aio_write -P 1 2M 32M',
    'aio_write -P 2 40M 64k',
    'aio_flush',
    'read -P 1 2M 32M',
    'flush',
  ]
  const { stdout } = await must('qemu-io', [
    '-t',
    'writeback',
    '-f',
    'raw',
    ...commands.flatMap((each) => ['-c', each]),
    uri('disk'),
  ])
  t.notRegex(stdout, /failed|error/i)
  const calls = opener.volumes.at(-1)?.calls ?? []
  t.true(calls.includes('write 65536 at 1048576 fua'))
  t.true(calls.includes('zero 4096 at 1048576 keep'))
  t.true(calls.includes('zero 4096 at 1052672'))
  t.true(calls.includes('discard 65536 at 1048576'))
  t.true(calls.includes('flush'))
  const snapshot = await run('qemu-io', ['-f', 'raw', '-c', 'write 0 512', uri('disk@before')])
  t.regex(snapshot.stderr + snapshot.stdout, /read.only|Permission denied/i)
})

test('a QEMU that may reconnect goes on when the server is closed and comes back', async (t) => {
  const { socket, opener, server } = await serve(t)
  const image = `driver=nbd,server.type=unix,server.path=${socket},export=disk,reconnect-delay=20`
  const commands = ['write -P 7 0 1M', 'sleep 1500', 'read -P 7 0 1M', 'write -P 8 1M 1M', 'read -P 8 1M 1M']
  const client = run('qemu-io', ['--image-opts', image, ...commands.flatMap((each) => ['-c', each])], { limit: 30_000 })
  await until('the first write', 10_000, () => server.connections().some((each) => each.bytesWritten === 1 << 20))
  await server.close()
  t.true(opener.volumes[0].closed)
  const again = await startNbdServer({ unixSocket: socket }, opener, () => {})
  const { code, stdout, stderr } = await client
  await again.close()
  t.is(code, 0, stderr)
  t.notRegex(stdout + stderr, /failed|error/i)
  t.is(opener.volumes.length, 2)
  t.is(opener.volumes[1].bytes[(1 << 20) + 5], 8)
})

test('a client that is killed in the middle frees its volume', async (t) => {
  const { socket, opener, server, uri } = await serve(t, 'mixed')
  const options = ['--rw=randrw', '--bs=4k', '--iodepth=16', '--time_based', '--runtime=60', '--thread=1']
  const load = spawn('fio', ['--name=load', '--ioengine=nbd', `--uri=${uri('disk')}`, ...options], { stdio: 'ignore' })
  t.teardown(() => load.kill('SIGKILL'))
  await until('load', 30_000, () => server.connections().some((each) => each.requests > 100))
  load.kill('SIGKILL')
  await until('the connection to go', 5000, () => server.connections().length === 0)
  t.true(opener.volumes.every((volume) => volume.closed))
  t.is((await run('nbdinfo', [`nbd+unix:///disk?socket=${socket}`])).code, 0)
})

test('TLS: only with a certificate that the CA signed, on both sides', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'nbd-tls-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  const [good, stranger] = [join(directory, 'good'), join(directory, 'stranger')]
  await makeCertificates(good)
  await makeCertificates(stranger)
  const { server, opener } = await serve(t, 'mixed', {
    tcp: { host: '127.0.0.1', port: 0 },
    tls: { directory: good, verifyPeer: true },
  })
  const uri = (name: string, certificates: string) =>
    `nbds://localhost:${server.port}/${name}?tls-certificates=${certificates}`
  const bytes = randomBytes(SIZE)
  const image = join(directory, 'image')
  writeFileSync(image, bytes)
  await must('nbdcopy', ['--connections=2', '--flush', image, uri('disk', good)])
  t.true(opener.volumes.at(-1)?.bytes.equals(bytes))
  const copy = join(directory, 'copy')
  await must('nbdcopy', [uri('disk', good), copy])
  t.true(readFileSync(copy).equals(bytes))

  const creds = ['--object', `tls-creds-x509,id=tls,dir=${good},endpoint=client`]
  const nbd = `driver=nbd,server.type=inet,server.host=127.0.0.1,server.port=${server.port},export=disk`
  await must('qemu-img', [
    'compare',
    ...creds,
    '--image-opts',
    `driver=raw,file.filename=${image},file.driver=file`,
    `${nbd},tls-creds=tls`,
  ])
  const plain = await run('qemu-img', ['info', '--image-opts', nbd])
  t.not(plain.code, 0)
  t.regex(plain.stderr, /TLS/)
  t.not((await run('nbdinfo', [`nbd://127.0.0.1:${server.port}/disk`])).code, 0)
  t.not((await run('nbdinfo', [uri('disk', stranger)])).code, 0)

  // Right CA for the server, but a client certificate of another.
  const mixed = join(directory, 'mixed')
  await must('cp', ['-r', stranger, mixed])
  await must('cp', [join(good, 'ca-cert.pem'), join(mixed, 'ca-cert.pem')])
  const requests = opener.requests.length
  t.not((await run('nbdinfo', [uri('disk', mixed)])).code, 0)
  await must('rm', [join(mixed, 'client-cert.pem'), join(mixed, 'client-key.pem')])
  t.not((await run('nbdinfo', [uri('disk', mixed)])).code, 0)
  t.is(opener.requests.length, requests, 'none of them got as far as opening the volume')
  t.is((await run('nbdinfo', [uri('disk', good)])).code, 0)
})

test('TLS: garbage instead of a handshake, and plain bytes smuggled in before it, end the connection', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'nbd-tls-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  await makeCertificates(directory)
  const { server } = await serve(t, 'inline', {
    tcp: { host: '127.0.0.1', port: 0 },
    tls: { directory, verifyPeer: false },
  })
  const option = (number: number) => Buffer.from(`IHAVEOPT\0\0\0${String.fromCharCode(number)}\0\0\0\0`, 'latin1')
  const say = async (...parts: Buffer[]) => {
    const socket = connect(server.port, '127.0.0.1')
    socket.on('error', () => {})
    for (const part of parts) {
      socket.write(part)
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
    socket.resume()
    await new Promise((resolve) => socket.once('close', resolve))
  }
  const flags = Buffer.from([0, 0, 0, 3])
  await say(Buffer.concat([flags, option(5)]), randomBytes(1000))
  await say(Buffer.concat([flags, option(5), option(3)]))
  await say(Buffer.concat([flags, option(1)]))
  await until('the connections to go', 5000, () => server.connections().length === 0)
  t.is((await run('nbdinfo', [`nbds://localhost:${server.port}/disk?tls-certificates=${directory}`])).code, 0)
})
