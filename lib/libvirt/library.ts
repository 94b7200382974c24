/**
 * The public C API of libvirt (libvirt.so.0, ABI stable since 2006) through koffi. Types and constants: libvirt/libvirt-domain.h,
 * libvirt-storage.h, virterror.h. Every call blocks until libvirt answers: only helper.ts, a process of its own, makes them.
 */
import { createRequire } from 'node:module'
import { type ErrorCode, SheepError } from '../errors.js'
import type { Definition, DomainInfo, PoolInfo } from './messages.js'

type Koffi = typeof import('koffi')
/** A pointer, as koffi has it */
type Pointer = unknown
// biome-ignore lint/suspicious/noExplicitAny: the prototypes below say what each takes and gives
type Native = (...values: any[]) => any

/** virErrorNumber */
const ERR_INTERNAL_ERROR = 1
const ERR_NO_SUPPORT = 3
const ERR_NO_DOMAIN = 42
const ERR_NO_STORAGE_POOL = 49
const ERR_OPERATION_INVALID = 55
const ERR_OPERATION_DENIED = 29
const ERR_AUTH_FAILED = 45
const ERR_AUTH_CANCELLED = 79
const ERR_AUTH_UNAVAILABLE = 80
const ERR_AUTH_DENIED = 82
const ERR_ARGUMENT_UNSUPPORTED = 74
const ERR_CONFIG_UNSUPPORTED = 67
const ERR_AGENT_UNRESPONSIVE = 86
/** virDomainXMLFlags */
const XML_SECURE = 1
const XML_INACTIVE = 2
/** virDomainModificationImpact */
const AFFECT: Record<Definition, number> = { live: 1, config: 2 }
/** virDomainState */
const STATE_RUNNING = 1

const PROTOTYPES = {
  virConnectOpen: 'void *virConnectOpen(const char *)',
  virConnectClose: 'int virConnectClose(void *)',
  virConnectIsAlive: 'int virConnectIsAlive(void *)',
  virGetLastErrorCode: 'int virGetLastErrorCode()',
  virGetLastErrorMessage: 'const char *virGetLastErrorMessage()',
  virResetLastError: 'void virResetLastError()',
  virStoragePoolLookupByName: 'void *virStoragePoolLookupByName(void *, const char *)',
  virStoragePoolDefineXML: 'void *virStoragePoolDefineXML(void *, const char *, unsigned int)',
  virStoragePoolCreate: 'int virStoragePoolCreate(void *, unsigned int)',
  virStoragePoolSetAutostart: 'int virStoragePoolSetAutostart(void *, int)',
  virStoragePoolGetAutostart: 'int virStoragePoolGetAutostart(void *, _Out_ int *)',
  virStoragePoolIsActive: 'int virStoragePoolIsActive(void *)',
  virStoragePoolIsPersistent: 'int virStoragePoolIsPersistent(void *)',
  virStoragePoolRefresh: 'int virStoragePoolRefresh(void *, unsigned int)',
  virStoragePoolGetXMLDesc: 'LibvirtText virStoragePoolGetXMLDesc(void *, unsigned int)',
  virStoragePoolFree: 'int virStoragePoolFree(void *)',
  virDomainLookupByName: 'void *virDomainLookupByName(void *, const char *)',
  virDomainLookupByUUIDString: 'void *virDomainLookupByUUIDString(void *, const char *)',
  virDomainGetName: 'const char *virDomainGetName(void *)',
  virDomainGetUUIDString: 'int virDomainGetUUIDString(void *, void *)',
  virDomainIsActive: 'int virDomainIsActive(void *)',
  virDomainIsPersistent: 'int virDomainIsPersistent(void *)',
  virDomainGetState: 'int virDomainGetState(void *, _Out_ int *, _Out_ int *, unsigned int)',
  virDomainGetXMLDesc: 'LibvirtText virDomainGetXMLDesc(void *, unsigned int)',
  virDomainAttachDeviceFlags: 'int virDomainAttachDeviceFlags(void *, const char *, unsigned int)',
  virDomainDetachDeviceFlags: 'int virDomainDetachDeviceFlags(void *, const char *, unsigned int)',
  virDomainDefineXMLFlags: 'void *virDomainDefineXMLFlags(void *, const char *, unsigned int)',
  virDomainAgentSetResponseTimeout: 'int virDomainAgentSetResponseTimeout(void *, int, unsigned int)',
  virDomainFSFreeze: 'int virDomainFSFreeze(void *, void *, unsigned int, unsigned int)',
  virDomainFSThaw: 'int virDomainFSThaw(void *, void *, unsigned int, unsigned int)',
  virDomainSuspend: 'int virDomainSuspend(void *)',
  virDomainResume: 'int virDomainResume(void *)',
  virDomainFree: 'int virDomainFree(void *)',
} as const

type Library = Record<keyof typeof PROTOTYPES, Native>

let loaded: Library | null = null

function library(): Library {
  if (loaded !== null) return loaded
  const koffi = createRequire(import.meta.url)('koffi') as Koffi
  try {
    const shared = koffi.load('libvirt.so.0')
    // Texts that the caller is to free.
    koffi.disposable('LibvirtText', 'str')
    const entries = Object.entries(PROTOTYPES).map(([name, prototype]) => [name, shared.func(prototype)])
    loaded = Object.fromEntries(entries) as Library
    return loaded
  } catch (error) {
    throw new SheepError(
      'unsupported',
      `libvirt cannot be used: ${(error as Error).message}`,
      'install its library (Debian: apt-get install libvirt0)',
    )
  }
}

const CODES: Record<number, ErrorCode> = {
  [ERR_NO_DOMAIN]: 'not-found',
  [ERR_NO_STORAGE_POOL]: 'not-found',
  [ERR_CONFIG_UNSUPPORTED]: 'unsupported',
  [ERR_NO_SUPPORT]: 'unsupported',
}

/** libvirt refuses to look while it makes, copies or fills a volume, and has no code of its own for that (storage_driver.c). */
const REFRESH_CODES: Record<number, ErrorCode> = { ...CODES, [ERR_INTERNAL_ERROR]: 'busy' }

const NO_AGENT = [
  ERR_NO_SUPPORT,
  ERR_CONFIG_UNSUPPORTED,
  ERR_ARGUMENT_UNSUPPORTED,
  ERR_AGENT_UNRESPONSIVE,
  ERR_OPERATION_INVALID,
]
const AUTH = [ERR_OPERATION_DENIED, ERR_AUTH_FAILED, ERR_AUTH_CANCELLED, ERR_AUTH_UNAVAILABLE, ERR_AUTH_DENIED]

/** What this thread's last failed call says. */
function lastError(what: string, codes = CODES): SheepError {
  const { virGetLastErrorCode, virGetLastErrorMessage } = library()
  const code: number = virGetLastErrorCode()
  const hint = AUTH.includes(code) ? 'run it as root, or as a member of the group libvirt' : ''
  return new SheepError(codes[code] ?? 'system', `libvirt: ${what}: ${virGetLastErrorMessage()}`, hint)
}

export class Connection {
  private constructor(
    private readonly handle: Pointer,
    readonly uri: string,
  ) {}

  /** SheepError: unsupported, there is no libvirt; unreachable, its daemon does not answer */
  static open(uri: string): Connection {
    const { virConnectOpen, virGetLastErrorMessage } = library()
    const handle = virConnectOpen(uri)
    if (handle !== null) return new Connection(handle, uri)
    throw new SheepError(
      'unreachable',
      `libvirt: ${uri}: ${virGetLastErrorMessage()}`,
      'see whether libvirt runs: systemctl status libvirtd virtqemud virtstoraged',
    )
  }

  get alive(): boolean {
    return library().virConnectIsAlive(this.handle) === 1
  }

  close(): void {
    library().virConnectClose(this.handle)
  }

  poolInfo(name: string): PoolInfo | null {
    const lib = library()
    return this.withPool(name, null, (pool) => {
      const autostart = [0]
      checked(lib.virStoragePoolGetAutostart(pool, autostart), `pool ${name}`)
      return {
        xml: text(lib.virStoragePoolGetXMLDesc(pool, 0), `pool ${name}`),
        active: checked(lib.virStoragePoolIsActive(pool), `pool ${name}`) === 1,
        autostart: autostart[0] !== 0,
        persistent: checked(lib.virStoragePoolIsPersistent(pool), `pool ${name}`) === 1,
      }
    })
  }

  poolDefine(xml: string): null {
    const lib = library()
    const pool = lib.virStoragePoolDefineXML(this.handle, xml, 0)
    if (pool === null) throw lastError('defining a pool')
    lib.virStoragePoolFree(pool)
    return null
  }

  poolStart(name: string): null {
    return this.withPool(name, undefined, (pool) => {
      checked(library().virStoragePoolCreate(pool, 0), `starting pool ${name}`)
      return null
    })
  }

  poolAutostart(name: string): null {
    return this.withPool(name, undefined, (pool) => {
      checked(library().virStoragePoolSetAutostart(pool, 1), `pool ${name}`)
      return null
    })
  }

  poolRefresh(name: string): boolean {
    const lib = library()
    return this.withPool(name, false, (pool) => {
      if (lib.virStoragePoolIsActive(pool) !== 1) return false
      checked(lib.virStoragePoolRefresh(pool, 0), `refreshing pool ${name}`, REFRESH_CODES)
      return true
    })
  }

  domain(name: string): DomainInfo {
    const lib = library()
    return this.withDomain(name, (domain) => {
      const uuid = Buffer.alloc(37)
      checked(lib.virDomainGetUUIDString(domain, uuid), `domain ${name}`)
      return {
        name: text(lib.virDomainGetName(domain), `domain ${name}`),
        uuid: uuid.toString('latin1', 0, 36),
        active: checked(lib.virDomainIsActive(domain), `domain ${name}`) === 1,
        persistent: checked(lib.virDomainIsPersistent(domain), `domain ${name}`) === 1,
      }
    })
  }

  domainXml(name: string, of: Definition): string {
    const flags = XML_SECURE | (of === 'config' ? XML_INACTIVE : 0)
    return this.withDomain(name, (domain) => text(library().virDomainGetXMLDesc(domain, flags), `domain ${name}`))
  }

  attachDevice(name: string, xml: string, to: readonly Definition[]): null {
    return this.withDomain(name, (domain) => {
      checked(library().virDomainAttachDeviceFlags(domain, xml, flagsOf(to)), `attaching to ${name}`)
      return null
    })
  }

  detachDevice(name: string, xml: string, from: readonly Definition[]): null {
    return this.withDomain(name, (domain) => {
      checked(library().virDomainDetachDeviceFlags(domain, xml, flagsOf(from)), `detaching from ${name}`)
      return null
    })
  }

  defineDomain(xml: string): null {
    const lib = library()
    const domain = lib.virDomainDefineXMLFlags(this.handle, xml, 0)
    if (domain === null) throw lastError('defining a domain')
    lib.virDomainFree(domain)
    return null
  }

  /** How many file systems, or why the domain has no agent that could. SheepError: the agent is there and failed. */
  freeze(name: string, seconds: number): number | string {
    const lib = library()
    return this.withDomain(name, (domain) => {
      // libvirt waits for an agent for ever by default. Drivers that have no such limit need none.
      if (lib.virDomainAgentSetResponseTimeout(domain, seconds, 0) < 0) lib.virResetLastError()
      const frozen: number = lib.virDomainFSFreeze(domain, null, 0, 0)
      if (frozen >= 0) return frozen
      const code: number = lib.virGetLastErrorCode()
      const error = lastError(`freezing the file systems of ${name}`)
      if (!NO_AGENT.includes(code)) throw error
      // One that only was too slow has heard both words, in this order.
      if (code === ERR_AGENT_UNRESPONSIVE) lib.virDomainFSThaw(domain, null, 0, 0)
      return error.message
    })
  }

  thaw(name: string): void {
    const lib = library()
    this.withDomain(name, (domain) => checked(lib.virDomainFSThaw(domain, null, 0, 0), `thawing ${name}`))
  }

  /** false: it did not run */
  suspend(name: string): boolean {
    const lib = library()
    return this.withDomain(name, (domain) => {
      if (this.state(domain, name) !== STATE_RUNNING) return false
      checked(lib.virDomainSuspend(domain), `suspending ${name}`)
      return true
    })
  }

  resume(name: string): void {
    const lib = library()
    this.withDomain(name, (domain) => {
      if (this.state(domain, name) !== STATE_RUNNING) checked(lib.virDomainResume(domain), `resuming ${name}`)
    })
  }

  private state(domain: Pointer, name: string): number {
    const state = [0]
    checked(library().virDomainGetState(domain, state, [0], 0), `domain ${name}`)
    return state[0]
  }

  /** `none`: what it is when there is no such pool; undefined: an error */
  private withPool<T>(name: string, none: T | undefined, run: (pool: Pointer) => T): T {
    const lib = library()
    const pool = lib.virStoragePoolLookupByName(this.handle, name)
    if (pool === null) {
      if (none !== undefined && lib.virGetLastErrorCode() === ERR_NO_STORAGE_POOL) return none
      throw lastError(`pool ${name}`)
    }
    try {
      return run(pool)
    } finally {
      lib.virStoragePoolFree(pool)
    }
  }

  private withDomain<T>(name: string, run: (domain: Pointer) => T): T {
    const lib = library()
    let domain = lib.virDomainLookupByName(this.handle, name)
    if (domain === null && /^[0-9a-fA-F-]{32,36}$/.test(name)) {
      domain = lib.virDomainLookupByUUIDString(this.handle, name)
    }
    if (domain === null) {
      const error = lastError(`domain ${name}`)
      const hint = error.code === 'not-found' ? 'virsh list --all shows what there is' : error.hint
      throw new SheepError(error.code, error.message, hint)
    }
    try {
      return run(domain)
    } finally {
      lib.virDomainFree(domain)
    }
  }
}

function flagsOf(definitions: readonly Definition[]): number {
  return definitions.reduce((flags, definition) => flags | AFFECT[definition], 0)
}

function checked(result: number, what: string, codes = CODES): number {
  if (result < 0) throw lastError(what, codes)
  return result
}

function text(result: string | null, what: string): string {
  if (result === null) throw lastError(what)
  return result
}
