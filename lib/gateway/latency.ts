/** How long requests took, in fixed buckets: plain numbers that somebody reads now and then, nothing is made for a request. */

export const LATENCY_OPERATIONS = ['read', 'write', 'discard', 'flush'] as const
/** Seconds; what took longer than the last is counted beyond it */
export const LATENCY_BOUNDS: readonly number[] = [
  0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30,
]
const BOUNDS_MS = Float64Array.from(LATENCY_BOUNDS, (seconds) => seconds * 1000)
const WIDTH = BOUNDS_MS.length + 1

export class Latency {
  /** Of each operation, `WIDTH` numbers: not cumulative */
  private readonly counts = new Float64Array(LATENCY_OPERATIONS.length * WIDTH)
  private readonly sums = new Float64Array(LATENCY_OPERATIONS.length)

  /** @param operation index into LATENCY_OPERATIONS */
  observe(operation: number, ms: number): void {
    let bucket = 0
    while (bucket < BOUNDS_MS.length && ms > BOUNDS_MS[bucket]) bucket++
    this.counts[operation * WIDTH + bucket]++
    this.sums[operation] += ms
  }

  /** How many took up to each bound, then how many there were; and their sum, seconds */
  report(operation: number): { cumulative: number[]; seconds: number } {
    let sum = 0
    const cumulative = Array.from(this.counts.subarray(operation * WIDTH, (operation + 1) * WIDTH), (count) => {
      sum += count
      return sum
    })
    return { cumulative, seconds: this.sums[operation] / 1000 }
  }
}
