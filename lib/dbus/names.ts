/** What D-Bus calls things: our bus name, object paths, interfaces, errors. */
import type { ErrorCode } from '../errors.js'

export const BUS_NAME = 'org.sheepdog'
/** The ObjectManager */
export const ROOT_PATH = '/org/sheepdog'
export const CLUSTER_PATH = `${ROOT_PATH}/cluster`

/**
 * Any text as one element of an object path, and never the same for two texts: bytes of UTF-8 other than A-Z, a-z, 0-9, and a digit in
 * front, become _xx; no text is _. As sd_bus_path_encode(3) does it, so that its users can read our paths.
 */
export function pathElement(text: string): string {
  if (text === '') return '_'
  let element = ''
  for (const [at, byte] of Buffer.from(text, 'utf8').entries()) {
    const letter = (byte >= 0x41 && byte <= 0x5a) || (byte >= 0x61 && byte <= 0x7a)
    const digit = byte >= 0x30 && byte <= 0x39 && at > 0
    element += letter || digit ? String.fromCharCode(byte) : `_${byte.toString(16).padStart(2, '0')}`
  }
  return element
}

/** `id`: 16 hex digits, which stand as they are */
export function nodePath(id: string): string {
  return `${ROOT_PATH}/nodes/${id}`
}

export function volumePath(name: string): string {
  return `${ROOT_PATH}/volumes/${pathElement(name)}`
}

export function snapshotPath(name: string, id: number): string {
  return `${ROOT_PATH}/snapshots/${pathElement(name)}/${id}`
}

/** 'not-found' is org.sheepdog.Error.NotFound. */
export function errorName(code: ErrorCode): string {
  const words = code.split('-').map((word) => word[0].toUpperCase() + word.slice(1))
  return `${BUS_NAME}.Error.${words.join('')}`
}

/** Errors that D-Bus itself names (dbus-shared.h) and that its tools know. */
export const STANDARD_ERRORS = {
  authorizationNeeded: 'org.freedesktop.DBus.Error.InteractiveAuthorizationRequired',
  failed: 'org.freedesktop.DBus.Error.Failed',
  invalidArguments: 'org.freedesktop.DBus.Error.InvalidArgs',
  limits: 'org.freedesktop.DBus.Error.LimitsExceeded',
  noReply: 'org.freedesktop.DBus.Error.NoReply',
  readOnlyProperty: 'org.freedesktop.DBus.Error.PropertyReadOnly',
  unknownInterface: 'org.freedesktop.DBus.Error.UnknownInterface',
  unknownMethod: 'org.freedesktop.DBus.Error.UnknownMethod',
  unknownObject: 'org.freedesktop.DBus.Error.UnknownObject',
  unknownProperty: 'org.freedesktop.DBus.Error.UnknownProperty',
} as const

/** Not D-Bus's AccessDenied: busctl shows that one without its text. */
export const NOT_AUTHORIZED = `${BUS_NAME}.Error.NotAuthorized`

/** A call that is answered with an error of this name. */
export class CallError extends Error {
  override readonly name = 'CallError'

  constructor(
    readonly errorName: string,
    message: string,
  ) {
    super(message)
  }
}
