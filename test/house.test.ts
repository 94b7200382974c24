/**
 * The house style as a test: where imports may point, what the core must not touch, files that nobody uses, files that
 * grew too long, leftovers. Each rule says what to do instead.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import test from 'ava'
import { transformSync } from 'esbuild'

const root = join(import.meta.dirname, '..', '..')

function filesBelow(folder: string): string[] {
  return readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts'))
    .map((name) => `${folder}/${name}`)
    .sort()
}

const sources = new Map(
  ['lib', 'daemon', 'test'].flatMap(filesBelow).map((path) => [path, readFileSync(join(root, path), 'utf8')]),
)
const productFiles = [...sources.keys()].filter((path) => !path.startsWith('test/'))

/** Program text without comments and types, so that prose about a clock is not taken for one. */
function codeOf(path: string): string {
  return transformSync(sources.get(path) as string, { loader: 'ts', legalComments: 'none', target: 'es2022' }).code
}

/** Module names that a file names: imports of values and types, dynamic ones, and workers started by URL. */
function importsOf(path: string): string[] {
  const text = sources.get(path) as string
  const patterns = [
    /^(?:import|export)\b[^'"]*?\bfrom '([^']+)'/gm,
    /^import '([^']+)'/gm,
    /\bimport\(\s*'([^']+)'\s*\)/g,
    /\bnew URL\('([^']+)', import\.meta\.url\)/g,
  ]
  return patterns.flatMap((pattern) => [...text.matchAll(pattern)].map((match) => match[1]))
}

/** The source file behind a relative import; '' for a package or a built-in module. */
function resolved(path: string, name: string): string {
  return name.startsWith('.') ? normalize(join(dirname(path), name)).replace(/\.js$/, '.ts') : ''
}

function folderOf(path: string): string {
  const [top, folder, file] = path.split('/')
  return top === 'lib' ? (file === undefined ? 'lib' : folder) : top
}

/** What all layers share: words, not workings. */
const vocabulary = new Set([
  'lib/assert.ts',
  'lib/errors.ts',
  'lib/mutations.ts',
  'lib/cluster/engine.ts',
  'lib/cluster/types.ts',
  'lib/gateway/types.ts',
  'lib/host/interfaces.ts',
  // Memory only
  'lib/host/slab.ts',
  'lib/store/types.ts',
  'lib/vdi/object-io.ts',
  'lib/vdi/oid.ts',
  'lib/vdi/types.ts',
])

/** Folder -> folders below it that it may import beside the vocabulary (docs/architecture.md, "Layers"). */
const below: Record<string, readonly string[]> = {
  lib: [],
  host: ['protocol'],
  protocol: [],
  placement: [],
  store: ['protocol'],
  cluster: ['placement', 'vdi', 'protocol'],
  vdi: ['placement', 'cluster'],
  replication: ['vdi', 'store', 'placement', 'cluster', 'protocol'],
  gateway: ['replication', 'vdi', 'store', 'placement', 'cluster', 'protocol'],
  control: ['gateway', 'replication', 'vdi', 'store', 'placement', 'cluster', 'protocol', 'host'],
  nbd: ['gateway', 'vdi', 'host'],
  fuse: ['gateway', 'replication', 'vdi', 'store', 'host'],
  sd: ['gateway', 'vdi', 'protocol', 'host'],
  dbus: ['control', 'vdi', 'cluster', 'host'],
  metrics: ['control', 'gateway', 'cluster'],
  node: ['control', 'sd', 'gateway', 'replication', 'vdi', 'store', 'placement', 'cluster', 'protocol'],
  libvirt: [],
  dog: ['control', 'vdi', 'protocol', 'host', 'libvirt'],
}

/** The layers that get clock, random, disk, network and engine as arguments. */
const coreFolders = new Set(['placement', 'vdi', 'cluster', 'store', 'replication', 'gateway', 'node'])
/** Files in those folders that are the outside: engines that talk to the world. */
const outside = /^lib\/cluster\/(?:local|corosync)[a-z-]*\.ts$/
const coreFiles = productFiles.filter((path) => coreFolders.has(folderOf(path)) && !outside.test(path))

/** Of Node's modules the core may use those that compute and touch nothing. */
const pureModules = new Set(['node:buffer', 'node:util', 'node:zlib', 'node:crypto'])

const forbiddenInCore: [RegExp, string][] = [
  [/\bDate\.now\b|\bnew Date\(\)|\bperformance\b|\bhrtime\b/, 'take a Clock'],
  [/\bMath\.random\b|\brandom(?:Bytes|UUID|Int|FillSync)\b|\bgetRandomValues\b/, 'take a Random'],
  [/\bset(?:Timeout|Interval|Immediate)\b/, 'use Clock.after'],
  [/\bprocess\./, 'take what you need as an argument'],
]

/** Path -> why it may be longer than the limit. */
const longFiles: Record<string, string> = {
  'daemon/options.ts': 'every option, each checked once, with its message',
  'lib/cluster/cluster.ts': 'the engine, the disk queue and the views of one member share their state',
  'lib/cluster/membership.ts': 'one state machine: every transition is read against the others',
  'lib/gateway/gateway.ts': 'opening, locking and what the cluster says meanwhile are one life of a volume',
  'lib/gateway/volume.ts': 'what each request becomes; they share the index, the flush and the epoch rules',
  'lib/replication/replica.ts': 'what a request goes through, and the epoch rules it runs under',
  'lib/store/object-store.ts': 'the table of objects and every way in which it changes',
  'test/unit/gateway/flusher.test.ts': 'one case for each way in which what was written stays, goes, or may have gone',
  'test/unit/replication/validity-model.ts': 'one object, and all that can happen to its copies: one model',
  'test/unit/store/model.test.ts': 'all that a store promises, and the actions that try it: one model',
  'test/unit/store/object-store.test.ts': 'one case for each promise of the store',
  'test/unit/vdi/operations.test.ts': 'one case for each promise of an operation, on one small world',
  'test/unit/vdi/registry.test.ts': 'one case for each rule of the registry',
}
const linesMax = 500

/** What people, systemd or Node start; everything in lib and daemon must be reached from here. */
const entryPoints = ['daemon/sheep.ts', 'lib/dog/main.ts']
/** Files of lib that only tests use, with the reason why they are in lib. */
const testOnly: Record<string, string> = {}

test('imports point down only', (t) => {
  const upward: string[] = []
  for (const path of productFiles) {
    const folder = folderOf(path)
    if (folder === 'daemon') continue
    t.true(Object.hasOwn(below, folder), `${path}: add the folder ${folder} to the layers above`)
    for (const name of importsOf(path)) {
      const target = resolved(path, name)
      if (!target.endsWith('.ts') || vocabulary.has(target)) continue
      const targetFolder = folderOf(target)
      if (targetFolder !== folder && !below[folder].includes(targetFolder)) upward.push(`${path} imports ${target}`)
    }
  }
  t.deepEqual(upward, [], 'move the shared words to a types file, or pass what is needed as an argument')
})

test('imports name files that exist', (t) => {
  const missing = [...sources.keys()].flatMap((path) =>
    importsOf(path)
      .map((name) => resolved(path, name))
      .filter((target) => target.endsWith('.ts') && !existsSync(join(root, target)))
      .map((target) => `${path}: ${target}`),
  )
  t.deepEqual(missing, [])
})

test('the core touches no clock, random source, timer, process, file or socket of its own', (t) => {
  t.true(coreFiles.length > 20, 'the core was found')
  const found: string[] = []
  for (const path of coreFiles) {
    const code = codeOf(path)
    for (const [pattern, instead] of forbiddenInCore) {
      const match = pattern.exec(code)
      if (match) found.push(`${path}: ${match[0]} - ${instead}`)
    }
    for (const name of importsOf(path))
      if (!name.startsWith('.') && !pureModules.has(name))
        found.push(`${path}: ${name} - take a Disk, Network or Engine`)
  }
  t.deepEqual(found, [])
})

test('the rules above find what they forbid', (t) => {
  const bad = 'const a = Date.now(); setTimeout(f, 1); Math.random(); process.exit(1)'
  for (const [pattern, instead] of forbiddenInCore) t.regex(bad, pattern, instead)
  t.deepEqual(resolved('lib/store/a.ts', '../gateway/b.js'), 'lib/gateway/b.ts')
  t.true(importsOf('test/house.test.ts').includes('node:path'))
})

test('every file of lib and daemon is reached from a program', (t) => {
  const reached = new Set<string>()
  const queue = [...entryPoints]
  for (let path = queue.pop(); path !== undefined; path = queue.pop()) {
    if (reached.has(path) || !sources.has(path)) continue
    reached.add(path)
    queue.push(...importsOf(path).map((name) => resolved(path, name)))
  }
  t.deepEqual(
    productFiles.filter((path) => !reached.has(path) && !Object.hasOwn(testOnly, path)),
    [],
    'remove the file, use it, or give its reason in testOnly',
  )
})

test(`no file is longer than ${linesMax} lines without a reason`, (t) => {
  const long = [...sources]
    .filter(([path, text]) => text.split('\n').length > linesMax + 1 && !Object.hasOwn(longFiles, path))
    .map(([path, text]) => `${path}: ${text.split('\n').length - 1} lines`)
  t.deepEqual(long, [], 'a file is one idea: split it, or give the reason in longFiles')
  for (const path of Object.keys(longFiles)) t.true(sources.has(path), `${path} is gone: remove its reason`)
})

test('no test is switched off, and nothing is left to do', (t) => {
  const leftovers: string[] = []
  const patterns = [
    /\b(?:test|serial)\.(?:only|skip|todo|failing)\b/,
    new RegExp(`\\b(?:${'TO'}DO|${'FIX'}ME|${'XX'}X)\\b`),
  ]
  for (const [path, text] of sources) {
    for (const [number, line] of text.split('\n').entries())
      if (patterns.some((pattern) => pattern.test(line))) leftovers.push(`${path}:${number + 1}: ${line.trim()}`)
  }
  t.deepEqual(
    leftovers.filter((line) => !line.startsWith('test/house.test.ts:')),
    [],
  )
})
