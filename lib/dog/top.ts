/** `dog cluster top`: the cluster as it is now, each second, until q; once where nobody watches. */
import { setTimeout as sleep } from 'node:timers/promises'
import { asSheepError } from '../errors.js'
import type { ParsedOptions } from './command.js'
import { unicodeTerminal } from './progress-bar.js'
import type { Session } from './session.js'
import { drawn, frameOf, type Line, type Sample, type View, viewOf } from './top-frame.js'

const EVERY_MS = 1_000
/** Alternate screen, no cursor; and back */
const ENTER = '\u001b[?1049h\u001b[?25l'
const LEAVE = '\u001b[?25h\u001b[?1049l'
const KEYS: Line = { text: 'q quits', kind: 'text' }

async function sampled(session: Session): Promise<Sample> {
  const info = await session.call('cluster.info', {})
  const space = await session.call('node.info', {})
  const { nodes: recovery } = await session.call('node.recovery', {})
  const { nodes: statistics } = await session.call('node.stat', { node: 'all' })
  return { at: performance.now(), info, space, statistics, recovery }
}

export async function top(session: Session, { once }: ParsedOptions): Promise<void> {
  const before = await sampled(session)
  if (once !== true && session.forPeople && process.stdout.isTTY && process.stdin.isTTY) {
    await watch(session, before)
    return
  }
  await sleep(EVERY_MS)
  const now = await sampled(session)
  const view = viewOf(now, before)
  if (session.options.format === 'json') session.report({ info: now.info, ...view }, '')
  else for (const { text } of frameOf(now, view, unicodeTerminal())) session.write(`${text}\n`)
}

async function watch(session: Session, first: Sample): Promise<void> {
  const { stdin, stdout } = process
  const blocks = unicodeTerminal()
  const colors = (process.env.NO_COLOR ?? '') === '' && process.env.TERM !== 'dumb'
  let seen: { sample: Sample; view: View; old: Line[] } = { sample: first, view: viewOf(first, null), old: [] }
  const draw = (): void => {
    const { sample, view, old } = seen
    const lines = [...old, ...frameOf(sample, view, blocks, stdout.columns), { text: '', kind: 'text' } as const, KEYS]
    stdout.write(drawn(lines, stdout.columns, stdout.rows, colors))
  }
  const ending = new AbortController()
  const key = (text: string): void => {
    if (/^(?:q|Q|\u0003|\u0004|\u001b)$/.test(text)) ending.abort()
  }
  const restore = (): void => {
    stdout.write(LEAVE)
  }
  process.once('exit', restore)
  stdin.setRawMode(true)
  stdin.setEncoding('utf8')
  stdin.on('data', key)
  stdout.on('resize', draw)
  stdout.write(ENTER)
  try {
    let before = first
    while (!ending.signal.aborted) {
      draw()
      await sleep(EVERY_MS, undefined, { signal: ending.signal }).catch(() => undefined)
      if (ending.signal.aborted) break
      try {
        const now = await sampled(session)
        seen = { sample: now, view: viewOf(now, before), old: [] }
        before = now
      } catch (error) {
        // It may be back in a moment: what was seen last stays, with why it is old.
        session.close()
        seen = { ...seen, old: [{ text: asSheepError(error).message, kind: 'warning' }] }
      }
    }
  } finally {
    process.off('exit', restore)
    stdout.off('resize', draw)
    stdin.off('data', key)
    stdin.setRawMode(false)
    stdin.pause()
    restore()
  }
}
