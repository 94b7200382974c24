/** Parsers that are broken on purpose: a fuzzer that does not find these finds nothing. */
import type { Harness } from './harness.js'
import { randomBytes } from './mutate.js'

const make: Harness['make'] = (random) => [randomBytes(random, 40)]
const kept: Buffer[] = []

export const crashes: Harness = {
  make,
  take: ([bytes]) => {
    if (bytes[0] === 0x53) throw new RangeError('a planted crash')
    return true
  },
}

export const crashesLater: Harness = {
  make,
  take: ([bytes]) => {
    if (bytes[0] === 0x53) void Promise.reject(new TypeError('a planted rejection'))
    return true
  },
}

export const hangs: Harness = {
  make,
  take: ([bytes]) => {
    while (bytes[0] === 0x53);
    return true
  },
}

export const grows: Harness = {
  make,
  take: ([bytes]) => {
    kept.push(Buffer.alloc(400_000 + bytes[0]))
    return true
  },
}

/** Refuses everything at the door. */
export const shallow: Harness = { make, take: () => false }
