/** No side of a cut network has quorum: volumes wait, or fail after the time that was chosen, and go on when it is back. */
import test from 'ava'
import type { Volume } from '../../lib/gateway/types.js'
import { type Play, play } from './play.js'

const EIO = -5
const LIMIT_MS = 2000
const BYTES = 4096
/** Of corosync's kind: until it is noticed */
const NOTICE_MS = 1500

/** Every host alone, until the returned function is called. */
function scatter({ hosts, world }: Play): () => void {
  const pairs = hosts.flatMap((a) => hosts.filter((b) => b !== a).map((b) => [a.name, b.name]))
  world.hub.partition((name) => hosts.findIndex((host) => host.name === name))
  for (const [a, b] of pairs) world.network.cut(a, b)
  return () => {
    for (const [a, b] of pairs) world.network.heal(a, b)
    world.hub.partition(() => 0)
  }
}

test.serial(
  'a volume with a time fails when it is up, what it wrote keeps its order, and it goes on afterwards',
  async (t) => {
    t.timeout(5 * 60_000)
    await play(
      async (on) => {
        const [host] = on.hosts
        const now = () => on.world.scheduler.now
        const ask = async <T>(
          what: string,
          call: (sheep: NonNullable<typeof host.sheep>) => Promise<T>,
        ): Promise<T> => {
          const outcome = await host.request(what, call)
          if (outcome.state !== 'done') throw new Error(`${what}: ${outcome.state}`)
          return outcome.value
        }
        const open = async (name: string, onNoQuorum: number | null): Promise<Volume> => {
          const request = { name, size: 2 ** 20, copies: 3, blockSizeShift: 16, preallocate: false, onNoQuorum }
          await ask('create', (sheep) => sheep.vdis.create(request, { report: () => {}, cancelled: false }))
          const opening = { name, snapshot: '', readOnly: false, holder: 'a script', shareable: false }
          return ask('open', (sheep) => sheep.volumes.open(opening))
        }
        const write = (volume: Volume, byte: number): Promise<number> =>
          ask('write', () => {
            const bytes = Buffer.alloc(BYTES, byte)
            return new Promise((resolve) => {
              const complete = (result: number): void => {
                // As a front-end does, which uses it for the next request.
                bytes.fill(0xee)
                resolve(result)
              }
              volume.write(bytes, 0, BYTES, 0, true, { complete })
            })
          })
        const byteOf = async (volume: Volume): Promise<number> => {
          const bytes = Buffer.alloc(BYTES)
          await ask('read', () => new Promise((complete) => volume.read(bytes, 0, BYTES, 0, { complete })))
          if (!bytes.equals(Buffer.alloc(BYTES, bytes[0]))) throw new Error('a write is torn')
          return bytes[0]
        }
        const fails = await open('fails', null)
        const waits = await open('waits', 0)
        t.is(await write(fails, 1), BYTES)
        t.is(await write(waits, 1), BYTES)
        const heal = scatter(on)
        const begun = now()
        const waiting = write(waits, 2)
        t.is(await write(fails, 2), EIO)
        const failedAfter = now() - begun
        t.true(failedAfter >= LIMIT_MS && failedAfter < LIMIT_MS + NOTICE_MS, `after ${failedAfter} ms`)
        const again = now()
        t.is(await write(fails, 3), EIO)
        t.is(await ask('flush', () => new Promise<number>((complete) => fails.flush({ complete }))), EIO)
        await t.throwsAsync(
          ask('extents', () => fails.extents(BYTES, 0)),
          undefined,
        )
        t.true(now() - again < 100, 'at once')
        t.is(await Promise.race([waiting, on.sleep(20_000).then(() => 'waits')]), 'waits')
        heal()
        t.is(await waiting, BYTES)
        t.is(await byteOf(waits), 2)
        t.is(await byteOf(fails), 2, 'what was begun before is done; what was refused is not')
        t.is(await write(fails, 4), BYTES)
        t.is(await byteOf(fails), 4)
        await ask('close', () => fails.close())
        await ask('close', () => waits.close())
        for (const name of ['fails', 'waits']) {
          await ask('delete', (sheep) => sheep.vdis.delete(name, '', { report: () => {}, cancelled: false }))
        }
      },
      { hosts: 3, zones: 3, gateways: 0, volumes: 0, onNoQuorum: LIMIT_MS },
    )
  },
)

test.serial('clients of both kinds work while the network falls apart and heals again and again', async (t) => {
  t.timeout(5 * 60_000)
  let failed = 0
  await play(
    async (on) => {
      for (const ms of [700, 2500, 4000, 300, 3000]) {
        await on.sleep(2500)
        const heal = scatter(on)
        await on.sleep(ms)
        heal()
      }
      await on.sleep(2500)
      failed += on.world.workload.failedWithoutQuorum
    },
    { hosts: 3, zones: 3, gateways: 0, volumes: 2, onNoQuorum: 500 },
    [1, 2, 3, 4],
  )
  t.true(failed > 10, `${failed} requests failed`)
  t.log(`${failed} requests failed`)
})
