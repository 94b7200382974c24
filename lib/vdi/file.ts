/**
 * What the registry keeps of a VDI as a file: how long it is, whose, what is attached to it. Here rather than in an object of the VDI: it is
 * little, changes seldom, every host has it at hand for lists of thousands of files, and learns of a change in the order of all others.
 * What changes with each write, the length of a growing file, is in the inode object.
 */
import { SheepError } from '../errors.js'
import { quoted } from './name.js'
import type { FileChange, VdiFile } from './types.js'

/** Names and values in base64 of one file's extended attributes together: each is in the memory of every daemon. */
export const FILE_XATTRS_MAX = 8192
/** XATTR_NAME_MAX of linux/limits.h */
const XATTR_NAME_MAX = 255
const ID_MAX = 0xffffffff
export const MODE_DEFAULT = 0o600

const FRESH: VdiFile = { length: null, growing: false, mode: MODE_DEFAULT, uid: 0, gid: 0, mtime: 0, xattrs: {} }

type Length = Pick<VdiFile, 'length' | 'growing'>

export function lengthOf(file: VdiFile | undefined): Length {
  return { length: file?.length ?? null, growing: file?.growing ?? false }
}

/** undefined as long as there is nothing to say. */
export function withLength(file: VdiFile | undefined, { length, growing }: Length): VdiFile | undefined {
  if (file === undefined && length === null && !growing) return undefined
  return { ...(file ?? FRESH), length, growing }
}

/** SheepError too-big. */
export function changedFile(file: VdiFile = FRESH, { xattrs, ...change }: FileChange): VdiFile {
  if (xattrs === undefined) return { ...file, ...change }
  const merged = Object.entries({ ...file.xattrs, ...xattrs }).filter(
    (pair): pair is [string, string] => pair[1] !== null,
  )
  const bytes = merged.reduce((sum, [name, value]) => sum + Buffer.byteLength(name) + value.length, 0)
  if (bytes > FILE_XATTRS_MAX) {
    throw new SheepError('too-big', `more than ${FILE_XATTRS_MAX} bytes of extended attributes`)
  }
  return { ...file, ...change, xattrs: Object.fromEntries(merged) }
}

/** SheepError invalid, as all below. */
export function checkLength(value: unknown, size: number, what: string): asserts value is number {
  if (!Number.isSafeInteger(value) || (value as number) < 0 || (value as number) > size) {
    throw new SheepError('invalid', `${what}: length ${quoted(value)} of a file on ${size} bytes`)
  }
}

export function checkFile(value: unknown, size: number, what: string): asserts value is VdiFile {
  const file = (value ?? {}) as VdiFile
  if (file.length !== null) checkLength(file.length, size, what)
  if (typeof file.growing !== 'boolean') throw new SheepError('invalid', `${what}: growing ${quoted(file.growing)}`)
  const { mode, uid, gid, mtime, xattrs } = file
  for (const [name, number] of Object.entries({ mode, uid, gid, mtime })) {
    if (number === undefined) throw new SheepError('invalid', `${what}: a file without ${name}`)
  }
  if (Object.values(xattrs ?? { none: null }).includes(null as unknown as string)) {
    throw new SheepError('invalid', `${what}: a file's extended attributes`)
  }
  checkFileChange({ mode, uid, gid, mtime, xattrs }, what)
}

export function checkFileChange(value: unknown, what: string): asserts value is FileChange {
  const { mode, uid, gid, mtime, xattrs } = (value ?? {}) as FileChange
  checkNumber(mode, 0o777, `${what}: mode`)
  checkNumber(uid, ID_MAX, `${what}: uid`)
  checkNumber(gid, ID_MAX, `${what}: gid`)
  checkNumber(mtime, Number.MAX_SAFE_INTEGER, `${what}: mtime`)
  if (xattrs === undefined) return
  if (typeof xattrs !== 'object' || xattrs === null) throw new SheepError('invalid', `${what}: xattrs`)
  for (const [name, text] of Object.entries(xattrs)) {
    const nameFits = name !== '' && Buffer.byteLength(name) <= XATTR_NAME_MAX && !name.includes('\0')
    const valueFits = text === null || (typeof text === 'string' && /^[A-Za-z0-9+/]*={0,2}$/.test(text))
    if (!nameFits || !valueFits) throw new SheepError('invalid', `${what}: extended attribute ${quoted(name)}`)
    if (text !== null && text.length > FILE_XATTRS_MAX) throw new SheepError('too-big', `${what}: ${quoted(name)}`)
  }
}

function checkNumber(value: unknown, max: number, what: string): void {
  if (value === undefined) return
  if (!Number.isSafeInteger(value) || (value as number) < 0 || (value as number) > max) {
    throw new SheepError('invalid', `${what} ${quoted(value)}`)
  }
}
