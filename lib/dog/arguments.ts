/** Arguments and options of dog as typed values. Each throws SheepError invalid that names what was given. */
import { COPIES_MAX } from '../control/verbs.js'
import { SheepError } from '../errors.js'
import { ON_NO_QUORUM_MS_MAX } from '../vdi/command.js'
import { MAX_SHIFT, MIN_SHIFT } from '../vdi/inode.js'
import { parseSize } from './size.js'

export function parseCount(text: string, what: string, min: number, max: number): number {
  const value = /^[0-9]{1,15}$/.test(text) ? Number(text) : Number.NaN
  if (!(value >= min && value <= max)) {
    throw new SheepError('invalid', `${JSON.stringify(text)} is no ${what}`, `use a whole number from ${min} to ${max}`)
  }
  return value
}

export function parseCopies(text: string): number {
  return parseCount(text, 'number of copies', 1, COPIES_MAX)
}

/** ms: `wait` is 0, else seconds. */
export function parseOnNoQuorum(text: string): number {
  if (text === 'wait') return 0
  return parseCount(text, 'time in seconds, and not "wait"', 1, ON_NO_QUORUM_MS_MAX / 1000) * 1000
}

export function parseIndex(text: string): number {
  return parseCount(text, 'object number', 0, 0xffffff)
}

/** log2 of the object size, from either: `22` is what `4M` is. */
export function parseObjectShift(text: string): number {
  const plain = /^[0-9]{1,2}$/.test(text) ? Number(text) : Math.log2(parseSize(text))
  if (!Number.isInteger(plain) || plain < MIN_SHIFT || plain > MAX_SHIFT) {
    throw new SheepError(
      'invalid',
      `${JSON.stringify(text)} is no object size`,
      `use a power of two from 1M to 2G, or its log2 from ${MIN_SHIFT} to ${MAX_SHIFT} (4M is 22)`,
    )
  }
  return plain
}
