// Turns every TypeScript file into a JavaScript file of the same name under dist/, one by one: the source tree's
// shape is the program's shape. Types are checked by `npm run typecheck`, not here, so that a build takes a moment.
import { readdirSync, rmSync } from 'node:fs'
import { build } from 'esbuild'

const folders = ['lib', 'daemon', 'libvirt-hooks', 'test']
const sources = folders.flatMap((folder) =>
  readdirSync(folder, { recursive: true })
    .filter((name) => name.endsWith('.ts'))
    .map((name) => `${folder}/${name}`),
)
if (process.argv.includes('--clean')) rmSync('dist', { recursive: true, force: true })
await build({
  entryPoints: sources,
  outdir: 'dist',
  outbase: '.',
  format: 'esm',
  platform: 'node',
  target: 'node20',
  sourcemap: 'inline',
  sourcesContent: false,
  logLevel: 'warning',
})
