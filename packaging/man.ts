/**
 * Manual pages, made of what the programs' own --help is made of, so that they say the same (man(7), man-pages(7)), and of our own
 * pages in Markdown.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Command, Option } from 'commander'
import { CONFIG_KEYS } from '../daemon/config-file.js'
import { sheepCommand } from '../daemon/options.js'
import { dogProgram } from '../lib/dog/program.js'
import { fromMarkdown } from './markdown.js'
import { filled, plain, section, term, verbatim } from './troff.js'

export interface Page {
  name: string
  section: number
  text: string
}

/** @param root of the source tree @param version of the package @param seconds since 1970: the day at the foot */
export function manPages(root: string, version: string, seconds: number): Page[] {
  const day = new Date(seconds * 1000).toISOString().slice(0, 10)
  const head = (name: string, section: number, summary: string) =>
    `.TH ${name.toUpperCase()} ${section} "${day}" "sheepdog ${version}" "Sheepdog"\n.SH NAME\n${name} \\- ${summary}\n`
  const page = (name: string, section: number, summary: string, ...parts: string[]): Page => ({
    name,
    section,
    // Titles begin a paragraph by themselves.
    text: (head(name, section, summary) + parts.join('')).replace(/^(\.S[HS] .*\n)\.PP\n/gm, '$1'),
  })
  const sheep = sheepCommand(version)
  const dog = dogProgram(() => Promise.resolve())
  return [
    page('sheep', 8, 'the Sheepdog daemon', sheepBody(sheep), FILES, also('dog(8)', 'sheepdog.conf(5)', 'corosync(8)')),
    page(
      'dog',
      8,
      'manage Sheepdog volumes, nodes and clusters',
      dogBody(dog),
      also('sheep(8)', 'sheepdog-libvirt(7)', 'virsh(1)'),
    ),
    page(
      'sheepdog-libvirt',
      7,
      'Sheepdog volumes as disks of libvirt machines',
      fromMarkdown(readFileSync(join(root, 'libvirt-hooks/README.md'), 'utf8')),
      section('COMMANDS', commandsOf(dog.commands.filter((group) => group.name() === 'libvirt'))),
      also('dog(8)', 'sheep(8)', 'sheepdog.conf(5)', 'virsh(1)'),
    ),
    page('sheepdog.conf', 5, 'options of the Sheepdog daemon', configBody(sheep), also('sheep(8)')),
  ]
}

function sheepBody(sheep: Command): string {
  const { rest } = parts(sheep)
  return (
    section('SYNOPSIS', `.B sheep\n${plain('[OPTIONS] [DIR[,DIR...]]')}`) +
    section('DESCRIPTION', paragraphs(sheep.description())) +
    section('OPTIONS', options(sheep)) +
    rest
  )
}

function dogBody(dog: Command): string {
  return (
    section('SYNOPSIS', `.B dog\n${plain('[OPTIONS] COMMAND ...')}`) +
    section('DESCRIPTION', paragraphs(dog.description())) +
    section('OPTIONS', options(dog)) +
    section('COMMANDS', commandsOf(dog.commands)) +
    parts(dog).rest
  )
}

function commandsOf(groups: readonly Command[]): string {
  const commands = groups.flatMap((group) => group.commands.flatMap((one) => [one, ...one.commands]))
  const leaves = commands.filter((command) => command.commands.length === 0)
  const texts = leaves.map((command) => {
    const { rest, usage } = parts(command)
    const declared = command.options.length > 0 ? options(command) : ''
    return `.SS ${plain(usage)}\n${paragraphs(command.description())}${declared}${rest}`
  })
  return texts.join('')
}

function configBody(sheep: Command): string {
  const keys = [...CONFIG_KEYS].sort().map((key) => {
    const option = sheep.options.find(({ long }) => long === `--${key}`)
    const said = option?.description ?? KEYS_ALONE[key]
    if (said === undefined) throw new Error(`nothing says what the key ${key} means`)
    const value = option === undefined || option.isBoolean() || option.negate ? 'yes|no' : metavariable(option)
    return term(`${plain(key)} =`, `.I ${plain(value)}\n.br\n${filled(plain(said))}`)
  })
  return (
    section('SYNOPSIS', '.I /etc/sheepdog/sheepdog.conf') +
    section('DESCRIPTION', CONFIG_TEXT.map((text) => `.PP\n${filled(plain(text))}`).join('')) +
    section('KEYS', keys.join(''))
  )
}

const CONFIG_TEXT = [
  'sheepdog.service gives the daemon this file. One key = value a line; empty lines and lines that begin with # are skipped. ' +
    'The keys are the long options of sheep(8), which says more of each, and store. What the command line says goes first.',
  'systemctl reload sheepdog reads it again: what can change while the daemon runs changes, and the journal says what needs a restart.',
]

/** Keys that are no option of the daemon */
const KEYS_ALONE: Record<string, string> = {
  store: "this host's disks: directories, separated by commas (default: /var/lib/sheepdog)",
  'log-level': 'error, warning, notice, info or debug',
  'log-dir': 'where the log file is, when it does not go to the journal',
  'corosync-bound':
    'whether the daemon ends and starts with corosync (default: yes); no: it outlives it, and requests wait',
}

const FILES = section(
  'FILES',
  [
    ['/etc/sheepdog/sheepdog.conf', 'options, see sheepdog.conf(5)'],
    ['/etc/sheepdog/cluster.key', "the cluster's key, which peers prove to each other"],
    ['/var/lib/sheepdog', 'the store, when no other is named; sock and nbd.sock in it are where dog and QEMU connect'],
  ]
    .map(([file, text]) => `.TP\n.I ${plain(file)}\n${filled(plain(text))}`)
    .join(''),
)

function also(...pages: string[]): string {
  const names = pages.map((name) => `.BR ${plain(name).replace('(', ' (')}`)
  return section('SEE ALSO', names.map((name, at) => (at < names.length - 1 ? `${name} ,` : name)).join('\n'))
}

/** What --help says beyond description and options: notes and examples as they are. */
function parts(command: Command): { usage: string; rest: string } {
  let all = ''
  command.configureOutput({
    writeOut: (text) => {
      all += text
    },
    getOutHelpWidth: () => 78,
  })
  command.outputHelp()
  const own = command.helpInformation()
  const after = all.slice(all.indexOf(own) + own.length).replace(/\nOptions of every command .*\n?$/, '')
  const helper = command.createHelp()
  return { usage: helper.commandUsage(command), rest: after.trim() === '' ? '' : verbatim(after.trim()) }
}

function options(command: Command): string {
  const helper = command.createHelp()
  return helper
    .visibleOptions(command)
    .map((option) => term(plain(helper.optionTerm(option)), filled(plain(helper.optionDescription(option)))))
    .join('')
}

function metavariable(option: Option): string {
  return /<(.*)>/.exec(option.flags)?.[1] ?? 'VALUE'
}

function paragraphs(text: string): string {
  return text
    .split('\n\n')
    .map((part) => (/\n {2}/.test(part) ? verbatim(part) : `.PP\n${filled(plain(part))}`))
    .join('')
}
