/** What systemd hears, on a socket of this test's own. */
import { mkdtempSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import sinon from 'sinon'
import { ServiceManager } from '../../../daemon/service-manager.js'

const AF_UNIX = 1
const SOCK_DGRAM = 2
const MSG_DONTWAIT = 0x40

/** Datagrams that have come to a Unix socket, which Node cannot receive. */
function receiver(path: string) {
  const koffi = createRequire(import.meta.url)('koffi') as typeof import('koffi')
  const libc = koffi.load(null)
  const recv = libc.func('int64 recv(int fd, uint8_t *buffer, size_t length, int flags)')
  const fd = libc.func('int socket(int domain, int type, int protocol)')(AF_UNIX, SOCK_DGRAM, 0) as number
  const address = Buffer.alloc(110)
  address.writeUInt16LE(AF_UNIX, 0)
  address.write(path, 2)
  const bound = libc.func('int bind(int fd, const uint8_t *address, unsigned int length)')(fd, address, address.length)
  if (bound !== 0) throw new Error(`bind: errno ${koffi.errno()}`)
  const next = (): string | null => {
    const buffer = Buffer.alloc(4096)
    const length = Number(recv(fd, buffer, buffer.length, MSG_DONTWAIT))
    return length < 0 ? null : buffer.toString('utf8', 0, length)
  }
  return {
    all: () => {
      const found: string[] = []
      for (let text = next(); text !== null; text = next()) found.push(text)
      return found
    },
    close: () => libc.func('int close(int fd)')(fd),
  }
}

test('a start asks for more time as long as the store is read, and no longer', (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'notify-'))
  const socket = receiver(join(directory, 'socket'))
  const clock = sinon.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] })
  t.teardown(() => {
    clock.restore()
    socket.close()
    rmSync(directory, { recursive: true })
  })
  const manager = ServiceManager.of({ NOTIFY_SOCKET: join(directory, 'socket') }, () => {}) as ServiceManager
  const more = 'EXTEND_TIMEOUT_USEC=180000000\nSTATUS=reading the store'
  manager.opening()
  t.deepEqual(socket.all(), [more])
  // Each well before the time of the one before it is over
  for (let seconds = 0; seconds < 600; seconds += 30) {
    clock.tick(30_000)
    t.deepEqual(socket.all(), [more, more])
  }
  manager.opened()
  clock.tick(600_000)
  t.deepEqual(socket.all(), [])
  let status = 'waiting'
  manager.ready(() => status)
  t.deepEqual(socket.all(), ['READY=1\nSTATUS=waiting'])
  status = 'serving'
  clock.tick(5_000)
  t.deepEqual(socket.all(), ['STATUS=serving'])
  manager.stopping('SIGTERM')
  t.deepEqual(socket.all(), ['STOPPING=1\nSTATUS=stopping: SIGTERM'])
})
