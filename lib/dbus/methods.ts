/**
 * What a call of one of our methods is to the daemon: a verb of the control protocol, as `dog` would send it, who may ask for it, and
 * what its answer is on the bus. One table, so that the bus has no way of its own to change anything.
 */
import type { CheckReport, DiskInfo, NodeSpace, ScrubReport } from '../control/services.js'
import type { OfNode, VdiInfo, Verb } from '../control/verbs.js'
import { type ERRORS, SheepError } from '../errors.js'
import { plainOf } from './codec.js'
import { CLUSTER, NODE, SNAPSHOT, VOLUME } from './interfaces.js'
import { CallError, errorName, snapshotPath, volumePath } from './names.js'
import type { BusObject, Objects, Subject } from './objects.js'

/** polkit's actions (systemd/org.sheepdog.policy). '' anybody may */
export type Action = '' | `org.sheepdog.${'manage-volumes' | 'delete-data' | 'break-locks' | 'manage-cluster'}`

export interface Operation {
  verb: Verb
  arguments: Record<string, unknown>
  action: Action
  /** What polkit's rules may look at, and what a person who is asked is shown */
  details: Record<string, string>
  /** The work stops when who asked for it has gone */
  cancellable: boolean
  /** The reply's body */
  answer(answer: unknown): unknown[]
}

type Named = Extract<Subject, { name: string }>
type Handler = (subject: Subject, args: unknown[]) => Operation

const nothing = (): unknown[] => []

function operation(
  verb: Verb,
  args: Record<string, unknown>,
  action: Action,
  rest: Partial<Operation> = {},
): Operation {
  return { verb, arguments: args, action, details: {}, cancellable: false, answer: nothing, ...rest }
}

/** u64 as JSON's numbers carry it. SheepError too-big */
export function toNumber(value: unknown, what: string): number {
  const number = Number(value)
  if (Number.isSafeInteger(number)) return number
  throw new SheepError('too-big', `${what} is ${String(value)}: more than ${Number.MAX_SAFE_INTEGER} is never meant`)
}

interface Option {
  argument: string
  type: 'number' | 'boolean'
  convert?(value: unknown): unknown
}

const blockSizeShift = (value: unknown): number => {
  const bytes = toNumber(value, 'ObjectSize')
  const shift = Math.log2(bytes)
  if (Number.isInteger(shift)) return shift
  throw new SheepError('invalid', `ObjectSize is a power of two, not ${bytes}`)
}
const COPIES: Option = { argument: 'copies', type: 'number' }
const OBJECT_SIZE: Option = { argument: 'blockSizeShift', type: 'number', convert: blockSizeShift }

/** a{sv} with none but these keys. SheepError invalid */
export function options(given: unknown, known: Record<string, Option>): Record<string, unknown> {
  const result: Record<string, unknown> = {}
  for (const [key, value] of Object.entries(given as Record<string, unknown>)) {
    if (!Object.hasOwn(known, key)) {
      const list = Object.keys(known).join(', ')
      throw new SheepError('invalid', `there is no option ${JSON.stringify(key.slice(0, 80))}`, `there are ${list}`)
    }
    const { argument, type, convert } = known[key]
    const plain = plainOf(value)
    const wanted = type === 'boolean' ? typeof plain === 'boolean' : ['number', 'bigint'].includes(typeof plain)
    if (!wanted) throw new SheepError('invalid', `${key} is a ${type}`)
    result[argument] = type === 'boolean' ? plain : (convert ?? ((one) => toNumber(one, key)))(plain)
  }
  return result
}

const volumeOf = (answer: unknown): unknown[] => [volumePath((answer as VdiInfo).name)]

function reportOf(answer: unknown): unknown[] {
  const { objects, bytes, problems } = answer as CheckReport
  return [objects, bytes, problems.map(({ oid, kind, nodes, repaired }) => [oid, kind, nodes, repaired])]
}

function scrub(action: 'start' | 'stop'): Operation {
  const answer = (given: unknown): unknown[] => {
    const { nodes } = given as { nodes: OfNode<ScrubReport>[] }
    const silent = nodes.filter(({ error }) => error !== '').map(({ node, error }) => `${node.name}: ${error}`)
    if (silent.length > 0)
      throw new CallError(errorName('unreachable'), `some nodes did not answer: ${silent.join('; ')}`)
    return []
  }
  return operation('cluster.scrub', { action }, 'org.sheepdog.manage-cluster', { answer })
}

function recovery(settings: { held?: boolean; limit?: number }): Operation {
  return operation('cluster.recovery', settings, 'org.sheepdog.manage-cluster')
}

/** The control protocol's ms of microseconds, as D-Bus services give times. SheepError invalid, too-big */
function milliseconds(wait: unknown): number {
  const microseconds = toNumber(wait, 'wait')
  if (microseconds % 1_000 === 0) return microseconds / 1_000
  throw new SheepError('invalid', `wait is whole milliseconds, in microseconds, not ${microseconds}`)
}

function ofNode<T>(given: unknown, id: string): T {
  const found = (given as { nodes: OfNode<T>[] }).nodes.find(({ node }) => node.id === id)
  if (found?.answer) return found.answer
  throw new CallError(errorName('unreachable'), found?.error || 'the node has left')
}

const nodeOf = (subject: Subject): string => (subject as Extract<Subject, { kind: 'node' }>).id

/** `NAME`, or `NAME` and a snapshot's id, as verbs take them */
function reference(subject: Subject): { name: string; snapshot: string } {
  const { name } = subject as Named
  return { name, snapshot: subject.kind === 'snapshot' ? String(subject.id) : '' }
}

const detailsOf = (subject: Subject): Record<string, string> => {
  const { name, snapshot } = reference(subject)
  return snapshot === '' ? { volume: name } : { volume: name, snapshot }
}

const usage: Handler = (subject) => {
  const answer = (given: unknown): unknown[] => {
    const { vid } = subject as Named
    const info = (given as { vdis: VdiInfo[] }).vdis.find((one) => one.vid === vid)
    if (info?.used == null || info.shared === null) throw new CallError(errorName('io'), 'its inode cannot be read now')
    return [info.used, info.shared]
  }
  return operation('vdi.list', { name: (subject as Named).name }, '', { answer })
}

const check: Handler = (subject, [repair]) => {
  const rest = { details: detailsOf(subject), cancellable: true, answer: reportOf }
  return operation('vdi.check', { ...reference(subject), repair }, 'org.sheepdog.manage-volumes', rest)
}

const remove: Handler = (subject) => {
  return operation('vdi.delete', reference(subject), 'org.sheepdog.delete-data', { details: detailsOf(subject) })
}

const HANDLERS: Readonly<Record<string, Readonly<Record<string, Handler>>>> = {
  [CLUSTER]: {
    CreateVolume: (_, [name, size, given]) => {
      const chosen = options(given, {
        Copies: COPIES,
        ObjectSize: OBJECT_SIZE,
        Preallocate: { argument: 'preallocate', type: 'boolean' },
      })
      const args = { name, size: toNumber(size, 'size'), ...chosen }
      const rest = { details: { volume: String(name) }, answer: volumeOf }
      return operation('vdi.create', args, 'org.sheepdog.manage-volumes', rest)
    },
    Format: (_, [given]) => {
      const chosen = options(given, {
        Copies: COPIES,
        ObjectSize: OBJECT_SIZE,
        Force: { argument: 'force', type: 'boolean' },
      })
      const action = chosen.force === true ? 'org.sheepdog.delete-data' : 'org.sheepdog.manage-cluster'
      return operation('cluster.format', chosen, action)
    },
    Recover: () => operation('cluster.recover', {}, 'org.sheepdog.manage-cluster'),
    HoldRecovery: () => recovery({ held: true }),
    ReleaseRecovery: () => recovery({ held: false }),
    LimitRecovery: (_, [rate]) => recovery({ limit: toNumber(rate, 'rate') }),
    SetOnNoQuorum: (_, [wait]) => {
      return operation('cluster.set', { onNoQuorum: milliseconds(wait) }, 'org.sheepdog.manage-cluster')
    },
    StartScrub: () => scrub('start'),
    StopScrub: () => scrub('stop'),
    Check: (_, [repair]) => {
      return operation('cluster.check', { repair }, 'org.sheepdog.manage-cluster', {
        cancellable: true,
        answer: reportOf,
      })
    },
  },
  [NODE]: {
    GetSpace: (subject) => {
      const answer = (given: unknown): unknown[] => {
        const { total, free, used, objects } = ofNode<NodeSpace>(given, nodeOf(subject))
        return [total, free, used, objects]
      }
      return operation('node.info', {}, '', { answer })
    },
    GetDisks: (subject) => {
      const answer = (given: unknown): unknown[] => {
        const disks = ofNode<DiskInfo[]>(given, nodeOf(subject))
        return [
          disks.map(({ id, path, total, free, used, objects, state, reason }) => {
            return [id, path, total, free, used, objects, state, reason]
          }),
        ]
      }
      return operation('node.md', { node: nodeOf(subject) }, '', { answer })
    },
    Stop: (subject) => operation('node.kill', { node: nodeOf(subject) }, 'org.sheepdog.manage-cluster'),
  },
  [VOLUME]: {
    Resize: (subject, [size, shrink]) => {
      const { name } = subject as Named
      const action = shrink === true ? 'org.sheepdog.delete-data' : 'org.sheepdog.manage-volumes'
      const args = { name, size: toNumber(size, 'size'), shrink }
      return operation('vdi.resize', args, action, { details: detailsOf(subject) })
    },
    Snapshot: (subject, [tag]) => {
      const { name } = subject as Named
      const answer = (given: unknown): unknown[] => [snapshotPath(name, (given as VdiInfo).id)]
      const rest = { details: detailsOf(subject), answer }
      return operation('vdi.snapshot', { name, tag }, 'org.sheepdog.manage-volumes', rest)
    },
    Rename: (subject, [newName]) => {
      const { name } = subject as Named
      const rest = { details: detailsOf(subject), answer: () => [volumePath(String(newName))] }
      return operation('vdi.rename', { name, newName }, 'org.sheepdog.manage-volumes', rest)
    },
    Delete: remove,
    BreakLock: (subject, [node, session]) => {
      const holder = { node: String(node).slice(String(node).lastIndexOf('/') + 1), session }
      const args = { ...reference(subject), holder }
      return operation('lock.break', args, 'org.sheepdog.break-locks', { details: detailsOf(subject) })
    },
    SetOnNoQuorum: (subject, [wait]) => {
      const { name } = subject as Named
      const onNoQuorum = Number(wait) === -1 ? null : milliseconds(wait)
      return operation('vdi.set', { name, onNoQuorum }, 'org.sheepdog.manage-volumes', { details: detailsOf(subject) })
    },
    GetUsage: usage,
    Check: check,
  },
  [SNAPSHOT]: {
    Clone: (subject, [name]) => {
      const { name: source, snapshot } = reference(subject)
      const rest = { details: { ...detailsOf(subject), clone: String(name) }, answer: volumeOf }
      return operation('vdi.clone', { source, snapshot, name }, 'org.sheepdog.manage-volumes', rest)
    },
    RollBack: (subject) => {
      const rest = { details: detailsOf(subject), answer: volumeOf }
      return operation('vdi.rollback', reference(subject), 'org.sheepdog.delete-data', rest)
    },
    Delete: remove,
    GetUsage: usage,
    Check: check,
  },
}

/** SheepError for arguments that make no sense; undefined: not a method that needs the daemon. */
export function operationOf(object: BusObject, member: string, args: unknown[]): Operation | undefined {
  const list = HANDLERS[object.face]
  return Object.hasOwn(list, member) ? list[member](object.subject, args) : undefined
}

/** Methods that what we know already answers; undefined: another. SheepError not-found */
export function lookUp(objects: Objects, member: string, [name, snapshot]: unknown[]): string | undefined {
  if (member === 'FindVolume') {
    const path = volumePath(String(name))
    if (objects.get(path) !== undefined) return path
    throw new SheepError('not-found', `there is no volume ${JSON.stringify(name)}`)
  }
  if (member !== 'FindSnapshot') return undefined
  const found = objects.snapshot(String(name), String(snapshot))
  if (found !== undefined) return found.path
  throw new SheepError('not-found', `there is no snapshot ${JSON.stringify(snapshot)} of ${JSON.stringify(name)}`)
}

/** As it goes to the caller: the hint belongs to it. */
export function callErrorOf(error: { code: keyof typeof ERRORS; message: string; hint: string }): CallError {
  return new CallError(errorName(error.code), error.hint === '' ? error.message : `${error.message} (${error.hint})`)
}
