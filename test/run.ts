/**
 * Runs all tests (or those named on the command line) and closes with one line that people and CI read:
 * `tests: N passed, N failed`. ava prints its own count in several shapes and not always; the exit code is ava's, except
 * that a run without a passed test has failed.
 */
import { spawn } from 'node:child_process'
import { stripVTControlCharacters } from 'node:util'

/** Lines of ava's default reporter: a passed test, and the closing counts of what went wrong. */
const passedLine = /^ {2}[✔√] /
const failureCount = /^ {2}(\d+) (?:tests? failed|uncaught exceptions?|unhandled rejections?|tests? remaining)/

const minutesMax = 45

let passed = 0
let failed = 0
let partial = ''

function count(text: string): void {
  const lines = (partial + stripVTControlCharacters(text)).split('\n')
  partial = lines.pop() as string
  for (const line of lines) {
    if (passedLine.test(line)) passed++
    failed += Number(failureCount.exec(line)?.[1] ?? 0)
  }
}

const color = process.stdout.isTTY ? { FORCE_COLOR: '1' } : {}
const ava = spawn(process.execPath, ['node_modules/ava/entrypoints/cli.mjs', ...process.argv.slice(2)], {
  stdio: ['ignore', 'pipe', 'inherit'],
  env: { ...process.env, ...color },
})
const limit = setTimeout(() => {
  console.log(`The tests did not end within ${minutesMax} minutes.`)
  ava.kill()
}, minutesMax * 60_000)
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => ava.kill(signal))
ava.stdout.setEncoding('utf8')
ava.stdout.on('data', (text: string) => {
  process.stdout.write(text)
  count(text)
})
ava.on('close', (code) => {
  clearTimeout(limit)
  count('\n')
  const bad = code !== 0 || passed === 0
  if (bad && failed === 0) failed = 1
  console.log(`tests: ${passed} passed, ${failed} failed`)
  process.exitCode = bad ? 1 : 0
})
