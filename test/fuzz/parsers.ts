/** Every parser of what comes from outside, by the name that the command line takes. */
import * as canaries from './canaries.js'
import { clusterHarness, stateHarness } from './cluster.js'
import { controlHarness } from './control.js'
import { fuseHarness } from './fuse.js'
import { gateHarness } from './gate.js'
import type { Harness } from './harness.js'
import { identityHarness } from './identity.js'
import { inodeHarness } from './inode.js'
import { intentLogHarness } from './intent-log.js'
import { nbdHarness } from './nbd.js'
import { objectHeaderHarness } from './object-header.js'
import { peerHarness } from './peer.js'
import { sheepdogHarness } from './sheepdog.js'
import { stateDiskHarness } from './state-disk.js'
import { streamHarness } from './stream.js'

export const PARSERS: Record<string, Harness> = {
  nbd: nbdHarness,
  fuse: fuseHarness,
  sheepdog: sheepdogHarness,
  peer: peerHarness,
  gate: gateHarness,
  control: controlHarness,
  stream: streamHarness,
  cluster: clusterHarness,
  state: stateHarness,
  'epoch-log': stateDiskHarness,
  identity: identityHarness,
  inode: inodeHarness,
  'intent-log': intentLogHarness,
  'object-header': objectHeaderHarness,
}

export const CANARIES: Record<string, Harness> = {
  'canary-crash': canaries.crashes,
  'canary-rejection': canaries.crashesLater,
  'canary-hang': canaries.hangs,
  'canary-growth': canaries.grows,
  'canary-shallow': canaries.shallow,
}

export function harnessOf(name: string): Harness {
  const harness = PARSERS[name] ?? CANARIES[name]
  if (harness === undefined) throw new Error(`no parser ${name}; there are ${Object.keys(PARSERS).join(', ')}`)
  return harness
}
