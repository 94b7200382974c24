/** Runs inputs in a thread of its own, so that one which never ends, or eats all memory, can be told and stopped. */
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { parentPort, workerData } from 'node:worker_threads'
import { slabBytes } from '../../lib/host/slab.js'
import { SimRandom } from '../simulation/random.js'
import { harnessOf } from './parsers.js'

export interface Task {
  parser: string
  seed: number
  first: number
  count: number
  /** Int32: which input is being taken, how many got past the first checks */
  shared: SharedArrayBuffer
}

export type Report = { failed: string } | { peak: number }

const CHECK_EVERY = 256
/** What may be alive after a collection beyond what was after the first WARM inputs. */
const GROWTH_MAX = 48 << 20
const WARM = 1024
/** Beyond this it is worth a collection to know what is alive. */
const DOUBT = 96 << 20
const COLLECTIONS = 10

const task = workerData as Task
const counters = new Int32Array(task.shared)
const harness = harnessOf(task.parser)
setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as () => void

export function inputRandom(seed: number, number: number): SimRandom {
  return new SimRandom(seed, number)
}

function inUse(): number {
  const { heapUsed, external } = process.memoryUsage()
  // Buffers that wait for the next user are bounded by themselves.
  return heapUsed + external - slabBytes().pooled
}

function fail(error: unknown): void {
  parentPort?.postMessage({ failed: error instanceof Error ? (error.stack ?? error.message) : String(error) })
  // Nothing after it counts.
  process.exit(1)
}

process.on('uncaughtException', fail)
process.on('unhandledRejection', fail)

let base = 0
let peak = 0
for (let i = task.first; i < task.first + task.count; i++) {
  Atomics.store(counters, 0, i)
  const random = inputRandom(task.seed, i)
  const input = harness.make(random)
  try {
    const taken = harness.take(input, random)
    if (taken instanceof Promise ? await taken : taken) Atomics.add(counters, 1, 1)
  } catch (error) {
    fail(error)
  }
  const done = i - task.first + 1
  // Rejections and late callbacks of parsers that never wait are heard between turns.
  if (done % CHECK_EVERY === 0) {
    await new Promise((resolve) => setImmediate(resolve))
    let bytes = inUse()
    peak = Math.max(peak, bytes)
    if (done === WARM) {
      collect()
      base = inUse()
    } else if (done > WARM && bytes > base + DOUBT) {
      // Array buffers are swept a little later than their owners.
      for (let tries = 0; tries < COLLECTIONS && bytes > base + GROWTH_MAX; tries++) {
        collect()
        await new Promise((resolve) => setTimeout(resolve, 20))
        bytes = inUse()
      }
      if (bytes > base + GROWTH_MAX) fail(`${bytes - base} bytes are alive beyond the ${base} after ${WARM} inputs`)
    }
  }
}
await new Promise((resolve) => setImmediate(resolve))
parentPort?.postMessage({ peak })
