/** Asking before what cannot be taken back. */
import { createInterface } from 'node:readline/promises'
import { SheepError } from '../errors.js'

/**
 * Returns when the user types `yes`. Off a terminal nobody can be asked: SheepError invalid, which names `option`.
 * @param warning what will happen, one sentence
 */
export async function confirm(warning: string, option: string): Promise<void> {
  if (!process.stdin.isTTY || !process.stderr.isTTY) {
    throw new SheepError('invalid', warning, `if you mean it, add ${option}`)
  }
  const prompt = createInterface({ input: process.stdin, output: process.stderr })
  let answer: string
  try {
    answer = await prompt.question(`${warning}\nType yes to go on: `)
  } finally {
    prompt.close()
  }
  if (answer.trim().toLowerCase() !== 'yes') throw new SheepError('unknown', 'not confirmed, so nothing was done')
}
