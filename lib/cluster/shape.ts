/**
 * Shapes of what comes from another member or from a disk, down to every field that is used: members trust each other, but a
 * member with a bug, or a byte that rotted, must not take all the others down with it. Unknown fields are left to newer versions.
 */
import { oidFromHex } from '../vdi/oid.js'
import type { Entry, HistoryJson } from './history.js'
import type { Message } from './messages.js'

type Shape = (value: unknown) => boolean

/** Of ids, names and reasons: far longer than any that is made here. */
const TEXT_MAX = 4096

const text: Shape = (value) => typeof value === 'string' && value.length <= TEXT_MAX
const id: Shape = (value) => typeof value === 'string' && value !== '' && value.length <= 128
const flag: Shape = (value) => typeof value === 'boolean'
/** Of sequences, epochs, nonces and times. */
const count: Shape = (value) => Number.isSafeInteger(value) && (value as number) >= 0
const amount: Shape = (value) => typeof value === 'number' && Number.isFinite(value) && value >= 0
const anything: Shape = () => true

function between(min: number, max: number): Shape {
  return (value) => Number.isInteger(value) && (value as number) >= min && (value as number) <= max
}

function oneOf(...values: readonly string[]): Shape {
  return (value) => values.includes(value as string)
}

function list(of: Shape, min = 0): Shape {
  return (value) => Array.isArray(value) && value.length >= min && value.every(of)
}

function pair(first: Shape, second: Shape): Shape {
  return (value) => Array.isArray(value) && value.length === 2 && first(value[0]) && second(value[1])
}

function nullable(of: Shape): Shape {
  return (value) => value === null || of(value)
}

function optional(of: Shape): Shape {
  return (value) => value === undefined || of(value)
}

function object(fields: Record<string, Shape>): Shape {
  const checks = Object.entries(fields)
  return (value) => {
    if (typeof value !== 'object' || value === null) return false
    return checks.every(([name, shape]) => {
      return shape(Object.hasOwn(value, name) ? (value as Record<string, unknown>)[name] : undefined)
    })
  }
}

const summaryNode = { id, name: text, host: text, port: between(0, 65_535) }
const node = object({
  ...summaryNode,
  ...{ socket: optional(text), zone: text, space: amount, vnodes: between(0, 65_535) },
  ...{ disks: optional(list(id)), boot: optional(text), lost: optional(count), plugged: optional(count) },
})
const epochNumber = between(1, 0xffffffff)
/** In one epoch's record, which every member keeps: an administrator with more makes several. */
export const ACCEPTED_MAX = 1024
const oid: Shape = (value) => typeof value === 'string' && oidFromHex(value) >= 0
const objects: Shape = (value) => list(oid, 1)(value) && (value as unknown[]).length <= ACCEPTED_MAX
const acceptance = { objects, zeros: flag }
const accepted = optional(object(acceptance))
const epochRecord = object({ number: epochNumber, time: amount, nodes: list(node), accepted })

const summary: Shape = object({
  clusterId: id,
  epochs: list(object({ number: epochNumber, line: text, nodes: list(object(summaryNode)) }), 1),
  seq: count,
  digest: text,
  effective: object({ epoch: between(0, 0xffffffff), line: text }),
})

const hello = object({
  ...{ protocol: count, round: text, nonce: count, node, mode: oneOf('outside', 'frozen', 'running') },
  ...{ quorate: flag, forced: flag, summary: nullable(summary), key: optional(text) },
})

/** What a registry's command holds the registry checks itself. */
const COMMANDS: Record<string, Shape> = {
  format: object({ clusterId: id, copies: count, blockSizeShift: count, force: flag }),
  recovered: object({ epoch: count }),
  recovery: object({ held: nullable(flag), limit: nullable(count) }),
  'on-no-quorum': object({ ms: count }),
  expel: object({ node: id, epoch: count, reason: text }),
  drain: object({ node: id, drained: flag }),
  accept: object(acceptance),
  shutdown: anything,
  'force-start': anything,
  'exclusive-enter': object({ token: text }),
  'exclusive-leave': object({ token: text }),
  vdi: object({ command: object({ op: text }) }),
}

/** Kinds that are not known here are refused where they are applied. */
const command: Shape = (value) => {
  const type = (value as { type?: unknown } | null)?.type
  if (typeof type !== 'string') return false
  return !Object.hasOwn(COMMANDS, type) || COMMANDS[type](value)
}

const runtime: Shape = object({
  at: count,
  members: list(id),
  established: list(pair(id, id)),
  waiting: list(pair(id, object({ hello, heard: count }))),
  expelled: list(id),
  unconfirmed: list(object({ seq: count, nodes: list(id), have: list(id) })),
  round: text,
})

const MESSAGES: Record<Message['type'], Shape> = {
  hello,
  again: object({ nonce: count, lost: flag }),
  commands: object({ list: list(object({ id: count, time: amount, everywhere: flag, command })) }),
  receipt: object({ seq: count, digest: text }),
  stored: object({ seq: count }),
  ack: object({ seq: count }),
  state: object({ to: list(id), start: text, runtime, state: anything }),
  probe: object({ id: count }),
  refuse: object({ to: id, reason: text, hint: text }),
}

export function isMessage(value: unknown): value is Message {
  const type = (value as { type?: unknown } | null)?.type
  return typeof type === 'string' && Object.hasOwn(MESSAGES, type) && MESSAGES[type as Message['type']](value)
}

const historyJson: Shape = object({
  seq: count,
  digest: text,
  config: object({
    ...{ clusterId: id, formatTime: amount, copies: between(1, 31), blockSizeShift: between(1, 63) },
  }),
  epochs: list(epochRecord, 1),
  lines: list(text, 1),
  known: list(pair(id, object({ vnodes: between(0, 65_535), since: epochNumber }))),
  recovered: list(pair(id, epochNumber)),
  recoveredBefore: optional(list(pair(id, list(epochNumber)))),
})

/** Epochs follow each other, each with its line. */
export function isHistory(value: unknown): value is HistoryJson {
  if (!historyJson(value)) return false
  const { epochs, lines } = value as HistoryJson
  return lines.length === epochs.length && epochs.every(({ number }, i) => number === epochs[0].number + i)
}

export const isRecoverySettings: Shape = object({ held: flag, limit: count })

export const isCount: Shape = count

export const isClaims: Shape = list(object({ token: text, node: id }))

/** An entry of the log on disk. */
export function isEntry(value: unknown): value is Entry {
  const type = (value as { type?: unknown } | null)?.type
  if (type === 'epoch') return object({ seq: count, record: epochRecord, left: list(id) })(value)
  return type === 'command' && object({ seq: count, sender: id, time: amount, command })(value)
}
