/**
 * The programs as few files of JavaScript that need nothing but Node: entry points and what they share, koffi's binary
 * for one architecture beside them.
 */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { builtinModules } from 'node:module'
import { basename, dirname, join } from 'node:path'
import { build, type Plugin } from 'esbuild'

/** Debian's name of an architecture, to npm's, for which koffi has a binary */
export const ARCHITECTURES: Record<string, string> = { amd64: 'x64', arm64: 'arm64', riscv64: 'riscv64' }

/** What CommonJS modules within the bundle have by themselves elsewhere (import.meta.filename: Node 20.11) */
const BANNER = `import { createRequire as _requireOf } from 'node:module'
const require = _requireOf(import.meta.url), __filename = import.meta.filename, __dirname = import.meta.dirname`

const ENTRY_POINTS = {
  sheep: 'daemon/sheep.ts',
  dog: 'lib/dog/main.ts',
}

/** Modules that are asked for and may be missing: accelerators that their users do without. */
const OPTIONAL = ['cpu-features', './crypto/build/Release/sshcrypto.node', 'usocket', 'x11']

/** All files of a bundle lie in one directory: a worker thread's file is named after its folder as well. */
function workerName(folder: string, name: string): string {
  return `${folder}-${name}`
}

const workerUrl = /\bnew URL\('\.\/([\w-]+)\.js', import\.meta\.url\)/g

/** Entry name -> source file */
function workersOf(root: string): Record<string, string> {
  const workers: Record<string, string> = {}
  const files = readdirSync(join(root, 'lib'), { recursive: true, encoding: 'utf8' })
  for (const file of files.filter((name) => name.endsWith('.ts'))) {
    for (const [, name] of readFileSync(join(root, 'lib', file), 'utf8').matchAll(workerUrl)) {
      const folder = dirname(file)
      workers[workerName(basename(folder), name)] = `lib/${folder}/${name}.ts`
    }
  }
  return workers
}

/** What a module finds at run time by its own place: modules that it requires become part of the bundle, workers get their new names. */
const places: Plugin = {
  name: 'places',
  setup({ onLoad }) {
    onLoad({ filter: /\/(?:lib|daemon)\/[^/]*(?:\/[^/]*)?\.ts$/ }, ({ path }) => {
      let contents = readFileSync(path, 'utf8').replaceAll("createRequire(import.meta.url)('", "require('")
      const named = /^const (\w+) = createRequire\(import\.meta\.url\)$/m.exec(contents)
      if (named !== null) contents = contents.replace(named[0], '').replaceAll(`${named[1]}('`, "require('")
      const folder = basename(dirname(path))
      contents = contents.replace(
        workerUrl,
        (_, name: string) => `new URL('./${workerName(folder, name)}.mjs', import.meta.url)`,
      )
      return { contents, loader: 'ts' }
    })
  },
}

/** Of koffi's binaries the one for this architecture and glibc. */
function koffiBinary(architecture: string): Plugin {
  const name = `@koromix/koffi-linux-${ARCHITECTURES[architecture]}`
  return {
    name: 'koffi',
    setup({ onResolve, onLoad }) {
      onResolve({ filter: /^@koromix\/koffi-/ }, ({ path }) =>
        path === name ? { path, namespace: 'koffi' } : { path, external: true },
      )
      onLoad({ filter: /./, namespace: 'koffi' }, () => ({
        contents: "module.exports = require('./koffi.node')",
        resolveDir: '/',
      }))
      onResolve({ filter: /^\.\/koffi\.node$/ }, ({ path }) => ({ path, external: true }))
    },
  }
}

/** @param root of the source tree @param out a directory, made when it is missing */
export async function bundle(root: string, out: string, architecture: string, version: string): Promise<void> {
  const { metafile } = await build({
    absWorkingDir: root,
    entryPoints: { ...ENTRY_POINTS, ...workersOf(root) },
    outdir: out,
    bundle: true,
    splitting: true,
    format: 'esm',
    platform: 'node',
    target: 'node20',
    legalComments: 'none',
    // Or the bytes would say where node_modules really lies.
    preserveSymlinks: true,
    chunkNames: 'shared-[hash]',
    external: OPTIONAL,
    define: { SHEEPDOG_VERSION: JSON.stringify(version) },
    banner: { js: BANNER },
    plugins: [places, koffiBinary(architecture)],
    outExtension: { '.js': '.mjs' },
    metafile: true,
    logLevel: 'warning',
  })
  for (const [file, { imports }] of Object.entries(metafile.outputs)) {
    const missing = imports.filter(({ path, external }) => external && !isThere(path))
    if (missing.length > 0) throw new Error(`${file} would need ${missing.map(({ path }) => path).join(', ')}`)
    if (/createRequire\d*\(import\.meta\.url\)\(/.test(readFileSync(join(root, file), 'utf8'))) {
      throw new Error(`${file} still loads modules by createRequire`)
    }
  }
  for (const name of Object.keys(ENTRY_POINTS)) {
    const file = join(out, `${name}.mjs`)
    writeFileSync(file, readFileSync(file, 'utf8').replace('#!/usr/bin/env node', '#!/usr/bin/node'))
  }
  const binary = `node_modules/@koromix/koffi-linux-${ARCHITECTURES[architecture]}/linux_${ARCHITECTURES[architecture]}/koffi.node`
  writeFileSync(join(out, 'koffi.node'), readFileSync(join(root, binary)))
}

function isThere(path: string): boolean {
  const name = path.replace(/^node:/, '')
  const optional = OPTIONAL.includes(path) || path.startsWith('@koromix/koffi-')
  return builtinModules.includes(name) || optional || path === './koffi.node'
}
