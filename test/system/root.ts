/**
 * The Debian 13 system that the hosts of the test bed run: made once by debootstrap, kept under `cache`, made anew when its
 * recipe changes. Hosts see it read-only through an overlay.
 */
import { createHash } from 'node:crypto'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { must } from '../support/process.js'

export const cache = process.env.SHEEPDOG_TEST_CACHE ?? '/var/cache/sheepdog-test'

const suite = 'trixie'
const mirror = 'http://deb.debian.org/debian'
/** Raised when something below changes that is not in the lists */
const recipe = 1
/** What debootstrap installs */
const base = ['systemd', 'systemd-sysv', 'dbus', 'libpam-systemd', 'polkitd', 'ca-certificates']
/** What apt installs then, with what it depends on */
const services = ['corosync', 'corosync-notifyd', 'openssh-server']
const libvirt = ['libvirt-daemon-system', 'libvirt-clients', 'qemu-system-x86']
const packages = [...services, ...libvirt, 'qemu-utils', 'nodejs', 'fio', 'libnbd-bin', 'iproute2', 'procps']

/** What only scenarios that ask for it have, above all that: most runs of the tests need not wait for it. */
const layers = {
  /** Machines with a system in them, and the programs that make such */
  machines: [
    ...['virtinst', 'virt-manager', 'xvfb', 'xdotool', 'imagemagick', 'at-spi2-core', 'python3-pyatspi', 'dbus-x11'],
    ...['adwaita-icon-theme', 'fonts-dejavu-core', 'librsvg2-common'],
    ...['linux-image-cloud-amd64', 'busybox-static', 'e2fsprogs', 'qemu-guest-agent'],
    ...['syslinux', 'mtools', 'dosfstools', 'apparmor'],
  ],
  /** A vote beside those of the hosts */
  device: ['corosync-qdevice', 'corosync-qnetd'],
}
export type Layer = keyof typeof layers

const limit = 15 * 60_000
/** What Debian starts with a host that has libvirt. Here only the scenarios that are about it do. */
export const libvirtUnits = [
  ...['libvirtd.service', 'libvirtd.socket', 'libvirtd-ro.socket', 'libvirtd-admin.socket'],
  ...['virtlogd.service', 'virtlogd.socket', 'libvirt-guests.service'],
]
/** One that no checkout has used for so long is removed. */
const unusedMs = 24 * 3600_000

function keyOf(...recipe: unknown[]): string {
  return createHash('sha256').update(JSON.stringify(recipe)).digest('hex').slice(0, 12)
}

export function rootPath(): string {
  return join(cache, `root-${keyOf(recipe, suite, base, packages)}`)
}

function layerPath(layer: Layer): string {
  return `${rootPath()}.${layer}-${keyOf(layers[layer])}`
}

/** What overlayfs(5) calls lower directories, the topmost first. */
export async function prepareSystem(layer: Layer | null, say: (text: string) => void): Promise<string[]> {
  const root = await prepareRoot(say)
  const paths = layer === null ? [root] : [await prepareLayer(layer, root, say), root]
  const now = new Date()
  for (const path of paths) utimesSync(path, now, now)
  removeUnused()
  return paths
}

const apt = ['env', 'DEBIAN_FRONTEND=noninteractive', 'apt-get', '-qq', '-o', 'Dpkg::Use-Pty=0']

/** Nothing is started meanwhile. */
async function install(system: string, names: readonly string[]): Promise<void> {
  const policy = join(system, 'usr/sbin/policy-rc.d')
  writeFileSync(policy, '#!/bin/sh\nexit 101\n')
  chmodSync(policy, 0o755)
  await must('chroot', [system, ...apt, 'install', '-y', '--no-install-recommends', ...names], { limit })
  await must('chroot', [system, ...apt, 'clean'])
  rmSync(policy)
}

async function prepareLayer(layer: Layer, root: string, say: (text: string) => void): Promise<string> {
  const path = layerPath(layer)
  if (existsSync(path)) return path
  say(`adding what scenarios with ${layer} need, in ${path} (two minutes, once)`)
  const fresh = `${path}.${process.pid}.new`
  const [upper, work, system] = ['upper', 'work', 'system'].map((name) => join(fresh, name))
  for (const directory of [upper, work, system]) mkdirSync(directory, { recursive: true })
  try {
    await must('mount', [
      '-t',
      'overlay',
      'overlay',
      '-o',
      `lowerdir=${root},upperdir=${upper},workdir=${work}`,
      system,
    ])
    try {
      // The root may be of last month.
      await must('chroot', [system, ...apt, 'update'], { limit })
      await install(system, layers[layer])
    } finally {
      await must('umount', [system])
    }
    renameSync(upper, path)
  } finally {
    rmSync(fresh, { recursive: true, force: true })
  }
  return path
}

/** Resolves with the directory. Takes two minutes the first time. */
async function prepareRoot(say: (text: string) => void): Promise<string> {
  const path = rootPath()
  if (existsSync(path)) return path
  say(`building a Debian ${suite} root in ${path} (two minutes, once)`)
  mkdirSync(cache, { recursive: true })
  const fresh = `${path}.${process.pid}.new`
  try {
    await must('debootstrap', ['--variant=minbase', `--include=${base.join(',')}`, suite, fresh, mirror], { limit })
    await install(fresh, packages)
    await must('systemctl', [`--root=${fresh}`, 'disable', ...libvirtUnits])
    for (const name of ['etc/hostname', 'etc/machine-id']) rmSync(join(fresh, name), { force: true })
    renameSync(fresh, path)
  } finally {
    rmSync(fresh, { recursive: true, force: true })
  }
  return path
}

/** Roots and layers of other lists; a bed of another checkout may be on one. */
function removeUnused(): void {
  const mounts = readFileSync('/proc/self/mounts', 'utf8')
  for (const name of readdirSync(cache)) {
    const path = join(cache, name)
    if (!/^root-[0-9a-f]{12}(?:\.\w+-[0-9a-f]{12})?$/.test(name) || mounts.includes(name)) continue
    if (statSync(path).mtimeMs < Date.now() - unusedMs) rmSync(path, { recursive: true, force: true })
  }
}
