import test from 'ava'
import type { LogLevel } from '../../../lib/host/interfaces.js'
import { journalLog, LOG_LEVELS } from '../../../lib/host/log.js'

function lines(level: LogLevel, journal: boolean): [string[], ReturnType<typeof journalLog>] {
  const written: string[] = []
  return [written, journalLog({ level: () => level, journal, write: (line) => written.push(line), wall: () => 0 })]
}

test('the journal gets a priority, others the time and the level', (t) => {
  const [journal, log] = lines('debug', true)
  for (const level of LOG_LEVELS) log(level, level)
  t.deepEqual(journal, ['<3>error', '<4>warning', '<5>notice', '<6>info', '<7>debug'])
  const [terminal, say] = lines('info', false)
  say('info', 'object moved', { oid: '00ab', from: 'node b', count: 3, ok: true, nothing: null, at: undefined })
  t.deepEqual(terminal, [
    '1970-01-01T00:00:00.000Z info: object moved oid=00ab from="node b" count=3 ok=true nothing=null at=undefined',
  ])
})

test('less urgent than asked for is not written', (t) => {
  const [written, log] = lines('warning', true)
  for (const level of LOG_LEVELS) log(level, level)
  t.deepEqual(written, ['<3>error', '<4>warning'])
})

test('what a stranger sent cannot forge a line', (t) => {
  const [written, log] = lines('info', true)
  log('info', 'name\n<0>the house is on fire\u2028', {
    name: 'a\n<0>b',
    error: new Error('x\ny'),
    big: 10n,
    list: ['a b'],
  })
  t.is(written.length, 1)
  t.false(written[0].includes('\n'))
  t.true(written[0].startsWith('<6>name\\n<0>the house is on fire'))
  t.true(written[0].endsWith(' name="a\\n<0>b" error="x\\ny" big=10 list=["a b"]'))
})
