/** The packages as they are built: twice the same, the same files in both, clean for lintian, and programs that run from them. */
import {
  copyFileSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { gunzipSync } from 'node:zlib'
import test from 'ava'
import { freePorts, must, type Outcome, run } from '../support/process.js'

const root = join(import.meta.dirname, '..', '..', '..')
const directory = mkdtempSync(join(tmpdir(), 'sheepdog-packages-'))
let deb = ''
let rpm = ''

async function build(
  tree: string,
  out: string,
  env: Record<string, string> = {},
): Promise<{ deb: string; rpm: string }> {
  const command = `umask ${env.UMASK ?? '022'}; exec "$0" dist/packaging/main.js --out "$1"`
  await must('sh', ['-c', command, process.execPath, out], { cwd: tree, env, limit: 120_000 })
  const names = readdirSync(out)
  const of = (ending: string) => join(out, names.find((name) => name.endsWith(ending)) ?? `no ${ending}`)
  return { deb: of('.deb'), rpm: of('.rpm') }
}

/** The same sources at another place: new files, and modules that lie somewhere else. */
function anotherTree(): string {
  const tree = join(directory, 'elsewhere', 'tree')
  const skipped = new Set(['node_modules', '.git'].map((name) => join(root, name)))
  cpSync(root, tree, { recursive: true, filter: (path) => !skipped.has(path) })
  symlinkSync(join(root, 'node_modules'), join(tree, 'node_modules'))
  return tree
}

test.before(async () => {
  ;({ deb, rpm } = await build(root, join(directory, 'first')))
})

test.after.always(() => rmSync(directory, { recursive: true }))

test('two builds are the same bytes, also at another place, by another person, in another country', async (t) => {
  const { stdout } = await must('git', ['log', '-1', '--format=%ct'], { cwd: root })
  const again = await build(anotherTree(), join(directory, 'second'), {
    SOURCE_DATE_EPOCH: stdout.trim(),
    TZ: 'Asia/Tokyo',
    LC_ALL: 'C',
    HOME: directory,
    UMASK: '077',
  })
  t.true(readFileSync(deb).equals(readFileSync(again.deb)))
  t.true(readFileSync(rpm).equals(readFileSync(again.rpm)))
})

test('both install the same files', async (t) => {
  const listed = (await must('dpkg-deb', ['-c', deb])).stdout
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('d'))
    .map((line) => line.split(/ \.\//)[1].split(' -> ')[0])
    .sort()
  const own = new Set(['etc/sheepdog', 'usr/lib/sheepdog', 'usr/share/sheepdog', 'usr/share/doc/sheepdog'])
  const inRpm = (await must('rpm', ['-qlp', rpm])).stdout
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => line.slice(1))
    .filter((path) => !own.has(path))
    .sort()
  t.deepEqual(inRpm, listed)
})

test('lintian has nothing to say', async (t) => {
  const { stdout } = await must('lintian', ['--allow-root', deb], { limit: 120_000 })
  t.is(stdout.trim(), '')
})

test('rpmlint has nothing to say that packaging/rpmlint.toml does not explain', async (t) => {
  const { stdout } = await must('rpmlint', ['-c', join(root, 'packaging', 'rpmlint.toml'), rpm], { limit: 120_000 })
  t.regex(stdout, / 0 errors, 0 warnings/)
})

test("the .deb asks for Debian's nodejs and corosync, recommends libvirt, and keeps what people change", async (t) => {
  const field = async (name: string) => (await must('dpkg-deb', ['-f', deb, name])).stdout.trim().split(', ')
  const depends = await field('Depends')
  for (const name of ['nodejs (>= 20)', 'corosync (>= 3.1)']) t.true(depends.includes(name), depends.join())
  t.true((await field('Recommends')).includes('libvirt-daemon-system'))
  const { stdout } = await must('dpkg-deb', ['--info', deb, 'conffiles'])
  const inRpm = (await must('rpm', ['-qp', '--configfiles', rpm])).stdout
  t.deepEqual(stdout.trim().split('\n').sort(), inRpm.trim().split('\n').sort())
  t.true(stdout.includes('/etc/sheepdog/sheepdog.conf\n'))
})

/** As Fedora's packages by these names have themselves, empty. */
async function fedora(...provided: string[]): Promise<string> {
  const work = mkdtempSync(join(directory, 'fedora-'))
  const spec = ['Name: fedora', 'Version: 42', 'Release: 1', 'Summary: its names', 'License: none', 'BuildArch: noarch']
  const names = provided.map((name) => `Provides: ${name}`)
  writeFileSync(join(work, 'a.spec'), [...spec, ...names, '%description', 'names', '%files', ''].join('\n'))
  await must('rpmbuild', ['-bb', '--quiet', '--define', `_topdir ${work}`, join(work, 'a.spec')])
  return join(work, 'RPMS/noarch/fedora-42-1.noarch.rpm')
}

async function emptyRoot(name: string): Promise<(...words: string[]) => Promise<Outcome>> {
  const empty = join(directory, name)
  mkdirSync(empty)
  const rpmOf = (...words: string[]) => run('rpm', ['--root', empty, '--dbpath', '/var/lib/rpm', ...words])
  ok(await rpmOf('--initdb'))
  return rpmOf
}

function ok({ code, stderr }: Outcome): void {
  if (code !== 0) throw new Error(stderr)
}

test("the .rpm installs into an empty root beside Fedora's packages, and asks for nothing else", async (t) => {
  const others = ['corosync = 3.1.9', 'systemd = 257', 'util-linux = 2.40', '/bin/sh']
  const old = await emptyRoot('old')
  ok(await old('-i', await fedora('nodejs = 1:18.20', ...others)))
  t.regex((await old('-i', '--noscripts', rpm)).stderr, /nodejs >= 1:20 is needed by sheepdog/)
  const without = await emptyRoot('without')
  const { stderr } = await without('-i', '--noscripts', rpm)
  for (const name of ['nodejs >= 1:20', 'corosync >= 3.1', 'systemd', 'util-linux']) {
    t.true(stderr.includes(`${name} is needed by sheepdog`), stderr)
  }
  const whole = await emptyRoot('whole')
  ok(await whole('-i', await fedora('nodejs = 1:22.16', ...others)))
  ok(await whole('-i', '--noscripts', rpm))
  t.true(readdirSync(join(directory, 'whole/usr/bin')).includes('sheep'))
  ok(await whole('-V', '--nouser', '--nogroup', 'sheepdog'))
  const { stdout } = await must('rpm', ['-qp', '--recommends', rpm])
  t.deepEqual(stdout.trim().split('\n').sort(), ['libvirt-daemon', 'polkit', 'qemu-img'])
})

/** A root with nothing but a shell, in which systemd's commands only note that they were called. */
async function rootWithShell(name: string): Promise<string> {
  const system = join(directory, name)
  const { stdout } = await must('ldd', ['/bin/dash'])
  for (const file of ['/bin/dash', ...(stdout.match(/\/\S+/g) ?? [])]) {
    mkdirSync(join(system, dirname(file)), { recursive: true })
    copyFileSync(file, join(system, file))
  }
  for (const folder of ['usr/bin', 'run/systemd/system']) mkdirSync(join(system, folder), { recursive: true })
  copyFileSync('/bin/dash', join(system, 'bin/sh'))
  for (const command of ['systemctl', 'systemd-sysusers', 'systemd-tmpfiles']) {
    writeFileSync(join(system, 'usr/bin', command), `#!/bin/sh\necho ${command} "$@" >> /called\n`, { mode: 0o755 })
  }
  return system
}

test("the .rpm's scripts: installed, in place of one that is there, erased; the store stays", async (t) => {
  const system = await rootWithShell('scripted')
  const packager = (...words: string[]) =>
    must('rpm', ['--root', system, '--dbpath', '/var/lib/rpm', '--nodeps', ...words])
  const called = async (...words: string[]) => {
    writeFileSync(join(system, 'called'), '')
    await packager(...words)
    return readFileSync(join(system, 'called'), 'utf8').trimEnd().split('\n')
  }
  const ready = ['systemd-sysusers sheepdog.conf', 'systemd-tmpfiles --create sheepdog.conf', 'systemctl daemon-reload']
  await must('rpm', ['--root', system, '--dbpath', '/var/lib/rpm', '--initdb'])
  t.deepEqual(await called('-i', rpm), ready)
  mkdirSync(join(system, 'var/lib/sheepdog/obj'), { recursive: true })
  writeFileSync(join(system, 'var/lib/sheepdog/obj/one'), 'data')
  writeFileSync(join(system, 'etc/sheepdog/sheepdog.conf'), 'scrub-rate = 5M\n')
  const again = await called('-U', '--force', rpm)
  t.deepEqual(again.slice(0, 3), ready)
  t.is(again.at(-1), 'systemctl try-restart sheepdog.service')
  t.is(readFileSync(join(system, 'etc/sheepdog/sheepdog.conf'), 'utf8'), 'scrub-rate = 5M\n')
  const erased = await called('-e', 'sheepdog')
  t.deepEqual(erased, ['systemctl --no-reload disable --now sheepdog.service', 'systemctl daemon-reload'])
  t.is(readFileSync(join(system, 'var/lib/sheepdog/obj/one'), 'utf8'), 'data')
  t.false(readdirSync(join(system, 'usr/bin')).includes('sheep'))
})

test('the programs need nothing but Node', async (t) => {
  const tree = join(directory, 'tree')
  await must('dpkg-deb', ['-x', deb, tree])
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string }
  for (const name of ['sheep', 'dog']) {
    const { stdout } = await must(process.execPath, [join(tree, 'usr', 'bin', name), '--version'])
    t.is(stdout.trim(), version)
  }
  t.deepEqual(
    readdirSync(join(tree, 'usr/lib/sheepdog')).filter(
      (name) => !/^(?:sheep|dog|shared-\w+|\w+-[\w-]+)\.mjs$|^koffi\.node$/.test(name),
    ),
    [],
  )
  const store = join(directory, 'store')
  const port = String((await freePorts(1, 17_600))[0])
  await must(join(tree, 'usr/bin/sheep'), ['-c', `local:${join(directory, 'local')}`, '-p', port, store])
  const dog = (...words: string[]) => must(join(tree, 'usr/bin/dog'), ['--socket', join(store, 'sock'), ...words])
  try {
    await dog('cluster', 'format', '-c', '1')
    await dog('vdi', 'create', 'disk', '1G')
    await must(join(tree, 'usr/bin/dog'), ['--socket', join(store, 'sock'), 'vdi', 'write', 'disk'], { input: 'bytes' })
    t.is((await dog('vdi', 'read', 'disk', '0', '5')).stdout, 'bytes')
  } finally {
    await dog('cluster', 'shutdown', '-y')
  }
})

test('manual pages are set without a complaint', async (t) => {
  const tree = join(directory, 'pages')
  await must('dpkg-deb', ['-x', deb, tree])
  const manual = join(tree, 'usr/share/man')
  const pages = readdirSync(manual).flatMap((folder) =>
    readdirSync(join(manual, folder)).map((name) => join(folder, name)),
  )
  t.deepEqual(pages.sort(), [
    'man5/sheepdog.conf.5.gz',
    'man7/sheepdog-libvirt.7.gz',
    'man8/dog.8.gz',
    'man8/sheep.8.gz',
  ])
  for (const page of pages) {
    const { stderr } = await must('man', ['--warnings', '-E', 'UTF-8', '-l', '-Tutf8', '-Z', join(manual, page)])
    t.is(stderr, '', page)
    const source = join(directory, page.replace(/.*\/(.*)\.gz/, '$1'))
    writeFileSync(source, gunzipSync(readFileSync(join(manual, page))))
    const { stdout } = await run('mandoc', ['-T', 'lint', source])
    t.is(stdout, '', page)
  }
})
