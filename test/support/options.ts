/** Command lines of the npm scripts: a mistake is one line and the usage, not a stack trace. */
import { type ParseArgsConfig, parseArgs } from 'node:util'

/** As node:util's parseArgs; ends the process with exit code 2 on options that are not known. */
export function optionsOf<T extends ParseArgsConfig>(usage: string, config: T): ReturnType<typeof parseArgs<T>> {
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
