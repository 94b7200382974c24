/** What the packages install, from one list for both kinds: a path, and where its bytes come from. */
import { chmodSync, copyFileSync, lutimesSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { gzipSync } from 'node:zlib'

export interface Entry {
  /** Below the root of the system, without a leading / */
  path: string
  /** Exactly one of these: a file of the source tree, its bytes, or what a symbolic link says */
  source?: string
  content?: string | Buffer
  link?: string
  /** Default 0644 */
  mode?: number
  /** People change it: an upgrade keeps what they have made of it */
  config?: boolean
}

/** The directory of the bundle, which is filled by bundle.ts. */
export const LIBRARY = 'usr/lib/sheepdog'

const unit = 'usr/lib/systemd'
const policy = 'usr/share/polkit-1'

/** Files that are copied as they are. */
export const COPIED: readonly Entry[] = [
  { path: 'etc/sheepdog/sheepdog.conf', source: 'systemd/sheepdog.conf', config: true },
  { path: `${unit}/system/sheepdog.service`, source: 'systemd/sheepdog.service' },
  { path: `${unit}/system/machine-.scope.d/50-sheepdog.conf`, source: 'systemd/machine-scope.conf' },
  { path: `${unit}/system-generators/sheepdog-generator`, source: 'systemd/sheepdog-generator', mode: 0o755 },
  { path: 'usr/lib/sysusers.d/sheepdog.conf', source: 'systemd/sysusers.conf' },
  { path: 'usr/lib/tmpfiles.d/sheepdog.conf', source: 'systemd/tmpfiles.conf' },
  { path: 'usr/share/dbus-1/system.d/org.sheepdog.conf', source: 'systemd/org.sheepdog.conf' },
  { path: `${policy}/actions/org.sheepdog.policy`, source: 'systemd/org.sheepdog.policy' },
  { path: `${policy}/rules.d/org.sheepdog.rules`, source: 'systemd/org.sheepdog.rules' },
  { path: 'etc/libvirt/hooks/qemu.d/sheepdog', source: 'libvirt-hooks/qemu', mode: 0o755, config: true },
  { path: 'usr/share/sheepdog/grafana/sheepdog.json', source: 'packaging/grafana/sheepdog.json' },
  { path: 'usr/share/sheepdog/sheepdog.xml', source: 'libvirt-hooks/sheepdog.xml' },
  {
    path: 'etc/apparmor.d/abstractions/libvirt-qemu.d/sheepdog',
    source: 'libvirt-hooks/apparmor/libvirt-qemu.d-sheepdog',
    config: true,
  },
  { path: 'usr/bin/sheep', link: '../lib/sheepdog/sheep.mjs' },
  { path: 'usr/bin/dog', link: '../lib/sheepdog/dog.mjs' },
]

/** gzip as Debian wants it: no name, no time, the best compression. */
export function gzip(text: string | Buffer): Buffer {
  const bytes = gzipSync(text, { level: 9 })
  // The operating system of RFC 1952: zlib may say another on another machine.
  bytes[9] = 3
  return bytes
}

/** @param root of the source tree @param out the system's root as the package has it */
export function place(root: string, out: string, entries: readonly Entry[]): void {
  for (const { path, source, content, link, mode } of entries) {
    const target = join(out, path)
    mkdirSync(dirname(target), { recursive: true, mode: 0o755 })
    if (link !== undefined) {
      symlinkSync(link, target)
      continue
    }
    if (source !== undefined) copyFileSync(join(root, source), target)
    else writeFileSync(target, content as string | Buffer)
    chmodSync(target, mode ?? 0o644)
  }
}

/** Paths below `out` of all files and links, sorted. */
export function filesIn(out: string): string[] {
  return readdirSync(out, { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.isDirectory())
    .map((entry) => join(entry.parentPath, entry.name).slice(out.length + 1))
    .sort()
}

/** The same time on all, so that two builds are the same bytes. @param seconds since 1970 */
export function setTimes(out: string, seconds: number): void {
  const names = readdirSync(out, { recursive: true, encoding: 'utf8' })
  for (const name of ['', ...names.sort().reverse()]) lutimesSync(join(out, name), seconds, seconds)
}
