/**
 * libcpg, libquorum and libcmap of corosync 3.1 through koffi. Types and constants: corosync/cpg.h, quorum.h, cmap.h and
 * corotypes.h. Handles belong to the process, so what one thread opens another may send on.
 */
import { createRequire } from 'node:module'
import { SheepError } from '../errors.js'

type Koffi = typeof import('koffi')
/** What koffi makes of a uint64_t */
export type Handle = number | bigint
/** A pointer, as koffi has it */
type Pointer = unknown
type Call = (...values: unknown[]) => number

export const CS_OK = 1
export const CS_ERR_TRY_AGAIN = 6
const CS_DISPATCH_ALL = 2
const CS_TRACK_CHANGES = 2
const CPG_TYPE_AGREED = 2
const CPG_MODEL_V1 = 1
const QUORUM_MODEL_V1 = 1
const INITIAL_TOTEM_CONF = 1
const QUORUM_FREE = 0
/** cpg_reason_t */
export const REASON_LEAVE = 2
export const REASON_NODEDOWN = 3
const POLLIN = 1
const GROUP_NAME_MAX = 127
/** Of a whole nodelist */
const NODES_MAX = 1_024

const ERRORS: Record<number, string> = {
  2: 'the connection is lost',
  3: 'other version',
  4: 'not running',
  5: 'time-out',
  6: 'try again',
  7: 'invalid parameter',
  9: 'bad handle',
  11: 'access denied',
  12: 'does not exist',
  14: 'exists',
  15: 'no space',
  18: 'no resources',
  100: 'not allowed',
}

export function errorText(code: number): string {
  return `${ERRORS[code] ?? 'error'} (cs_error ${code})`
}

/** As libcpg and libquorum tell it. Processes are "NODE:PID", rings "NODE.SEQUENCE". */
export type LibraryEvent =
  | { type: 'message'; sender: string; bytes: Uint8Array }
  | { type: 'processes'; processes: string[]; left: string[]; down: string[]; quit: string[]; joined: string[] }
  | { type: 'ring'; ring: string; nodes: number[] }
  | { type: 'quorum'; ring: string; quorate: boolean }

interface Libraries {
  koffi: Koffi
  cpg: Record<'initialize' | 'join' | 'leave' | 'finalize' | 'dispatch' | 'mcast' | 'localGet' | 'fdGet', Call>
  quorum: Record<'initialize' | 'trackstart' | 'finalize' | 'dispatch' | 'fdGet', Call>
  poll: Call
  address: { cpg: string; ring: string; ids: string }
}

let loaded: Libraries | null = null

function libraries(): Libraries {
  loaded ??= load()
  return loaded
}

function open(koffi: Koffi, name: string): ReturnType<Koffi['load']> {
  try {
    return koffi.load(name)
  } catch (error) {
    throw new SheepError(
      'system',
      `${name} does not load: ${(error as Error).message}`,
      'install corosync 3.1 or newer (Debian: apt-get install corosync)',
    )
  }
}

function load(): Libraries {
  const koffi = createRequire(import.meta.url)('koffi') as Koffi
  const cpg = open(koffi, 'libcpg.so.4')
  const quorum = open(koffi, 'libquorum.so.5')
  koffi.struct('cpg_address', { nodeid: 'uint32_t', pid: 'uint32_t', reason: 'uint32_t' })
  koffi.struct('cpg_name', { length: 'uint32_t', value: koffi.array('uint8_t', 128) })
  koffi.struct('cs_ring_id', { nodeid: 'uint32_t', seq: 'uint64_t' })
  koffi.struct('cs_iovec', { base: 'void *', length: 'size_t' })
  koffi.struct('cs_pollfd', { fd: 'int', events: 'short', revents: 'short' })
  koffi.proto('void cpg_deliver(uint64_t, void *, uint32_t, uint32_t, void *, size_t)')
  koffi.proto('void cpg_confchg(uint64_t, void *, void *, size_t, void *, size_t, void *, size_t)')
  koffi.proto('void cpg_totem(uint64_t, cs_ring_id, uint32_t, void *)')
  koffi.proto('void quorum_notify(uint64_t, uint32_t, cs_ring_id, uint32_t, void *)')
  koffi.proto('void quorum_nodes(uint64_t, cs_ring_id, uint32_t, void *, uint32_t, void *, uint32_t, void *)')
  koffi.struct('cpg_model_v1', {
    model: 'int',
    deliver: 'cpg_deliver *',
    confchg: 'cpg_confchg *',
    totem: 'cpg_totem *',
    flags: 'unsigned int',
  })
  koffi.struct('quorum_model_v1', { model: 'int', notify: 'quorum_notify *', nodes: 'quorum_nodes *' })
  const call = (library: ReturnType<Koffi['load']>, prototype: string): Call => {
    try {
      return library.func(prototype) as unknown as Call
    } catch {
      throw new SheepError('system', `this corosync has no ${prototype}`, 'corosync 3.1 or newer is needed')
    }
  }
  return {
    koffi,
    cpg: {
      initialize: call(cpg, 'int cpg_model_initialize(_Out_ uint64_t *, int, cpg_model_v1 *, void *)'),
      join: call(cpg, 'int cpg_join(uint64_t, cpg_name *)'),
      leave: call(cpg, 'int cpg_leave(uint64_t, cpg_name *)'),
      finalize: call(cpg, 'int cpg_finalize(uint64_t)'),
      dispatch: call(cpg, 'int cpg_dispatch(uint64_t, int)'),
      mcast: call(cpg, 'int cpg_mcast_joined(uint64_t, int, cs_iovec *, unsigned int)'),
      localGet: call(cpg, 'int cpg_local_get(uint64_t, _Out_ unsigned int *)'),
      fdGet: call(cpg, 'int cpg_fd_get(uint64_t, _Out_ int *)'),
    },
    quorum: {
      initialize: call(
        quorum,
        'int quorum_model_initialize(_Out_ uint64_t *, int, quorum_model_v1 *, _Out_ uint32_t *, void *)',
      ),
      trackstart: call(quorum, 'int quorum_trackstart(uint64_t, unsigned int)'),
      finalize: call(quorum, 'int quorum_finalize(uint64_t)'),
      dispatch: call(quorum, 'int quorum_dispatch(uint64_t, int)'),
      fdGet: call(quorum, 'int quorum_fd_get(uint64_t, _Out_ int *)'),
    },
    poll: call(koffi.load(null), 'int poll(_Inout_ cs_pollfd *, unsigned long, int)'),
    address: { cpg: 'cpg_address', ring: 'cs_ring_id', ids: 'uint32_t' },
  }
}

/** One multicast; CS_OK, CS_ERR_TRY_AGAIN or another code. Does not wait for the network. */
export function multicast(handle: Handle, bytes: Buffer): number {
  const { cpg } = libraries()
  return cpg.mcast(handle, CPG_TYPE_AGREED, [{ base: bytes, length: bytes.length }], 1)
}

interface Address {
  nodeid: number
  pid: number
  reason: number
}

interface RingId {
  nodeid: number
  seq: number | bigint
}

const processOf = ({ nodeid, pid }: Pick<Address, 'nodeid' | 'pid'>): string => `${nodeid}:${pid}`
const ringOf = ({ nodeid, seq }: RingId): string => `${nodeid}.${seq}`

function check(code: number, what: string): void {
  if (code === CS_OK) return
  const hint = 'see systemctl status corosync, and corosync-quorumtool'
  throw new SheepError('system', `corosync: ${what}: ${errorText(code)}`, hint)
}

/** The events of one group, for the thread that dispatches. */
export class GroupConnection {
  readonly handle: Handle
  /** Of this host */
  readonly node: number
  /** Gathered by dispatch */
  events: LibraryEvent[] = []
  private readonly quorumHandle: Handle
  private readonly fds: { fd: number; events: number; revents: number }[]
  private readonly callbacks: Pointer[] = []
  private readonly name: { length: number; value: Uint8Array }

  /** SheepError system: corosync does not run, is too old, or knows no quorum */
  constructor(group: string) {
    const { koffi, cpg, quorum } = libraries()
    const value = new Uint8Array(GROUP_NAME_MAX + 1)
    value.set(Buffer.from(group))
    this.name = { length: Buffer.byteLength(group), value }
    const register = (callback: (...values: never[]) => void, type: string): Pointer => {
      const pointer = koffi.register(callback as never, `${type} *`)
      this.callbacks.push(pointer)
      return pointer
    }
    const handle: Handle[] = [0]
    const model = {
      model: CPG_MODEL_V1,
      deliver: register(this.delivered, 'cpg_deliver'),
      confchg: register(this.changed, 'cpg_confchg'),
      totem: register(this.ringChanged, 'cpg_totem'),
      flags: INITIAL_TOTEM_CONF,
    }
    check(cpg.initialize(handle, CPG_MODEL_V1, model, null), 'connecting')
    this.handle = handle[0]
    const node = [0]
    check(cpg.localGet(this.handle, node), "asking for this host's node id")
    this.node = node[0]
    const quorumHandle: Handle[] = [0]
    const type = [0]
    const quorumModel = {
      model: QUORUM_MODEL_V1,
      notify: register(this.quorumChanged, 'quorum_notify'),
      nodes: register(() => undefined, 'quorum_nodes'),
    }
    check(quorum.initialize(quorumHandle, QUORUM_MODEL_V1, quorumModel, type, null), 'connecting to the quorum service')
    this.quorumHandle = quorumHandle[0]
    if (type[0] === QUORUM_FREE) {
      throw new SheepError(
        'system',
        'corosync has no quorum provider: both sides of a parted network would go on',
        'add quorum { provider: corosync_votequorum } to /etc/corosync/corosync.conf on all hosts',
      )
    }
    check(quorum.trackstart(this.quorumHandle, CS_TRACK_CHANGES), 'asking for quorum')
    const fdOf = (get: Call, of: Handle): number => {
      const fd = [-1]
      check(get(of, fd), 'asking for its descriptor')
      return fd[0]
    }
    const fds = [fdOf(cpg.fdGet, this.handle), fdOf(quorum.fdGet, this.quorumHandle)]
    this.fds = fds.map((fd) => ({ fd, events: POLLIN, revents: 0 }))
  }

  /** CS_OK, CS_ERR_TRY_AGAIN or another code */
  join(): number {
    return libraries().cpg.join(this.handle, this.name)
  }

  leave(): number {
    return libraries().cpg.leave(this.handle, this.name)
  }

  /** Waits for events at most so long, then puts all there are into `events`. CS_OK or what went wrong. */
  dispatch(ms: number): number {
    const { cpg, quorum, poll } = libraries()
    poll(this.fds, this.fds.length, ms)
    for (const [call, handle] of [
      [quorum.dispatch, this.quorumHandle],
      [cpg.dispatch, this.handle],
    ] as const) {
      const code = call(handle, CS_DISPATCH_ALL)
      if (code !== CS_OK && code !== CS_ERR_TRY_AGAIN) return code
    }
    return CS_OK
  }

  close(): void {
    const { koffi, cpg, quorum } = libraries()
    cpg.finalize(this.handle)
    quorum.finalize(this.quorumHandle)
    for (const callback of this.callbacks) koffi.unregister(callback as never)
  }

  private readonly delivered = (
    _handle: Handle,
    _group: Pointer,
    nodeid: number,
    pid: number,
    message: Pointer,
    length: number | bigint,
  ): void => {
    const bytes = new Uint8Array(libraries().koffi.view(message as never, Number(length))).slice()
    this.events.push({ type: 'message', sender: processOf({ nodeid, pid }), bytes })
  }

  private readonly changed = (
    _handle: Handle,
    _group: Pointer,
    members: Pointer,
    memberCount: number | bigint,
    left: Pointer,
    leftCount: number | bigint,
    joined: Pointer,
    joinedCount: number | bigint,
  ): void => {
    const { koffi } = libraries()
    const list = (pointer: Pointer, count: number | bigint): Address[] => {
      return Number(count) === 0 ? [] : (koffi.decode(pointer as never, 'cpg_address', Number(count)) as Address[])
    }
    const gone = list(left, leftCount)
    this.events.push({
      type: 'processes',
      processes: list(members, memberCount).map(processOf),
      left: gone.map(processOf),
      down: gone.filter(({ reason }) => reason === REASON_NODEDOWN).map(processOf),
      quit: gone.filter(({ reason }) => reason === REASON_LEAVE).map(processOf),
      joined: list(joined, joinedCount).map(processOf),
    })
  }

  private readonly ringChanged = (_handle: Handle, ring: RingId, count: number, nodes: Pointer): void => {
    const list = libraries().koffi.decode(nodes as never, 'uint32_t', count) as ArrayLike<number>
    this.events.push({ type: 'ring', ring: ringOf(ring), nodes: Array.from(list) })
  }

  private readonly quorumChanged = (_handle: Handle, quorate: number, ring: RingId): void => {
    this.events.push({ type: 'quorum', ring: ringOf(ring), quorate: quorate !== 0 })
  }
}

/**
 * The address of this host's first link, as corosync.conf has it: an IP address or a host name. SheepError system.
 */
export function ringAddress(): string {
  const koffi = createRequire(import.meta.url)('koffi') as Koffi
  const cmap = open(koffi, 'libcmap.so.4')
  const initialize = cmap.func('int cmap_initialize(_Out_ uint64_t *)') as unknown as Call
  const finalize = cmap.func('int cmap_finalize(uint64_t)') as unknown as Call
  const getNumber = cmap.func('int cmap_get_uint32(uint64_t, const char *, _Out_ uint32_t *)') as unknown as Call
  const get = cmap.func('int cmap_get(uint64_t, const char *, void *, _Inout_ size_t *, void *)') as unknown as Call
  const handle: Handle[] = [0]
  check(initialize(handle), 'connecting to its configuration')
  try {
    const number = (key: string): number | null => {
      const value = [0]
      return getNumber(handle[0], key, value) === CS_OK ? value[0] : null
    }
    const own = number('runtime.votequorum.this_node_id')
    for (let at = 0; own !== null && at < NODES_MAX; at++) {
      const id = number(`nodelist.node.${at}.nodeid`)
      if (id !== own) continue
      const text = Buffer.alloc(256)
      const length = [text.length]
      check(get(handle[0], `nodelist.node.${at}.ring0_addr`, text, length, null), "asking for this host's address")
      return text.toString('utf8', 0, text.indexOf(0))
    }
    throw new SheepError(
      'system',
      'corosync does not tell the address of this host',
      'say which one other members can use: sheep -y ADDRESS',
    )
  } finally {
    finalize(handle[0])
  }
}
