import test from 'ava'
import fc from 'fast-check'
import { formatDuration, formatPercent, formatSize, formatTime, parseSize } from '../../../lib/dog/size.js'
import { SheepError } from '../../../lib/errors.js'

test('sizes as people type them', (t) => {
  const cases: [string, number][] = [
    ['0', 0],
    ['512', 512],
    ['1048576', 1048576],
    ['1048576B', 1048576],
    ['4k', 4096],
    ['10G', 10 * 2 ** 30],
    ['10g', 10 * 2 ** 30],
    ['10GiB', 10 * 2 ** 30],
    ['10 GB', 10 * 2 ** 30],
    ['1.5T', 1.5 * 2 ** 40],
    ['0.5M', 2 ** 19],
    ['8P', 2 ** 53],
  ]
  for (const [text, bytes] of cases) {
    if (bytes > Number.MAX_SAFE_INTEGER) t.throws(() => parseSize(text), { instanceOf: SheepError })
    else t.is(parseSize(text), bytes, text)
  }
})

test('a fraction of a unit is rounded up to whole sectors, plain bytes are not', (t) => {
  t.is(parseSize('0.1G') % 512, 0)
  t.true(parseSize('0.1G') >= 0.1 * 2 ** 30 && parseSize('0.1G') < 0.1 * 2 ** 30 + 512)
  t.is(parseSize('0.0001K'), 512)
  t.is(parseSize('1000'), 1000)
})

test('what is no size is a usage error that shows one', (t) => {
  const bad = ['', 'x', '-1', '-1G', '1e9', '0x10', '10Q', '1.5', '1..5G', '.5G', 'G', '10G10', ' 10G', '٣G', 'NaN']
  for (const text of bad) {
    const error = t.throws(() => parseSize(text), { instanceOf: SheepError }, text)
    t.is(error?.exitCode, 2, text)
    t.regex(`${error?.hint}`, /10G/, text)
  }
  t.is(t.throws(() => parseSize('9999999999999999999'), { instanceOf: SheepError })?.code, 'too-big')
})

test('any text gives a safe whole number of bytes or a SheepError', (t) => {
  const text = fc.oneof(fc.string(), fc.stringMatching(/^[0-9]{1,20}(\.[0-9]{1,13})?[KMGTPkmgtp]?(i?B)?$/))
  let parsed = 0
  fc.assert(
    fc.property(text, (given) => {
      try {
        const bytes = parseSize(given)
        parsed++
        return Number.isSafeInteger(bytes) && bytes >= 0
      } catch (error) {
        return error instanceof SheepError
      }
    }),
    { numRuns: 2000 },
  )
  t.true(parsed > 100, `${parsed} parsed`)
})

test('sizes as people read them', (t) => {
  const cases: [number, string][] = [
    [0, '0 B'],
    [512, '512 B'],
    [1023, '1023 B'],
    [1024, '1 KiB'],
    [1536, '1.5 KiB'],
    [1048575, '1 MiB'],
    [10 * 2 ** 30, '10 GiB'],
    [1023.9 * 2 ** 20, '1024 MiB'],
    [1.5 * 2 ** 40, '1.5 TiB'],
    [2 ** 53, '8 PiB'],
    [5000 * 2 ** 50, '5000 PiB'],
  ]
  for (const [bytes, text] of cases) t.is(formatSize(bytes), text, String(bytes))
})

test('what is written is read back as about the same', (t) => {
  fc.assert(
    fc.property(fc.nat({ max: 2 ** 52 }), (bytes) => {
      const back = parseSize(formatSize(bytes))
      return Math.abs(back - bytes) <= Math.max(512, bytes * 0.06)
    }),
    { numRuns: 1000 },
  )
  t.pass()
})

test('durations, times and shares', (t) => {
  t.is(formatDuration(0), '0:00')
  t.is(formatDuration(-3), '0:00')
  t.is(formatDuration(7.4), '0:07')
  t.is(formatDuration(59.6), '1:00')
  t.is(formatDuration(3599), '59:59')
  t.is(formatDuration(11_100), '3:05:00')
  t.is(formatDuration(2 * 86_400 + 4 * 3600), '2 d 4 h')
  const at = new Date(2026, 0, 2, 3, 4, 5).getTime()
  t.is(formatTime(at), '2026-01-02 03:04')
  t.is(formatTime(at, true), '2026-01-02 03:04:05')
  t.is(formatPercent(1, 3), '33%')
  t.is(formatPercent(999, 1000), '99%', 'never 100 before the end')
  t.is(formatPercent(0, 0), '-')
})
