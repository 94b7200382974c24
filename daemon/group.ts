/** The group whose members may use the daemon's sockets without being root. */
export const GROUP = 'sheepdog'

/**
 * What root's daemon makes (sockets, store directories) belongs to this group from here on, where there is one; systemd has done so
 * already (Group= of the unit). Other users' daemons are theirs alone.
 */
export function joinGroup(id: number | null): void {
  if (id === null || process.geteuid?.() !== 0 || process.getegid?.() !== 0) return
  process.setegid?.(id)
}
