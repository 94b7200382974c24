/**
 * The process that talks to libvirt for a daemon or for dog. A process of its own, because calls of the library block, for as long as
 * libvirt's daemon likes: this one can be killed in the middle of one, and whatever happens in it the storage daemon goes on. It ends
 * with the channel to whoever started it; a machine that it has made stand still goes on before that.
 */
import { asSheepError, SheepError } from '../errors.js'
import { Connection } from './library.js'
import type { Answer, LibvirtCalls, Quiesced, Request } from './messages.js'

const RELEASE_TRIES = 60
const RELEASE_RETRY_MS = 500
/** For the agent's answer; libvirt itself first waits up to 5 s to see whether one is there */
const AGENT_SECONDS = 20

let connection: Connection | null = null
let standing: { name: string; frozen: boolean; suspended: boolean; timer: NodeJS.Timeout } | null = null

function connected(): Connection {
  if (connection === null) throw new SheepError('invalid', 'libvirt: not connected')
  return connection
}

const calls: LibvirtCalls = {
  open(uris) {
    let failure = new SheepError('unreachable', 'libvirt: no daemon of it is on this host')
    for (const uri of uris) {
      try {
        connection = Connection.open(uri)
        return uri
      } catch (error) {
        failure = asSheepError(error)
      }
    }
    throw failure
  },
  poolInfo: (name) => connected().poolInfo(name),
  poolDefine: (xml) => connected().poolDefine(xml),
  poolStart: (name) => connected().poolStart(name),
  poolAutostart: (name) => connected().poolAutostart(name),
  poolRefresh: (name) => connected().poolRefresh(name),
  domain: (name) => connected().domain(name),
  domainXml: (name, of) => connected().domainXml(name, of),
  attachDevice: (name, xml, to) => connected().attachDevice(name, xml, to),
  detachDevice: (name, xml, from) => connected().detachDevice(name, xml, from),
  defineDomain: (xml) => connected().defineDomain(xml),
  quiesce,
  release() {
    if (standing === null) return false
    clearTimeout(standing.timer)
    letGo(0)
    return true
  },
}

function quiesce(name: string, freeze: boolean, seconds: number): Quiesced {
  if (standing !== null) throw new SheepError('busy', `${standing.name} stands still already`)
  const host = connected()
  const timer = setTimeout(() => letGo(0), seconds * 1000)
  standing = { name, frozen: freeze, suspended: false, timer }
  try {
    const outcome = freeze ? host.freeze(name, AGENT_SECONDS) : 0
    standing.frozen = typeof outcome === 'number' && freeze
    standing.suspended = host.suspend(name)
    return {
      frozen: typeof outcome === 'number' ? outcome : 0,
      noAgent: typeof outcome === 'number' ? '' : outcome,
      suspended: standing.suspended,
    }
  } catch (error) {
    // What an agent was told may have been done though its answer did not come.
    clearTimeout(timer)
    letGo(0)
    throw error
  }
}

/** Tried until it is done, or the machine is gone: nothing else lets the guest go on. */
function letGo(tries: number): void {
  const held = standing
  if (held === null) return
  try {
    const host = connected()
    if (held.suspended) host.resume(held.name)
    held.suspended = false
    if (held.frozen) host.thaw(held.name)
    standing = null
  } catch (error) {
    const { code, message } = asSheepError(error)
    process.stderr.write(`${message}\n`)
    if (code === 'not-found' || tries + 1 >= RELEASE_TRIES) standing = null
    else setTimeout(() => again(tries + 1), RELEASE_RETRY_MS)
  }
  if (standing === null && !process.connected) process.exit(0)
}

function again(tries: number): void {
  if (connection !== null && !connection.alive) {
    try {
      connection = Connection.open(connection.uri)
    } catch (error) {
      process.stderr.write(`${asSheepError(error).message}\n`)
    }
  }
  letGo(tries)
}

process.on('message', ({ id, call, arguments: given }: Request) => {
  const answer: Answer = { id, value: null, error: null }
  try {
    answer.value = (calls[call] as (...values: unknown[]) => unknown)(...given)
  } catch (error) {
    const { code, message, hint } = asSheepError(error)
    answer.error = { code, message, hint }
    if (connection !== null && standing === null && !connection.alive) {
      answer.error.code = 'unreachable'
      process.send?.(answer, () => process.exit(0))
      return
    }
  }
  process.send?.(answer)
})

process.on('disconnect', () => {
  if (standing === null) process.exit(0)
  clearTimeout(standing.timer)
  letGo(0)
})
// Whoever stops a terminal's programs means the one that asked: this one has something to end first.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    if (standing === null) process.exit(0)
  })
}
