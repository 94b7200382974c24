/**
 * A client that runs on a host of the bed and knows what it was promised: `writer.js VOLUME STOP [SOCKET]`. Until there is a file STOP it
 * writes blocks with their numbers in them and reads some back, and at the end all. When its connection goes, it makes another and asks again for what was
 * not answered, as QEMU does with `reconnect-delay`. An I/O error, or other bytes than the last acknowledged, end it with 1.
 */
import { existsSync } from 'node:fs'
import { CMD_FLUSH, CMD_READ, CMD_WRITE } from '../../lib/nbd/constants.js'
import { NbdClient } from '../support/nbd-client.js'
import { sleep } from '../support/process.js'

const blockBytes = 4096
const blocksPerLane = 1024
const lanes = 4
const flushEvery = 64
const pauseMs = 5
/** How long a disk may be away before this gives up */
const reconnectLimit = 90_000

/** However long what happens meanwhile takes */
const runLimit = 300_000

const [volume, stopFile, socket = '/var/lib/sheepdog/nbd.sock'] = process.argv.slice(2)
const end = performance.now() + runLimit
const sum = { writes: 0, reads: 0, reconnects: 0, longestMs: 0 }

class Lane {
  private client: NbdClient | null = null
  /** Version of each block that was acknowledged last */
  private readonly versions = new Array<number>(blocksPerLane).fill(0)
  private turn = 0

  constructor(readonly number: number) {}

  async run(): Promise<void> {
    while (!existsSync(stopFile)) {
      if (performance.now() > end) throw new Error('nobody says that it is enough')
      const block = (this.turn * 7919) % blocksPerLane
      this.turn++
      await this.write(block)
      if (this.turn % 3 === 0) await this.check((this.turn * 104_729) % blocksPerLane)
      if (this.turn % flushEvery === 0) await this.ask(CMD_FLUSH, 0, 0)
      await sleep(pauseMs)
    }
    for (let block = 0; block < blocksPerLane; block++) await this.check(block)
    this.client?.destroy()
  }

  private async write(block: number): Promise<void> {
    const version = this.versions[block] + 1
    await this.ask(CMD_WRITE, this.offset(block), blockBytes, this.content(block, version))
    this.versions[block] = version
    sum.writes++
  }

  private async check(block: number): Promise<void> {
    const data = await this.ask(CMD_READ, this.offset(block), blockBytes)
    const version = this.versions[block]
    const wanted = version === 0 ? Buffer.alloc(blockBytes) : this.content(block, version)
    if (!data.equals(wanted)) {
      const found = data.toString('latin1', 0, 40).replace(/\0.*$/s, '')
      throw new Error(`lane ${this.number} block ${block}: version ${version} was acknowledged, read "${found}"`)
    }
    sum.reads++
  }

  private offset(block: number): number {
    return (this.number * blocksPerLane + block) * blockBytes
  }

  private content(block: number, version: number): Buffer {
    return Buffer.alloc(blockBytes, `lane ${this.number} block ${block} version ${version} `)
  }

  /** Until it is answered. */
  private async ask(type: number, offset: number, length: number, payload?: Buffer): Promise<Buffer> {
    const start = performance.now()
    for (;;) {
      try {
        this.client ??= await NbdClient.open(socket, volume)
        const { error, data } = await this.client.call(type, offset, length, 0, payload)
        if (error !== 0) throw new IoError(`request ${type} at ${offset}: error ${error}`)
        sum.longestMs = Math.max(sum.longestMs, Math.round(performance.now() - start))
        return data
      } catch (error) {
        if (error instanceof IoError || performance.now() - start > reconnectLimit) throw error
        this.client?.destroy()
        this.client = null
        sum.reconnects++
        await sleep(200)
      }
    }
  }
}

class IoError extends Error {}

try {
  await Promise.all(Array.from({ length: lanes }, (_, number) => new Lane(number).run()))
  console.log(JSON.stringify(sum))
} catch (error) {
  console.log((error as Error).message)
  process.exit(1)
}
