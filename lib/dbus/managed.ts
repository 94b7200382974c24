/**
 * The answer to GetManagedObjects. With dbus-next's codec five thousand volumes take more than a second; so each object's part is
 * kept as bytes until it changes, and an answer is their sequence.
 */
import { encode, frameBytes, METHOD_RETURN, type Outgoing } from './codec.js'
import type { BusObject } from './objects.js'

const SIGNATURE = 'a{oa{sa{sv}}}'
/** Of the same layout as an entry of the dictionary, which stands for nothing by itself (D-Bus specification, "Marshaling") */
const ENTRY = '(oa{sa{sv}})'
/** Body of an array of entries: its length, and what brings the first one to a multiple of 8 */
const ARRAY_HEAD_BYTES = 8

const entries = new WeakMap<BusObject, Buffer>()

function entryOf(object: BusObject, interfacesOf: (object: BusObject) => Record<string, unknown>): Buffer {
  const known = entries.get(object)
  if (known !== undefined) return known
  const body = [[object.path, interfacesOf(object)]]
  const bytes = encode(METHOD_RETURN, { serial: 1, replySerial: 1, signature: ENTRY, body })
  const entry = bytes.subarray(frameBytes(bytes).header)
  entries.set(object, entry)
  return entry
}

/** A whole message. @param reply destination and serials */
export function managedObjects(
  objects: Iterable<BusObject>,
  interfacesOf: (object: BusObject) => Record<string, unknown>,
  reply: Outgoing,
): Buffer {
  const head = Buffer.from(encode(METHOD_RETURN, { ...reply, signature: SIGNATURE, body: [{}] }))
  const { header } = frameBytes(head)
  const parts: Buffer[] = [head.subarray(0, header + ARRAY_HEAD_BYTES)]
  let bytes = 0
  for (const object of objects) {
    const padding = -bytes & 7
    if (padding > 0) parts.push(Buffer.alloc(padding))
    const entry = entryOf(object, interfacesOf)
    parts.push(entry)
    bytes += padding + entry.length
  }
  head.writeUInt32LE(ARRAY_HEAD_BYTES + bytes, 4)
  head.writeUInt32LE(bytes, header)
  return Buffer.concat(parts)
}
