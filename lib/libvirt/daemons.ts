/** Which daemons of libvirt this host has: the monolithic libvirtd, or the modular virtqemud and virtstoraged. */
import { statSync } from 'node:fs'

/** remote_driver.h: sockets of the system daemons. /run and /var/run are one directory */
const MONOLITHIC = '/run/libvirt/libvirt-sock'
const SOCKETS = { qemu: '/run/libvirt/virtqemud-sock', storage: '/run/libvirt/virtstoraged-sock' }

export type Driver = keyof typeof SOCKETS

/**
 * URIs to try, in order. The modular daemon's own socket first: where both are there, it is what is served, or both lead to it.
 * A library that is built for the other kind of daemon is told by `mode` (libvirt's docs/uri.rst).
 */
export function systemUris(driver: Driver): string[] {
  const uris: string[] = []
  if (identityOf(SOCKETS[driver]) !== '') uris.push(`${driver}:///system?mode=direct`)
  if (identityOf(MONOLITHIC) !== '' || uris.length === 0) uris.push(`${driver}:///system?mode=legacy`)
  return uris
}

/** Changes when a daemon made its socket anew; '' while there is none. */
export function socketsSeen(driver: Driver): string {
  return [SOCKETS[driver], MONOLITHIC].map(identityOf).join('')
}

function identityOf(path: string): string {
  try {
    const { ino, ctimeMs } = statSync(path)
    return `${path} ${ino} ${ctimeMs};`
  } catch {
    // Not there, or not for this user: in either case there is no libvirt to talk to.
    return ''
  }
}
