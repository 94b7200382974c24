/**
 * Every failure that a user can meet, once: its stable code, and what each front-end calls it. Expected failures are
 * `SheepError`s; a broken invariant is an `assert` and stops the daemon.
 *
 * result: sheepdog wire protocol result (shared facts: wire-protocol.md, "Results").
 * errno:  what a kernel or NBD client gets (NBD's errno values are Linux's; NBD spec, "Error values").
 * exit:   exit code of `dog` (1 failure, 2 usage, 3 not found, 4 exists, 5 cluster not ready, 6 busy/locked, 7 no space).
 */
export const ERRORS = {
  unknown: { result: 1, errno: 5, exit: 1 },
  io: { result: 3, errno: 5, exit: 1 },
  invalid: { result: 5, errno: 22, exit: 2 },
  'no-object': { result: 2, errno: 5, exit: 3 },
  'not-found': { result: 8, errno: 2, exit: 3 },
  'no-tag': { result: 14, errno: 2, exit: 3 },
  exists: { result: 4, errno: 17, exit: 4 },
  locked: { result: 7, errno: 16, exit: 6 },
  'not-locked': { result: 16, errno: 22, exit: 1 },
  busy: { result: 6, errno: 16, exit: 6 },
  'read-only': { result: 26, errno: 1, exit: 1 },
  'no-space': { result: 21, errno: 28, exit: 7 },
  'table-full': { result: 19, errno: 28, exit: 7 },
  'starting-up': { result: 15, errno: 11, exit: 5 },
  'wait-for-format': { result: 22, errno: 11, exit: 5 },
  'wait-for-join': { result: 23, errno: 11, exit: 5 },
  'join-failed': { result: 24, errno: 11, exit: 5 },
  'shutting-down': { result: 17, errno: 108, exit: 5 },
  halted: { result: 25, errno: 5, exit: 5 },
  version: { result: 20, errno: 71, exit: 1 },
  'too-big': { result: 5, errno: 27, exit: 2 },
  unsupported: { result: 5, errno: 95, exit: 1 },
  timeout: { result: 6, errno: 110, exit: 1 },
  unreachable: { result: 6, errno: 113, exit: 5 },
  system: { result: 6, errno: 5, exit: 1 },
  permission: { result: 6, errno: 13, exit: 1 },
} as const

export type ErrorCode = keyof typeof ERRORS

export class SheepError extends Error {
  override readonly name = 'SheepError'

  /**
   * @param message one sentence that names the thing and what is wrong with it
   * @param hint what to do next: a command to type where there is one
   */
  constructor(
    readonly code: ErrorCode,
    message: string,
    readonly hint = '',
  ) {
    super(message)
  }

  /** For a log, in one line */
  get withHint(): string {
    return this.hint === '' ? this.message : `${this.message}; ${this.hint}`
  }

  get result(): number {
    return ERRORS[this.code].result
  }

  get errno(): number {
    return ERRORS[this.code].errno
  }

  get exitCode(): number {
    return ERRORS[this.code].exit
  }
}

export function isErrorCode(code: string): code is ErrorCode {
  return Object.hasOwn(ERRORS, code)
}

/** For a log's line, which has no field for what there is nothing to say of. */
export function hintField({ hint }: SheepError): { hint: string } | undefined {
  return hint === '' ? undefined : { hint }
}

/** Any thrown value as a SheepError, so that edges have one shape to report. */
export function asSheepError(error: unknown): SheepError {
  if (error instanceof SheepError) return error
  return new SheepError('system', error instanceof Error ? error.message : String(error))
}
