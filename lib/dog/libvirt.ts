/** `dog libvirt`: volumes as disks of libvirt's machines, by NBD over the daemon's Unix socket. */
import { type Command, Option } from 'commander'
import type { Add } from './command.js'

const TARGET_DEFAULT = 'vda'
// 25 ms of dog's start, a sixth, for reading XML: only who needs it waits for it.
const disks = () => import('./libvirt-disks.js')

export function connectOption(): Option {
  return new Option('-c, --connect <URI>', "of libvirt (default: this host's system daemon)").env('LIBVIRT_DEFAULT_URI')
}

export function addLibvirtCommands(libvirt: Command, add: Add): void {
  add(libvirt, 'disk-xml <VOLUME>', "print a volume's <disk> element for a domain's XML", (command) =>
    command.option('--target <NAME>', `what the guest's disk is called: vda, sda, ...`, TARGET_DEFAULT),
  )
    .notes(
      'VOLUME@TAG is a snapshot, read-only. The element uses the NBD socket of the daemon that is asked, and',
      'lets the guest wait while that daemon restarts.',
    )
    .examples('dog libvirt disk-xml disk', 'dog libvirt disk-xml disk --target vdb > disk.xml')
    .run(async (session, [volume], { target }) => (await disks()).printDisk(session, volume, target))

  add(libvirt, 'attach <DOMAIN> <VOLUME>', 'give a volume to a machine as a disk', (command) =>
    affecting(command).option('--target <NAME>', 'what the disk is called (default: the first free vdX)'),
  )
    .notes(...AFFECTING)
    .examples('dog libvirt attach web1 data', 'dog libvirt attach web1 data --persistent --target vdc')
    .run(async (session, [domain, volume], options) => (await disks()).attach(session, domain, volume, options))

  add(libvirt, 'detach <DOMAIN> <VOLUME>', 'take a volume away from a machine', affecting)
    .notes(...AFFECTING, 'A running guest has to agree: what it has mounted it may keep.')
    .examples('dog libvirt detach web1 data', 'dog libvirt detach web1 data --persistent')
    .run(async (session, [domain, volume], options) => (await disks()).detach(session, domain, volume, options))

  add(libvirt, 'convert <DOMAIN>', "turn a machine's files of the pool into network disks", (command) =>
    command.addOption(connectOption()),
  )
    .notes(
      'Same volumes, same disks in the guest, by NBD: faster, and what live migration wants. It changes the',
      'definition; a machine that runs has the new disks at its next start (shut it down, then start it).',
    )
    .examples('dog libvirt convert web1')
    .run(async (session, [domain], { connect }) => (await disks()).convert(session, domain, connect))

  add(libvirt, 'hook <DOMAIN> <OPERATION>', "answer libvirt's qemu hook: XML comes by stdin")
    .notes("What /etc/libvirt/hooks/qemu.d/sheepdog calls; its messages are those of libvirt's start and migrate.")
    .examples('virsh dumpxml web1 | dog libvirt hook web1 prepare')
    .run(async (session, [, operation]) => (await import('./libvirt-hook.js')).libvirtHook(session, operation))
}

const AFFECTING = [
  'Without an option: the machine that runs, or the definition of one that does not. A definition counts',
  'from the next start on.',
]

function affecting(command: Command): Command {
  return command
    .addOption(connectOption())
    .option('--live', 'the machine that runs')
    .option('--config', 'its definition')
    .option('--persistent', 'both, where it runs')
}
