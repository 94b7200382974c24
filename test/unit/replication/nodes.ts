import type { EpochRecord, NodeInfo } from '../../../lib/cluster/types.js'

export function nodeId(number: number): string {
  return (number + 1).toString(16).repeat(16).slice(0, 16)
}

export function node(number: number, vnodes = 16): NodeInfo {
  const id = nodeId(number)
  return { id, name: `n${number}`, host: '127.0.0.1', port: 7000 + number, zone: id, space: vnodes * 1e9, vnodes }
}

export function epochOf(number: number, nodes: readonly NodeInfo[]): EpochRecord {
  return { number, time: 0, nodes: [...nodes].sort((a, b) => (a.id < b.id ? -1 : 1)) }
}

/** Epochs 1, 2, ... with these nodes, by number. */
export function epochsOf(...lists: readonly (readonly number[])[]): EpochRecord[] {
  return lists.map((numbers, i) =>
    epochOf(
      i + 1,
      numbers.map((number) => node(number)),
    ),
  )
}
