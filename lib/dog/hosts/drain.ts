/** Before a host goes: whether it may, and waiting until the others have what it had. Asked of a daemon that stays. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { RecoveryReport } from '../../control/services.js'
import type { ClusterInfo, LockInfo, NodeSummary, OfNode } from '../../control/verbs.js'
import { SheepError } from '../../errors.js'
import type { Session } from '../session.js'
import type { Problem } from './plan.js'
import type { Shell } from './shell.js'

const POLL_MS = 1_000
const ASK_MS = 60_000
/** Recovery that other hosts are waited for, or that has no room, does not end by itself. */
const STUCK_MS = 10 * 60_000

/** null: it is in the cluster no more. */
export async function nodeOf(shell: Shell, address: string): Promise<NodeSummary | null> {
  const { nodes } = await ask<{ nodes: NodeSummary[] }>(shell, 'node list')
  return nodes.find((node) => node.host === address) ?? null
}

export async function problemsOfLeaving(shell: Shell, host: string, { id }: NodeSummary): Promise<Problem[]> {
  const { locks } = await ask<{ locks: LockInfo[] }>(shell, 'vdi lock list')
  const open = [...new Set(locks.filter(({ node }) => node === id).map(({ volume }) => volume))]
  if (open.length === 0) return []
  const text = `${open.length === 1 ? 'a volume is' : 'volumes are'} in use there: ${open.join(', ')}`
  return [{ host, text, hint: 'move or stop what uses them (dog vdi lock list), or --force: it gets I/O errors then' }]
}

/** Resolves when every object has its copies on the nodes that stay. SheepError timeout: nothing has moved for long */
export async function drained(session: Session, shell: Shell, node: string, host: string): Promise<void> {
  await session.withProgress(`data of ${host} goes to the others`, async (progress) => {
    let moved = { sum: -1, at: performance.now() }
    for (;;) {
      const info = await ask<ClusterInfo>(shell, 'cluster info')
      const leaving = info.epochs[0]?.nodes.find(({ id }) => id === node)
      if (leaving !== undefined && leaving.vnodes > 0) {
        throw new SheepError('busy', `the daemon of ${host} was started anew, and takes part again`, 'run it again')
      }
      if (info.status === 'running' && info.recovering.length === 0) return
      const { nodes } = await ask<{ nodes: OfNode<RecoveryReport>[] }>(shell, 'node recovery')
      const reports = nodes.flatMap(({ answer }) => (answer === null ? [] : [answer]))
      const total = (of: (report: RecoveryReport) => number): number => reports.reduce((sum, one) => sum + of(one), 0)
      const sum = total(({ objectsDone, bytesTaken }) => objectsDone + bytesTaken)
      if (sum !== moved.sum) moved = { sum, at: performance.now() }
      if (performance.now() - moved.at > STUCK_MS) {
        throw new SheepError(
          'timeout',
          `no data of ${host} has moved for ten minutes`,
          'dog node recovery says what it waits for',
        )
      }
      progress({ done: total((one) => one.bytesTaken), total: total((one) => one.bytesTotal), text: '' })
      await sleep(POLL_MS)
    }
  })
}

async function ask<T>(shell: Shell, words: string): Promise<T> {
  const { code, stdout, stderr } = await shell.run(`dog --json ${words}`, ASK_MS)
  if (code !== 0) throw new SheepError('system', `${shell.host}: dog ${words}: ${stderr.trim().replace(/^dog: /, '')}`)
  return JSON.parse(stdout) as T
}
