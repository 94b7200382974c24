/** Domain XML as libvirt writes it, and a host of libvirt's test driver that has such machines. */
import type { Places } from '../../lib/libvirt/domain-xml.js'

export const places: Places = { nbd: '/srv/store0/nbd.sock', volumes: '/var/lib/sheepdog/volumes' }

export const fileDisk = (volume: string, target: string, type = 'raw'): string => `
    <disk type='file' device='disk'>
      <driver name='qemu' type='${type}' cache='writeback' io='native'/>
      <source file='${places.volumes}/${volume}' startupPolicy='optional'/>
      <backingStore/>
      <target dev='${target}' bus='virtio'/>
      <serial>s-${target}</serial>
    </disk>`

export const nbdDisk = (volume: string, target: string, socket = places.nbd, extra = ''): string => `
    <disk type='network' device='disk'>
      <driver name='qemu' type='raw' cache='none' discard='unmap'/>
      <source protocol='nbd' name='${volume}'>
        <host transport='unix' socket='${socket}'/>
        <reconnect delay='300'/>
      </source>
      <target dev='${target}' bus='virtio'/>${extra}
    </disk>`

export const poolDisk = (volume: string, target: string): string => `
    <disk type='volume' device='disk'>
      <driver name='qemu' type='raw'/>
      <source pool='sheepdog' volume='${volume}'/>
      <target dev='${target}' bus='virtio'/>
    </disk>`

export const otherDisk = (target: string): string => `
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='/var/lib/libvirt/images/plain.qcow2'/>
      <target dev='${target}' bus='virtio'/>
    </disk>`

export function domainXml(name: string, disks: readonly string[], type = 'kvm', more = ''): string {
  return `<domain type='${type}' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>${name}</name>
  <memory unit='KiB'>131072</memory>
  <vcpu>1</vcpu>
  <os><type>hvm</type></os>
  <metadata>
    <note:made xmlns:note='urn:note'>by &lt;hand&gt; <!-- on a Monday --></note:made>
  </metadata>
  <devices>${disks.join('')}
  </devices>${more}
</domain>
`
}

/** A file for `test://PATH`. Its machines run, but for those in `off`. */
export function testHost(domains: Record<string, readonly string[]>, off: readonly string[] = []): string {
  const shutOff = `
  <test:runstate xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>5</test:runstate>`
  const all = Object.entries(domains).map(([name, disks]) =>
    domainXml(name, disks, 'test', off.includes(name) ? shutOff : ''),
  )
  return `<node>\n${all.join('')}</node>\n`
}
