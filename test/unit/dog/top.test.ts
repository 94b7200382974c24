import test from 'ava'
import type { NodeStatistics, RecoveryReport } from '../../../lib/control/services.js'
import type { NodeSummary } from '../../../lib/control/verbs.js'
import { drawn, frameOf, type Sample, viewOf } from '../../../lib/dog/top-frame.js'

const node = (number: number): NodeSummary => ({
  ...{ id: String(number).repeat(16), name: `host${number}`, host: `10.0.0.${number}`, port: 7000, socket: '' },
  ...{ zone: `host${number}`, space: 1, vnodes: 1, number, self: number === 1 },
})
const counts = (read: number, write: number) => {
  return { read, write, flush: 0, readBytes: read * 4096, writeBytes: write * 4096 }
}
const requests = (read: number, write: number) => ({
  active: 0,
  total: read + write,
  remove: 0,
  ...counts(read, write),
})

function statistics(read: number, write: number, ...volumes: [string, number, number][]): NodeStatistics {
  const opened = volumes.map(([volume, ...of]) => ({ volume, ...counts(...of) }))
  const peers = requests(0, 0)
  return { ...{ uptime: 1, cpu: 1, memory: 1, peers, peerErrors: 0 }, clients: requests(read, write), volumes: opened }
}

const recovering: RecoveryReport = {
  ...{ epoch: 2, state: 'recovering', objectsTotal: 200, objectsDone: 50, bytesTaken: 1, bytesTotal: 4 },
  ...{ rate: 8 << 20, left: 65, limit: 0, waitingFor: [], seconds: 3 },
}

function sample(at: number, first: NodeStatistics | null): Sample {
  const nodes = [node(1), node(2)]
  const space = { total: 100 * 2 ** 30, free: 75 * 2 ** 30, used: 25 * 2 ** 30, objects: 1 }
  const idle: RecoveryReport = { ...recovering, state: 'idle' }
  return {
    at,
    info: {
      ...{ version: '1', status: 'running', reason: '', recovering: [node(2)], recovery: { held: false, limit: 0 } },
      ...{ onNoQuorum: 0, config: null, epochs: [{ number: 2, time: 0, nodes }] },
    },
    space: { nodes: nodes.map((one) => ({ node: one, answer: space, error: '' })), volumeSize: 0 },
    statistics: [
      { node: nodes[0], answer: first, error: first === null ? 'no answer within 5 s' : '' },
      { node: nodes[1], answer: statistics(0, 0), error: '' },
    ],
    recovery: [
      { node: nodes[0], answer: first === null ? null : idle, error: '' },
      { node: nodes[1], answer: recovering, error: '' },
    ],
  }
}

test('rates are of the time between two samples, the busiest volume first', (t) => {
  const before = sample(1_000, statistics(100, 10, ['quiet', 5, 5], ['busy', 0, 0]))
  const now = sample(3_000, statistics(300, 20, ['quiet', 5, 5], ['busy', 200, 10]))
  const { nodes, volumes } = viewOf(now, before)
  t.like(nodes[0].rates, { reads: 100, writes: 5, readBytes: 100 * 4096 })
  t.deepEqual(
    volumes.map(({ volume, rates }) => [volume, rates?.reads]),
    [
      ['busy', 100],
      ['quiet', 0],
    ],
  )
  const text = frameOf(now, viewOf(now, before), false).map((line) => line.text)
  t.is(text[0], 'Sheepdog 1: running, epoch 2, 2 nodes')
  t.true(
    text.some((line) => /^host1 .*\[##--------\] 25% of 100 GiB +100 +5 +0 +400 KiB\/s/.test(line)),
    text.join('\n'),
  )
  t.true(
    text.some((line) => /^host2 .*recovering 25% of 200, 8 MiB\/s, 1:05 left$/.test(line)),
    text.join('\n'),
  )
})

test('not known: the first sample, a daemon that has started anew, one that does not answer', (t) => {
  const now = sample(3_000, statistics(3, 2, ['disk', 1, 1]))
  t.is(viewOf(now, null).nodes[0].rates, null)
  t.is(viewOf(now, sample(1_000, statistics(100, 10, ['disk', 9, 9]))).nodes[0].rates, null)
  t.is(viewOf(now, sample(1_000, statistics(1, 1))).volumes[0].rates, null)
  const silent = sample(3_000, null)
  const text = frameOf(silent, viewOf(silent, now), false).map((line) => line.text)
  t.true(text.some((line) => line.includes('does not answer: no answer within 5 s')))
  t.true(text.includes('No volume is open.'))
})

test('on 80 columns nothing that matters is cut off: recovery has lines of its own, long names end with dots', (t) => {
  const name = 'web-frontend-with-a-rather-long-name-01'
  const before = sample(1_000, statistics(100, 10, [name, 0, 0]))
  const now = sample(3_000, statistics(300_000, 20, [name, 200_000, 10]))
  const text = frameOf(now, viewOf(now, before), true, 80).map((line) => line.text)
  const all = text.join('\n')
  t.true(
    text.every((line) => line.length <= 80),
    all,
  )
  t.regex(all, /^host2: recovering 25% of 200, 8 MiB\/s, 1:05 left$/m)
  t.false(/^host1: /m.test(all))
  t.regex(all, /^web-frontend-with-a-r\.\.\. +host1 +100000 +5 +390\.6 MiB\/s +20 KiB\/s$/m)
  const silent = sample(3_000, null)
  const said = frameOf(silent, viewOf(silent, null), true, 80).map((line) => line.text)
  t.true(said.includes('host1: does not answer: no answer within 5 s'), said.join('\n'))
})

test('a frame fits its terminal, however small, and says what it leaves out', (t) => {
  const now = sample(3_000, statistics(3, 2, ['disk', 1, 1]))
  const lines = frameOf(now, viewOf(now, null), true)
  for (const [columns, rows] of [
    [80, 24],
    [20, 5],
    [1, 1],
  ]) {
    const plain = drawn(lines, columns, rows, false)
      .replaceAll('\u001b[H', '')
      .replaceAll(/\u001b\[[KJ]/g, '')
    const shown = plain.split('\r\n')
    t.true(shown.length <= rows && shown.every((line) => line.length <= columns), `${columns} x ${rows}`)
  }
  t.regex(drawn(lines, 40, 4, false), /\.\.\. \d+ more lines/)
  t.true(drawn(lines, 40, 24, true).includes('\u001b[7m'))
  const hostile = { ...now, info: { ...now.info, reason: 'a\u001b[2Jb' } }
  t.false(drawn(frameOf(hostile, viewOf(hostile, null), true), 80, 24, false).includes('\u001b[2J'))
})
