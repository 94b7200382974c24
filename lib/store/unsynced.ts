/**
 * What a failed sync leaves behind. The kernel counts the pages as clean though they are not on the disk, shows them to who reads
 * them until it needs the memory, and says so once: a later process's sync succeeds (fsync(2), EIO; Linux,
 * Documentation/core-api/errseq.rst). So the store notes it, as an empty file that lasts as long as the page cache does. Whoever
 * opens the store next writes such objects again, as they can be read then, and trusts them like what a power loss has left.
 */
import { type Disk, DiskError, type Log } from '../host/interfaces.js'
import { type Oid, oidFromHex, oidToHex } from '../vdi/oid.js'
import { completed } from './completed.js'

const DIRECTORY = 'unsynced'
const PIECE = 64 * 1024
const EIO = 5

/** Never throws: a disk that takes no new file is not written to again either. */
export function noteUnsynced(disk: Disk, oid: Oid, log: Log): void {
  try {
    disk.makeDirectory(DIRECTORY)
    disk.close(disk.open(`${DIRECTORY}/${oidToHex(oid)}`, 'create'))
  } catch (error) {
    if (!(error instanceof DiskError)) throw error
    log('error', `the failed sync cannot be noted: ${error.message}`)
  }
}

/** Objects of which a sync failed since they were last written again. Others may have failed that nobody lived to be told of. */
export function unsyncedObjects(disk: Disk): Oid[] {
  return disk.list(DIRECTORY).map(oidFromHex)
}

/** All objects that may lack a sync were written again. Throws DiskError. */
export function clearUnsynced(disk: Disk): void {
  for (const name of disk.list(DIRECTORY)) disk.unlink(`${DIRECTORY}/${name}`)
}

/** The next sync covers every byte of the file once more. What cannot be read stays as it is. Throws DiskError. */
export async function writeAgain(disk: Disk, path: string): Promise<void> {
  const fd = disk.open(path, 'write')
  const buffer = Buffer.alloc(PIECE)
  try {
    for (const { offset, length } of disk.extents(fd, 0, disk.size(fd))) {
      for (let at = offset; at < offset + length; at += PIECE) {
        const count = Math.min(PIECE, offset + length - at)
        const read = await completed((done) => disk.read(fd, buffer, 0, count, at, done))
        if (read === -EIO) continue
        const result = read < 0 ? read : await completed((done) => disk.write(fd, buffer, 0, read, at, done))
        if (result < read || result < 0)
          throw new DiskError(result < 0 ? -result : EIO, 'write', path, `errno ${-result}`)
      }
    }
  } finally {
    disk.close(fd)
  }
}
