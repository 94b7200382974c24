/**
 * Commands to the registry arrive from the network and from logs on disk: here they become typed values or a SheepError. Names, tags
 * and sizes that people chose get the messages that people need; a number that only a broken peer sends gets a short one.
 */
import { SheepError } from '../errors.js'
import { MAX_COPIES } from '../placement/ring.js'
import { checkFile, checkFileChange, checkLength } from './file.js'
import { checkFits, checkShift, checkSize } from './inode.js'
import { checkName, checkTag, quoted } from './name.js'
import { MAX_VID } from './oid.js'
import type { CommandContext, VdiCommand } from './types.js'

/** Characters of a lock's session and holder. */
export const SESSION_MAX = 128
export const HOLDER_MAX = 256

/** Sessions of locks that are no gateway's. */
export const SHRINK_SESSION = 'shrink-'

/** Longest time that an announced migration waits for its target, ms. */
export const MIGRATION_MS_MAX = 24 * 3_600_000

/** Longest time that a volume without quorum waits before it fails, ms; one that is to wait for longer waits for ever. */
export const ON_NO_QUORUM_MS_MAX = 24 * 3_600_000

/** ms since the Unix epoch that an inode's 32-bit seconds can hold: until 2106. */
const TIME_MAX = 2 ** 32 * 1000 - 1

export function checkVid(value: unknown, what: string): asserts value is number {
  if (!Number.isInteger(value) || (value as number) < 1 || (value as number) > MAX_VID) {
    throw new SheepError('invalid', `${what}: ${quoted(value)} is no vid`)
  }
}

export function checkText(value: unknown, what: string, max: number): asserts value is string {
  if (typeof value !== 'string' || value.length > max) throw new SheepError('invalid', `${what}: ${quoted(value)}`)
}

export function checkTime(value: unknown, what: string): asserts value is number {
  if (typeof value !== 'number' || !(value >= 0 && value <= TIME_MAX)) {
    throw new SheepError('invalid', `${what}: ${quoted(value)} is no time`)
  }
}

export function checkEpoch(value: unknown, what: string): asserts value is number {
  if (!Number.isInteger(value) || (value as number) < 0 || (value as number) > 0xffffffff) {
    throw new SheepError('invalid', `${what}: ${quoted(value)} is no epoch`)
  }
}

export function checkFlag(value: unknown, what: string): asserts value is boolean {
  if (typeof value !== 'boolean') throw new SheepError('invalid', `${what}: ${quoted(value)} is not true or false`)
}

/** Node ids are the cluster's to define; here they are only keys and shown. */
export function checkNode(value: unknown, what: string): asserts value is string {
  checkText(value, what, SESSION_MAX)
  if (value === '') throw new SheepError('invalid', `${what} is empty`)
}

export function checkCopies(value: unknown): asserts value is number {
  if (!Number.isInteger(value) || (value as number) < 1 || (value as number) > MAX_COPIES) {
    throw new SheepError('invalid', `${quoted(value)} copies`, `a VDI has 1 to ${MAX_COPIES} copies`)
  }
}

/** ms; 0 waits for ever. */
export function checkOnNoQuorum(value: unknown, what: string): asserts value is number {
  if (!Number.isInteger(value) || (value as number) < 0 || (value as number) > ON_NO_QUORUM_MS_MAX) {
    throw new SheepError('invalid', `${what}: ${quoted(value)} is no time to wait for the quorum`)
  }
}

export function checkContext(context: CommandContext): void {
  checkNode(context.sender, "a command's sender")
  checkTime(context.time, "a command's time")
  checkEpoch(context.epoch, "a command's epoch")
}

/** The VDI whose holder may have writes under way that no replica may take any more: a new epoch must follow. 0 none. */
export function fencedBy(value: unknown): number {
  const command = value as Partial<VdiCommand> | null
  const fences = command?.op === 'break' || (command?.op === 'migrate-finish' && command.fence === true)
  return fences && typeof command.vid === 'number' ? command.vid : 0
}

/** Of a proposal that was rejected with this: no refusal, only nobody knows. */
export function mayTakeEffect({ code }: SheepError): boolean {
  return code === 'halted' || code === 'timeout'
}

/** SheepError invalid, too-big. */
export function checkVdiCommand(value: unknown): VdiCommand {
  if (typeof value !== 'object' || value === null) throw new SheepError('invalid', `VDI command ${quoted(value)}`)
  const command = value as VdiCommand
  const what = `VDI command ${quoted(command.op)}`
  switch (command.op) {
    case 'create':
      checkName(command.name)
      checkSize(command.size)
      checkShift(command.blockSizeShift)
      checkFits(command.size, command.blockSizeShift)
      checkCopies(command.copies)
      if (command.parent !== 0) checkVid(command.parent, what)
      checkFlag(command.preallocated, what)
      if (command.file !== undefined) checkFile(command.file, command.size, what)
      if (command.onNoQuorum !== undefined) checkOnNoQuorum(command.onNoQuorum, what)
      return command
    case 'snapshot-commit':
      checkVid(command.child, what)
      checkVid(command.vid, what)
      if (command.tag !== '') checkTag(command.tag)
      return command
    case 'snapshot-begin':
    case 'set-tag':
      checkVid(command.vid, what)
      if (command.tag !== '') checkTag(command.tag)
      return command
    case 'ready':
    case 'abort':
    case 'delete-begin':
      checkVid(command.vid, what)
      return command
    case 'delete-done':
      checkVid(command.vid, what)
      checkEpoch(command.epoch, what)
      return command
    case 'rollback-begin':
      checkVid(command.snapshot, what)
      return command
    case 'rollback-commit':
      checkVid(command.child, what)
      return command
    case 'rename':
      checkName(command.name)
      checkName(command.newName)
      return command
    case 'resize':
      checkVid(command.vid, what)
      checkSize(command.size)
      if (command.length !== undefined) checkLength(command.length, command.size, what)
      if (command.growing !== undefined) checkFlag(command.growing, what)
      return command
    case 'set-file':
      checkVid(command.vid, what)
      checkFileChange(command.change, what)
      return command
    case 'set-on-no-quorum':
      checkVid(command.vid, what)
      if (command.ms !== null) checkOnNoQuorum(command.ms, what)
      return command
    case 'adopt':
      checkVid(command.vid, what)
      checkVid(command.parent, what)
      return command
    case 'lock':
      checkVid(command.vid, what)
      checkNode(command.session, what)
      checkText(command.holder, what, HOLDER_MAX)
      if (command.mode !== 'write' && command.mode !== 'read') {
        throw new SheepError('invalid', `${what}: mode ${quoted(command.mode)}`)
      }
      return command
    case 'unlock':
      checkVid(command.vid, what)
      checkNode(command.session, what)
      if (command.leftovers !== undefined) checkFlag(command.leftovers, what)
      return command
    case 'break':
      checkVid(command.vid, what)
      checkNode(command.node, what)
      checkNode(command.session, what)
      return command
    case 'migrate-begin':
      checkVid(command.vid, what)
      checkText(command.to, what, SESSION_MAX)
      checkTime(command.until, what)
      return command
    case 'migrate-cancel':
      checkVid(command.vid, what)
      return command
    case 'migrate-finish':
      checkVid(command.vid, what)
      checkNode(command.session, what)
      checkFlag(command.fence, what)
      return command
    default:
      throw new SheepError('invalid', `${what} is not known`, 'a newer version runs on another host; upgrade this one')
  }
}
