/** All copies of some objects are gone for good: it is said which, nothing is given up unasked, and what is given up stays so. */
import test from 'ava'
import type { LostObject } from '../../lib/control/services.js'
import { asSheepError } from '../../lib/errors.js'
import type { Volume } from '../../lib/gateway/types.js'
import { auditDisks } from '../simulation/audit.js'
import type { Host } from '../simulation/host.js'
import type { Shape } from '../simulation/shape.js'
import { ask, type Play, play } from './play.js'

const OBJECTS = 64
const BYTES = 2 ** 16
/** So many that some have their index where two hosts burn */
const VOLUMES = 120
const shape: Partial<Shape> = { hosts: 6, zones: 6, copies: 2, volumes: 0, gateways: 0, disks: 1 }
const seeds = [1, 2, 3]

function open(host: Host, name: string): Promise<Volume> {
  const request = { name, snapshot: '', readOnly: false, holder: 'a script', shareable: false }
  return ask(host, `open ${name}`, (sheep) => sheep.volumes.open(request))
}

function remove(host: Host, name = 'vm', tag = ''): Promise<void> {
  return ask(host, 'delete', (sheep) => sheep.vdis.delete(name, tag, { report: () => {}, cancelled: false }))
}

/** Each object gets bytes of its own in each round. */
function stamp(round: number, index: number): number {
  return round * 100 + (index % 50)
}

async function write(host: Host, volume: Volume, round: number, objects = OBJECTS): Promise<void> {
  for (let i = 0; i < objects; i++) {
    const bytes = Buffer.alloc(BYTES, stamp(round, i))
    const result = await ask(
      host,
      `write ${i}`,
      () => new Promise<number>((complete) => volume.write(bytes, 0, BYTES, i * BYTES, false, { complete })),
    )
    if (result < 0) throw new Error(`write of object ${i}: ${result}`)
  }
  const flushed = await ask(host, 'flush', () => new Promise<number>((complete) => volume.flush({ complete })))
  if (flushed < 0) throw new Error(`flush: ${flushed}`)
}

/** The byte that fills each object. */
async function read(host: Host, volume: Volume, objects = OBJECTS): Promise<number[]> {
  const found: number[] = []
  for (let i = 0; i < objects; i++) {
    const bytes = Buffer.alloc(BYTES, 255)
    const result = await ask(
      host,
      `read ${i}`,
      () => new Promise<number>((complete) => volume.read(bytes, 0, BYTES, i * BYTES, { complete })),
    )
    if (result < 0) throw new Error(`read of object ${i}: ${result}`)
    if (!bytes.equals(Buffer.alloc(BYTES, bytes[0]))) throw new Error(`object ${i} is torn`)
    found.push(bytes[0])
  }
  return found
}

async function create(host: Host, name: string, objects: number): Promise<Volume> {
  const request = { name, size: objects * BYTES, copies: 2, blockSizeShift: 16, preallocate: false, onNoQuorum: null }
  await ask(host, 'create', (sheep) => sheep.vdis.create(request, { report: () => {}, cancelled: false }))
  return open(host, name)
}

/** n2 is away during the second round of writes, and back when n3 and n4 have burnt with both copies of some objects. */
async function disaster(on: Play, first: () => Promise<void>, second: () => Promise<void>): Promise<void> {
  const { hosts, world } = on
  const recovered = () => world.planner.healthy()
  await first()
  await on.within(30_000, 'all have recovered', recovered)
  hosts[1].kill(0)
  hosts[1].buried = true
  await on.within(60_000, 'the others have recovered', recovered)
  await second()
  for (const host of [hosts[2], hosts[3]]) {
    host.cutPower()
    host.buried = true
  }
  hosts[1].buried = false
  hosts[1].start()
  const living = hosts.filter((host) => !host.buried)
  await on.within(60_000, 'those that are left serve', () => living.every((host) => host.serving))
  // What the power took is waited for two minutes.
  await on.sleep(130_000)
  if (recovered()) throw new Error('what is away counts as recovered')
}

function expected(lost: readonly LostObject[], zeros: boolean): number[] {
  const bytes = Array.from({ length: OBJECTS }, (_, i) => stamp(2, i))
  for (const { index, left } of lost) if (index >= 0) bytes[index] = zeros || left === null ? 0 : stamp(1, index)
  return bytes
}

async function same(host: Host, volume: Volume, bytes: readonly number[], when: string): Promise<void> {
  const found = await read(host, volume)
  const wrong = found.flatMap((byte, i) => (byte === bytes[i] ? [] : [`object ${i} is ${byte}, must be ${bytes[i]}`]))
  if (wrong.length > 0) throw new Error(`${when}: ${wrong.join(', ')}`)
}

for (const zeros of [false, true]) {
  const how = zeros ? 'zeros' : 'the older copies, or zeros,'
  test.serial(
    `the last copies are gone: given up, ${how} take their place, everything recovers, and what returns counts no more`,
    async (t) => {
      t.timeout(5 * 60_000)
      const seen = { older: 0, nothing: 0 }
      await play(
        async (on) => {
          const [host, returning, , burnt] = on.hosts
          const volume = await create(host, 'vm', OBJECTS)
          const round = (number: number) => () => write(host, volume, number)
          await disaster(on, round(1), round(2))
          const lost = await ask(returning, 'lost', (sheep) => sheep.lost())
          const data = lost.filter(({ index }) => index >= 0)
          seen.older += data.filter(({ left }) => left !== null).length
          seen.nothing += data.filter(({ left }) => left === null).length
          if (lost.some(({ reason, nodes }) => reason !== 'away' || !nodes.every((name) => /^n[34]$/.test(name)))) {
            throw new Error(`wrong places: ${JSON.stringify(lost)}`)
          }
          const oids = lost.map(({ oid }) => oid)
          const accepted = await ask(host, 'accept', (sheep) => sheep.acceptLost(oids, zeros))
          if (accepted.length !== oids.length) throw new Error(`${accepted} of ${oids}`)
          await on.within(60_000, 'everything has recovered', () => on.world.planner.healthy())
          const bytes = expected(lost, zeros)
          await same(host, volume, bytes, 'given up')
          burnt.buried = false
          burnt.start()
          await on.within(60_000, 'the one that was away is back', () => on.world.planner.healthy())
          await same(host, volume, bytes, 'after what was away is back')
          await ask(host, 'close', () => volume.close())
          const again = await open(burnt, 'vm')
          await same(burnt, again, bytes, 'opened anew')
          await ask(burnt, 'close', () => again.close())
          if ((await ask(burnt, 'lost', (sheep) => sheep.lost())).length > 0) throw new Error('something is still lost')
          const problem = auditDisks(on.world)
          if (problem !== '') throw new Error(problem)
          await remove(host)
        },
        shape,
        seeds,
      )
      t.log(seen)
      t.true(seen.older > 0 && seen.nothing > 0)
    },
  )
}

test.serial(
  'indexes are gone, too: a volume that is open brings its own back, another has the older one, can be rolled back, or only be deleted',
  async (t) => {
    t.timeout(5 * 60_000)
    const seen = { open: 0, older: 0, nothing: 0, back: 0 }
    await play(
      async (on) => {
        const [host, returning] = on.hosts
        const names = Array.from({ length: VOLUMES }, (_, i) => `v${i}`)
        const volumes = new Map<string, Volume>()
        for (const name of names) volumes.set(name, await create(host, name, 2))
        await disaster(
          on,
          async () => {
            for (const volume of volumes.values()) await write(host, volume, 1, 1)
          },
          async () => {
            for (const [i, volume] of [...volumes.values()].entries()) {
              if (i % 4 === 3) await ask(host, 'snapshot', (sheep) => sheep.vdis.snapshot(names[i], 's'))
              await write(host, volume, 2, 2)
              if (i % 2 > 0) await ask(host, 'close', () => volume.close())
            }
          },
        )
        const indexes = new Map<string, LostObject>()
        const data = new Set<string>()
        // Of a volume whose index is lost nobody can tell which data are, before that one is given up.
        for (let round = 0; round < 2; round++) {
          const lost = await ask(returning, 'lost', (sheep) => sheep.lost())
          for (const one of lost) {
            const name = one.volumes[0]
            if (one.index >= 0) data.add(`${name} ${one.index}`)
            else if (!indexes.has(name)) indexes.set(name, one)
          }
          const oids = lost.map(({ oid }) => oid)
          await ask(host, 'accept', (sheep) => sheep.acceptLost(oids, false))
          await on.within(60_000, 'everything has recovered', () => on.world.planner.healthy())
        }
        for (const [i, name] of names.entries()) {
          const wasOpen = i % 2 === 0
          const index = indexes.get(name)
          if (wasOpen) await ask(host, 'close', () => (volumes.get(name) as Volume).close())
          if (index !== undefined && wasOpen) seen.open++
          if (index?.left === null && !wasOpen) {
            seen.nothing++
            const error = asSheepError(await open(host, name).catch((thrown: unknown) => thrown))
            if (error.code !== 'no-object') throw error
            if (i % 4 === 3 && !indexes.has(`${name}@s`) && !data.has(`${name} 0`)) {
              seen.back++
              await ask(host, 'rollback', (sheep) => sheep.vdis.rollback(name, 's'))
              const volume = await open(returning, name)
              const bytes = await read(returning, volume, 2)
              await ask(returning, 'close', () => volume.close())
              if (bytes[0] !== stamp(1, 0) || bytes[1] !== 0) throw new Error(`${name}@s: ${bytes}`)
            }
          } else {
            const older = index !== undefined && !wasOpen
            if (older) seen.older++
            const volume = await open(returning, name)
            const bytes = await read(returning, volume, 2)
            const right = (at: number): boolean => {
              if (data.has(`${name} ${at}`)) return bytes[at] === 0 || bytes[at] === stamp(1, at)
              return bytes[at] === (older && at === 1 ? 0 : stamp(2, at))
            }
            if (!right(0) || !right(1))
              throw new Error(`${name}: ${bytes}, ${JSON.stringify(index)}, lost ${[...data]}`)
            await ask(returning, 'close', () => volume.close())
          }
          const tags = i % 4 !== 3 ? [''] : i % 8 === 3 ? ['s', ''] : ['', 's']
          for (const tag of tags) await remove(host, name, tag)
        }
      },
      shape,
      [1, 2],
    )
    t.log(seen)
    t.true(seen.open > 0 && seen.older > 0 && seen.nothing > 0 && seen.back > 0)
  },
)

test.serial(
  'the index of a volume went with disks: long after it was given up, too, opening that fails at once, and what is beside it is deleted',
  async (t) => {
    t.timeout(5 * 60_000)
    const gone: string[] = []
    await play(
      async (on) => {
        const [host, ...others] = on.hosts
        const recovered = () => on.world.planner.healthy()
        const names = Array.from({ length: 60 }, (_, i) => `v${i}`)
        for (const name of names) {
          const volume = await create(host, name, 2)
          await write(host, volume, 1, 2)
          await ask(host, 'snapshot', (sheep) => sheep.vdis.snapshot(name, 's'))
          await ask(host, 'close', () => volume.close())
        }
        await on.within(30_000, 'all have recovered', recovered)
        for (const each of others) {
          each.kill(0)
          each.away.add(1)
        }
        for (const each of others) each.start()
        await on.within(60_000, 'they serve without that disk', () => on.hosts.every((each) => each.serving))
        await on.sleep(130_000)
        const indexes = new Set<string>()
        for (let round = 0; round < 2; round++) {
          const lost = await ask(host, 'lost', (sheep) => sheep.lost())
          for (const { index, volumes } of lost) if (index < 0) indexes.add(volumes[0])
          const oids = lost.map(({ oid }) => oid)
          if (oids.length > 0) await ask(host, 'accept', (sheep) => sheep.acceptLost(oids, false))
          await on.within(60_000, 'everything has recovered', recovered)
        }
        const remembered = () => host.sheep?.cluster.history.some(({ accepted }) => accepted !== undefined)
        for (let round = 0; round < 2 && remembered(); round++) {
          others[0].kill(0)
          await on.within(30_000, 'it is missed', () => !recovered())
          others[0].start()
          await on.within(60_000, 'everything has recovered', recovered)
        }
        if (remembered()) throw new Error('the epoch in which they were given up is still kept')
        const left = names.filter((name) => indexes.has(name) && !indexes.has(`${name}@s`))
        for (const name of left) {
          const start = on.world.scheduler.now
          const error = asSheepError(await open(host, name).catch((thrown: unknown) => thrown))
          if (error.code !== 'no-object') throw error
          await remove(others[0], name, 's')
          await remove(others[1], name)
          const ms = on.world.scheduler.now - start
          if (ms > 5_000) throw new Error(`${name}: ${ms} ms`)
        }
        gone.push(...left)
        for (const name of names.filter((each) => !left.includes(each))) {
          await remove(host, name, 's')
          await remove(host, name)
        }
      },
      { ...shape, hosts: 3, zones: 3, disks: 2 },
      [1, 2],
    )
    t.log(gone)
    t.true(gone.length > 0)
  },
)
