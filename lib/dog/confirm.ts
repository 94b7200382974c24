/** Asking before what cannot be taken back. */
import { createInterface } from 'node:readline/promises'
import { SheepError } from '../errors.js'

/**
 * Returns when the user types `yes`. Off a terminal nobody can be asked: SheepError invalid, which names `option`.
 * @param warning what will happen, one sentence
 */
export async function confirm(warning: string, option: string): Promise<void> {
  if (!mayAsk()) throw new SheepError('invalid', warning, `if you mean it, add ${option}`)
  if (!(await agrees(`${warning}\nType yes to go on:`))) {
    throw new SheepError('unknown', 'not confirmed, so nothing was done')
  }
}

function mayAsk(): boolean {
  return process.stdin.isTTY === true && process.stderr.isTTY === true
}

/** Whether the user types `yes`; off a terminal nobody does. */
export async function agrees(question: string): Promise<boolean> {
  if (!mayAsk()) return false
  const prompt = createInterface({ input: process.stdin, output: process.stderr })
  try {
    return (await prompt.question(`${question} `)).trim().toLowerCase() === 'yes'
  } finally {
    prompt.close()
  }
}
