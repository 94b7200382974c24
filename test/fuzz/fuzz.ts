/** One parser, many inputs from one seed: what came of them. */
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { SimRandom } from '../simulation/random.js'
import { harnessOf } from './parsers.js'
import type { Report, Task } from './worker.js'

/** An input takes microseconds; on a machine that does other things, too, still no time like this. */
const HANG_MS_MAX = 20_000
const LOOK_MS = 500
const HEAP_MB_MAX = 400

export interface Outcome {
  parser: string
  inputs: number
  /** Share of inputs that got past the first checks */
  deep: number
  seconds: number
  /** Bytes in use by the thread at most, as far as looked */
  peak: number
  /** '' none; else what went wrong, with the input and how to repeat it */
  failure: string
}

function describe(input: readonly Buffer[]): string {
  const whole = Buffer.concat(input as Buffer[])
  const hex = whole.subarray(0, 2048).toString('hex')
  return `${whole.length} bytes in pieces of ${input.map((piece) => piece.length).slice(0, 50)}: ${hex}`
}

export async function fuzz(
  parser: string,
  seed: number,
  first: number,
  count: number,
  hangMs = HANG_MS_MAX,
): Promise<Outcome> {
  const harness = harnessOf(parser)
  const shared = new SharedArrayBuffer(8)
  const counters = new Int32Array(shared)
  const task: Task = { parser, seed, first, count, shared }
  const began = performance.now()
  const worker = new Worker(join(import.meta.dirname, 'worker.js'), {
    workerData: task,
    resourceLimits: { maxOldGenerationSizeMb: HEAP_MB_MAX },
  })
  let peak = 0
  const failed = await new Promise<string>((resolve) => {
    let at = -1
    let since = performance.now()
    const look = setInterval(() => {
      const now = Atomics.load(counters, 0)
      if (now !== at) {
        at = now
        since = performance.now()
      } else if (performance.now() - since > hangMs) end(`no end within ${hangMs / 1000} s`)
    }, LOOK_MS)
    const end = (reason: string): void => {
      clearInterval(look)
      resolve(reason)
    }
    worker.on('message', (report: Report) => {
      if ('failed' in report) end(report.failed)
      else {
        peak = report.peak
        end('')
      }
    })
    worker.on('error', (error) => end(error.stack ?? error.message))
    worker.on('exit', () => end('the thread ended'))
  })
  const number = Atomics.load(counters, 0)
  await worker.terminate()
  const inputs = failed === '' ? count : number - first + 1
  const outcome = { parser, inputs, deep: Atomics.load(counters, 1) / inputs, seconds: 0, peak, failure: '' }
  outcome.seconds = (performance.now() - began) / 1000
  if (failed !== '') {
    const input = harness.make(new SimRandom(seed, number))
    outcome.failure =
      `${parser}: input ${number} of seed ${seed}: ${failed}\n${describe(input)}\n` +
      `again: npm run fuzz -- --parser ${parser} --seed ${seed} --input ${number}`
  }
  return outcome
}
