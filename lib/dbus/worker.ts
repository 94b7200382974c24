/**
 * The thread that is on the bus. A thread of its own, because strangers decide how much comes from there and how large an answer they
 * want: nothing of that may hold up a guest's disk. A bus that goes away is waited for, ever more seldom.
 */
import { readlinkSync } from 'node:fs'
import { setPriority } from 'node:os'
import { parentPort, workerData } from 'node:worker_threads'
import { assert } from '../assert.js'
import { Bus } from './bus.js'
import type { Incoming } from './codec.js'
import type { FromBus, ToBus, WorkerInput } from './messages.js'
import { Notifyd } from './notifyd.js'
import { Service } from './service.js'

const RETRY_MS = 500
const RETRY_MS_MAX = 30_000
/** One that lasted so long was no failed try */
const LASTING_MS = 60_000
/** Guests' requests go before questions from the bus. */
const NICE = 10

assert(parentPort !== null, 'this file is a worker')
const port = parentPort
const { socket, bus: busName } = workerData as WorkerInput
const post = (message: FromBus): void => port.postMessage(message)
const service = new Service(() => bus, post)
const notifyd = new Notifyd(post)
/** Ready for signals and calls */
let bus: Bus | null = null
let retryMs = RETRY_MS
/** One complaint for each time that it is away */
let complained = false
let stopping = false
let current: Bus | null = null

function connect(): void {
  const began = performance.now()
  const connection = new Bus(socket, {
    ready: (owner) => {
      bus = connection
      complained = false
      post({ type: 'log', level: 'info', message: `on the ${busName} bus, ${owning(owner)}` })
      notifyd.listen(connection)
    },
    ownerChanged: (owner) => post({ type: 'log', level: 'info', message: `on the ${busName} bus, ${owning(owner)}` }),
    call: (message) => service.call(connection, message),
    signal: (message) => signalled(connection, message),
    closed: (reason) => {
      bus = null
      current = null
      service.forgetCallers()
      if (stopping) return
      if (performance.now() - began > LASTING_MS) retryMs = RETRY_MS
      if (!complained) {
        const message = `the ${busName} bus cannot be used (${reason}); trying again. Volumes do not need it`
        post({ type: 'log', level: 'notice', message })
      }
      complained = true
      setTimeout(connect, retryMs)
      retryMs = Math.min(retryMs * 2, RETRY_MS_MAX)
    },
  })
  current = connection
}

function owning(owner: boolean): string {
  return owner ? 'as org.sheepdog' : 'behind another daemon of this host, which has the name org.sheepdog'
}

function signalled(connection: Bus, message: Incoming): void {
  const { sender, member, body } = message
  if (sender === 'org.freedesktop.DBus' && member === 'NameOwnerChanged') {
    service.nameOwnerChanged(String(body[0]), String(body[2]))
  } else {
    notifyd.signalled(connection, message)
  }
}

port.on('message', (message: ToBus) => {
  if (message.type === 'facts') {
    service.facts(message)
    post({ type: 'taken' })
  } else if (message.type === 'answer') {
    service.answered(message)
  } else {
    stopping = true
    current?.close('this daemon stops')
    post({ type: 'stopped' })
    port.close()
  }
})

/** Of this thread alone: on Linux a thread's id is as good as a process's (setpriority(2)). */
function yieldToOthers(): void {
  try {
    setPriority(Number(readlinkSync('/proc/thread-self').split('/')[2]), NICE)
  } catch (error) {
    post({ type: 'log', level: 'info', message: `its thread keeps the daemon's priority: ${(error as Error).message}` })
  }
}

yieldToOthers()
connect()
