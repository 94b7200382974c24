/**
 * Receive and send buffers that are shared by reference count instead of copied, and pooled, because a fresh megabyte
 * costs its page faults (256 of them) about as much as copying it.
 */
import { assert } from '../assert.js'
import type { Hold } from './interfaces.js'

const SMALLEST_SHIFT = 14
const LARGEST_SHIFT = 26
export const SLAB_SIZE_MAX = 1 << LARGEST_SHIFT
/** Idle slabs kept, all sizes together. What comes back beyond it goes to the garbage collector. */
const POOL_BYTES_MAX = 32 << 20

const pools: Slab[][] = []
for (let shift = 0; shift <= LARGEST_SHIFT; shift++) pools.push([])
let pooledBytes = 0
let takenBytes = 0

/** Bytes in slabs that somebody holds, and in those that wait for the next. */
export function slabBytes(): { taken: number; pooled: number } {
  return { taken: takenBytes, pooled: pooledBytes }
}

export class Slab implements Hold {
  /** Its own ArrayBuffer: byteOffset is 0. */
  readonly bytes: Buffer
  readonly size: number
  private references = 1

  constructor(private readonly shift: number) {
    this.size = 2 ** shift
    this.bytes = Buffer.allocUnsafeSlow(this.size)
  }

  /** Only its owner refers to it, who may overwrite it. */
  get unshared(): boolean {
    return this.references === 1
  }

  retain(): void {
    assert(this.references > 0, 'a slab in the pool is not used')
    this.references++
  }

  release(): void {
    assert(this.references > 0, 'a slab is released once by each holder')
    if (--this.references > 0) return
    takenBytes -= this.size
    if (pooledBytes + this.size > POOL_BYTES_MAX) return
    pooledBytes += this.size
    pools[this.shift].push(this)
  }

  /** For takeSlab only. */
  reuse(): void {
    assert(this.references === 0, 'a pooled slab has no holder')
    this.references = 1
  }
}

/** A slab of at least `size` bytes, at most SLAB_SIZE_MAX, content undefined; the caller is its one holder. */
export function takeSlab(size: number): Slab {
  assert(size > 0 && size <= SLAB_SIZE_MAX, `a slab has 1 to ${SLAB_SIZE_MAX} bytes: ${size}`)
  const shift = Math.max(SMALLEST_SHIFT, 32 - Math.clz32(size - 1))
  takenBytes += 2 ** shift
  const slab = pools[shift].pop()
  if (slab === undefined) return new Slab(shift)
  pooledBytes -= slab.size
  slab.reuse()
  return slab
}
