import { chmodSync, chownSync, statSync } from 'node:fs'

/** The group whose members may use the daemon's sockets without being root. */
export const GROUP = 'sheepdog'

const SET_GROUP_ID = 0o2000

/**
 * What root's daemon makes in its store (sockets, objects) belongs to this group, where there is one: by the directory's set-group-ID bit
 * (inode(7)), since Debian's Node refuses setegid (CVE-2024-22017). systemd has seen to it already (Group= of the unit). Other users'
 * daemons are theirs alone.
 */
export function giveToGroup(store: string, id: number | null): void {
  if (id === null || process.geteuid?.() !== 0 || process.getegid?.() !== 0) return
  chownSync(store, -1, id)
  chmodSync(store, (statSync(store).mode & 0o777) | SET_GROUP_ID)
}
