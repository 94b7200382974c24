/**
 * QEMU's own NBD client, as a virtual machine has it, between a gateway and fio: while the gateway is away its requests wait, and
 * are sent again when it is back (qemu-storage-daemon, driver nbd, reconnect-delay).
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { ended, hasEnded, until } from '../support/process.js'

/** How long QEMU's requests wait for the gateway before they fail. */
const reconnectSeconds = 300

export class QemuClient {
  private constructor(
    private readonly child: ChildProcess,
    private readonly socket: string,
    private readonly name: string,
  ) {}

  /** `gateway`: NBD socket of the daemon; `directory`: for its own socket. */
  static async start(gateway: string, name: string, directory: string): Promise<QemuClient> {
    const socket = `${directory}/qemu-${name}.sock`
    const server = `server.type=unix,server.path=${gateway}`
    const child = spawn(
      'qemu-storage-daemon',
      [
        ...['--blockdev', `driver=nbd,node-name=disk,${server},export=${name},reconnect-delay=${reconnectSeconds}`],
        ...['--nbd-server', `addr.type=unix,addr.path=${socket}`],
        ...['--export', `type=nbd,id=export,node-name=disk,writable=on,name=${name}`],
      ],
      { stdio: ['ignore', 'ignore', 'pipe'] },
    )
    let said = ''
    child.stderr?.on('data', (text) => {
      said += text
    })
    await until("QEMU's storage daemon", 20_000, () => {
      if (hasEnded(child)) throw new Error(`qemu-storage-daemon ended: ${said}`)
      return existsSync(socket)
    })
    return new QemuClient(child, socket, name)
  }

  get uri(): string {
    return `nbd+unix:///${this.name}?socket=${this.socket}`
  }

  async stop(): Promise<void> {
    if (hasEnded(this.child)) return
    this.child.kill('SIGTERM')
    await ended(this.child)
  }

  kill(): void {
    this.child.kill('SIGKILL')
  }

  /** For reports: whether it is still there. */
  get alive(): boolean {
    return !hasEnded(this.child) && readFileSync(`/proc/${this.child.pid}/stat`, 'utf8') !== ''
  }
}
