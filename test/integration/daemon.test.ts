/** How a sheep comes and goes: background and foreground, readiness and reasons, signals, shutdown, cold start. */
import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test, { type ExecutionContext } from 'ava'
import { dogProgram, sheepProgram, TestCluster } from '../support/cluster.js'
import { ended, freePorts, isAlive, type Outcome, run, until } from '../support/process.js'

interface Site {
  directory: string
  store: string
  port: number
  sheep(...args: string[]): Promise<Outcome>
  dog(...args: string[]): Promise<Outcome>
  /** From the pid file */
  pid(): number
  log(): string
}

/** A directory for one daemon in the background, which is ended with the test. */
async function site(t: ExecutionContext): Promise<Site> {
  const directory = mkdtempSync(join(tmpdir(), 'daemon-'))
  const [port] = await freePorts(1, 14_000 + ((process.pid * 53) % 15_000))
  const store = join(directory, 'store')
  const pidFile = join(directory, 'pid')
  const common = ['-c', `local:${join(directory, 'engine')}`, '-p', String(port), '-P', pidFile]
  const here: Site = {
    directory,
    store,
    port,
    sheep: (...args) => run(process.execPath, [sheepProgram, ...common, ...args, store], { limit: 30_000 }),
    dog: (...args) => run(process.execPath, [dogProgram, '-p', String(port), ...args], { limit: 30_000 }),
    pid: () => Number(readFileSync(pidFile, 'utf8')),
    log: () => readFileSync(join(store, 'sheep.log'), 'utf8'),
  }
  t.teardown(async () => {
    if (existsSync(pidFile) && isAlive(here.pid())) process.kill(here.pid(), 'SIGKILL')
    rmSync(directory, { recursive: true, force: true, maxRetries: 3 })
  })
  return here
}

async function gone(pid: number): Promise<void> {
  await until(`process ${pid} to end`, 15_000, () => !isAlive(pid))
}

/** Session id, proc_pid_stat(5) field 6. */
function sessionOf(pid: number): number {
  return Number(readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1].split(' ')[3])
}

test.serial('in the background it returns when it can be used, and says what is to be done', async (t) => {
  const { sheep, dog, pid, store, log } = await site(t)
  const started = await sheep()
  t.is(started.code, 0, started.stderr)
  t.is(started.stderr, '')
  t.regex(
    started.stdout,
    new RegExp(`^sheep: ${store} on 127\\.0\\.0\\.1:\\d+, process ${pid()}: .*dog cluster format.*\n$`),
  )
  t.is(sessionOf(pid()), pid(), 'a session of its own')
  const early = await dog('vdi', 'list')
  t.is(early.code, 5)
  t.regex(early.stderr, /dog cluster format/)
  t.is((await dog('cluster', 'info')).stdout.split('\n')[0], 'Cluster status: waiting-for-format')
  t.is((await dog('cluster', 'format', '-c', '1')).code, 0)
  t.is((await dog('vdi', 'create', 'disk', '64M')).code, 0)
  t.regex(log(), /notice: sheep .* starts/)
  t.regex((await dog('node', 'log')).stdout, /notice +sheep .* starts/)
})

test.serial('SIGTERM ends it in order, and it starts again where it was', async (t) => {
  const { sheep, dog, pid, log, directory } = await site(t)
  await sheep()
  await dog('cluster', 'format', '-c', '1')
  await dog('vdi', 'create', 'disk', '64M')
  const former = pid()
  process.kill(former, 'SIGTERM')
  await gone(former)
  t.false(existsSync(join(directory, 'pid')))
  t.regex(log(), /stopping: SIGTERM[\s\S]*stopped\n$/)
  const again = await sheep('-l', 'level=debug')
  t.is(again.code, 0)
  t.regex(again.stdout, /: serving\n$/)
  t.regex((await dog('vdi', 'list', '-r')).stdout, /^= disk 1 67108864 /)
})

test.serial('what keeps it from starting in the background reaches the terminal, with the exit code', async (t) => {
  const { sheep, port, store, directory } = await site(t)
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve))
  const taken = await sheep()
  server.close()
  t.is(taken.code, 6)
  t.regex(taken.stderr, new RegExp(`^sheep: .*${port}.*\n {2}\\S`))
  t.is(taken.stdout, '')
  await until('it to be gone', 5000, () => !isAlive(Number(readFileSync(join(directory, 'pid'), 'utf8'))))

  t.is((await sheep()).code, 0)
  const second = await run(process.execPath, [sheepProgram, '-p', String(port + 1), store])
  t.is(second.code, 6)
  t.regex(second.stderr, /^sheep: the store .* is in use by another daemon, process \d+\n/)
})

test.serial('a daemon that dies while it starts is reported, with where its log is', async (t) => {
  const { sheep, store } = await site(t)
  const code = 'data:text/javascript,if (process.send) setTimeout(() => process.kill(process.pid, "SIGKILL"), 20)'
  const started = await run(process.execPath, [
    '--import',
    code,
    sheepProgram,
    '-c',
    `local:${store}-engine`,
    '-p',
    '14999',
    store,
  ])
  t.is(started.code, 1)
  t.regex(started.stderr, /ended by SIGKILL before it was ready\n {2}.*sheep\.log/)
  t.is((await sheep()).code, 0, 'nothing is left that keeps the next one away')
})

test.serial('SIGHUP opens the log anew, for logrotate', async (t) => {
  const { sheep, pid, store, log } = await site(t)
  await sheep()
  renameSync(join(store, 'sheep.log'), join(store, 'sheep.log.1'))
  process.kill(pid(), 'SIGHUP')
  await until('a new log', 5000, () => existsSync(join(store, 'sheep.log')))
  const former = pid()
  process.kill(former, 'SIGTERM')
  await gone(former)
  t.regex(log(), /stopped/)
  t.notRegex(log(), /starts/)
})

test.serial('a bug stops the daemon at once, with its stack in the log and a non-zero exit code', async (t) => {
  const { store } = await site(t)
  // Once it has said on stdout that it is there.
  const program = `
    const write = process.stdout.write
    process.stdout.write = function (...words) {
      setTimeout(() => { Promise.reject(new Error('an invariant is broken')) }, 50)
      return write.apply(this, words)
    }`
  const bug = `data:text/javascript,${encodeURIComponent(program)}`
  const args = ['--import', bug, sheepProgram, '-f', '-c', `local:${store}-engine`, '-p', '14998', store]
  const outcome = await run(process.execPath, args, { limit: 15_000 })
  t.is(outcome.code, 1)
  t.regex(outcome.stderr, /error: the daemon stops at once[\s\S]*error: Error: an invariant is broken\n.*error: +at /)
})

test.serial('without fsync it warns, and with a log level that is asked for it says no less', async (t) => {
  const { sheep, log } = await site(t)
  await sheep('-n', '-l', 'level=warning')
  t.regex(log(), /^\S+ warning: -n: nothing is synced/)
  t.notRegex(log(), /notice/)
})

test.serial('an interrupt in the foreground ends it in order', async (t) => {
  const { store } = await site(t)
  const args = [sheepProgram, '-f', '-c', `local:${store}-engine`, '-p', '14997', store]
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] })
  t.teardown(() => child.kill('SIGKILL'))
  let said = ''
  child.stdout.on('data', (text) => {
    said += text
  })
  child.stderr.resume()
  await until('it to say that it is there', 15_000, () => said.includes('cluster format'))
  child.kill('SIGINT')
  await ended(child)
  t.is(child.exitCode, 0)
})

test.serial('help and version', async (t) => {
  const help = await run(process.execPath, [sheepProgram, '--help'])
  t.is(help.code, 0)
  t.regex(help.stdout, /^Usage: sheep \[options\] \[DIR\[,DIR\.\.\.\]\]\n/)
  t.regex((await run(process.execPath, [sheepProgram, '--version'])).stdout, /^\d+\.\d+\.\d+\n$/)
})

test.serial('formatting again asks for --force, and then the volumes are gone', async (t) => {
  const cluster = await TestCluster.start({ nodes: 2, copies: 2 })
  t.teardown(() => cluster.stop())
  await cluster.dog(['vdi', 'create', 'disk', '64M'])
  const refused = await cluster.tryDog(['cluster', 'format', '-c', '1'])
  t.is(refused.code, 2)
  t.regex(refused.stderr, /has 1 volume: formatting again loses everything.*\n.*--force/)
  t.is((await cluster.dog(['cluster', 'format', '-c', '2', '--force'])).code, 0)
  t.is((await cluster.dog(['vdi', 'list', '-r'], 1)).stdout, '')
  await cluster.dog(['vdi', 'create', 'disk', '32M'], 1)
  t.regex((await cluster.dog(['vdi', 'check', 'disk'])).stdout, /all copies are identical/)
})

test.serial(
  'node kill ends one, cluster shutdown all; then they wait for each other, or for cluster recover',
  async (t) => {
    const cluster = await TestCluster.start({ nodes: 3 })
    t.teardown(() => cluster.stop())
    await cluster.dog(['vdi', 'create', 'disk', '64M'])
    await cluster.dog(['vdi', 'write', 'disk'], 0, { input: 'hello' })
    const numbers = (await cluster.dog(['node', 'list', '-r'])).stdout.split('\n').map((line) => line.split(' '))
    const number = numbers.find(([, address]) => address === `127.0.0.1:${cluster.nodes[2].port}`)?.[0]
    t.not(number, undefined)
    const [, , third] = cluster.nodes.map((node) => node.child)
    await cluster.dog(['node', 'kill', String(number)])
    await ended(third!)
    t.is(third?.exitCode, 0)
    cluster.nodes[2].child = null
    await until('the epoch without it', 10_000, async () => {
      return (await cluster.dog(['node', 'list', '-r'])).stdout.trim().split('\n').length === 2
    })

    const children = cluster.nodes.slice(0, 2).map((node) => node.child)
    const unsure = await cluster.tryDog(['cluster', 'shutdown'])
    t.is(unsure.code, 2, unsure.stderr)
    t.regex(unsure.stderr, /--yes/)
    await cluster.dog(['cluster', 'shutdown', '--yes'], 1)
    for (const child of children) {
      await ended(child!)
      t.is(child?.exitCode, 0)
    }
    for (const node of cluster.nodes) node.child = null

    await cluster.startNode(0)
    const waiting = await cluster.tryDog(['vdi', 'list'])
    t.is(waiting.code, 5)
    t.regex(waiting.stderr, /^dog: waiting for .*\n {2}.*dog cluster recover/)
    t.regex((await cluster.dog(['cluster', 'info'])).stdout, /^Cluster status: waiting-for-nodes\n {2}waiting for/)
    const alone = await cluster.tryDog(['cluster', 'recover'])
    t.is(alone.code, 2, alone.stderr)
    t.regex(alone.stderr, /waiting for[\s\S]*--yes/)
    await cluster.dog(['cluster', 'recover', '--yes'])
    await until('service', 10_000, async () => (await cluster.tryDog(['vdi', 'list'])).code === 0)
    t.is((await cluster.dog(['vdi', 'read', 'disk', '0', '5'])).stdout, 'hello')

    await cluster.startNode(1)
    await cluster.startNode(2)
    await cluster.healthy()
    t.regex((await cluster.dog(['cluster', 'check'], 2)).stdout, /all copies are identical/)
  },
)

test.serial('a pid file that cannot be written keeps it from starting', async (t) => {
  const { directory, sheep } = await site(t)
  writeFileSync(join(directory, 'file'), '')
  const outcome = await sheep('-P', join(directory, 'file', 'pid'))
  t.is(outcome.code, 1)
  t.regex(outcome.stderr, /^sheep: cannot write the pid file/)
})
