/** An object becomes a snapshot's: only when it may, and taken back when the snapshot may be on its way out. */
import test from 'ava'
import { COMPARE_MS_MAX, DIFFERENT, shareObject } from '../../../lib/gateway/share.js'
import type { ShareMode } from '../../../lib/gateway/types.js'
import type { GatewayVolume } from '../../../lib/gateway/volume.js'
import type { Completion } from '../../../lib/host/interfaces.js'
import { READ, REMOVE } from '../../../lib/replication/request.js'
import { dataOid, type Oid } from '../../../lib/vdi/oid.js'
import { FakeClock } from '../vdi/world.js'

const OWN = 7
const SNAPSHOT = 5
const SIZE = 8192

/** Volume 7 whose object 0 is of `own` (0: a hole), snapshot 5 whose object 0 is of `owner`; objects hold what `bytes` says. */
function world(own: number, owner: number, bytes: Partial<Record<number, string>>) {
  const log: string[] = []
  const clock = new FakeClock()
  const state = { revokedAtSet: false, setFails: 0, away: null as Completion | null, isAway: false }
  const entries = new Map([[0, own]])
  const source = { isRevoked: false, index: { length: 1, get: () => owner } }
  const volume = {
    vid: OWN,
    objectSize: SIZE,
    entry: { copies: 2 },
    options: { clock, copiesOf: () => 2, unreferenced: (vid: number) => log.push(`unreferenced ${vid}`) },
    allocating: new Map(),
    settled: (index: number) => {
      const waiting = volume.allocating.get(index) ?? []
      volume.allocating.delete(index)
      return waiting
    },
    forgotten: () => {},
    index: {
      get: (index: number) => entries.get(index) ?? 0,
      set: (index: number, vid: number, durable: boolean, done: Completion) => {
        log.push(`set ${vid}${durable ? ' durably' : ''}`)
        if (state.setFails === 0) entries.set(index, vid)
        if (state.revokedAtSet) source.isRevoked = true
        done.complete(state.setFails)
      },
    },
    router: {
      submit: (
        kind: number,
        oid: Oid,
        _copies: number,
        to: Buffer,
        _start: number,
        length: number,
        _at: number,
        _flags: number,
        _reads: boolean,
        done: Completion,
      ) => {
        const vid = [OWN, SNAPSHOT].find((one) => dataOid(one, 0) === oid) as number
        if (kind === READ) to.fill(bytes[vid] ?? '?', 0, length)
        if (kind === REMOVE) log.push(`remove ${vid}`)
        if (state.isAway && vid === SNAPSHOT) state.away = done
        else done.complete(0)
      },
    },
  }
  const share = (mode: ShareMode) =>
    shareObject(volume as unknown as GatewayVolume, 0, source as unknown as GatewayVolume, mode)
  return { share, log, clock, state, source, volume, owner: () => entries.get(0) }
}

test('equal bytes: the index first, durably, then its own object goes', async (t) => {
  const { share, log, owner } = world(OWN, SNAPSHOT, { 5: 'a', 7: 'a' })
  t.is(await share('compare'), 0)
  t.deepEqual(log, [])
  t.is(await share('equal'), 0)
  t.deepEqual(log, [`set ${SNAPSHOT} durably`, `remove ${OWN}`])
  t.is(owner(), SNAPSHOT)
  t.is(await share('equal'), 0)
  t.is(log.length, 2)
})

test('other bytes stay, unless they are to be replaced', async (t) => {
  const { share, log, owner } = world(OWN, SNAPSHOT, { 5: 'a', 7: 'b' })
  t.is(await share('compare'), DIFFERENT)
  t.is(await share('equal'), DIFFERENT)
  t.deepEqual([log, owner()], [[], OWN])
  t.is(await share('replace'), 0)
  t.is(owner(), SNAPSHOT)
})

test('zeros of its own are like a hole of the snapshot; a hole of its own is left alone', async (t) => {
  const zeros = world(OWN, 0, { 7: '\0' })
  t.is(await zeros.share('equal'), 0)
  t.deepEqual(zeros.log, ['set 0 durably', `remove ${OWN}`])
  const hole = world(0, SNAPSHOT, { 5: '\0' })
  t.is(await hole.share('equal'), DIFFERENT)
  t.deepEqual(hole.log, [])
})

test('the snapshot’s lock is broken meanwhile: the entry goes back, and the object stays', async (t) => {
  const { share, log, state, owner } = world(OWN, SNAPSHOT, { 5: 'a', 7: 'a' })
  state.revokedAtSet = true
  t.is(await share('equal'), -108)
  t.deepEqual(log, [`set ${SNAPSHOT} durably`, `set ${OWN} durably`])
  t.is(owner(), OWN)
  t.is(await share('equal'), -108)
  t.is(log.length, 2)
})

test('an index that cannot be written keeps the object, and lets those go on that waited for it', async (t) => {
  const { share, log, state, volume } = world(OWN, SNAPSHOT, { 5: 'a', 7: 'a' })
  state.setFails = -5
  t.is(await share('equal'), -5)
  t.deepEqual(log, [`set ${SNAPSHOT} durably`])
  t.is(volume.allocating.size, 0)
})

test('a snapshot whose copies are away is not waited for: the object is as it was, and what comes late changes nothing', async (t) => {
  const { share, log, clock, state, owner } = world(OWN, SNAPSHOT, { 5: 'a', 7: 'a' })
  state.isAway = true
  const shared = share('equal')
  clock.advance(COMPARE_MS_MAX)
  t.is(await shared, -110)
  state.away?.complete(0)
  for (let i = 0; i < 20; i++) await Promise.resolve()
  t.deepEqual([log, owner()], [[], OWN])
  state.isAway = false
  t.is(await share('equal'), 0)
  t.is(clock.pending, 0)
})
