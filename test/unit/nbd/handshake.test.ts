import { mkdtempSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import sinon from 'sinon'
import { SheepError } from '../../../lib/errors.js'
import * as nbd from '../../../lib/nbd/constants.js'
import { OPTION_DATA_MAX, OPTIONS_MAX } from '../../../lib/nbd/handshake.js'
import { type NbdServer, startNbdServer } from '../../../lib/nbd/server.js'
import { MemoryOpener } from '../../support/memory-volume.js'
import { infoRequest, metaContext, NbdClient, words } from '../../support/nbd-client.js'
import { until } from '../../support/process.js'

interface Served {
  path: string
  opener: MemoryOpener
  server: NbdServer
}

async function serve(t: ExecutionContext): Promise<Served> {
  const directory = mkdtempSync(join(tmpdir(), 'nbd-'))
  const opener = new MemoryOpener()
  opener.add('disk', 1 << 20)
  opener.add('disk', 1 << 19, { tag: 'before', snapId: 1, snapshotTime: 1_700_000_000_000, copies: 1 })
  opener.add('disk', 1 << 19, { snapId: 2, snapshotTime: 1_700_000_001_000 })
  opener.add('größe', 4096)
  opener.add('half-made', 4096, { state: 'creating' })
  const path = join(directory, 'nbd')
  const server = await startNbdServer({ unixSocket: path }, opener, () => {})
  t.teardown(async () => {
    await server.close()
    rmSync(directory, { recursive: true })
  })
  return { path, opener, server }
}

test('the greeting is fixed newstyle without zeroes', async (t) => {
  const { path } = await serve(t)
  const socket = connect(path)
  const bytes = await new Promise<Buffer>((resolve) => socket.once('data', resolve))
  t.is(bytes.toString('latin1', 0, 16), 'NBDMAGICIHAVEOPT')
  t.is(bytes.readUInt16BE(16), 3)
  t.is(bytes.length, 18)
  socket.destroy()
})

test('flags that were not offered end the connection', async (t) => {
  const { path } = await serve(t)
  t.is((await (await NbdClient.connect(path, 4)).closed()).length, 0)
})

test('the list has working volumes and snapshots by the names that open them, and nothing unfinished', async (t) => {
  const { path, opener } = await serve(t)
  const client = await NbdClient.connect(path)
  client.option(nbd.OPT_LIST)
  const replies = await client.optionReplies()
  t.is(replies.pop()?.type, nbd.REP_ACK)
  const names = replies.map(({ type, data }) => {
    t.is(type, nbd.REP_SERVER)
    const length = data.readUInt32BE(0)
    return [data.toString('utf8', 4, 4 + length), data.toString('utf8', 4 + length)]
  })
  t.deepEqual(names, [
    ['disk', 'volume, 3 copies'],
    ['disk@before', 'snapshot 1 of disk, taken 2023-11-14T22:13:20Z, 1 copy'],
    ['disk@2', 'snapshot 2 of disk, taken 2023-11-14T22:13:21Z, 3 copies'],
    ['größe', 'volume, 3 copies'],
  ])
  client.option(nbd.OPT_LIST, Buffer.from('x'))
  t.is((await client.optionReplies())[0].type, nbd.REP_ERR_INVALID)
  for (const [name] of names) {
    client.option(nbd.OPT_INFO, infoRequest(name))
    t.is((await client.optionReplies()).at(-1)?.type, nbd.REP_ACK, name)
  }
  t.is(opener.requests.length, 0, 'to ask is not to open')
  client.destroy()
})

test('what is not known is refused, and the negotiation goes on', async (t) => {
  const { path } = await serve(t)
  const client = await NbdClient.connect(path)
  for (const option of [0, 4, 11, 12, 4711, 0xffffffff]) {
    client.option(option, Buffer.alloc(1000))
    const [reply] = await client.optionReplies()
    t.is(reply.type, nbd.REP_ERR_UNSUP)
    t.is(reply.option, option)
  }
  client.option(nbd.OPT_STARTTLS)
  t.is((await client.optionReplies())[0].type, nbd.REP_ERR_POLICY)
  client.option(nbd.OPT_STRUCTURED_REPLY, Buffer.alloc(1))
  t.is((await client.optionReplies())[0].type, nbd.REP_ERR_INVALID)
  client.option(nbd.OPT_GO, infoRequest('disk'))
  t.is((await client.optionReplies()).at(-1)?.type, nbd.REP_ACK)
  client.destroy()
})

test('information: size and flags always, the rest when asked for', async (t) => {
  const { path } = await serve(t)
  const client = await NbdClient.connect(path)
  await client.structuredReplies()
  client.option(nbd.OPT_INFO, infoRequest('disk'))
  const bare = await client.optionReplies()
  t.is(bare.length, 2)
  t.is(bare[0].data.readUInt16BE(0), nbd.INFO_EXPORT)
  t.is(Number(bare[0].data.readBigUInt64BE(2)), 1 << 20)
  t.is(bare[0].data.readUInt16BE(10), 0b1101_1110_1101)
  client.option(nbd.OPT_INFO, infoRequest('disk@before', [3, 2, 1, 0, 4711]))
  const [exported, name, description, sizes] = await client.optionReplies()
  t.is(Number(exported.data.readBigUInt64BE(2)), 1 << 19)
  t.is(exported.data.readUInt16BE(10), 0b0101_1000_1111, 'a snapshot is read-only')
  t.is(name.data.toString('utf8', 2), 'disk@before')
  t.regex(description.data.toString('utf8', 2), /^snapshot 1 of disk/)
  t.deepEqual(sizes.data.subarray(2), words(1, 4096, 32 << 20))
  client.destroy()
})

test('malformed information requests are refused one by one', async (t) => {
  const { path } = await serve(t)
  const client = await NbdClient.connect(path)
  const good = infoRequest('disk', [3])
  const cases = [
    Buffer.alloc(0),
    good.subarray(0, 3),
    good.subarray(0, good.length - 1),
    Buffer.concat([good, Buffer.from('x')]),
    Buffer.concat([words(0xffffffff), good.subarray(4)]),
    Buffer.concat([words(9), good.subarray(4)]),
    Buffer.concat([words(4), Buffer.from('disk'), Buffer.from([0xff, 0xff])]),
  ]
  for (const option of [nbd.OPT_INFO, nbd.OPT_GO]) {
    for (const data of cases) {
      client.option(option, data)
      t.is((await client.optionReplies())[0].type, nbd.REP_ERR_INVALID, data.toString('hex'))
    }
  }
  client.destroy()
})

test('a volume that cannot be opened is refused with what is known about it', async (t) => {
  const { path, opener } = await serve(t)
  const client = await NbdClient.connect(path)
  const refused = async (name: string) => {
    client.option(nbd.OPT_GO, infoRequest(name))
    const replies = await client.optionReplies()
    t.is(replies.length, 1)
    return { type: replies[0].type, text: replies[0].data.toString() }
  }
  const unknown = await refused('nothing')
  t.is(unknown.type, nbd.REP_ERR_UNKNOWN)
  t.is(unknown.text, 'no VDI named nothing: dog vdi list shows what there is')
  for (const name of ['', '@', 'disk@', '@before', 'disk@after', 'disk@@', 'a/b', 'a\n\0b', 'x'.repeat(5000)]) {
    t.is((await refused(name)).type, nbd.REP_ERR_UNKNOWN, JSON.stringify(name))
  }
  t.regex((await refused('')).text, /no default export.*name a volume/)
  const cases = [
    ['locked', nbd.REP_ERR_POLICY],
    ['starting-up', nbd.REP_ERR_POLICY],
    ['shutting-down', nbd.REP_ERR_SHUTDOWN],
    ['io', nbd.REP_ERR_POLICY],
  ] as const
  for (const [code, type] of cases) {
    opener.refusal = new SheepError(code, 'disk is open on host7 by NBD client, pid 4711', 'close it there')
    t.deepEqual(await refused('disk'), { type, text: 'disk is open on host7 by NBD client, pid 4711: close it there' })
  }
  opener.refusal = null
  client.option(nbd.OPT_GO, infoRequest('disk'))
  t.is((await client.optionReplies()).at(-1)?.type, nbd.REP_ACK)
  client.destroy()
})

test('EXPORT_NAME: with and without zeroes, and the end when there is no such export', async (t) => {
  const { path } = await serve(t)
  for (const [flags, padding] of [
    [nbd.FLAG_FIXED_NEWSTYLE, 124],
    [nbd.FLAG_FIXED_NEWSTYLE | nbd.FLAG_NO_ZEROES, 0],
    [0, 124],
  ]) {
    const client = await NbdClient.connect(path, flags)
    client.option(nbd.OPT_EXPORT_NAME, Buffer.from('disk'))
    const reply = await client.read(10 + padding)
    t.is(Number(reply.readBigUInt64BE(0)), 1 << 20)
    t.true(reply.subarray(10).equals(Buffer.alloc(padding)))
    t.is((await client.call(nbd.CMD_READ, 0, 512)).data.length, 512)
    client.destroy()
  }
  for (const name of ['nothing', '', 'disk@nothing']) {
    const client = await NbdClient.connect(path)
    client.option(nbd.OPT_EXPORT_NAME, Buffer.from(name))
    t.is((await client.closed()).length, 0)
  }
})

test('contexts are listed and selected only after structured replies', async (t) => {
  const { path } = await serve(t)
  const client = await NbdClient.connect(path)
  const ask = async (option: number, data: Buffer) => {
    client.option(option, data)
    return (await client.optionReplies()).map((reply) => reply.type)
  }
  const [LIST, SET] = [nbd.OPT_LIST_META_CONTEXT, nbd.OPT_SET_META_CONTEXT]
  t.deepEqual(await ask(SET, metaContext('disk', [nbd.META_CONTEXT])), [nbd.REP_ERR_INVALID])
  await client.structuredReplies()
  const found = [nbd.REP_META_CONTEXT, nbd.REP_ACK]
  t.deepEqual(await ask(LIST, metaContext('disk', [])), found)
  t.deepEqual(await ask(LIST, metaContext('disk', ['base:'])), found)
  t.deepEqual(await ask(LIST, metaContext('disk', ['qemu:', 'base:allocation'])), found)
  t.deepEqual(await ask(LIST, metaContext('disk', ['qemu:dirty-bitmap:'])), [nbd.REP_ACK])
  t.deepEqual(await ask(SET, metaContext('disk', ['base:'])), [nbd.REP_ACK])
  t.deepEqual(await ask(SET, metaContext('disk', [])), [nbd.REP_ACK])
  t.deepEqual(await ask(SET, metaContext('disk', ['base:allocation', 'x-a:b'])), found)
  t.deepEqual(await ask(SET, metaContext('nothing', ['base:allocation'])), [nbd.REP_ERR_UNKNOWN])
  const good = metaContext('disk', ['base:allocation'])
  for (const data of [
    Buffer.alloc(0),
    good.subarray(0, 6),
    good.subarray(0, good.length - 1),
    Buffer.concat([good, good]),
    Buffer.concat([words(4), Buffer.from('disk'), words(0xffffffff)]),
  ]) {
    t.deepEqual(await ask(SET, data), [nbd.REP_ERR_INVALID])
  }
  client.destroy()
})

test('a context selected for one export does not hold for another', async (t) => {
  const { path } = await serve(t)
  const client = await NbdClient.connect(path)
  await client.structuredReplies()
  client.option(nbd.OPT_SET_META_CONTEXT, metaContext('größe', [nbd.META_CONTEXT]))
  await client.optionReplies()
  client.option(nbd.OPT_GO, infoRequest('disk'))
  await client.optionReplies()
  t.is((await client.call(nbd.CMD_BLOCK_STATUS, 0, 4096)).error, nbd.EINVAL)
  client.destroy()
})

test('ABORT is acknowledged, then the connection ends', async (t) => {
  const { path, server } = await serve(t)
  const client = await NbdClient.connect(path)
  client.option(nbd.OPT_ABORT)
  t.deepEqual(await client.closed(), Buffer.concat([words(...nbd.OPTION_REPLY_MAGIC, nbd.OPT_ABORT, nbd.REP_ACK, 0)]))
  await until('the connection to go', 2000, () => server.connections().length === 0)
})

test('data beyond all measure, a wrong magic and options without end close the connection', async (t) => {
  const { path } = await serve(t)
  const long = await NbdClient.connect(path)
  long.write(words(...nbd.OPTION_MAGIC, nbd.OPT_GO, OPTION_DATA_MAX + 1))
  t.is((await long.closed()).length, 0)
  const wrong = await NbdClient.connect(path)
  wrong.write(words(nbd.OPTION_MAGIC[0], 0, nbd.OPT_LIST, 0))
  t.is((await wrong.closed()).length, 0)
  const endless = await NbdClient.connect(path)
  for (let i = 0; i <= OPTIONS_MAX; i++) endless.option(nbd.OPT_STRUCTURED_REPLY)
  t.true((await endless.closed()).length <= 20 * OPTIONS_MAX)
})

test('a client that lists and lists without reading does not fill our memory', async (t) => {
  const { path, opener } = await serve(t)
  for (let i = 0; i < 20_000; i++) opener.add(`volume-with-a-rather-long-name-${i}`, 4096)
  const list = sinon.spy(opener, 'list')
  const client = await NbdClient.connect(path)
  client.socket.pause()
  for (let i = 0; i < 500; i++) client.option(nbd.OPT_LIST)
  await new Promise((resolve) => setTimeout(resolve, 300))
  t.true(list.callCount < 5, `${list.callCount} lists made`)
  client.socket.resume()
  for (let i = 0; i < 3; i++) t.is((await client.optionReplies()).length, 20_005)
  client.destroy()
})

test('connections to one export share one volume, which closes with the last of them', async (t) => {
  const { path, opener, server } = await serve(t)
  let open: () => void = () => {}
  opener.gate = new Promise((resolve) => {
    open = resolve
  })
  const three = [0, 1, 2].map(() => NbdClient.open(path, 'disk'))
  await until('the first to ask', 2000, () => opener.requests.length > 0)
  open()
  const clients = await Promise.all(three)
  clients.push(await NbdClient.open(path, 'disk'))
  t.is(opener.requests.length, 1)
  t.true(opener.requests[0].shareable)
  t.regex(opener.requests[0].holder, /^NBD client on .*nbd$/)
  t.is(server.connections().length, 4)
  await clients[0].call(nbd.CMD_WRITE, 0, 4, 0, Buffer.from('mine'))
  t.is((await clients[3].call(nbd.CMD_READ, 0, 4)).data.toString(), 'mine')
  for (const client of clients.slice(1)) client.destroy()
  await until('three to go', 2000, () => server.connections().length === 1)
  t.false(opener.volumes[0].closed)
  clients[0].destroy()
  await until('the volume to close', 2000, () => opener.volumes[0].closed)
  const again = await NbdClient.open(path, 'disk')
  t.is(opener.requests.length, 2)
  again.destroy()
})

test('a client that leaves while its volume opens leaves no volume open', async (t) => {
  const { path, opener } = await serve(t)
  let open: () => void = () => {}
  opener.gate = new Promise((resolve) => {
    open = resolve
  })
  const client = await NbdClient.connect(path)
  client.option(nbd.OPT_GO, infoRequest('disk'))
  await until('it to ask', 2000, () => opener.requests.length > 0)
  client.destroy()
  await new Promise((resolve) => setTimeout(resolve, 50))
  open()
  await until('the volume to close', 5000, () => opener.volumes[0]?.closed)
  t.pass()
})

test('a volume whose tie is cut ends its connections; the next one opens it anew', async (t) => {
  const { path, opener } = await serve(t)
  const clients = [await NbdClient.open(path, 'disk'), await NbdClient.open(path, 'disk')]
  const other = await NbdClient.open(path, 'größe')
  opener.volumes[0].closed = true
  opener.volumes[0].onChange?.('revoked')
  for (const client of clients) await client.closed()
  const again = await NbdClient.open(path, 'disk')
  t.is(opener.requests.length, 3)
  t.is((await again.call(nbd.CMD_READ, 0, 512)).error, 0)
  t.is((await other.call(nbd.CMD_READ, 0, 512)).error, 0)
  again.destroy()
  other.destroy()
})

test('requests under way when a volume is taken away are not answered: their client comes again and repeats them', async (t) => {
  const { path, opener } = await serve(t)
  const client = await NbdClient.open(path, 'disk')
  const [volume] = opener.volumes
  volume.freeze()
  let answered = false
  client.call(nbd.CMD_READ, 0, 512).then(
    () => {
      answered = true
    },
    () => {},
  )
  await until('the request to run', 2000, () => volume.calls.length > 0)
  volume.failWith = -108
  volume.onChange?.('revoked')
  volume.unfreeze()
  await client.closed()
  t.false(answered)
})

test('a resize is seen by those who connect afterwards', async (t) => {
  const { path, opener } = await serve(t)
  const before = await NbdClient.open(path, 'disk')
  const [volume] = opener.volumes
  volume.entry.size = 1 << 19
  volume.onChange?.('resized')
  t.is((await before.call(nbd.CMD_READ, 1 << 19, 512)).error, nbd.EINVAL)
  const after = await NbdClient.connect(path)
  after.option(nbd.OPT_GO, infoRequest('disk'))
  t.is(Number((await after.optionReplies())[0].data.readBigUInt64BE(2)), 1 << 19)
  before.destroy()
  after.destroy()
})

test.serial('a client that never chooses is closed in half a minute, one that has chosen may idle', async (t) => {
  const clock = sinon.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'], shouldClearNativeTimers: true })
  t.teardown(() => clock.restore())
  const { path, server } = await serve(t)
  const chosen = NbdClient.open(path, 'disk')
  const silent = NbdClient.connect(path, null)
  while (server.connections().length < 2 || server.connections().every((each) => each.exportName === '')) {
    await new Promise((resolve) => setImmediate(resolve))
  }
  const [idle, slow] = [await chosen, await silent]
  clock.tick(29_000)
  t.is(server.connections().length, 2)
  const end = slow.closed()
  // The client's own patience is on the same clock: it is asked to wait only now.
  clock.tick(1500)
  await end
  t.is(server.connections().length, 1)
  t.is(server.connections()[0].exportName, 'disk')
  clock.restore()
  t.is((await idle.call(nbd.CMD_READ, 0, 512)).error, 0)
  idle.destroy()
})

test('TCP off loopback needs TLS or an explicit word, and TLS its certificates', async (t) => {
  const opener = new MemoryOpener()
  const start = (options: Parameters<typeof startNbdServer>[0]) => startNbdServer(options, opener, () => {})
  for (const host of ['0.0.0.0', '', '::', '192.0.2.1', 'example.org', '127.evil.org']) {
    await t.throwsAsync(start({ tcp: { host, port: 0 } }), { message: /without TLS/ })
  }
  await t.throwsAsync(
    start({ tcp: { host: '127.0.0.1', port: 0 }, tls: { directory: '/nonexistent', verifyPeer: true } }),
    { message: /TLS needs \/nonexistent\/server-cert.pem/ },
  )
  const plain = await start({ tcp: { host: '0.0.0.0', port: 0 }, allowPlain: true })
  t.true(plain.port > 0)
  await plain.close()
})
