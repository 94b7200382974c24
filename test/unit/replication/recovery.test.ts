import test from 'ava'
import { SheepError } from '../../../lib/errors.js'
import { type Clock, type Completion, DiskError } from '../../../lib/host/interfaces.js'
import { NO_ASKS } from '../../../lib/replication/askers.js'
import type { Peers } from '../../../lib/replication/peers.js'
import { outside } from '../../../lib/replication/ranges.js'
import { Recovery } from '../../../lib/replication/recovery.js'
import { Replica } from '../../../lib/replication/replica.js'
import { encodeReports } from '../../../lib/replication/survey.js'
import { Topology } from '../../../lib/replication/topology.js'
import type { StagedObject } from '../../../lib/store/types.js'
import { dataOid, inodeOid, type Oid, oidToHex } from '../../../lib/vdi/oid.js'
import { CountingStore } from '../../fuzz/counting-store.js'
import { SimRandom } from '../../simulation/random.js'
import { epochsOf, node } from './nodes.js'

const OID = dataOid(1, 0)
const clock: Clock = { now: () => 0, wall: () => 0, after: () => ({ cancel() {} }) }
const turns = async () => {
  for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve))
}

interface Report {
  writeEpoch: number
  validThrough: number
  suspect: boolean
}

/** Node 0 of these, all replicas, in the second of three epochs; the others say `report` of OID, and hold nothing. */
function setup(report: (epoch: number, node: string, method: string) => Report, nodes: readonly number[] = [0, 1]) {
  const epochs = epochsOf(nodes, nodes, nodes)
  const topology = new Topology(node(0).id)
  topology.update(epochs[1], epochs.slice(0, 2))
  const store = new CountingStore(new SimRandom(1, 0))
  const asked: string[] = []
  const settledOn: (readonly string[])[] = []
  const doubts = () => ({ passedEpochs: [], lostEpoch: 0, asks: NO_ASKS })
  const peers = {
    call: async (of: string, method: string, { epoch }: { epoch: number }) => {
      asked.push(`${method} in ${epoch}`)
      const said = report(epoch, of, method)
      const settledThrough = said.validThrough - (said.suspect ? 1 : 0)
      const body = encodeReports([
        { oid: OID, incomplete: false, hot: true, gap: false, keptThrough: 0, settledThrough, ...said },
      ])
      return { json: { next: -1, writers: [''], extents: null, ...doubts() }, body }
    },
  } as unknown as Peers
  const copiesOf = () => nodes.length
  const shared = { store, topology, clock, log: () => {}, copiesOf, bytesOf: () => 0 }
  const replica = new Replica({ ...shared, recovered: () => [1], lossUnmarked: () => {}, diskFailed: () => {} })
  const settings = { held: true, limit: 0 }
  const recovery = new Recovery({
    ...{ ...shared, peers, replica, doubts, createdIn: () => 1 },
    taken: () => {},
    settings: () => settings,
    passing: () => {},
    settled: async (_gateway, _oid, sources) => {
      asked.push('settled')
      settledOn.push([...sources].sort())
      return true
    },
    renounce: () => {},
    recovered: () => {},
    reachable: async (oids) => new Set(oids),
  })
  replica.ensurer = recovery
  const begin = () => replica.epochChanged([], new Set(), () => recovery.begin())
  return { epochs, topology, store, replica, recovery, settings, asked, settledOn, begin }
}

test('what was heard in the former epoch decides nothing in a new one that has not begun here yet', async (t) => {
  // The other copy is a suspect too, and no better than this one.
  const rig = setup((epoch) => ({ writeEpoch: 1, validThrough: epoch, suspect: true }))
  const { epochs, topology, replica, recovery, asked } = rig
  const object = rig.store.create(OID, 1)
  object.suspect = true
  object.intent = true
  rig.begin()
  await turns()
  t.deepEqual(asked, ['list in 2'])
  t.is(recovery.progress().objectsTotal, 1)
  // The third epoch is here, and a request of the second still at the disk.
  replica.began()
  topology.update(epochs[2], epochs)
  rig.begin()
  rig.settings.held = false
  recovery.settingsChanged()
  let resumed = false
  recovery.ensure(OID, {
    resume: () => {
      resumed = true
    },
  })
  await turns()
  t.deepEqual(asked, ['list in 2'])
  t.false(resumed)
  t.true(object.suspect)
  replica.ended()
  await turns()
  t.true(resumed, 'it asks anew, in the epoch that has begun')
  t.is(asked[1], 'list in 3')
})

test('a change that goes by is answered before anybody is asked whether it is done', async (t) => {
  const { recovery, asked, settings, begin } = setup((epoch) => ({
    writeEpoch: 1,
    validThrough: epoch,
    suspect: false,
  }))
  begin()
  await turns()
  settings.held = false
  t.true(recovery.pass(OID, node(1).id))
  // Here its answer is sent.
  t.deepEqual(asked, ['list in 2'])
  await turns()
  t.deepEqual(asked.slice(0, 3), ['list in 2', 'settled', 'status in 2'])
})

test('a change that goes by must be done on who becomes a source while that is asked, too', async (t) => {
  const late = node(2).id
  const report = (epoch: number, of: string, method: string) => ({
    writeEpoch: 1,
    validThrough: of === late && method === 'list' ? 1 : epoch,
    suspect: false,
  })
  const { recovery, settledOn, settings, begin } = setup(report, [0, 1, 2])
  begin()
  await turns()
  settings.held = false
  t.true(recovery.pass(OID, node(1).id))
  await turns()
  t.deepEqual(settledOn.slice(0, 2), [[node(1).id], [node(1).id, late]])
})

/** There is no room for a copy beside the one that is here. */
class FullStore extends CountingStore {
  constructor(readonly done: string[]) {
    super(new SimRandom(1, 0))
  }

  override stage(oid?: Oid, _urgent = false, again = false): StagedObject {
    this.done.push(`stage${again ? ' again' : ''}, ${this.get(oid as Oid) === undefined ? 'none' : 'one'} is here`)
    if (!again) throw new DiskError(28, 'stage', 'obj', 'no space')
    const commit = (writeEpoch: number, checkEpoch: number, done: Completion) => {
      this.create(oid as Oid, writeEpoch).checkEpoch = checkEpoch
      done.complete(0)
    }
    return { oid: oid as Oid, placed: false, write: () => {}, commit, abort: () => {} }
  }
}

const COPIES = {
  'a stale copy on a full disk goes first': { sound: true, doubted: false },
  'a stale copy on a full disk stays, when the other one is doubted': { sound: false, doubted: false },
  'a doubted copy on a full disk that may have all, and is rotten, stays': { sound: true, doubted: true },
}
for (const [name, { sound, doubted }] of Object.entries(COPIES)) {
  test(name, async (t) => {
    const epochs = epochsOf([0, 1], doubted ? [0, 1] : [1], [0, 1])
    const topology = new Topology(node(0).id)
    topology.update(epochs[2], epochs)
    const done: string[] = []
    const store = new FullStore(done)
    store.create(OID, 1)
    const doubts = () => ({ passedEpochs: [], lostEpoch: 0, asks: NO_ASKS })
    const peers = {
      call: async (_node: string, method: string) => {
        const copy = {
          writeEpoch: 2,
          validThrough: 3,
          settledThrough: 3,
          suspect: !sound,
          incomplete: false,
          hot: !sound,
          gap: false,
          keptThrough: 0,
        }
        if (method === 'grains') throw new SheepError('io', 'rotten')
        if (method === 'extents') return { json: { extents: [], validThrough: 3, busy: false, damage: null } }
        return { json: { next: -1, writers: [''], ...doubts() }, body: encodeReports([{ oid: OID, ...copy }]) }
      },
    } as unknown as Peers
    const copiesOf = () => 2
    const shared = { store, topology, clock, log: () => {}, copiesOf, bytesOf: () => 0 }
    const replica = new Replica({ ...shared, recovered: () => [1], lossUnmarked: () => {}, diskFailed: () => {} })
    const recovery = new Recovery({
      ...{ ...shared, peers, replica, doubts, createdIn: () => 1 },
      taken: () => {},
      settings: () => ({ held: false, limit: 0 }),
      passing: () => {},
      settled: async () => true,
      renounce: (epoch) => done.push(`renounce ${epoch}`),
      recovered: (epoch) => done.push(`recovered ${epoch}`),
      reachable: async (oids) => new Set(oids),
    })
    replica.ensurer = recovery
    if (doubted) replica.doubt(store.get(OID)!)
    replica.epochChanged([], new Set(), () => recovery.begin())
    await turns()
    if (sound && !doubted) {
      t.deepEqual(done, ['stage, one is here', 'renounce 2', 'stage again, none is here', 'recovered 3'])
      t.is(store.get(OID)?.writeEpoch, 2)
    } else {
      t.deepEqual(done, ['stage, one is here'])
      t.is(recovery.progress().state, 'no-room')
      t.is(store.get(OID)?.writeEpoch, 1)
    }
  })
}

test('what is rotten at the source is not read', (t) => {
  const damage = (...chunks: number[]) => ({ shift: 12, chunks, sums: chunks.map(() => 1) })
  const extents: [number, number][] = [
    [0, 10_000],
    [20_480, 4_096],
  ]
  t.deepEqual(outside(extents, damage()), extents)
  t.deepEqual(outside(extents, damage(1, 5)), [
    [0, 4_096],
    [8_192, 1_808],
  ])
  t.deepEqual(outside(extents, damage(0, 2, 3)), [
    [4_096, 4_096],
    [20_480, 4_096],
  ])
})

for (const oid of [inodeOid(1), dataOid(1, 0)]) {
  const isInode = oid === inodeOid(1)
  test(`a copy that was given up does not count because its node recovers: ${isInode ? 'an inode' : 'data'}`, async (t) => {
    // Node 0 is away while node 1 writes, and back when that has lost a disk. The copies of the inode were given up after that, those
    // of the data before it, and node 1 had made it anew.
    const lists = isInode ? [[0, 1], [1], [1], [0, 1], [0, 1]] : [[0, 1], [1], [1], [1], [1], [0, 1]]
    const epochs = epochsOf(...lists)
    const accepted = { objects: [oidToHex(oid)], zeros: true }
    const at = isInode ? 5 : 4
    const history = epochs.map((epoch) => (epoch.number === at ? { ...epoch, accepted } : epoch))
    const topology = new Topology(node(0).id)
    topology.update(history[history.length - 1], history)
    const store = new CountingStore(new SimRandom(1, 0))
    const doubts = (lostEpoch = 0) => ({ passedEpochs: [], lostEpoch, asks: NO_ASKS })
    const peers = {
      call: async () => ({ json: { next: -1, writers: [], ...doubts(isInode ? 4 : 5) }, body: encodeReports([]) }),
    } as unknown as Peers
    const shared = { store, topology, clock, log: () => {}, copiesOf: () => 2, bytesOf: () => 0 }
    const recovered = [0]
    const replica = new Replica({ ...shared, recovered: () => recovered, lossUnmarked: () => {}, diskFailed: () => {} })
    const recovery = new Recovery({
      ...{ ...shared, peers, replica, doubts, createdIn: () => 1 },
      taken: () => {},
      settings: () => ({ held: false, limit: 0 }),
      passing: () => {},
      settled: async () => true,
      renounce: () => {},
      recovered: (epoch) => void recovered.push(epoch),
      reachable: async (oids) => new Set(oids),
    })
    replica.ensurer = recovery
    const old = store.create(oid, 1)
    replica.epochChanged([], new Set(), () => recovery.begin())
    await turns()
    t.deepEqual(recovered, isInode ? [0, 5] : [0])
    t.is(store.get(oid), isInode ? undefined : old)
    if (!isInode) t.false(replica.isValid(old))
  })
}

test('a daemon that stood still goes on with what was under way; in another epoch it asks anew', async (t) => {
  const { epochs, topology, store, replica, recovery, asked, begin } = setup(() => ({
    writeEpoch: 1,
    validThrough: 1,
    suspect: false,
  }))
  store.create(OID, 1)
  begin()
  await turns()
  const surveys = () => asked.filter((question) => question.startsWith('list')).length
  t.is(surveys(), 1)
  replica.suspend()
  replica.epochChanged([], new Set(), () => recovery.goOn())
  await turns()
  t.is(surveys(), 1)
  replica.suspend()
  topology.update(epochs[2], epochs)
  replica.epochChanged([], new Set(), () => recovery.goOn())
  await turns()
  t.is(surveys(), 2)
})
