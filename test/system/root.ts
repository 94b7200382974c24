/**
 * The Debian 13 system that the hosts of the test bed run: made once by debootstrap, kept under `cache`, made anew when its
 * recipe changes. Hosts see it read-only through an overlay.
 */
import { createHash } from 'node:crypto'
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
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
const packages = [...services, ...libvirt, 'nodejs', 'fio', 'libnbd-bin', 'iproute2', 'procps']

const limit = 15 * 60_000

export function rootPath(): string {
  const key = createHash('sha256')
    .update(JSON.stringify([recipe, suite, base, packages]))
    .digest('hex')
    .slice(0, 12)
  return join(cache, `root-${key}`)
}

/** Resolves with the directory. Takes two minutes the first time. */
export async function prepareRoot(say: (text: string) => void): Promise<string> {
  const path = rootPath()
  if (existsSync(path)) return path
  say(`building a Debian ${suite} root in ${path} (two minutes, once)`)
  mkdirSync(cache, { recursive: true })
  const fresh = `${path}.${process.pid}.new`
  try {
    await must('debootstrap', ['--variant=minbase', `--include=${base.join(',')}`, suite, fresh, mirror], { limit })
    // Nothing is started while it is installed.
    const policy = join(fresh, 'usr/sbin/policy-rc.d')
    writeFileSync(policy, '#!/bin/sh\nexit 101\n')
    chmodSync(policy, 0o755)
    const apt = ['env', 'DEBIAN_FRONTEND=noninteractive', 'apt-get', '-qq', '-o', 'Dpkg::Use-Pty=0']
    await must('chroot', [fresh, ...apt, 'install', '-y', '--no-install-recommends', ...packages], { limit })
    await must('chroot', [fresh, ...apt, 'clean'])
    // Only the scenarios that are about it pay for it.
    const units = ['libvirtd', 'virtlogd', 'libvirt-guests'].flatMap((name) => [
      `${name}.service`,
      ...(name === 'libvirt-guests' ? [] : [`${name}.socket`]),
    ])
    await must('systemctl', [`--root=${fresh}`, 'disable', ...units, 'libvirtd-ro.socket', 'libvirtd-admin.socket'])
    rmSync(policy)
    for (const name of ['etc/hostname', 'etc/machine-id']) rmSync(join(fresh, name), { force: true })
    renameSync(fresh, path)
  } finally {
    rmSync(fresh, { recursive: true, force: true })
  }
  // A bed of another checkout may be on one.
  const mounts = readFileSync('/proc/self/mounts', 'utf8')
  for (const name of readdirSync(cache)) {
    if (/^root-[0-9a-f]{12}$/.test(name) && join(cache, name) !== path && !mounts.includes(name)) {
      rmSync(join(cache, name), { recursive: true, force: true })
    }
  }
  return path
}
