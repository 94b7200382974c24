/**
 * Runs on a host of the bed: the engine alone, without a daemon. `talker.js GROUP MEMBERS MESSAGES BYTES` joins, waits for so many
 * members, says so many messages and one of 8 MiB, and prints what it heard of all: how many, a digest of their order, how long.
 */
import { createHash } from 'node:crypto'
import { CorosyncEngine } from '../../lib/cluster/corosync.js'
import { sleep, until } from '../support/process.js'

const largeBytes = 8 << 20
const limit = 120_000

const [group, ...numbers] = process.argv.slice(2)
const [wanted, messages, bytes] = numbers.map(Number)
const hash = createHash('sha256')
let members = 0
let heard = 0
const engine = new CorosyncEngine({ group, log: (level, text) => console.error(level, text) })
await engine.join({
  view: (view) => {
    members = view.members.length
  },
  message: (sender, payload) => {
    heard++
    hash.update(sender).update(payload)
    // Longer than corosync takes at once: it comes in pieces, and is whole.
    if (payload.length !== bytes && !payload.equals(Buffer.alloc(largeBytes, sender)))
      throw new Error('not what was said')
  },
  quorum: () => undefined,
  failed: (reason) => {
    console.log(reason)
    process.exit(1)
  },
})
await until('the others', limit, () => members === wanted)
// All see the same view now, or in a moment.
await sleep(1_000)
const start = performance.now()
for (let number = 0; number < messages; number++) {
  engine.broadcast(Buffer.alloc(bytes, `${engine.self} ${number} `))
  if (number === messages >> 1) engine.broadcast(Buffer.alloc(largeBytes, engine.self))
  if (number % 50 === 0) await sleep(1)
}
await until('all messages', limit, () => heard === wanted * (messages + 1))
console.log(JSON.stringify({ heard, order: hash.digest('hex'), ms: Math.round(performance.now() - start) }))
await sleep(1_000)
await engine.leave()
process.exit(0)
