// Turns every TypeScript file into a JavaScript file of the same name under dist/, one by one: the source tree's
// shape is the program's shape. Types are checked by `npm run typecheck`, not here, so that a build takes a moment.
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { build } from 'esbuild'

const folders = ['lib', 'daemon', 'libvirt-hooks', 'packaging', 'test']

/** Paths below the folders, under `base`, that end in `ending`, without that ending. */
function stems(base, ending) {
  return folders
    .filter((folder) => existsSync(`${base}${folder}`))
    .flatMap((folder) => readdirSync(`${base}${folder}`, { recursive: true }).map((name) => `${folder}/${name}`))
    .filter((path) => path.endsWith(ending))
    .map((path) => path.slice(0, -ending.length))
}

const sources = new Set(stems('', '.ts'))
await build({
  entryPoints: [...sources].map((stem) => `${stem}.ts`),
  outdir: 'dist',
  outbase: '.',
  format: 'esm',
  platform: 'node',
  target: 'node20',
  sourcemap: 'inline',
  sourcesContent: false,
  define: { SHEEPDOG_VERSION: JSON.stringify(JSON.parse(readFileSync('package.json', 'utf8')).version) },
  logLevel: 'warning',
})
// What is left of a source file that was removed or renamed would still be run, as a test for instance.
for (const stem of stems('dist/', '.js')) if (!sources.has(stem)) rmSync(`dist/${stem}.js`)
