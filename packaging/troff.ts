/** Text as man(7) wants it. */

/** Of the source, so that it can be read as well (mandoc -T lint) */
const WIDTH = 78

/** Text as troff prints it: no escape, no request, and minus signs that can be copied. */
export function plain(line: string): string {
  const escaped = line.replaceAll('\\', '\\e').replaceAll('-', '\\-')
  return /^[.']/.test(escaped) ? `\\&${escaped}` : escaped
}

/** Words of escaped text in lines of the source. */
export function filled(escaped: string): string {
  let lines = ''
  let line = ''
  for (const word of escaped.split(/\s+/).filter((one) => one !== '')) {
    if (line !== '' && line.length + 1 + word.length > WIDTH) {
      lines += `${line}\n`
      line = ''
    }
    line = line === '' ? (/^[.']/.test(word) ? `\\&${word}` : word) : `${line} ${word}`
  }
  return `${lines}${line}\n`
}

export function section(title: string, body: string): string {
  return `.SH ${title}\n${body.endsWith('\n') ? body : `${body}\n`}`
}

export function verbatim(text: string): string {
  return `.PP\n.nf\n${text.split('\n').map(plain).join('\n')}\n.fi\n`
}

export function term(escaped: string, body: string): string {
  return `.TP\n.B ${escaped}\n${body}`
}
