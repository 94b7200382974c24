/**
 * Going to the background: the same program is started again in a session of its own (setsid), and tells this one over
 * an IPC channel what became of it. So whoever typed `sheep` learns whether it serves, and a script can rely on it.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { closeSync, openSync } from 'node:fs'
import { asSheepError, isErrorCode, SheepError } from '../lib/errors.js'

/** A store that was cut off in the middle of work reads its logs first; this is far beyond that. */
const START_MS = 120_000
/** Set for the process in the background, which takes it away for its own children. */
const MARK = 'SHEEPDOG_IN_BACKGROUND'

/** From the one in the background to the one that started it. */
type StartMessage = { ready: string } | { failed: { code: string; message: string; hint: string } }

/**
 * Starts `words` in the background, with stdout and stderr (of Node itself: ours go through the log) appended to
 * `logFile`. Resolves with what it says when it is ready. SheepError: its reason not to start.
 */
export async function startInBackground(script: string, words: string[], logFile: string): Promise<string> {
  const child = spawnDetached(script, words, logFile)
  const forward = (signal: NodeJS.Signals) => child.kill(signal)
  process.once('SIGINT', forward)
  process.once('SIGTERM', forward)
  try {
    return await firstWord(child, logFile)
  } finally {
    process.off('SIGINT', forward)
    process.off('SIGTERM', forward)
    if (child.connected) child.disconnect()
    child.unref()
  }
}

function spawnDetached(script: string, words: string[], logFile: string): ChildProcess {
  let log: number
  try {
    log = openSync(logFile, 'a', 0o640)
  } catch (error) {
    throw new SheepError(
      'system',
      `cannot write the log: ${(error as Error).message}`,
      'choose another place with -l dir=DIR',
    )
  }
  try {
    return spawn(process.execPath, [...process.execArgv, script, ...words], {
      detached: true,
      stdio: ['ignore', log, log, 'ipc'],
      env: { ...process.env, [MARK]: '1' },
    })
  } finally {
    closeSync(log)
  }
}

function firstWord(child: ChildProcess, logFile: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      child.kill('SIGKILL')
      reject(new SheepError('timeout', `it did not start within ${START_MS / 1000} s`, `its log is ${logFile}`))
    }, START_MS)
    const settle = (outcome: () => void) => {
      clearTimeout(timer)
      outcome()
    }
    child.once('error', (error) => settle(() => reject(asSheepError(error))))
    child.once('message', (message: StartMessage) =>
      settle(() => ('ready' in message ? resolve(message.ready) : reject(failureOf(message.failed)))),
    )
    child.once('exit', (code, signal) =>
      settle(() => {
        const how = signal === null ? `with exit code ${code}` : `by ${signal}`
        reject(new SheepError('system', `it ended ${how} before it was ready`, `its log says why: ${logFile}`))
      }),
    )
  })
}

function failureOf({ code, message, hint }: { code: string; message: string; hint: string }): SheepError {
  return new SheepError(isErrorCode(code) ? code : 'system', message, hint)
}

/** In the process in the background: how to tell the starter. Null in any other process. To be called once. */
export function background(): { ready(text: string): void; failed(error: SheepError): Promise<void> } | null {
  if (process.env[MARK] === undefined || process.send === undefined) return null
  delete process.env[MARK]
  // The starter may have gone; then nobody is left to tell, and the log has it.
  process.on('error', () => {})
  const tell = (message: StartMessage) =>
    new Promise<void>((resolve) => {
      if (!process.connected) return resolve()
      process.send?.(message, () => {
        if (process.connected) process.disconnect()
        resolve()
      })
    })
  return {
    ready: (text) => void tell({ ready: text }),
    failed: ({ code, message, hint }) => tell({ failed: { code, message, hint } }),
  }
}
