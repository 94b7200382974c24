/** Manual pages and Markdown say what the programs have. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import type { Command } from 'commander'
import { CONFIG_KEYS } from '../../../daemon/config-file.js'
import { sheepCommand } from '../../../daemon/options.js'
import { dogProgram } from '../../../lib/dog/program.js'
import { manPages } from '../../../packaging/man.js'
import { fromMarkdown } from '../../../packaging/markdown.js'

const root = join(import.meta.dirname, '..', '..', '..', '..')
const read = (name: string): string => readFileSync(join(root, name), 'utf8')
const dog = dogProgram(() => Promise.resolve())

/** As it is read: without what troff needs. */
function shown(text: string): string {
  return text
    .replaceAll(/\\f[BRI]/g, '')
    .replaceAll('\\&', '')
    .replaceAll('\\-', '-')
    .replaceAll('\\e', '\\')
}

function page(name: string): string {
  return shown(manPages(root, '1.2.3', 0).find((one) => one.name === name)?.text ?? '')
}

test('sheep(8) and sheepdog.conf(5) have every option and key', (t) => {
  for (const { long, hidden } of sheepCommand('1').options) {
    if (!hidden) t.true(page('sheep').includes(long as string), long ?? '')
  }
  for (const key of CONFIG_KEYS) t.regex(page('sheepdog.conf'), new RegExp(`^\\.B ${key} =$`, 'm'))
})

function leaves(command: Command, path: string): [string, Command][] {
  if (command.commands.length === 0) return [[path, command]]
  return command.commands.flatMap((child) => leaves(child, `${path} ${child.name()}`))
}

test('dog(8) has every command and option; sheepdog-libvirt(7) those of dog libvirt', (t) => {
  for (const [name, group] of [
    ['dog', dog],
    ['sheepdog-libvirt', dog.commands.find((one) => one.name() === 'libvirt')],
  ] as const) {
    const text = page(name)
    const found = leaves(group as Command, name === 'dog' ? 'dog' : 'dog libvirt')
    t.true(found.length >= 5)
    for (const [path, { options }] of found) {
      t.regex(text, new RegExp(`^\\.SS ${path}(?: |$)`, 'm'), path)
      for (const { long, hidden } of options) if (!hidden) t.true(text.includes(long as string), `${path} ${long}`)
    }
  }
})

test('sheepdog-libvirt(7) has all of libvirt-hooks/README.md', (t) => {
  const words = (text: string) => text.toLowerCase().match(/\w+/g) ?? []
  const text = page('sheepdog-libvirt')
  const there = new Set(words(text))
  // Titles of tables' columns are not all said.
  const markdown = read('libvirt-hooks/README.md').replaceAll(/^\|.*\n\| --- .*$/gm, '')
  t.deepEqual(
    words(markdown).filter((word) => !there.has(word)),
    [],
  )
  for (const [, line] of markdown.matchAll(/^ {4}(.*)$/gm)) t.true(text.split('\n').includes(line), line)
})

test('Markdown that no manual page can show is an error', (t) => {
  t.throws(() => fromMarkdown('# a\n\n- one\n- two\n'), { message: /no way to set this/ })
  t.is(
    fromMarkdown("# a\n\n.dot and `'code'`\n\n## B c\n\n    -x\n\n| | m |\n| --- | --- |\n| `k` | v-w |\n"),
    ".SH DESCRIPTION\n.PP\n\\&.dot and \\fB\\&'code'\\fR\n.SH B C\n.PP\n.nf\n\\-x\n.fi\n.TP\n.B \\fBk\\fR\nv\\-w\n",
  )
})

/** Commands of dog that a page prints: lines of blocks, and what stands between backticks. */
function commandsIn(markdown: string): string[] {
  const blocks = [...markdown.matchAll(/^(?: {4}|\$ |# )(dog .*)$/gm)].map(([, line]) =>
    line.replace(/ {2,}.*| #.*/, ''),
  )
  const phrases = [...markdown.matchAll(/`(dog [^`]+)`/g)].map(([, text]) => text)
  return [...blocks, ...phrases]
}

/** What dog does not have of it; '' when it has all. */
function unknownIn(text: string): string {
  const [, ...words] = text
    .split(/[|;&>]|\.\.\./)[0]
    .trim()
    .split(/\s+/)
  let command: Command = dog
  let options = [...dog.options]
  for (const word of words) {
    const child = command.commands.find((one) => one.name() === word || one.aliases().includes(word))
    if (child !== undefined) {
      command = child
      options = [...dog.options, ...child.options]
    } else if (word.startsWith('-')) {
      const name = word.replace(/[=,].*/, '')
      const known = options.some(({ long, short }) => long === name || short === name)
      if (!known && !['-h', '--help', '--version'].includes(name)) return word
    } else if (command.commands.length > 0 && command.registeredArguments.length === 0 && /^[a-z-]+$/.test(word)) {
      return word
    }
  }
  return ''
}

test('every command of dog that a page prints is one, with options that it has', (t) => {
  t.is(unknownIn('dog vdi snapshot -s monday disk'), '')
  t.is(unknownIn('dog vdi photograph disk'), 'photograph')
  t.is(unknownIn('dog vdi snapshot --when monday disk'), '--when')
  const docs = readdirSync(join(root, 'docs')).map((name) => `docs/${name}`)
  let count = 0
  for (const name of ['README.md', 'CHANGELOG.md', 'libvirt-hooks/README.md', 'systemd/README.md', ...docs]) {
    for (const command of commandsIn(read(name))) {
      count++
      t.is(unknownIn(command), '', `${name}: ${command}`)
    }
  }
  t.true(count > 60, String(count))
})

test('docs/configuration.md has every key, and no other', (t) => {
  const rows = read('docs/configuration.md').match(/^\| `.*?(?= \|)/gm) ?? []
  const keys = rows.flatMap((row) => [...row.matchAll(/`([a-z-]+)`/g)].map(([, key]) => key))
  t.deepEqual(keys.sort(), [...CONFIG_KEYS].sort())
})
