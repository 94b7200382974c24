/** Does what a plan says, phase by phase; when a step fails, what was done before is taken back, newest first. */
import { asSheepError, SheepError } from '../../errors.js'
import type { Shell } from './shell.js'
import type { Phase, Step } from './steps.js'

export interface Reporter {
  /** A phase begins, on these hosts */
  began(title: string, hosts: readonly string[]): void
  done(title: string, ms: number): void
  failed(title: string): void
  /** It is being taken back, and what of that did not work */
  takingBack(): void
  notTakenBack(host: string, why: string): void
}

export interface Carrying {
  shells: ReadonlyMap<string, Shell>
  reporter: Reporter
  /** Right after the phase of this title */
  after?: { title: string; run: () => Promise<void> }
  /** ms, monotonic */
  now: () => number
  /** What completes a run that cannot be taken back: the same command */
  again: string
}

/** SheepError of the first step that failed; all is as it was then, or the message says what is not. */
export async function carryOut(phases: readonly Phase[], carrying: Carrying): Promise<void> {
  const { shells, reporter, after, now } = carrying
  const done: Step[][] = []
  let final = false
  for (const { title, steps, ...phase } of phases) {
    final ||= phase.final === true
    const start = now()
    if (title !== '') reporter.began(title, [...new Set(steps.map(({ host }) => host))])
    // Of a phase that failed all steps are taken back: nobody knows how far one got.
    done.push([...steps])
    const outcomes = await Promise.allSettled([...steps.map((step) => runStep(shells, step))])
    const failures = outcomes.flatMap((outcome) =>
      outcome.status === 'rejected' ? [asSheepError(outcome.reason)] : [],
    )
    if (failures.length === 0 && after !== undefined && after.title === title) {
      await after.run().catch((error: unknown) => failures.push(asSheepError(error)))
    }
    if (failures.length === 0) {
      if (title !== '') reporter.done(title, now() - start)
      continue
    }
    reporter.failed(title)
    const [{ code, message, hint }] = failures
    if (final) throw new SheepError(code, message, `what was done so far stays; ${carrying.again} completes it`)
    const left = await takeBack(done, shells, reporter)
    const state = left === 0 ? 'all hosts are as they were' : 'not all could be taken back, see above'
    throw new SheepError(code, message, `${hint === '' ? '' : `${hint}; `}${state}`)
  }
}

/** How many steps could not be taken back. */
async function takeBack(
  done: readonly Step[][],
  shells: ReadonlyMap<string, Shell>,
  reporter: Reporter,
): Promise<number> {
  reporter.takingBack()
  let left = 0
  for (const steps of [...done].reverse()) {
    await Promise.all(
      steps
        .filter(({ undo }) => undo !== '')
        .map(async (step) => {
          try {
            await runStep(shells, { ...step, script: step.undo })
          } catch (error) {
            left++
            reporter.notTakenBack(step.host, asSheepError(error).message)
          }
        }),
    )
  }
  return left
}

async function runStep(shells: ReadonlyMap<string, Shell>, { host, script, limitMs }: Step): Promise<void> {
  const shell = shells.get(host)
  if (shell === undefined) throw new SheepError('system', `there is no way to ${host}`)
  const { code, stdout, stderr } = await shell.run(script, limitMs)
  if (code === 0) return
  const said = (stderr.trim() || stdout.trim() || `exit code ${code}`).split('\n').slice(-LINES_MAX).join('\n    ')
  throw new SheepError('system', `${host}: ${said}`)
}

const LINES_MAX = 8
