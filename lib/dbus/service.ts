/**
 * What is asked of us on the bus: D-Bus's own interfaces from what we know, our methods by asking the daemon. Every queue has a limit;
 * a caller that asks for too much at once is told so.
 */
import { readFileSync } from 'node:fs'
import { VERBS } from '../control/verbs.js'
import { asSheepError, SheepError } from '../errors.js'
import { authorize } from './authorize.js'
import type { Bus } from './bus.js'
import { type Incoming, variant } from './codec.js'
import {
  CLUSTER,
  INTERFACES,
  INTROSPECTABLE,
  introspection,
  type Method,
  OBJECT_MANAGER,
  PEER,
  PROPERTIES,
  STANDARD,
  signatureOf,
} from './interfaces.js'
import { managedObjects } from './managed.js'
import type { ClusterEvent, FromBus, ToBus } from './messages.js'
import { callErrorOf, lookUp, type Operation, operationOf } from './methods.js'
import { BUS_NAME, CallError, CLUSTER_PATH, nodePath, ROOT_PATH, STANDARD_ERRORS } from './names.js'
import { type BusObject, Objects, type Values } from './objects.js'

/** Under way at once: of all callers, and of one connection */
const CALLS_MAX = 64
const CALLS_OF_ONE_MAX = 8
/** Questions to the daemon that anybody may ask: at most so often, ms */
const QUESTION_GAP_MS = 10

interface Pending {
  resolve(answer: unknown): void
  reject(error: Error): void
}

export class Service {
  private readonly objects = new Objects()
  private readonly pending = new Map<number, Pending>()
  private readonly callers = new Map<string, number>()
  /** Callers whose end matters -> what is done for them */
  private readonly watched = new Map<string, Set<number>>()
  private calls = 0
  private lastId = 0
  /** When the next question may go to the daemon, as performance.now() */
  private nextQuestion = 0

  /** @param bus the one we are on; null while there is none */
  constructor(
    private readonly bus: () => Bus | null,
    private readonly post: (message: FromBus) => void,
  ) {}

  // --- from the daemon

  facts({ cluster, changed, removed, events }: Extract<ToBus, { type: 'facts' }>): void {
    const changes = this.objects.take(cluster, changed, removed)
    for (const object of changes.added) {
      this.signal(ROOT_PATH, OBJECT_MANAGER, 'InterfacesAdded', [object.path, interfacesOf(object)])
    }
    for (const { object, values } of changes.changed) {
      this.signal(object.path, PROPERTIES, 'PropertiesChanged', [object.face, variants(object.face, values), []])
    }
    for (const event of events) this.tell(event)
    for (const { path, face } of changes.removed) {
      this.signal(ROOT_PATH, OBJECT_MANAGER, 'InterfacesRemoved', [path, [face]])
    }
  }

  answered(message: Extract<ToBus, { type: 'answer' }>): void {
    const pending = this.pending.get(message.id)
    this.pending.delete(message.id)
    if (message.error === null) pending?.resolve(message.answer)
    else pending?.reject(callErrorOf(message.error))
  }

  private tell(event: ClusterEvent): void {
    const say = (member: string, ...body: unknown[]): void => this.signal(CLUSTER_PATH, CLUSTER, member, body)
    if (event.type === 'node-joined') {
      say('NodeJoined', nodePath(event.node), event.name, event.epoch)
    } else if (event.type === 'node-left') {
      say('NodeLeft', nodePath(event.node), event.name, event.epoch, event.reason, event.detail)
    } else if (event.type === 'epoch') {
      say('EpochChanged', event.epoch, event.nodes.map(nodePath))
    } else if (event.type === 'quorum-lost') {
      say('QuorumLost', event.reason)
    } else if (event.type === 'quorum-regained') {
      say('QuorumRegained')
    } else {
      const { node, state, objectsDone, objectsTotal, bytesDone, bytesTotal } = event
      say('RecoveryProgress', nodePath(node), state, objectsDone, objectsTotal, bytesDone, bytesTotal)
    }
  }

  private signal(path: string, face: string, member: string, body: unknown[]): void {
    const args = (INTERFACES[face] ?? STANDARD[face]).signals[member]
    this.bus()?.signal(path, face, member, signatureOf(args), body)
  }

  // --- from the bus

  /** A bus has gone: nobody waits for what was asked on it. */
  forgetCallers(): void {
    for (const ids of this.watched.values()) for (const id of ids) this.post({ type: 'gone', id })
    this.watched.clear()
  }

  nameOwnerChanged(name: string, owner: string): void {
    if (owner !== '') return
    for (const id of this.watched.get(name) ?? []) this.post({ type: 'gone', id })
  }

  call(bus: Bus, message: Incoming): void {
    this.answer(bus, message).catch((error: unknown) => bus.fail(message, asCallError(error)))
  }

  private async answer(bus: Bus, message: Incoming): Promise<void> {
    if (message.unreadable !== '') throw new CallError(STANDARD_ERRORS.invalidArguments, message.unreadable)
    const { path, member } = message
    const children = this.objects.below(path)
    if (children === undefined && message.interface !== PEER) {
      throw new CallError(STANDARD_ERRORS.unknownObject, `there is no object ${path.slice(0, 200)}`)
    }
    const object = this.objects.get(path)
    const faces = this.facesAt(path, object)
    const [face, method] = methodOf(faces, message)
    const wanted = signatureOf(method.takes)
    if (message.signature !== wanted) {
      const text = `${face}.${member} takes "${wanted}", not "${message.signature}"`
      throw new CallError(STANDARD_ERRORS.invalidArguments, text)
    }
    const gives = signatureOf(method.gives)
    if (face === OBJECT_MANAGER) {
      bus.replyWith(message, (reply) => managedObjects(this.objects.all(), interfacesOf, reply))
      return
    }
    if (Object.hasOwn(STANDARD, face)) {
      bus.reply(message, gives, this.standard(face, message, object, faces, children ?? []))
      return
    }
    const found = lookUp(this.objects, member, message.body)
    if (found !== undefined) {
      bus.reply(message, gives, [found])
      return
    }
    const operation = operationOf(object!, member, message.body)
    if (operation === undefined) throw new CallError(STANDARD_ERRORS.unknownMethod, `there is no ${face}.${member}`)
    bus.reply(message, gives, operation.answer(await this.limited(bus, message, operation)))
  }

  private facesAt(path: string, object: BusObject | undefined): string[] {
    const own = object === undefined ? [] : [PROPERTIES, object.face]
    return [INTROSPECTABLE, PEER, ...(path === ROOT_PATH ? [OBJECT_MANAGER] : []), ...own]
  }

  // --- D-Bus's own interfaces

  private standard(
    face: string,
    { member, body }: Incoming,
    object: BusObject | undefined,
    faces: readonly string[],
    children: Iterable<string>,
  ): unknown[] {
    if (face === INTROSPECTABLE) return [introspection(faces, children)]
    if (face === PEER) return member === 'Ping' ? [] : [machineId()]
    return properties(object!, member, body.map(String))
  }

  // --- our methods

  private async limited(bus: Bus, message: Incoming, operation: Operation): Promise<unknown> {
    const { sender } = message
    const own = this.callers.get(sender) ?? 0
    if (own >= CALLS_OF_ONE_MAX || this.calls >= CALLS_MAX) {
      const text = `${own >= CALLS_OF_ONE_MAX ? own : this.calls} calls are under way: wait for an answer`
      throw new CallError(STANDARD_ERRORS.limits, text)
    }
    this.calls++
    this.callers.set(sender, own + 1)
    try {
      return await this.ask(bus, message, operation)
    } finally {
      this.calls--
      const left = this.callers.get(sender)! - 1
      if (left === 0) this.callers.delete(sender)
      else this.callers.set(sender, left)
    }
  }

  private async ask(bus: Bus, message: Incoming, operation: Operation): Promise<unknown> {
    const { verb, action, details, cancellable } = operation
    const { sender } = message
    // Nobody types a password for what the daemon would refuse anyway.
    const checked = VERBS[verb].arguments(operation.arguments, 'arguments')
    let caller = sender
    if (action === '') await this.gap()
    else caller = `user ${await authorize(bus, message, action, details)} (${sender})`
    const id = ++this.lastId
    if (cancellable) await this.watch(bus, sender, id)
    try {
      return await new Promise((resolve, reject) => {
        this.pending.set(id, { resolve, reject })
        this.post({ type: 'call', id, verb, arguments: checked, caller: action === '' ? '' : caller })
      })
    } finally {
      if (cancellable) this.unwatch(bus, sender, id)
    }
  }

  private async gap(): Promise<void> {
    const now = performance.now()
    const at = Math.max(now, this.nextQuestion)
    this.nextQuestion = at + QUESTION_GAP_MS
    if (at > now) await new Promise((resolve) => setTimeout(resolve, at - now))
  }

  /** From here on its end is noticed. CallError: it has gone already */
  private async watch(bus: Bus, sender: string, id: number): Promise<void> {
    const ids = this.watched.get(sender)
    if (ids !== undefined) {
      ids.add(id)
      return
    }
    this.watched.set(sender, new Set([id]))
    try {
      await bus.match(ownerRule(sender))
      await bus.userOf(sender)
    } catch (error) {
      this.unwatch(bus, sender, id)
      throw error
    }
  }

  private unwatch(bus: Bus, sender: string, id: number): void {
    const ids = this.watched.get(sender)
    ids?.delete(id)
    if (ids === undefined || ids.size > 0) return
    this.watched.delete(sender)
    // On a bus that has gone there is no rule either.
    bus.unmatch(ownerRule(sender)).catch(() => {})
  }
}

function ownerRule(name: string): string {
  return `type='signal',sender='org.freedesktop.DBus',member='NameOwnerChanged',arg0='${name}'`
}

/** Its interface may be left out (D-Bus specification, "Method Calls"): then the first that has the method is meant. */
function methodOf(faces: readonly string[], message: Incoming): [string, Method] {
  const { member } = message
  const named = message.interface
  if (named !== '' && !faces.includes(named)) {
    throw new CallError(STANDARD_ERRORS.unknownInterface, `${message.path} has no interface ${named}`)
  }
  for (const face of named === '' ? faces : [named]) {
    const { methods } = INTERFACES[face] ?? STANDARD[face]
    if (Object.hasOwn(methods, member)) return [face, methods[member]]
  }
  const text = `${named === '' ? message.path : named} has no method ${member}`
  throw new CallError(STANDARD_ERRORS.unknownMethod, text)
}

function properties(object: BusObject, member: string, [face, name]: readonly string[]): unknown[] {
  const known = INTERFACES[object.face].properties
  if (face !== '' && face !== object.face) {
    if (member === 'GetAll' && Object.hasOwn(STANDARD, face)) return [{}]
    throw new CallError(STANDARD_ERRORS.unknownInterface, `${object.path} has no properties of ${face}`)
  }
  if (member === 'GetAll') return [variants(object.face, object.values)]
  if (!Object.hasOwn(known, name)) {
    throw new CallError(STANDARD_ERRORS.unknownProperty, `${object.face} has no property ${name}`)
  }
  if (member === 'Get') return [variant(known[name].type, object.values[name])]
  throw new CallError(STANDARD_ERRORS.readOnlyProperty, `${name} cannot be set: there are methods for what can change`)
}

function variants(face: string, values: Values): Record<string, unknown> {
  const known = INTERFACES[face].properties
  return Object.fromEntries(Object.entries(values).map(([name, value]) => [name, variant(known[name].type, value)]))
}

function interfacesOf({ face, values }: BusObject): Record<string, unknown> {
  return { [face]: variants(face, values) }
}

function machineId(): string {
  try {
    return readFileSync('/etc/machine-id', 'utf8').trim()
  } catch (error) {
    throw new SheepError('system', `this host has no machine id: ${(error as Error).message}`)
  }
}

function asCallError(error: unknown): CallError {
  if (error instanceof CallError) return error
  return error instanceof SheepError
    ? callErrorOf(asSheepError(error))
    : new CallError(`${BUS_NAME}.Error.System`, (error as Error).message)
}
