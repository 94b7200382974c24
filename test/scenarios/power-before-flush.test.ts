/**
 * Those who have a completed write lose it before it is flushed: the only one its power, or one its power and the other a disk. When they are back a
 * flush fails, or what was written is there.
 */
import test from 'ava'
import type { Volume } from '../../lib/gateway/types.js'
import { oidFromHex } from '../../lib/vdi/oid.js'
import type { Host } from '../simulation/host.js'
import { ask, play } from './play.js'

const OBJECT = 2 ** 16
const OBJECTS = 12

async function open(host: Host, copies: number): Promise<Volume> {
  const request = {
    name: 'vm',
    size: OBJECTS * OBJECT,
    copies,
    blockSizeShift: 16,
    preallocate: false,
    onNoQuorum: null,
  }
  await ask(host, 'create', (sheep) => sheep.vdis.create(request, { report: () => {}, cancelled: false }))
  const opening = { name: 'vm', snapshot: '', readOnly: false, holder: 'a script', shareable: false }
  return ask(host, 'open', (sheep) => sheep.volumes.open(opening))
}

type Call = (volume: Volume, done: { complete: (result: number) => void }) => void
const result = (host: Host, volume: Volume, what: string, call: Call) =>
  ask(host, what, () => new Promise<number>((complete) => call(volume, { complete })))

async function write(host: Host, volume: Volume, index: number, byte: number): Promise<void> {
  const bytes = Buffer.alloc(4096, byte)
  const wrote = await result(host, volume, 'write', (v, done) => v.write(bytes, 0, 4096, index * OBJECT, false, done))
  if (wrote < 0) throw new Error(`write ${wrote}`)
}

/** Its first byte */
async function read(host: Host, volume: Volume, index: number): Promise<number> {
  const bytes = Buffer.alloc(4096)
  const got = await result(host, volume, 'read', (v, done) => v.read(bytes, 0, 4096, index * OBJECT, done))
  if (got < 0) throw new Error(`read ${got}`)
  return bytes[0]
}

const flushOf = (host: Host, volume: Volume) => result(host, volume, 'flush', (v, done) => v.flush(done))

async function remove(host: Host, volume: Volume): Promise<void> {
  await ask(host, 'close', () => volume.close()).catch(() => {})
  await ask(host, 'delete', (sheep) => sheep.vdis.delete('vm', '', { report: () => {}, cancelled: false }))
}

test.serial('a flush after the only holder of a write has lost power, and is back', async (t) => {
  const seen: string[] = []
  await play(
    async (on) => {
      const client = on.hosts[0]
      const volume = await open(client, 1)
      const writeAll = async (byte: number) => {
        for (let i = 0; i < OBJECTS; i++) await write(client, volume, i, byte)
      }
      const flush = () => flushOf(client, volume)
      await writeAll(1)
      if ((await flush()) < 0) throw new Error('the first flush')
      await on.within(60_000, 'recovered', () => on.world.planner.healthy())
      await writeAll(2)
      const gone = on.hosts[1]
      gone.cutPower()
      await on.within(60_000, 'it is missed', () => client.sheep?.cluster.epoch?.nodes.length === 2)
      gone.start()
      const flushed = await flush()
      let lost = 0
      for (let i = 0; i < OBJECTS; i++) if ((await read(client, volume, i)) !== 2) lost++
      seen.push(`flush ${flushed}, ${lost} lost`)
      if (flushed >= 0 && lost > 0) t.fail(`the flush succeeded and ${lost} writes are lost`)
      await on.within(60_000, 'recovered', () => on.world.planner.healthy())
      const again = await flush()
      if (again !== flushed && lost > 0) t.fail(`the next flush said ${again}`)
      seen.push(`again ${again}`)
      await remove(client, volume)
    },
    { hosts: 3, zones: 3, copies: 1, volumes: 0, gateways: 0, disks: 1 },
    [1, 2, 3],
  )
  t.log(seen)
  t.true(
    seen.some((line) => /^flush -5, [1-9]/.test(line)),
    'writes were lost in one of the worlds',
  )
})

/** Which two have the object, and where the first of them has it */
function holders(hosts: readonly Host[], index: number): { path: string; having: Host[] } | null {
  for (const path of hosts.flatMap((host) => host.usedDisks.flatMap((disk) => disk.paths()))) {
    const name = /^obj\/[0-9a-f]{2}\/([0-9a-f]{16})$/.exec(path)?.[1]
    if (name === undefined || oidFromHex(name) < 0 || Number.parseInt(name.slice(10), 16) !== index) continue
    return { path, having: hosts.filter((each) => each.diskWith(path) !== null) }
  }
  return null
}

for (const [what, dies] of [
  ['its disk fails', false],
  ['its disk fails and its daemon ends before it can tell', true],
] as const) {
  test.serial(
    `a flush after one of two holders of a write has lost power, and ${what} where the other one is`,
    async (t) => {
      const seen: string[] = []
      // About when the others learn of it: an epoch is about to begin then, for that.
      for (let delay = 195; delay <= 235; delay += 5) {
        await play(
          async (on) => {
            const { hosts } = on
            const client = hosts[4]
            const volume = await open(client, 2)
            for (let i = 0; i < OBJECTS; i++) await write(client, volume, i, 1)
            if ((await flushOf(client, volume)) < 0) throw new Error('the first flush')
            const indexes = Array.from({ length: OBJECTS }, (_, i) => i)
            const index = indexes.find((i) => holders(hosts, i)?.having.every((host) => host !== client))
            if (index === undefined) throw new Error('the client has a copy of each object')
            const { path, having } = holders(hosts, index)!
            const [broken, dark] = having
            await write(client, volume, index, 2)
            dark.cutPower()
            await on.sleep(delay)
            broken.diskWith(path)!.dead = true
            const flushing = flushOf(client, volume)
            if (dies) {
              const { sheep } = broken
              for (let i = 0; i < 1000 && sheep?.lostEpoch() === 0; i++) await on.sleep(0.05)
              broken.kill(0)
            }
            await on.sleep(3000)
            if (dies) broken.start()
            await on.sleep(4000)
            dark.start()
            const flushed = await flushing
            const byte = await read(client, volume, index)
            seen.push(`flush ${flushed}, byte ${byte}`)
            if (flushed >= 0 && byte !== 2) t.fail(`${delay} ms: the flush succeeded and the write is lost`)
            if (flushed < 0 && (await flushOf(client, volume)) >= 0) t.fail('the next flush succeeded')
            await remove(client, volume)
          },
          { hosts: 5, zones: 5, copies: 2, volumes: 0, gateways: 0, disks: 2 },
          [1, 2],
        )
      }
      t.log(seen)
      t.true(seen.includes('flush -5, byte 1'), 'writes were lost in one of the worlds')
    },
  )
}
