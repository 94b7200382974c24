/** Listing the directory: what was there when it was opened, page by page. */
import type { VdiEntry } from '../vdi/types.js'
import type { Nodes } from './nodes.js'
import { nodeOf } from './nodes.js'
import * as fuse from './protocol.js'

/** Directories open at once that keep their listing; others are listed anew for each page. */
const LISTINGS_MAX = 256

type Listing = { name: Buffer; entry: VdiEntry | null }[]

export class Directory {
  private readonly listings = new Map<number, Listing>()
  private last = 0

  constructor(
    private readonly nodes: Nodes,
    private readonly entryOut: (entry: VdiEntry) => Promise<fuse.EntryOut>,
  ) {}

  open(): Buffer {
    const out = Buffer.alloc(16)
    this.last++
    this.remember(this.last, this.list())
    fuse.putU64(out, 0, this.last)
    return out
  }

  close(handle: number): void {
    this.listings.delete(handle)
  }

  /** Entries from place `offset` on, as many as `size` bytes hold. `plus`: with their attributes. */
  async read(handle: number, offset: number, size: number, plus: boolean): Promise<Buffer> {
    // Rewound: what is there now.
    const known = offset === 0 ? undefined : this.listings.get(handle)
    const listing = known ?? this.list()
    if (known === undefined) this.remember(handle, listing)
    const page: Listing = []
    let bytes = 0
    for (let place = offset; place < listing.length; place++) {
      const length = fuse.direntBytes(listing[place].name.length, plus)
      if (bytes + length > size) break
      bytes += length
      page.push(listing[place])
    }
    const outs = plus ? await Promise.all(page.map(({ entry }) => this.found(entry))) : []
    const out = Buffer.alloc(bytes)
    let at = 0
    page.forEach(({ name, entry }, i) => {
      const entryOut = outs[i] ?? null
      // Without one the kernel asks for it by name, when it needs it.
      if (entryOut !== null) fuse.putEntry(out, at, entryOut)
      const dirent = at + (plus ? fuse.ENTRY_BYTES : 0)
      const node = entry === null ? fuse.ROOT : nodeOf(entry)
      fuse.putDirent(out, dirent, node, offset + i + 1, name, entry === null)
      at += fuse.direntBytes(name.length, plus)
    })
    return out
  }

  private async found(entry: VdiEntry | null): Promise<fuse.EntryOut | null> {
    return entry === null ? null : this.entryOut(entry)
  }

  private list(): Listing {
    return [{ name: Buffer.from('.'), entry: null }, { name: Buffer.from('..'), entry: null }, ...this.nodes.list()]
  }

  private remember(handle: number, listing: Listing): void {
    this.listings.set(handle, listing)
    if (this.listings.size <= LISTINGS_MAX) return
    for (const oldest of this.listings.keys()) {
      this.listings.delete(oldest)
      break
    }
  }
}
