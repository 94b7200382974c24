/**
 * While a world runs, promises that nobody handles are its own: a dead daemon's may be, a living one's are a violation.
 * Other listeners (ava's) are set aside for so long.
 */
import { running } from './process.js'
import type { Verdict } from './trace.js'

export async function watchRejections<T>(verdict: Verdict, run: () => Promise<T>): Promise<T> {
  const rejected = (error: unknown): void => {
    if (running.process) running.process.threw(error)
    else verdict.report('harness', String(error), error instanceof Error ? error.stack : undefined)
  }
  const others = process.listeners('unhandledRejection')
  process.removeAllListeners('unhandledRejection')
  process.on('unhandledRejection', rejected)
  try {
    return await run()
  } finally {
    // What the last event left behind surfaces in one more turn.
    await new Promise((resolve) => setImmediate(resolve))
    process.removeListener('unhandledRejection', rejected)
    for (const other of others) process.on('unhandledRejection', other)
    running.process = null
  }
}
