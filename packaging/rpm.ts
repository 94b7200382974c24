/**
 * The RPM package: a spec written from the same list of files, and rpmbuild to put it together. Requirements are Fedora's names, and
 * versions: its nodejs has the epoch 1, so 1:18 would be newer than a 20 without one.
 */
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { About } from './about.js'
import { type Entry, filesIn } from './tree.js'

/** Debian's name of an architecture, to RPM's */
const ARCHITECTURES: Record<string, string> = { amd64: 'x86_64', arm64: 'aarch64', riscv64: 'riscv64' }

/** Directories that are this package's own: they go when it goes. */
const OWN = ['etc/sheepdog', 'usr/lib/sheepdog', 'usr/share/sheepdog', 'usr/share/doc/sheepdog']

function spec(about: About, tree: string, entries: readonly Entry[], seconds: number): string {
  const configs = new Set(entries.filter(({ config }) => config === true).map(({ path }) => path))
  const files = filesIn(tree).map((path) => {
    if (configs.has(path)) return `%config(noreplace) "/${path}"`
    return path.startsWith('usr/share/doc/') ? `%doc "/${path}"` : `"/${path}"`
  })
  const day = new Date(seconds * 1000).toUTCString().slice(0, 16).replace(',', '').split(' ')
  return `Name: ${about.name}
Version: ${about.version}
Release: 1
Summary: ${about.summary[0].toUpperCase()}${about.summary.slice(1)}
License: ${about.license}
Group: System/Base
Packager: ${about.maintainer}
URL: ${about.homepage}
Requires: nodejs >= 1:20
Requires: corosync >= 3.1
Requires: systemd
Requires: util-linux
Recommends: libvirt-daemon
Recommends: qemu-img
Recommends: polkit
AutoReqProv: no
Provides: ${about.name} = ${about.version}

%description
${about.description.join('\n')}

%install
cp -a "${tree}/." "%{buildroot}"

%post
systemd-sysusers sheepdog.conf || :
if [ -d /run/systemd/system ]; then
  systemd-tmpfiles --create sheepdog.conf || :
  systemctl daemon-reload || :
fi

%preun
# Stores are never touched: what is in /var/lib/sheepdog is people's disks.
if [ "$1" = 0 ] && [ -d /run/systemd/system ]; then
  systemctl --no-reload disable --now sheepdog.service || :
fi

%postun
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload || :
  # Clients that reconnect wait for the moment that this takes; a daemon that was not running is left alone.
  if [ "$1" -ge 1 ]; then systemctl try-restart sheepdog.service || :; fi
fi

%files
%defattr(-,root,root,-)
${OWN.map((path) => `%dir "/${path}"`).join('\n')}
${files.join('\n')}

%changelog
* ${day[0]} ${day[2]} ${day[1]} ${day[3]} ${about.maintainer} - ${about.version}-1
- See /usr/share/doc/sheepdog/CHANGELOG.md
`
}

/** Makes FILE of what lies in `tree`, whose times are set. @param seconds since 1970 */
export function makeRpm(
  about: About,
  tree: string,
  entries: readonly Entry[],
  architecture: string,
  seconds: number,
  file: string,
): void {
  const work = mkdtempSync(join(tmpdir(), 'sheepdog-rpm-'))
  try {
    const specFile = join(work, 'sheepdog.spec')
    writeFileSync(specFile, spec(about, tree, entries, seconds))
    const out = join(work, 'out')
    mkdirSync(out)
    const macros = {
      _topdir: work,
      _rpmdir: out,
      _build_name_fmt: 'package.rpm',
      _buildhost: 'localhost',
      use_source_date_epoch_as_buildtime: '1',
      clamp_mtime_to_source_date_epoch: '1',
      _binary_payload: 'w19.zstdio',
      // What lies in the tree is packed as it is.
      __os_install_post: '%{nil}',
      debug_package: '%{nil}',
      _build_id_links: 'none',
    }
    const defines = Object.entries(macros).flatMap(([name, value]) => ['--define', `${name} ${value}`])
    const target = ['--target', `${ARCHITECTURES[architecture]}-linux`]
    const { status, stderr, stdout } = spawnSync('rpmbuild', ['-bb', '--quiet', ...target, ...defines, specFile], {
      env: { ...process.env, SOURCE_DATE_EPOCH: String(seconds) },
      encoding: 'utf8',
    })
    if (status !== 0) throw new Error(`rpmbuild failed: ${stderr}${stdout}`)
    renameSync(join(out, readdirSync(out)[0]), file)
  } finally {
    rmSync(work, { recursive: true })
  }
}

/** The architecture in the file's name */
export function rpmArchitecture(architecture: string): string {
  return ARCHITECTURES[architecture]
}
