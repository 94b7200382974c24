import test from 'ava'
import { SheepError } from '../../../lib/errors.js'
import type { Clock, Random } from '../../../lib/host/interfaces.js'
import { openIdentity } from '../../../lib/store/identity.js'
import { MemoryDisk } from './memory-disk.js'

const clock: Clock = { now: () => 0, wall: () => 86_400_000, after: () => ({ cancel() {} }) }
let made = 0
const random: Random = { u32: () => 0, hex: (bytes) => (++made).toString(16).padStart(2 * bytes, '0') }
const parts = { clock, random }

test('a new store gets an identity that stays', (t) => {
  const disk = new MemoryDisk()
  disk.writeFileAtomic('lock', '')
  const first = openIdentity(disk, parts)
  t.regex(first.id, /^[0-9a-f]{16}$/)
  t.is(first.created, '1970-01-02T00:00:00.000Z')
  t.is(openIdentity(disk, parts).id, first.id)
  t.deepEqual(first.loadState(), { clusterId: '', recoveredEpoch: 0, passedEpoch: 0 })
  first.saveState({ clusterId: '00000000000000aa', recoveredEpoch: 12, passedEpoch: 9 })
  const after = disk.crash(true, () => false)
  t.is(openIdentity(after, parts).id, first.id)
  t.deepEqual(openIdentity(after, parts).loadState(), {
    clusterId: '00000000000000aa',
    recoveredEpoch: 12,
    passedEpoch: 9,
  })
  t.not(openIdentity(new MemoryDisk(), parts).id, first.id)
})

test("a directory with somebody else's files is refused and stays as it is", (t) => {
  const disk = new MemoryDisk()
  disk.writeFileAtomic('holiday.jpg', 'x')
  const error = t.throws(() => openIdentity(disk, parts), { instanceOf: SheepError })!
  t.regex(error.message, /not a sheepdog store.*holiday\.jpg/)
  t.regex(error.hint, /choose an empty directory/)
  t.deepEqual(disk.paths(), ['holiday.jpg'])
})

for (const [what, content, message] of [
  ['of something else', '{"magic":"other","version":1}', /not a sheepdog store/],
  ['no JSON', 'hello', /not a sheepdog store/],
  ['JSON, but no object', 'null', /not a sheepdog store/],
  ['without an id', '{"magic":"sheepdog-store","version":1}', /damaged/],
  ['with a bad id', '{"magic":"sheepdog-store","version":1,"id":"x","created":""}', /damaged/],
  ['of a newer version', '{"magic":"sheepdog-store","version":2,"id":"0000000000000001","created":""}', /version 2/],
] as const) {
  test(`a config that is ${what} is refused`, (t) => {
    const disk = new MemoryDisk()
    disk.writeFileAtomic('config', content)
    t.throws(() => openIdentity(disk, parts), { instanceOf: SheepError, message })
    t.is(disk.readFile('config')!.toString(), content)
  })
}

test('a store that does not know its cluster does not guess', (t) => {
  for (const state of [
    '',
    '{}',
    '{"clusterId":"x","recoveredEpoch":0}',
    '{"clusterId":"","recoveredEpoch":-1}',
    'null',
  ]) {
    const disk = new MemoryDisk()
    const identity = openIdentity(disk, parts)
    disk.writeFileAtomic('state', state)
    const error = t.throws(() => identity.loadState(), { instanceOf: SheepError })!
    t.regex(error.message, /missing or damaged/)
    disk.unlink('state')
    t.throws(() => identity.loadState(), { instanceOf: SheepError })
  }
})
