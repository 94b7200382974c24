/** The commands that README.md prints, word for word, for the tests that run them. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'

const file = join(import.meta.dirname, '..', '..', '..', 'README.md')
const programs = /^(?:npm|sheep|dog|virsh|virt-install|qemu-[a-z0-9_-]+|apt|systemctl|alias|for) /

export interface ReadmeCommand {
  section: string
  text: string
  /** A line of a code block, not words in a sentence or a table */
  block: boolean
}

/** In the order of the text; what a block has beside a command is its comment, or a picture of characters. */
export function readmeCommands(markdown = readFileSync(file, 'utf8')): ReadmeCommand[] {
  const found: ReadmeCommand[] = []
  let section = ''
  for (const line of markdown.split('\n')) {
    if (line.startsWith('## ')) section = line.slice(3)
    const block = line.startsWith('    ')
    const texts = block ? [line.trim().replace(/ +# .*/, '')] : [...line.matchAll(/`([^`]+)`/g)].map(([, text]) => text)
    for (const text of texts) if (programs.test(text)) found.push({ section, text, block })
  }
  return found
}

/** Lines of blocks that are no commands that anybody runs. */
export function readmePictures(markdown = readFileSync(file, 'utf8')): string[] {
  return markdown.split('\n').filter((line) => line.startsWith('    ') && !programs.test(line.trim()))
}

/** Error: the README has none. */
export function commandsOf(section: string): ReadmeCommand[] {
  const found = readmeCommands().filter((one) => one.section === section)
  if (found.length === 0) throw new Error(`README.md has no commands under "## ${section}"`)
  return found
}

/**
 * What to run in place of commands that would last for hours or need what only a user has: `adapted` by the README's own text. Error: it
 * names one that the README has no more.
 */
export function adaptedCommands(commands: readonly ReadmeCommand[], adapted: Record<string, string>): string[] {
  for (const text of Object.keys(adapted)) {
    if (!commands.some((one) => one.text === text)) throw new Error(`README.md no longer says: ${text}`)
  }
  return commands.map(({ text }) => adapted[text] ?? text)
}
