/** What stat shows and chown, chmod, touch and setfattr change. */
import { MODE_DEFAULT } from '../vdi/file.js'
import type { FileChange, VdiEntry, VdiFile } from '../vdi/types.js'
import { generationOf, type Nodes, nodeOf } from './nodes.js'
import { fileLength } from './open-file.js'
import { type FilesParts, proposePatiently } from './parts.js'
import * as fuse from './protocol.js'
import { type Call, FuseError } from './session.js'
import { Usage } from './usage.js'

/**
 * How long the kernel may believe names and attributes, seconds: another host may change them. Nobody tells it to forget them sooner: such a
 * notification waits for requests under way, which the thread that sends it would have to answer.
 */
const VALID_S = 1
/** What copying programs take for the size of one read or write. libvirt writes in pieces of this. */
const BLOCK_SIZE = 1 << 20
/** Space of small files is counted in these, as other file systems do. */
const USED_GRAIN = 4096

export const FILE_DEFAULT: VdiFile = {
  length: null,
  growing: false,
  mode: MODE_DEFAULT,
  uid: 0,
  gid: 0,
  mtime: 0,
  xattrs: {},
}

export class FileAttributes {
  private readonly usage: Usage
  private readonly made: number

  constructor(
    private readonly parts: FilesParts,
    private readonly nodes: Nodes,
    /** Of a file that is open for writing here; null: the cluster knows */
    private readonly known: (node: number) => { length: number; mtime: number } | null,
  ) {
    this.usage = new Usage(parts)
    this.made = parts.clock.wall()
  }

  fileData(node: number): VdiFile {
    if (node === fuse.ROOT) throw new FuseError(fuse.EOPNOTSUPP)
    return this.nodes.entry(node).file ?? FILE_DEFAULT
  }

  async change(node: number, change: FileChange): Promise<Buffer> {
    await proposePatiently(this.parts, () => ({ op: 'set-file', vid: this.nodes.entry(node).vid, change }))
    return Buffer.alloc(0)
  }

  /** What a SETATTR asks for, but the length. */
  changeIn({ bytes, at }: Call): FileChange {
    const valid = bytes.readUInt32LE(at)
    const change: FileChange = {}
    if ((valid & fuse.FATTR_MODE) !== 0) change.mode = bytes.readUInt32LE(at + 68) & 0o777
    if ((valid & fuse.FATTR_UID) !== 0) change.uid = bytes.readUInt32LE(at + 76)
    if ((valid & fuse.FATTR_GID) !== 0) change.gid = bytes.readUInt32LE(at + 80)
    if ((valid & fuse.FATTR_MTIME) !== 0) {
      const now = (valid & fuse.FATTR_MTIME_NOW) !== 0
      const given = fuse.u64(bytes, at + 40) * 1000 + Math.floor(bytes.readUInt32LE(at + 60) / 1e6)
      change.mtime = now ? Math.floor(this.parts.clock.wall()) : given
      if (!Number.isSafeInteger(change.mtime)) throw new FuseError(fuse.EINVAL)
    }
    return change
  }

  /** A writer has let go of it. */
  written(node: number): void {
    try {
      this.usage.forget(this.nodes.entry(node).vid)
    } catch (error) {
      if (!(error instanceof FuseError)) throw error
    }
  }

  async attrOut(node: number): Promise<Buffer> {
    const attributes = node === fuse.ROOT ? this.rootAttributes() : await this.attributes(this.nodes.entry(node))
    const out = Buffer.alloc(fuse.ATTR_OUT_BYTES)
    fuse.putU64(out, 0, VALID_S)
    fuse.putAttributes(out, 16, attributes)
    return out
  }

  async entryBytes(entry: VdiEntry): Promise<Buffer> {
    const out = Buffer.alloc(fuse.ENTRY_BYTES)
    fuse.putEntry(out, 0, await this.entryOut(entry))
    return out
  }

  async entryOut(entry: VdiEntry): Promise<fuse.EntryOut> {
    const generation = generationOf(this.parts.registry(), entry)
    return { attributes: await this.attributes(entry), generation, valid: VALID_S }
  }

  private async attributes(entry: VdiEntry): Promise<fuse.Attributes> {
    const node = nodeOf(entry)
    const file = entry.file ?? FILE_DEFAULT
    const known = this.known(node)
    const size = known?.length ?? (await fileLength(this.parts, entry))
    const used = Math.min(await this.usage.of(entry), Math.ceil(size / USED_GRAIN) * USED_GRAIN)
    return {
      node,
      size,
      used,
      mtime: Math.max(known?.mtime ?? 0, file.mtime || entry.snapshotTime || entry.createTime),
      mode: fuse.S_IFREG | (entry.snapshotTime === 0 ? file.mode : file.mode & 0o555),
      uid: file.uid,
      gid: file.gid,
      blockSize: BLOCK_SIZE,
    }
  }

  private rootAttributes(): fuse.Attributes {
    const mode = fuse.S_IFDIR | 0o755
    return { node: fuse.ROOT, size: 0, used: 0, mtime: this.made, mode, uid: 0, gid: 0, blockSize: 4096 }
  }
}
