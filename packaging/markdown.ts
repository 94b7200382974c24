/** The Markdown of our own pages as parts of a manual page: headings, paragraphs, code, tables. */
import { filled, plain, section, term, verbatim } from './troff.js'

/** `code` bold */
function inline(text: string): string {
  return text
    .split(/(`[^`]*`)/)
    .map((part) => (part.startsWith('`') ? `\\fB${plain(part.slice(1, -1))}\\fR` : plain(part)))
    .join('')
}

function cells(row: string): string[] {
  return row
    .slice(1, -1)
    .split('|')
    .map((cell) => cell.trim())
}

/** Each row a term; a column that has a title says it. */
function table(rows: readonly string[]): string {
  const [head, , ...body] = rows.map(cells)
  const titled = head.length > 2
  return body
    .map(([first, ...others]) => {
      const said = others.map((text, at) =>
        filled(`${titled ? `\\fI${plain(head[at + 1])}:\\fR ` : ''}${inline(text)}`),
      )
      return term(inline(first), said.join('.br\n'))
    })
    .join('')
}

function block(lines: readonly string[]): string {
  if (lines[0].startsWith('|')) return table(lines)
  if (lines[0].startsWith('    ')) return verbatim(lines.map((line) => line.slice(4)).join('\n'))
  const odd = lines.find((line) => /^(?:[-*>#]|\d+\.|!\[|```)/.test(line))
  if (odd !== undefined) throw new Error(`no way to set this in a manual page: ${odd}`)
  return `.PP\n${filled(inline(lines.join(' ')))}`
}

/** What stands before the first `## ` is DESCRIPTION. The title is left out. */
export function fromMarkdown(text: string): string {
  const [intro, ...sections] = text.replace(/^# .*\n/, '').split(/^## /m)
  const body = (part: string) =>
    part
      .replace(/^\n+|\s+$/g, '')
      .split(/\n\n+/)
      .map((lines) => block(lines.split('\n')))
      .join('')
  return (
    section('DESCRIPTION', body(intro)) +
    sections
      .map((part) => {
        const end = part.indexOf('\n')
        return section(plain(part.slice(0, end).replaceAll('`', '').toUpperCase()), body(part.slice(end)))
      })
      .join('')
  )
}
