import test from 'ava'
import { Scheduler } from './clock.js'
import { EngineHub, type SimEngine } from './engine.js'
import { Process } from './process.js'
import { SimRandom } from './random.js'
import { Trace, Verdict } from './trace.js'

interface Node {
  name: string
  process: Process
  engine: SimEngine
  /** "v:a,b" views, "m:text" messages, "q:true" quorum */
  log: string[]
}

async function cluster(seed: number, names: string[], hasQuorum = true) {
  const scheduler = new Scheduler(new Trace(false))
  const hub = new EngineHub(scheduler, new SimRandom(seed), { hasQuorum, latency: 0.3, tokenTimeout: 1000 }, names)
  const run = (ms: number) => scheduler.run(() => false, scheduler.now + ms, 1_000_000)
  const verdict = new Verdict()
  const start = (name: string): Node => {
    const process = new Process(name, scheduler, verdict, () => {})
    const engine = hub.attach(process, name)
    const node: Node = { name, process, engine, log: [] }
    const short = (id: string) => id.replace('engine-', '')
    void engine.join({
      view: (view) =>
        node.log.push(
          `v:${view.members.map(short)}+${[...view.joined].map(short).sort()}-${[...view.left].map(short).sort()}`,
        ),
      message: (_sender, payload) => node.log.push(`m:${payload}`),
      quorum: (quorate) => node.log.push(`q:${quorate}`),
      failed: (reason) => node.log.push(`failed:${reason}`),
    })
    return node
  }
  const nodes = names.map(start)
  await run(5000)
  return { scheduler, hub, run, nodes, start, verdict }
}

const messages = (node: Node) => node.log.filter((line) => line.startsWith('m:'))
const lastView = (node: Node) => node.log.findLast((line) => line.startsWith('v:'))?.replace(/\+.*/, '')

test('one total order for all members', async (t) => {
  for (let seed = 0; seed < 20; seed++) {
    const { nodes, run } = await cluster(seed, ['a', 'b', 'c'])
    for (const node of nodes) t.is(lastView(node), 'v:a,b,c')
    for (const node of nodes) t.is(node.log.filter((line) => line.startsWith('q:')).at(-1), 'q:true')
    for (let i = 0; i < 30; i++) nodes[i % 3].engine.broadcast(Buffer.from(`${i % 3}.${i}`))
    t.is(messages(nodes[0]).length, 0, 'never before broadcast returns')
    await run(1000)
    t.is(messages(nodes[0]).length, 30)
    t.deepEqual(messages(nodes[1]), messages(nodes[0]))
    t.deepEqual(messages(nodes[2]), messages(nodes[0]))
    for (const who of [0, 1, 2]) {
      const own = messages(nodes[0]).filter((line) => line.startsWith(`m:${who}.`))
      t.deepEqual(
        own,
        own.toSorted((x, y) => Number(x.slice(4)) - Number(y.slice(4))),
        'each sender in its order',
      )
    }
  }
})

test('survivors of a crash agree on the messages before their next view', async (t) => {
  let dropped = 0
  for (let seed = 0; seed < 60; seed++) {
    const { nodes, run, hub } = await cluster(seed, ['a', 'b', 'c', 'd'])
    for (let i = 0; i < 40; i++) nodes[i % 4].engine.broadcast(Buffer.from(`${i}`))
    await run(0.2 + (seed % 10) * 0.1)
    nodes[3].process.die()
    hub.hostDown('d')
    await run(5000)
    t.is(lastView(nodes[0]), 'v:a,b,c')
    t.deepEqual(nodes[1].log.slice(-1), nodes[0].log.slice(-1))
    t.deepEqual(messages(nodes[1]), messages(nodes[0]))
    t.deepEqual(messages(nodes[2]), messages(nodes[0]))
    const upToView = (node: Node) => {
      const at = node.log.findLastIndex((line) => line.startsWith('v:'))
      return node.log.slice(0, at).filter((line) => line.startsWith('m:'))
    }
    t.deepEqual(upToView(nodes[1]), upToView(nodes[0]))
    t.is(
      messages(nodes[0]).filter((line) => Number(line.slice(2)) % 4 !== 3).length,
      30,
      'survivors lose none of theirs',
    )
    if (messages(nodes[0]).length < 40) dropped++
  }
  t.true(dropped > 5, 'messages of the dead one are sometimes lost')
})

test('what a daemon that stands still has been given is not taken from the others', async (t) => {
  for (let seed = 0; seed < 60; seed++) {
    const { nodes, run, hub } = await cluster(seed, ['a', 'b', 'c'])
    nodes[1].process.pause()
    for (let i = 0; i < 5; i++) nodes[2].engine.broadcast(Buffer.from(`${i}`))
    await run(0.2 + (seed % 10) * 0.1)
    nodes[2].process.die()
    hub.processDied()
    await run(5000)
    nodes[1].process.resume()
    await run(5000)
    t.is(lastView(nodes[1]), 'v:a,b')
    t.deepEqual(messages(nodes[1]), messages(nodes[0]))
  }
})

test('partition: the minority is told it has no quorum before its view; healing joins them again', async (t) => {
  for (let seed = 0; seed < 20; seed++) {
    const { nodes, run, hub } = await cluster(seed, ['a', 'b', 'c'])
    hub.partition((host) => (host === 'c' ? 1 : 0))
    nodes[2].engine.broadcast(Buffer.from('minority'))
    nodes[0].engine.broadcast(Buffer.from('majority'))
    await run(10_000)
    t.is(lastView(nodes[0]), 'v:a,b')
    t.is(lastView(nodes[2]), 'v:c')
    const log = nodes[2].log
    t.true(log.lastIndexOf('q:false') < log.findLastIndex((line) => line.startsWith('v:c')))
    t.true(log.lastIndexOf('q:false') >= 0)
    t.false(nodes[0].log.includes('q:false'))
    t.deepEqual(messages(nodes[0]), ['m:majority'])
    t.deepEqual(messages(nodes[2]), ['m:minority'])
    hub.partition(() => 0)
    await run(10_000)
    t.is(
      nodes[0].log.findLast((line) => line.startsWith('v:')),
      'v:a,b,c+c-',
    )
    t.is(
      nodes[2].log.findLast((line) => line.startsWith('v:')),
      'v:a,b,c+a,b-',
    )
    t.is(log.at(-1), 'q:true')
  }
})

test("a daemon that leaves or dies keeps its host's vote; a new one has a new id", async (t) => {
  const { nodes, run, hub, start } = await cluster(4, ['a', 'b'])
  let left = false
  void nodes[1].engine.leave().then(() => (left = true))
  await run(1000)
  t.true(left)
  t.is(lastView(nodes[0]), 'v:a')
  t.false(nodes[0].log.includes('q:false'))
  const again = start('b')
  await run(1000)
  t.is(lastView(again), 'v:a,b')
  again.process.die()
  hub.processDied()
  await run(1000)
  t.is(lastView(nodes[0]), 'v:a')
})

test('without quorum (local) the last one stays quorate', async (t) => {
  const { nodes, run, hub } = await cluster(4, ['a', 'b', 'c'], false)
  for (const node of nodes.slice(1)) {
    node.process.die()
    hub.hostDown(node.name)
  }
  await run(5000)
  t.is(lastView(nodes[0]), 'v:a')
  t.false(nodes[0].log.includes('q:false'))
})
