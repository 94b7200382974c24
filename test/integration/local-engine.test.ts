import { type ChildProcess, spawn } from 'node:child_process'
import { appendFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import anyTest, { type TestFn } from 'ava'
import type { MemberReport } from '../support/local-member.js'

const program = join(import.meta.dirname, '..', 'support', 'local-member.js')
/** For what takes milliseconds on an idle machine */
const PATIENCE_MS = 60_000
let lastReport = 0

class Daemon {
  readonly child: ChildProcess
  readonly reports: MemberReport[] = []
  private wake: (() => void)[] = []

  constructor(directory: string, logBytesMax = 4 << 20) {
    this.child = spawn(process.execPath, [program, directory, String(logBytesMax)], {
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    createInterface({ input: this.child.stdout! }).on('line', (line) => {
      this.reports.push(JSON.parse(line) as MemberReport)
      for (const wake of this.wake.splice(0)) wake()
    })
    // Killed while it is told something
    this.child.stdin!.on('error', () => undefined)
  }

  /** The first report, from `from` on, that fits. */
  async until(what: string, fits: (report: MemberReport) => boolean, from = 0): Promise<MemberReport> {
    const deadline = performance.now() + PATIENCE_MS
    for (;;) {
      const found = this.reports.slice(from).find(fits)
      if (found) return found
      const left = deadline - performance.now()
      if (left <= 0)
        throw new Error(`${what}: not within ${PATIENCE_MS} ms; last: ${JSON.stringify(this.reports.at(-1))}`)
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left)
        this.wake.push(() => {
          clearTimeout(timer)
          resolve()
        })
      })
    }
  }

  joined(): Promise<MemberReport> {
    return this.until('join', ({ event }) => event === 'joined' || event === 'error')
  }

  sees(count: number, from = 0): Promise<MemberReport> {
    return this.until(`a view of ${count}`, ({ event, members }) => event === 'view' && members!.length === count, from)
  }

  say(say: string, times = 1, bytes = 0): void {
    this.child.stdin!.write(`${JSON.stringify({ say, times, bytes })}\n`)
  }

  leave(): void {
    this.child.stdin!.write(`${JSON.stringify({ leave: true })}\n`)
  }
}

const test = anyTest as TestFn<{ directory: string; daemons: Daemon[] }>

test.beforeEach((t) => {
  t.context = { directory: mkdtempSync(join(tmpdir(), 'sheep-local-')), daemons: [] }
})

test.afterEach.always((t) => {
  for (const { child } of t.context.daemons) child.kill('SIGKILL')
  rmSync(t.context.directory, { recursive: true, force: true })
})

type Context = { context: { directory: string; daemons: Daemon[] } }

async function start({ context }: Context, count: number, logBytesMax?: number): Promise<Daemon[]> {
  const daemons = Array.from({ length: count }, () => new Daemon(context.directory, logBytesMax))
  context.daemons.push(...daemons)
  for (const daemon of daemons) {
    const { event, reason } = await daemon.joined()
    if (event === 'error') throw new Error(reason)
  }
  for (const daemon of daemons) await daemon.sees(context.daemons.length)
  return daemons
}

/** From here on all count and hash. */
async function mark(daemons: readonly Daemon[]): Promise<void> {
  const before = daemons.map((daemon) => daemon.reports.length)
  daemons[0].say('mark')
  await Promise.all(daemons.map((daemon, at) => daemon.until('mark', ({ event }) => event === 'marked', before[at])))
}

/** All have counted and hashed the same since the mark, when `speaker` has had its say: how many messages. */
async function agree(daemons: readonly Daemon[], speaker = daemons[0]): Promise<number> {
  const word = `report ${++lastReport}`
  speaker.say(word)
  const reports = await Promise.all(
    daemons.map((daemon) => daemon.until(word, ({ event, reason }) => event === 'report' && reason === word)),
  )
  const different = new Set(reports.map(({ count, hash }) => `${count} ${hash}`))
  if (different.size !== 1) throw new Error(`they differ: ${[...different].join(', ')}`)
  return reports[0].count!
}

function names(directory: string, end: string): string[] {
  return readdirSync(directory).filter((name) => name.endsWith(end))
}

test.serial('all see one order, across many logs and with a message of 3 MB', async (t) => {
  const daemons = await start(t, 3, 50_000)
  await mark(daemons)
  for (const [at, daemon] of daemons.entries()) daemon.say(`from ${at} `, 400, 300)
  daemons[1].say('large', 1, 3_000_000)
  for (const daemon of daemons) daemon.say('after', 100, 50)
  // What each says comes in its order, so the last words of each are behind all of its own.
  await Promise.all(daemons.map((daemon) => agree(daemons, daemon)))
  t.is(await agree(daemons), 1501)
  const logs = readdirSync(t.context.directory).filter((name) => /^log\.\d+$/.test(name))
  t.true(logs.length > 1 && logs.length <= 9, `old logs are removed: ${logs.length}`)
})

test.serial('a daemon that is killed leaves at once, one that leaves leaves nothing behind', async (t) => {
  const [a, b, c, d] = await start(t, 4)
  const before = [a, b].map((daemon) => daemon.reports.length)
  const gone = (await c.joined()).self!
  const start_ = performance.now()
  c.child.kill('SIGKILL')
  const views = await Promise.all([a, b].map((daemon, at) => daemon.sees(3, before[at])))
  const took = performance.now() - start_
  t.log(`noticed after ${took.toFixed(1)} ms`)
  for (const view of views) t.deepEqual(view.left, [gone])
  t.true(took < 2_000, `${took} ms: a time-out?`)
  d.leave()
  await d.until('left', ({ event }) => event === 'left')
  await a.sees(2, before[0])
  t.is(names(t.context.directory, '.sock').length, 2)
})

test.serial('a stopped daemon delays nobody, stays a member, and catches up', async (t) => {
  const daemons = await start(t, 3, 50_000)
  const [a, b, stopped] = daemons
  await mark(daemons)
  stopped.child.kill('SIGSTOP')
  a.say('from a', 300, 200)
  b.say('from b', 300, 200)
  await agree([a, b], a)
  t.is(await agree([a, b], b), 600)
  const newcomer = new Daemon(t.context.directory, 50_000)
  t.context.daemons.push(newcomer)
  t.is((await newcomer.sees(4)).members!.length, 4, 'it is still a member')
  stopped.child.kill('SIGCONT')
  t.is(await agree(daemons, stopped), 600)
})

test.serial('a daemon that is killed while stopped is noticed as well', async (t) => {
  const [a, b] = await start(t, 2)
  const before = a.reports.length
  b.child.kill('SIGSTOP')
  b.child.kill('SIGKILL')
  await a.sees(1, before)
  t.pass()
})

test.serial('daemons killed while they write: the others agree on what was said', async (t) => {
  const [a, b] = await start(t, 2, 200_000)
  await mark([a, b])
  for (let round = 0; round < 4; round++) {
    const [victim] = await start(t, 1, 200_000)
    victim.say('never to end', 5_000, 20_000 * (round + 1))
    a.say('meanwhile', 50, 100)
    await new Promise((resolve) => setTimeout(resolve, 15 + 10 * round))
    const before = [a, b].map((daemon) => daemon.reports.length)
    victim.child.kill('SIGKILL')
    t.context.daemons = [a, b]
    await Promise.all([a, b].map((daemon, at) => daemon.sees(2, before[at])))
  }
  t.true((await agree([a, b])) >= 200)
})

test.serial('what killed daemons left behind hinders no start', async (t) => {
  const former = await start(t, 3)
  former[0].say('last words', 100, 1000)
  await Promise.all(
    former.map(({ child }) => {
      const ended = new Promise((resolve) => child.on('exit', resolve))
      child.kill('SIGKILL')
      return ended
    }),
  )
  const log = names(t.context.directory, '').find((name) => /^log\.\d+$/.test(name))!
  const content = readFileSync(join(t.context.directory, log))
  appendFileSync(join(t.context.directory, log), content.subarray(content.length - 700, content.length - 100))
  t.context.daemons = []
  const [daemon] = await start(t, 1)
  const first = daemon.reports.find(({ event }) => event === 'view')!
  t.is(first.members!.length, 1, 'the dead are not in the first view')
  t.is(names(t.context.directory, '.sock').length, 1)
  await mark([daemon])
  daemon.say('heard', 10)
  t.is(await agree([daemon]), 10)
})

test.serial('a log that is empty, garbage, or of an earlier boot is replaced', async (t) => {
  const { directory } = t.context
  const head = JSON.stringify({ boot: 'another', generation: 3, nonce: '00'.repeat(8), members: [['dead', 1]] })
  writeFileSync(join(directory, 'log.00000001'), '')
  writeFileSync(join(directory, 'log.00000002'), Buffer.alloc(100_000, 7))
  const { crc32 } = await import('node:zlib')
  writeFileSync(join(directory, 'log.00000003'), `${crc32(head).toString(16).padStart(8, '0')} ${head}\n`)
  const [daemon] = await start(t, 1)
  t.is(daemon.reports.find(({ event }) => event === 'view')!.members!.length, 1)
  t.deepEqual(
    names(directory, '').filter((name) => name.startsWith('log.')),
    ['log.00000004'],
  )
})

test.serial('a directory that cannot be used is named, with what to do', async (t) => {
  const file = join(t.context.directory, 'file')
  writeFileSync(file, '')
  const daemon = new Daemon(join(file, 'cluster'))
  t.context.daemons.push(daemon)
  const { event, reason, code, hint } = await daemon.joined()
  t.is(event, 'error')
  t.is(code, 'system')
  t.regex(reason!, /cannot use .*file\/cluster/)
  t.regex(hint!, /sheep -c local:/)
})

test.serial('a directory too deep for a socket address works', async (t) => {
  const directory = join(t.context.directory, 'd'.repeat(60), 'e'.repeat(60))
  mkdirSync(directory, { recursive: true })
  const daemons = await start({ context: { directory, daemons: t.context.daemons } }, 2)
  await mark(daemons)
  daemons[1].say('hello')
  await agree(daemons, daemons[1])
  t.is(await agree(daemons), 1)
})

test.serial('a removed directory ends the member with a reason', async (t) => {
  const [daemon] = await start(t, 1)
  rmSync(t.context.directory, { recursive: true })
  const { reason } = await daemon.until('failed', ({ event }) => event === 'failed')
  t.regex(reason!, /was removed/)
})

test.serial('32 daemons: one order, and several hundred messages a second', async (t) => {
  const daemons = await start(t, 32)
  await mark(daemons)
  const begin = performance.now()
  for (const daemon of daemons) daemon.say('all talk', 20, 200)
  await Promise.all(daemons.slice(0, 8).map((daemon) => agree([daemon])))
  await Promise.all(daemons.map((daemon) => agree(daemons.slice(0, 2), daemon)))
  const count = await agree(daemons)
  const seconds = (performance.now() - begin) / 1000
  t.is(count, 640)
  t.log(
    `${count + 42} messages to 32 members in ${seconds.toFixed(2)} s: ${((count + 42) / seconds).toFixed(0)} a second`,
  )
  const before = daemons[0].reports.length
  for (const daemon of daemons.slice(16)) daemon.child.kill('SIGKILL')
  await daemons[0].sees(16, before)
})
