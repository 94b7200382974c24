/** Runs every command of transcript.txt as a process and compares what it prints, its exit code included. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'ava'
import { dogProgram } from '../../support/cluster.js'
import { listenControl } from '../../support/control-listener.js'
import { FakeServices, fakeNode } from '../../support/fake-services.js'
import { run } from '../../support/process.js'

const file = join(import.meta.dirname, '..', '..', '..', '..', 'test', 'unit', 'dog', 'transcript.txt')

/** Words of a shell line with backslashes and no quotes. */
function wordsOf(line: string): string[] {
  return (line.match(/(?:\\.|[^\\ ])+/g) ?? []).map((word) => word.replace(/\\(.)/g, '$1'))
}

async function play(command: string, port: number): Promise<string> {
  const [, ...words] = wordsOf(command)
  const env = { SHEEPDOG_PORT: String(port), TZ: 'UTC', LC_ALL: 'C.UTF-8', SHEEPDOG_SOCKET: '', SHEEPDOG_ADDRESS: '' }
  const { code, stdout, stderr } = await run(process.execPath, [dogProgram, ...words], { env, limit: 30_000 })
  const errors = stderr.replace(/^(?=.)/gm, '2> ')
  return `${stdout}${errors}${code === 0 ? '' : `exit code ${code}\n`}`
}

test('dog prints what the transcript says', async (t) => {
  t.timeout(180_000)
  const services = new FakeServices()
  const where = { volumes: ['disk', 'disk@monday'], reason: 'away', nodes: ['host3', 'host4'] } as const
  services.lostObjects = [
    {
      ...where,
      oid: '00ab12ce00000003',
      volumes: [...where.volumes],
      nodes: [...where.nodes],
      deleting: false,
      index: 3,
      offset: 3 * 2 ** 22,
      left: { node: 'host1', epoch: 7 },
    },
    {
      oid: '00ab12ce00000007',
      volumes: ['disk'],
      deleting: false,
      index: 7,
      offset: 7 * 2 ** 22,
      reason: 'disk',
      nodes: ['host2'],
      left: null,
    },
    {
      oid: '00ab12ce00000009',
      volumes: ['disk'],
      deleting: false,
      index: 9,
      offset: 9 * 2 ** 22,
      reason: 'unreadable',
      nodes: ['host2'],
      left: { node: 'host2', epoch: 9 },
    },
    {
      oid: '80ab12ce00000000',
      volumes: ['disk'],
      deleting: false,
      index: -1,
      offset: 0,
      reason: 'nobody',
      nodes: [],
      left: null,
    },
    {
      oid: '80ab12d000000000',
      volumes: ['old'],
      deleting: true,
      index: -1,
      offset: 0,
      reason: 'away',
      nodes: ['host3'],
      left: null,
    },
    {
      oid: '80ab12cf00000000',
      volumes: ['data'],
      deleting: false,
      index: -1,
      offset: 0,
      reason: 'unreadable',
      nodes: ['host2'],
      left: { node: 'host2', epoch: 9 },
    },
  ]
  services.cluster.departed = [
    { node: fakeNode(3), epoch: 2, time: services.cluster.epoch!.time, reason: 'died', detail: 'its process died' },
    { node: fakeNode(4), epoch: 2, time: services.cluster.epoch!.time, reason: 'expelled', detail: 'no answer' },
    { node: fakeNode(5), epoch: 2, time: services.cluster.epoch!.time, reason: 'unknown', detail: '' },
  ]
  const listener = await listenControl(services)
  t.teardown(() => listener.close())
  const expected = readFileSync(file, 'utf8')
  let actual = ''
  let commands = 0
  for (const line of expected.split('\n')) {
    if (line.startsWith('#')) actual += `${line.startsWith('## ') ? '\n' : ''}${line}\n`
    if (!line.startsWith('$ ')) continue
    actual += `\n${line}\n${await play(line.slice(2), listener.port)}`
    commands++
  }
  if (process.env.GOLDEN === 'update') writeFileSync(file, actual)
  else t.deepEqual(actual.split('\n'), expected.split('\n'))
  t.true(commands > 80)
  t.deepEqual(services.stopped, ['1'.repeat(16)])
  t.deepEqual(services.proposed, [
    { type: 'drain', node: '1'.repeat(16), drained: true },
    { type: 'drain', node: '1'.repeat(16), drained: false },
    { type: 'format', clusterId: '0f'.repeat(8), copies: 2, blockSizeShift: 22, force: true },
    { type: 'on-no-quorum', ms: 10_000 },
    { type: 'shutdown' },
    { type: 'recovery', held: true, limit: null },
    { type: 'recovery', held: false, limit: 50 * 2 ** 20 },
    { type: 'recovery', held: null, limit: 0 },
    { type: 'on-no-quorum', ms: 30_000 },
    { type: 'on-no-quorum', ms: 0 },
    {
      type: 'accept',
      objects: ['00ab12ce00000003', '00ab12ce00000007', '00ab12ce00000009', '80ab12ce00000000', '80ab12d000000000'],
      zeros: false,
    },
  ])
})
