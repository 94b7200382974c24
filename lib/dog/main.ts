#!/usr/bin/env node
/** `dog`, the command: global options, exit codes, and what happens when a run ends early. */
import { type Command, CommanderError } from 'commander'
import { asSheepError, ERRORS, SheepError } from '../errors.js'
import { pathOf, UsageError } from './command.js'
import { dogProgram } from './program.js'
import { printError, type Session } from './session.js'

/** Shells' own convention: 128 and the signal's number. */
const EXIT_SIGPIPE = 141

let current: Session | null = null

async function run(session: Session, action: (session: Session) => Promise<void>): Promise<void> {
  current = session
  try {
    await action(session)
  } finally {
    session.close()
  }
}

function usageError({ problem, command }: UsageError): SheepError {
  const [message, ...more] = problem.message.replace(/^error: /, '').split('\n')
  const suggestion = more.join(' ').replace(/^\((.*)\)$/, '$1')
  return new SheepError('invalid', message, suggestion || `${pathOf(command)} --help shows what it takes`)
}

async function main(): Promise<void> {
  // Whoever reads our output may stop early, as `head` does: that is no failure worth words.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(EXIT_SIGPIPE)
    throw error
  })
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => {
      current?.close()
      process.kill(process.pid, signal)
    })
  }
  const program: Command = dogProgram(run)
  try {
    await program.parseAsync()
  } catch (error) {
    // --help and --version have printed what was asked; a group without a command has printed its help on stderr.
    if (error instanceof CommanderError) return
    if (error instanceof UsageError && error.problem.code.startsWith('commander.help')) {
      process.exitCode = ERRORS.invalid.exit
      return
    }
    const failure = error instanceof UsageError ? usageError(error) : asSheepError(error)
    printError(failure)
    process.exitCode = failure.exitCode
  }
}

await main()
