/** A promise of the design that was broken, or a harness that cannot go on. `kind` is short and stable; the rest is for people. */
export class Violation extends Error {
  override readonly name = 'Violation'

  constructor(
    readonly kind: string,
    detail: string,
    stack?: string,
  ) {
    super(`${kind}: ${detail}`)
    if (stack) this.stack = stack
  }
}
