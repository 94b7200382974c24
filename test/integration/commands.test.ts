/** The commands of the README, as a newcomer runs them. */
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { must, run } from '../support/process.js'

const built = join(import.meta.dirname, '..')
const quickstart = join(built, 'quickstart', 'main.js')
const bench = join(built, 'bench', 'main.js')

function temporary(): string {
  return mkdtempSync(join(tmpdir(), 'sheep-commands-'))
}

test.serial(
  'quickstart does the main job, leaves a cluster that works, and can be run again and stopped',
  async (t) => {
    t.timeout(4 * 60_000)
    const parent = temporary()
    const directory = join(parent, 'site')
    t.teardown(async () => {
      await run(process.execPath, [quickstart, 'stop', '--directory', directory])
      rmSync(parent, { recursive: true })
    })
    for (let time = 1; time <= 2; time++) {
      const { stdout } = await must(process.execPath, [quickstart, 'start', '--directory', directory], {
        limit: 180_000,
      })
      t.is(stdout.match(/Images are identical/g)?.length, 3)
      t.regex(stdout, /kill -9/)
      t.regex(stdout, /all copies are identical/)
      t.regex(stdout, /The cluster is running/)
    }
    const nodes = await must(join(directory, 'bin', 'dog'), ['node', 'list', '-r'])
    t.is(nodes.stdout.trim().split('\n').length, 3)

    const stopped = await must(process.execPath, [quickstart, 'stop', '--directory', directory])
    t.regex(stopped.stdout, /^3 daemons stopped/)
    t.not((await run(join(directory, 'bin', 'dog'), ['node', 'list'])).code, 0)
    const again = await must(process.execPath, [quickstart, 'stop', '--directory', directory])
    t.regex(again.stdout, /^0 daemons stopped/)
  },
)

test.serial('quickstart leaves a directory alone that it did not make', async (t) => {
  const directory = temporary()
  t.teardown(() => rmSync(directory, { recursive: true }))
  writeFileSync(join(directory, 'thesis.txt'), 'not yours')
  const outcome = await run(process.execPath, [quickstart, 'start', '--directory', directory])
  t.is(outcome.code, 1)
  t.regex(outcome.stderr, /no quickstart made it/)
  t.deepEqual(readdirSync(directory), ['thesis.txt'])
})

test.serial('a quickstart that fails says why, exits non-zero and leaves nothing', async (t) => {
  const parent = temporary()
  t.teardown(() => rmSync(parent, { recursive: true }))
  // Longer than a Unix socket's path may be: the first daemon refuses it.
  const directory = join(parent, 'x'.repeat(120))
  const outcome = await run(process.execPath, [quickstart, 'start', '--directory', directory], { limit: 120_000 })
  t.is(outcome.code, 1)
  t.regex(outcome.stdout + outcome.stderr, /too long/)
  t.false(existsSync(directory))
})

test.serial('bench prints the rows that programs read', async (t) => {
  t.timeout(3 * 60_000)
  const args = [bench, '--json', '--quick', '--rounds=1', '--seconds=0.2', '--size=64']
  const { rows } = JSON.parse((await must(process.execPath, args, { limit: 150_000 })).stdout) as {
    rows: { name: string; value: number; unit: string; ratio: number | null }[]
  }
  const byName = new Map(rows.map((row) => [row.name, row]))
  for (const name of ['randread qd16', 'randwrite qd16 3 copies', 'seqread 1M', 'seqwrite 1M 3 copies']) {
    const row = byName.get(name)
    t.true(row !== undefined && row.value > 0 && row.ratio !== null && row.ratio > 0, name)
  }
  for (const name of ['snapshot 1 TiB', 'clone 1 GiB', 'memory per daemon, 1 TiB attached'])
    t.true((byName.get(name)?.value ?? 0) > 0, name)
  t.is(byName.get('randread qd1 qemu-nbd')?.ratio, 1)
})
