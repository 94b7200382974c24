import test from 'ava'
import fc from 'fast-check'
import { type Column, displayWidth, formatRaw, formatTable, printable, rawField } from '../../../lib/dog/table.js'

interface Row {
  name: string
  size: number
  tag: string
}

const columns: Column<Row>[] = [
  { title: 'Name', text: (row) => row.name },
  { title: 'Size', align: 'right', text: (row) => `${row.size} B`, raw: (row) => row.size },
  { title: 'Tag', text: (row) => row.tag },
]

test('columns align by what a terminal shows, names of any script included', (t) => {
  const rows = [
    { name: 'disk', size: 512, tag: 'monday' },
    { name: '東京', size: 10_240, tag: '' },
    { name: 'Zürich', size: 7, tag: 'v1' },
    { name: 'Zu\u0308rich🐑', size: 70, tag: 'v2' },
  ]
  t.is(
    formatTable(columns, rows),
    [
      'Name         Size  Tag',
      'disk        512 B  monday',
      '東京      10240 B',
      'Zürich        7 B  v1',
      'Zu\u0308rich🐑     70 B  v2',
      '',
    ].join('\n'),
  )
})

test('raw lines have as many fields as columns, and fields can be told apart', (t) => {
  const rows = [
    { name: 'my disk', size: 512, tag: '' },
    { name: 'back\\slash', size: 0, tag: '-' },
  ]
  t.is(formatRaw(columns, rows), 'my\\ disk 512 -\nback\\\\slash 0 \\-\n')
})

test('raw fields come back as they were: unescaping finds every value', (t) => {
  fc.assert(
    fc.property(
      fc.array(fc.string({ unit: fc.constantFrom('a', ' ', '\\', '-', '東') }), { minLength: 1 }),
      (values) => {
        const line = values.map(rawField).join(' ')
        const fields = line.match(/(?:\\.|[^\\ ])+/g) ?? []
        const back = fields.map((field) => (field === '-' ? '' : field.replace(/\\(.)/g, '$1')))
        return JSON.stringify(back) === JSON.stringify(values)
      },
    ),
  )
  t.pass()
})

test('every line of a table is as wide as it must be', (t) => {
  const unit = fc.constantFrom('a', 'ü', '東', '🐑', 'e\u0301', '\u200b')
  fc.assert(
    fc.property(fc.array(fc.string({ unit, maxLength: 12 }), { minLength: 1, maxLength: 5 }), (names) => {
      const rows = names.map((name) => ({ name, size: 1, tag: 'x' }))
      const widths = formatTable(columns, rows).trimEnd().split('\n').slice(1).map(displayWidth)
      return new Set(widths).size === 1
    }),
  )
  t.pass()
})

test('control characters from elsewhere do nothing on a terminal', (t) => {
  t.is(printable('a\u001b[31mred\nline\u0085\u009b'), 'a\ufffd[31mred\ufffdline\ufffd\ufffd')
  t.false(/\u001b/.test(formatTable(columns, [{ name: '\u001b]0;x', size: 1, tag: '' }])))
  t.false(/\u001b|\n./.test(formatRaw(columns, [{ name: '\u001b\nx', size: 1, tag: '' }])))
})

test('an empty table is its head; in raw form nothing', (t) => {
  t.is(formatTable(columns, []), 'Name  Size  Tag\n')
  t.is(formatRaw(columns, []), '')
})
