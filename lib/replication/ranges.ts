import type { Damage } from '../store/types.js'

/** A set of bytes as sorted ranges that neither overlap nor touch. */
export class Ranges {
  private readonly starts: number[] = []
  private readonly ends: number[] = []

  get count(): number {
    return this.starts.length
  }

  add(start: number, end: number): void {
    if (start >= end) return
    // Those from `first` on that end at or after our start, before `last` that begin at or before our end: one with ours.
    const first = this.firstEndingFrom(start)
    let last = first
    while (last < this.starts.length && this.starts[last] <= end) last++
    if (last > first) {
      start = Math.min(start, this.starts[first])
      end = Math.max(end, this.ends[last - 1])
    }
    this.starts.splice(first, last - first, start)
    this.ends.splice(first, last - first, end)
  }

  /** Calls `gap` for each part of [start, end) that is not in the set, in order. */
  gaps(start: number, end: number, gap: (start: number, end: number) => void): void {
    let at = start
    for (let i = this.firstEndingFrom(start); i < this.starts.length && this.starts[i] < end; i++) {
      if (this.starts[i] > at) gap(at, this.starts[i])
      at = Math.max(at, this.ends[i])
    }
    if (at < end) gap(at, end)
  }

  private firstEndingFrom(position: number): number {
    let low = 0
    let high = this.ends.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if (this.ends[middle] < position) low = middle + 1
      else high = middle
    }
    return low
  }
}

/** What lies outside the rotten chunks. Of those the checksums go along, and nothing else: the disk may not be able to read them. */
export function outside(extents: readonly [number, number][], { shift, chunks }: Damage): [number, number][] {
  const parts: [number, number][] = []
  for (const [offset, length] of extents) {
    let at = offset
    for (const chunk of chunks) {
      const start = chunk * 2 ** shift
      const end = start + 2 ** shift
      if (end <= at || start >= offset + length) continue
      if (start > at) parts.push([at, start - at])
      at = end
    }
    if (at < offset + length) parts.push([at, offset + length - at])
  }
  return parts
}
