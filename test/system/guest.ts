/**
 * A machine with a system in it: Debian's cloud kernel, and an initramfs of busybox, the tools of ext4 and QEMU's guest agent. It
 * boots from a volume of its own, keeps a file system on another and tells on its console what it does. With two more disks it counts on both.
 */
import { until } from '../support/process.js'
import type { SystemCluster } from './cluster.js'
import type { Host } from './host.js'

const BOOT_IMAGE = '/var/tmp/guest-boot.img'
const BOOT_MIB = 64
/**
 * Fills a file system with files and their checksums, pass after pass: each writes eight files anew, syncs, forgets what the
 * kernel has in memory, and reads all back. The agent's shutdown ends it: then the file system is unmounted, all of it written.
 */
const INIT = `#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /run /data /tmp /var/run
/bin/busybox --install -s /bin
export PATH=/bin:/usr/bin:/usr/sbin:/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
exec </dev/null >/dev/ttyS0 2>&1
say() { echo "guest: $*"; }
fail() { say "FAILED: $*"; poweroff -f; }
modprobe -a virtio_pci virtio_blk virtio_console ext4 || fail modules
port=$(ls /dev/vport*p1)
[ -n "$port" ] && { qemu-ga -m virtio-serial -p "$port" -t /run -F/sbin/freeze-hook -l /dev/ttyS1 & }
say "up, $(uname -r)"
if head -c 1048576 /dev/vdb | cmp -s -n 1048576 - /dev/zero; then
  mkfs.ext4 -q /dev/vdb || fail mkfs
  say "made a file system"
fi
mount -t ext4 /dev/vdb /data || fail mount
check() {
  sync
  echo 3 >/proc/sys/vm/drop_caches
  good=0
  for sum in /data/*.sum; do
    [ -e "$sum" ] || continue
    sha256sum -c -s "$sum" || fail "$sum is not what was written"
    good=$((good + 1))
  done
}
check
[ -b /dev/vdd ] && perl /count /dev/vdc /dev/vdd &
say "found $good good files"
pass=0
while [ ! -e /run/stop ]; do
  for n in 0 1 2 3 4 5 6 7; do
    file=/data/$(((pass * 8 + n) % 40))
    rm -f $file.sum
    head -c $(((pass * 7919 + n * 104729) % 500000 + 1)) /dev/urandom >$file || fail write
    sha256sum $file >$file.sum || fail sum
  done
  check
  head -c 65536 /dev/vda >/dev/null || fail boot disk
  pass=$((pass + 1))
  say "pass $pass, $good good files"
done
check
umount /data || fail umount
say "done, $good good files"
poweroff -f
`

/** One number after the other, each on the first disk before it is on the second: O_RDWR | O_DSYNC, some hundred a second. */
const COUNT = `
for (@ARGV) { sysopen(my $disk, $_, 010002) or die; push @disks, $disk }
while (!-e "/run/stop") {
  $n++;
  for (@disks) { sysseek($_, 0, 0); syswrite($_, sprintf("%-512d", $n)) == 512 or die }
}
`

/** What the agent runs when it is told to shut down */
const SHUTDOWN = '#!/bin/busybox sh\ntouch /run/stop\n'

/** What it runs before it freezes file systems and after it has thawed them. */
const FREEZE_HOOK = '#!/bin/busybox sh\necho "agent: $1" >/dev/ttyS1\n'

const SYSLINUX = `default guest
label guest
  linux vmlinuz
  initrd initrd
  append console=ttyS0 quiet panic=1 random.trust_cpu=on
`

/** On a host with the layer `machines`: a disk's image from which a PC boots, with a FAT file system that says how. */
const BUILD = `set -e
tree=$(mktemp -d)
mkdir -p $tree/bin $tree/sbin
copy() {
  for file; do
    for part in $file $(ldd $file 2>/dev/null | grep -o '/[^ ]*'); do
      mkdir -p $tree$(dirname $part)
      cp -L $part $tree$part
    done
  done
}
cp /bin/busybox $tree/bin/
copy /usr/sbin/qemu-ga /usr/sbin/mkfs.ext4 /usr/sbin/modprobe /usr/bin/perl
version=$(ls /lib/modules)
copy $(modprobe -S $version -D -a virtio_pci virtio_blk virtio_console ext4 crc32c | sed -n 's/^insmod \\([^ ]*\\).*/\\1/p' | sort -u)
cp /lib/modules/$version/modules.builtin* /lib/modules/$version/modules.order $tree/lib/modules/$version/
depmod -b $tree $version
cp /root/guest-init $tree/init
cp /root/guest-count $tree/count
cp /root/guest-shutdown $tree/sbin/shutdown
cp /root/guest-freeze-hook $tree/sbin/freeze-hook
chmod 755 $tree/init $tree/sbin/shutdown $tree/sbin/freeze-hook
(cd $tree && find . | busybox cpio -o -H newc 2>/dev/null | gzip -1 >/root/guest-initrd)
rm -rf $tree
truncate -s ${BOOT_MIB}M ${BOOT_IMAGE}
mkfs.vfat -F 32 ${BOOT_IMAGE} >/dev/null
mcopy -i ${BOOT_IMAGE} /boot/vmlinuz-$version ::vmlinuz
mcopy -i ${BOOT_IMAGE} /root/guest-initrd ::initrd
mcopy -i ${BOOT_IMAGE} /root/guest-syslinux ::syslinux.cfg
syslinux --install ${BOOT_IMAGE}
`

const MEMORY_MIB = 192
const POOL = '/var/lib/sheepdog/volumes'
export const NAME = 'guest'
export const BOOT = 'guest-boot'
export const DATA = 'guest-data'
/** On which it counts, when it has them */
export const COUNTED = ['guest-count-c', 'guest-count-d'] as const
const DATA_MIB = 128
const CONSOLE = `/var/log/libvirt/qemu/${NAME}-console.log`
const AGENT_LOG = `/var/log/libvirt/qemu/${NAME}-agent.log`
/** QEMU translates each instruction of the guest: most of this machine's KVMs are themselves in a machine. */
const bootLimit = 100_000

/** Its two volumes, the first of them with a system. */
export async function makeVolumes(host: Host): Promise<void> {
  host.write('/root/guest-init', INIT)
  host.write('/root/guest-count', COUNT)
  host.write('/root/guest-shutdown', SHUTDOWN)
  host.write('/root/guest-freeze-hook', FREEZE_HOOK)
  host.write('/root/guest-syslinux', SYSLINUX)
  await host.run('sh', ['-c', BUILD])
  await host.run('dog', ['vdi', 'create', BOOT, `${BOOT_MIB}M`])
  await host.run('dog', ['vdi', 'create', DATA, `${DATA_MIB}M`])
  for (const name of COUNTED) await host.run('dog', ['vdi', 'create', name, '4M'])
  await host.run('sh', ['-c', `dog vdi write ${BOOT} < ${BOOT_IMAGE}`])
}

export type Disks = 'nbd' | 'file'

export class Guest {
  private constructor(
    private readonly cluster: SystemCluster,
    public host: Host,
  ) {}

  /** A machine on that host with the volumes as network disks or as files of the pool; it runs and writes. */
  static async start(cluster: SystemCluster, host: Host, disks: Disks, counts = false): Promise<Guest> {
    const guest = new Guest(cluster, host)
    for (const one of cluster.hosts) for (const log of [CONSOLE, AGENT_LOG]) one.write(log, '')
    const elements =
      disks === 'file'
        ? [fileDisk(BOOT, 'vda'), fileDisk(DATA, 'vdb')]
        : await Promise.all([networkDisk(host, BOOT, 'vda'), networkDisk(host, DATA, 'vdb')])
    for (const [at, name] of (counts ? COUNTED : []).entries()) {
      elements.push(await networkDisk(host, name, `vd${'cd'[at]}`))
    }
    host.write('/root/guest.xml', domain(elements))
    await host.run('virsh', ['define', '/root/guest.xml', '--validate'])
    await host.run('virsh', ['start', NAME])
    await until('the guest to be up', bootLimit, () => guest.said().includes('guest: found'))
    await guest.goesOn()
    return guest
  }

  /** What it printed on the host that it is on; an error when it has found that something is not as it wrote it. */
  said(): string {
    const text = this.host.read(CONSOLE)
    if (/guest: FAILED|Kernel panic|I\/O error|EXT4-fs error/.test(text))
      throw new Error(`the guest says\n${text.slice(-4_000)}`)
    return text
  }

  agentSaid(): string {
    return this.host.read(AGENT_LOG)
  }

  private get passes(): number {
    return Number(/.*guest: pass (\d+),/s.exec(this.said())?.[1] ?? 0)
  }

  /** It writes, and reads back what it wrote, twice from now on. */
  async goesOn(): Promise<void> {
    const start = performance.now()
    const before = this.passes
    await until(`the guest to go on after pass ${before}`, bootLimit, () => this.passes >= before + 2)
    const ms = Math.round(performance.now() - start)
    this.cluster.say(`  on ${this.host.name}, two passes in ${ms} ms, ${this.passes} by now`)
  }

  /** While it writes. */
  async migrate(to: Host): Promise<void> {
    const where = [`qemu+tcp://${to.address}/system`, `tcp://${to.address}`]
    const words = ['migrate', '--live', '--persistent', '--undefinesource', NAME, ...where]
    to.write(CONSOLE, '')
    const before = this.passes
    const start = performance.now()
    await this.host.run('virsh', words, { limit: bootLimit })
    this.said()
    this.host = to
    this.cluster.say(`  went to ${to.name} in ${Math.round(performance.now() - start)} ms`)
    await until('the guest to go on', bootLimit, () => this.passes >= before + 2)
  }

  /** Its last check is good, its file system is written out and, looked at from elsewhere, whole. */
  async end(): Promise<void> {
    // The agent answers nothing to this when it does it, and may be gone before virsh has seen so.
    await this.host.try('virsh', ['shutdown', NAME, '--mode', 'agent'])
    await until('the guest to end', bootLimit, async () => {
      this.said()
      return /shut off/.test(await this.host.run('virsh', ['domstate', NAME]))
    })
    if (!/guest: done, \d+ good files/.test(this.said()))
      throw new Error(`its last words are\n${this.said().slice(-500)}`)
    await this.host.run('virsh', ['undefine', NAME])
    await this.cluster.healthy()
    for (const volume of [BOOT, DATA]) await this.cluster.identical(volume)
    await fileSystemIsClean(this.cluster.hosts[2], DATA)
  }
}

/** Says whether the journal has to be replayed, and throws when it is not whole. */
export async function fileSystemIsClean(host: Host, volume: string, snapshot = ''): Promise<boolean> {
  const image = '/var/tmp/guest-data.img'
  const from = snapshot === '' ? volume : `-s ${snapshot} ${volume}`
  await host.run('sh', ['-c', `dog vdi read ${from} > ${image}`])
  const replay = /needs_recovery/.test(await host.run('dumpe2fs', ['-h', image]))
  // What lies in the journal is put in place first, as mounting would do.
  if (replay) await host.try('e2fsck', ['-p', image])
  await host.run('e2fsck', ['-f', '-n', image])
  return !replay
}

function fileDisk(volume: string, target: string): string {
  return `<disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache='none' discard='unmap'/>
      <source file='${POOL}/${volume}'/>
      <target dev='${target}' bus='virtio'/>
    </disk>`
}

function networkDisk(host: Host, volume: string, target: string): Promise<string> {
  return host.run('dog', ['libvirt', 'disk-xml', volume, '--target', target])
}

function domain(disks: readonly string[]): string {
  const log = (path: string): string => `<serial type='file'><source path='${path}' append='on'/></serial>`
  return `<domain type='qemu'>
  <name>${NAME}</name>
  <memory unit='MiB'>${MEMORY_MIB}</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <features><acpi/></features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    ${disks.join('\n    ')}
    ${log(CONSOLE)}
    ${log(AGENT_LOG)}
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <memballoon model='none'/>
  </devices>
</domain>
`
}
