/**
 * npm run simulate -- --help
 *
 * --seed N     replays one seed and prints its trace
 * --seeds N    runs N seeds, from --start (default 1), in --workers processes (default 2); prints seeds per second; a
 *              failing seed prints its trace's end and the line that replays it
 * --worlds W   'hard': with few copies and few kinds of faults, or many hosts; 'lossy', 'spoilt': all hosts, all disks that hold something
 *              are gone; 'power': with power losses before what was written is flushed; 'plugged': disks go and come back (shape.ts, loss.ts)
 * --mutations  switches on each deliberate bug in turn and expects each to be found within 200 seeds
 * --regressions  runs the seeds that once failed
 * --mutate M   with one deliberate bug on
 */
import { fork } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { mutations } from '../../lib/mutations.js'
import { optionsOf, refuse, wholeNumber } from '../support/options.js'
import { REGRESSIONS } from './regressions.js'
import { DISK_FAULTS, type Shape, seedsShape, WORLDS, type Worlds } from './shape.js'
import { sheep } from './sheep.js'
import { type Result, World } from './world.js'

const USAGE =
  'npm run simulate -- [--seed N | --seeds N [--start M] [--workers W]] [--worlds W] [--mutate NAME] | --mutations [--start M] | --regressions'

const MUTATION_SEEDS_MAX = 200
/** Where the bug can do harm, when not in ordinary worlds */
const MUTATION_WORLDS: Partial<Record<keyof typeof mutations, Worlds>> = {
  trustLostDisk: 'spoilt',
  zerosForLost: 'lossy',
  believeFlush: 'power',
}
const TRACE_LINES_SHOWN = 60

type Mutation = keyof typeof mutations

/** Of which kind the worlds are, and the deliberate bug that is on, '' none. */
interface Setting {
  worlds: Worlds
  mutation: string
}

export function simulate(seed: number, worlds: Worlds, tracing = false): Promise<Result> {
  const forced = { ...WORLDS[worlds](seed), ...forMutation(seed) }
  return new World(seed, sheep, tracing, forced).run()
}

/** A deliberate bug is looked for where it could do harm. */
function forMutation(seed: number): Partial<Shape> {
  if (mutations.trustReturningDisk) return disks(seed)
  if (mutations.trustPausedGateway) return { takeovers: 0.4, faults: [] }
  return {}
}

/** Bugs of disks that come and go are looked for where there are several in every world, with all that may happen to them. */
function disks(seed: number): Partial<Shape> {
  const { faults } = seedsShape(seed)
  return { disks: 2 + (seed % 2), copies: 2 + (seed % 2), faults: [...faults, ...DISK_FAULTS] }
}

function replayLine(seed: number, { worlds, mutation }: Setting): string {
  const kind = worlds === 'ordinary' ? '' : ` --worlds ${worlds}`
  return `npm run simulate -- --seed ${seed}${kind}${mutation === '' ? '' : ` --mutate ${mutation}`}`
}

async function replay(seed: number, setting: Setting): Promise<boolean> {
  const result = await simulate(seed, setting.worlds, true)
  const file = join(tmpdir(), `seed-${seed}.trace`)
  writeFileSync(file, `${result.trace.join('\n')}\n`)
  for (const line of result.trace.slice(-TRACE_LINES_SHOWN)) console.log(line)
  console.log(`trace: ${file} (${result.trace.length} lines)`)
  describe(result)
  if (result.violation) {
    console.log(result.violation.stack)
    console.log(`replay: ${replayLine(seed, setting)}`)
  }
  return result.violation === null
}

function describe(result: Result): void {
  const verdict = result.violation ? `FAILED ${result.violation.message}` : 'ok'
  console.log(
    `seed ${result.seed}: ${verdict} (${result.events} events, ${(result.time / 1000).toFixed(0)} s simulated, ` +
      `${result.requests} requests, ${result.faults} faults, hash ${result.hash})`,
  )
}

/** Seeds start, start + stride, ... below end. Calls `each`; stops when it returns false. */
async function range(
  [start, end, stride]: readonly number[],
  worlds: Worlds,
  each: (result: Result) => boolean,
): Promise<void> {
  for (let seed = start; seed < end; seed += stride) if (!each(await simulate(seed, worlds))) return
}

async function many(start: number, count: number, workers: number, setting: Setting): Promise<boolean> {
  const began = performance.now()
  const failed: { seed: number; message: string }[] = []
  let done = 0
  const report = (seed: number, message: string): void => {
    done++
    if (message !== '') {
      failed.push({ seed, message })
      console.log(`seed ${seed}: FAILED ${message}\n  replay: ${replayLine(seed, setting)}`)
    }
    if (done % 500 === 0)
      console.log(`${done} seeds, ${(done / ((performance.now() - began) / 1000)).toFixed(1)} a second`)
  }
  const self = process.argv[1]
  await Promise.all(
    Array.from({ length: workers }, (_, i) => {
      const { worlds, mutation } = setting
      const child = fork(self, [
        ...['--child', `${start + i},${start + count},${workers}`],
        ...['--worlds', worlds, '--mutate', mutation],
      ])
      child.on('message', (message: { seed: number; message: string }) => report(message.seed, message.message))
      return new Promise<void>((resolve, reject) =>
        child.on('exit', (code) => (code === 0 ? resolve() : reject(new Error(`a worker ended with ${code}`)))),
      )
    }),
  )
  const seconds = (performance.now() - began) / 1000
  failed.sort((a, b) => a.seed - b.seed)
  console.log(
    `${done} seeds in ${seconds.toFixed(1)} s, ${(done / seconds).toFixed(1)} seeds per second, ${failed.length} failed`,
  )
  if (failed.length > 0 && setting.mutation === '') await replay(failed[0].seed, setting)
  return failed.length === 0 && done === count
}

async function allRegressions(): Promise<boolean> {
  let all = true
  for (const { seed, worlds = 'ordinary', cause } of REGRESSIONS) {
    const result = await simulate(seed, worlds)
    if (!result.violation) continue
    all = false
    console.log(`once failed because ${cause}:`)
    describe(result)
  }
  if (all) console.log(`${REGRESSIONS.length} seeds that once failed pass`)
  return all
}

async function allMutations(first: number): Promise<boolean> {
  let all = true
  for (const name of Object.keys(mutations) as Mutation[]) {
    mutations[name] = true
    let found: Result | null = null
    let tried = 0
    await range([first, first + MUTATION_SEEDS_MAX, 1], MUTATION_WORLDS[name] ?? 'ordinary', (result) => {
      tried++
      if (result.violation) found = result
      return found === null
    })
    mutations[name] = false
    const result = found as Result | null
    if (result)
      console.log(`${name}: found by seed ${result.seed}, the ${tried}th: ${result.violation!.message.slice(0, 160)}`)
    else console.log(`${name}: NOT FOUND in ${tried} seeds`)
    all &&= result !== null
  }
  return all
}

async function main(): Promise<boolean> {
  const { values } = optionsOf(USAGE, {
    options: {
      seed: { type: 'string' },
      seeds: { type: 'string' },
      start: { type: 'string' },
      workers: { type: 'string', default: '2' },
      mutations: { type: 'boolean', default: false },
      regressions: { type: 'boolean', default: false },
      worlds: { type: 'string', default: 'ordinary' },
      mutate: { type: 'string', default: '' },
      child: { type: 'string' },
    },
  })
  const number = (option: string, text: string) => wholeNumber(USAGE, option, text)
  const mutation = values.mutate
  if (mutation !== '') {
    if (!Object.hasOwn(mutations, mutation)) {
      refuse(USAGE, `no mutation ${mutation}; there are ${Object.keys(mutations).join(', ')}`)
    }
    mutations[mutation as Mutation] = true
  }
  if (!Object.hasOwn(WORLDS, values.worlds)) {
    refuse(USAGE, `no worlds ${values.worlds}; there are ${Object.keys(WORLDS).join(', ')}`)
  }
  const setting: Setting = { worlds: values.worlds as Worlds, mutation }
  if (values.child !== undefined) {
    await range(values.child.split(',').map(Number), setting.worlds, (result) => {
      // Not so any more: the one who counts was killed.
      if (process.connected) process.send!({ seed: result.seed, message: result.violation?.message ?? '' })
      return process.connected
    })
    if (process.connected) process.disconnect()
    return true
  }
  if (values.regressions) return allRegressions()
  if (values.mutations) return allMutations(number('start', values.start ?? '1'))
  if (values.seeds !== undefined)
    return many(
      number('start', values.start ?? '1'),
      number('seeds', values.seeds),
      number('workers', values.workers),
      setting,
    )
  return replay(number('seed', values.seed ?? '1'), setting)
}

if (process.argv[1]?.endsWith('test/simulation/run.js')) {
  if (!(await main())) process.exitCode = 1
}
