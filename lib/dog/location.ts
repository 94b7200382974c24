/** Where one object is. */
import type { ObjectCopy, ObjectLocation } from '../control/services.js'
import type { NodeSummary } from '../control/verbs.js'
import type { Session } from './session.js'
import { formatSize } from './size.js'
import type { Column } from './table.js'

export function printLocation(session: Session, location: ObjectLocation, nodes: readonly NodeSummary[]): void {
  const byId = new Map(nodes.map((node) => [node.id, node]))
  const columns: readonly Column<ObjectCopy>[] = [
    { title: 'Id', align: 'right', text: (copy) => String(byId.get(copy.node)?.number ?? '?') },
    { title: 'Host:Port', text: (copy) => hostPort(byId.get(copy.node)) || copy.node },
    { title: 'Zone', text: (copy) => byId.get(copy.node)?.zone ?? '' },
    { title: 'Copy', text: (copy) => copy.state },
    { title: 'Used', align: 'right', text: (copy) => formatSize(copy.used), raw: (copy) => copy.used },
    { title: 'Placed here', text: (copy) => (copy.expected ? 'yes' : 'no') },
  ]
  if (session.forPeople) {
    const what = location.index < 0 ? 'inode object' : `data object ${location.index}`
    if (location.owner === 0) {
      session.write(`The ${what} is a hole: nothing was written there, so nothing is stored.\n`)
      return
    }
    session.write(`The ${what} is ${location.oid}, of VDI id ${location.owner.toString(16)}:\n`)
  }
  session.print(location, columns, location.copies)
}

export function hostPort(node: { host: string; port: number } | undefined): string {
  if (node === undefined) return ''
  return node.host.includes(':') ? `[${node.host}]:${node.port}` : `${node.host}:${node.port}`
}
