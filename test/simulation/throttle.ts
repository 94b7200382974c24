/** What administrators do to recovery in half of all worlds: it is held, or released, at some pace. */
import type { Host } from './host.js'
import { SimRandom } from './random.js'
import type { World } from './world.js'

export class Throttle {
  readonly #random: SimRandom
  readonly #used: boolean

  constructor(
    readonly world: World,
    readonly living: () => readonly Host[],
  ) {
    this.#random = new SimRandom(world.seed, 0x7407)
    this.#used = this.#random.chance(0.5)
  }

  step(): void {
    if (this.#used) this.#settings(this.#random.chance(0.3))
  }

  /** Clients have ended: what they needed was copied, and now the rest may be. */
  async release(): Promise<void> {
    if (!this.#used) return
    const held = () => this.living().some((host) => host.sheep?.cluster.recovery.held !== false)
    while (held()) {
      this.#settings(false)
      await this.world.sleep(1000)
    }
  }

  #settings(held: boolean): void {
    const up = this.living().filter((host) => host.serving && !host.paused)
    if (up.length === 0) return
    // A few objects a second at most: writes meet copies that are missing, or under way.
    const limit = this.#random.pick([null, 64 << 10, 128 << 10, 512 << 10])
    this.world.log(`recovery is ${held ? 'held' : 'released'}, limit ${limit}`)
    void this.#random.pick(up).request('recovery', (sheep) => sheep.cluster.propose({ type: 'recovery', held, limit }))
  }
}
