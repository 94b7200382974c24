/**
 * Checkers for JSON from outside: each takes any value and returns it as a typed one, or throws SheepError invalid that
 * names the field and what it must be. Nothing passes that a checker has not looked at: unknown fields are refused.
 */
import { SheepError } from '../errors.js'

export type Checker<T> = (value: unknown, path: string) => T

export type Checked<C> = C extends Checker<infer T> ? T : never

export function object<F extends Record<string, Checker<unknown>>>(
  fields: F,
): Checker<{ [K in keyof F]: Checked<F[K]> }> {
  const names = Object.keys(fields)
  return (value, path) => {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) throw wrong(path, 'an object')
    for (const name of Object.keys(value)) {
      if (!Object.hasOwn(fields, name)) {
        throw new SheepError(
          'invalid',
          `${path} has no field ${JSON.stringify(name.slice(0, 80))}`,
          names.length === 0 ? 'it takes none' : `it takes ${names.join(', ')}`,
        )
      }
    }
    const result: Record<string, unknown> = {}
    for (const name of names) {
      result[name] = fields[name](Object.hasOwn(value, name) ? Reflect.get(value, name) : undefined, `${path}.${name}`)
    }
    return result as { [K in keyof F]: Checked<F[K]> }
  }
}

/** A missing field takes the default. */
export function optional<T>(checker: Checker<T>, fallback: T): Checker<T> {
  return (value, path) => (value === undefined ? fallback : checker(value, path))
}

/** null, or a missing field: nothing is said. */
export function nullable<T>(checker: Checker<T>): Checker<T | null> {
  return (value, path) => (value === undefined || value === null ? null : checker(value, path))
}

export function integer(min: number, max: number): Checker<number> {
  return (value, path) => {
    if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < min || value > max) {
      throw wrong(path, `a whole number from ${min} to ${max}`)
    }
    return value
  }
}

export const flag: Checker<boolean> = (value, path) => {
  if (typeof value !== 'boolean') throw wrong(path, 'true or false')
  return value
}

export function list<T>(checker: Checker<T>, max: number): Checker<T[]> {
  return (value, path) => {
    if (!Array.isArray(value) || value.length > max) throw wrong(path, `a list of at most ${max}`)
    return value.map((one, i) => checker(one, `${path}[${i}]`))
  }
}

/** Text of at most `bytesMax` bytes of UTF-8 without control characters. */
export function text(bytesMax: number): Checker<string> {
  return (value, path) => {
    if (typeof value !== 'string') throw wrong(path, 'text')
    if (Buffer.byteLength(value) > bytesMax) throw wrong(path, `at most ${bytesMax} bytes of UTF-8`)
    // Cs: half of a surrogate pair, which JSON can spell and UTF-8 cannot.
    if (/\p{Cs}/u.test(value)) throw wrong(path, 'valid Unicode')
    if (/\p{Cc}/u.test(value)) throw wrong(path, 'free of line breaks and other control characters')
    return value
  }
}

function wrong(path: string, expected: string): SheepError {
  return new SheepError('invalid', `${path} must be ${expected}`)
}
