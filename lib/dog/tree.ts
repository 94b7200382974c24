/** The family of volumes: which snapshot or clone came from which. */
import type { VdiInfo } from '../control/verbs.js'
import { formatTime } from './size.js'
import { rawField } from './table.js'

export class VdiNode {
  readonly children: VdiNode[] = []

  constructor(readonly vdi: VdiInfo) {}

  contains(name: string): boolean {
    return this.vdi.name === name || this.children.some((child) => child.contains(name))
  }

  toJSON(): unknown {
    return { ...this.vdi, children: this.children }
  }
}

/** Roots: those whose parent is no more, or never was. Children in the order of the list. */
export function treeOf(vdis: readonly VdiInfo[]): VdiNode[] {
  const nodes = new Map(vdis.map((vdi) => [vdi.vid, new VdiNode(vdi)]))
  const roots: VdiNode[] = []
  for (const node of nodes.values()) {
    const parent = nodes.get(node.vdi.parent)
    if (parent === undefined) roots.push(node)
    else parent.children.push(node)
  }
  return roots
}

/** Raw: a line per VDI, its depth first. */
export function formatTree(roots: readonly VdiNode[], raw: boolean): string {
  const lines: string[] = []
  for (const root of roots) {
    if (raw) addRaw(root, 0, lines)
    else addLines(root, '', '', lines)
  }
  return lines.map((line) => `${line}\n`).join('')
}

function addRaw(node: VdiNode, depth: number, lines: string[]): void {
  const { vdi } = node
  lines.push([depth, vdi.name, vdi.id, vdi.tag, vdi.vid.toString(16)].map(rawField).join(' '))
  for (const child of node.children) addRaw(child, depth + 1, lines)
}

function addLines(node: VdiNode, lead: string, below: string, lines: string[]): void {
  lines.push(`${lead}${label(node.vdi)}`)
  node.children.forEach((child, i) => {
    const last = i === node.children.length - 1
    addLines(child, `${below}${last ? '└─ ' : '├─ '}`, `${below}${last ? '   ' : '│  '}`, lines)
  })
}

function label(vdi: VdiInfo): string {
  if (!vdi.snapshot) return `${vdi.name}  (volume)`
  return `${vdi.name}@${vdi.tag || vdi.id}  ${formatTime(vdi.created)}`
}
