// Makes a fresh clone ready: `node packaging/tools/prepare.mjs TASK`, TASK one of the keys of `needs`. It checks Node,
// installs the npm packages of the lock file, builds, and installs the Debian packages whose commands the task uses.
// Plain JavaScript without dependencies, because it runs before there is anything else. Doing nothing takes 0.3 s.
import { spawnSync } from 'node:child_process'
import { accessSync, constants, existsSync, readFileSync } from 'node:fs'
import { delimiter, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..')
const nodeMajorMin = 20
const npmMinutesMax = 10
const aptMinutesMax = 10

/** Debian package -> the commands of it that we call. */
const debian = {
  'qemu-utils': ['qemu-img', 'qemu-io', 'qemu-nbd'],
  'qemu-system-x86': ['qemu-system-x86_64'],
  'qemu-system-common': ['qemu-storage-daemon'],
  'libnbd-bin': ['nbdinfo', 'nbdcopy'],
  fio: ['fio'],
  e2fsprogs: ['mke2fs', 'mkfs.ext4'],
  attr: ['setfattr', 'getfattr'],
  mount: ['mount', 'umount'],
  openssl: ['openssl'],
  'dbus-daemon': ['dbus-daemon'],
  'libglib2.0-bin': ['gdbus'],
  systemd: ['busctl'],
  debootstrap: ['debootstrap'],
  'systemd-container': ['systemd-nspawn'],
  iproute2: ['ip'],
  'openssh-server': ['sshd'],
  'openssh-client': ['ssh-keygen', 'ssh-agent'],
  dpkg: ['dpkg-deb'],
  rpm: ['rpm', 'rpmbuild'],
  lintian: ['lintian'],
  rpmlint: ['rpmlint'],
  'man-db': ['man'],
  mandoc: ['mandoc'],
  zsh: ['zsh'],
  bsdutils: ['script'],
  // With it comes libvirt0, the library.
  'libvirt-clients': ['virsh'],
}

const beds = process.getuid?.() === 0 ? ['debootstrap', 'systemd-container', 'iproute2'] : []

const packagers = ['dpkg', 'rpm']

const needs = {
  build: [],
  quickstart: ['qemu-utils', 'libnbd-bin', 'e2fsprogs'],
  bench: ['qemu-utils', 'fio'],
  package: packagers,
  // Only root can use them, see test/system.
  'test:system': beds,
  test: [
    ...beds,
    ...packagers,
    'lintian',
    'rpmlint',
    'man-db',
    'mandoc',
    'zsh',
    'bsdutils',
    'qemu-utils',
    'qemu-system-x86',
    'qemu-system-common',
    'libnbd-bin',
    'fio',
    'e2fsprogs',
    'attr',
    'mount',
    'openssl',
    'openssh-server',
    'openssh-client',
    'dbus-daemon',
    'libglib2.0-bin',
    'systemd',
    'libvirt-clients',
  ],
}

function say(text) {
  process.stderr.write(`${text}\n`)
}

function fail(text) {
  say(text)
  process.exit(1)
}

function run(command, args, minutesMax, env = {}) {
  const result = spawnSync(command, args, {
    cwd: root,
    stdio: ['ignore', 'inherit', 'inherit'],
    timeout: minutesMax * 60_000,
    env: { ...process.env, ...env },
  })
  if (result.error?.code === 'ETIMEDOUT') fail(`${command} did not finish within ${minutesMax} minutes.`)
  if (result.error) fail(`${command} cannot be started: ${result.error.message}`)
  return result.status === 0
}

function checkNode() {
  const major = Number(process.versions.node.split('.')[0])
  if (major >= nodeMajorMin) return
  fail(
    `Node ${nodeMajorMin} or newer is needed; this is ${process.version}. ` +
      `Debian 13 has it (apt-get install nodejs npm); for Debian 12 see https://nodejs.org/en/download.`,
  )
}

/** True when what is installed is what the lock file says: npm leaves a list of it in node_modules. */
function modulesMatchLock() {
  const installedList = join(root, 'node_modules', '.package-lock.json')
  if (!existsSync(installedList)) return false
  const wanted = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')).packages
  const installed = JSON.parse(readFileSync(installedList, 'utf8')).packages
  return Object.entries(wanted).every(
    ([path, { version, optional }]) => path === '' || optional || installed[path]?.version === version,
  )
}

function installModules() {
  if (modulesMatchLock()) return
  say('Installing the npm packages of package-lock.json into node_modules (npm ci) ...')
  const args = ['ci', '--include=dev', '--no-audit', '--no-fund', '--loglevel=error']
  if (!run('npm', args, npmMinutesMax)) fail('npm ci failed; its message is above.')
}

function onPath(command) {
  const folders = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/sbin']
  return folders.some((folder) => {
    try {
      accessSync(join(folder, command), constants.X_OK)
      return true
    } catch {
      return false
    }
  })
}

function installDebianPackages(task) {
  const missing = needs[task].filter((name) => !debian[name].every(onPath))
  if (missing.length === 0) return
  const commands = missing.flatMap((name) => debian[name].filter((command) => !onPath(command)))
  const line = `apt-get install --no-install-recommends -y ${missing.join(' ')}`
  const reason = `npm run ${task} uses ${commands.join(', ')}`
  if (!onPath('apt-get')) fail(`${reason}. Install what Debian calls ${missing.join(', ')}, then run this again.`)
  if (process.getuid?.() !== 0) fail(`${reason}. Run this, then try again:\n  sudo ${line}`)
  say(`${reason}. Installing from Debian: ${missing.join(', ')} ...`)
  const env = { DEBIAN_FRONTEND: 'noninteractive' }
  const quiet = ['-qq', '-o', 'DPkg::Lock::Timeout=120', '-o', 'Dpkg::Use-Pty=0']
  if (!run('apt-get', [...quiet, 'update'], aptMinutesMax, env)) fail('apt-get update failed; its message is above.')
  if (!run('apt-get', [...quiet, ...line.split(' ').slice(1)], aptMinutesMax, env)) fail(`This failed: ${line}`)
  const still = commands.filter((command) => !onPath(command))
  if (still.length > 0) fail(`${missing.join(', ')} installed, yet not found on PATH: ${still.join(', ')}.`)
}

const task = process.argv[2] ?? 'build'
if (!Object.hasOwn(needs, task)) fail(`${task}: no such task; there are ${Object.keys(needs).join(', ')}.`)
checkNode()
installModules()
if (!run(process.execPath, ['build.mjs'], 1)) fail('The build failed; its message is above.')
installDebianPackages(task)
