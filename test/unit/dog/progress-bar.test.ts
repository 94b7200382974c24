import test from 'ava'
import { bar, ProgressBar, unicodeTerminal } from '../../../lib/dog/progress-bar.js'
import { displayWidth } from '../../../lib/dog/table.js'

const MIB = 2 ** 20

class FakeTerminal {
  output = ''
  isTTY: boolean
  columns = 100
  constructor(isTTY: boolean) {
    this.isTTY = isTTY
  }
  write(text: string): void {
    this.output += text
  }
  /** What is on the line now */
  get line(): string {
    return this.output.split('\r').pop()?.split('\u001b[K')[0] ?? ''
  }
}

function scene(isTTY: boolean) {
  const terminal = new FakeTerminal(isTTY)
  let now = 0
  const progress = new ProgressBar('writing disk', terminal, () => now, false)
  return {
    terminal,
    progress,
    at(ms: number, done: number, total: number, text = '') {
      now = ms
      progress.update({ done, total, text })
    },
  }
}

test('share, amounts, rate and time left', (t) => {
  const { terminal, at } = scene(true)
  at(0, 0, 1000 * MIB)
  t.is(terminal.line, `writing disk  [${'-'.repeat(30)}]    0%  0 B of 1000 MiB`)
  at(1000, 100 * MIB, 1000 * MIB)
  t.is(terminal.line, `writing disk  [###${'-'.repeat(27)}]   10%  100 MiB of 1000 MiB  100 MiB/s  0:09 left`)
})

test('the rate is of the last seconds, not of all', (t) => {
  const { terminal, at } = scene(true)
  for (let s = 0; s <= 10; s++) at(s * 1000, s * 10 * MIB, 1000 * MIB)
  for (let s = 11; s <= 20; s++) at(s * 1000, (100 + (s - 10) * 50) * MIB, 1000 * MIB)
  t.regex(terminal.line, / 50 MiB\/s {2}0:08 left/)
})

test('what has no known total shows what is done, and the time', (t) => {
  const { terminal, at } = scene(true)
  at(3000, 5 * MIB, 0, 'freeing')
  t.is(terminal.line, 'freeing  5 MiB  0:03')
})

test('it draws at most ten times a second, but always the end', (t) => {
  const { terminal, at } = scene(true)
  for (let ms = 0; ms < 1000; ms++) at(ms, ms, 10_000)
  const draws = terminal.output.split('\r').length - 1
  t.true(draws >= 9 && draws <= 11, `${draws} draws`)
  at(1000, 10_000, 10_000)
  t.regex(terminal.line, /100%/)
})

test('it never wraps, and leaves an empty line behind', (t) => {
  const { terminal, progress, at } = scene(true)
  terminal.columns = 80
  at(0, 0, 1000 * MIB)
  at(1000, 100 * MIB, 1000 * MIB)
  t.is(terminal.line, 'writing disk  [#-------------]   10%  100 MiB of 1000 MiB  100 MiB/s  0:09 left')
  terminal.columns = 40
  at(2000, 1, 2, '東'.repeat(100))
  t.is(displayWidth(terminal.line), 38)
  progress.end()
  t.is(terminal.line, '')
})

test('off a terminal it is silent, except once about what the cluster waits for', (t) => {
  const { terminal, at } = scene(false)
  at(0, 1, 2, 'preallocating')
  at(1000, 0, 0, 'waiting: no quorum')
  at(6000, 0, 0, 'waiting: no quorum')
  t.is(terminal.output, 'dog: waiting: no quorum\n')
})

test('bars', (t) => {
  t.is(bar(0.5, 4, true), '██░░')
  t.is(bar(1, 4, false), '[####]')
  t.is(bar(0.999, 4, false), '[###-]', 'full only when done')
  t.true(unicodeTerminal({ LANG: 'de_DE.UTF-8' }))
  t.true(unicodeTerminal({ LC_ALL: 'C.utf8', LANG: 'C' }))
  t.false(unicodeTerminal({ LC_ALL: 'C', LANG: 'de_DE.UTF-8' }))
  t.false(unicodeTerminal({}))
})
