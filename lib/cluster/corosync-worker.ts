/**
 * The thread that waits for corosync's events: connects, joins the group, posts what comes, and says when corosync is lost. It ends
 * with the connection; the engine starts another.
 */
import { type MessagePort, parentPort, workerData } from 'node:worker_threads'
import { assert } from '../assert.js'
import { asSheepError } from '../errors.js'
import {
  CS_ERR_TRY_AGAIN,
  CS_OK,
  errorText,
  GroupConnection,
  type Handle,
  type LibraryEvent,
} from './corosync-library.js'

/** Looks this often whether it shall stop. */
const POLL_MS = 100
const JOIN_RETRY_MS = 50
const JOIN_WAIT_MS = 30_000
const LEAVE_WAIT_MS = 3_000
/** Batches that the engine has not taken yet; corosync keeps the rest, and slows down its senders. */
const BATCHES_AHEAD_MAX = 64

export interface WorkerInput {
  group: string
  /** [0]: 1 asks to leave and end. [1]: batches that the engine has taken */
  shared: Int32Array
}

export type WorkerOutput =
  | { type: 'connected'; handle: Handle; self: string }
  | { type: 'events'; events: LibraryEvent[] }
  /** The last. `hint` when a start would fail as well */
  | { type: 'ended'; reason: string; hint: string }

function sleep(shared: Int32Array, ms: number): void {
  Atomics.wait(shared, 0, 0, ms)
}

function run(port: MessagePort, { group, shared }: WorkerInput): string {
  const post = (output: WorkerOutput): void => port.postMessage(output)
  const stopping = (): boolean => Atomics.load(shared, 0) === 1
  const connection = new GroupConnection(group)
  const self = `${connection.node}:${process.pid}`
  try {
    post({ type: 'connected', handle: connection.handle, self })
    // While corosync forms a ring it takes nobody.
    let code = connection.join()
    for (let waited = 0; code === CS_ERR_TRY_AGAIN && waited < JOIN_WAIT_MS && !stopping(); waited += JOIN_RETRY_MS) {
      sleep(shared, JOIN_RETRY_MS)
      code = connection.join()
    }
    if (code !== CS_OK) return `joining the group ${group}: ${errorText(code)}`
    let posted = 0
    let leaveBy = Number.POSITIVE_INFINITY
    for (;;) {
      if (stopping() && leaveBy === Number.POSITIVE_INFINITY) {
        leaveBy = performance.now() + LEAVE_WAIT_MS
        connection.leave()
      }
      if (performance.now() > leaveBy) return 'left without an answer'
      if (posted - Atomics.load(shared, 1) > BATCHES_AHEAD_MAX) {
        Atomics.wait(shared, 1, Atomics.load(shared, 1), POLL_MS)
        continue
      }
      const code = connection.dispatch(POLL_MS)
      const events = connection.events
      connection.events = []
      if (events.length > 0) {
        posted++
        post({ type: 'events', events })
      }
      if (code !== CS_OK) return errorText(code)
      if (events.some((event) => event.type === 'processes' && event.left.includes(self))) {
        return stopping() ? 'left' : 'corosync took this daemon out of its group'
      }
    }
  } finally {
    connection.close()
  }
}

assert(parentPort !== null, 'this file is a worker')
try {
  const reason = run(parentPort, workerData as WorkerInput)
  parentPort.postMessage({ type: 'ended', reason, hint: '' } satisfies WorkerOutput)
} catch (error) {
  const { message, hint } = asSheepError(error)
  parentPort.postMessage({ type: 'ended', reason: message, hint } satisfies WorkerOutput)
}
