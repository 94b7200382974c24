/** What is there from another version is refused, with what to do, and stays as it was (docs/versions.md). */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { freePorts, must, run, until } from '../support/process.js'

const project = join(import.meta.dirname, '..', '..', '..')
const program = (name: string) => join(project, 'dist', name === 'sheep' ? 'daemon/sheep.js' : 'lib/dog/main.js')

test('a store of a newer format', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'versions-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  const store = join(directory, 'store')
  const [port] = await freePorts(1, 17_700)
  const sheep = [program('sheep'), '-c', `local:${join(directory, 'local')}`, '-p', String(port), store]
  await must(process.execPath, sheep)
  const dog = (...words: string[]) =>
    must(process.execPath, [program('dog'), '--socket', join(store, 'sock'), ...words])
  await dog('cluster', 'format', '-c', '1')
  await dog('cluster', 'shutdown', '--yes')
  const file = join(store, 'config')
  const text = readFileSync(file, 'utf8')
  const newer = text.replace(/"version": ?\d+/, '"version": 99')
  t.not(newer, text)
  writeFileSync(file, newer)
  // The one that was shut down may still be about to let the store go.
  let refused = { code: 0, stderr: '' }
  await until('the store to be free', 30_000, async () => {
    refused = await run(process.execPath, sheep)
    return !/in use by another daemon/.test(refused.stderr)
  })
  t.not(refused.code, 0)
  t.regex(refused.stderr, /this store has version 99, this sheep knows versions up to \d+\n {2}start the newer sheep/)
  t.is(readFileSync(file, 'utf8'), newer)
})

test('sheep and dog say their version, which is that of package.json', async (t) => {
  const { version } = JSON.parse(readFileSync(join(project, 'package.json'), 'utf8')) as { version: string }
  for (const name of ['sheep', 'dog']) {
    const { stdout } = await must(process.execPath, [program(name), '--version'])
    t.is(stdout, `${version}\n`, name)
  }
})
