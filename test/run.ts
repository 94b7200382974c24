/**
 * Runs all tests (or those named on the command line) and closes with one line that people and CI read:
 * `tests: N passed, N failed`. ava prints its own count in several shapes and not always. A run without a passed test has
 * failed.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { stripVTControlCharacters } from 'node:util'

/** Lines of ava's default reporter: a passed test, and the closing counts of what went wrong. */
const passedLine = /^ {2}[✔√] /
const failureCount = /^ {2}(\d+) (?:tests? failed|uncaught exceptions?|unhandled rejections?|tests? remaining)/

const minutesMax = 45

/** Several hosts share this machine's cores in the system tests, and their time limits are real ones: nothing runs beside them. */
const system = 'dist/test/system/**/*.test.js'
const whole = [['dist/test/**/*.test.js', `!${system}`], [system]]

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
let ava: ChildProcess | null = null
let ended = ''

/** ava's exit code */
async function run(files: readonly string[]): Promise<number> {
  const child = spawn(process.execPath, ['node_modules/ava/entrypoints/cli.mjs', ...files], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, ...color },
  })
  ava = child
  child.stdout.setEncoding('utf8')
  child.stdout.on('data', (text: string) => {
    process.stdout.write(text)
    count(text)
  })
  const [code] = (await once(child, 'close')) as [number | null]
  count('\n')
  return code ?? 1
}

function end(why: string, signal?: NodeJS.Signals): void {
  ended = why
  ava?.kill(signal)
}

const limit = setTimeout(() => end(`The tests did not end within ${minutesMax} minutes.`), minutesMax * 60_000)
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => end(`Ended by ${signal}.`, signal))

const named = process.argv.slice(2)
let bad = false
for (const files of named.length > 0 ? [named] : whole) {
  if (ended === '' && (await run(files)) !== 0) bad = true
}
clearTimeout(limit)
if (ended !== '') console.log(ended)
if (ended !== '' || passed === 0) bad = true
if (bad && failed === 0) failed = 1
console.log(`tests: ${passed} passed, ${failed} failed`)
process.exitCode = bad ? 1 : 0
