/** What people see of hosts and plans. */
import { formatSize } from '../size.js'
import { type Column, formatTable, printable } from '../table.js'
import type { Plan, Problem, Surveyed } from './plan.js'
import type { Phase } from './steps.js'

const COLUMNS: readonly Column<Surveyed>[] = [
  { title: 'Host', text: ({ host }) => host },
  { title: 'Address', text: ({ address }) => address },
  { title: 'System', text: ({ facts }) => facts.system[0] ?? '?' },
  { title: 'Corosync', text: ({ facts }) => software(facts.packages.corosync, facts.services.corosync) },
  { title: 'Sheepdog', text: ({ facts }) => software(facts.packages.sheepdog, facts.services.sheepdog) },
  { title: 'Cluster', text: ({ facts }) => facts.storeCluster || '-' },
  { title: 'Free', align: 'right', text: ({ facts }) => formatSize(facts.free) },
]

export function hostTable(hosts: readonly Surveyed[]): string {
  return formatTable(COLUMNS, hosts)
}

function software(
  { present, installable }: { present: boolean; installable: boolean },
  { active }: { active: boolean },
): string {
  if (!present) return installable ? 'to install' : 'missing'
  return active ? 'runs' : 'installed'
}

export function problemList(problems: readonly Problem[]): string {
  return problems
    .map(
      ({ host, text, hint }) => `  ${printable(`${host}: ${text}`)}\n${hint === '' ? '' : `    ${printable(hint)}\n`}`,
    )
    .join('')
}

/** `1. write corosync.conf beside       host1, host2` */
export function planList({ phases, notes }: Plan, hosts: readonly Surveyed[]): string {
  const shown = phases.filter(({ title }) => title !== '')
  const width = Math.max(0, ...shown.map(({ title }) => title.length))
  const lines = shown.map((phase, at) => {
    return `  ${String(at + 1).padStart(2)}. ${phase.title.padEnd(width)}  ${hostsOf(phase, hosts)}\n`
  })
  return lines.join('') + notes.map((note) => `  Note: ${printable(note)}\n`).join('')
}

function hostsOf({ steps }: Phase, hosts: readonly Surveyed[]): string {
  const names = [...new Set(steps.map(({ host }) => host))]
  return names.length === hosts.length && names.length > 1 ? 'all hosts' : names.join(', ')
}
