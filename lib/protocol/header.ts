/**
 * The 48-byte headers of the sheepdog wire protocol (wire-protocol.md). Clients, dog and peers all speak it. Fields are
 * read and written in place: no object per message.
 */

export const HEADER_LENGTH = 48
export const PROTOCOL_VERSION = 2
/** Peers of another version are refused: the meaning of peer opcodes may change between versions. PROTOCOL of lib/cluster rises with it. */
export const PEER_VERSION = 0x52

/** Most bytes that may follow a header: one whole object of the largest kind a client may send in a piece. */
export const MAX_PAYLOAD = 64 * 1024 * 1024 - 4096

export const FLAG_WRITE = 0x01
export const FLAG_COW = 0x02
export const FLAG_CACHE = 0x04
export const FLAG_DIRECT = 0x08
export const FLAG_PIGGYBACK = 0x10

/** Peer flags live above the clients' ones. */
export const FLAG_CREATE = 0x0100
export const FLAG_FUA = 0x0200
/** Refuse rather than wait when this copy is not known to be valid */
export const FLAG_IF_VALID = 0x0400
/** Zero: keep or reserve blocks */
export const FLAG_KEEP_BLOCKS = 0x0800
/** Read whatever the copy holds: the asker has decided that it is the truth */
export const FLAG_RECOVERY = 0x1000
/** The same, also what its checksum says is rotten */
export const FLAG_AS_IS = 0x2000

export const OP = {
  CREATE_AND_WRITE_OBJ: 0x01,
  READ_OBJ: 0x02,
  WRITE_OBJ: 0x03,
  REMOVE_OBJ: 0x04,
  DISCARD_OBJ: 0x05,
  NEW_VDI: 0x11,
  LOCK_VDI: 0x12,
  RELEASE_VDI: 0x13,
  GET_VDI_INFO: 0x14,
  READ_VDIS: 0x15,
  FLUSH_VDI: 0x16,
  DEL_VDI: 0x17,
  GET_CLUSTER_DEFAULT: 0x18,

  PEER_HELLO: 0x80,
  PEER_WRITE: 0x81,
  PEER_READ: 0x82,
  PEER_ZERO: 0x83,
  PEER_FLUSH: 0x84,
  PEER_REMOVE: 0x85,
  PEER_ALLOCATE: 0x86,
  PEER_PING: 0x87,
  PEER_CALL: 0x88,
  /** How the two ends prove the cluster's key to each other: proof.ts */
  PROOF: 0x89,

  CONTROL: 0xc0,
  VOLUME_OPEN: 0xc1,
  VOLUME_READ: 0xc2,
  VOLUME_WRITE: 0xc3,
  VOLUME_FLUSH: 0xc4,
  VOLUME_CLOSE: 0xc5,
} as const

export const RESULT_PROGRESS = 0x70

export function u16(bytes: Uint8Array, at: number): number {
  return bytes[at] | (bytes[at + 1] << 8)
}

export function u32(bytes: Uint8Array, at: number): number {
  return (bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24)) >>> 0
}

/** A 64-bit field that must be a safe integer; -1 when it is not. */
export function u64(bytes: Uint8Array, at: number): number {
  const high = u32(bytes, at + 4)
  return high > 0x1fffff ? -1 : high * 0x100000000 + u32(bytes, at)
}

export function putU16(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value
  bytes[at + 1] = value >>> 8
}

export function putU32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value
  bytes[at + 1] = value >>> 8
  bytes[at + 2] = value >>> 16
  bytes[at + 3] = value >>> 24
}

export function putU64(bytes: Uint8Array, at: number, value: number): void {
  putU32(bytes, at, value % 0x100000000)
  putU32(bytes, at + 4, Math.floor(value / 0x100000000))
}

/** Bytes that follow this request header: data_length when the WRITE flag is set (reads use it to say what they want). */
export function requestPayloadLength(bytes: Uint8Array, at: number): number {
  return (u16(bytes, at + 2) & FLAG_WRITE) !== 0 ? u32(bytes, at + 12) : 0
}

/** Fills the fields that all requests share; zeroes the rest. */
export function encodeRequest(
  bytes: Uint8Array,
  at: number,
  opcode: number,
  flags: number,
  epoch: number,
  id: number,
  dataLength: number,
): void {
  bytes.fill(0, at, at + HEADER_LENGTH)
  bytes[at] = PROTOCOL_VERSION
  bytes[at + 1] = opcode
  putU16(bytes, at + 2, flags)
  putU32(bytes, at + 4, epoch)
  putU32(bytes, at + 8, id)
  putU32(bytes, at + 12, dataLength)
}

/** A response header; `result` at 16. */
export function encodeResponse(
  bytes: Uint8Array,
  at: number,
  opcode: number,
  id: number,
  result: number,
  dataLength: number,
): void {
  encodeRequest(bytes, at, opcode, 0, 0, id, dataLength)
  putU32(bytes, at + 16, result)
}
