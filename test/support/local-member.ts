/**
 * A program: one member of a local engine, for tests that kill and stop real processes. Tells what happens as JSON lines; takes
 * JSON lines {"say": text, "times": n, "bytes": n} and {"leave": true}. A message "mark" makes it count and hash messages and
 * views anew; "report" makes it tell both.
 */
import { createHash } from 'node:crypto'
import { createInterface } from 'node:readline'
import { LocalEngine } from '../../lib/cluster/local.js'
import { asSheepError } from '../../lib/errors.js'

export interface MemberReport {
  event: 'joined' | 'view' | 'marked' | 'report' | 'failed' | 'error' | 'left'
  self?: string
  members?: string[]
  left?: string[]
  count?: number
  hash?: string
  reason?: string
  code?: string
  hint?: string
}

const [directory, logBytesMax] = process.argv.slice(2)

function tell(report: MemberReport): void {
  process.stdout.write(`${JSON.stringify(report)}\n`)
}

const engine = new LocalEngine({ directory, log: () => undefined, logBytesMax: Number(logBytesMax ?? 4 << 20) })
let count = 0
let hash = createHash('sha256')
let members: readonly string[] = []

async function main(): Promise<void> {
  await engine.join({
    view(view) {
      members = view.members
      hash.update(`view ${view.members.join()} ${view.joined.join()} ${view.left.join()}\n`)
      tell({ event: 'view', members: [...view.members], left: [...view.left] })
    },
    message(sender, payload) {
      const text = payload.toString('latin1', 0, 16)
      if (text === 'mark') {
        count = 0
        hash = createHash('sha256')
        tell({ event: 'marked' })
      } else if (text.startsWith('report ')) {
        tell({ event: 'report', reason: text, count, hash: hash.copy().digest('hex'), members: [...members] })
      } else {
        count++
        hash.update(`${sender} `).update(payload)
      }
    },
    quorum() {
      throw new Error('a local engine knows no quorum')
    },
    failed(reason) {
      tell({ event: 'failed', reason })
      process.exit(3)
    },
  })
  tell({ event: 'joined', self: engine.self })
}

createInterface({ input: process.stdin }).on('line', (line) => {
  const {
    say,
    times = 1,
    bytes = 0,
    leave,
  } = JSON.parse(line) as {
    say?: string
    times?: number
    bytes?: number
    leave?: boolean
  }
  if (leave) {
    engine.leave().then(() => {
      tell({ event: 'left' })
      process.exit(0)
    })
    return
  }
  for (let at = 0; at < times; at++) engine.broadcast(Buffer.from(`${say}`.padEnd(bytes, `${at} `)))
})

main().catch((error: unknown) => {
  const { message, code, hint } = asSheepError(error)
  tell({ event: 'error', reason: message, code, hint })
  process.exit(2)
})
