/** The sheepdog protocol, as old clients and hostile ones speak it. */
import { SheepError } from '../../lib/errors.js'
import { FLAG_COW, FLAG_DIRECT, OP } from '../../lib/protocol/header.js'
import { type SdServices, SdSession } from '../../lib/sd/session.js'
import { INODE_BYTES } from '../../lib/vdi/inode.js'
import { dataOid, highWord, inodeOid, lowWord, type Oid, vmStateOid } from '../../lib/vdi/oid.js'
import type { SimRandom } from '../simulation/random.js'
import { FakeServices } from '../support/fake-services.js'
import type { Harness } from './harness.js'
import { arriving, converse, message, wanting } from './link.js'
import { oddNumber } from './mutate.js'

const SIZE = 1 << 16
const VID = 7
const OIDS: Oid[] = [dataOid(VID, 0), inodeOid(VID), dataOid(VID, 1), vmStateOid(VID, 0), dataOid(8, 0), inodeOid(1)]

function names(random: SimRandom): Buffer {
  const payload = Buffer.alloc(random.pick([512, 512, 512, 256, 100]))
  payload.write(random.pick(['disk', 'disk', 'other', '', 'x'.repeat(256)]), 0)
  if (payload.length > 256) payload.write(random.pick(['', '', 'monday', '\xff']), 256, 'latin1')
  return payload
}

function request(random: SimRandom): Buffer {
  const id = random.u32()
  const fields = Buffer.alloc(32)
  const oid = random.pick(OIDS)
  const epoch = random.below(3)
  const flags = random.pick([0, 0, FLAG_DIRECT, FLAG_COW])
  if (random.chance(0.6)) {
    fields.writeUInt32LE(lowWord(oid), 0)
    fields.writeUInt32LE(highWord(oid), 4)
    fields.writeUInt32LE(random.chance(0.9) ? random.below(SIZE) : oddNumber(random), 24)
    const length = random.chance(0.998) ? random.below(5_000) : random.pick([1 << 20, 1 << 22])
    switch (random.below(6)) {
      case 0:
        return message(OP.CREATE_AND_WRITE_OBJ, flags, epoch, id, fields, Buffer.alloc(length, 3))
      case 1:
        return message(OP.WRITE_OBJ, flags, epoch, id, fields, Buffer.alloc(length, 4))
      case 2:
        return message(OP.DISCARD_OBJ, flags, epoch, id, fields)
      case 3:
        return message(OP.REMOVE_OBJ, flags, epoch, id, fields)
      case 4:
        return message(OP.FLUSH_VDI, flags, epoch, id, fields)
      default:
        return wanting(
          message(OP.READ_OBJ, flags, epoch, id, fields),
          random.chance(0.99) ? length : random.chance(0.8) ? oddNumber(random) : random.pick([INODE_BYTES, 1 << 23]),
        )
    }
  }
  fields.writeUInt32LE(SIZE, 0)
  fields.writeUInt32LE(random.pick([0, VID, 1, 99]), 8)
  fields.writeUInt32LE(random.pick([0, 0, 1, 2]), 16)
  fields[12] = random.pick([0, 3, 200])
  const opcode = random.pick([
    ...[OP.NEW_VDI, OP.LOCK_VDI, OP.LOCK_VDI, OP.RELEASE_VDI, OP.GET_VDI_INFO, OP.DEL_VDI, OP.GET_CLUSTER_DEFAULT],
    ...[OP.FLUSH_VDI, random.chance(0.01) ? OP.READ_VDIS : OP.GET_VDI_INFO, random.below(0x30)],
  ])
  return random.chance(0.9)
    ? message(opcode, flags, epoch, id, fields, names(random))
    : message(opcode, flags, epoch, id, fields)
}

function make(random: SimRandom): Buffer[] {
  const messages = Array.from({ length: random.below(14) }, () => request(random))
  if (random.chance(0.7)) {
    const payload = Buffer.alloc(512)
    payload.write('disk', 0)
    messages.unshift(message(OP.LOCK_VDI, 0, 0, 1, Buffer.alloc(32), payload))
  }
  return arriving(random, messages, request(random))
}

function services(fake: FakeServices, logged: string[]): SdServices {
  const { volumes } = fake
  const objects = new Map<Oid, number>()
  const refuse = async (): Promise<never> => {
    throw new SheepError('exists', 'refused by the fuzzer')
  }
  return {
    cluster: fake.cluster,
    volumes,
    log: (level, text) => logged.push(`${level}: ${text}`),
    entry: (vid) => volumes.list().find((entry) => entry.vid === vid),
    usedVids: () => volumes.list().map((entry) => entry.vid),
    create: async (name, size, copies) => {
      if (name === '' || size > SIZE) throw new SheepError('invalid', 'no such VDI can be')
      return volumes.add(name, size, { copies })
    },
    clone: refuse,
    snapshot: async (entry) => entry,
    remove: async (entry) => void volumes.entries.splice(volumes.entries.indexOf(entry), 1),
    io: {
      epoch: 1,
      read: async (oid, position, length) => {
        if (position + length > INODE_BYTES) throw new Error(`read ${length} at ${position} of ${oid}`)
        return Buffer.alloc(length)
      },
      write: async (oid, position, data) => void objects.set(oid, position + data.length),
      create: async (oid, position, data) => void objects.set(oid, position + data.length),
      flush: async () => {},
      remove: async (oids) => {
        for (const oid of oids) objects.delete(oid)
      },
      allocate: async () => {},
    },
  }
}

async function take(input: readonly Buffer[], random: SimRandom): Promise<boolean> {
  const fake = new FakeServices()
  fake.volumes.entries.length = 0
  fake.volumes.add('disk', SIZE, { tag: 'monday', snapshotTime: 1 })
  fake.volumes.add('disk', SIZE, { vid: VID, snapId: 2, parent: 1 })
  const logged: string[] = []
  let closing: Promise<void> | null = null
  const answers = await converse(
    input,
    random,
    (link) => {
      const send = (header: Buffer, payload: Buffer | null): void => {
        if (link.open) link.send(header, payload, 0, payload?.length ?? 0)
      }
      const session = new SdSession(services(fake, logged), 'fuzz', send, link)
      return {
        message: (_link, bytes, at, payloadAt, length, hold) => session.request(bytes, at, payloadAt, length, hold),
        closed: () => {
          closing = session.end()
        },
      }
    },
    () => closing !== null && fake.volumes.volumes.every((volume) => volume.closed),
  )
  await closing
  const bug = logged.find((line) => line.startsWith('error'))
  if (bug !== undefined) throw new Error(bug)
  return answers.length > 0
}

export const sheepdogHarness: Harness = { make, take }
