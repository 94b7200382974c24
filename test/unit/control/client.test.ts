/** ControlClient over real sockets, against a session and against servers that misbehave. */

import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { ControlClient, type ProgressReport } from '../../../lib/control/client.js'
import type { SheepError } from '../../../lib/errors.js'
import { encodeResponse, HEADER_LENGTH } from '../../../lib/protocol/header.js'
import { listenControl } from '../../support/control-listener.js'
import { FakeServices } from '../../support/fake-services.js'

const MIB = 2 ** 20

async function start(t: ExecutionContext): Promise<{ services: FakeServices; client: ControlClient; port: number }> {
  const services = new FakeServices()
  const listener = await listenControl(services)
  const client = await ControlClient.connect({ socket: listener.socket })
  t.teardown(() => {
    client.close()
    listener.close()
  })
  return { services, client, port: listener.port }
}

/** A server that does with its connections what a test says. */
async function stranger(t: ExecutionContext, behave: (socket: Socket) => void): Promise<{ socket: string }> {
  const directory = mkdtempSync(join(tmpdir(), 'stranger-'))
  const socket = join(directory, 'sock')
  const sockets: Socket[] = []
  const server: Server = createServer((accepted) => {
    sockets.push(accepted)
    accepted.on('error', () => {})
    behave(accepted)
  })
  await new Promise<void>((resolve) => server.listen(socket, resolve))
  t.teardown(() => {
    for (const each of sockets) each.destroy()
    server.close()
    rmSync(directory, { recursive: true })
  })
  return { socket }
}

async function failure(promise: Promise<unknown>): Promise<SheepError> {
  try {
    await promise
  } catch (error) {
    return error as SheepError
  }
  throw new Error('it succeeded')
}

test('a verb over the Unix socket and over TCP', async (t) => {
  const { client, port } = await start(t)
  const answer = await client.call('vdi.list', { name: 'disk' })
  t.deepEqual(
    answer.vdis.map((vdi) => [vdi.name, vdi.tag, vdi.snapshot, vdi.holder]),
    [
      ['disk', 'monday', true, ''],
      ['disk', '', false, 'NBD client on host1:7001'],
    ],
  )
  const other = await ControlClient.connect({ host: '127.0.0.1', port })
  t.teardown(() => other.close())
  t.deepEqual(await other.call('vdi.list', { name: 'disk' }), answer)
})

test('many requests at once are answered each with its own', async (t) => {
  const { client } = await start(t)
  const names = ['disk', 'web 東京', 'disk', 'web 東京', 'disk']
  const answers = await Promise.all(names.map((name) => client.call('vdi.list', { name })))
  t.deepEqual(
    answers.map(({ vdis }) => vdis[0].name),
    names,
  )
})

test('an error arrives with its code, message and hint', async (t) => {
  const { client } = await start(t)
  const error = await failure(client.call('vdi.rollback', { name: 'disk', snapshot: 'sunday' }))
  t.is(error.code, 'no-tag')
  t.is(error.exitCode, 3)
  t.is(error.message, 'disk has no snapshot sunday')
})

test('progress is reported before the answer', async (t) => {
  const { client } = await start(t)
  const reports: ProgressReport[] = []
  const given = { name: 'new', size: 4 * MIB, copies: 0, blockSizeShift: 0, preallocate: true, onNoQuorum: null }
  await client.call('vdi.create', given, (report) => reports.push(report))
  t.deepEqual(reports[0], { done: 0, total: 4 * MIB, text: 'preallocating' })
  t.is(reports.at(-1)?.done, 4 * MIB)
})

test('volume data of all lengths goes there and back', async (t) => {
  const { client } = await start(t)
  const volume = await client.openVolume('web 東京', '', false)
  t.is(volume.size, 64 * MIB)
  const data = Buffer.alloc(4 * MIB, 'sheep dog ')
  await Promise.all([volume.write(0, data), volume.write(8 * MIB + 1, data.subarray(0, 1)), volume.flush()])
  t.true((await volume.read(0, 4 * MIB)).equals(data))
  t.true((await volume.read(8 * MIB, 3)).equals(Buffer.from('\0s\0')))
  await volume.close()
})

test('the end of the connection ends every request, with a hint', async (t) => {
  const target = await stranger(t, (socket) => setTimeout(() => socket.destroy(), 20))
  const client = await ControlClient.connect(target)
  const errors = await Promise.all([failure(client.call('node.list', {})), failure(client.call('node.info', {}))])
  for (const error of errors) {
    t.is(error.code, 'unreachable')
    t.regex(error.message, /ended/)
    t.not(error.hint, '')
  }
  t.is((await failure(client.call('node.list', {}))).code, 'unreachable', 'later ones too')
})

test('closing fails what is under way', async (t) => {
  const client = await ControlClient.connect(await stranger(t, () => {}))
  const call = failure(client.call('node.list', {}))
  client.close()
  t.is((await call).code, 'unreachable')
})

test('a server that says nothing is given up, and one that says it works is not', async (t) => {
  const options = { connectTimeoutMs: 1000, silenceTimeoutMs: 800 }
  const mute = await ControlClient.connect(await stranger(t, () => {}), options)
  const error = await failure(mute.call('node.list', {}))
  t.is(error.code, 'timeout')

  const busy = await stranger(t, (socket) => {
    const beat = setInterval(() => socket.write(response(1, 0x70, '{"done":0,"total":0,"text":""}')), 100)
    setTimeout(() => {
      clearInterval(beat)
      socket.write(response(1, 0, '{"nodes":[]}'))
    }, 2000)
  })
  const client = await ControlClient.connect(busy, options)
  t.teardown(() => client.close())
  t.deepEqual(await client.call('node.list', {}), { nodes: [] })
})

function response(id: number, result: number, text: string): Buffer {
  const payload = Buffer.from(text)
  const bytes = Buffer.alloc(HEADER_LENGTH + payload.length)
  encodeResponse(bytes, 0, 0xc0, id, result, payload.length)
  payload.copy(bytes, HEADER_LENGTH)
  return bytes
}

test('answers in pieces of any size are put together', async (t) => {
  const bytes = Buffer.concat([response(1, 0x70, '{"done":1,"total":2,"text":"x"}'), response(1, 0, '{"nodes":[]}')])
  for (const size of [1, 7, 47, 48, 49, bytes.length]) {
    const target = await stranger(t, (socket) => {
      socket.setNoDelay(true)
      let at = 0
      const next = () => {
        socket.write(bytes.subarray(at, at + size))
        at += size
        if (at < bytes.length) setImmediate(next)
      }
      next()
    })
    const client = await ControlClient.connect(target)
    t.deepEqual(await client.call('node.list', {}), { nodes: [] })
    client.close()
  }
})

const strangers: [string, Buffer][] = [
  ['an SSH banner', Buffer.from(`SSH-2.0-OpenSSH_10.0p2 Debian-7\r\n${' '.repeat(60)}`)],
  ['an HTTP answer', Buffer.from('HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n')],
  [
    'an absurd length',
    (() => {
      const bytes = response(1, 0, '{}')
      bytes.writeUInt32LE(0xffffffff, 12)
      return bytes
    })(),
  ],
  ['an answer to nothing', response(99, 0, '{}')],
  ['an answer that is no JSON', response(1, 0, '{"nodes":')],
  ['progress that is no JSON', response(1, 0x70, 'soon')],
  ['an error that is no JSON', response(1, 5, 'no')],
]
for (const [what, bytes] of strangers) {
  test(`${what} is not the sheepdog protocol`, async (t) => {
    const client = await ControlClient.connect(await stranger(t, (socket) => socket.write(bytes)))
    t.teardown(() => client.close())
    const error = await failure(client.call('node.list', {}, () => {}))
    t.is(error.code, 'version', error.message)
    t.not(error.hint, '')
  })
}

test('an error without a reason says so', async (t) => {
  const client = await ControlClient.connect(await stranger(t, (socket) => socket.write(response(1, 5, ''))))
  t.teardown(() => client.close())
  const error = await failure(client.call('node.list', {}))
  t.is(error.code, 'unknown')
  t.regex(error.message, /result 5/)
})

test('who cannot be reached is named, with the reason', async (t) => {
  const gone = await failure(ControlClient.connect({ socket: '/nonexistent/sock' }))
  t.is(gone.exitCode, 5)
  t.regex(gone.message, /\/nonexistent\/sock: there is no such socket/)
  const { port, client } = await start(t)
  client.close()
  const refused = await failure(ControlClient.connect({ host: '127.0.0.1', port: port === 1 ? 2 : 1 }))
  t.regex(refused.message, /127\.0\.0\.1:1: no daemon listens there/)
})
