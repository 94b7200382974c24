/**
 * Names of VDIs and tags of snapshots: what is allowed, how `NAME@TAG` is read, and where a name's vid search starts. A name is
 * shown on terminals, put into URLs, file names (FUSE) and 256-byte fields of the wire protocol, which sets the limits.
 */
import { SheepError } from '../errors.js'

/** Bytes of UTF-8: the wire's fields have 256 and end in NUL. */
export const NAME_BYTES_MAX = 255

const NAME_RULE = `1 to ${NAME_BYTES_MAX} bytes of UTF-8, no "/", "@" or control characters, not "." or ".."`
const TAG_RULE = `${NAME_RULE}, not only digits (a number is a snapshot's id)`

/** C0, DEL, C1, the line and paragraph separators, halves of surrogate pairs (no UTF-8 form), and the separators / and @. */
const FORBIDDEN = /[\u0000-\u001f\u007f-\u009f\u2028\u2029/@]|\p{Surrogate}/u

function fault(text: unknown): string {
  if (typeof text !== 'string') return 'is not text'
  if (text === '') return 'is empty'
  if (text === '.' || text === '..') return 'is a directory'
  if (FORBIDDEN.test(text)) return 'has a character that is not allowed'
  if (Buffer.byteLength(text, 'utf8') > NAME_BYTES_MAX) return 'is too long'
  return ''
}

/** For messages: one line, bounded, whatever the stranger sent. */
export function quoted(text: unknown): string {
  const shown = JSON.stringify(text) ?? String(text)
  return shown.length > 80 ? `${shown.slice(0, 76)}..."` : shown
}

/** SheepError invalid, which says what is allowed. */
export function checkName(name: unknown): asserts name is string {
  const wrong = fault(name)
  if (wrong !== '') throw new SheepError('invalid', `VDI name ${quoted(name)} ${wrong}`, `a name is ${NAME_RULE}`)
}

/** SheepError invalid, which says what is allowed. The empty tag (none) is not one. */
export function checkTag(tag: unknown): asserts tag is string {
  const wrong = fault(tag) || (/^[0-9]+$/.test(tag as string) ? 'is a number' : '')
  if (wrong !== '') throw new SheepError('invalid', `snapshot tag ${quoted(tag)} ${wrong}`, `a tag is ${TAG_RULE}`)
}

/** A snapshot's id in decimal, as people type it; 0 when `text` is none (then it is a tag). */
export function snapIdOf(text: string): number {
  if (!/^[0-9]{1,10}$/.test(text)) return 0
  const id = Number(text)
  return id <= 0xffffffff ? id : 0
}

export interface VdiReference {
  name: string
  /** Tag or decimal snapshot id; '' is the working VDI */
  snapshot: string
}

/** `NAME`, `NAME@TAG` or `NAME@ID`. SheepError invalid. */
export function parseReference(text: string): VdiReference {
  const at = text.indexOf('@')
  const name = at < 0 ? text : text.slice(0, at)
  checkName(name)
  if (at < 0) return { name, snapshot: '' }
  const snapshot = text.slice(at + 1)
  if (/^[0-9]+$/.test(snapshot)) {
    if (snapIdOf(snapshot) === 0) {
      throw new SheepError('invalid', `snapshot id ${quoted(snapshot)} is out of range`, 'ids are 1 to 4294967295')
    }
  } else {
    checkTag(snapshot)
  }
  return { name, snapshot }
}

export function formatReference(name: string, snapshot: string | number): string {
  return snapshot === '' || snapshot === 0 ? name : `${name}@${snapshot}`
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** Text of a fixed field up to its first NUL. SheepError invalid when it is no UTF-8 or longer than NAME_BYTES_MAX. */
export function textFromField(field: Uint8Array): string {
  const end = field.indexOf(0)
  const bytes = end < 0 ? field : field.subarray(0, end)
  if (bytes.length > NAME_BYTES_MAX) {
    throw new SheepError('invalid', `a name of more than ${NAME_BYTES_MAX} bytes`, `a name is ${NAME_RULE}`)
  }
  try {
    return utf8.decode(bytes)
  } catch {
    throw new SheepError('invalid', 'a name that is no UTF-8', `a name is ${NAME_RULE}`)
  }
}

/**
 * Where the search for a vid starts: 64-bit FNV-1a of the name's UTF-8 bytes, lower 24 bits (wire-protocol.md, "vid"). Lower bits of a
 * product depend on lower bits of the factors only, so 32-bit arithmetic gives the same bits: 0x84222325 and 0x1b3 are the lower
 * words of basis and prime.
 */
export function vidHash(name: string): number {
  let h = 0x84222325
  for (const byte of Buffer.from(name, 'utf8')) h = Math.imul(h ^ byte, 0x1b3)
  return h & 0xffffff
}
