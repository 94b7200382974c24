/**
 * The examples of docs/dbus.md, as a reader runs them: each says what the page says, but for ids, times and what depends on the host.
 * GOLDEN=update writes what they say now into the page.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { TestCluster } from '../support/cluster.js'
import { Listener, MessageBus } from '../support/message-bus.js'
import { until } from '../support/process.js'

const page = join(import.meta.dirname, '..', '..', '..', 'docs', 'dbus.md')

interface Example {
  command: string
  said: string[]
}

function examplesOf(text: string): Example[] {
  const examples: Example[] = []
  for (const [, block] of text.matchAll(/^```console\n([\s\S]*?)^```$/gm)) {
    for (const line of block.trimEnd().split('\n')) {
      if (line.startsWith('$ ')) examples.push({ command: line.slice(2), said: [] })
      else examples.at(-1)!.said.push(line)
    }
  }
  return examples
}

/** Ids, times and long numbers are others each time; columns are as wide as those. */
function plain(line: string): string {
  return line
    .replaceAll(hostname(), 'host1')
    .replace(/\b[0-9a-f]{16}\b/g, 'ID')
    .replace(/\b\d{12,}\b/g, 'TIME')
    .replace(/:1\.\d+/g, ':1.N')
    .replace(/\b(Vid\b(?:.*<uint32| =|\s+property\s+u)\s+)\d+/g, '$1N')
    .replace(/\bCookie=\d+/g, 'Cookie=N')
    .replace(/Timestamp="[^"]*"/g, 'Timestamp="T"')
    .replace(/[ ─]{2,}/g, '  ')
    .trimEnd()
}

test('the examples of docs/dbus.md', async (t) => {
  t.timeout(240_000)
  const bus = await MessageBus.start()
  t.teardown(() => bus.kill().then(() => bus.destroy()))
  const cluster = await TestCluster.start({ nodes: 3, format: false, sheepOptions: ['--dbus', bus.address] })
  t.teardown(() => cluster.stop())
  const status = ['get-property', 'org.sheepdog', '/org/sheepdog/cluster', 'org.sheepdog.Cluster', 'Status']
  await until('the cluster on the bus', 20_000, async () => {
    return (await bus.tryBusctl(...status)).stdout === 's "waiting-for-format"\n'
  })
  const text = readFileSync(page, 'utf8')
  const examples = examplesOf(text)
  t.true(examples.length > 20)
  const said = new Map<Example, string>()
  for (const example of examples.filter(({ command }) => !command.includes(' monitor '))) {
    const { stdout, stderr } = await bus.shell(example.command)
    said.set(example, `${stdout}${stderr}`.trimEnd().replaceAll(hostname(), 'host1'))
    if (process.env.GOLDEN === 'update') continue
    t.deepEqual(
      said.get(example)!.split('\n').map(plain),
      example.said.length > 0 ? example.said.map(plain) : [''],
      example.command,
    )
  }

  const monitors = examples.filter(({ command }) => command.includes(' monitor '))
  const listeners = monitors.map(({ command }) => new Listener(bus, 'sh', ['-c', `exec ${command}`]))
  t.teardown(() => Promise.all(listeners.map((listener) => listener.end())))
  await listeners[0].heard(/owned by/)
  await listeners[1].heard(/Monitoring/)
  const volume = ['org.sheepdog', '/org/sheepdog/cluster', 'org.sheepdog.Cluster', 'CreateVolume', 'sta{sv}']
  await bus.busctl('call', ...volume, 'heard', '8388608', '0')
  await bus.busctl('call', 'org.sheepdog', '/org/sheepdog/volumes/heard', 'org.sheepdog.Volume', 'Delete')
  const pid = Number(/^PID=(\d+)$/m.exec(await bus.busctl('status', 'org.sheepdog'))![1])
  await cluster.killNode(cluster.nodes.findIndex((node) => node.child?.pid !== pid))
  await Promise.all(listeners.map((listener) => listener.heard(/EpochChanged/)))
  for (const [at, { said: lines }] of monitors.entries()) {
    said.set(monitors[at], listeners[at].text.trimEnd().replaceAll(hostname(), 'host1'))
    if (process.env.GOLDEN === 'update') continue
    const heard = new Set(listeners[at].text.split('\n').map(plain))
    t.deepEqual(
      lines.map(plain).filter((line) => !heard.has(line)),
      [],
      'not heard',
    )
    t.true(lines.length > 0)
  }
  if (process.env.GOLDEN !== 'update') return
  const blocks = text.split(/^(```console\n[\s\S]*?^```)$/m)
  let next = 0
  const updated = blocks.map((block) => {
    if (!block.startsWith('```console')) return block
    const count = block.match(/^\$ /gm)!.length
    const own = examples.slice(next, next + count)
    next += count
    return `\`\`\`console\n${own.map((example) => `$ ${example.command}\n${said.get(example) ? `${said.get(example)}\n` : ''}`).join('')}\`\`\``
  })
  writeFileSync(page, updated.join(''))
  t.fail('the page was written anew')
})
