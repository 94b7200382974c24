/** Bytes in use by files, as stat and du show them: asked for all that are wanted in a moment together, and believed for some seconds. */
import type { VdiEntry } from '../vdi/types.js'
import type { FilesParts } from './parts.js'

const BELIEVED_MS = 3_000
/** A list is not kept waiting by inodes that cannot be read now: they show what was known last, or nothing. */
const WAIT_MS_MAX = 500
const REMEMBERED_MAX = 16_384

interface Known {
  used: number
  /** Clock.now() */
  at: number
}

export class Usage {
  private readonly known = new Map<number, Known>()
  private wanted = new Map<number, { entry: VdiEntry; resolve: ((used: number) => void)[] }>()

  constructor(private readonly parts: FilesParts) {}

  /** It has changed since. */
  forget(vid: number): void {
    this.known.delete(vid)
  }

  of(entry: VdiEntry): Promise<number> {
    const { clock } = this.parts
    const known = this.known.get(entry.vid)
    if (known !== undefined && clock.now() - known.at < BELIEVED_MS) return Promise.resolve(known.used)
    return new Promise((resolve) => {
      let wanted = this.wanted.get(entry.vid)
      if (wanted === undefined) {
        if (this.wanted.size === 0) clock.after(0, () => void this.ask())
        wanted = { entry, resolve: [] }
        this.wanted.set(entry.vid, wanted)
      }
      wanted.resolve.push(resolve)
    })
  }

  private async ask(): Promise<void> {
    const { clock, usage } = this.parts
    const asked = [...this.wanted.values()]
    this.wanted = new Map()
    const timer = clock.after(WAIT_MS_MAX, () => {
      for (const { entry, resolve } of asked) for (const one of resolve) one(this.known.get(entry.vid)?.used ?? 0)
    })
    const answers = await usage(asked.map(({ entry }) => entry))
    timer.cancel()
    if (this.known.size > REMEMBERED_MAX) this.known.clear()
    asked.forEach(({ entry, resolve }, i) => {
      const used = answers[i]
      if (used !== null) this.known.set(entry.vid, { used, at: clock.now() })
      for (const one of resolve) one(used ?? this.known.get(entry.vid)?.used ?? 0)
    })
  }
}
