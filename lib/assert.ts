/** A broken invariant. The daemon's main catches it, logs it with its stack, and stops before it can do harm. */
export class InvariantError extends Error {
  override readonly name = 'InvariantError'
}

/** Stays on in production. `message` names the invariant, not the check. */
export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new InvariantError(message)
}
