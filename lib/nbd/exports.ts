/**
 * Which exports there are, and the volumes that are open: connections of one export share a volume, so that a flush on
 * one covers the writes of all (multi-conn) and the VDI's lock is taken once.
 */
import { assert } from '../assert.js'
import { SheepError } from '../errors.js'
import type { OpenRequest, Volume, VolumeOpener } from '../gateway/types.js'
import type { Log } from '../host/interfaces.js'
import type { VdiEntry } from '../vdi/types.js'
import {
  TRANSMISSION_CAN_MULTI_CONN,
  TRANSMISSION_HAS_FLAGS,
  TRANSMISSION_READ_ONLY,
  TRANSMISSION_SEND_CACHE,
  TRANSMISSION_SEND_DF,
  TRANSMISSION_SEND_FAST_ZERO,
  TRANSMISSION_SEND_FLUSH,
  TRANSMISSION_SEND_FUA,
  TRANSMISSION_SEND_TRIM,
  TRANSMISSION_SEND_WRITE_ZEROES,
} from './constants.js'

/** Longest export name that is looked up, bytes: a VDI name and a tag of 255 bytes each, and '@'. */
export const EXPORT_NAME_MAX = 511

/** `NAME`, `NAME@TAG` or `NAME@ID`. SheepError: invalid. */
export function parseExportName(text: string): { name: string; snapshot: string } {
  if (text === '') {
    throw new SheepError('not-found', 'there is no default export', 'name a volume, or NAME@SNAPSHOT, in the NBD URI')
  }
  if (Buffer.byteLength(text) > EXPORT_NAME_MAX) {
    throw new SheepError('not-found', `an export name has at most ${EXPORT_NAME_MAX} bytes`)
  }
  const at = text.indexOf('@')
  const name = at < 0 ? text : text.slice(0, at)
  const snapshot = at < 0 ? '' : text.slice(at + 1)
  if (name === '' || (at >= 0 && snapshot === '')) {
    throw new SheepError('not-found', `no export ${JSON.stringify(text)}`, 'exports are NAME, NAME@TAG and NAME@ID')
  }
  return { name, snapshot }
}

export function exportName(entry: VdiEntry): string {
  if (entry.snapshotTime === 0) return entry.name
  return `${entry.name}@${entry.tag === '' ? entry.snapId : entry.tag}`
}

/** For people, in lists and information about an export. */
export function describe(entry: VdiEntry): string {
  const copies = entry.copies === 1 ? '1 copy' : `${entry.copies} copies`
  if (entry.snapshotTime === 0) return `volume, ${copies}`
  const taken = new Date(entry.snapshotTime).toISOString().slice(0, 19)
  return `snapshot ${entry.snapId} of ${entry.name}, taken ${taken}Z, ${copies}`
}

export function transmissionFlags(readOnly: boolean, structured: boolean): number {
  const common =
    TRANSMISSION_HAS_FLAGS |
    TRANSMISSION_SEND_FLUSH |
    TRANSMISSION_SEND_FUA |
    TRANSMISSION_SEND_CACHE |
    TRANSMISSION_CAN_MULTI_CONN |
    (structured ? TRANSMISSION_SEND_DF : 0)
  if (readOnly) return common | TRANSMISSION_READ_ONLY
  return common | TRANSMISSION_SEND_TRIM | TRANSMISSION_SEND_WRITE_ZEROES | TRANSMISSION_SEND_FAST_ZERO
}

/** A volume in use by one or more connections. */
interface Shared {
  name: string
  snapshot: string
  /** null while it is being opened */
  volume: Volume | null
  ready: Promise<Volume>
  users: Set<Lease>
  revoked: boolean
}

/** One connection's use of a volume. */
export interface Lease {
  readonly volume: Volume
  /** The volume is no longer ours: its requests fail. */
  readonly revoked: boolean
  /** Called when that happens. */
  onRevoked: (() => void) | null
  /** Once. The volume closes when the last lease goes. */
  release(): void
}

export class Exports {
  private readonly shared = new Set<Shared>()
  private readonly closing = new Map<Volume, Promise<void>>()

  constructor(
    private readonly opener: VolumeOpener,
    private readonly log: Log,
  ) {}

  list(): VdiEntry[] {
    return this.opener.list().filter((entry) => entry.state === 'live')
  }

  /** Without opening. SheepError: not-found, no-tag. */
  find(text: string): VdiEntry {
    const { name, snapshot } = parseExportName(text)
    return this.opener.find(name, snapshot)
  }

  /** SheepError: not-found, no-tag, locked, starting-up, ... */
  async open(text: string, holder: string): Promise<Lease> {
    const { name, snapshot } = parseExportName(text)
    // A volume on its way out holds its lock until it is closed: opening it again before that would fail.
    for (;;) {
      const { vid } = this.opener.find(name, snapshot)
      const leaving = [...this.closing].find(([volume]) => volume.entry.vid === vid)
      if (leaving === undefined) break
      await leaving[1]
    }
    const shared = this.sharedFor(name, snapshot) ?? this.start(name, snapshot, holder)
    const user: { volume: Volume | null } & Omit<Lease, 'volume'> = {
      volume: null,
      get revoked() {
        return shared.revoked
      },
      onRevoked: null,
      release: () => this.release(shared, user as Lease),
    }
    // Before waiting, so that the volume stays open for us if its last other user goes meanwhile.
    shared.users.add(user as Lease)
    user.volume = await shared.ready
    return user as Lease
  }

  /** Resolves when every volume without a lease is closed. */
  async idle(): Promise<void> {
    while (this.closing.size > 0) await Promise.all(this.closing.values())
  }

  private sharedFor(name: string, snapshot: string): Shared | undefined {
    // Not by name: after a rename the name of an open volume may be another's. A snapshot changes the working VDI's vid.
    const { vid } = this.opener.find(name, snapshot)
    for (const shared of this.shared) {
      if (shared.revoked) continue
      const { volume } = shared
      if (volume === null ? shared.name === name && shared.snapshot === snapshot : volume.entry.vid === vid)
        return shared
    }
    return undefined
  }

  private start(name: string, snapshot: string, holder: string): Shared {
    const request: OpenRequest = { name, snapshot, readOnly: snapshot !== '', holder, shareable: true }
    const ready = this.opener.open(request).then(
      (volume) => {
        shared.volume = volume
        volume.onChange = (what) => {
          // NBD cannot tell a client of a new size: those that connect from now on see it.
          if (what === 'resized') return
          shared.revoked = true
          for (const lease of [...shared.users]) lease.onRevoked?.()
        }
        return volume
      },
      (error: Error) => {
        this.shared.delete(shared)
        throw error
      },
    )
    const shared: Shared = { name, snapshot, volume: null, ready, users: new Set(), revoked: false }
    this.shared.add(shared)
    return shared
  }

  private release(shared: Shared, lease: Lease): void {
    assert(shared.users.delete(lease), 'a lease is released once')
    if (shared.users.size > 0) return
    const { volume } = lease
    this.shared.delete(shared)
    volume.onChange = null
    const closing = volume
      .close()
      .catch((error: Error) => {
        this.log('error', 'a volume did not close cleanly', { volume: exportName(volume.entry), reason: error.message })
      })
      .finally(() => this.closing.delete(volume))
    this.closing.set(volume, closing)
  }
}
