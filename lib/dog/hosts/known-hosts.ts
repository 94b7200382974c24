/** ~/.ssh/known_hosts (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT): which keys a host may have. */
import { createHash, createHmac } from 'node:crypto'

export interface KnownKey {
  /** 'revoked': by its @revoked line */
  marker: '' | 'revoked'
  /** 'ssh-ed25519' and the like */
  type: string
  key: Buffer
}

/** 'known': connect; 'unknown': ask; 'changed', 'revoked': never connect */
export type Verdict = 'known' | 'unknown' | 'changed' | 'revoked'

/** What the files call a host: `name`, or `[name]:port` where the port is not 22. */
export function hostWord(name: string, port: number): string {
  return port === 22 ? name.toLowerCase() : `[${name.toLowerCase()}]:${port}`
}

/** Keys of lines that are for one of `words`. Lines that cannot be read say nothing, and neither do certificate authorities. */
export function keysFor(text: string, words: readonly string[]): KnownKey[] {
  return text.split('\n').flatMap((line): KnownKey[] => {
    const fields = line.trim().split(/\s+/)
    const marker = fields[0].startsWith('@') ? fields.shift() : ''
    const [patterns = '', type = '', data = ''] = fields
    if (patterns.startsWith('#') || data === '' || (marker !== '' && marker !== '@revoked')) return []
    if (!words.some((word) => matches(patterns, word))) return []
    return [{ marker: marker === '@revoked' ? 'revoked' : '', type, key: Buffer.from(data, 'base64') }]
  })
}

export function judge(known: readonly KnownKey[], key: Buffer): Verdict {
  const same = known.filter((one) => one.key.equals(key))
  if (same.some((one) => one.marker === 'revoked')) return 'revoked'
  if (same.length > 0) return 'known'
  return known.some((one) => one.marker === '') ? 'changed' : 'unknown'
}

export function typeOf(key: Buffer): string {
  return key.toString('latin1', 4, 4 + key.readUInt32BE(0))
}

/** As ssh-keygen -l shows it. */
export function fingerprint(key: Buffer): string {
  return `SHA256:${createHash('sha256').update(key).digest('base64').replace(/=+$/, '')}`
}

export function lineFor(word: string, key: Buffer): string {
  return `${word} ${typeOf(key)} ${key.toString('base64')}\n`
}

function matches(patterns: string, word: string): boolean {
  const hashed = /^\|1\|([^|]+)\|([^|]+)$/.exec(patterns)
  if (hashed !== null) {
    const [, salt, hash] = hashed
    return createHmac('sha1', Buffer.from(salt, 'base64')).update(word).digest('base64') === hash
  }
  let found = false
  for (const pattern of patterns.split(',')) {
    const negated = pattern.startsWith('!')
    if (!like(negated ? pattern.slice(1) : pattern, word)) continue
    if (negated) return false
    found = true
  }
  return found
}

/** `*` and `?` stand for what they do in a shell. */
function like(pattern: string, word: string): boolean {
  const parts = pattern.toLowerCase().replace(/[.+^${}()|[\]\\]/g, '\\$&')
  return new RegExp(`^${parts.replace(/\*/g, '.*').replace(/\?/g, '.')}$`).test(word)
}
