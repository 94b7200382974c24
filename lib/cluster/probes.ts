import { SheepError } from '../errors.js'
import type { Clock } from '../host/interfaces.js'

interface Pending {
  resolve(): void
  reject(error: SheepError): void
}

/** Messages of this member to itself: when one is delivered, everything ordered before it has been. */
export class Probes {
  private readonly pending = new Map<number, Pending>()
  private last = 0

  constructor(
    readonly clock: Clock,
    readonly timeoutMs: number,
  ) {}

  /** Resolves when it was delivered while this member was in the cluster. */
  send(broadcast: (id: number) => void): Promise<void> {
    const id = ++this.last
    return new Promise((resolve, reject) => {
      const timer = this.clock.after(this.timeoutMs, () => {
        this.pending.delete(id)
        reject(new SheepError('timeout', 'the cluster engine does not deliver this member its own messages'))
      })
      const settle = (): void => {
        timer.cancel()
        this.pending.delete(id)
      }
      this.pending.set(id, {
        resolve: () => {
          settle()
          resolve()
        },
        reject: (error) => {
          settle()
          reject(error)
        },
      })
      broadcast(id)
    })
  }

  delivered(id: number, refusal: SheepError | null): void {
    if (refusal === null) this.pending.get(id)?.resolve()
    else this.pending.get(id)?.reject(refusal)
  }

  failAll(error: SheepError): void {
    for (const pending of [...this.pending.values()]) pending.reject(error)
  }
}
