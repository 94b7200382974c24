/** What both packages say of themselves. */
export interface About {
  name: string
  version: string
  summary: string
  /** Lines of at most 79 characters, '' between paragraphs */
  description: readonly string[]
  maintainer: string
  homepage: string
  license: string
}

/** @param version of package.json */
export function about(version: string): About {
  return {
    name: 'sheepdog',
    version,
    summary: 'replicated block storage for QEMU/KVM hosts',
    description: [
      'Every host runs one daemon; all are equal. They cut virtual disks into objects',
      'of 4 MiB, keep copies of each on several hosts, find each other through',
      'corosync, and heal by themselves when hosts come and go. Volumes have',
      'snapshots, clones and thin provisioning.',
      '',
      'QEMU reaches volumes by NBD, libvirt by a storage pool, people by the dog',
      'command, programs by D-Bus.',
    ],
    maintainer: 'Sheepdog developers <sheepdog@users.noreply.github.com>',
    homepage: 'https://github.com/sheepdog/sheepdog',
    license: 'Apache-2.0',
  }
}
