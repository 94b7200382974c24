/** Command lines of the npm scripts: a mistake is one line and the usage, not a stack trace. */
import { type ParseArgsConfig, parseArgs } from 'node:util'

/** As node:util's parseArgs; ends the process after --help, and with exit code 2 on options that are not known. */
export function optionsOf<T extends ParseArgsConfig>(usage: string, config: T): ReturnType<typeof parseArgs<T>> {
  if (process.argv.slice(2).some((argument) => argument === '--help' || argument === '-h')) {
    console.log(`Usage: ${usage}`)
    process.exit(0)
  }
  try {
    return parseArgs(config)
  } catch (error) {
    refuse(usage, (error as Error).message)
  }
}

export function refuse(usage: string, reason: string): never {
  console.error(`${reason}\nUsage: ${usage}`)
  process.exit(2)
}

/** Of `--option`: a number without sign or point, of at most ten digits. */
export function wholeNumber(usage: string, option: string, text: string): number {
  if (!/^\d{1,10}$/.test(text)) refuse(usage, `--${option} takes a number, not ${text}`)
  return Number(text)
}
