/**
 * AppArmor's rules for QEMU, by Debian 13's own parser and virt-aa-helper. These hosts' kernel need not have AppArmor: what is looked at is
 * the profile that libvirt would load for a machine, with all that it includes.
 */
import type { Host } from './host.js'
import { expect, type Scenario } from './scenario.js'

const NAME = '11111111-2222-3333-4444-555555555555'
const SOCKET = '/var/lib/sheepdog/nbd.sock'
const ABSTRACTION = '/etc/apparmor.d/abstractions/libvirt-qemu.d/sheepdog'
/** As libvirt's TEMPLATE.qemu has it */
const PROFILE = `include <tunables/global>
profile libvirt-${NAME} flags=(attach_disconnected) {
  include <abstractions/libvirt-qemu>
}
`
const rule = new RegExp(`^\\s*"?${SOCKET}"? rw,$`, 'm')

async function profile(host: Host): Promise<string> {
  host.write('/root/profile', PROFILE)
  // All of it compiles; no kernel is asked, nothing is kept.
  await host.run('apparmor_parser', ['--skip-kernel-load', '--skip-cache', '/root/profile'])
  return await host.run('apparmor_parser', ['--preprocess', '/root/profile'])
}

async function rules(host: Host): Promise<void> {
  const shipped = host.read(ABSTRACTION)
  if (!rule.test(await profile(host))) throw new Error('what QEMU is allowed includes no abstraction of ours')
  host.write(ABSTRACTION, shipped.replace(SOCKET, '/elsewhere'))
  if (rule.test(await profile(host))) throw new Error('QEMU is allowed the socket without our abstraction')
  host.write(ABSTRACTION, `${shipped}not a rule\n`)
  const broken = await host.try('apparmor_parser', ['--skip-kernel-load', '--skip-cache', '/root/profile'])
  if (broken.code === 0) throw new Error('this parser takes anything')
  host.write(ABSTRACTION, shipped)
}

/** What it adds for the machine itself: the files of the pool, not the socket. */
async function machine(host: Host): Promise<void> {
  await host.run('dog', ['vdi', 'create', 'web', '8M'])
  const disk = await host.run('dog', ['libvirt', 'disk-xml', 'web', '--target', 'vdb'])
  const file = "<source file='/var/lib/sheepdog/volumes/web'/><target dev='vda' bus='virtio'/>"
  host.write(
    '/root/machine.xml',
    `<domain type='qemu'><name>web1</name><uuid>${NAME}</uuid><memory>65536</memory><os><type arch='x86_64'>hvm</type></os>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator><disk type='file' device='disk'>${file}</disk>${disk}</devices></domain>`,
  )
  const helper = `/usr/lib/libvirt/virt-aa-helper --dryrun --create --uuid libvirt-${NAME} < /root/machine.xml 2>&1`
  await expect(host, /^\s*"\/var\/lib\/sheepdog\/volumes\/web" rwk,$/m, 'sh', '-c', helper)
  await host.run('dog', ['vdi', 'delete', 'web'])
}

export const apparmorScenario: Scenario = {
  name: 'apparmor',
  title:
    "AppArmor's profile of a machine, as libvirt makes it, allows its files of the pool and, with our abstraction, the NBD socket",
  short: false,
  layer: 'machines',
  async run(cluster) {
    const [host] = cluster.hosts
    await rules(host)
    await machine(host)
  },
}
