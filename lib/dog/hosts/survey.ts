/** Which hosts are meant, ways to all of them, and what they say. All before anything is changed on any. */
import { lookup } from 'node:dns/promises'
import { isIP } from 'node:net'
import { networkInterfaces } from 'node:os'
import { asSheepError, SheepError } from '../../errors.js'
import { parseFacts, probe } from './facts.js'
import type { Problem, Surveyed } from './plan.js'
import { LocalShell, type Shell } from './shell.js'

const PROBE_MS = 60_000
const NAME_MAX = 253

export interface Target {
  host: string
  address: string
  /** '' as of the others */
  user: string
  /** This is the host that dog runs on */
  here: boolean
}

/** A way to another host. SheepError */
export type Connect = (target: Target) => Promise<Shell>

export interface Survey {
  hosts: Surveyed[]
  shells: Map<string, Shell>
  problems: Problem[]
}

/** `HOST` or `USER@HOST`, HOST a name or an address. SheepError invalid, not-found */
export async function parseTarget(text: string): Promise<Target> {
  const at = text.lastIndexOf('@')
  const [user, host] = at < 0 ? ['', text] : [text.slice(0, at), text.slice(at + 1)]
  if (!/^[a-z0-9]([a-z0-9._:-]*[a-z0-9])?$/i.test(host) || host.length > NAME_MAX || !/^[a-z0-9._-]*$/i.test(user)) {
    throw new SheepError(
      'invalid',
      `${JSON.stringify(text)} is no host`,
      'use a name or an address: host2, root@10.0.0.2',
    )
  }
  let address = host
  if (isIP(host) === 0) {
    const found = await lookup(host, { all: true }).catch(() => [])
    const usable = found.filter((one) => !isLoopback(one.address))
    address = (usable.find(({ family }) => family === 4) ?? usable[0] ?? found[0])?.address ?? ''
    if (address === '')
      throw new SheepError('not-found', `${host} has no address`, 'see /etc/hosts, or name its address')
  }
  if (isLoopback(address)) {
    throw new SheepError(
      'invalid',
      `${host} is ${host === address ? 'this host itself' : `${address} here`}, which other hosts cannot reach`,
      'name it by the address that they use',
    )
  }
  return { host, address, user, here: isHere(address) }
}

export function isHere(address: string): boolean {
  return Object.values(networkInterfaces()).some((list) => list?.some((one) => one.address === address))
}

function isLoopback(address: string): boolean {
  return address.startsWith('127.') || address === '::1'
}

/** `names`: hosts that all are asked about. What cannot be reached is a problem of that host. */
export async function survey(targets: readonly Target[], connect: Connect, names: readonly string[]): Promise<Survey> {
  const shells = new Map<string, Shell>()
  const problems: Problem[] = []
  const script = probe(names)
  // One after another where a person may be asked about their keys.
  for (const target of targets) {
    try {
      shells.set(target.host, await reach(target, connect))
    } catch (error) {
      const { message, hint } = asSheepError(error)
      problems.push({ host: target.host, text: message, hint })
    }
  }
  const answers = await Promise.all(
    targets.map(async ({ host, address }): Promise<Surveyed | null> => {
      const shell = shells.get(host)
      if (shell === undefined) return null
      try {
        const before = Date.now()
        const { code, stdout, stderr } = await shell.run(script, PROBE_MS)
        if (code !== 0)
          throw new SheepError('system', `it cannot be looked at: ${stderr.trim() || `exit code ${code}`}`)
        const facts = parseFacts(stdout)
        return { host, address, facts, skewMs: outside(facts.time, before, Date.now()) }
      } catch (error) {
        const { message, hint } = asSheepError(error)
        problems.push({ host, text: message, hint })
        return null
      }
    }),
  )
  return { hosts: answers.filter((one) => one !== null), shells, problems }
}

/** How far `time` is from the span in which it was asked for, ms. */
function outside(time: number, before: number, after: number): number {
  if (time < before) return time - before
  return time > after ? time - after : 0
}

async function reach(target: Target, connect: Connect): Promise<Shell> {
  if (!target.here) return connect(target)
  const shell = new LocalShell(target.host)
  await shell.check()
  return shell
}
