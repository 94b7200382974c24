import type { Clock } from '../host/interfaces.js'

/** For `ms` of this clock; 0 is a turn of the event loop for the others. */
export function sleep(clock: Clock, ms: number): Promise<void> {
  return new Promise((resolve) => clock.after(ms, resolve))
}
