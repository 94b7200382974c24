/** FUSE requests, damaged: each is answered at most once with a value or an errno, and no buffer is kept. */

import { SheepError } from '../../lib/errors.js'
import { Files } from '../../lib/fuse/files.js'
import { nodeOf } from '../../lib/fuse/nodes.js'
import type { FilesParts } from '../../lib/fuse/parts.js'
import * as fuse from '../../lib/fuse/protocol.js'
import { Session } from '../../lib/fuse/session.js'
import { slabBytes, takeSlab } from '../../lib/host/slab.js'
import type { Registry } from '../../lib/vdi/registry.js'
import type { VdiEntry } from '../../lib/vdi/types.js'
import type { SimRandom } from '../simulation/random.js'
import { FakeClock } from '../unit/vdi/world.js'
import { type Harness, requireNoSlabs, turnsUntil } from './harness.js'
import { damaged, oddNumber, randomBytes } from './mutate.js'

const XATTRS = { 'user.x': 'eA==', 'security.selinux': 'bGFiZWw=' }
const file = { length: 5000, growing: false, mode: 0o644, uid: 0, gid: 0, mtime: 1, xattrs: XATTRS }
const disk = {
  vid: 7,
  name: 'disk',
  state: 'live',
  snapshotTime: 0,
  size: 8192,
  blockSizeShift: 22,
  createTime: 1,
  file,
}
const entry = { ...disk, epoch: 1, origin: null, parent: 0, snapId: 0, tag: '' } as unknown as VdiEntry
export const NODE = nodeOf(entry)
const OPCODES = Array.from({ length: 51 }, (_, opcode) => opcode)
const NAMES = ['disk', 'disk', 'disk@a', 'other', '', '@', 'user.x', 'security.selinux', '__proto__', 'constructor']

function refused(): Promise<never> {
  return Promise.reject(new SheepError('locked', 'somebody has it'))
}

export function parts(): FilesParts {
  const registry = {
    size: 1,
    get: (vid: number) => (vid === entry.vid ? entry : undefined),
    all: () => [entry],
    live: () => [entry],
    find: (name: string, snapshot: string) => (name === 'disk' && snapshot === '' ? entry : undefined),
  } as unknown as Registry
  return {
    cluster: { status: 'running', propose: refused },
    registry: () => registry,
    volumes: { open: refused },
    operations: { create: refused, snapshot: refused, delete: refused, rename: refused, setTag: refused },
    io: {} as FilesParts['io'],
    usage: (entries) => Promise.resolve(entries.map(() => 512)),
    space: () => Promise.resolve({ total: 1e9, free: 1e8 }),
    clock: new FakeClock(),
    log: () => {},
  }
}

function request(random: SimRandom): Buffer {
  const opcode = random.chance(0.95) ? random.pick(OPCODES) : oddNumber(random)
  const words = Buffer.alloc(random.pick([0, 8, 16, 24, 32, 40, 56, 88]))
  for (let at = 0; at + 4 <= words.length; at += 4) {
    words.writeUInt32LE(random.chance(0.6) ? random.below(3) : oddNumber(random) >>> 0, at)
  }
  const names = [random.pick(NAMES), random.pick(NAMES)].map((name) => `${name}\0`).join('')
  const tail = random.chance(0.7) ? Buffer.from(names) : randomBytes(random, random.below(40))
  const bytes = Buffer.concat([Buffer.alloc(fuse.IN_HEADER), words, tail])
  bytes.writeUInt32LE(bytes.length, 0)
  bytes.writeUInt32LE(opcode >>> 0, 4)
  bytes.writeUInt32LE(random.u32(), 8)
  fuse.putU64(bytes, 16, random.pick([fuse.ROOT, fuse.ROOT, NODE, NODE, random.u32()]))
  return bytes
}

function make(random: SimRandom): Buffer[] {
  return Array.from({ length: 1 + random.below(8) }, () => {
    const bytes = request(random)
    return random.chance(0.7) ? bytes : damaged(random, bytes, request(random))
  })
}

async function take(input: readonly Buffer[]): Promise<boolean> {
  const before = slabBytes().taken
  const given = parts()
  const session = new Session(new Files(given, null, () => {}), given.clock, given.log)
  let good = 0
  let replies = 0
  session.channel = {
    send: (bytes, offset, length) => {
      const message = Buffer.from(bytes.subarray(offset, offset + length))
      if (message.readUInt32LE(0) !== length) throw new Error('a reply of another length than it says')
      if (message.readInt32LE(4) === 0) good++
      replies++
      return 0
    },
    resume: () => {},
  }
  for (const bytes of input) {
    const slab = takeSlab(fuse.REQUEST_MAX)
    bytes.copy(slab.bytes)
    session.message(slab, 0, Math.min(bytes.length, fuse.REQUEST_MAX))
    slab.release()
  }
  // A file that another host writes is asked for again, by a clock that the test moves.
  await turnsUntil(() => {
    ;(given.clock as FakeClock).advance(1_000)
    return session.inFlight === 0
  }, 'the answers')
  if (replies > input.length) throw new Error(`${replies} replies to ${input.length} requests`)
  requireNoSlabs(before)
  return good > 0
}

export const fuseHarness: Harness = { make, take }
