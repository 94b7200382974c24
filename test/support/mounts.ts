/** Small file systems for disks that fail, fill up or go away. Made by root only. */
import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import type { ExecutionContext } from 'ava'

/** ext4's ioctl(2) FS_IOC_SHUTDOWN, _IOR('X', 125, __u32) (linux/fs.h), and its flag: nothing more is written, the log neither. */
const SHUT_DOWN = `
import fcntl, os, struct, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
fcntl.ioctl(fd, 0x8004587d, struct.pack('I', 2))
`

export class Mounts {
  private readonly base = fs.mkdtempSync(path.join(os.tmpdir(), 'sheep-disks-'))
  private readonly mounted = new Set<string>()

  constructor(t: ExecutionContext) {
    if (process.getuid?.() !== 0) throw new Error('mounting small file systems needs root: run the tests as root')
    t.teardown(() => this.destroy())
  }

  /** Path of a new, mounted, empty file system. */
  make(name: string, kind: 'tmpfs' | 'ext4', bytes: number): string {
    const root = path.join(this.base, name)
    fs.mkdirSync(root)
    this.mount(name, kind, bytes)
    return root
  }

  /** A new, empty one in the place of one that is not mounted any more. */
  mount(name: string, kind: 'tmpfs' | 'ext4', bytes: number): void {
    const root = path.join(this.base, name)
    if (kind === 'tmpfs') {
      execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${bytes}`, 'tmpfs', root])
    } else {
      const image = path.join(this.base, `${name}.image`)
      fs.rmSync(image, { force: true })
      fs.writeFileSync(image, '')
      fs.truncateSync(image, bytes)
      execFileSync('mkfs.ext4', ['-q', '-F', '-m', '0', image])
      execFileSync('mount', ['-o', 'loop,errors=remount-ro', image, root])
    }
    this.mounted.add(root)
  }

  /** Every request to the file system fails with EIO from now on, as after the last error of a dying disk. */
  shutDown(root: string): void {
    execFileSync('python3', ['-c', SHUT_DOWN, root])
  }

  /** As the kernel does when it finds damage; it does not ask who is writing, as an ordinary remount would. ext4 only. */
  readOnly(root: string): void {
    const device = execFileSync('findmnt', ['-no', 'SOURCE', root]).toString().trim()
    fs.writeFileSync(`/sys/fs/ext4/${path.basename(device)}/trigger_fs_error`, 'a test')
  }

  /** Mounts again what was unmounted, with its content. ext4 only. */
  remount(name: string): void {
    const root = path.join(this.base, name)
    execFileSync('mount', ['-o', 'loop', path.join(this.base, `${name}.image`), root])
    this.mounted.add(root)
  }

  /** Lazily: who has files open keeps them. */
  unmount(root: string): void {
    execFileSync('umount', ['-l', root])
    this.mounted.delete(root)
  }

  /** Fails while anybody uses it. */
  unmountUnused(root: string): void {
    execFileSync('umount', [root])
    this.mounted.delete(root)
  }

  private destroy(): void {
    for (const root of [...this.mounted]) this.unmount(root)
    fs.rmSync(this.base, { recursive: true, force: true })
  }
}
