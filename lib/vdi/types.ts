/** What the registry keeps of a VDI. One entry a vid: a working VDI, a snapshot, or one on its way in or out. */
export type VdiState =
  /** vid and name reserved; its inode object is being written by `creator` */
  | 'creating'
  | 'live'
  /** out of sight; its objects are being freed */
  | 'deleting'
  /** all freed; kept because descendants live and objects named by this vid may still be theirs */
  | 'deleted'

export interface VdiEntry {
  vid: number
  name: string
  /** '' unless a snapshot with a tag */
  tag: string
  /** 1, 2, ... per name for snapshots; the working VDI has the next number */
  snapId: number
  /** 0 none */
  parent: number
  /** bytes */
  size: number
  copies: number
  /** log2 of the object size in bytes; 22 is 4 MiB */
  blockSizeShift: number
  /** ms since the Unix epoch */
  createTime: number
  /** 0: working VDI */
  snapshotTime: number
  state: VdiState
  /** creating: the node that does it. deleting: the node that frees its objects, '' when that node has left. Else '' */
  creator: string
  preallocated: boolean
  /** In which it was created. An object of this vid with a lower writeEpoch is of another VDI, which had the vid before */
  epoch: number
  /** The first vid of a working VDI that snapshots were taken of: what a file of it is known by. Absent: its own */
  origin?: number
  /** What the file of it says (lib/fuse); absent: nobody has said anything */
  file?: VdiFile
  /** Without quorum requests wait so many ms and then fail; 0: they wait for ever. Absent: as the cluster says */
  onNoQuorum?: number
  /** An administrator gave up what was lost of its inode: when nobody has that, it is gone. A gateway may have written it anew */
  givenUp?: true
}

/** A VDI as a file. */
export interface VdiFile {
  /** bytes, at most the VDI's size; null: as many as that. While `growing` it is in the inode object (lib/gateway/length-record.ts) */
  length: number | null
  growing: boolean
  /** Permission bits, 0o777 at most */
  mode: number
  uid: number
  gid: number
  /** ms since the Unix epoch; 0: when the VDI was made */
  mtime: number
  /** Extended attributes: name -> value in base64 */
  xattrs: Record<string, string>
}

export interface VdiLock {
  vid: number
  /** node id of the gateway */
  node: string
  /** unique within the node: one open volume */
  session: string
  /**
   * target: of a live migration, beside the writer on another node. It reads what the writer has acknowledged, and writes once
   * the lock has become its own
   */
  mode: 'write' | 'read' | 'target'
  /** ms since the Unix epoch */
  since: number
  /** for people: what holds it, as "NBD client, pid 4711" */
  holder: string
}

/** A live migration that was announced: a second node may open the VDI beside its writer. */
export interface VdiMigration {
  vid: number
  /** node id of the gateway that may open it; '' any */
  to: string
  /** ms since the Unix epoch */
  since: number
  /** ms since the Unix epoch: later nobody opens it beside the writer any more */
  until: number
}

/** Commands to the registry; each is applied on every member in one order and has the same result everywhere. */
export type VdiCommand =
  /** new VDI, or clone when parent is a snapshot's vid. Result: {vid}. exists / not-found / table-full / invalid */
  | {
      op: 'create'
      name: string
      size: number
      copies: number
      blockSizeShift: number
      parent: number
      preallocated: boolean
      file?: VdiFile
      onNoQuorum?: number
    }
  /** creating -> live */
  | { op: 'ready'; vid: number }
  /** creating -> deleting */
  | { op: 'abort'; vid: number }
  /** Reserves a child vid of the working VDI `vid` for the snapshot. Result: {vid: child}. exists: tag is taken */
  | { op: 'snapshot-begin'; vid: number; tag: string }
  /** `vid` becomes a snapshot with this tag, the child the working VDI; write locks on vid move to the child */
  | { op: 'snapshot-commit'; vid: number; child: number; tag: string }
  /** Reserves a child of snapshot `snapshot` that is to replace the working VDI of its name. locked: it is open */
  | { op: 'rollback-begin'; snapshot: number }
  /** The child becomes the working VDI; the former one goes to deleting. Result: {deleting: vid or 0} */
  | { op: 'rollback-commit'; child: number }
  /**
   * live -> deleting, freed by the sender. locked: it is open; busy: it is being copied. A deleting one whose deleter has left
   * becomes the sender's; busy: another node frees it. Result: the entry
   */
  | { op: 'delete-begin'; vid: number }
  /**
   * By the deleter. deleting -> deleted, or gone when no descendant needs the vid. `epoch`: in which all was removed. Result: the
   * vids that are gone with it; null when another epoch has begun since, and nodes may have joined that still have some of it
   */
  | { op: 'delete-done'; vid: number; epoch: number }
  /** The working VDI and all snapshots of the name */
  | { op: 'rename'; name: string; newName: string }
  /** `length`: of the file, else it is the size. `growing`: from now on the inode object says how long it is */
  | { op: 'resize'; vid: number; size: number; length?: number; growing?: boolean }
  /** What is absent stays as it is; an extended attribute that is null goes. too-big: more than FILE_XATTRS_MAX bytes of them */
  | { op: 'set-file'; vid: number; change: FileChange }
  /**
   * A working VDI without a parent, which the sender has open for writing, becomes a child of a live snapshot with the same object size,
   * so that it may refer to objects that the snapshot refers to. invalid, read-only, not-locked. The same again: the same result
   */
  | { op: 'adopt'; vid: number; parent: number }
  /** null: as the cluster says */
  | { op: 'set-on-no-quorum'; vid: number; ms: number | null }
  | { op: 'set-tag'; vid: number; tag: string }
  /**
   * `write` on a working VDI excludes all others; `read` is for snapshots and shared readers. Result: the entry. locked: open elsewhere;
   * busy: a snapshot or rollback of it is about to end, ask again; read-only: write on a snapshot. The same again: the same result
   */
  | { op: 'lock'; vid: number; session: string; mode: 'write' | 'read'; holder: string }
  /**
   * Takes the VDI from whoever has it open, its migration's target too. `node` and `session` say whom the sender means. A new epoch
   * follows (lib/cluster/commands.ts). Result: {locks: those taken away, epoch: that one}. not-locked; busy: it is another's by now
   */
  | { op: 'break'; vid: number; node: string; session: string }
  /** Until then `to` may open the VDI beside its writer, as mode target. Again: in place of the former. Result: the migration. not-locked */
  | { op: 'migrate-begin'; vid: number; to: string; until: number }
  /** The target, when it has opened the VDI, loses it. not-locked: no migration is announced */
  | { op: 'migrate-cancel'; vid: number }
  /**
   * By the target: the lock is its own, the source's is gone. `fence`: the source did not say that nothing of its is under way, so a
   * new epoch follows. Result: the entry. not-locked: the sender is no target. The same again: the same result
   */
  | { op: 'migrate-finish'; vid: number; session: string; fence: boolean }
  /**
   * The sender's session; also when a snapshot has moved its lock to a child of `vid`. `leftovers`: not everything was freed that
   * it refers to no more, so each node looks at what it holds. not-locked
   */
  | { op: 'unlock'; vid: number; session: string; leftovers?: boolean }

export interface FileChange {
  mode?: number
  uid?: number
  gid?: number
  mtime?: number
  xattrs?: Record<string, string | null>
}

export interface CommandContext {
  /** node id of the proposer */
  sender: string
  /** ms since the Unix epoch, from the proposer: the same on every member */
  time: number
  /** in which the command takes effect */
  epoch: number
}
