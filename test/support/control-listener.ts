/** A daemon's control listener without the daemon: what tests of client and dog talk to. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { ControlServices } from '../../lib/control/services.js'
import { ControlSession } from '../../lib/control/session.js'
import type { LinkHandler } from '../../lib/host/interfaces.js'
import { RealNetwork } from '../../lib/host/network.js'
import { encodeResponse, HEADER_LENGTH } from '../../lib/protocol/header.js'
import { freePorts } from './process.js'

export interface ControlListener {
  socket: string
  port: number
  close(): void
}

/** On a Unix socket in a fresh directory, and a TCP port of loopback. */
export async function listenControl(services: ControlServices): Promise<ControlListener> {
  const directory = mkdtempSync(join(tmpdir(), 'control-'))
  const socket = join(directory, 'sock')
  const [port] = await freePorts(1, 12_000 + ((process.pid * 37) % 15_000))
  const network = new RealNetwork(services.log)
  const listener = await network.listen({ host: '127.0.0.1', port, socket }, (link): LinkHandler => {
    const session = new ControlSession(services, 'a test', (id, result, payload) => {
      const header = Buffer.alloc(HEADER_LENGTH)
      encodeResponse(header, 0, 0xc0, id, result, payload?.length ?? 0)
      link.send(header, payload, 0, payload?.length ?? 0)
    })
    return {
      message: (_link, bytes, at, payloadAt, length, hold) => session.request(bytes, at, payloadAt, length, hold),
      closed: () => session.closed(),
    }
  })
  return {
    socket,
    port,
    close() {
      listener.close()
      rmSync(directory, { recursive: true, force: true })
    },
  }
}
