/**
 * npm run package -- [--out DIR] [--arch amd64|arm64|riscv64]: sheepdog_VERSION_ARCH.deb and sheepdog-VERSION-1.ARCH.rpm, the same bytes
 * whenever and wherever they are built from one commit.
 */
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { about } from './about.js'
import { ARCHITECTURES, bundle } from './bundle.js'
import { bashCompletion, zshCompletion } from './completion.js'
import { debianChangelog, makeDeb } from './deb.js'
import { manPages } from './man.js'
import { makeRpm, rpmArchitecture } from './rpm.js'
import { COPIED, type Entry, filesIn, gzip, LIBRARY, place, setTimes } from './tree.js'

const root = join(import.meta.dirname, '..', '..')
const own = Object.entries(ARCHITECTURES).find(([, name]) => name === process.arch)?.[0] ?? 'amd64'
const { values } = parseArgs({
  options: { out: { type: 'string', default: '.' }, arch: { type: 'string', default: own } },
})
const architecture = values.arch
if (!Object.hasOwn(ARCHITECTURES, architecture)) {
  throw new Error(`no packages for ${architecture}: there are ${Object.keys(ARCHITECTURES).join(', ')}`)
}

/** Of the commit; without git (a source archive) of package.json. */
function sourceTime(): number {
  if (process.env.SOURCE_DATE_EPOCH !== undefined) return Number(process.env.SOURCE_DATE_EPOCH)
  const { status, stdout } = spawnSync('git', ['log', '-1', '--format=%ct'], { cwd: root, encoding: 'utf8' })
  return status === 0 ? Number(stdout) : Math.floor(statSync(join(root, 'package.json')).mtimeMs / 1000)
}

const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string }
const facts = about(version)
const seconds = sourceTime()

const documents: Entry[] = ['README.md', 'CHANGELOG.md'].map((name) => ({
  path: `usr/share/doc/sheepdog/${name}`,
  source: name,
}))
const generated: Entry[] = [
  ...manPages(root, version, seconds).map(({ name, section, text }) => ({
    path: `usr/share/man/man${section}/${name}.${section}.gz`,
    content: gzip(text),
  })),
  { path: 'usr/share/bash-completion/completions/dog', content: bashCompletion() },
  { path: 'usr/share/zsh/vendor-completions/_dog', content: zshCompletion() },
  { path: 'usr/share/zsh/site-functions/_dog', link: '../vendor-completions/_dog' },
  { path: 'usr/share/doc/sheepdog/copyright', source: 'packaging/copyright' },
  { path: 'usr/share/doc/sheepdog/changelog.gz', content: gzip(debianChangelog(facts, seconds)) },
]
const entries = [...COPIED, ...documents, ...generated]

const work = mkdtempSync(join(tmpdir(), 'sheepdog-package-'))
try {
  process.umask(0o022)
  const tree = join(work, 'tree')
  mkdirSync(tree)
  await bundle(root, join(tree, LIBRARY), architecture, version)
  place(root, tree, entries)
  for (const path of filesIn(join(tree, LIBRARY))) {
    chmodSync(join(tree, LIBRARY, path), path === 'sheep.mjs' || path === 'dog.mjs' ? 0o755 : 0o644)
  }
  setTimes(tree, seconds)
  const out = resolve(values.out)
  mkdirSync(out, { recursive: true })
  const deb = join(out, `${facts.name}_${version}_${architecture}.deb`)
  makeDeb(facts, tree, entries, architecture, seconds, deb)
  const rpm = join(out, `${facts.name}-${version}-1.${rpmArchitecture(architecture)}.rpm`)
  makeRpm(facts, tree, entries, architecture, seconds, rpm)
  for (const file of [deb, rpm]) {
    const hash = createHash('sha256').update(readFileSync(file)).digest('hex')
    console.log(`${file}  ${(statSync(file).size / 1024).toFixed(0)} KiB  sha256 ${hash}`)
  }
} finally {
  rmSync(work, { recursive: true })
}
