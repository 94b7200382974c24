/** How a command of dog is described: once, with examples, and without knowing how it is run. */
import { Argument, type Command, type CommanderError, type CommandOptions } from 'commander'
import type { Session } from './session.js'

/** The options that commander parsed, by name. */
// biome-ignore lint/suspicious/noExplicitAny: each command knows the options that it declared
export type ParsedOptions = Record<string, any>

export type Action = (session: Session, words: string[], options: ParsedOptions) => Promise<void>

export interface CommandText {
  notes(...lines: string[]): CommandText
  examples(...lines: string[]): CommandText
  run(action: Action): void
}

/** `usage`: `create <NAME> <SIZE>`. `declare` adds options. */
export type Add = (
  parent: Command,
  usage: string,
  summary: string,
  declare?: (command: Command) => Command,
  options?: CommandOptions,
) => CommandText

const MORE = '\nOptions of every command (-a, -p, --socket, -r, --json, --timeout): dog --help'

/** What was typed is no command line of dog. `command` is the one that it came closest to. */
export class UsageError extends Error {
  override readonly name = 'UsageError'
  constructor(
    readonly problem: CommanderError,
    readonly command: Command,
  ) {
    super(problem.message)
  }
}

/** `dog vdi create` */
export function pathOf(command: Command): string {
  return command.parent === null ? command.name() : `${pathOf(command.parent)} ${command.name()}`
}

/** Throws UsageError in place of leaving the process; requests for help and version pass as CommanderError, exit code 0. */
export function throwUsage(command: Command): Command {
  return command.exitOverride((error) => {
    throw error.exitCode === 0 ? error : new UsageError(error, command)
  })
}

/** A command that only has commands. */
export function group(parent: Command, name: string, summary: string): Command {
  return throwUsage(parent.command(name))
    .summary(summary)
    .description(sentence(summary))
    .usage('COMMAND ...')
    .helpCommand(false)
    .addHelpText('after', MORE)
}

/** Connects descriptions to `start`, which makes the session of a run and does what it says. */
export function adder(start: (command: Command, run: (session: Session) => Promise<void>) => Promise<void>): Add {
  return (parent, usage, summary, declare = (command) => command, options = {}) => {
    const [name, ...words] = usage.split(' ')
    const command = throwUsage(parent.command(name, options)).summary(summary).description(sentence(summary))
    for (const word of words) command.addArgument(new Argument(word))
    declare(command).allowExcessArguments(false)
    const text: CommandText = {
      notes(...lines) {
        command.addHelpText('after', `\n${lines.join('\n')}`)
        return text
      },
      examples(...lines) {
        command.addHelpText('after', `\nExamples:\n${lines.map((line) => `  ${line}`).join('\n')}`)
        return text
      },
      run(action) {
        command.addHelpText('after', MORE)
        command.action((...given) => {
          const values = given.slice(0, words.length) as string[]
          return start(command, (session) => action(session, values, command.opts()))
        })
      },
    }
    return text
  }
}

function sentence(text: string): string {
  return `${text[0].toUpperCase()}${text.slice(1)}.`
}
