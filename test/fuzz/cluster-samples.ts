/** A cluster's state and what its members say to each other, as three of them really make it. */
import type { Entry } from '../../lib/cluster/history.js'
import type { Hello, Message } from '../../lib/cluster/messages.js'
import { PROTOCOL } from '../../lib/cluster/messages.js'
import { ClusterState } from '../../lib/cluster/state.js'
import type { ClusterConfig, EpochRecord } from '../../lib/cluster/types.js'
import type { VdiCommand } from '../../lib/vdi/types.js'
import { fakeNode } from '../support/fake-services.js'

export const NODES = [fakeNode(0), fakeNode(1), fakeNode(2)]
export const CONFIG: ClusterConfig = { clusterId: 'c'.repeat(16), formatTime: 1000, copies: 3, blockSizeShift: 22 }

function vdi(seq: number, command: VdiCommand): Entry {
  return { seq, type: 'command', sender: NODES[0].id, time: 2000 + seq, command: { type: 'vdi', command } }
}

const creation = (name: string, parent = 0): VdiCommand => ({
  ...{ op: 'create', name, size: 2 ** 30, copies: 3, blockSizeShift: 22, parent, preallocated: false },
})

/** Entry by entry; each is applied to `state` in turn. */
function story(state: ClusterState): Entry[] {
  const entries: Entry[] = []
  const vids: number[] = []
  const apply = (make: (seq: number) => Entry): void => {
    const entry = make(state.history.seq + 1)
    const { value } = state.apply(entry)
    entries.push(entry)
    const vid = (value as { vid?: unknown } | null)?.vid
    if (entry.type === 'command' && typeof vid === 'number') vids.push(vid)
  }
  const record: EpochRecord = { number: 2, time: 1500, nodes: NODES }
  apply((seq) => ({ seq, type: 'epoch', record, left: [] }))
  apply((seq) => ({ seq, type: 'command', sender: NODES[0].id, time: 1, command: { type: 'recovered', epoch: 2 } }))
  apply((seq) => vdi(seq, creation('disk')))
  apply((seq) => vdi(seq, { op: 'ready', vid: vids[0] }))
  apply((seq) => vdi(seq, { op: 'lock', vid: vids[0], session: 's', mode: 'write', holder: 'NBD client' }))
  apply((seq) => vdi(seq, { op: 'snapshot-begin', vid: vids[0], tag: 'monday' }))
  apply((seq) => vdi(seq, { op: 'snapshot-commit', vid: vids[0], child: vids[1], tag: 'monday' }))
  apply((seq) => vdi(seq, creation('clone', vids[0])))
  apply((seq) => vdi(seq, creation('other')))
  const settings = { type: 'recovery', held: true, limit: null } as const
  apply((seq) => ({ seq, type: 'command', sender: NODES[0].id, time: 3, command: settings }))
  const waits = { type: 'on-no-quorum', ms: 5000 } as const
  apply((seq) => ({ seq, type: 'command', sender: NODES[0].id, time: 3, command: waits }))
  apply((seq) => vdi(seq, { op: 'set-on-no-quorum', vid: vids[1], ms: 0 }))
  const token = { type: 'exclusive-enter', token: 't' } as const
  apply((seq) => ({ seq, type: 'command', sender: NODES[1].id, time: 3, command: token }))
  return entries
}

export function formatted(): ClusterState {
  return ClusterState.format(CONFIG, 1, { number: 1, time: 1000, nodes: NODES.slice(0, 2) })
}

export const state = formatted()
export const entries = story(state)
const { history } = state

const hello: Hello = {
  ...{ type: 'hello', protocol: PROTOCOL, round: 'b 1', nonce: 1, node: NODES[1], mode: 'outside' },
  ...{ quorate: true, forced: false },
  summary: {
    clusterId: CONFIG.clusterId,
    epochs: [{ number: 2, line: history.lineOf(2) as string, nodes: NODES }],
    seq: history.seq,
    digest: history.digest,
    effective: { epoch: 2, line: history.lineOf(2) as string },
  },
}

/** As member `b` of a, b, c may say them. */
export const MESSAGES: readonly Message[] = [
  hello,
  { ...hello, summary: null },
  { ...hello, mode: 'running' },
  { type: 'again', nonce: 3, lost: true },
  { type: 'again', nonce: 4, lost: false },
  { type: 'commands', list: entries.flatMap((entry, i) => commandOf(entry, i)) },
  {
    type: 'commands',
    list: [
      {
        id: 99,
        time: 5,
        everywhere: true,
        command: { type: 'format', clusterId: 'd'.repeat(16), copies: 2, blockSizeShift: 22, force: true },
      },
    ],
  },
  {
    type: 'commands',
    list: [
      { id: 98, time: 5, everywhere: false, command: { type: 'expel', node: NODES[2].id, epoch: 2, reason: 'silent' } },
    ],
  },
  { type: 'commands', list: [{ id: 97, time: 5, everywhere: false, command: { type: 'force-start' } }] },
  { type: 'receipt', seq: history.seq, digest: history.digest },
  { type: 'stored', seq: history.seq },
  { type: 'ack', seq: history.seq },
  { type: 'probe', id: 1 },
  { type: 'refuse', to: 'c', reason: 'no', hint: 'none' },
  {
    ...{ type: 'state', to: ['a'], start: '' },
    runtime: {
      ...{ at: 4, members: ['a', 'b', 'c'], round: 'b 1' },
      established: [
        ['b', NODES[1].id],
        ['c', NODES[2].id],
      ],
      waiting: [['a', { hello: { ...hello, node: NODES[0] }, heard: 2 }]],
      expelled: [],
      unconfirmed: [{ seq: history.seq, nodes: [NODES[1].id], have: [] }],
    },
    state: state.toJSON(),
  },
]

function commandOf(entry: Entry, i: number): Extract<Message, { type: 'commands' }>['list'] {
  return entry.type === 'command'
    ? [{ id: i + 1, time: entry.time, everywhere: i % 2 === 0, command: entry.command }]
    : []
}
