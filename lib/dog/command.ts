/** How a command of dog is described: once, with examples, and without knowing how it is run. */
import { Argument, type Command, type CommandOptions } from 'commander'
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

/** Connects descriptions to `start`, which makes the session of a run and does what it says. */
export function adder(start: (command: Command, run: (session: Session) => Promise<void>) => Promise<void>): Add {
  return (parent, usage, summary, declare = (command) => command, options = {}) => {
    const [name, ...words] = usage.split(' ')
    const command = parent.command(name, options).description(summary)
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
        command.action((...given) => {
          const values = given.slice(0, words.length) as string[]
          return start(command, (session) => action(session, values, command.opts()))
        })
      },
    }
    return text
  }
}
