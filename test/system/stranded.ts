/**
 * Runs on a host of the bed that is about to lose its quorum: `stranded.js VOLUME GO RESULT` opens the volume and writes it, and once there is
 * a file GO asks for a write, a flush and a read, each on a connection of its own. RESULT has a line for each answer, at the moment it comes.
 */
import { appendFileSync, existsSync } from 'node:fs'
import { CMD_FLUSH, CMD_READ, CMD_WRITE } from '../../lib/nbd/constants.js'
import { NbdClient } from '../support/nbd-client.js'
import { until } from '../support/process.js'

const socket = '/var/lib/sheepdog/nbd.sock'
const bytes = 1 << 16
const goLimit = 300_000

const [volume, go, result] = process.argv.slice(2)
const clients = await Promise.all([1, 2, 3].map(() => NbdClient.open(socket, volume)))
const { error } = await clients[0].call(CMD_WRITE, 0, bytes, 0, Buffer.alloc(bytes, 'before'))
appendFileSync(result, `before: ${error}\n`)
await until(go, goLimit, () => existsSync(go))
const requests = [
  ['write', CMD_WRITE, 0, bytes, Buffer.alloc(bytes, 'stranded')],
  ['flush', CMD_FLUSH, 0, 0, undefined],
  ['read', CMD_READ, bytes, bytes, undefined],
] as const
await Promise.all(
  requests.map(async ([what, type, offset, length, payload], at) => {
    const answer = await clients[at].call(type, offset, length, 0, payload).catch(() => null)
    appendFileSync(result, `${what}: ${answer === null ? 'the connection was cut' : answer.error}\n`)
  }),
)
process.exit(0)
