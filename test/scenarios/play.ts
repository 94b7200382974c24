/**
 * A drama on simulated hosts: the planner's faults are a script's, the clients and the checker are the simulator's. Besides what the
 * script asks for, the run must end without a violation: nothing lost, no request failed, all copies the same.
 */
import type { Host, Sheep } from '../simulation/host.js'
import type { Shape } from '../simulation/shape.js'
import { sheep } from '../simulation/sheep.js'
import { World } from '../simulation/world.js'

/** Each drama is played with the clients of a few seeds. */
const SEEDS = [1, 2]

const stage: Partial<Shape> = {
  ...{ hosts: 4, zones: 4, copies: 3, volumes: 2, faults: [] },
  engine: { hasQuorum: true, latency: 0.1, tokenTimeout: 200 },
}

export class Play {
  constructor(readonly world: World) {}

  get hosts(): readonly Host[] {
    return this.world.hosts
  }

  sleep(ms: number): Promise<void> {
    return this.world.sleep(ms)
  }

  /** Fails when `check` is not true within `ms` of simulated time. */
  async within(ms: number, what: string, check: () => boolean): Promise<void> {
    const end = this.world.scheduler.now + ms
    while (!check()) {
      if (this.world.scheduler.now > end) {
        const statuses = this.hosts.map(({ name, up, sheep }) => {
          return `${name}: ${up ? `${sheep?.cluster.status}, ${sheep?.cluster.statusReason}` : 'down'}`
        })
        throw new Error(`${what}: not within ${ms / 1000} s; ${statuses.join('; ')}`)
      }
      await this.world.sleep(20)
    }
  }

  /** One through which no client writes. */
  async idleHost(): Promise<Host> {
    for (;;) {
      const { sheep } = this.hosts[0]
      const holders = new Set(sheep?.vdis.locks().map((lock) => lock.node))
      const ids = new Map(sheep?.cluster.epoch?.nodes.map(({ id, name }) => [name, id]))
      const idle = this.hosts.find(({ name }) => ids.has(name) && !holders.has(ids.get(name) as string))
      if (idle !== undefined) return idle
      await this.world.sleep(500)
    }
  }

  /** Requests that clients have been answered. */
  get requests(): number {
    return this.world.workload.requests
  }
}

/** What the daemon there answers; rejects when it is gone before. */
export async function ask<T>(host: Host, what: string, call: (sheep: Sheep) => Promise<T>): Promise<T> {
  const outcome = await host.request(what, call)
  if (outcome.state === 'failed') throw outcome.error
  if (outcome.state === 'gone') throw new Error(`${host.name} went during ${what}`)
  return outcome.value
}

/** Rejects with the seed and what went wrong. */
export async function play(
  script: (play: Play) => Promise<void>,
  shape: Partial<Shape> = {},
  seeds: readonly number[] = SEEDS,
): Promise<void> {
  for (const seed of seeds) {
    const world = new World(seed, sheep, false, { ...stage, ...shape })
    world.planner.scripted = true
    world.script = () => script(new Play(world))
    const { violation } = await world.run()
    if (violation) throw new Error(`with the clients of seed ${seed}: ${violation.message}`, { cause: violation })
  }
}
