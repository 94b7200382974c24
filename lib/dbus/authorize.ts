/**
 * Whether a caller may do what it asks for. Root may, and so may this daemon's own user; for others polkit decides
 * (org.freedesktop.PolicyKit1.Authority, polkit's reference manual), by the actions in systemd/org.sheepdog.policy.
 */
import { type Bus, NO_ANSWER } from './bus.js'
import { FLAG_INTERACTIVE, type Incoming, variant } from './codec.js'
import type { Action } from './methods.js'
import { CallError, NOT_AUTHORIZED, STANDARD_ERRORS } from './names.js'

/** For rules; polkit may have to be started first */
const DECISION_MS = 25_000
/** For a person who types a password */
const PASSWORD_MS = 120_000

/** CheckAuthorizationFlags */
const ALLOW_USER_INTERACTION = 1

const authority = {
  destination: 'org.freedesktop.PolicyKit1',
  path: '/org/freedesktop/PolicyKit1/Authority',
  interface: 'org.freedesktop.PolicyKit1.Authority',
}

let questions = 0

/** The caller's user id. CallError: it may not, nobody can say, or it has gone. */
export async function authorize(
  bus: Bus,
  { sender, flags }: Incoming,
  action: Exclude<Action, ''>,
  details: Record<string, string>,
): Promise<number> {
  const user = await bus.userOf(sender)
  if (user === 0 || user === process.geteuid?.()) return user
  const interactive = (flags & FLAG_INTERACTIVE) !== 0
  const question = `sheepdog-${++questions}`
  const check = {
    ...authority,
    member: 'CheckAuthorization',
    signature: '(sa{sv})sa{ss}us',
    body: [
      ['system-bus-name', { name: variant('s', sender) }],
      action,
      details,
      interactive ? ALLOW_USER_INTERACTION : 0,
      question,
    ],
  }
  let answer: Incoming
  try {
    answer = await bus.call(check, interactive ? PASSWORD_MS : DECISION_MS)
  } catch (error) {
    if (!(error instanceof CallError)) throw error
    if (error.errorName === NO_ANSWER) cancel(bus, question)
    throw refusal(action, `polkit cannot be asked (${error.message}); without it only root may`)
  }
  const [[allowed, challenge]] = answer.body as [[boolean, boolean]]
  if (allowed) return user
  if (challenge && !interactive) {
    const text = `${action} needs a password: call with interactive authorization allowed, or as root`
    throw new CallError(STANDARD_ERRORS.authorizationNeeded, text)
  }
  throw refusal(action, 'polkit does not allow it: ask an administrator for a rule, or call as root')
}

function refusal(action: string, why: string): CallError {
  return new CallError(NOT_AUTHORIZED, `not authorized for ${action}: ${why}`)
}

/** Its window is closed; whether that worked changes nothing for the caller. */
function cancel(bus: Bus, question: string): void {
  const call = { ...authority, member: 'CancelCheckAuthorization', signature: 's', body: [question] }
  bus.call(call, DECISION_MS).catch(() => {})
}
