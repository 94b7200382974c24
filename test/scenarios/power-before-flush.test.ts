/** The only host with a completed write loses power before it is flushed, and comes back: a flush fails, or what was written is there. */
import test from 'ava'
import type { Volume } from '../../lib/gateway/types.js'
import type { Host, Sheep } from '../simulation/host.js'
import { play } from './play.js'

const OBJECT = 2 ** 16
const OBJECTS = 12

async function ask<T>(host: Host, what: string, call: (sheep: Sheep) => Promise<T>): Promise<T> {
  const outcome = await host.request(what, call)
  if (outcome.state === 'failed') throw outcome.error
  if (outcome.state === 'gone') throw new Error(`${host.name} went during ${what}`)
  return outcome.value
}

async function open(host: Host): Promise<Volume> {
  const request = {
    name: 'vm',
    size: OBJECTS * OBJECT,
    copies: 1,
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

test('a flush after the only holder of a write has lost power, and is back', async (t) => {
  const seen: string[] = []
  await play(
    async (on) => {
      const client = on.hosts[0]
      const volume = await open(client)
      const write = async (byte: number) => {
        for (let i = 0; i < OBJECTS; i++) {
          const bytes = Buffer.alloc(4096, byte)
          const wrote = await result(client, volume, 'write', (v, done) =>
            v.write(bytes, 0, 4096, i * OBJECT, false, done),
          )
          if (wrote < 0) throw new Error(`write ${wrote}`)
        }
      }
      const flush = () => result(client, volume, 'flush', (v, done) => v.flush(done))
      await write(1)
      if ((await flush()) < 0) throw new Error('the first flush')
      await on.within(60_000, 'recovered', () => on.world.planner.healthy())
      await write(2)
      const gone = on.hosts[1]
      gone.cutPower()
      await on.within(60_000, 'it is missed', () => client.sheep?.cluster.epoch?.nodes.length === 2)
      gone.start()
      const flushed = await flush()
      let lost = 0
      for (let i = 0; i < OBJECTS; i++) {
        const bytes = Buffer.alloc(4096)
        const got = await result(client, volume, 'read', (v, done) => v.read(bytes, 0, 4096, i * OBJECT, done))
        if (got < 0) throw new Error(`read ${got}`)
        if (bytes[0] !== 2) lost++
      }
      seen.push(`flush ${flushed}, ${lost} lost`)
      if (flushed >= 0 && lost > 0) t.fail(`the flush succeeded and ${lost} writes are lost`)
      await on.within(60_000, 'recovered', () => on.world.planner.healthy())
      const again = await flush()
      if (again !== flushed && lost > 0) t.fail(`the next flush said ${again}`)
      seen.push(`again ${again}`)
      await ask(client, 'close', () => volume.close()).catch(() => {})
      await ask(client, 'delete', (sheep) => sheep.vdis.delete('vm', '', { report: () => {}, cancelled: false }))
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
