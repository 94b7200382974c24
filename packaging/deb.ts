/** The Debian package: control files, and dpkg-deb to put it together (deb(5), deb-control(5), Debian policy 4.7). */
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { chmodSync, lstatSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { About } from './about.js'
import { type Entry, filesIn, setTimes } from './tree.js'

/** Written for /bin/sh as dpkg calls it; each does nothing when systemd is not there. */
const POSTINST = `#!/bin/sh
set -e

if [ "$1" = configure ]; then
	systemd-sysusers sheepdog.conf
	if [ -d /run/systemd/system ]; then
		systemd-tmpfiles --create sheepdog.conf || true
		deb-systemd-invoke daemon-reload || true
		# Clients that reconnect wait for the moment that this takes; a daemon that was not running is left alone.
		if [ -n "$2" ]; then
			deb-systemd-invoke try-restart sheepdog.service || true
		fi
	fi
fi
`

const PRERM = `#!/bin/sh
set -e

if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
	deb-systemd-invoke stop sheepdog.service || true
fi
`

const POSTRM = `#!/bin/sh
set -e

if [ "$1" = remove ]; then
	deb-systemd-helper disable sheepdog.service >/dev/null || true
	if [ -d /run/systemd/system ]; then
		deb-systemd-invoke daemon-reload || true
	fi
fi

# Stores are never touched: what is in /var/lib/sheepdog is people's disks. Keys go with the configuration.
if [ "$1" = purge ]; then
	rm -f /etc/sheepdog/cluster.key
	rmdir --ignore-fail-on-non-empty /etc/sheepdog 2>/dev/null || true
fi
`

/** qemu-system would bring the emulators of all architectures. */
const QEMU: Record<string, string> = {
  amd64: 'qemu-system-x86',
  arm64: 'qemu-system-arm',
  riscv64: 'qemu-system-riscv',
}

function control(about: About, architecture: string, kib: number): string {
  const description = about.description.map((line) => (line === '' ? ' .' : ` ${line}`)).join('\n')
  return `Package: ${about.name}
Version: ${about.version}
Section: admin
Priority: optional
Architecture: ${architecture}
Maintainer: ${about.maintainer}
Installed-Size: ${kib}
Depends: nodejs (>= 20), corosync (>= 3.1), systemd, mount, libc6 (>= 2.36), libstdc++6
Recommends: libvirt-daemon-system, ${QEMU[architecture]}, qemu-utils, polkitd
Suggests: corosync-qdevice
Homepage: ${about.homepage}
Description: ${about.summary}
${description}
`
}

/** deb-changelog(5): this version; what changed is told for people by CHANGELOG.md. */
export function debianChangelog(about: About, seconds: number): string {
  const date = new Date(seconds * 1000).toUTCString().replace('GMT', '+0000')
  const entry = `${about.name} (${about.version}) stable; urgency=medium`
  return `${entry}\n\n  * See CHANGELOG.md beside this file.\n\n -- ${about.maintainer}  ${date}\n`
}

/** Makes FILE of what lies in `tree`. @param seconds since 1970, of all files */
export function makeDeb(
  about: About,
  tree: string,
  entries: readonly Entry[],
  architecture: string,
  seconds: number,
  file: string,
): void {
  const files = filesIn(tree).filter((path) => !path.startsWith('DEBIAN/'))
  const sizes = files.map((path) => Math.ceil(lstatSync(join(tree, path)).size / 1024))
  const kib = sizes.reduce((sum, size) => sum + size, 0)
  const sums = files
    .filter((path) => lstatSync(join(tree, path)).isFile())
    .map(
      (path) =>
        `${createHash('md5')
          .update(readFileSync(join(tree, path)))
          .digest('hex')}  ${path}\n`,
    )
  const configs = entries.filter(({ config }) => config === true).map(({ path }) => `/${path}\n`)
  const folder = join(tree, 'DEBIAN')
  mkdirSync(folder)
  const put = (name: string, text: string, mode = 0o644) => {
    writeFileSync(join(folder, name), text)
    chmodSync(join(folder, name), mode)
  }
  put('control', control(about, architecture, kib))
  put('conffiles', configs.join(''))
  put('md5sums', sums.join(''))
  put('postinst', POSTINST, 0o755)
  put('prerm', PRERM, 0o755)
  put('postrm', POSTRM, 0o755)
  setTimes(tree, seconds)
  const { status, stderr } = spawnSync('dpkg-deb', ['--root-owner-group', '-Zxz', '--build', tree, file], {
    env: { ...process.env, SOURCE_DATE_EPOCH: String(seconds) },
    encoding: 'utf8',
  })
  rmSync(folder, { recursive: true })
  if (status !== 0) throw new Error(`dpkg-deb failed: ${stderr}`)
}
