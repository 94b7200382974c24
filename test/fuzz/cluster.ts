/**
 * What members broadcast: decoded, and what passes goes into the membership machine and its state as on every member. Nothing
 * that one member says may stop another.
 */

import { type Entry, History } from '../../lib/cluster/history.js'
import { Membership } from '../../lib/cluster/membership.js'
import { decodeMessage, encodeMessage } from '../../lib/cluster/messages.js'
import { ClusterState } from '../../lib/cluster/state.js'
import type { Action } from '../../lib/cluster/steps.js'
import { SheepError } from '../../lib/errors.js'
import type { SimRandom } from '../simulation/random.js'
import { MESSAGES, NODES, state } from './cluster-samples.js'
import type { Harness } from './harness.js'
import { damaged, damagedJson } from './mutate.js'

const MEMBERS = ['a', 'b', 'c']
const STATE = state.toJSON()
const ACTIONS_MAX = 5_000

/** One message a piece; the first piece is how the machine begins. */
function make(random: SimRandom): Buffer[] {
  const pieces: Buffer[] = [Buffer.of(random.below(4))]
  for (let count = 1 + random.below(6); count > 0; count--) {
    const message = random.pick(MESSAGES)
    const json = random.chance(0.6) ? damagedJson(random, message) : message
    const bytes = Buffer.from(JSON.stringify(json) ?? '')
    pieces.push(random.chance(0.1) ? damaged(random, bytes, encodeMessage(random.pick(MESSAGES))) : bytes)
  }
  return pieces
}

class Member {
  private readonly machine: Membership
  private state: ClusterState | null

  /** `fresh`: nothing on disk; else it has the state. */
  constructor(hasQuorum: boolean, fresh: boolean) {
    const history = fresh ? null : History.fromJSON(STATE.history)
    this.state = fresh ? null : ClusterState.fromJSON(STATE)
    this.machine = new Membership('a', NODES[0], hasQuorum, history, fresh ? 0 : 2)
    if (hasQuorum) this.step({ type: 'quorum', quorate: true })
    this.step({ type: 'view', members: ['a'], joined: ['a'] })
    this.step({ type: 'view', members: MEMBERS, joined: ['b', 'c'] })
  }

  said(sender: string, payload: Buffer): boolean {
    const message = decodeMessage(payload)
    if (message === null) return false
    this.step({ type: 'message', sender, message })
    return true
  }

  timer(): void {
    this.step({ type: 'timer', name: 'again' })
    this.step({ type: 'timer', name: 'sponsor' })
  }

  private step(event: Parameters<Membership['step']>[0]): void {
    // What this member broadcasts comes back to it: one queue, as the engine has.
    const queue = [event]
    for (let steps = 0; queue.length > 0; steps++) {
      if (steps > ACTIONS_MAX) throw new Error('a message is answered without end')
      for (const action of this.machine.step(queue.shift() as typeof event, { now: steps, wall: 1 })) {
        this.act(action, queue)
      }
    }
  }

  private act(action: Action, queue: Parameters<Membership['step']>[0][]): void {
    if (action.type === 'broadcast') {
      const message = decodeMessage(encodeMessage(action.message))
      if (message === null) throw new Error(`a member's own ${action.message.type} is refused`)
      // Not for ever: a machine that is alone with its own calls for a round has no end by itself.
      if (queue.length < 20) queue.push({ type: 'message', sender: 'a', message })
    } else if (action.type === 'install') {
      this.state = ClusterState.fromJSON(structuredClone(action.state))
    } else if (action.type === 'entry') {
      this.apply(action.entry)
    }
  }

  private apply(entry: Entry): void {
    if (this.state === null || entry.seq !== this.state.history.seq + 1) return
    this.state.apply(JSON.parse(JSON.stringify(entry)) as Entry)
  }
}

function take([how, ...payloads]: readonly Buffer[], random: SimRandom): boolean {
  const member = new Member((how[0] & 1) === 0, (how[0] & 2) === 0)
  let taken = false
  for (const payload of payloads) {
    taken = member.said(random.pick(['b', 'b', 'c', 'a', 'stranger']), payload) || taken
    if (random.chance(0.1)) member.timer()
  }
  return taken
}

export const clusterHarness: Harness = { make, take }

/** The state as JSON, from a peer or a disk: taken whole, or refused with a reason. */
function makeState(random: SimRandom): Buffer[] {
  let json: unknown = STATE
  for (let hits = random.below(3); hits > 0; hits--) json = damagedJson(random, json)
  return [Buffer.from(JSON.stringify(json) ?? '')]
}

function takeState([bytes]: readonly Buffer[]): boolean {
  let taken: ClusterState
  try {
    taken = ClusterState.fromJSON(bytes.length === 0 ? undefined : JSON.parse(bytes.toString()))
  } catch (error) {
    if (error instanceof SheepError) return false
    throw error
  }
  // What was taken works: it goes on, and comes back as it was.
  const again = ClusterState.fromJSON(JSON.parse(JSON.stringify(taken)))
  if (JSON.stringify(again) !== JSON.stringify(taken)) throw new Error('a state is another after a second reading')
  const { epoch, seq } = taken.history
  taken.apply({ seq: seq + 1, type: 'epoch', record: { ...epoch, number: epoch.number + 1 }, left: [NODES[0].id] })
  return true
}

export const stateHarness: Harness = { make: makeState, take: takeState }
