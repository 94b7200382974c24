/** The volumes' directory as a storage pool of this host's libvirt (lib/libvirt/registrar.ts). */
import { readFileSync } from 'node:fs'
import type { ClusterStatus } from '../lib/cluster/types.js'
import { socketsSeen, systemUris } from '../lib/libvirt/daemons.js'
import { Libvirt } from '../lib/libvirt/libvirt.js'
import { PoolRegistrar } from '../lib/libvirt/registrar.js'
import type { SheepNode } from '../lib/node/node.js'

/** The states in which the volumes' directory is answered for: in others opening it fails after a while. */
const ANSWERING: ReadonlySet<ClusterStatus> = new Set(['running', 'halted'])

export function registerPool(node: SheepNode, directory: string): PoolRegistrar {
  const { clock, log } = node.parts
  const registrar = new PoolRegistrar({
    directory,
    clock,
    log,
    libvirtSeen: () => socketsSeen('storage'),
    served: () => isMounted(directory) && ANSWERING.has(node.cluster.status),
    connect: () => Libvirt.open(systemUris('storage')),
  })
  node.cluster.listeners.push(registrar)
  return registrar
}

/** By the kernel's list (proc_pid_mountinfo(5)): a question to the file system itself would be one to this daemon. */
function isMounted(directory: string): boolean {
  const escaped = directory.replace(/[ \t\n\\]/g, (one) => `\\${one.charCodeAt(0).toString(8).padStart(3, '0')}`)
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8').split('\n')
  return mounts.some((line) => line.split(' ')[4] === escaped)
}
