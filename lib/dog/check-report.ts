/** What a check found, and the exit code that says so. */
import type { CheckProblem, CheckReport } from '../control/services.js'
import { SheepError } from '../errors.js'
import type { Session } from './session.js'
import { formatSize } from './size.js'
import type { Column } from './table.js'

const COLUMNS: readonly Column<CheckProblem>[] = [
  { title: 'Object', text: (problem) => problem.oid },
  { title: 'Problem', text: (problem) => problem.kind },
  { title: 'Nodes', text: (problem) => problem.nodes.join(',') },
  { title: 'Repaired', text: (problem) => (problem.repaired ? 'yes' : 'no') },
]

/** Throws SheepError io when problems remain: exit code 1. */
export function printCheck(session: Session, what: string, report: CheckReport): void {
  const { problems } = report
  const open = problems.filter((problem) => !problem.repaired)
  if (session.forPeople) {
    if (problems.length > 0) session.print(report, COLUMNS, problems)
    const compared = `${report.objects} objects, ${formatSize(report.bytes)} compared`
    if (problems.length === 0) session.write(`${what}: all copies are identical (${compared}).\n`)
    else
      session.write(
        `${what}: ${problems.length - open.length} of ${problems.length} problems repaired (${compared}).\n`,
      )
  } else {
    session.print(report, COLUMNS, problems)
  }
  if (open.length === 0) return
  const lost = open.some((problem) => problem.kind === 'lost')
  const rotten = open.some((problem) => problem.kind === 'bit-rot')
  throw new SheepError(
    'io',
    `${what}: ${open.length} ${open.length === 1 ? 'object is' : 'objects are'} not right`,
    lost
      ? 'lost objects come back only with a node or disk that has them: dog cluster lost says which'
      : rotten
        ? 'bytes that rotted on every node are unreadable until they are written anew: dog cluster scrub says which'
        : 'run it again with --repair; if that does not help, dog node log says why',
  )
}
