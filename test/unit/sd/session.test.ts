import test from 'ava'
import { OP, putU32 } from '../../../lib/protocol/header.js'
import { type SdServices, SdSession } from '../../../lib/sd/session.js'
import { highWord, inodeOid, lowWord } from '../../../lib/vdi/oid.js'
import { FakeServices } from '../../support/fake-services.js'

const MIB = 1 << 20
const hold = { retain: () => {}, release: () => {} }

test('a client that asks for more than is to be kept is held back until it has been answered', async (t) => {
  const fake = new FakeServices()
  const entry = fake.volumes.add('other', MIB)
  const reads: ((bytes: Buffer) => void)[] = []
  const services = {
    ...{ cluster: fake.cluster, volumes: fake.volumes, log: () => {}, entry: () => entry },
    io: { read: () => new Promise<Buffer>((resolve) => reads.push(resolve)) },
  } as unknown as SdServices
  let held = false
  let answers = 0
  const link = {
    pause: () => {
      held = true
    },
    resume: () => {
      held = false
    },
  }
  const session = new SdSession(services, 'test', () => answers++, link)
  const header = Buffer.alloc(48)
  header[1] = OP.READ_OBJ
  putU32(header, 12, 8 * MIB)
  putU32(header, 16, lowWord(inodeOid(entry.vid)))
  putU32(header, 20, highWord(inodeOid(entry.vid)))
  let asked = 0
  while (!held && asked < 100) {
    session.request(header, 0, 48, 0, hold)
    asked++
  }
  t.is(asked, 9)
  for (const answer of reads) answer(Buffer.alloc(8))
  await new Promise((resolve) => setImmediate(resolve))
  t.is(answers, 9)
  t.false(held)
  await session.end()
})
