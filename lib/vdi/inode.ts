/**
 * The inode object: a header of 4664 bytes, then `data_vdi_id`, one little-endian u32 for each data object: the vid that owns it, 0
 * for a hole (wire-protocol.md, "Inode object"). Legacy clients read it as it is.
 *
 * The registry decides what a VDI is called, how big it is and whether it is a snapshot; the header on disk repeats what was true
 * when the inode was made. Whoever shows a header to a client puts the registry's facts over it (`putEntry`). Only the VM state's
 * size and clock, which clients write themselves, live in the header alone. The index is the inode's own truth.
 */
import { assert } from '../assert.js'
import { SheepError } from '../errors.js'
import { MAX_COPIES } from '../placement/ring.js'
import { checkName, checkTag, quoted, textFromField } from './name.js'
import { KIND_DATA, KIND_INODE, kindOf, MAX_VID, type Oid } from './oid.js'
import type { VdiEntry } from './types.js'

export const INDEX_OFFSET = 4664
/** Length of a growing file (lib/gateway/length-record.ts): at the end of the header, which a copied index takes along */
export const LENGTH_BYTES = 8
export const LENGTH_OFFSET = INDEX_OFFSET - LENGTH_BYTES
export const MAX_ENTRIES = 2 ** 20
export const INODE_BYTES = INDEX_OFFSET + 4 * MAX_ENTRIES

/** log2 of the object size. QEMU's sheepdog driver took 20 to 31; an object's offset is a u32 on the wire, which agrees. */
export const MIN_SHIFT = 20
export const MAX_SHIFT = 31
/** What the core itself takes; dog offers MIN_SHIFT and up. Small objects let the simulator run through thousands of them. */
export const CORE_MIN_SHIFT = 12
/** 4 MiB, what the field knows. */
export const DEFAULT_SHIFT = 22
/** 2 PiB in 2 GiB objects. 16 TiB takes a shift of 24. */
export const MAX_SIZE = MAX_ENTRIES * 2 ** MAX_SHIFT
/** A disk's sector: guests and QEMU count in these. */
export const SIZE_GRAIN = 512
/** VM state objects of one snapshot: its size comes from a client and bounds what deletion removes. */
export const MAX_VM_STATE_OBJECTS = MAX_ENTRIES

/** Objects of a VDI of `size` bytes. */
export function entriesFor(size: number, shift: number): number {
  return Math.ceil(size / 2 ** shift)
}

/** Smallest shift that is at least `least` and fits `size` into one inode. SheepError too-big, invalid. */
export function shiftForSize(size: number, least = DEFAULT_SHIFT): number {
  checkSize(size)
  let shift = least
  while (entriesFor(size, shift) > MAX_ENTRIES) shift++
  return shift
}

/** SheepError invalid, too-big. */
export function checkSize(size: unknown): asserts size is number {
  if (typeof size !== 'number' || !Number.isFinite(size) || size <= 0) {
    throw new SheepError('invalid', `VDI size ${quoted(size)} is not a positive number of bytes`)
  }
  if (size > MAX_SIZE) throw new SheepError('too-big', `VDI size ${size} is above the largest, ${MAX_SIZE} (2 PiB)`)
  if (size % SIZE_GRAIN !== 0) {
    throw new SheepError(
      'invalid',
      `VDI size ${size} is not a multiple of ${SIZE_GRAIN}`,
      'round it up to a whole sector',
    )
  }
}

/** SheepError invalid. */
export function checkShift(shift: unknown): asserts shift is number {
  if (!Number.isInteger(shift) || (shift as number) < CORE_MIN_SHIFT || (shift as number) > MAX_SHIFT) {
    throw new SheepError(
      'invalid',
      `object size shift ${quoted(shift)} is out of range`,
      `objects are 2^${MIN_SHIFT} (1 MiB) to 2^${MAX_SHIFT} (2 GiB) bytes`,
    )
  }
}

/** SheepError too-big when `size` needs larger objects than 2^shift; both already checked. */
export function checkFits(size: number, shift: number): void {
  if (entriesFor(size, shift) <= MAX_ENTRIES) return
  throw new SheepError(
    'too-big',
    `${size} bytes do not fit into ${MAX_ENTRIES} objects of ${2 ** shift} bytes`,
    `the largest size with this object size is ${MAX_ENTRIES * 2 ** shift}; a new VDI with larger objects can be larger`,
  )
}

export interface InodeHeader {
  name: string
  /** '' none */
  tag: string
  /** ms since the Unix epoch */
  createTime: number
  /** ms since the Unix epoch; 0: working VDI */
  snapshotTime: number
  /** ns, the client's */
  vmClock: bigint
  /** bytes */
  size: number
  /** bytes */
  vmStateSize: number
  copies: number
  blockSizeShift: number
  snapId: number
  vid: number
  parent: number
}

const NAME = 0
const TAG = 256
const FIELD = 256
const CREATE_TIME = 512
const SNAPSHOT_TIME = 520
const VM_CLOCK = 528
const SIZE = 536
const VM_STATE_SIZE = 544
const POLICIES = 552
const COPIES = 554
const SHIFT = 555
const SNAP_ID = 556
const VID = 560
const PARENT = 564

/** A new header of INDEX_OFFSET bytes. */
export function encodeHeader(header: InodeHeader): Buffer {
  const bytes = Buffer.alloc(INDEX_OFFSET)
  putEntry(bytes, header)
  bytes.writeBigUInt64LE(header.vmClock, VM_CLOCK)
  bytes.writeBigUInt64LE(BigInt(header.vmStateSize), VM_STATE_SIZE)
  return bytes
}

/** Puts what the registry knows into a header (at least the first 568 bytes of an inode); the VM state's fields stay. */
export function putEntry(bytes: Buffer, entry: Omit<InodeHeader, 'vmClock' | 'vmStateSize'> | VdiEntry): void {
  putText(bytes, NAME, entry.name)
  putText(bytes, TAG, entry.tag)
  putTime(bytes, CREATE_TIME, entry.createTime)
  putTime(bytes, SNAPSHOT_TIME, entry.snapshotTime)
  bytes.writeBigUInt64LE(BigInt(entry.size), SIZE)
  bytes.writeUInt16LE(0, POLICIES)
  bytes[COPIES] = entry.copies
  bytes[SHIFT] = entry.blockSizeShift
  bytes.writeUInt32LE(entry.snapId, SNAP_ID)
  bytes.writeUInt32LE(entry.vid, VID)
  bytes.writeUInt32LE(entry.parent, PARENT)
}

export function headerOf(entry: VdiEntry): InodeHeader {
  const { name, tag, createTime, snapshotTime, size, copies, blockSizeShift, snapId, vid, parent } = entry
  return {
    name,
    tag,
    createTime,
    snapshotTime,
    size,
    copies,
    blockSizeShift,
    snapId,
    vid,
    parent,
    vmClock: 0n,
    vmStateSize: 0,
  }
}

function putText(bytes: Buffer, offset: number, text: string): void {
  const written = bytes.write(text, offset, FIELD - 1, 'utf8')
  bytes.fill(0, offset + written, offset + FIELD)
}

/** Seconds in the upper word, nanoseconds in the lower. */
function putTime(bytes: Buffer, offset: number, ms: number): void {
  const seconds = Math.floor(ms / 1000)
  bytes.writeUInt32LE(Math.floor((ms - seconds * 1000) * 1e6), offset)
  bytes.writeUInt32LE(seconds, offset + 4)
}

function takeTime(bytes: Buffer, offset: number, what: string): number {
  const nanoseconds = bytes.readUInt32LE(offset)
  if (nanoseconds >= 1e9) throw new SheepError('invalid', `inode: ${what} has ${nanoseconds} nanoseconds`)
  return bytes.readUInt32LE(offset + 4) * 1000 + nanoseconds / 1e6
}

function takeU64(bytes: Buffer, offset: number, max: number, what: string): number {
  const value = bytes.readBigUInt64LE(offset)
  if (value > BigInt(max)) throw new SheepError('invalid', `inode: ${what} ${value} is above ${max}`)
  return Number(value)
}

/**
 * Header from an inode's first bytes, every field checked: they may be a stranger's. SheepError invalid names the field.
 * Bytes that are not there (a short buffer) are invalid too; 568 are enough.
 */
export function decodeHeader(bytes: Buffer): InodeHeader {
  if (bytes.length < PARENT + 4) throw new SheepError('invalid', `inode: ${bytes.length} bytes are no header`)
  const name = textFromField(bytes.subarray(NAME, NAME + FIELD))
  checkName(name)
  const tag = textFromField(bytes.subarray(TAG, TAG + FIELD))
  if (tag !== '') checkTag(tag)
  const blockSizeShift = bytes[SHIFT]
  checkShift(blockSizeShift)
  const size = takeU64(bytes, SIZE, MAX_SIZE, 'size')
  checkSize(size)
  checkFits(size, blockSizeShift)
  const copies = bytes[COPIES]
  if (copies < 1 || copies > MAX_COPIES)
    throw new SheepError('invalid', `inode: ${copies} copies, not 1 to ${MAX_COPIES}`)
  if (bytes.readUInt16LE(POLICIES) !== 0) {
    throw new SheepError(
      'invalid',
      'inode: a copy or store policy',
      'erasure coding and hyper volumes are not known here',
    )
  }
  const vid = bytes.readUInt32LE(VID)
  const parent = bytes.readUInt32LE(PARENT)
  if (vid === 0 || vid > MAX_VID || parent > MAX_VID || parent === vid) {
    throw new SheepError('invalid', `inode: vid ${vid} with parent ${parent}`)
  }
  return {
    name,
    tag,
    createTime: takeTime(bytes, CREATE_TIME, 'creation time'),
    snapshotTime: takeTime(bytes, SNAPSHOT_TIME, 'snapshot time'),
    vmClock: bytes.readBigUInt64LE(VM_CLOCK),
    size,
    vmStateSize: takeU64(bytes, VM_STATE_SIZE, MAX_VM_STATE_OBJECTS * 2 ** blockSizeShift, 'VM state size'),
    copies,
    blockSizeShift,
    snapId: bytes.readUInt32LE(SNAP_ID),
    vid,
    parent,
  }
}

/** Byte position of entry `index` in the inode object. */
export function entryPosition(index: number): number {
  return INDEX_OFFSET + 4 * index
}

const LITTLE_ENDIAN = new Uint8Array(Uint32Array.of(1).buffer)[0] === 1

/** Index entries from their bytes (a copy). SheepError invalid when one is no vid: the inode is damaged. */
export function decodeIndex(bytes: Uint8Array): Uint32Array {
  assert(bytes.length % 4 === 0, 'an index slice holds whole entries')
  const index = new Uint32Array(bytes.length / 4)
  const view = Buffer.from(index.buffer)
  view.set(bytes)
  if (!LITTLE_ENDIAN) view.swap32()
  let seen = 0
  for (let i = 0; i < index.length; i++) seen |= index[i]
  if (seen >>> 0 > MAX_VID) {
    const i = index.findIndex((vid) => vid > MAX_VID)
    throw new SheepError('invalid', `inode: entry ${i} of the slice is ${index[i]}, which is no vid`)
  }
  return index
}

/** Bytes of index entries (a copy). */
export function encodeIndex(index: Uint32Array): Buffer {
  const bytes = Buffer.from(Buffer.from(index.buffer, index.byteOffset, index.byteLength))
  if (!LITTLE_ENDIAN) bytes.swap32()
  return bytes
}

/** Number of entries up to the last one that is no hole. */
export function usedEntries(index: Uint32Array): number {
  let used = index.length
  while (used > 0 && index[used - 1] === 0) used--
  return used
}

/** Full size of an object of this VDI, bytes; 0: unknown. */
export function objectBytes(oid: Oid, entry: VdiEntry | undefined): number {
  if (entry === undefined) return 0
  if (kindOf(oid) === KIND_DATA) return 2 ** entry.blockSizeShift
  return kindOf(oid) === KIND_INODE ? INDEX_OFFSET + 4 * entriesFor(entry.size, entry.blockSizeShift) : 0
}
