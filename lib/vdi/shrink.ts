/**
 * Cutting the end off a VDI that nobody has open. It is opened here for the time (a write lock), so no gateway comes between; the order is
 *   1. entries beyond the new end become holes, the rest of the last object zeros, durable;
 *   2. the objects that are named no more are freed, if nothing else needs them;
 *   3. the size changes.
 * Stopped in between, the VDI has its old size, with zeros where the cut was to be: growing never shows what was cut.
 */

import { asSheepError, SheepError } from '../errors.js'
import type { Log } from '../host/interfaces.js'
import { mayTakeEffect, SHRINK_SESSION } from './command.js'
import { encodeIndex, entriesFor, entryPosition, usedEntries } from './inode.js'
import { IO_CHUNK, readIndex, writePieces } from './inode-io.js'
import { inOneEpoch, type ObjectIo } from './object-io.js'
import { dataOid, inodeOid, type Oid } from './oid.js'
import type { Reclaim } from './reclaim.js'
import { referencesOf } from './tree.js'
import type { VdiCommand, VdiEntry } from './types.js'

export interface ShrinkParts {
  io: ObjectIo
  log: Log
  reclaim: Reclaim
  propose: (command: VdiCommand) => Promise<unknown>
}

/** `serial`: differs between all shrinks of this process. SheepError locked, busy, halted. */
export async function shrink(parts: ShrinkParts, entry: VdiEntry, size: number, serial: number): Promise<void> {
  const { vid } = entry
  const session = `${SHRINK_SESSION}${serial}`
  try {
    await parts.propose({ op: 'lock', vid, session, mode: 'write', holder: 'dog vdi resize, shrinking it' })
  } catch (error) {
    if (mayTakeEffect(asSheepError(error))) void unlock(parts, vid, session, false)
    throw error
  }
  let leftovers = true
  try {
    const released = await cutIndex(parts.io, entry, size)
    await parts.reclaim.release(vid, released)
    leftovers = false
    await parts.propose({ op: 'resize', vid, size })
  } catch (thrown) {
    const error = asSheepError(thrown)
    if (error.code !== 'not-locked') throw error
    const hint = `look at the size that it has, and try again: dog vdi list ${entry.name}`
    throw new SheepError('halted', 'this node was out of the cluster for a moment, and the shrinking was cut off', hint)
  } finally {
    await unlock(parts, vid, session, leftovers)
  }
}

/** A lock that stays keeps the VDI from everybody: while nobody knows whether it went, it is asked for again, each time within a deadline. */
async function unlock({ propose, log }: ShrinkParts, vid: number, session: string, leftovers: boolean): Promise<void> {
  for (;;) {
    try {
      await propose({ op: 'unlock', vid, session, leftovers })
      return
    } catch (thrown) {
      const error = asSheepError(thrown)
      if (error.code === 'not-locked') return
      log('warning', 'unlocking a VDI after shrinking failed', { vid, error: error.message })
      if (!mayTakeEffect(error)) return
    }
  }
}

/** Answers the objects that are named no more. */
async function cutIndex(io: ObjectIo, entry: VdiEntry, size: number): Promise<Oid[]> {
  const { vid, blockSizeShift } = entry
  const objectSize = 2 ** blockSizeShift
  const kept = Math.floor(size / objectSize)
  const tail = size % objectSize
  const index = await readIndex(io, vid, kept, entriesFor(entry.size, blockSizeShift))
  const released: Oid[] = []
  const cut = tail === 0 ? 0 : 1
  const copied = tail > 0 && index[0] !== vid && index[0] !== 0
  if (copied) {
    await inOneEpoch(io, async () => {
      await copyHead(io, dataOid(index[0], kept), dataOid(vid, kept), tail)
      await io.flush(vid)
    })
    released.push(dataOid(index[0], kept))
  }
  const beyond = index.subarray(cut)
  for (const oid of referencesOf(beyond, kept + cut)) released.push(oid)
  await inOneEpoch(io, async () => {
    if (copied) await io.write(inodeOid(vid), entryPosition(kept), encodeIndex(Uint32Array.of(vid)))
    else if (tail > 0 && index[0] === vid) await zeroTail(io, dataOid(vid, kept), tail, objectSize)
    await writePieces(io, inodeOid(vid), Buffer.alloc(4 * usedEntries(beyond)), entryPosition(kept + cut), false)
    await io.flush(vid)
  })
  return released
}

/** Zeros from `tail` to the object's end, written only where there is something else. */
async function zeroTail(io: ObjectIo, oid: Oid, tail: number, end: number): Promise<void> {
  for (let at = tail; at < end; at += IO_CHUNK) {
    const bytes = await io.read(oid, at, Math.min(IO_CHUNK, end - at))
    const zeros = Buffer.alloc(bytes.length)
    if (!bytes.equals(zeros)) await io.write(oid, at, zeros)
  }
}

/** A new object with the first `length` bytes of another. */
async function copyHead(io: ObjectIo, from: Oid, to: Oid, length: number): Promise<void> {
  for (let at = 0; at < length; at += IO_CHUNK) {
    const bytes = await io.read(from, at, Math.min(IO_CHUNK, length - at))
    if (at === 0) await io.create(to, 0, bytes)
    else await io.write(to, at, bytes)
  }
}
