import { isIP } from 'node:net'

/** An address of the host itself, as people write it or as the kernel names it; also IPv4 in IPv6's clothes. */
export function isLoopback(host: string): boolean {
  if (host === 'localhost' || host === '::1') return true
  const four = host.startsWith('::ffff:') ? host.slice('::ffff:'.length) : host
  return isIP(four) === 4 && four.startsWith('127.')
}
