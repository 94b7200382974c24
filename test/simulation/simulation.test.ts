/** Whole clusters: 300 seeds, some of hard, of lossy, of spoilt, of power and of plugged worlds, the seeds that once failed, and the deliberate bugs, in processes of their own. */
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import test from 'ava'
import { mutations } from '../../lib/mutations.js'

const SEEDS = 300
/** Of each of the other kinds of worlds (shape.ts) */
const FORCED_SEEDS = 60
const MINUTES_MAX = 10

function run(words: readonly string[]): Promise<{ code: number | null; output: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [join(import.meta.dirname, 'run.js'), ...words], {
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let output = ''
    const take = (bytes: Buffer): void => {
      output += bytes
    }
    child.stdout.on('data', take)
    child.stderr.on('data', take)
    child.on('error', reject)
    child.on('exit', (code) => resolve({ code, output }))
  })
}

test.serial(`${SEEDS} seeds without a violation`, async (t) => {
  t.timeout(MINUTES_MAX * 60_000)
  const { code, output } = await run(['--seeds', String(SEEDS)])
  t.log(output.trim().split('\n').slice(-12).join('\n'))
  t.is(code, 0)
  t.regex(output, new RegExp(`${SEEDS} seeds in .* 0 failed`))
})

for (const worlds of ['hard', 'lossy', 'spoilt', 'power', 'plugged']) {
  test.serial(`${FORCED_SEEDS} seeds of ${worlds} worlds without a violation`, async (t) => {
    t.timeout(MINUTES_MAX * 60_000)
    const { code, output } = await run(['--seeds', String(FORCED_SEEDS), '--worlds', worlds])
    t.log(output.trim().split('\n').slice(-12).join('\n'))
    t.is(code, 0)
    t.regex(output, new RegExp(`${FORCED_SEEDS} seeds in .* 0 failed`))
  })
}

test.serial('seeds that once failed', async (t) => {
  t.timeout(MINUTES_MAX * 60_000)
  const { code, output } = await run(['--regressions'])
  t.log(output.trim().split('\n').slice(-20).join('\n'))
  t.is(code, 0)
})

test.serial('every deliberate bug is found', async (t) => {
  t.timeout(MINUTES_MAX * 60_000)
  const { code, output } = await run(['--mutations'])
  t.log(output.trim())
  t.is(code, 0)
  t.is(output.match(/found by seed/g)?.length, Object.keys(mutations).length)
})
