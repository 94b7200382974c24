/**
 * npm run torture -- [--kind KIND] [--rounds N] [--seed S]
 *
 * --kind    kill: a random daemon, the gateway too, is killed (default 100 rounds); kill-all: all at once under flushes (20);
 *           stop: a random daemon is stopped and continued (10); full: a file system of 200 MB is filled (1); files: 200,000 random
 *           operations on files of the volumes directory, compared with a model (1). Default: all
 * --rounds  of each kind
 * --seed    default 1
 */
import { optionsOf, refuse, wholeNumber } from '../support/options.js'
import { exerciseFiles } from './files.js'
import { fillDisks } from './full.js'
import { type Kind, kinds, torture } from './torture.js'

const usage = 'npm run torture -- [--kind kill|kill-all|stop|full|files] [--rounds N] [--seed S]'
const roundsDefault: Record<Kind | 'full' | 'files', number> = {
  kill: 100,
  'kill-all': 20,
  stop: 10,
  full: 1,
  files: 1,
}

const { values } = optionsOf(usage, {
  options: {
    kind: { type: 'string' },
    rounds: { type: 'string' },
    seed: { type: 'string', default: '1' },
  },
})
const log = (text: string): void => console.log(text)

const all = [...kinds, 'full', 'files'] as const
const chosen = values.kind === undefined ? all : all.filter((kind) => kind === values.kind)
if (chosen.length === 0) refuse(usage, `no kind ${values.kind}`)
const seed = wholeNumber(usage, 'seed', values.seed)
for (const kind of chosen) {
  const rounds = values.rounds === undefined ? roundsDefault[kind] : wholeNumber(usage, 'rounds', values.rounds)
  try {
    if (kind === 'files') {
      for (let round = 0; round < rounds; round++) await exerciseFiles(seed + round, log)
    } else if (kind === 'full') for (let round = 0; round < rounds; round++) await fillDisks(log)
    else {
      const result = await torture({ kind, rounds, seed, log })
      log(
        `${kind}: ${result.rounds} rounds in ${result.seconds.toFixed(0)} s, ${result.verified} blocks written and verified, ` +
          `the longest wait for one ${result.longest.toFixed(1)} s: no error, all copies identical`,
      )
    }
  } catch (error) {
    log(`${kind}: FAILED: ${(error as Error).message}`)
    process.exitCode = 1
  }
}
