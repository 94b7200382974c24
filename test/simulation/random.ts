/**
 * The simulator's only source of chance: sfc32 (32-bit, passes PractRand), seeded by one number, splittable, so that
 * drawing more numbers in one part of the world does not shift what another part draws.
 */
import type { Random } from '../../lib/host/interfaces.js'

export class SimRandom implements Random {
  #a: number
  #b: number
  #c: number
  #counter = 1

  constructor(seedLow: number, seedHigh = 0) {
    this.#a = seedLow | 0
    this.#b = seedHigh | 0
    this.#c = 0x9e3779b9
    for (let i = 0; i < 12; i++) this.u32()
  }

  u32(): number {
    const t = (((this.#a + this.#b) | 0) + this.#counter) | 0
    this.#counter = (this.#counter + 1) | 0
    this.#a = this.#b ^ (this.#b >>> 9)
    this.#b = (this.#c + (this.#c << 3)) | 0
    this.#c = (this.#c << 21) | (this.#c >>> 11)
    this.#c = (this.#c + t) | 0
    return t >>> 0
  }

  hex(bytes: number): string {
    let text = ''
    while (text.length < bytes * 2) text += this.u32().toString(16).padStart(8, '0')
    return text.slice(0, bytes * 2)
  }

  /** An independent stream. */
  split(): SimRandom {
    return new SimRandom(this.u32(), this.u32())
  }

  /** Uniform in [0, 1). */
  float(): number {
    return this.u32() / 0x100000000
  }

  /** Uniform in [0, n), n >= 1. */
  below(n: number): number {
    return Math.floor(this.float() * n)
  }

  /** Uniform integer in [low, high]. */
  between(low: number, high: number): number {
    return low + this.below(high - low + 1)
  }

  chance(probability: number): boolean {
    return this.float() < probability
  }

  /** Exponential with this mean: waiting times. */
  exponential(mean: number): number {
    return -Math.log(1 - this.float()) * mean
  }

  pick<T>(list: readonly T[]): T {
    if (list.length === 0) throw new Error('pick from an empty list')
    return list[this.below(list.length)]
  }

  /** In place; returns its argument. */
  shuffle<T>(list: T[]): T[] {
    for (let i = list.length - 1; i > 0; i--) {
      const j = this.below(i + 1)
      const swap = list[i]
      list[i] = list[j]
      list[j] = swap
    }
    return list
  }
}
