/**
 * npm run fuzz -- [--parser NAME] [--inputs N] [--seed S] [--input I]
 *
 * --parser NAME  only this one (default: all, in turn)
 * --inputs N     default 1000000 each
 * --seed S       default 1
 * --input I      only this input of the seed: what a failure names
 */
import { spawnSync } from 'node:child_process'
import { optionsOf, refuse, wholeNumber } from '../support/options.js'
import { fuzz } from './fuzz.js'
import { PARSERS } from './parsers.js'

const USAGE = 'npm run fuzz -- [--parser NAME] [--inputs N] [--seed S] [--input I]'
const INPUTS = 1_000_000
const MIB = 2 ** 20

const { values } = optionsOf(USAGE, {
  options: {
    parser: { type: 'string' },
    inputs: { type: 'string', default: String(INPUTS) },
    seed: { type: 'string', default: '1' },
    input: { type: 'string' },
  },
})

const seed = wholeNumber(USAGE, 'seed', values.seed)
const inputs = wholeNumber(USAGE, 'inputs', values.inputs)
const parser = values.parser
if (parser === undefined) {
  if (values.input !== undefined) refuse(USAGE, '--input needs --parser')
  // A process each: the peak of memory is the parser's own.
  const words = process.argv.slice(2)
  const codes = Object.keys(PARSERS).map((name) => {
    return spawnSync(process.execPath, [process.argv[1], '--parser', name, ...words], { stdio: 'inherit' }).status
  })
  process.exitCode = codes.every((code) => code === 0) ? 0 : 1
} else {
  if (!Object.hasOwn(PARSERS, parser))
    refuse(USAGE, `no parser ${parser}: there are ${Object.keys(PARSERS).join(', ')}`)
  const one = values.input === undefined ? null : wholeNumber(USAGE, 'input', values.input)
  const { deep, seconds, failure, ...outcome } = await fuzz(parser, seed, one ?? 0, one === null ? inputs : 1)
  const memory = `${(process.resourceUsage().maxRSS / 1024).toFixed(0)} MiB of memory, ${(outcome.peak / MIB).toFixed(0)} in use`
  console.log(
    `${parser}: ${outcome.inputs} inputs in ${seconds.toFixed(1)} s (${(outcome.inputs / seconds).toFixed(0)} a second), ` +
      `${(deep * 100).toFixed(0)}% past the first checks, at most ${memory}: ${failure === '' ? 'no crash, no hang' : 'FAILED'}`,
  )
  if (failure !== '') {
    console.log(failure)
    process.exitCode = 1
  }
}
