/** What each parser's fuzzer is: how an input is made from chance alone, and what must hold while it is taken. */
import { slabBytes } from '../../lib/host/slab.js'
import type { SimRandom } from '../simulation/random.js'

export interface Harness {
  /** The input's bytes in the pieces in which they arrive. The same random numbers make the same input. */
  make(random: SimRandom): Buffer[]
  /** Throws when something other than a value or a typed refusal comes of it. True: it got past the first checks. */
  take(input: readonly Buffer[], random: SimRandom): boolean | Promise<boolean>
}

/** What holds after every conversation: no receive or send buffer is kept. */
export function requireNoSlabs(before: number): void {
  const { taken } = slabBytes()
  if (taken !== before) throw new Error(`${taken - before} bytes of buffers are still held`)
}

export function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}

const TURNS_MAX = 2_000

/** Gives other work its turns until `done`; an error when that takes absurdly many. */
export async function turnsUntil(done: () => boolean, what: string): Promise<void> {
  for (let turns = 0; !done(); turns++) {
    if (turns > TURNS_MAX) throw new Error(`${what}: not within ${TURNS_MAX} turns`)
    await turn()
  }
}
