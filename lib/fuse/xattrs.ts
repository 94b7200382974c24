/**
 * Extended attributes: security.* for SELinux and the like, user.* and trusted.* for who wants them. File capabilities and ACLs would need
 * upkeep with each write and each change of mode, and mean nothing for a disk image: they are refused.
 */
import type { FileChange, VdiFile } from '../vdi/types.js'
import * as fuse from './protocol.js'
import { type Call, FuseError } from './session.js'

const XATTR_CREATE = 1
const XATTR_REPLACE = 2
/** What a process that did not negotiate FUSE_SETXATTR_EXT sends before the name */
const SET_HEADER = 8
const REFUSED = /^(?:system\.|security\.capability$)/
const ALLOWED = /^(?:security|user|trusted)\../

export function getAttribute(call: Call, file: VdiFile): Buffer {
  const name = nameIn(call, call.at + 8)
  if (!Object.hasOwn(file.xattrs, name)) throw new FuseError(fuse.ENODATA)
  return sized(call, Buffer.from(file.xattrs[name], 'base64'))
}

export function listAttributes(call: Call, file: VdiFile): Buffer {
  return sized(
    call,
    Buffer.from(
      Object.keys(file.xattrs)
        .map((name) => `${name}\0`)
        .join(''),
    ),
  )
}

export function setAttribute(call: Call, file: VdiFile): FileChange {
  const { bytes, at, end } = call
  const size = bytes.readUInt32LE(at)
  const flags = bytes.readUInt32LE(at + 4)
  const name = nameIn(call, at + SET_HEADER)
  const value = at + SET_HEADER + Buffer.byteLength(name) + 1
  if (value + size > end) throw new FuseError(fuse.EINVAL)
  if (REFUSED.test(name) || !ALLOWED.test(name)) throw new FuseError(fuse.EOPNOTSUPP)
  const there = Object.hasOwn(file.xattrs, name)
  if ((flags & XATTR_CREATE) !== 0 && there) throw new FuseError(fuse.EEXIST)
  if ((flags & XATTR_REPLACE) !== 0 && !there) throw new FuseError(fuse.ENODATA)
  return { xattrs: { [name]: bytes.toString('base64', value, value + size) } }
}

export function removeAttribute(call: Call, file: VdiFile): FileChange {
  const name = nameIn(call, call.at)
  if (!Object.hasOwn(file.xattrs, name)) throw new FuseError(fuse.ENODATA)
  return { xattrs: { [name]: null } }
}

/** The bytes, or where none are wanted their number. */
function sized(call: Call, value: Buffer): Buffer {
  const room = call.bytes.readUInt32LE(call.at)
  if (room > 0) {
    if (value.length > room) throw new FuseError(fuse.ERANGE)
    return value
  }
  const out = Buffer.alloc(8)
  out.writeUInt32LE(value.length, 0)
  return out
}

function nameIn(call: Call, at: number): string {
  const name = fuse.names(call.bytes, at, call.end, 1)?.[0]
  if (name === undefined || name === '') throw new FuseError(fuse.EINVAL)
  return name
}
