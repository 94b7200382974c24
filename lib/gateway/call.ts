/** What the calls of other nodes to this gateway name. SheepError invalid */
import { SheepError } from '../errors.js'

export function numberIn(argument: unknown, name: string): number {
  const value = (argument as Record<string, unknown> | null)?.[name]
  if (!Number.isSafeInteger(value)) throw new SheepError('invalid', `the call names no ${name}`)
  return value as number
}

export function textIn(argument: unknown, name: string): string {
  const value = (argument as Record<string, unknown> | null)?.[name]
  if (typeof value !== 'string') throw new SheepError('invalid', `the call names no ${name}`)
  return value
}
