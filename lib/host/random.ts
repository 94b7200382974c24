import { randomBytes, randomFillSync } from 'node:crypto'
import type { Random } from './interfaces.js'

/** From the operating system. Words are drawn in batches: one system call for 256 of them. */
export class RealRandom implements Random {
  private readonly words = new Uint32Array(256)
  private next = this.words.length

  u32(): number {
    if (this.next === this.words.length) {
      randomFillSync(this.words)
      this.next = 0
    }
    return this.words[this.next++]
  }

  hex(bytes: number): string {
    return randomBytes(bytes).toString('hex')
  }
}
